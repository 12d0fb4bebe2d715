"""Files that are either complete or absent (JSON, JSON lines, CSV, text), and digests of files and values.

Knows nothing of images, models or stages.
"""

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffaug.errors import ConfigError, DataError

PathLike = str | os.PathLike[str]  # what a public function takes for a path
SETTLED = 1_000_000_000  # ns; a file that changed later may change again without a new time of change
PACKAGES = ("diffaug", "torch", "diffusers", "transformers", "monai", "numpy", "scipy", "scikit-image", "pillow")


def make_folder(path: Path) -> Path:
    """Create a folder that files can be written into, and return it.

    Raises:
        ConfigError: The folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"an output folder must be creatable: {path}: {reason}; choose another folder") from None
    if not os.access(path, os.W_OK):
        raise ConfigError(f"an output folder must be writable: {path} is not; choose another folder")
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` that takes its place when the block ends, and is removed when the block fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically: it is either complete or absent."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"a JSON file is needed: {path} does not exist; run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be JSON: {error}; restore the file or run its stage again") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, *rows: Mapping[str, Any]) -> None:
    """Append JSON objects, a line each."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line cut off by a kill is dropped.

    Raises:
        DataError: A line other than the last is not JSON.
    """
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []  # prompts may hold U+2028
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line.decode()))
        except (json.JSONDecodeError, UnicodeDecodeError):
            if number < len(lines):
                raise DataError(f"{path} line {number} must be JSON; restore the file") from None
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV with the given columns, atomically."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file in UTF-8.

    Args:
        path: The file; its first line names the columns.
        columns: The columns that it must have.

    Raises:
        DataError: The file is missing or is not CSV, a column is missing, or a row has too many or too few cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} must be a CSV file in UTF-8: {reason}; restore the file") from None
    missing = [name for name in columns if name not in names]
    if missing:
        raise DataError(f"{path} needs the columns {','.join(columns)}: {missing[0]} is missing; add it")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"each row needs a cell for each column: {path} row {number} has not; correct the row")
    return rows


def digest_of_bytes(data: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's bytes, which may not fit into memory.

    A process reads an unchanged file once: the digest is kept by path, size, inode and times of change.
    """
    status = path.stat()
    if time.time_ns() - status.st_mtime_ns < SETTLED:
        return _read_digest(path)
    return _kept_digest(path.absolute(), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _read_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@lru_cache(maxsize=100_000)
def _kept_digest(path: Path, *_status: int) -> str:
    return _read_digest(path)


def digest_of_value(value: Any) -> str:
    """Return the digest of a JSON value; the order of keys does not matter."""
    return digest_of_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def digest_of_folder(folder: Path, patterns: Sequence[str] = ("**/*",)) -> str:
    """Return the digest of the names and bytes of a folder's files, in name order."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return digest_of_value({path.relative_to(folder).as_posix(): digest_of_file(path) for path in files})


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            numbers[package] = "absent"
    return numbers
