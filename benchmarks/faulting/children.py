"""Runs one command of diffaug in a forked child: under bounds, watched, and with faults that can be repeated exactly.

The parent has imported the package, so a child starts in milliseconds. An audit hook of the child counts operations
that change files, and ends or refuses the one with a given number. What is opened, and by which process, is Linux's to
tell: `Watch` sees a file that is read by a library in Rust, too.
"""

import ctypes
import errno
import faulthandler
import mmap
import os
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HANG_SECONDS = 20.0  # of computing
WAIT_SECONDS = 60.0  # of waiting for a hostile file's reader, on a machine that has other work
MOST_MB = 2048.0
BROKEN = 99  # exit status of a child that ended by an exception
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.fsync")
GROWING = ("open", "os.mkdir", "os.link", "os.symlink", "os.fsync")  # what a full disk refuses
LEAVING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")
FAULTS = ("", "kill", "grow", "late", "full", "readonly")


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a child.

    Attributes:
        kind: `kill` (SIGKILL before operation `at`), `grow` (killed by the system where a file grows over `at` bytes),
            `late` (SIGKILL after `at` seconds), `full` (operation `at` and what follows find the disk full), `readonly`
            (they find a file system that is read-only), or "".
        at: Number of an operation from 1, bytes, or seconds.
    """

    kind: str = ""
    at: float = 0


UNTOUCHED = Fault()


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: Its exit status; the negative number of a signal.
        said: What it printed on stderr, and the traceback of an exception that was not expected.
        seconds: Wall time.
        cpu: Seconds of computing.
        peak_mb: Its largest resident memory, MB, what it shares with its parent included.
        operations: How many operations changed files, as far as Python knows of them.
        outside: What it did outside of its folder.
        opened: Files of its folder that it read, as paths relative to it.
    """

    status: int
    said: str
    seconds: float
    cpu: float
    peak_mb: float
    operations: int
    outside: tuple[str, ...] = ()
    opened: frozenset[str] = frozenset()

    @property
    def flaw(self) -> str:
        """Return what is wrong about this end, in a word; "" for a result, and for one line and exit status 1."""
        if self.seconds >= WAIT_SECONDS or self.cpu >= HANG_SECONDS:
            return "hang"
        if self.peak_mb > MOST_MB or "diffaug: memory ran out" in self.said:
            return "memory"
        if self.outside:
            return "outside"
        if self.status not in (0, 1) or "Traceback" in self.said:
            return "traceback"
        return "traceback" if self.status == 1 and not self.line else ""

    @property
    def line(self) -> str:
        """Return the last line if it is an error of diffaug."""
        last = (self.said.rstrip("\n").splitlines() or [""])[-1]
        return last if last.startswith("diffaug: ") else ""


class Watch:
    """Tells what happens to the files of a folder, whoever opens them (inotify); nothing on other systems."""

    EVENTS = 0x1 | 0x2 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200  # read, written, opened, moved out and in, made, removed

    def __init__(self, folder: Path) -> None:
        """Start to watch."""
        self._file = -1
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._file = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            libc.inotify_add_watch(self._file, os.fsencode(folder), self.EVENTS)

    def events(self) -> list[str]:
        """Return the names of files to which something has happened since the last call."""
        names: list[str] = []
        while self._file >= 0:
            try:
                data = os.read(self._file, 65536)
            except BlockingIOError:
                break
            while data:
                length = struct.unpack_from("iIII", data)[3]
                names.append(os.fsdecode(data[16 : 16 + length].rstrip(b"\0")))
                data = data[16 + length :]
        return [name for name in names if name]


def run_command(
    words: Sequence[str],
    folder: Path,
    fault: Fault = UNTOUCHED,
    *,
    seconds: float = WAIT_SECONDS,
    bounded: bool = False,
) -> Ended:
    """Run a command with a folder as working directory, and the only place that it may write to.

    Args:
        words: The command without `diffaug`.
        folder: The working directory.
        fault: What goes wrong.
        seconds: When the child is killed.
        bounded: Whether the child gets 4 GB of addresses beyond those of its parent.
    """
    counter, notes = mmap.mmap(-1, 8), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    sys.stdout.flush()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run_here(words, folder, fault, counter, notes.fileno(), said.fileno(), seconds, bounded)
    late = fault.at if fault.kind == "late" else seconds
    status, usage = _wait(pid, late)
    took = time.monotonic() - started
    texts = []
    for file in (notes, said):
        file.seek(0)
        texts.append(file.read().decode(errors="replace"))
        file.close()
    marked = [line.partition(" ")[::2] for line in texts[0].splitlines()]
    return Ended(
        status=os.waitstatus_to_exitcode(status),
        said=texts[1],
        seconds=took,
        cpu=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss / 1024,
        operations=struct.unpack("q", counter[:])[0],
        outside=tuple(dict.fromkeys(text for mark, text in marked if mark == "outside")),
        opened=frozenset(text for mark, text in marked if mark == "read"),
    )


def _wait(pid: int, seconds: float) -> tuple[int, Any]:
    """Wait for a child, kill it with all that it has started when its time is over, and return what it used."""
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)
    if not ready:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage


def _run_here(
    words: Sequence[str],
    folder: Path,
    fault: Fault,
    counter: mmap.mmap,
    notes: int,
    said: int,
    seconds: float,
    bounded: bool,
) -> None:
    """Run a command in this process, a child, which ends."""
    os.setpgid(0, 0)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(folder)
    (folder / ".tmp").mkdir(exist_ok=True)
    tempfile.tempdir = str(folder / ".tmp")
    faulthandler.dump_traceback_later(seconds - 1, file=2)
    if bounded:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 2**30,) * 2)
    if fault.kind == "grow":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.at), int(fault.at)))
    _hook(folder, fault, counter, notes)
    os._exit(_status_of(words))


def _status_of(words: Sequence[str]) -> int:
    from diffaug.cli.main import main

    status = 0
    try:
        main(list(words))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = BROKEN
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def _hook(folder: Path, fault: Fault, counter: mmap.mmap, notes: int) -> None:
    """Count what changes files in this process, note what is read and what lies outside, and do what goes wrong."""
    root, allowed = f"{folder}{os.sep}", ("/dev/null", "/dev/tty", "/proc/", "/dev/urandom")
    known: set[str] = set()
    busy = False

    def note(mark: str, text: str) -> None:
        line = f"{mark} {text}"
        if line not in known:
            known.add(line)
            os.write(notes, (line.encode(errors="replace").replace(b"\n", b"\\n")) + b"\n")

    def place_of(path: Any) -> str:
        return os.path.realpath(os.fsdecode(path))

    def step(event: str, path: str) -> None:
        number = struct.unpack("q", counter[:])[0] + 1
        counter[:] = struct.pack("q", number)
        if fault.kind == "kill" and number == fault.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if (fault.kind == "readonly" or (fault.kind == "full" and event in GROWING)) and number >= fault.at:
            code = errno.ENOSPC if fault.kind == "full" else errno.EROFS
            raise OSError(code, os.strerror(code), path)

    def changed(event: str, path: str) -> None:
        if not path.startswith((root, *allowed)) and path != str(folder):
            note("outside", f"changed {path}")
        if path.startswith(root):
            step(event, path)

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or (event != "open" and event not in CHANGES and event not in LEAVING):
            return
        busy = True
        try:
            if event in LEAVING:
                note("outside", f"{event} {str(values)[:200]}")
            elif isinstance(values[0], str | bytes | os.PathLike):
                path = place_of(values[0])
                if event != "open" or (isinstance(values[2], int) and values[2] & WRITING):
                    changed(event, path)
                elif path.startswith(root):
                    note("read", path.removeprefix(root))
        finally:
            busy = False

    def synced(descriptor: Any) -> None:  # of processes that are killed, what was written stays without it
        watch("os.fsync", (place_of(f"/proc/self/fd/{descriptor}"),))

    os.fsync = synced
    sys.addaudithook(watch)
