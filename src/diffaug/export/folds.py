"""Folds for cross-validation that painted cases cannot leak through.

A painted case shows pixels, an outline or a lesion of its sources: the background, the case of its mask and the
example. So it is never validated on, and it trains no fold whose validation holds one of its sources, or another case
of a source's group. Knows only names of cases and of their groups.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffaug.artifacts import write_text
from diffaug.data.split import folds_by_group

MOST = 5  # folds, unless a number is asked for


@dataclass(frozen=True)
class Fold:
    """What one fold trains and validates on, as ids of cases.

    Attributes:
        train: Real cases, then painted ones.
        val: Real cases alone.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]


def divided(
    real: Mapping[str, str],
    painted: Mapping[str, Iterable[str]],
    groups: Mapping[str, str],
    folds: int,
    seed: int,
    lesion_free: Collection[str] = (),
) -> tuple[Fold, ...]:
    """Divide real cases into folds by group, and give each fold the painted cases that it may train on.

    Args:
        real: The group of each real training case, by id.
        painted: The ids of the sources of each painted case, by its id.
        groups: The group of every case that a source can be, by id.
        folds: How many, at least 2.
        seed: Chooses the order in which groups are dealt.
        lesion_free: Ids of real cases without a lesion, which are spread apart from the others.

    Raises:
        DataError: There are fewer groups than folds.
    """
    number = folds_by_group(real, folds, seed, lesion_free)
    sides = [tuple(name for name in real if number[name] == fold) for fold in range(folds)]
    return tuple(_fold(val, real, painted, groups) for val in sides)


def held_out(
    real: Mapping[str, str], val: Mapping[str, str], painted: Mapping[str, Iterable[str]], groups: Mapping[str, str]
) -> Fold:
    """Return the one fold of cases whose validation is given.

    Args:
        real: The group of each real training case, by id.
        val: The group of each case that is validated on, by id.
        painted: The ids of the sources of each painted case, by its id.
        groups: The group of every case that a source can be, by id.
    """
    return _fold(tuple(val), {**real, **val}, painted, groups)


def write_folds(folds: Sequence[Fold], path: Path) -> None:
    """Write folds as JSON, in the form of nnU-Net's `splits_final.json`: a list of train and val."""
    write_text(path, json.dumps([asdict(fold) for fold in folds], indent=1, ensure_ascii=False) + "\n")


def _fold(
    val: tuple[str, ...], real: Mapping[str, str], painted: Mapping[str, Iterable[str]], groups: Mapping[str, str]
) -> Fold:
    held, unseen = set(val), {real[name] for name in val}

    def is_apart(sources: Iterable[str]) -> bool:
        return all(name not in held and groups.get(name, name) not in unseen for name in sources)

    trained = [name for name in real if name not in held]
    return Fold((*trained, *(name for name, sources in painted.items() if is_apart(sources))), val)
