"""A lane: one process that tries one thing after the other in a folder of its own."""

import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from faulting.children import UNTOUCHED, Ended, Fault, Watch, run_command
from faulting.scene import COMMANDS, Command
from faulting.trees import Tree, clear, tree_of

SLOW = 180.0  # seconds after which a command that is no hostile file's reader is stuck
CANARIES = ("canary.png", "canary.jpg", "canary.json", "canary.csv", "canary.txt", "canary.npz", "canary.yaml")


@dataclass(frozen=True)
class Undisturbed:
    """What a command does that nobody disturbs.

    Attributes:
        ended: How it ends.
        tree: What its working directory holds then.
        sizes: Bytes of the files that it made, or made again, in order.
        grown: Bytes that its working directory grew by.
        given: Bytes of its inputs.
    """

    ended: Ended
    tree: Tree
    sizes: tuple[int, ...]
    grown: int
    given: int


@dataclass
class Found:
    """What became of one trial.

    Attributes:
        name: Repeats it.
        counted: Whether it counts: a kill that hit, or a file that was read.
        flaws: Kinds with what was seen, such as ("torn", "out/cases.csv").
        peak_mb: Largest memory of a child, MB.
        seconds: Of the slowest child.
        cpu: Seconds of computing of all children.
    """

    name: str
    counted: bool = True
    flaws: list[tuple[str, str]] = field(default_factory=list)
    peak_mb: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0

    def add(self, kind: str, what: str) -> None:
        """Note something that must not be."""
        self.flaws.append((kind, what[:400]))

    def take(self, ended: Ended) -> Ended:
        """Note what a child used."""
        self.peak_mb, self.seconds = max(self.peak_mb, ended.peak_mb), max(self.seconds, ended.seconds)
        self.cpu += ended.cpu
        return ended


class Lane:
    """Folders of one process: `case`, where commands run, and `canary`, which nothing may open."""

    def __init__(self, folder: Path, scene: Path) -> None:
        """Make the folders."""
        clear(folder)
        self.folder, self.scene = folder.absolute(), scene.absolute()
        self.case, self.canary = self.folder / "case", self.folder / "canary"
        self.canary.mkdir(parents=True)
        shutil.copy(next((scene / "data" / "images").iterdir()), self.canary / "canary.png")
        shutil.copy(self.canary / "canary.png", self.canary / "canary.jpg")
        for name in CANARIES:
            if not (self.canary / name).exists():
                (self.canary / name).write_text("{}")
        self._known: dict[str, Undisturbed] = {}

    @cached_property
    def watch(self) -> Watch:
        """Return what tells of the canary."""
        return Watch(self.canary)

    def lay_out(self, *inputs: str) -> Path:
        """Make the working directory anew, with copies of templates."""
        clear(self.case)
        self.case.mkdir()
        self.fill(*inputs)
        return self.case

    def fill(self, *inputs: str) -> None:
        """Copy templates into the working directory."""
        for name in inputs:
            source = self.scene / name
            if source.is_file():
                shutil.copy(source, self.case / name)
            else:
                shutil.copytree(source, self.case / name, symlinks=True, ignore=shutil.ignore_patterns(".lock"))
        places = self.case / "study" / "places.json"
        if "study" in inputs:
            places.write_text(places.read_text().replace(str(self.scene), str(self.case)))

    def finish(self, name: str) -> None:
        """Make the working directory anew, as a command leaves it that nobody disturbs; it is made once, and copied."""
        made = self.folder / "finished" / name
        if not made.exists():
            self.lay_out(*COMMANDS[name].inputs)
            self.run(COMMANDS[name])
            shutil.copytree(self.case, made, symlinks=True)
        clear(self.case)
        shutil.copytree(made, self.case, symlinks=True)

    def run(self, command: Command, fault: Fault = UNTOUCHED, seconds: float = SLOW) -> Ended:
        """Run a command in the working directory."""
        return run_command(command.words, self.case, fault, seconds=seconds)

    def undisturbed(self, name: str) -> Undisturbed:
        """Return what a command does that nobody disturbs.

        Raises:
            RuntimeError: It fails, or does not do the same twice.
        """
        if name not in self._known:
            command = COMMANDS[name]
            self.lay_out(*command.inputs)
            given = _bytes_of(self.case)
            before = {path: path.stat().st_ino for path in self.case.rglob("*") if path.is_file()}
            ended = self.run(command)
            if ended.status:
                raise RuntimeError(f"{name} fails undisturbed: {ended.said[-2000:]}")
            found = [(path, path.stat()) for path in self.case.rglob("*") if path.is_file()]
            sizes = tuple(sorted(status.st_size for path, status in found if before.get(path) != status.st_ino))
            grown = _bytes_of(self.case) - given
            self._known[name] = Undisturbed(ended, tree_of(self.case), sizes, grown, given)
        return self._known[name]


def _bytes_of(folder: Path) -> int:
    """Return the bytes of whole pages that a folder takes on a disk in memory."""
    found = 0
    for place, folders, names in os.walk(folder):
        sizes = [os.lstat(os.path.join(place, name)).st_size for name in names]  # noqa: PTH118 - ten thousands of them
        found += sum(-(-size // 4096) * 4096 for size in sizes) + 4096 * len(folders)
    return found


def part_of(name: str) -> tuple[str, ...]:
    """Return the words of the name of a trial."""
    return tuple(name.split(":"))


Summary = dict[str, Any]
