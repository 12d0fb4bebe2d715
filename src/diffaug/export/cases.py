"""What is exported: the kept cases of a synthetic set, the annotated cases beside them, and where each is from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffaug.artifacts import digest_of_file
from diffaug.data.case import LESION, Case, LabelClass
from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.manifest import MANIFEST, Row, SyntheticSet, kept, read_manifest
from diffaug.data.reviews import rejected_pictures
from diffaug.data.table import TABLE
from diffaug.errors import ConfigError, DataError
from diffaug.export.folds import MOST, Fold, divided, held_out
from diffaug.runfolder import kind_of
from diffaug.study.provenance import check_provenance, check_repeated, repeated_frames

ORIGIN = "provenance.csv"  # beside the cases: where each comes from
COLUMNS = (
    "id", "split", "group", "origin", "negative", "lesion_free", "background", "mask_source", "example", "prompt",
    "decision", "seed", "model",
)  # fmt: skip
SPLITS = ("train", "val", "test")
HOLD = "export them as nnunet or folder, which hold them"


@dataclass(frozen=True)
class Entry:
    """One case of an export.

    Attributes:
        case: Its files, its group and its split.
        rows: The requests whose lesions its picture shows, that of the picture first; none for a real case.
    """

    case: Case
    rows: tuple[Row, ...] = ()

    @property
    def id(self) -> str:
        """The id of the case."""
        return self.case.id

    @property
    def is_real(self) -> bool:
        """Whether nothing of it is painted."""
        return not self.rows

    @property
    def negative(self) -> bool:
        """Whether tissue was painted on it that is lesion-free, and labelled background."""
        return any(row.request.negative for row in self.rows)

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the cases that its picture is made of, sorted; of a real case none."""
        return tuple(sorted({source for row in self.rows for source in row.request.sources}))

    def record(self) -> dict[str, Any]:
        """Return its line of `provenance.csv`, by `COLUMNS`; slashes, which no id holds, divide several values."""
        requests = [row.request for row in self.rows]
        return {
            "id": self.id,
            "split": self.case.split,
            "group": self.case.group,
            "origin": "real" if self.is_real else "synthetic",
            "negative": int(self.negative),
            "lesion_free": int(self.case.negative),
            "background": _joined(request.background for request in requests),
            "mask_source": _joined(request.mask_case for request in requests),
            "example": _joined(request.example for request in requests),
            "prompt": self.case.prompt,
            "decision": self.rows[0].decision if self.rows else "",
            "seed": self.rows[0].request.seed if self.rows else "",
            "model": self.rows[0].model if self.rows else "",
        }


def _joined(names: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class Collection:
    """What is exported.

    Attributes:
        name: Of the synthetic set.
        entries: Real cases first, then painted ones.
        classes: The classes of the labels; one, `lesion`, where the data set declares none.
        folds: What each fold trains and validates on; none where no case is validated on.
        folds_are_drawn: Whether the folds divide the training cases; else their validation is the split `val`.
        left_out: What was left out, one sentence each.
    """

    name: str
    entries: tuple[Entry, ...]
    classes: tuple[LabelClass, ...]
    folds: tuple[Fold, ...] = ()
    folds_are_drawn: bool = False
    left_out: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Entry, ...]:
        """Return the entries of a split: train, val or test."""
        return tuple(entry for entry in self.entries if entry.case.split == name)

    def without_partly_known(self, why: str) -> "Collection":
        """Return the same without cases whose label is known in part alone."""
        gone = {entry.id for entry in self.entries if entry.case.known}
        if not gone:
            return self
        entries = tuple(entry for entry in self.entries if entry.id not in gone)
        if not any(not entry.is_real for entry in entries):
            raise DataError(
                f"a label of every pixel is needed: {why}, and all synthetic cases have labels in part; {HOLD}"
            )
        folds = tuple(Fold(tuple(name for name in fold.train if name not in gone), fold.val) for fold in self.folds)
        said = f"cases whose label is known in part are left out, since {why}: {len(gone)}; {HOLD}"
        return replace(self, entries=entries, folds=folds, left_out=(*self.left_out, said))

    def without_val(self) -> "Collection":
        """Return the same without the split `val`, for a format whose folds are all that is validated on."""
        gone = len(self.split("val"))
        said = (f"cases of val are left out, since the folds validate on parts of train: {gone}",) if gone else ()
        entries = tuple(entry for entry in self.entries if entry.case.split != "val")
        return replace(self, entries=entries, left_out=(*self.left_out, *said))

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
    painted, said = _painted(found, negatives, left_out)
    if data is None:
        return Collection(found.folder.absolute().name, tuple(painted), _classes(found.classes), left_out=said)
    if (kind := kind_of(data)) == "is a synthetic set":
        raise DataError(
            f"--with names the data set that the synthetic set was generated from: {data} {kind}; name that one"
        )
    dataset = read_dataset(data)
    _check_together(found, dataset)
    _check_groups(dataset)
    painted = [_grouped(entry, dataset) for entry in painted]
    real = [Entry(case) for case in dataset if case.mask is not None]
    trained = [entry for entry in real if entry.case.split == "train"]
    if ratio is not None:
        painted = _fewer(painted, round(ratio * len(trained)))
    said += _repeated([*trained, *painted], real, allow_duplicates, progress)
    parts, drawn = _folds(dataset, trained, painted, folds, seed)
    entries = sorted(real, key=lambda entry: SPLITS.index(entry.case.split))
    _check_ids([*entries, *painted])
    return Collection(found.folder.absolute().name, (*entries, *painted), _classes(dataset.classes), parts, drawn, said)


def _classes(declared: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    return tuple(declared) or (LabelClass(LESION, (1,)),)


def _repeated(trained: Sequence[Entry], real: Sequence[Entry], allowed: bool, progress: str) -> tuple[str, ...]:
    """Refuse images of val and test that are trained on, painted ones included; where they are allowed, say so."""
    tested = [entry.case for entry in real if entry.case.split != "train"]
    pairs = repeated_frames([entry.case for entry in trained], tested, progress) if tested else []
    check_repeated(pairs, allowed)
    return (f"images of val or test that repeat one of train: {len(pairs)}, which was allowed",) if pairs else ()


def _painted(found: SyntheticSet, negatives: bool, left_out: frozenset[str]) -> tuple[list[Entry], tuple[str, ...]]:
    """Return the kept cases of a synthetic set, whose files are those that were painted, and what was left out."""
    table = {case.id: case for case in read_dataset(found.folder)}
    shown: dict[str, list[Row]] = {}
    for row in found:
        if row.shown_in:
            shown.setdefault(row.shown_in, []).append(row)
    rows = kept(found)
    unknown = {row.id for row in rows}.symmetric_difference(table)
    if unknown:
        raise DataError(
            f"a synthetic set has one list of cases: {min(unknown)} is in one of {MANIFEST} and {TABLE} of "
            f"{found.folder} alone; restore the files, or generate the set again"
        )
    entries = []
    for row in rows:
        case = table[row.id]
        _check_unchanged(row, case)
        case = replace(case, split="train", prompt=case.prompt or row.request.prompt)
        entries.append(Entry(case, (row, *shown.get(row.id, ()))))
    rejected = rejected_pictures(found)
    passed = [entry for entry in entries if entry.id not in rejected]
    original = [entry for entry in passed if entry.id not in left_out]
    chosen = [entry for entry in original if negatives or not entry.negative]
    if not chosen:
        raise DataError(f"an export needs kept cases: {found.folder} has none that is wanted; generate more")
    gone = {
        "pictures that a review rejected": len(entries) - len(passed),
        "pictures that show copies of training lesions": len(passed) - len(original),
        "negatives (painted lesion-free)": len(original) - len(chosen),
    }
    return chosen, tuple(f"{what} are left out: {count}" for what, count in gone.items() if count)


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


def _grouped(entry: Entry, dataset: Dataset) -> Entry:
    """Return a painted case in the group of its background."""
    return replace(entry, case=replace(entry.case, group=dataset[entry.rows[0].request.background].group))


def _check_ids(entries: Sequence[Entry]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        name = entry.id.casefold()  # file systems of Windows and macOS take a.png and A.png for one
        if name in seen:
            raise DataError(
                f"ids are unique in an export, whatever their capitals: {seen[name]!r} and {entry.id!r} are two cases; "
                f"rename one in its {TABLE}"
            )
        seen[name] = entry.id


def _fewer(painted: Sequence[Entry], count: int) -> list[Entry]:
    """Return the first painted lesions, and the same share of the negatives."""
    found = [entry for entry in painted if not entry.negative]
    share = min(1.0, count / max(1, len(found)))
    others = [entry for entry in painted if entry.negative]
    taken = {entry.id for entry in (*found[:count], *others[: round(share * len(others))])}
    return [entry for entry in painted if entry.id in taken]


def _folds(
    dataset: Dataset, trained: Sequence[Entry], painted: Sequence[Entry], folds: int | None, seed: int
) -> tuple[tuple[Fold, ...], bool]:
    """Return the folds, and whether they divide the training cases."""
    groups: Mapping[str, str] = {case.id: case.group for case in dataset}
    real = {entry.id: entry.case.group for entry in trained}
    sources = {entry.id: entry.sources for entry in painted}
    val = {case.id: case.group for case in dataset.annotated("val")}
    if folds is None and val:
        return (held_out(real, val, sources, groups),), False
    count = min(MOST, len(set(real.values()))) if folds is None else folds
    if count < 2:
        return (), False
    return divided(real, sources, groups, count, seed), True


def count_of(entries: Iterable[Entry]) -> str:
    """Return how many real and painted cases there are, in words."""
    listed = list(entries)
    real, free = sum(entry.is_real for entry in listed), sum(entry.negative for entry in listed)
    words = [f"{real} real"] if real else []
    if len(listed) > real:
        words.append(f"{len(listed) - real} synthetic" + (f" ({free} of them negatives)" if free else ""))
    return " and ".join(words) or "none"
