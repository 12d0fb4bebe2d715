"""The rows of `cases.csv`: what each cell means, read, written and as records.

The columns are id, image, mask, group, split, prompt, kind, then attributes (numbers). Paths are relative to the
folder, with forward slashes. `kind` is a word of `Case.kind`; it may be missing, or empty, and must not contradict the
row. A column `known` may name masks of the pixels whose label is known, where not all are.
"""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from diffaug.data.case import NEGATIVE, PAINTED_NEGATIVE, Case, Kind, LabelClass
from diffaug.errors import DataError
from diffaug.names import Inside, plain_name

TABLE = "cases.csv"
COLUMNS = ("id", "image", "mask", "group", "split", "prompt")
KIND = "kind"  # a further column: what the case shows
KNOWN = "known"  # a further column, of paths
SPLITS = ("train", "val", "test", "unannotated")


def case_of_row(place: Inside, number: int, row: dict[str, str], classes: tuple[LabelClass, ...]) -> Case:
    """Return the case of a row.

    Args:
        place: The folder of the data set.
        number: Of the line in the table.
        row: Its cells, by column.
        classes: Those that the data set declares.

    Raises:
        DataError: A cell breaks a rule, or two contradict each other.
    """
    where = f"{place.folder / TABLE} row {number}"
    name, split = plain_name(row["id"].strip(), f"the id of {where}"), row["split"].strip()
    if split not in SPLITS:
        raise DataError(f"a split must be one of {', '.join(SPLITS)}: case {name} has {split!r} ({where}); correct it")
    if not row["image"]:
        raise DataError(f"every case needs an image: case {name} has none ({where}); add its path")
    if split == "unannotated" and row["mask"]:
        raise DataError(
            f"the split unannotated has no masks: case {name} has one ({where}); clear it or change the split"
        )
    if split != "unannotated" and not row["mask"]:
        raise DataError(
            f"every case of {split} needs a mask: case {name} has none ({where}); add it or make the split unannotated"
        )
    case = Case(
        id=name,
        image=place.path(row["image"], f"the image of case {name} in {TABLE}"),
        mask=place.path(row["mask"], f"the mask of case {name} in {TABLE}") if row["mask"] else None,
        group=unicodedata.normalize("NFC", row["group"]).strip() or name,  # one patient, however a blank stands there
        split=split,
        prompt=row["prompt"],
        attributes={
            key: _number(row[key], key, name) for key in row if key not in (*COLUMNS, KIND, KNOWN) and row[key].strip()
        },
        classes=classes,
        known=place.path(row[KNOWN], f"the mask of known pixels of case {name} in {TABLE}") if row.get(KNOWN) else None,
    )
    return _of_kind(case, row.get(KIND, "").strip(), where)


def _of_kind(case: Case, kind: str, where: str) -> Case:
    """Return a case with what the column `kind` adds to its other cells.

    Raises:
        DataError: The word is unknown, or contradicts them.
    """
    if kind not in ("", *get_args(Kind)):
        raise DataError(f"a kind is {', '.join(get_args(Kind))}: case {case.id} has {kind!r} ({where}); correct it")
    if kind == PAINTED_NEGATIVE and case.mask is not None:
        return replace(case, painted_negative=True)
    if kind == NEGATIVE and NEGATIVE not in case.attributes:
        return replace(case, attributes={**case.attributes, NEGATIVE: 1.0})
    if kind not in ("", case.kind):
        raise DataError(
            f"the kind of a case follows from its other cells: case {case.id} is {kind} by the column {KIND} and "
            f"{case.kind} by mask, split and {NEGATIVE} ({where}); correct the row, or clear the cell"
        )
    return case


def _number(cell: str, column: str, case: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"an attribute must be a number: case {case} has {column} {cell!r}; correct it or clear the cell"
        )
    return value


def header(attributes: Iterable[str], known: bool) -> list[str]:
    """Return the columns of a table.

    Args:
        attributes: Those of its cases, in the order in which they first appear.
        known: Whether a case has a mask of the pixels whose label is known.
    """
    return list(dict.fromkeys((*COLUMNS, KIND, *((KNOWN,) if known else ()), *attributes)))


def row_of_case(case: Case, folder: Path) -> dict[str, str]:
    """Return the cells of a case whose files lie inside a folder, by column; what it lacks is left out."""
    files = {name: path.relative_to(folder).as_posix() for name, path in _files(case).items()}
    return {**_words(case), **files, **{name: repr(float(value)) for name, value in case.attributes.items()}}


def records_of(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return a flat record for each case, all with the same columns; what a case lacks is None.

    Paths are as they can be opened, and numbers are numbers.
    """
    columns = header((name for case in cases for name in case.attributes), any(case.known for case in cases))
    nothing = dict.fromkeys(columns)
    files = [{name: str(path) for name, path in _files(case).items()} for case in cases]
    return [{**nothing, **_words(case), **paths, **case.attributes} for case, paths in zip(cases, files, strict=True)]


def _words(case: Case) -> dict[str, str]:
    return {"id": case.id, "group": case.group, "split": case.split, "prompt": case.prompt, KIND: case.kind}


def _files(case: Case) -> dict[str, Path]:
    return {name: path for name, path in (("image", case.image), ("mask", case.mask), (KNOWN, case.known)) if path}
