"""Commands that are killed, or whose disk is full or read-only from some operation on; then the same command again."""

import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from faulting.children import Ended, Fault
from faulting.lanes import Found, Lane, part_of
from faulting.scene import COMMANDS, Command
from faulting.trees import differences, torn_in, tree_of

LAST = ("fit", "run")  # commands that are also killed at their last writes
QUICK = ("phantom", "import", "subset", "generate", "study")
QUICK_STORAGE = ("import", "generate")
STORAGE = 5  # faults of storage of each kind for a command


def kill_trials(quick: bool, seed: int) -> list[str]:
    """Return names of kills: at shares of the operations, of the largest file, and of the seconds of a command."""
    rng, names = random.Random(seed), []
    for command in COMMANDS.values():
        count = command.points if not quick else 2 * (command.name in QUICK)
        for number in range(count):
            share = (number + rng.random()) / count
            kind = "late" if command.late else ("kill", "kill", "kill", "grow", "late")[number % 5]
            if command.name in LAST and kind == "kill" and number % 2:
                share = 1 - share / 8
            names.append(f"kill:{command.name}:{kind}:{share:.4f}")
    return names


def storage_trials(quick: bool, seed: int) -> list[str]:
    """Return names of faults of storage: full and read-only from some operation on, and a small disk."""
    rng = random.Random(seed + 1)
    commands = [
        command.name
        for command in COMMANDS.values()
        if not command.late and (not quick or command.name in QUICK_STORAGE)
    ]
    count = 1 if quick else STORAGE
    kinds = ("full", "readonly", "disk")
    return [
        f"storage:{name}:{kind}:{(number + rng.random()) / count:.4f}"
        for name in commands
        for kind in kinds
        for number in range(count)
    ]


def try_kill(name: str, lane: Lane) -> Found:
    """Kill a command, look at what it left, and run it again."""
    _, word, kind, share = part_of(name)
    command, found, usual = COMMANDS[word], Found(name), lane.undisturbed(word)
    lane.lay_out(*command.inputs)
    ended = found.take(lane.run(command, Fault(kind, _at(kind, float(share), usual.ended, usual.sizes))))
    found.counted = ended.status in (-signal.SIGKILL, -signal.SIGXFSZ)
    for path in torn_in(lane.case):
        found.add("torn", path)
    _again(command, found, lane)
    return found


def _at(kind: str, share: float, usual: Ended, sizes: tuple[int, ...]) -> float:
    if kind == "late":
        return share * usual.seconds
    if kind == "grow":
        return sizes[min(int(share * len(sizes)), len(sizes) - 1)] // 2
    return max(1, ceil(share * usual.operations))


def _again(command: Command, found: Found, lane: Lane) -> None:
    """Run a command again, after which everything is as if nothing had happened."""
    ended = found.take(lane.run(command))
    if ended.status:
        found.add("stuck", ended.line or ended.said[-400:])
        return
    lost, other = differences(lane.undisturbed(command.name).tree, tree_of(lane.case))
    for kind, paths in (("lost", lost), ("differing", other)):
        for path in paths:
            found.add(kind, path)


def try_storage(name: str, lane: Lane) -> Found:
    """Run a command whose storage fails, and again when it works."""
    _, word, kind, share = part_of(name)
    command, found, usual = COMMANDS[word], Found(name), lane.undisturbed(word)
    if kind == "disk":
        size = usual.given + int(float(share) * usual.grown) + 8192
        lane.lay_out()
        with _small_disk(lane, size) as grow:
            lane.fill(*command.inputs)
            _judge(found.take(lane.run(command)), found)
            grow()
            _again(command, found, lane)
        return found
    lane.lay_out(*command.inputs)
    _judge(found.take(lane.run(command, Fault(kind, _at(kind, float(share), usual.ended, usual.sizes)))), found)
    _again(command, found, lane)
    return found


def _judge(ended: Ended, found: Found) -> None:
    """Note an end that is neither a result nor one line."""
    if ended.flaw in ("traceback", "outside"):
        found.add(
            "tracebacks" if ended.flaw == "traceback" else "outside", " ".join(ended.outside) or ended.said[-400:]
        )


@contextmanager
def _small_disk(lane: Lane, size: int) -> Iterator[object]:
    """Lay a disk of so many bytes over the working directory; yield what makes it large."""

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words, str(lane.case)], check=True, capture_output=True)

    mount("-t", "tmpfs", "-o", f"size={-(-size // 4096) * 4}k", "diffaug-faults")
    try:
        yield lambda: mount("-o", "remount,size=256m")
    finally:
        subprocess.run(["umount", str(lane.case)], check=True, capture_output=True)


def disks_can_be_made(lane: Lane) -> bool:
    """Tell whether this process may mount a small disk."""
    lane.lay_out()
    try:
        with _small_disk(lane, 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
