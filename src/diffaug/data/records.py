"""Files of many records, JSON lines or CSV, of which nothing is held but where each record begins: 8 bytes a record.

A set of a million rows has a manifest of some gigabytes. Whoever goes through it holds one record at a time; whoever
needs one of them reads that one. A file must stay as it is while it is used.
"""

import csv
import hashlib
import io
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from diffaug.errors import DataError
from diffaug.names import folded
from diffaug.reading import opened_plain

Item = TypeVar("Item")
Made = TypeVar("Made")
Numbers = NDArray[np.int64]
LONGEST = 2**24  # bytes of a record: a row of a manifest has about two thousand
MOST = 10_000_000  # records of a file, which take ten seconds to be found


class Part(Sequence[Item]):
    """Some items of a sequence, by number, in any order; nothing is copied."""

    def __init__(self, whole: Sequence[Item], numbers: Iterable[int]) -> None:
        self._whole = whole
        self.numbers: Numbers = np.fromiter(numbers, np.int64)

    def only(self, numbers: Iterable[int]) -> "Part[Item]":
        """Return other items of the same sequence."""
        return Part(self._whole, numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, key: int) -> Item: ...
    @overload
    def __getitem__(self, key: slice | list[int]) -> "Part[Item]": ...
    def __getitem__(self, key: int | slice | list[int]) -> "Item | Part[Item]":
        if not isinstance(key, int):
            return Part(self._whole, self.numbers[key])
        return self._whole[int(self.numbers[key])]

    def __iter__(self) -> Iterator[Item]:
        return items_at(self._whole, self.numbers.tolist())

    def __eq__(self, other: object) -> bool:
        return are_equal(self, other)

    __hash__ = None  # type: ignore[assignment] # it is compared by its items, which lie in files


class RecordFile(Sequence[Item]):
    """The records of a file, each read when it is asked for, and made into an item.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, item: Callable[[bytes, int], Item], head: bool = False) -> None:
        """Find the records.

        Args:
            path: The file.
            item: Makes an item of the bytes of a record and its number in the file, from 1.
            head: Whether the file is CSV: its first record is no item, quotes may hold line breaks, and empty lines are
                no records.

        Raises:
            DataError: The file is missing, is no plain file, has a record of more than LONGEST bytes, or more than MOST
                records.
        """
        self.path, self._item, self._first = path, item, int(head)
        starts = array("q")
        with opened_plain(path) as file:
            self._stamp = _stamp(file)
            for start in _starts(file, path, head):
                if len(starts) > MOST:
                    raise DataError(f"a file has {MOST:,} records at most: {path} has more; restore the file")
                starts.append(start)
            starts.append(file.tell())
        if len(starts) == 1 and not head:
            starts.append(0)  # an empty file has one empty record, which is no JSON
        self._starts: Numbers = np.frombuffer(starts, np.int64)

    def __len__(self) -> int:
        return max(0, len(self._starts) - 1 - self._first)

    @overload
    def __getitem__(self, key: int) -> Item: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Item]: ...
    def __getitem__(self, key: int | slice) -> Item | Sequence[Item]:
        if isinstance(key, slice):
            return Part(self, range(len(self))[key])
        return next(self.at([range(len(self))[key]]))

    def __iter__(self) -> Iterator[Item]:
        return self.at(range(len(self)))

    def __eq__(self, other: object) -> bool:
        return are_equal(self, other)

    __hash__ = None  # type: ignore[assignment] # it is compared by its items, which lie in a file

    def at(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield the items at some places, which are not negative, in the order that is asked for.

        Raises:
            DataError: The file was changed since its records were found, or a record breaks a rule.
        """
        with opened_plain(self.path) as file:
            if _stamp(file) != self._stamp:
                raise DataError(
                    f"a file must stay as it is while it is read: {self.path} was changed; run the same command again"
                )
            for number in numbers:
                yield self._item(self._bytes(file, number + self._first), number + self._first + 1)

    def head(self) -> bytes:
        """Return the first record of a file of CSV; nothing where the file is empty."""
        with opened_plain(self.path) as file:
            return self._bytes(file, 0) if len(self._starts) > 1 else b""

    def _bytes(self, file: BinaryIO, place: int) -> bytes:
        start, end = int(self._starts[place]), int(self._starts[place + 1])
        if file.tell() != start:
            file.seek(start)
        return file.read(end - start).removesuffix(b"\n")


def _starts(file: BinaryIO, path: Path, quoted: bool) -> Iterator[int]:
    """Yield where each record begins; the file stands at its end afterwards."""
    start, length, is_open = 0, 0, False
    while line := file.readline(LONGEST + 1):
        if not is_open:
            start, length = file.tell() - len(line), 0
        length += len(line)
        if length > LONGEST:
            raise DataError(f"a record has {LONGEST:,} bytes at most: one of {path} has more; restore the file")
        if quoted:
            was_open, is_open = is_open, is_open ^ bool(line.count(b'"') % 2)
            if was_open or not line.strip():
                continue
        yield start


def _stamp(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino


class Mapped(Sequence[Made]):
    """What is made of the items of a sequence, each when it is asked for."""

    def __init__(self, make: Callable[[Any], Made], items: Sequence[Any]) -> None:
        self._make, self._items = make, items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, key: int) -> Made: ...
    @overload
    def __getitem__(self, key: slice) -> "Mapped[Made]": ...
    def __getitem__(self, key: int | slice) -> "Made | Mapped[Made]":
        return Mapped(self._make, self._items[key]) if isinstance(key, slice) else self._make(self._items[key])

    def __iter__(self) -> Iterator[Made]:
        return map(self._make, self._items)


def items_at(whole: Sequence[Item], numbers: Iterable[int]) -> Iterator[Item]:
    """Yield the items of a sequence at some places; those of a file are read without opening it for each."""
    return whole.at(numbers) if isinstance(whole, RecordFile) else (whole[number] for number in numbers)


def are_equal(one: Sequence[Any], other: object) -> bool:
    """Tell whether two sequences hold equal items."""
    if not isinstance(other, Sequence) or isinstance(other, str) or len(one) != len(other):
        return False
    return all(mine == its for mine, its in zip(one, other, strict=True))


def cells_of(data: bytes, names: Sequence[str], path: Path, number: int) -> dict[str, str]:
    """Return the cells of a record of a CSV file by column.

    Args:
        data: The record.
        names: The columns.
        path: The file, and the number of the record, from 1, as errors name them.
        number: See `path`.

    Raises:
        DataError: It is no CSV in UTF-8, or has too many or too few cells.
    """
    rows = _parsed(data, path)
    if len(rows) != 1 or len(rows[0]) != len(names):
        raise DataError(f"each row needs a cell for each column: {path} row {number} has not; correct the row")
    return dict(zip(names, rows[0], strict=True))


def columns_of(data: bytes, path: Path, wanted: Sequence[str]) -> list[str]:
    """Return the names in the first record of a CSV file.

    Raises:
        DataError: It is no CSV in UTF-8, or a wanted column is missing.
    """
    names = next(iter(_parsed(data.removeprefix(b"\xef\xbb\xbf"), path)), [])
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(f"{path} needs the columns {','.join(wanted)}: {missing[0]} is missing; add it")
    return names


def _parsed(data: bytes, path: Path) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(data.decode(), newline=""), strict=True) if row]
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} must be a CSV file in UTF-8: {error}; restore the file") from None


def spread(numbers: Sequence[int] | Numbers, most: int) -> Numbers:
    """Return at most so many of some numbers, evenly spaced; all of them where there are no more."""
    some = np.asarray(numbers, np.int64)
    return some if len(some) <= most else some[np.arange(most) * len(some) // most]


class Names:
    """Where names stand in a long list, as hashes: 16 bytes a name."""

    def __init__(self, names: Iterable[str]) -> None:
        hashes = np.fromiter((_hash(name) for name in names), np.uint64)
        self._order: Numbers = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def places(self, name: str) -> list[int]:
        """Return the places where a name may stand, in order; the caller looks whether it does."""
        wanted = np.uint64(_hash(name))
        start, end = np.searchsorted(self._hashes, wanted, "left"), np.searchsorted(self._hashes, wanted, "right")
        return sorted(self._order[start:end].tolist())


class Distinct:
    """Tells whether names that are seen one after the other may repeat, whatever their capitals: 8 bytes a name."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def see(self, name: str) -> None:
        """Take one name."""
        self._hashes.append(_hash(folded(name)))

    @property
    def may_repeat(self) -> bool:
        """Whether two of the names may be the same; if not, they are certainly not."""
        hashes = np.sort(np.frombuffer(self._hashes, np.uint64)) if self._hashes else np.zeros(0, np.uint64)
        return bool((hashes[1:] == hashes[:-1]).any())


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


class Spool:
    """Values of JSON that wait on the disk until they are written elsewhere, in order: 8 bytes of memory for each."""

    def __init__(self, folder: Path) -> None:
        """Take the folder in which a file without a name is made."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `__exit__` closes it
        self._starts = array("q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def add(self, value: Any) -> None:
        """Take a value, before any is read."""
        self._starts.append(self._starts[-1] + self._file.write(json.dumps(value, ensure_ascii=False).encode()))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[Any]:
        return self.at(range(len(self)))

    def at(self, numbers: Iterable[int]) -> Iterator[Any]:
        """Yield the values at some places."""
        for number in numbers:
            start, end = self._starts[number], self._starts[number + 1]
            self._file.seek(start)
            yield json.loads(self._file.read(end - start))
