"""The cases of an export: real ones, and painted ones that are read from the files of their set when asked for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from diffaug.data.case import Case
from diffaug.data.manifest import Row, SyntheticSet
from diffaug.data.records import Numbers, items_at

COLUMNS = (
    "id", "split", "group", "origin", "negative", "lesion_free", "background", "mask_source", "example", "prompt",
    "decision", "seed", "model",
)  # fmt: skip


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


@dataclass(frozen=True, eq=False)
class Painted(Sequence[Entry]):
    """Painted cases, in the order of their set: 20 bytes for each are held.

    Attributes:
        made: The set.
        table: Its cases.
        rows: Places of the cases' rows in the manifest.
        cases: Their places in the table.
        negative: Whether tissue was painted on each that is lesion-free.
        known: Whether the label of each is known in part alone.
        pictures: For lesions shown in the picture of another row, the place of that row, sorted.
        shown: The places of these lesions' rows, in the same order.
        groups: The group of each background; empty where cases keep their own.
    """

    made: SyntheticSet
    table: Sequence[Case]
    rows: Numbers
    cases: Numbers
    negative: NDArray[np.bool_]
    known: NDArray[np.bool_]
    pictures: Numbers
    shown: Numbers
    groups: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> Entry: ...
    @overload
    def __getitem__(self, key: slice) -> "Painted": ...
    def __getitem__(self, key: int | slice) -> "Entry | Painted":
        if isinstance(key, slice):
            return self.only(np.arange(len(self))[key])
        return next(iter(self.only(np.array([key]))))

    def __iter__(self) -> Iterator[Entry]:
        numbers = self.rows.tolist()
        rows, cases = items_at(self.made.rows, numbers), items_at(self.table, self.cases.tolist())
        return (self._entry(*each) for each in zip(numbers, rows, cases, strict=True))

    def only(self, places: NDArray[Any]) -> "Painted":
        """Return some of them, by their places or by a truth value for each."""
        some = {name: getattr(self, name)[places] for name in ("rows", "cases", "negative", "known")}
        return replace(self, **some)

    def _entry(self, number: int, row: Row, case: Case) -> Entry:
        start, end = np.searchsorted(self.pictures, (number, number + 1))
        group = self.groups[row.request.background] if self.groups else case.group
        case = replace(case, split="train", prompt=case.prompt or row.request.prompt, group=group)
        return Entry(case, (row, *(self.made.rows[place] for place in self.shown[start:end].tolist())))


@dataclass(frozen=True, eq=False)
class Entries(Sequence[Entry]):
    """Real cases, then painted ones.

    Attributes:
        real: The real ones.
        painted: The painted ones, which only train.
    """

    real: tuple[Entry, ...]
    painted: Sequence[Entry]

    def __len__(self) -> int:
        return len(self.real) + len(self.painted)

    @overload
    def __getitem__(self, key: int) -> Entry: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Entry]: ...
    def __getitem__(self, key: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(key, slice):
            return [self[place] for place in range(len(self))[key]]
        place = range(len(self))[key]
        return self.real[place] if place < len(self.real) else self.painted[place - len(self.real)]

    def __iter__(self) -> Iterator[Entry]:
        return chain(self.real, self.painted)

    def split(self, name: str) -> "Entries":
        """Return those of a split: train, val or test."""
        real = tuple(entry for entry in self.real if entry.case.split == name)
        return Entries(real, self.painted if name == "train" else ())

    @property
    def negatives(self) -> int:
        """How many of the painted ones are lesion-free."""
        return int(self.painted.negative.sum()) if isinstance(self.painted, Painted) else 0
