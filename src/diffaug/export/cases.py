"""What is exported: the kept cases of a synthetic set, the annotated cases beside them, and where each is from."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffaug.artifacts import digest_of_file
from diffaug.data.case import LESION, Case, LabelClass
from diffaug.data.folder import Dataset, find_cases, read_dataset
from diffaug.data.manifest import MANIFEST, Row, SyntheticSet, read_manifest
from diffaug.data.records import Distinct, Mapped, Names, Part
from diffaug.data.reviews import rejected_pictures
from diffaug.data.table import TABLE
from diffaug.errors import ConfigError, DataError
from diffaug.export.entries import Entries, Entry, Painted
from diffaug.export.folds import MOST, Fold, divided, held_out
from diffaug.runfolder import kind_of
from diffaug.study.provenance import check_provenance, check_repeated, repeated_frames

ORIGIN = "provenance.csv"  # beside the cases: where each comes from
SPLITS = ("train", "val", "test")
HOLD = "export them as nnunet or folder, which hold them"


@dataclass(frozen=True)
class Collection:
    """What is exported.

    Attributes:
        name: Of the synthetic set.
        real: Real cases.
        painted: Painted ones.
        classes: The classes of the labels; one, `lesion`, where the data set declares none.
        folds: What each fold trains and validates on; none where no case is validated on.
        folds_are_drawn: Whether the folds divide the training cases; else their validation is the split `val`.
        left_out: What was left out, one sentence each.
    """

    name: str
    real: tuple[Entry, ...]
    painted: Painted
    classes: tuple[LabelClass, ...]
    folds: tuple[Fold, ...] = ()
    folds_are_drawn: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def entries(self) -> Entries:
        """All cases."""
        return Entries(self.real, self.painted)

    def split(self, name: str) -> Entries:
        """Return the entries of a split: train, val or test."""
        return self.entries.split(name)

    def without_partly_known(self, why: str) -> "Collection":
        """Return the same without cases whose label is known in part alone."""
        real, known = tuple(entry for entry in self.real if not entry.case.known), self.painted.known
        count = len(self.real) - len(real) + int(known.sum())
        if not count:
            return self
        if known.all():
            raise DataError(
                f"a label of every pixel is needed: {why}, and all synthetic cases have labels in part; {HOLD}"
            )
        gone = {entry.id for entry in (*self.real, *self.painted.only(known)) if entry.case.known}
        folds = tuple(Fold(tuple(name for name in fold.train if name not in gone), fold.val) for fold in self.folds)
        said = f"cases whose label is known in part are left out, since {why}: {count}; {HOLD}"
        left = self.painted.only(~known)
        return replace(self, real=real, painted=left, folds=folds, left_out=(*self.left_out, said))

    def without_val(self) -> "Collection":
        """Return the same without the split `val`, for a format whose folds are all that is validated on."""
        gone = len(self.split("val"))
        said = (f"cases of val are left out, since the folds validate on parts of train: {gone}",) if gone else ()
        real = tuple(entry for entry in self.real if entry.case.split != "val")
        return replace(self, real=real, left_out=(*self.left_out, *said))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have cases, in order."""
        return tuple(name for name in SPLITS if self.split(name))


def collect(
    synthetic: Path,
    data: Path | None,
    *,
    folds: int | None,
    negatives: bool,
    ratio: float | None,
    seed: int,
    left_out: frozenset[str] = frozenset(),
    allow_duplicates: bool = False,
    progress: str = "",
) -> Collection:
    """Read what is exported, and refuse what would leak.

    Args:
        synthetic: A finished synthetic set, or a selected one.
        data: The data set that it belongs to; None exports the painted cases alone.
        folds: Folds of the real training cases; 0 for none; None for those that the data allow: one that validates on
            the split `val` where there is one, else `MOST`, or as many as there are groups.
        negatives: Whether cases that are painted lesion-free are exported, too.
        ratio: The most painted lesions for each real training case, the first of the set; None for all.
        seed: Chooses the folds.
        left_out: Ids of pictures that are copies, which are not exported.
        allow_duplicates: Whether an image of val or test may repeat one that is trained on.
        progress: What to call the search for such images in a progress bar; empty for none.

    Raises:
        DataError: A set is unfinished or breaks a rule, ids repeat, or there are fewer groups than folds.
        StudyError: The synthetic set saw more than the training images of the data set, or an image of val or test is
            trained on.
        ConfigError: Folds or a ratio are asked for without real cases.
    """
    if data is None and (folds or ratio is not None):
        option = "--folds" if folds else "--ratio"
        raise ConfigError(f"{option} counts real cases: no data set is given; add it with --with DATA")
    if ratio is not None and not 0 < ratio < 1e6:
        raise ConfigError(f"--ratio is a number of painted lesions for each real case, above 0: it is {ratio}; use 2")
    found = read_manifest(synthetic)
    name = found.folder.absolute().name
    painted, said = _painted(found, negatives, left_out)
    if data is None:
        return Collection(name, (), painted, _classes(found.classes), left_out=said)
    if (kind := kind_of(data)) == "is a synthetic set":
        raise DataError(
            f"--with names the data set that the synthetic set was generated from: {data} {kind}; name that one"
        )
    dataset = read_dataset(data)
    _check_together(found, dataset)
    _check_groups(dataset)
    painted = replace(painted, groups={case.id: case.group for case in dataset})
    real = [Entry(case) for case in dataset if case.mask is not None]
    trained = tuple(entry for entry in real if entry.case.split == "train")
    if ratio is not None:
        painted = _fewer(painted, round(ratio * len(trained)))
    said += _repeated(Entries(trained, painted), real, allow_duplicates, progress)
    parts, drawn = _folds(dataset, trained, painted, folds, seed)
    entries = Entries(tuple(sorted(real, key=lambda entry: SPLITS.index(entry.case.split))), painted)
    _check_ids(entries)
    return Collection(name, entries.real, painted, _classes(dataset.classes), parts, drawn, said)


def _classes(declared: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    return tuple(declared) or (LabelClass(LESION, (1,)),)


def _repeated(trained: Entries, real: Sequence[Entry], allowed: bool, progress: str) -> tuple[str, ...]:
    """Refuse images of val and test that are trained on, painted ones included; where they are allowed, say so."""
    tested = [entry.case for entry in real if entry.case.split != "train"]
    pairs = repeated_frames(Mapped(_case_of, trained), tested, progress) if tested else []
    check_repeated(pairs, allowed)
    return (f"images of val or test that repeat one of train: {len(pairs)}, which was allowed",) if pairs else ()


def _case_of(entry: Entry) -> Case:
    return entry.case


def _painted(found: SyntheticSet, negatives: bool, left_out: frozenset[str]) -> tuple[Painted, tuple[str, ...]]:
    """Return the kept cases of a synthetic set, whose files are those that were painted, and what was left out."""
    every = _matched(found)
    rejected = rejected_pictures(found)
    passed, original = np.zeros(len(every), np.bool_), np.zeros(len(every), np.bool_)
    for place, entry in enumerate(every):
        _check_unchanged(entry.rows[0], entry.case)
        every.negative[place], every.known[place] = entry.negative, entry.case.known is not None
        passed[place] = entry.id not in rejected
        original[place] = passed[place] and entry.id not in left_out
    chosen = original & (~every.negative | negatives)
    if not chosen.any():
        raise DataError(f"an export needs kept cases: {found.folder} has none that is wanted; generate more")
    gone = {
        "pictures that a review rejected": int((~passed).sum()),
        "pictures that show copies of training lesions": int((passed & ~original).sum()),
        "negatives (painted lesion-free)": int((original & ~chosen).sum()),
    }
    return every.only(chosen), tuple(f"{what} are left out: {count}" for what, count in gone.items() if count)


def _matched(found: SyntheticSet) -> Painted:
    """Return all kept cases of a synthetic set, each row with its line of the table.

    Raises:
        DataError: A case stands in the manifest or in the table alone.
    """
    table = find_cases(found.folder)
    names = Names(case.id for case in table)
    rows, cases, pictures, shown = (array("q") for _ in range(4))
    for place, row in enumerate(found):
        if row.shown_in and (picture := found.place_of(row.shown_in)) is not None:
            pictures.append(picture)
            shown.append(place)
        if row.decision == "kept":
            rows.append(place)
            cases.append(next((other for other in names.places(row.id) if table[other].id == row.id), -1))
    if -1 in cases or len(cases) != len(table):
        unknown = {row.id for row in Part(found.rows, rows)}.symmetric_difference(case.id for case in table)
        raise DataError(
            f"a synthetic set has one list of cases: {min(unknown)} is in one of {MANIFEST} and {TABLE} of "
            f"{found.folder} alone; restore the files, or generate the set again"
        )
    order = np.argsort(np.array(pictures, np.int64), kind="stable")
    return Painted(
        made=found,
        table=table,
        rows=np.array(rows, np.int64),
        cases=np.array(cases, np.int64),
        negative=np.zeros(len(rows), np.bool_),
        known=np.zeros(len(rows), np.bool_),
        pictures=np.array(pictures, np.int64)[order],
        shown=np.array(shown, np.int64)[order],
    )


def _check_unchanged(row: Row, case: Case) -> None:
    known = (case.known, row.region_digest)
    for path, digest in ((case.image, row.image_digest), (case.mask, row.mask_digest), known):
        if path and digest and digest_of_file(path) != digest:
            raise DataError(
                f"a synthetic set holds what was painted: {path} was changed since; restore it, or generate the set "
                "again in another folder"
            )


def _check_together(found: SyntheticSet, dataset: Dataset) -> None:
    """Refuse a synthetic set that is not of a data set, or labels of other classes."""
    if tuple(found.classes) != tuple(dataset.classes):
        both = [", ".join(each.name for each in some) or LESION for some in (found.classes, dataset.classes)]
        raise DataError(
            f"painted and real labels have the same classes: {found.folder} has {both[0]}, {dataset.folder} has "
            f"{both[1]}, or other values; export the set with the data set it was generated from"
        )
    check_provenance(found, dataset)


def _check_groups(dataset: Dataset) -> None:
    """Refuse a group that lies in two of train, val and test; unannotated images count as train."""
    first: dict[str, Case] = {}
    for case in dataset:
        other = first.setdefault(case.group, case)
        if _side(case) != _side(other):
            raise DataError(
                f"a group stays in one split: {case.group} is in {other.split} ({other.id}) and {case.split} "
                f"({case.id}); correct {dataset.folder / TABLE}"
            )


def _side(case: Case) -> str:
    return "train" if case.split == "unannotated" else case.split


def _check_ids(entries: Entries) -> None:
    distinct = Distinct()
    for entry in entries:
        distinct.see(entry.id)
    seen: dict[str, str] = {}
    for entry in entries if distinct.may_repeat else ():
        name = entry.id.casefold()  # file systems of Windows and macOS take a.png and A.png for one
        if name in seen:
            raise DataError(
                f"ids are unique in an export, whatever their capitals: {seen[name]!r} and {entry.id!r} are two cases; "
                f"rename one in its {TABLE}"
            )
        seen[name] = entry.id


def _fewer(painted: Painted, count: int) -> Painted:
    """Return the first painted lesions, and the same share of the negatives."""
    found, others = np.flatnonzero(~painted.negative), np.flatnonzero(painted.negative)
    share = min(1.0, count / max(1, len(found)))
    return painted.only(np.sort(np.concatenate([found[:count], others[: round(share * len(others))]])))


def _folds(
    dataset: Dataset, trained: Sequence[Entry], painted: Painted, folds: int | None, seed: int
) -> tuple[tuple[Fold, ...], bool]:
    """Return the folds, and whether they divide the training cases."""
    groups: Mapping[str, str] = {case.id: case.group for case in dataset}
    real = {entry.id: entry.case.group for entry in trained}
    known: dict[tuple[str, ...], tuple[str, ...]] = {}  # many cases have the same sources
    sources = {entry.id: known.setdefault(entry.sources, entry.sources) for entry in painted}
    val = {case.id: case.group for case in dataset.annotated("val")}
    if folds is None and val:
        return (held_out(real, val, sources, groups),), False
    count = min(MOST, len(set(real.values()))) if folds is None else folds
    if count < 2:
        return (), False
    lesion_free = [entry.id for entry in trained if entry.case.negative]
    return divided(real, sources, groups, count, seed, lesion_free), True


def count_of(entries: Entries) -> str:
    """Return how many real and painted cases there are, in words."""
    real, painted, free = len(entries.real), len(entries.painted), entries.negatives
    words = [f"{real} real"] if real else []
    if painted:
        words.append(f"{painted} synthetic" + (f" ({free} of them negatives)" if free else ""))
    return " and ".join(words) or "none"
