"""Bounded readers of JSON, JSON lines, YAML, CSV and arrays: the one place where files of values are opened.

What is read may be damaged, or come from anybody. Every reader takes plain files alone, has bounds on size, depth,
aliases and lengths of numbers, and answers what it cannot take with one line. `typed` says what a value must be.
"""

import csv
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from diffaug.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Typed = TypeVar("Typed")
LARGEST = 256 * 2**20  # bytes of a file of text, or of the arrays of an .npz file when unpacked
LARGEST_YAML = 2**20  # bytes
LARGEST_FILE = 2**30  # bytes of a file that is no text: a picture, or weights without a header that says more
LARGEST_HEADER = 10**8  # bytes of the header of weights, as safetensors has it
MOST_VALUES = 16_000_000  # of a file of JSON or JSON lines; a quarter of it of CSV: Python needs 70 or 250 bytes each
MOST_LINES = 1_000_000  # of a file of JSON lines that is read as a whole
MOST_KEYS = 3_000_000  # of JSON or JSON lines: Python needs 200 bytes for each, and pydantic 400 for a wrong value
MOST_ERRORS = 1000  # that are put into words, to say the first
MOST_NODES = 100_000  # of a YAML file, what aliases stand for counted each time
DEEPEST = 100  # brackets inside each other; json and yaml themselves end at some hundreds
LONGEST_NUMBER = 40  # digits of a whole number: one of 128 bits has 39
LONG_NUMBER = re.compile(rb"\d{41}")
LONG_YAML_NUMBER = re.compile(r"[-+]?(?=.{40})(0x[0-9a-fA-F_]+|0b[01_]+|[0-9_:]+)")
KEY = re.compile(rb'"\s*:')
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """Read a file, which is no device, no pipe and not too large.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        DataError: It is missing, cannot be read, is something else, or is larger.
    """
    try:
        return _bytes_of(path, most)
    except ValueError as error:
        raise DataError(f"a file must be readable: {path}: {error}; restore it, or run its stage again") from None


def size_of(path: Path) -> int:
    """Return the bytes of a plain file; what reads it otherwise might wait for ever.

    Raises:
        DataError: It is missing, or a device, a pipe or a folder.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"a file must be readable: {path}: {error.strerror}; restore it") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"a file must be readable: {path} is a device, a pipe or a folder; replace it")
    return status.st_size


def check_size(path: Path, size: int) -> None:
    """Refuse a file that is larger than others of its kind: weights are as long as their header says.

    Raises:
        DataError: It is.
    """
    if size <= LARGEST_FILE:
        return
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if path.suffix == ".safetensors" and length <= LARGEST_HEADER else b""
    try:
        parts = typed(dict[str, dict[str, Any]], json_from_bytes(header), path)
        ends = [part["data_offsets"][1] for name, part in parts.items() if name != "__metadata__"]
        if 8 + length + max(ends) == size:
            return
    except (ValueError, DataError, LookupError, TypeError):
        pass
    raise DataError(f"a file of this kind has {LARGEST_FILE:,} bytes at most: {path} has {size:,}; replace the file")


def _bytes_of(path: Path, most: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        ValueError: Saying in words why they cannot be had.
    """
    try:
        with opened_at_once(path) as file:
            data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if data is None or len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def opened_plain(path: Path) -> io.BufferedReader:
    """Open a file of any size to read bytes, which is no device and no pipe; the caller closes it.

    Raises:
        DataError: It is missing, cannot be read, or is something else.
    """
    try:
        return opened_at_once(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"a file must be readable: {path}: {reason}; restore it, or run its stage again") from None


def opened_at_once(path: Path) -> io.BufferedReader:
    """Open a plain file to read bytes, as `opened_plain` does, with the errors of the system.

    Raises:
        OSError: It is missing, or cannot be read.
        ValueError: It is a device, a pipe or a folder.
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # of a pipe that nobody writes into

    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is a device, a pipe or a folder")
    return file


def read_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Return the tensors of a safetensors file by their names, and what its header says beside them.

    Raises:
        OSError: It is missing, or cannot be read.
        ValueError: It is no safetensors, or a device, a pipe or a folder.
    """
    from safetensors import SafetensorError, safe_open

    opened_at_once(path).close()  # safetensors opens it by its name, and would wait for who writes into a pipe
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def json_from_bytes(data: bytes) -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: It is not JSON, or is too deep, too large or holds a number of too many digits.
    """
    _check_amounts(data)
    try:
        text = data.decode()
        value = json.loads(text, parse_int=_whole_number) if LONG_NUMBER.search(data) else json.loads(text)
    except RecursionError:
        raise ValueError(f"brackets are more than {DEEPEST} deep") from None
    if data.count(b"[") + data.count(b"{") > DEEPEST and _is_deep(value):
        raise ValueError(f"brackets are more than {DEEPEST} deep")
    if HALF_CHARACTER.search(data):
        json.dumps(value, ensure_ascii=False).encode()  # a ValueError where it is no text
    return value


def _check_amounts(data: bytes) -> None:
    """Refuse JSON text of more values than fit into memory, before it is taken apart.

    Raises:
        ValueError: It has more.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    if data.count(b":") > MOST_KEYS and sum(1 for _ in KEY.finditer(data)) > MOST_KEYS:
        raise ValueError(f"more than {MOST_KEYS:,} keys")


def _whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _is_deep(value: Any) -> bool:
    """Tell whether lists and dictionaries lie more than DEEPEST deep inside each other."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [one for values in inner if isinstance(values, Iterable) for one in values if type(one) in (dict, list)]
        if not level:
            return False
    return True


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing, too large or too deep, or is not JSON.
    """
    if not path.exists():
        raise DataError(f"a JSON file is needed: {path} does not exist; run the stage that writes it")
    try:
        return json_from_bytes(_bytes_of(path, LARGEST))
    except ValueError as error:
        raise DataError(f"{path} must be JSON: {error}; restore the file or run its stage again") from None


def json_of_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """Return the object that a line of a file of JSON lines holds.

    Raises:
        DataError: It is not a JSON object; the error names the file and the number of the line, from 1.
    """
    try:
        value = json_from_bytes(line)
    except ValueError:
        raise DataError(f"{path} line {number} must be JSON; restore the file, or run its stage again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} line {number} must be a JSON object; restore the file, or run its stage again")
    return value


def read_jsonl(path: Path, torn: bool = True) -> list[dict[str, Any]]:
    """Read JSON lines; there are none where the file is missing.

    Args:
        path: The file.
        torn: Whether lines are appended to the file, so that a kill may cut off the last one, which is dropped.

    Raises:
        DataError: A line is not a JSON object, or the file is too large, or holds too many lines, keys or values.
    """
    data = read_bytes(path) if path.exists() else b""
    try:
        if data.count(b"\n") > MOST_LINES:
            raise ValueError(f"more than {MOST_LINES:,} lines")
        _check_amounts(data)
    except ValueError as error:
        raise DataError(f"{path} must be JSON lines: {error}; restore the file, or run its stage again") from None
    lines = data.removesuffix(b"\n").split(b"\n") if path.exists() else []  # prompts may hold U+2028
    if torn and lines and not _is_json(lines[-1]):
        del lines[-1]
    return [json_of_line(line, path, number) for number, line in enumerate(lines, start=1)]


def _is_json(line: bytes) -> bool:
    try:
        json_from_bytes(line)
    except ValueError:
        return False
    return True


@cache
def _validator(kind: Any) -> SchemaValidator:
    return SchemaValidator(_failing_fast(TypeAdapter(kind).core_schema))


def _failing_fast(schema: Any) -> Any:
    """Return a schema of pydantic whose lists end at their first wrong value, and do not collect millions of errors."""
    if isinstance(schema, list):
        return [_failing_fast(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    ends = {"fail_fast": True} if schema.get("type") in ("list", "tuple", "set", "frozenset") else {}
    return {name: _failing_fast(part) for name, part in schema.items()} | ends


def typed(kind: type[Typed], value: Any, where: object, fix: str = "restore the file, or run its stage again") -> Typed:
    """Return a value that came out of a file as what it must be.

    Args:
        kind: Such as a dataclass, or `dict[str, float]`.
        value: Of JSON or YAML.
        where: What the error names.
        fix: What to do about another value.

    Raises:
        DataError: It is something else.
    """
    try:
        found: Typed = _validator(kind).validate_python(value)  # type: ignore[arg-type] # types can be hashed
        return found
    except ValidationError as error:
        raise DataError(f"only diffaug writes {where}: {_words_of(error)}; {fix}") from None


def _words_of(error: ValidationError) -> str:
    """Return where the first wrong value is, and what it must be."""
    if error.error_count() > MOST_ERRORS:
        return f"{error.error_count():,} of its values have another type"
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))[:80]
    return f"{place + ': ' if place else ''}{first['msg'][:200]}"


def read_typed(path: Path, kind: type[Typed], fix: str = "restore the file, or run its stage again") -> Typed:
    """Read a JSON file as what it must be; see `typed`.

    Raises:
        DataError: The file is missing, is not JSON, or holds something else.
    """
    return typed(kind, read_json(path), path, fix)


def read_kept(path: Path, kind: type[Typed]) -> Typed | None:
    """Read what a JSON file keeps so that it need not be made again; None where it is missing, damaged or of old."""
    try:
        return read_typed(path, kind)
    except DataError:
        return None


def check_json_of(folder: Path) -> None:
    """Read every JSON file of a folder, before a library reads them that has no bounds.

    Raises:
        DataError: One is no JSON, too large or too deep.
    """
    for path in sorted(folder.glob("*.json")):
        read_json(path)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        DataError: It cannot be read, is no YAML, is too deep, or its aliases stand for too much.
    """
    try:
        data = _bytes_of(path, LARGEST_YAML)
        _check_yaml(data)
        return yaml.safe_load(data.decode())
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or "too deep"
        raise DataError(f"{path} must be YAML in UTF-8: {reason}; correct the file") from None


def _check_yaml(data: bytes) -> None:
    """Refuse YAML that is too deep, or whose aliases stand for too much: nothing is built of it before.

    Raises:
        ValueError: It is.
    """
    open_ones: list[tuple[str | None, int]] = []  # anchors of what is begun, and the nodes before each
    weights: dict[str, int] = {}
    count = 0
    for event in yaml.parse(data.decode(), Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in weights:
                raise ValueError(f"the alias {event.anchor} stands for nothing, or for itself")
            count += weights[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_ones.pop()
            weights |= {anchor: count - before} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            weights |= {event.anchor: 1} if event.anchor else {}
            if event.implicit[0] and LONG_YAML_NUMBER.fullmatch(event.value):
                raise ValueError(f"a number has {len(event.value)} digits")
        if len(open_ones) > DEEPEST or count > MOST_NODES:
            raise ValueError(f"it is more than {DEEPEST} deep, or stands for more than {MOST_NODES:,} values")


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file in UTF-8.

    Args:
        path: The file; its first line names the columns.
        columns: The columns that it must have.

    Raises:
        DataError: The file is missing or is not CSV, a column is missing, or a row has too many or too few cells.
    """
    try:
        data = _bytes_of(path, LARGEST)
        if data.count(b",") + data.count(b"\n") > MOST_VALUES // 4:
            raise ValueError(f"more than {MOST_VALUES // 4:,} cells")
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        names = list(reader.fieldnames or ())
        rows = list(reader)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} must be a CSV file in UTF-8: {error}; restore the file") from None
    missing = [name for name in columns if name not in names]
    if missing:
        raise DataError(f"{path} needs the columns {','.join(columns)}: {missing[0]} is missing; add it")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"each row needs a cell for each column: {path} row {number} has not; correct the row")
    return rows


def read_arrays(path: Path, names: Sequence[str], most: int = LARGEST) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers from an .npz file, whose headers are checked before memory is taken.

    Args:
        path: The file.
        names: The arrays that it must have.
        most: Bytes that all of them may have when unpacked.

    Raises:
        DataError: It is no such file, lacks an array, or holds more.
    """
    try:
        data = _bytes_of(path, most)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in names]
            if sum(member.file_size for member in members) > most:
                raise ValueError(f"its arrays have more than {most:,} bytes")
            return {name: _array_of(archive.read(member)) for name, member in zip(names, members, strict=True)}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} must be a whole .npz file: {error}; run the stage that writes it again") from None


def _array_of(data: bytes) -> NDArray[Any]:
    """Return the array of the bytes of an .npy file.

    Raises:
        ValueError: The header does not fit the bytes, or asks for Python objects.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"version {version} of the format is unknown")
    shape, _, dtype = read_header[version](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {shape} values of {dtype} is not what the file holds")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
