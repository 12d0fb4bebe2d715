"""A folder that holds one thing: it is claimed before work starts, locked during the work, and refused to other work.

One JSON file of the folder says what it holds: the `identity`, which is everything that its results depend on
(`knobs.identity_of` and digests of what was read), and, for readers, more such as the versions of packages. Work with
the same identity continues where a killed process stopped; any other identity is refused in one line.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import digest_of_file, make_folder, read_json, versions, write_json
from diffaug.errors import ConfigError, DataError
from diffaug.names import without_links
from diffaug.reading import read_typed

if TYPE_CHECKING:
    from filelock import BaseFileLock

FORMAT = 2  # of the file; an older one is refused
LOCK = ".lock"
SHARE_LOCK = ".lock-{}"  # of one of several processes that share a folder, by its share, such as 0-3
STARTING = 20.0  # seconds that a process waits for others that begin to share the folder
FILES = "files.json"  # digests of the files of a finished folder
OF_WEIGHTS = re.compile(r"\.tmp[A-Za-z0-9]{6}")  # what safetensors writes before it takes the name that it was given
PASSING = (".html", ".checkpoint")  # files that may come and go
KINDS = {  # the file that a folder of each kind has; those that hold files of others come first
    "digests.json": "a model",
    "fit.json": "an unfinished model",
    "study.json": "a study",
    "manifest.jsonl": "a synthetic set",
    "cases.csv": "a data set",
}


@dataclass(frozen=True)
class Contents:
    """What a folder is to hold.

    Attributes:
        kind: What it is, as messages name it, such as `synthetic set`.
        identity: All that its results depend on, as JSON values.
        file: The JSON file that says so.
        about: What else the file says; it may change from call to call.
        late: Names of the identity that may be added to a folder that was made without them.
        beside: Names of files that may be there before the folder is claimed.
        preset_of: Returns the name of the preset that an identity has the settings of; empty where it has none.
    """

    kind: str
    identity: Mapping[str, Any]
    file: str
    about: Mapping[str, Any] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    preset_of: Callable[[Mapping[str, Any]], str] = lambda identity: ""


def kind_of(folder: Path) -> str:
    """Return what a place holds, such as `is a data set` in the words of a message; empty where no file tells."""
    if not folder.is_dir():
        return "is a file" if folder.exists() else "does not exist"
    return next((f"is {kind}" for file, kind in KINDS.items() if (folder / file).is_file()), "")


def read_contents(folder: Path, file: str) -> dict[str, Any] | None:
    """Return the values of the JSON file of a folder; None if there is no such file.

    Raises:
        ConfigError: Another version of diffaug wrote the file.
        DataError: The file is not JSON, or a link leads out of the folder.
    """
    path = folder / file
    if not path.is_file():
        return None
    without_links(folder)
    try:
        values = read_json(path)
    except DataError as error:
        raise DataError(
            f"{file} says what a folder holds, and is damaged: {error}; if nobody has a copy, remove the folder and "
            "make it again"
        ) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("identity"), dict):
        raise ConfigError(
            f"a run folder is read and continued by the version that made it: {path} is of another version of diffaug; "
            "run its stage again in another folder"
        )
    return values


def contents_of(folder: Path, file: str) -> dict[str, Any]:
    """Return what the file of a folder says.

    Raises:
        ConfigError: An older version of diffaug wrote it.
        DataError: There is none, or it is not JSON.
    """
    found = read_contents(folder, file)
    if found is None:
        raise DataError(
            f"{file} says what a folder holds: {folder} has none; check the path, or run the stage "
            "that makes the folder"
        )
    return found


def holds(folder: Path, contents: Contents) -> bool:
    """Return whether a folder was claimed for the same thing; False if it is new.

    Raises:
        ConfigError: The folder was claimed for something else, or holds other files.
    """
    if is_same(folder, contents):
        return True
    if others := _others(folder, contents):
        if is_same(folder, contents):  # another process claimed it between the two looks
            return True
        raise ConfigError(
            f"a {contents.kind} needs a new or empty folder, or its own: {folder} holds {others[0]}, and no "
            f"{contents.file}; choose another folder"
        )
    return False


def is_same(folder: Path, contents: Contents, named: Path | None = None) -> bool:
    """Tell whether the file of a folder, which may hold other things too, is there and says the same.

    Args:
        folder: Holds the file.
        contents: What it must say.
        named: What messages name instead of the folder.

    Raises:
        ConfigError: It says something else.
    """
    old = read_contents(folder, contents.file)
    if old is None:
        return False
    before, late = flat(old["identity"]), {name for name in contents.late if not old["identity"].get(name)}
    wanted = flat(contents.identity)
    others = [name for name in sorted({*before, *wanted}) if before.get(name) != wanted.get(name)]
    if others := [name for name in others if name.split(".")[0] not in late]:
        name, more = others[0], f", and {len(others) - 1} more" if len(others) > 1 else ""
        settings = f"{name.removeprefix('config.')} = {_short(before.get(name))}, not {_short(wanted.get(name))}{more}"
        made = _made_with(contents.preset_of(old["identity"]), contents.preset_of(contents.identity), settings)
        raise ConfigError(
            f"a folder holds one {contents.kind}: {named or folder} was made {made}; choose another folder, or go back "
            "to its settings"
        )
    return True


def _made_with(preset: str, wanted: str, settings: str) -> str:
    """Return what a folder was made with: settings that differ from the wanted ones, behind their preset if it does."""
    if preset == wanted:
        return f"with {settings}"
    if not preset:
        return f"without the preset {wanted} ({settings})"
    return f"with the preset {preset}{f', not {wanted}' if wanted else ''} ({settings})"


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names; an empty group is a value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if value and isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def claim(folder: Path, contents: Contents) -> None:
    """Make a folder and write what it holds, or check that it was claimed for the same thing.

    Raises:
        ConfigError: The folder was claimed for something else, holds other files, or cannot be written to.
    """
    holds(folder, contents)
    write_contents(make_folder(folder), contents)


def write_contents(folder: Path, contents: Contents) -> None:
    """Write the file that says what a folder, which is there, holds."""
    values = {"format": FORMAT, "kind": contents.kind, "identity": dict(contents.identity), "versions": versions()}
    write_json(folder / contents.file, {**contents.about, **values})


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, so that no other process works in it; a killed process lets it go.

    The system keeps the lock, on a shared folder that of the server, so a process of another machine counts as one of
    this machine does. On a file system without locks nothing is held.

    Raises:
        ConfigError: Another process holds the folder, or a share of it.
    """
    lock = _lock(folder)
    try:
        for share, path in _shares(folder):
            if _is_locked(path):
                raise _in_use(f"share {share} of {folder}", "wait until it is made")
            path.unlink(missing_ok=True)
        if lock.is_locked:
            _remove_partial(folder)
        yield
    finally:
        lock.release()


def _lock(folder: Path, name: str = LOCK, wait: float = 0.0) -> "BaseFileLock":
    """Return a lock of a folder, which is made. It is taken, except on a file system without locks.

    Raises:
        ConfigError: Another process has it, even after so many seconds.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(make_folder(folder) / name)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise _in_use(str(folder), "wait for the other") from None
    except (NotImplementedError, OSError):
        pass
    return lock


def _in_use(what: str, remedy: str) -> ConfigError:
    return ConfigError(f"one process works in a folder at a time: {what} is in use; {remedy}, or choose another folder")


def _is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock of a file."""
    try:
        _lock(path.parent, path.name).release()
    except ConfigError:
        return True
    return False


def in_use(folder: Path) -> bool:
    """Tell whether a process works in a folder, or in a share of it. Looking makes nothing."""
    locks = [folder / LOCK, *(path for _, path in _shares(folder))]
    return any(path.is_file() and _is_locked(path) for path in locks)


def _shares(folder: Path) -> list[tuple[str, Path]]:
    """Return the shares that processes hold or held, such as 0/3, with the files of their locks."""
    before = SHARE_LOCK.format("")
    return [(path.name.removeprefix(before).replace("-", "/"), path) for path in sorted(folder.glob(f"{before}*-*"))]


@contextmanager
def _share_held(folder: Path, contents: Contents, share: str) -> Iterator[None]:
    """Claim a folder and hold one share of it for the block; other shares of as many may be held at the same time.

    The folder itself is held only while its shares are looked at, so a share begins while no process holds the whole.

    Raises:
        ConfigError: The share, the folder, or a share of another number is held.
    """
    whole = _lock(folder, wait=STARTING)
    try:
        claim(folder, contents)
        of = share.partition("/")[2]
        for other, path in _shares(folder):
            if other.partition("/")[2] != of and _is_locked(path):
                raise _in_use(f"share {other} of {folder}", f"take a share of {other.partition('/')[2]}")
        try:
            own = _lock(folder, SHARE_LOCK.format(share.replace("/", "-")))
        except ConfigError:
            raise _in_use(f"share {share} of {folder}", "take another share") from None
    finally:
        whole.release()
    try:
        yield
    finally:
        own.release()


def finished_files(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's files; hidden ones, reports and checkpoints do not count."""
    paths = [path for path in sorted(folder.rglob("[!.]*")) if path.is_file() and path.suffix not in PASSING]
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in paths if path != folder / FILES}


def altered_files(folder: Path, noted: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return when files of a finished folder were altered, in ns; files that were removed do not count.

    Args:
        folder: The folder.
        noted: Digests when it was finished; None reads those that `note_files` wrote, if it did.

    Raises:
        DataError: The file that holds the digests is damaged.
    """
    if noted is None:
        if not (folder / FILES).is_file():
            return {}
        try:
            noted = read_typed(folder / FILES, dict[str, str])
        except DataError as error:
            raise DataError(f"{error}; or remove it, and the files of the folder are not compared") from None
    found = finished_files(folder) if noted else {}
    return {name: _written(folder / name) for name, one in noted.items() if found.get(name, one) != one}


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def note_files(folder: Path, altered: Mapping[str, int]) -> None:
    """Write the digests of a finished folder's files.

    Args:
        folder: The folder.
        altered: What `altered_files` told before the work that should have made these files again.

    Raises:
        DataError: One of them was not written again.
    """
    left = [name for name, when in altered.items() if _written(folder / name) == when]
    if left:
        raise DataError(
            f"files of a finished folder stay as they were written: {folder / left[0]} was altered; restore it, or "
            "remove it, then run the same command again"
        )
    write_json(folder / FILES, finished_files(folder))


def _remove_partial(folder: Path) -> None:
    """Remove the half-written files of killed processes: whoever holds the folder has none yet."""
    for path in folder.rglob(".*"):
        if (path.suffix == ".partial" or OF_WEIGHTS.fullmatch(path.name)) and path.is_file():
            with suppress(OSError):
                path.unlink()


@contextmanager
def claimed(folder: Path, contents: Contents, share: str = "") -> Iterator[None]:
    """Claim a folder and hold it for the block.

    Args:
        folder: The folder, which is made.
        contents: What it is to hold.
        share: Hold this share alone, such as 0/3, beside processes that hold others; empty for the whole folder.

    Raises:
        ConfigError: The folder was claimed for something else, holds other files, cannot be written to, or is in use.
    """
    holds(folder, contents)
    if share:
        with _share_held(folder, contents, share):
            yield
        return
    with held(folder):
        claim(folder, contents)
        yield


def _others(folder: Path, contents: Contents) -> list[str]:
    """Return the names in a folder that have nothing to do with what is claimed, in order."""
    if not folder.is_dir():
        return []
    known = {LOCK, contents.file, *contents.beside}
    return sorted(path.name for path in folder.iterdir() if path.name not in known and path.suffix != ".partial")


def _short(value: Any) -> str:
    """Return a value as a message shows it: 60 characters at most."""
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
