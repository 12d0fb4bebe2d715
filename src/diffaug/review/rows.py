"""What the page shows: the rows of a synthetic set, or the cases of a data set, by number.

A set may have a hundred thousand rows, and people wait for the page. So a manifest is not read as a whole: of each line
the few fields that the list needs are checked when the page asks for them, in parts, and all of it when its case is
opened. A manifest may come from anybody: a line is typed, and a path is looked at before it is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from diffaug.data.case import Case
from diffaug.data.folder import read_classes, read_dataset
from diffaug.data.manifest import MANIFEST, SCHEMA, SUMMARY, Decision, Row, check_finished, row_of, rows_painted
from diffaug.data.table import TABLE
from diffaug.errors import DataError, one_line
from diffaug.names import Inside, Name, OptionalName
from diffaug.reading import json_from_bytes, read_bytes
from diffaug.runfolder import kind_of

LONGEST = 300  # characters of a text in the list
PLACED = {"free": "on free tissue", "replace": "over the old lesion", "removed": "after removal"}
FINITE = ConfigDict(allow_inf_nan=False)  # JSON for a browser has no other numbers

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Choice:
    """What a list can be filtered or sorted by.

    Attributes:
        column: Of `Rows.listed`.
        label: In words.
        values: Of a filter; none of what is sorted by.
    """

    column: str
    label: str
    values: Sequence[str] = ()


class Rows(Protocol):
    """Cases by number, from 0.

    Attributes:
        kind: What they are, in a word of the page.
        count: How many there are.
        filters: What the list can be filtered by.
        sorts: What it can be sorted by.
        classes: Names of the classes of their labels.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102 - the class says what they are
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def filters(self) -> Sequence[Choice]: ...  # noqa: D102
    @property
    def sorts(self) -> Sequence[Choice]: ...  # noqa: D102
    @property
    def classes(self) -> Sequence[str]: ...  # noqa: D102

    def listed(self, start: int, stop: int) -> Columns:
        """Return some of them for the list, a value for each in every column.

        Raises:
            DataError: One breaks a rule of its format.
        """

    def case(self, number: int) -> Case:
        """Return one with its files.

        Raises:
            DataError: It has no picture, or breaks a rule of its format.
        """

    def facts(self, number: int) -> Mapping[str, str]:
        """Return what is known of one, by name, in words."""

    def sources(self, number: int) -> tuple[str, str]:
        """Return the ids of the case that it was painted from and of that whose mask it has; empty for none."""


# --- Synthetic sets ---------------------------------------------------------------------------------------------------


@checked(frozen=True, config=FINITE)
class _Request:
    id: Name
    size_bin: str
    placement: str
    prompt: str
    negative: bool = False


@checked(frozen=True, config=FINITE)
class _Check:
    score: float
    threshold: float


@checked(frozen=True, config=FINITE)
class _Scores:
    loss: float
    novelty: float
    low_contrast: bool


@checked(frozen=True, config=FINITE)
class _Listed:
    """Of a row what the list needs."""

    request: _Request
    decision: Decision
    schema: int = 1
    checks: list[_Check] = field(default_factory=list)
    look: _Check | None = None
    scores: _Scores | None = None
    found: float | None = None
    image: str = ""
    preview: str = ""
    shown_in: OptionalName = ""


@cache
def _adapter() -> TypeAdapter[_Listed]:
    return TypeAdapter(_Listed)


class SetRows:
    """The rows of a finished synthetic set; see `Rows`.

    Raises:
        DataError: The set is not finished, its manifest has fewer rows than its summary counts, or its first rows
            break a rule.
    """

    kind = "synthetic"
    filters = (
        Choice("decision", "Gate", ("kept", "surplus", "joined", "stopped", "rejected")),
        Choice("size", "Size", ("small", "medium", "large")),
        Choice("contrast", "Contrast", ("low", "not low", "not measured")),
        Choice("placement", "Placement", tuple(PLACED.values())),
        Choice("lesion", "Lesion", ("lesion", "negative")),
    )
    sorts = (
        Choice("score", "Agreement with the mask"),
        Choice("margin", "Agreement over threshold"),
        Choice("real", "Looks real"),
        Choice("loss", "Loss of the baseline"),
        Choice("novelty", "Novelty"),
        Choice("found", "Lesion found in a negative"),
    )

    def __init__(self, folder: Path) -> None:
        check_finished(folder)
        self.folder, self._place = folder, Inside(folder)
        self._path = self._place.path(MANIFEST)
        self._data = read_bytes(self._path)
        ends = np.flatnonzero(np.frombuffer(self._data, np.uint8) == ord("\n"))
        unfinished = bool(self._data) and not self._data.endswith(b"\n")
        self._ends: NDArray[np.int64] = np.append(ends, len(self._data)) if unfinished else ends
        self.count = len(self._ends)
        expected = rows_painted(self._place.path(SUMMARY))
        if expected not in (None, self.count):
            raise DataError(
                f"a synthetic set has the rows that its summary counts: {self._path} has {self.count}, not {expected}; "
                "run the command that made the set again, or restore the file"
            )
        self._place.check("classes.json")
        self._classes = read_classes(folder)
        self.classes = tuple(each.name for each in self._classes)
        self.listed(0, min(100, self.count))

    def _line(self, number: int) -> bytes:
        start = int(self._ends[number - 1]) + 1 if number else 0
        return self._data[start : int(self._ends[number])]

    def listed(self, start: int, stop: int) -> Columns:
        """See `Rows.listed`."""
        columns: Columns = {
            name: []
            for name in ("id", "picture", "shown_in", "prompt", *(one.column for one in self.filters + self.sorts))
        }
        for number in range(start, min(stop, self.count)):
            for name, value in _record(self._listed(number)).items():
                columns[name].append(value)
        return columns

    def _listed(self, number: int) -> _Listed:
        try:
            found = _adapter().validate_json(self._line(number))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))[:80]
            raise DataError(
                f"only diffaug writes a manifest: {self._path} line {number + 1} has {place}: {first['msg'][:200]}; "
                "restore the file, or generate the set again"
            ) from None
        if found.schema != SCHEMA:
            row_of({"schema": found.schema}, self._path, number + 1)  # it says what to do
        return found

    def row(self, number: int) -> Row:
        """Return a whole row.

        Raises:
            DataError: There is no such row, or it breaks a rule.
        """
        if not 0 <= number < self.count:
            raise DataError(f"a row has a number under {self.count}: {number} is none")
        try:
            values = json_from_bytes(self._line(number))
        except ValueError as error:
            raise DataError(f"{self._path} line {number + 1} must be JSON: {error}; restore the file") from None
        return row_of(values, self._path, number + 1)

    def case(self, number: int) -> Case:
        """See `Rows.case`."""
        row = self.row(number)
        names = (row.image, row.mask) if row.image else (row.preview, row.preview_mask)
        if not names[0]:
            raise DataError(f"a picture was painted to the end: {row.id} was not, since the gate stopped it")
        image, mask = (self._place.picture(name, f"a file of {row.id}") if name else None for name in names)
        assert image is not None
        return Case(row.id, image, mask, row.request.background, "train", row.request.prompt, {}, self._classes)

    def facts(self, number: int) -> dict[str, str]:
        """See `Rows.facts`."""
        row = self.row(number)
        request, scores, last = row.request, row.scores, row.checks[-1] if row.checks else None
        found = {
            "Prompt": request.prompt,
            "Gate": row.decision,
            "Reason": row.reason,
            "Agreement with the mask": f"{last.score:.3f} (threshold {last.threshold:.3f})" if last else "",
            "Looks real": f"{row.look.score:.3f} (threshold {row.look.threshold:.3f})" if row.look else "",
            "Loss of the baseline": f"{scores.loss:.3f}" if scores else "",
            "Novelty": f"{scores.novelty:.2f} standard deviations" if scores else "",
            "Contrast": _contrast(scores.low_contrast if scores else None),
            "Lesion found in a negative": "" if row.found is None else f"{row.found:.3f}",
            "Size": request.size_bin,
            "Placement": PLACED[request.placement],
            "Background": request.background,
            "Mask from": request.mask_case,
            "Example": request.example,
            "Shown in": row.shown_in,
            "Steps": f"{row.steps}" + (f", stopped after {row.stopped_after}" if row.decision == "stopped" else ""),
            "Seed": str(request.seed),
        }
        return {name: one_line(value) for name, value in found.items() if value}

    def sources(self, number: int) -> tuple[str, str]:
        """See `Rows.sources`."""
        request = self.row(number).request
        return request.example, request.mask_case


def _contrast(low: bool | None) -> str:
    return {None: "not measured", True: "low", False: "not low"}[low]


def _record(row: _Listed) -> dict[str, Any]:
    last, look, scores = row.checks[-1] if row.checks else None, row.look, row.scores
    return {
        "id": row.request.id,
        "picture": bool(row.image or row.preview),
        "shown_in": row.shown_in,
        "prompt": one_line(row.request.prompt[:LONGEST]),
        "decision": row.decision,
        "size": row.request.size_bin[:LONGEST],
        "contrast": _contrast(scores.low_contrast if scores else None),
        "placement": PLACED.get(row.request.placement, "unknown"),
        "lesion": "negative" if row.request.negative else "lesion",
        "score": last.score if last else None,
        "margin": last.score - last.threshold if last else None,
        "real": look.score if look else None,
        "loss": scores.loss if scores else None,
        "novelty": scores.novelty if scores else None,
        "found": row.found,
    }


# --- Data sets --------------------------------------------------------------------------------------------------------


class DataRows:
    """The cases of a data set, whose masks can be looked at; see `Rows`.

    Raises:
        DataError: The data set breaks a rule of its format.
    """

    kind = "data"
    sorts: Sequence[Choice] = ()

    def __init__(self, folder: Path) -> None:
        self.folder, self._dataset = folder, read_dataset(folder)
        self.count = len(self._dataset)
        self.classes = self._dataset.class_names if self._dataset.classes else ()
        splits, kinds = (sorted({getattr(case, name) for case in self._dataset}) for name in ("split", "kind"))
        self.filters = (Choice("split", "Split", splits), Choice("kind", "Kind", kinds))

    def listed(self, start: int, stop: int) -> Columns:
        """See `Rows.listed`."""
        cases = self._dataset.cases[start:stop]
        return {
            "id": [case.id for case in cases],
            "picture": [True] * len(cases),
            "shown_in": [""] * len(cases),
            "prompt": [one_line(case.prompt[:LONGEST]) for case in cases],
            "split": [case.split for case in cases],
            "kind": [case.kind for case in cases],
        }

    def case(self, number: int) -> Case:
        """See `Rows.case`."""
        if not 0 <= number < self.count:
            raise DataError(f"a case of {self.folder / TABLE} has a number under {self.count}: {number} is none")
        return self._dataset[number]

    def facts(self, number: int) -> dict[str, str]:
        """See `Rows.facts`."""
        case = self.case(number)
        numbers = {name: f"{value:g}" for name, value in case.attributes.items()}
        found = {"Prompt": case.prompt, "Split": case.split, "Kind": case.kind, "Group": case.group, **numbers}
        return {one_line(name): one_line(value) for name, value in found.items() if value}

    def sources(self, number: int) -> tuple[str, str]:
        """See `Rows.sources`."""
        return "", ""


def is_set(folder: Path) -> bool:
    """Tell whether a folder holds a synthetic set, finished or not; else it holds a data set.

    Raises:
        DataError: It holds neither.
    """
    kind = kind_of(folder)
    if kind == "is a synthetic set" or (folder / SUMMARY).is_file() or (folder / "shards").is_dir():
        return True
    if kind != "is a data set":
        raise DataError(
            f"a review is of a synthetic set or of a data set: {folder} {kind or 'is neither'}; check the path"
        )
    return False


def rows_of(folder: Path) -> SetRows | DataRows:
    """Return what a folder holds.

    Raises:
        DataError: It is neither a finished synthetic set nor a data set, or breaks a rule of its format.
    """
    return SetRows(folder) if is_set(folder) else DataRows(folder)


def described(rows: Rows) -> dict[str, Any]:
    """Return what the page must know of rows before it has any, as JSON values."""
    return {
        "kind": rows.kind,
        "count": rows.count,
        "classes": list(rows.classes),
        "filters": [asdict(one) for one in rows.filters],
        "sorts": [asdict(one) for one in rows.sorts],
    }
