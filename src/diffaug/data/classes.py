"""Classes as a user declares them for an import, and the values with which they are written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.artifacts import read_json
from diffaug.data.case import LabelClass
from diffaug.data.folder import CLASSES
from diffaug.data.images import Label
from diffaug.errors import ConfigError, DataError
from diffaug.names import plain_name

BACKGROUND = "background"  # the name whose values belong to no class
HIGHEST = 65535  # the largest value that is read; written values are at most 255
VALUES = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Labelling:
    """What the values of a source's masks mean, and what they become.

    Attributes:
        classes: The classes of the data set with the values that are written.
        table: The written value of each value of the source; None where values stay.
        declared: Every value of the source that has a meaning, 0 included.
    """

    classes: tuple[LabelClass, ...]
    table: dict[int, int] | None
    declared: tuple[int, ...]

    def written(self, values: NDArray[np.integer[Any]], case: str, where: object) -> Label:
        """Return a mask with the values of the data set, shape (H, W).

        Raises:
            DataError: A value belongs to no class.
        """
        strange = sorted(set(np.unique(values).tolist()) - set(self.declared))
        if strange:
            nearest = min(self.declared, key=lambda known: abs(known - strange[0]))
            raise DataError(
                f"a label may hold only the values of its classes, here {spans(self.declared)}: case {case} ({where}) "
                f"has {strange[0]}, nearest is {nearest}; correct the label, or declare the value with --classes, as a "
                f"class or as {BACKGROUND}={strange[0]}"
            )
        if self.table is None:
            return values.astype(np.uint8)
        lookup = np.zeros(max(self.declared) + 1, np.uint8)
        lookup[list(self.table)] = list(self.table.values())
        return np.asarray(lookup[values])


def labelling_of(declared: Sequence[LabelClass]) -> Labelling:
    """Return how declared classes are written.

    Values stay if each of them belongs to another set of classes and none is over 255. Otherwise the sets are numbered
    from 1 in the order of their values.
    """
    named = [each for each in declared if each.name != BACKGROUND]
    ignored = {value for each in declared if each.name == BACKGROUND for value in each.values if value}
    values = sorted({value for each in named for value in each.values})
    both = sorted(ignored & set(values))
    if both:
        raise ConfigError(f"a value is {BACKGROUND} or of a class: {both[0]} is declared as both; leave one out")
    members = {value: tuple(each.name for each in named if value in each.values) for value in values}
    sets = list(dict.fromkeys(members.values()))
    declared_values = tuple(sorted({0, *values, *ignored}))
    if not ignored and values[-1] <= 255 and len(sets) == len(values):
        return Labelling(tuple(named), None, declared_values)
    table = {value: sets.index(members[value]) + 1 for value in values} | dict.fromkeys(ignored, 0)
    classes = tuple(
        LabelClass(each.name, tuple(dict.fromkeys(table[value] for value in sorted(each.values)))) for each in named
    )
    return Labelling(classes, table, declared_values)


def classes_from_words(words: Sequence[str]) -> tuple[LabelClass, ...]:
    """Read classes as they are written on the command line.

    Raises:
        ConfigError: A word is no name with values.

    Example:
        >>> classes_from_words(["disc=1,2", "cup=2"])
        (LabelClass(name='disc', values=(1, 2)), LabelClass(name='cup', values=(2,)))
    """
    classes: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, _, cells = word.partition("=")
        values = _values_of(cells)
        is_zero = 0 in values and not any(each.startswith(f"{BACKGROUND}=") for each in words)
        if not name.strip() or not values or is_zero:
            raise ConfigError(
                f"--classes takes names with values from 1 to {HIGHEST}, such as disc=1,2 cup=2 or lesion=1-35: got "
                f"{word!r}; correct it"
            )
        if name in classes:
            raise ConfigError(f"--classes names a class once: {name!r} stands twice; write {name}=1,2 for two values")
        classes[name] = values
    return _checked(classes, "--classes")


def _values_of(cells: str) -> tuple[int, ...]:
    values: list[int] = []
    for cell in cells.split(","):
        found = VALUES.fullmatch(cell.strip())
        if not found:
            return ()
        first, last = int(found[1]), int(found[2] or found[1])
        if not 0 <= first <= last <= HIGHEST:
            return ()
        values += range(first, last + 1)
    return tuple(dict.fromkeys(values))


def read_source_classes(folder: Path) -> tuple[LabelClass, ...]:
    """Read `classes.json` of a source, which names each class with a value or a list of values; () where there is none.

    Raises:
        DataError: The file breaks a rule.
    """
    path = folder / CLASSES
    return classes_from_json(read_json(path), path) if path.is_file() else ()


def classes_from_json(names: Any, where: object) -> tuple[LabelClass, ...]:
    """Read classes from a table of names with a value or a list of values; `background` may have 0.

    Raises:
        DataError: The table breaks a rule.
    """
    if not isinstance(names, dict) or not names:
        raise DataError(f'classes are names with their values, such as {{"disc": [1, 2]}}: {where} is not; correct it')
    classes: dict[str, tuple[int, ...]] = {}
    for name, given in names.items():
        values = given if isinstance(given, list) else [given]
        lowest = 0 if name == BACKGROUND else 1
        known = values and all(type(value) is int and lowest <= value <= HIGHEST for value in values)
        plain_name(name, f"a class in {where}")
        if not known:
            raise DataError(
                f"a class has a name and values from 1 to {HIGHEST}: {where} has {name!r}: {given!r}; correct it"
            )
        classes[name] = tuple(dict.fromkeys(values))
    return _checked(classes, where)


def _checked(classes: dict[str, tuple[int, ...]], where: object) -> tuple[LabelClass, ...]:
    zero = next((name for name, values in classes.items() if 0 in values and name != BACKGROUND), None)
    if zero and (not classes.get(BACKGROUND) or 0 in classes[BACKGROUND]):
        raise ConfigError(
            f"a class has a name and values from 1 to {HIGHEST}: {where} has 0 for {zero}; 0 is {BACKGROUND}, unless "
            f"another value is declared to be, such as {BACKGROUND}=1 {zero}=0"
        )
    if classes and set(classes) == {BACKGROUND}:
        raise DataError(f"at least one class is needed beside {BACKGROUND}: {where} has none; add, say, lesion")
    return tuple(LabelClass(name, values) for name, values in classes.items())


def spans(values: Sequence[int]) -> str:
    """Return values in words, runs joined.

    Example:
        >>> spans((0, 1, 2, 3, 255))
        '0-3,255'
    """
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
