"""Files that are either complete or absent (JSON, JSON lines, CSV, text), and digests of files and values.

What is written is on the disk before it takes its place, so a power cut leaves a file whole or absent, too. The readers
are those of `reading`. Knows nothing of images, models or stages.
"""

import csv
import errno
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.errors import ConfigError, DiffaugError, StorageError
from diffaug.names import ON_WINDOWS
from diffaug.reading import check_size, opened_plain
from diffaug.reading import read_csv as read_csv  # noqa: PLC0414 - who writes files also reads them
from diffaug.reading import read_json as read_json  # noqa: PLC0414 - who writes files also reads them
from diffaug.reading import read_jsonl as read_jsonl  # noqa: PLC0414 - who writes files also reads them

if TYPE_CHECKING:
    from torch import Tensor

PathLike = str | os.PathLike[str]  # what a public function takes for a path
SETTLED = 1_000_000_000  # ns; a file that changed later may change again without a new time of change
PACKAGES = ("diffaug", "torch", "diffusers", "transformers", "monai", "numpy", "scipy", "scikit-image", "pillow")
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # of the system, as Rust writes it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Fields of JSON and columns of tables that tell how long something took: all in which two runs of one config differ.
TIMES = ("seconds", "seconds_per_kept", "fit_seconds", "generate_seconds", "minutes", "ms")
DATE = "SOURCE_DATE_EPOCH"  # seconds since 1970, https://reproducible-builds.org/specs/source-date-epoch/


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


def storage_error(path: object, error: OSError) -> StorageError:
    """Return what to tell of a file that could not be read or written."""
    reason = error.strerror or str(error)
    fix = "free some space" if error.errno in FULL else "make it so, or choose another folder"
    return StorageError(
        f"files must be readable and writable: {path}: {reason}; {fix}, then run the same command again"
    )


@contextmanager
def storing(path: Path | None = None) -> Iterator[None]:
    """Turn an error of the system, in a block that writes, into one line; libraries in Rust have errors of their own.

    Args:
        path: What the line names; None for the file that the error names.

    Raises:
        StorageError: The disk is full, or a file cannot be written.
    """
    try:
        yield
    except (BrokenPipeError, DiffaugError):
        raise
    except OSError as error:
        raise storage_error(path or error.filename or "a file", error) from None
    except Exception as error:
        found = OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise storage_error(path or "a file", OSError(number, os.strerror(number))) from None


def sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    if ON_WINDOWS and path.is_dir():  # it opens no folders, and syncs what may be written alone
        return
    descriptor = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders below a folder, and the folder itself, are on the disk."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                sync(path)
        sync(Path(place))


@contextmanager
def atomic_path(path: Path, settled: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` that takes its place when the block ends, and is removed when the block fails.

    Args:
        path: The file to be written.
        settled: Whether the new file is on the disk before it takes its place. Without, whoever writes many files
            calls `sync_tree` once, before a file that counts them as written.

    Raises:
        StorageError: The disk is full, or the file cannot be written.
    """
    name = path.name if len(path.name.encode()) <= 200 else digest_of_bytes(path.name.encode())
    partial = path.with_name(f".{name}.{os.getpid()}.partial")
    try:
        with storing(path):
            yield partial
            if settled:
                sync(partial)
            partial.replace(path)
            if settled:
                sync(path.parent)
                _remove_left(path.parent, name)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", about: dict[str, str] | None = None) -> None:
    """Write tensors by their names as safetensors, atomically, and what the header says beside them."""
    from safetensors.torch import save_file

    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as partial:
        save_file(values, partial, about)
        make_readable(partial)


def make_readable(path: Path) -> None:
    """Let those read a file who may read any new one: safetensors makes files that only their owner may read."""
    path.chmod(0o666 & ~_umask())


@cache
def _umask() -> int:
    """Return what new files are not permitted; it can only be asked for by setting it, which happens once a process."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _remove_left(folder: Path, name: str) -> None:
    """Remove what processes that have ended left of a file, which could not be removed on a disk that was read-only."""
    for left in folder.glob(f".{glob.escape(name)}.*.partial"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and left.is_file() and not _is_running(int(number)):
            with suppress(OSError):
                left.unlink()


def _is_running(process: int) -> bool:
    """Tell whether there is a process of this number; where that cannot be asked, there may be."""
    if ON_WINDOWS:  # whose `os.kill` would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically: it is either complete or absent."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_long_json(path: Path, value: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object whose lists may be iterators, atomically; of an iterator no more than one item is held.

    The text is that of `json.dumps` with `ensure_ascii=False` and lists in their place, and ends with a line break.
    """
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_pieces(value, indent))


def _pieces(value: Mapping[str, Any], indent: int | None) -> Iterator[str]:
    """Yield the text of a JSON object, part by part."""

    def line(depth: int) -> str:
        return "" if indent is None else "\n" + " " * indent * depth

    def text(item: Any, depth: int) -> str:
        return json.dumps(item, indent=indent, ensure_ascii=False).replace("\n", line(depth) or "\n")

    comma = "," if indent is not None else ", "
    for number, (name, item) in enumerate(value.items()):
        yield ("{" if number == 0 else comma) + line(1) + text(name, 1) + ": "
        if not isinstance(item, Iterator):
            yield text(item, 1)
            continue
        count = 0
        for count, each in enumerate(item, start=1):
            yield ("[" if count == 1 else comma) + line(2) + text(each, 2)
        yield line(1) + "]" if count else "[]"
    yield line(0) + "}\n" if value else "{}\n"


def jsonl_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one JSON object a line."""
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically; no more than one is held."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(jsonl_text([row]) for row in rows)


def append_jsonl(path: Path, *rows: Mapping[str, Any]) -> None:
    """Append JSON objects, a line each."""
    with storing(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV with the given columns, atomically."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def digest_of_bytes(data: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's bytes, which may not fit into memory.

    A process reads an unchanged file once: the digest is kept by path, size, inode and times of change.

    Raises:
        DataError: The file has more bytes than files of its kind have, so that its digest might take hours; or it is a
            device, a pipe or a folder.
    """
    status = path.stat()
    check_size(path, status.st_size)
    if time.time_ns() - status.st_mtime_ns < SETTLED:
        return _read_digest(path)
    return _kept_digest(str(path.absolute()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _read_digest(path: Path) -> str:
    with opened_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@lru_cache(maxsize=20_000)  # half a kilobyte each
def _kept_digest(path: str, *_status: int) -> str:
    return _read_digest(Path(path))


def digest_of_value(value: Any) -> str:
    """Return the digest of a JSON value; the order of keys does not matter."""
    return digest_of_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def digests_of_folder(folder: Path, patterns: Sequence[str] = ("**/*",)) -> dict[str, str]:
    """Return the digest of each of a folder's files, in name order."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in files}


def digest_of_folder(folder: Path, patterns: Sequence[str] = ("**/*",)) -> str:
    """Return the digest of the names and bytes of a folder's files, in name order."""
    return digest_of_value(digests_of_folder(folder, patterns))


def without_times(value: Any) -> Any:
    """Return a JSON value without the fields that tell how long something took, at any depth."""
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if name not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def date_of_writing() -> str:
    """Return the day that what is written now names, in UTC: that of SOURCE_DATE_EPOCH where it is set, else today.

    Raises:
        ConfigError: The variable is no number of seconds.
    """
    text = os.environ.get(DATE, "")
    try:
        moment = datetime.fromtimestamp(int(text), UTC) if text else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{DATE} is a number of seconds since 1970: it is {text[:40]!r}; correct it, or unset it"
        ) from None
    return moment.date().isoformat()


@cache
def digest_of_code() -> str:
    """Return the digest of the code of this package: of two states of one version, and of own changes."""
    return digest_of_folder(Path(__file__).parent, ("**/*.py",))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result, and the digest of diffaug's own code."""
    numbers = {"python": platform.python_version(), "code": digest_of_code()}
    for package in PACKAGES:
        try:
            numbers[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            numbers[package] = "absent"
    return numbers
