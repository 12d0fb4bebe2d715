"""The folder format: `images/`, `masks/` and `cases.csv`, read by every stage.

`cases.csv` has a row for each case; `table.py` says what its columns mean. A synthetic set is such a folder too; its
paths lead into `shards/`.

Where masks have several classes, `classes.json` names each with its values in the masks, outer classes first:
`{"disc": [1, 2], "cup": [2]}`. Without it there is one class, `lesion`.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, make_folder, read_csv, read_json, sync, sync_tree, write_csv, write_text
from diffaug.data.case import LESION, NEGATIVE, Case, LabelClass
from diffaug.data.examine import examine_cases, notices_of
from diffaug.data.metadata import copy_picture
from diffaug.data.records import Distinct, RecordFile, Spool, cells_of, columns_of
from diffaug.data.split import shuffled
from diffaug.data.table import COLUMNS, SPLITS, TABLE, case_of_row, header, records_of, row_of_case
from diffaug.errors import ConfigError, DataError, DiffaugError
from diffaug.layouts import Unannotated
from diffaug.names import ON_WINDOWS, Inside, check_distinct, plain_name, without_links

CLASSES = "classes.json"
TRAINING = ("train", "unannotated")  # splits that a model may have seen


@dataclass(frozen=True, repr=False)
class Dataset:
    """The cases of a folder, in the order of its `cases.csv`: a sequence of `Case`.

    Attributes:
        folder: Where the data set lies.
        cases: All its cases.

    Example:
        >>> data = diffaug.read_dataset("data/mine")
        >>> data
        Dataset(data/mine: 10 cases, 8 train, 2 unannotated)
        >>> len(data), data[0].id, data["train-7"].split
        (10, 'train-0', 'train')
        >>> sum(case.mask is None for case in data)
        2
    """

    folder: Path
    cases: tuple[Case, ...]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, key: int | str) -> Case:
        """Return the case at a position or of an id.

        Raises:
            DataError: No case has the id.
            IndexError: There are fewer cases.
        """
        if not isinstance(key, str):
            return self.cases[key]
        if key not in self._by_id:
            raise DataError(f"an id must be in {self.folder / TABLE}: {key!r} is not; check the id")
        return self._by_id[key]

    def __repr__(self) -> str:
        counts = Counter(case.split for case in self.cases)
        splits = "".join(f", {counts[split]} {split}" for split in SPLITS if counts[split])
        return f"Dataset({self.folder}: {len(self)} case{'s' * (len(self) != 1)}{splits})"

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes that the data set declares; none where its masks have the single class `lesion`."""
        return self.cases[0].classes if self.cases else ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that its masks have; `lesion` where none is declared."""
        return tuple(each.name for each in self.classes) or (LESION,)

    def split(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a split: train, val, test or unannotated.

        Raises:
            DataError: There is no such split.
        """
        if name not in SPLITS:
            raise DataError(f"a split must be one of {', '.join(SPLITS)}; got {name!r}")
        return tuple(case for case in self.cases if case.split == name)

    def annotated(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a split that have a mask."""
        return tuple(case for case in self.split(name) if case.mask is not None)

    def table(self) -> list[dict[str, Any]]:
        """Return one flat record a case, such as for `pandas.DataFrame(dataset.table())`.

        Every record has the same columns: those of `cases.csv`, with paths as they can be opened. A cell holds a text,
        a number, or None where the case has no such file or attribute.
        """
        return records_of(self.cases)


def read_dataset(folder: PathLike) -> Dataset:
    """Read `cases.csv` and `classes.json` and check that the files exist; no image is decoded.

    Args:
        folder: The folder of the data set.

    Raises:
        DataError: The folder or the table is missing, or a row or a class breaks a rule of the format.

    Example:
        >>> data = diffaug.read_dataset("data/mine")
        >>> data["train-0"].read_image().shape
        (128, 128, 3)
    """
    folder = without_links(Path(folder))
    table = _table_of(folder)
    rows, classes = read_csv(table, COLUMNS), read_classes(folder)
    place = Inside(folder)
    cases = tuple(case_of_row(place, number, row, classes) for number, row in enumerate(rows, start=2))
    if not cases:
        raise DataError(_lists_none(table))
    check_distinct((case.id for case in cases), table)
    for case in cases:
        _check_files(case, table)
    return Dataset(folder, cases)


def find_cases(folder: PathLike) -> RecordFile[Case]:
    """Return the cases of a data set of any size, each read from its table when it is asked for; see `read_dataset`.

    Raises:
        DataError: See `read_dataset`.
    """
    folder = without_links(Path(folder))
    table, place, distinct = _table_of(folder), Inside(folder), Distinct()
    classes, columns = read_classes(folder), list[str]()

    def case_of(data: bytes, number: int) -> Case:
        return case_of_row(place, number, cells_of(data, columns, table, number), classes)

    cases = RecordFile(table, case_of, head=True)
    columns += columns_of(cases.head(), table, COLUMNS)
    for case in cases:
        distinct.see(case.id)
        _check_files(case, table)
    if not cases:
        raise DataError(_lists_none(table))
    if distinct.may_repeat:
        check_distinct((case.id for case in cases), table)
    return cases


def _lists_none(table: Path) -> str:
    return f"a data set needs cases: {table} lists none; import images first"


def _table_of(folder: Path) -> Path:
    """Return the path of a data set's table.

    Raises:
        DataError: The folder or the table is missing.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"a data set is a folder: {folder} {state}; check the path")
    if not (folder / TABLE).exists():
        raise DataError(f"a data set needs {TABLE}: {folder} has none; run `diffaug data import`")
    return folder / TABLE


def read_classes(folder: Path) -> tuple[LabelClass, ...]:
    """Read the classes that a data set's folder declares; none where it has no `classes.json`.

    Raises:
        DataError: The file breaks a rule.
    """
    path = folder / CLASSES
    if not path.is_file():
        return ()
    classes = read_json(path)
    if not isinstance(classes, dict) or not classes:
        raise DataError(f'{CLASSES} must name classes with their values, such as {{"disc": [1, 2]}}: {path} does not')
    for name, values in classes.items():
        known = isinstance(values, list) and values and all(type(value) is int and 0 < value < 256 for value in values)
        plain_name(name, f"a class in {path}")
        if not known:
            raise DataError(f"a class has a name and values from 1 to 255: {path} has {name!r}: {values!r}; correct it")
    return tuple(LabelClass(name, tuple(values)) for name, values in classes.items())


def _check_files(case: Case, table: Path) -> None:
    for kind, path in (("image", case.image), ("mask", case.mask), ("mask of known pixels", case.known)):
        if path is not None and not path.is_file():
            raise DataError(
                f"every path of {TABLE} must be a file: the {kind} of case {case.id} is missing ({path}); "
                f"restore it or drop the row from {table}"
            )


@dataclass(frozen=True)
class DatasetCheck:
    """What decoding cases showed.

    Attributes:
        cases: How many were decoded.
        notices: One sentence for each kind of conversion, such as "12 images are grey and were read as RGB".
    """

    cases: int
    notices: tuple[str, ...]


def check_dataset(cases: Iterable[Case], progress: str = "") -> DatasetCheck:
    """Decode every image and mask, in threads.

    Args:
        cases: A data set, or some of its cases.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        DataError: A file cannot be decoded or is too large, or a mask is empty, has another size than its image, or
            holds a value of no declared class.

    Example:
        >>> diffaug.check_dataset(diffaug.read_dataset("data/mine"))
        DatasetCheck(cases=10, notices=())
    """
    findings = examine_cases(cases, progress)
    return DatasetCheck(len(findings), tuple(notices_of(findings)))


def write_cases(folder: Path, cases: Iterable[Case]) -> None:
    """Write `cases.csv`, atomically, for cases whose files lie inside the folder, and `classes.json` for their classes.

    Attributes become columns in the order in which they first appear; what a case lacks stays empty. The cases may be
    made while they are written: none is held.
    """
    with Spool(folder) as rows:
        known, attributes, classes = False, dict[str, None](), tuple[LabelClass, ...]()
        for case in cases:
            classes = classes if len(rows) else case.classes
            known = known or case.known is not None
            attributes |= dict.fromkeys(case.attributes)
            rows.add(row_of_case(case, folder))
        if classes:
            values = {each.name: each.values for each in classes}  # `write_json` would sort them
            write_text(folder / CLASSES, json.dumps(values, ensure_ascii=False) + "\n")
        write_csv(folder / TABLE, rows, header(attributes, known))


@contextmanager
def new_dataset(to: Path, table: str = TABLE) -> Iterator[Path]:
    """Yield a folder beside `to` that takes its place when the block ends, and is removed when the block fails.

    Where `to` already holds the same cases and files it stays as it is, so the same command again changes nothing.

    Args:
        to: The folder.
        table: A file that every folder of its kind has.

    Raises:
        ConfigError: `to` holds something else, or its parent cannot be written to.
    """
    to = to.absolute()
    refuse_occupied(to, table)
    make_folder(to.parent)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    try:
        make_folder(partial)
        yield partial
        if not _is_empty(to):
            _check_same(partial, to)
        else:
            sync_tree(partial)
            if ON_WINDOWS and to.is_dir():
                to.rmdir()  # an empty folder, which is not replaced there
            partial.replace(to)
            sync(to.parent)
    except DiffaugError:
        raise
    except OSError as error:
        raise ConfigError(f"a data set must be writable: {to}: {error.strerror}; choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_occupied(to: Path, table: str = TABLE, what: str = "a data set") -> None:
    """Raise before work starts where `to` holds something of another kind than what is made, or cannot be replaced.

    Raises:
        ConfigError: `to` is a file, a folder that holds files but no such table, a link, or the root of a disk.
    """
    if to.is_symlink() or os.path.ismount(to):
        kind = "a link" if to.is_symlink() else "the root of a disk"
        raise ConfigError(f"{what} needs a folder of its own: {to} is {kind}; name a new folder, such as {to}/data")
    if not _is_empty(to) and not (to / table).is_file():
        raise ConfigError(f"{what} needs a new or empty folder: {to} holds other files; choose another folder")


def _is_empty(to: Path) -> bool:
    return not to.exists() or (to.is_dir() and not any(to.iterdir()))


def _check_same(made: Path, old: Path) -> None:
    """Check that a folder already holds every file that was made, byte by byte; files beside them do not matter."""
    for path in sorted(made.rglob("*")):
        twin = old / path.relative_to(made)
        if path.is_file() and not (twin.is_file() and twin.read_bytes() == path.read_bytes()):
            raise ConfigError(
                f"a data set never replaces another: {old} already holds files and differs at "
                f"{path.relative_to(made).as_posix()}; choose another folder or remove it"
            )


def copy_case(case: Case, folder: Path, copy: Callable[[Path, Path, str], Path] | None = None) -> Case:
    """Copy the files of a case to `images/`, `masks/` and `known/`, and return the case that lies there.

    Args:
        case: The case.
        folder: Of the other data set.
        copy: Copies a file into a folder under another stem, and returns its new path; None copies byte by byte.
    """
    copy = copy or copy_file
    image = copy(case.image, folder / "images", case.id)
    mask = None if case.mask is None else copy(case.mask, folder / "masks", case.id)
    known = None if case.known is None else copy(case.known, folder / "known", case.id)
    return replace(case, image=image, mask=mask, known=known)


def copy_file(path: Path, folder: Path, name: str) -> Path:
    """Copy a file, byte by byte, into a folder under another stem, and return its new path."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, folder / f"{name}{path.suffix.lower()}"))


def to_annotate(data: Dataset, unannotated: Unannotated = "all") -> tuple[Case, ...]:
    """Return the training cases of which a subset keeps some annotated: those with a lesion, or all of them."""
    train = data.split("train")
    return train if unannotated == "all" else tuple(case for case in train if not case.negative)


def subset_dataset(
    data: Dataset, to: PathLike, annotated: int, draw: int = 0, unannotated: Unannotated = "all"
) -> Dataset:
    """Copy a data set, without the metadata of its files, in which only some training cases are annotated.

    Whole groups are taken in seeded order while they fit; only where none fits any more is the last one cut. The other
    cases of `train` become `unannotated`, without masks. `val`, `test` and `unannotated` stay as they are.

    Where only lesion-free images shall be unannotated, the annotated cases are drawn among those with a lesion, the
    cases that are declared to be lesion-free become `unannotated`, and all other images of both splits are left out.

    Args:
        data: The full data set.
        to: A new folder.
        annotated: How many training cases keep their masks.
        draw: Which cases these are. If each group has one case, a smaller subset of the same draw lies in a larger one.
        unannotated: Which images are unannotated: `all` others, or those declared to be `lesion-free`.

    Raises:
        DataError: There are fewer annotated training cases, or none of the images is declared to be lesion-free.
        ConfigError: `to` holds something else, or cannot be written.

    Example:
        >>> data = diffaug.read_dataset("data/mine")
        >>> diffaug.subset_dataset(data, "data/mine-3", annotated=3)
        Dataset(data/mine-3: 10 cases, 3 train, 7 unannotated)
    """
    to = Path(to)
    train = to_annotate(data, unannotated)
    if not 1 <= annotated <= len(train):
        raise DataError(f"a subset keeps 1 to {len(train)} annotated training cases: got {annotated}; ask for fewer")
    if unannotated == "lesion-free" and not any(case.negative for case in data if case.split in TRAINING):
        raise DataError(
            f"lesion-free images are declared by a 1 in the column {NEGATIVE} of cases.csv: none of {data.folder} is; "
            "import them from a folder normal/, or keep all unannotated images"
        )
    refuse_occupied(to)
    kept = _draw_cases(train, annotated, draw)
    with new_dataset(to) as partial:
        cases = [
            replace(case, split="unannotated", mask=None) if case.split in TRAINING and case.id not in kept else case
            for case in data
            if case.split not in TRAINING or case.id in kept or unannotated == "all" or case.negative
        ]
        write_cases(partial, [copy_case(case, partial, copy_picture) for case in cases])
    return read_dataset(to)


def _draw_cases(train: Sequence[Case], count: int, draw: int) -> set[str]:
    members: dict[str, list[str]] = {}
    for case in train:
        members.setdefault(case.group, []).append(case.id)
    kept: list[str] = []
    order = shuffled(members, draw)
    for group in order:
        if len(kept) + len(members[group]) <= count:
            kept += members[group]
    rest = [name for group in order for name in shuffled(members[group], draw) if name not in kept]
    return {*kept, *rest[: count - len(kept)]}
