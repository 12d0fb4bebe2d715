"""Every error that diffaug raises on purpose.

    DiffaugError
    ├── DataError         an image, a mask or cases.csv breaks a rule of the folder format
    ├── ConfigError       an unknown knob, or a value outside its range
    ├── FindingsError     a findings file, or a domain, finding or attribute that is unknown
    ├── ModelError        a model folder with a missing, altered or unsuitable part
    ├── ShapeError        tensors whose shapes do not fit each other
    ├── PlacementError    a mask that fits nowhere on any background
    ├── WorkerError       a worker process that was killed, or could not start
    ├── StorageError      a disk that is full, or a file or folder that cannot be written
    └── StudyError        a study that cannot be run or trusted
        └── EmptyArmError     an arm for which no case is left

Each message is one line: the rule, the value that breaks it, and the fix. The command line prints that line and exits
with status 1. Any other exception that reaches the user is a bug.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names that are most like a name, or all known names, as text."""
    names = [str(name) for name in known]
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(names) or 'none'}"


def meant(name: object, known: Iterable[str]) -> str:
    """Return the question whether a known name was meant, to stand at the end of a line; empty where none is alike."""
    close = get_close_matches(str(name), [*known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def one_line(text: str) -> str:
    r"""Return a text on one line: new lines, and what a terminal would obey or not show, become codes such as `\\n`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class DiffaugError(Exception):
    """The base of all errors that a user can correct."""

    def __str__(self) -> str:
        return one_line(super().__str__())  # names of files that come from others are part of it


class DataError(DiffaugError):
    """An image, a mask or cases.csv breaks a rule of the folder format."""


class ConfigError(DiffaugError):
    """An unknown knob, or a value outside its range."""


class FindingsError(DiffaugError):
    """A findings file that breaks a rule, or a domain, finding or attribute that is unknown."""


class ModelError(DiffaugError):
    """A model folder with a missing, altered or unsuitable part."""


class ShapeError(DiffaugError):
    """Tensors whose shapes do not fit each other."""


class PlacementError(DiffaugError):
    """A mask that fits nowhere on any background."""


class WorkerError(DiffaugError):
    """A worker process that was killed, or could not start."""


class StorageError(DiffaugError, OSError):
    """A disk that is full, or a file or folder that cannot be written."""


class StudyError(DiffaugError):
    """A study that cannot be run or trusted."""


class EmptyArmError(StudyError):
    """An arm that no case is left for."""
