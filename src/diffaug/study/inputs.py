"""What a study reads, and what it refuses to read: data set, test cases, synthetic sets and the oracle's cases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from diffaug.artifacts import digest_of_file, digest_of_value, make_folder, write_json
from diffaug.config import UNET, StudyConfig, config_from_values
from diffaug.data.case import Case, LabelClass
from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.manifest import Row, SyntheticSet, read_manifest
from diffaug.data.records import Part
from diffaug.data.reviews import rejected_pictures
from diffaug.data.seen import SEEN_FILE
from diffaug.errors import StudyError
from diffaug.names import Name
from diffaug.reading import read_kept, typed
from diffaug.study.provenance import (
    check_bases,
    check_provenance,
    check_repeated,
    key_of,
    repeated_frames,
    seen_by_bases,
)

DUPLICATES, PAINTED_DUPLICATES, BASE_SEEN = "duplicates.json", "painted_duplicates.json", "base_seen.json"


class _Identity(BaseModel):
    seed: int
    folds: int = 0
    device: str = "cpu"
    test: list[str] = []


class _Tests(BaseModel):
    name: str = ""
    prefix: str = ""
    folder: str = ""


class _Cases(BaseModel):
    train: int = 0
    unannotated: int = 0
    test: int = 0
    full: int = 0
    synthetic: list[int] = []


class _Plan(BaseModel):
    """What study.json must be like, so that its readers can take it by its keys."""

    identity: _Identity
    config: dict[str, Any]
    data: str = ""
    synthetic: list[str] = []
    synthetic_of: list[str] = []
    tests: list[_Tests] = []
    cases: _Cases = _Cases()
    arms: dict[str, str] = {}
    trained: dict[str, str] = {}
    classes: list[Name] = []
    class_values: dict[Name, list[int]] = {}
    versions: dict[str, str] = {}
    duplicates: list[tuple[str, str]] = []
    shared_groups: list[str] = []


def check_plan(plan: Mapping[str, Any], path: Path) -> None:
    """Refuse a study.json that holds values of other types than a study writes; it may come from anybody.

    Raises:
        DataError: Naming the first one.
    """
    typed(_Plan, plan, path, "restore the file, or study the data set again in another folder")


def config_of_plan(plan: Mapping[str, Any], **changed: Any) -> StudyConfig:
    """Return the knobs that study.json holds, with some changed; before there was a choice, the network was `unet`.

    Raises:
        ConfigError: A knob is unknown or impossible.
    """
    return config_from_values({"study": {"network": UNET, **plan["config"], **changed}}).study


@dataclass(frozen=True)
class PaintedRows:
    """The rows of synthetic sets, mixed evenly, so that the first ones of them are a share of each set.

    Attributes:
        sets: The sets; ids are unique over them.
        rows: All rows, mixed.
    """

    sets: tuple[SyntheticSet, ...] = ()
    rows: tuple[Row, ...] = field(init=False)

    def __post_init__(self) -> None:
        placed = [((place + 0.5) / len(one), row) for one in self.sets for place, row in enumerate(one)]
        object.__setattr__(self, "rows", tuple(row for _, row in sorted(placed, key=lambda pair: pair[0])))

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @cached_property
    def _set_of(self) -> dict[str, SyntheticSet]:
        return {row.id: one for one in self.sets for row in one}

    def cases(self, rows: Sequence[Row]) -> tuple[Case, ...]:
        """Return some of the rows as training cases."""
        return tuple(self._set_of[row.id].case(row) for row in rows)

    def pictures(self) -> tuple[Case, ...]:
        """Return every picture of the sets as a case, whatever the gate decided."""
        return self.cases([row for row in self.rows if row.image])

    def regions(self, rows: Sequence[Row]) -> tuple[Path, ...]:
        """Return, for some negatives among the rows, the masks of what was painted."""
        return tuple(self._set_of[row.id].folder / row.region for row in rows)


@dataclass(frozen=True)
class Inputs:
    """What a study reads.

    Attributes:
        dataset: The data set that every arm trains on.
        tests: Splits or folders that are tested on.
        train: Annotated training cases of the data set.
        test: Tested cases.
        painted: Rows of the synthetic sets.
        oracle: Data set with every annotation, if any.
        full: Its annotated training cases.
    """

    dataset: Dataset
    tests: tuple[str, ...]
    train: tuple[Case, ...]
    test: tuple[Case, ...]
    painted: PaintedRows = PaintedRows()
    oracle: Path | None = None
    full: tuple[Case, ...] = ()

    @cached_property
    def unannotated(self) -> tuple[Case, ...]:
        """Training images without a mask, which the baseline may label."""
        return self.dataset.split("unannotated")

    @cached_property
    def data_digest(self) -> str:
        """The digest of the training and tested cases."""
        return _digest((*self.train, *self.test))

    def digests(self, with_unannotated: bool) -> dict[str, Any]:
        """Return the digests of all cases that are read, by where they come from.

        Args:
            with_unannotated: Whether an arm trains on unannotated images.
        """
        return {
            "data": self.data_digest,
            "synthetic": [digest_of_set(one) for one in self.painted.sets],
            "oracle": _digest(self.full) if self.full else "",
        } | ({"unannotated": _digest(self.unannotated)} if with_unannotated else {})

    def seen(self) -> tuple[Case, ...]:
        """Return every real case that an arm or a model may train on, annotated or not."""
        return (*self.train, *self.unannotated, *self.full)


def _digest(cases: Sequence[Case]) -> str:
    def values(case: Case) -> list[Any]:
        classes = [[one.name, *one.values] for one in case.classes]
        files = [digest_of_file(path) if path else "" for path in (case.image, case.mask)]
        return [case.id, *([case.group] if case.group != case.id else []), *files, *classes]

    return digest_of_value([values(case) for case in cases])


def digest_of_set(synthetic: SyntheticSet) -> str:
    """Return the digest of a set's rows, which hold the digests of its files; of older ones none of their regions."""
    rows = [asdict(row) for row in synthetic]
    unsaid = "region_digest"
    return digest_of_value([{name: row[name] for name in row if row[name] or name != unsaid} for row in rows])


def read_inputs(data: Path, synthetic: Sequence[Path], tests: Sequence[str], oracle: Path | None = None) -> Inputs:
    """Read what a study compares, and refuse what would make the comparison dishonest.

    Raises:
        StudyError: A split without annotated cases, or a synthetic set that saw more than the training images.
        DataError: A file breaks a rule of the folder format, or a synthetic set is not finished.
    """
    dataset = read_dataset(data)
    train = _split(dataset, "train")
    names = names_of_tests(tests)
    tested = tuple(case for test in tests for case in tested_cases(dataset, test, names[test]))
    sets = tuple(read_set(folder, number) for number, folder in enumerate(synthetic))
    full = read_dataset(oracle).annotated("train") if oracle else ()
    for one in sets:
        check_provenance(one, dataset)
        _check_classes(one.folder, one.classes, dataset)
    for case in (*full, *tested):
        _check_classes(case.image.parent, case.classes, dataset)
    return Inputs(dataset, tuple(tests), train, tested, PaintedRows(sets), oracle, full)


def read_fold_inputs(data: Path, synthetic: Sequence[Path], oracle: Path | None) -> Inputs:
    """Read the training cases, which folds train on and test on.

    Raises:
        StudyError: No case is annotated, or synthetic sets are given: they are made of every training case.
        DataError: A file breaks a rule of the folder format.
    """
    if synthetic or oracle:
        raise StudyError(
            "folds train the arm real alone: a synthetic set or an oracle has seen every fold; "
            "leave out --synthetic and --oracle, or --baseline"
        )
    dataset = read_dataset(data)
    train = _split(dataset, "train")
    return Inputs(dataset, ("train",), train, train)


def read_set(folder: Path, number: int = 0) -> SyntheticSet:
    """Read a finished synthetic set, whose files must be those that were painted, without what a review rejected.

    Args:
        folder: Of the set.
        number: Its place among the sets of a study. From the second on, ids begin with a number, so that they are
            unique.

    Raises:
        StudyError: The set holds other images or masks than were painted.
        DataError: The set is not finished, or breaks a rule of its format.
    """
    return numbered(without_rejected(read_painted(folder)), number)


def read_painted(folder: Path) -> SyntheticSet:
    """Read a finished synthetic set, whose files must be those that were painted.

    Raises:
        StudyError: See `read_set`.
        DataError: See `read_set`.
    """
    found = read_manifest(folder)
    for row in found:
        _check_files(folder, row)
    return found


def without_rejected(found: SyntheticSet) -> SyntheticSet:
    """Return a set without the rows whose pictures a review of it rejected.

    Raises:
        DataError: The review is damaged, or of another set.
    """
    rejected = rejected_pictures(found)
    if not rejected:
        return found
    left = (place for place, row in enumerate(found) if (row.shown_in or row.id) not in rejected)
    return replace(found, rows=Part(found.rows, left))


def numbered(found: SyntheticSet, number: int) -> SyntheticSet:
    """Return a set as the one at a place among the sets of a study; see `read_set`."""
    if not number:
        return found
    rows = (replace(row, request=replace(row.request, id=f"{number + 1}:{row.id}")) for row in found)
    return replace(found, rows=tuple(rows))


def _check_files(folder: Path, row: Row) -> None:
    for name, digest in row.digests.items():
        if not (folder / name).is_file() or digest_of_file(folder / name) != digest:
            raise StudyError(
                f"a synthetic set must hold what was painted: {folder / name} is not the file that manifest.jsonl "
                "names; generate the set again, in another folder where it was changed"
            )


def _check_classes(folder: Path, classes: Sequence[LabelClass], dataset: Dataset) -> None:
    """Refuse a folder whose labels have other classes than the data set's.

    Raises:
        StudyError: They have.
    """
    wanted = dataset.cases[0].classes
    if tuple(classes) != wanted:
        both = [", ".join(f"{one.name} {list(one.values)}" for one in some) or "one" for some in (classes, wanted)]
        raise StudyError(
            f"all labels of a study need the same classes: {folder} has {both[0]}, {dataset.folder} has {both[1]}; "
            "take labels of the same classes, and generate synthetic sets from this data set"
        )


def names_of_tests(tests: Sequence[str]) -> dict[str, str]:
    """Return what stands before the ids of tested cases: nothing for splits, as much of a folder's path as is unique.

    Raises:
        StudyError: Nothing is named, or the same cases are named twice.
    """
    if not tests:
        raise StudyError("a study tests on something: --test is empty; name val, test or the folder of a data set")
    folders = {test: Path(test).resolve() for test in tests if test not in ("val", "test")}
    if len(set(folders.values())) + len(tests) - len(folders) < len(tests) or len(set(tests)) < len(tests):
        raise StudyError(f"a study tests on each case once: --test names one twice, {', '.join(tests)}; name it once")

    def name(folder: Path, parts: int) -> str:
        return "/".join(folder.parts[-parts:])

    unique = (n for n in count(1) if len({name(folder, n) for folder in folders.values()}) == len(folders))
    parts = next(unique)
    return {test: name(folders[test], parts) if test in folders else "" for test in tests}


def tested_cases(dataset: Dataset, test: str, name: str = "") -> tuple[Case, ...]:
    """Return what is tested on: a split of the data set, or the cases of another one, with its name before their ids.

    Raises:
        StudyError: There are no annotated cases.
        DataError: The folder is no data set.
    """
    if test in ("val", "test"):
        return _split(dataset, test)
    if test == "train":
        raise StudyError("a study tests on cases that it does not train on: --test names train; name val or test")
    other = read_dataset(Path(test))
    cases = other.annotated("test") or tuple(case for case in other.cases if case.mask is not None)
    if not cases:
        raise StudyError(f"a study needs annotated cases to test on: {test} has none; name another data set")
    return tuple(replace(case, id=f"{name}:{case.id}", group=f"{name}:{case.group}") for case in cases)


def _split(dataset: Dataset, name: str) -> tuple[Case, ...]:
    cases = dataset.annotated(name)
    if not cases:
        raise StudyError(
            f"a study needs annotated cases in the split {name}: {dataset.folder} has none; test by folds of the "
            "training cases, --folds 5 instead of --synthetic, or name another split with --test"
        )
    return cases


@dataclass(frozen=True)
class _Repeated:
    """What duplicates.json keeps: pairs of a test and a training case, and the digest of the images compared."""

    images: str
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class _Seen:
    """What `provenance.seen_by_bases` returns."""

    known: bool
    of: int
    annotated: list[str]
    unannotated: list[str]


@dataclass(frozen=True)
class _SeenByBases:
    """What base_seen.json keeps: the test images that bases have seen, and the digest of the images compared."""

    images: str
    seen: _Seen


def repeated_in(path: Path, seen: Sequence[Case], test: Sequence[Case], allowed: bool) -> list[list[str]]:
    """Return the test images that are also trained on. They are sought once for the same images, and kept in a file.

    Args:
        path: The file.
        seen: Every case, real or painted, whose image may be trained on.
        test: Tested cases.
        allowed: Whether there may be some.

    Raises:
        StudyError: There are some, and they are not allowed.
    """
    images = digest_of_value(key_of(seen, test))
    found = read_kept(path, _Repeated)
    if found is not None and found.images == images:
        pairs = found.pairs
    else:
        pairs = repeated_frames(seen, test, "looking for test images in training")
    check_repeated(pairs, allowed)
    write_json(make_folder(path.parent) / path.name, {"images": images, "pairs": pairs})
    return [list(pair) for pair in pairs]


def seen_by_painters(path: Path, inputs: Inputs, allowed: bool) -> dict[str, Any]:
    """Return which test images the bases of the painters have seen, found before or anew.

    Raises:
        StudyError: A base has seen the annotation of some, and that is not allowed.
    """
    kept = read_kept(path, _SeenByBases)
    same = kept is not None and kept.images == _key_of_bases(inputs)
    seen = asdict(kept.seen) if kept and same else seen_by_bases(inputs.painted.sets, inputs.test, "comparing")
    check_bases(seen, allowed)
    return seen


def keep_seen(path: Path, inputs: Inputs, seen: Mapping[str, Any]) -> None:
    """Write which test images the bases of the painters have seen."""
    write_json(path, {"images": _key_of_bases(inputs), "seen": seen})


def _key_of_bases(inputs: Inputs) -> str:
    files = [one.folder / SEEN_FILE for one in inputs.painted.sets]
    lists = [digest_of_file(file) if file.is_file() else "" for file in files]
    return digest_of_value([lists, [digest_of_file(case.image) for case in inputs.test]])
