"""Where a synthetic set lies: in a folder that all workers see, or below a URL that fsspec writes to (s3://, ..).

At a URL nothing is locked and nothing renamed. A shard is made in a scratch folder with the same code as ever, then
uploaded: its pictures first, their digests next, and `rows.jsonl` last, which says that the shard is there. Whoever
resumes fetches a shard, compares it with its digests, and makes it again if it is damaged. The tables of the set are
written last, by the call that joins the shards.
"""

import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, make_folder
from diffaug.data.manifest import SUMMARY
from diffaug.errors import ConfigError, DiffaugError, StorageError
from diffaug.names import fault_of_path, shown
from diffaug.runfolder import LOCK, Contents, claim, claimed, holds
from diffaug.synthesis.plan import Plan
from diffaug.synthesis.shards import DIGESTS, ROWS, SECONDS, generate_shard, is_complete, shard_folder

INSTALL = "pip install 'diffaug[remote]'"
SCHEME = re.compile(r"[a-z][a-z0-9+.]+(?=://)")
Task = tuple[Callable[..., int], Plan, Any, int]  # a function of `pool.submit`, with what it takes


class Place(ABC):
    """Where a synthetic set lies.

    Attributes:
        folder: Where this process reads and writes it.
    """

    folder: Path

    @abstractmethod
    def holds(self, contents: Contents) -> bool:
        """Return whether it was claimed for the same set; raise ConfigError if for another."""

    @abstractmethod
    def claimed(self, contents: Contents, share: str = "") -> AbstractContextManager[None]:
        """Claim it, and hold it for the block as far as others can be kept out. See `runfolder.claimed`."""

    @abstractmethod
    def task(self, plan: Plan, shard: int) -> Task:
        """Return what makes a shard there and returns how many of its lesions were kept."""

    @abstractmethod
    def take(self, shard: int) -> Path:
        """Return the folder of a shard that a worker has made, with its rows."""

    @abstractmethod
    def gather(self, names: Iterable[str]) -> None:
        """Bring files of shards, by their paths in the set, into the folder."""

    @abstractmethod
    def shards(self) -> list[int]:
        """Return the shards that are there, in order."""

    @abstractmethod
    def is_finished(self) -> bool:
        """Tell whether the set was written."""

    @abstractmethod
    def remove(self, shard: int) -> None:
        """Remove a shard."""

    @abstractmethod
    def publish(self) -> None:
        """Put the tables in the folder where the set lies."""


def place_of(out: PathLike) -> Place:
    """Return the place that a path or a URL names.

    Raises:
        ConfigError: The URL is of a kind that fsspec does not know, or its library is not installed.
    """
    return Store(str(out)) if SCHEME.match(str(out)) else Folder(Path(out))


class Folder(Place):
    """A folder; one on a shared disk is that of all workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def holds(self, contents: Contents) -> bool:
        """See `Place`."""
        return holds(self.folder, contents)

    def claimed(self, contents: Contents, share: str = "") -> AbstractContextManager[None]:
        """See `Place`."""
        return claimed(self.folder, contents, share)

    def task(self, plan: Plan, shard: int) -> Task:
        """See `Place`."""
        return generate_shard, plan, self.folder, shard

    def take(self, shard: int) -> Path:
        """See `Place`.

        Raises:
            StorageError: The rows are not there.
        """
        folder = shard_folder(self.folder, shard)
        if not (folder / ROWS).is_file():
            raise StorageError(
                f"all workers must write to the same disk: a worker of another machine made {folder}, and this one has "
                "no such folder; choose a folder that all machines share"
            )
        return folder

    def gather(self, names: Iterable[str]) -> None:
        """See `Place`: they are there."""

    def shards(self) -> list[int]:
        """See `Place`."""
        return sorted(int(path.name) for path in (self.folder / "shards").glob("*") if path.name.isdecimal())

    def is_finished(self) -> bool:
        """See `Place`."""
        return (self.folder / SUMMARY).is_file()

    def remove(self, shard: int) -> None:
        """See `Place`."""
        shutil.rmtree(shard_folder(self.folder, shard))

    def publish(self) -> None:
        """See `Place`: they are there."""


class Store(Place):
    """A URL of an object store, or of anything else that fsspec writes to, with a folder here for its tables.

    Raises:
        ConfigError: fsspec does not know the kind of URL, or lacks a library for it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec

            options = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
            self.files, root = fsspec.url_to_fs(self.url, **options)
        except ImportError as error:
            raise ConfigError(f"{url} needs a library: {error}; install it: {INSTALL} for s3://") from None
        except ValueError as error:
            raise ConfigError(
                f"a URL must be of a kind that fsspec knows: {url}: {error}; use s3://, gs:// or a folder"
            ) from None
        self.root = root.rstrip("/")
        self.scratch = tempfile.TemporaryDirectory(prefix="diffaug-", ignore_cleanup_errors=True)
        self.folder = Path(self.scratch.name)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn what goes wrong on the way into one line; each library has errors of its own.

        Raises:
            StorageError: Something did.
        """
        try:
            yield
        except DiffaugError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StorageError(
                f"a URL must be readable and writable: {self.url}: {reason}; check its name and your credentials, then "
                "run the same command again"
            ) from None

    def holds(self, contents: Contents) -> bool:
        """See `Place`."""
        if self._fetch([contents.file]):
            return holds(self.folder, contents)
        if others := self._listed():
            if self._fetch([contents.file]):  # another process claimed it between the two looks
                return holds(self.folder, contents)
            raise ConfigError(
                f"a {contents.kind} needs an empty place, or its own: {self.url} holds {others[0]}, and no "
                f"{contents.file}; choose another"
            )
        return False

    @contextmanager
    def claimed(self, contents: Contents, share: str = "") -> Iterator[None]:
        """Claim it; nothing is locked, since object stores have no locks."""
        with self.scratch:
            self.holds(contents)
            claim(self.folder, contents)
            self._put([contents.file])
            yield

    def task(self, plan: Plan, shard: int) -> Task:
        """See `Place`."""
        return generate_shard_at, plan, self.url, shard

    def take(self, shard: int) -> Path:
        """See `Place`."""
        folder = shard_folder(self.folder, shard)
        names = [(folder / name).relative_to(self.folder).as_posix() for name in (SECONDS, ROWS)]
        if len(self._fetch(names)) < 2:
            raise StorageError(
                f"what a worker has uploaded must be readable: {self.url}/{names[1]} is not there; look whether "
                "somebody removes it, then run the same command again"
            )
        return folder

    def gather(self, names: Iterable[str]) -> None:
        """See `Place`."""
        self._fetch([name for name in names if not (self.folder / name).is_file()])

    def shards(self) -> list[int]:
        """See `Place`."""
        names = [name.split("/")[1] for name in self._listed() if name.startswith("shards/")]
        return sorted({int(name) for name in names if name.isdecimal()})

    def is_finished(self) -> bool:
        """See `Place`."""
        return bool(self._fetch([SUMMARY]))

    def remove(self, shard: int) -> None:
        """See `Place`."""
        self._remove([name for name in self._listed() if name.startswith(f"shards/{shard:05d}/")])

    def publish(self) -> None:
        """Upload the tables, the summary last."""
        names = [path.name for path in self.folder.iterdir() if path.is_file() and path.name != LOCK]
        self._put([name for name in names if name != SUMMARY])
        self._put([SUMMARY])

    def complete(self, plan: Plan, shard: int) -> int:
        """Fetch a shard, make and upload it unless it is complete, and return how many of its lesions were kept."""
        with self.scratch:
            folder, below = shard_folder(self.folder, shard), f"shards/{shard:05d}/"
            there = [name for name in self._listed() if name.startswith(below)]
            if f"{below}{ROWS}" in there:
                self._fetch(there)
            was_complete = is_complete(folder)
            kept = generate_shard(plan, self.folder, shard)
            if not was_complete:
                made = sorted(path.relative_to(self.folder).as_posix() for path in folder.rglob("*") if path.is_file())
                last = [f"{below}{DIGESTS}", f"{below}{ROWS}"]
                self._remove([name for name in there if name not in made])  # of a shard that was damaged
                self._put([name for name in made if name not in last])
                for name in last:
                    self._put([name])
            return kept

    def _listed(self) -> list[str]:
        """Return the paths of all files below the URL, in order."""
        with self._reaching():
            self.files.invalidate_cache()
            return sorted(name[len(self.root) :].lstrip("/") for name in self.files.find(self.root))

    def _fetch(self, names: Sequence[str]) -> list[str]:
        """Bring files into the folder; return the names of those that are there.

        Raises:
            StorageError: One would lie elsewhere: an object store takes any text for a name, `..` included.
        """
        for name in names:
            if fault := fault_of_path(name):
                raise StorageError(
                    f"a file of a set below a URL has a plain path: {self.url} lists {shown(name)}, which {fault}; "
                    "remove it there, or choose another URL"
                )
        with self._reaching():
            self.files.invalidate_cache()
            found = [name for name in names if self.files.isfile(f"{self.root}/{name}")]
            for parent in {(self.folder / name).parent for name in found}:
                make_folder(parent)
            if found:
                self.files.get([f"{self.root}/{name}" for name in found], [str(self.folder / name) for name in found])
        return found

    def _put(self, names: Sequence[str]) -> None:
        """Upload files of the folder; a file is there when this returns."""
        if names:
            with self._reaching():
                self.files.put([str(self.folder / name) for name in names], [f"{self.root}/{name}" for name in names])

    def _remove(self, names: Sequence[str]) -> None:
        if names:
            with self._reaching():
                self.files.rm([f"{self.root}/{name}" for name in names])


def generate_shard_at(plan: Plan, url: str, shard: int) -> int:
    """Make one shard below a URL, unless it is complete there, and return how many of its lesions were kept."""
    return Store(url).complete(plan, shard)
