"""Seeded divisions that never cut a group: splits by shares, and folds.

Knows nothing of files, only names of cases and of their groups.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from diffaug.errors import DataError

ENOUGH_GROUPS = 8  # of held-out cases: fewer show no difference between two ways to train


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return the distinct names in an order that depends on the names and the seed alone."""
    ordered = sorted(set(names))
    return [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]


def split_by_group(groups: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Divide cases into splits so that no group lies in two of them.

    Groups are dealt in seeded order, each to the split that is furthest below its share. A split exceeds its share by
    less than the largest group, and no split of a positive share stays empty if there are enough groups.

    Args:
        groups: The group of each case, by case id.
        shares: The wanted share of the cases of each split; positive, in any unit.
        seed: Chooses the order.

    Returns:
        The split of each case, by case id, in the order of `groups`.

    Raises:
        DataError: A share is negative, or none is positive.
    """
    total = sum(shares.values())
    if total <= 0 or min(shares.values()) < 0:
        raise DataError(f"shares of splits must be positive: got {dict(shares)}; use, for example, 0.7, 0.1 and 0.2")
    sizes = Counter(groups.values())
    missing = {split: share / total * len(groups) for split, share in shares.items()}
    dealt: dict[str, str] = {}
    for group in shuffled(sizes, seed):
        split = max(missing, key=lambda name: missing[name])
        dealt[group] = split
        missing[split] -= sizes[group]
    _fill_empty(dealt, sizes, [split for split, share in shares.items() if share > 0])
    return {case: dealt[group] for case, group in groups.items()}


def _fill_empty(dealt: dict[str, str], sizes: Mapping[str, int], splits: list[str]) -> None:
    """Give each empty split the smallest group of the split with the most groups."""
    for empty in splits:
        counts = Counter(dealt.values())
        if counts[empty] or len(dealt) < len(splits):
            continue
        richest = max(splits, key=lambda split: counts[split])
        smallest = min((group for group, split in dealt.items() if split == richest), key=lambda group: sizes[group])
        dealt[smallest] = empty


def folds_by_group(
    groups: Mapping[str, str], folds: int, seed: int, lesion_free: Collection[str] = ()
) -> dict[str, int]:
    """Divide cases into folds of nearly the same size so that no group is in two of them.

    Groups with the most lesions are dealt first, equals in seeded order, each to the fold with the fewest: the cases
    with a lesion of two folds differ by those of one group at most. Then lesion-free groups fill the smallest folds.

    Args:
        groups: The group of each case, by case id.
        folds: How many folds, at least 2.
        seed: Chooses the order.
        lesion_free: Ids of cases that hold no lesion, among others.

    Returns:
        The fold of each case, 0 to folds - 1, by case id, in the order of `groups`.

    Raises:
        DataError: There are fewer groups than folds.
    """
    sizes = Counter(groups.values())
    if not 2 <= folds <= len(sizes):
        raise DataError(
            f"there must be 2 folds or more, with a group for each: got {folds} folds of {len(sizes)} groups; use fewer"
        )
    without = set(lesion_free)
    lesions = Counter(group for case, group in groups.items() if case not in without)
    filled = dict.fromkeys(range(folds), (0, 0))  # with a lesion, in all
    dealt: dict[str, int] = {}
    for group in sorted(shuffled(sizes, seed), key=lambda name: (-lesions[name], -sizes[name])):
        first = 0 if lesions[group] else 1  # of the two numbers: the one that is evened out
        fold = min(filled, key=lambda index: filled[index][first:])
        dealt[group] = fold
        filled[fold] = (filled[fold][0] + lesions[group], filled[fold][1] + sizes[group])
    return {case: dealt[group] for case, group in groups.items()}


def connected(names: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for each name the smallest name that it is linked to, directly or through other names."""
    root = {name: name for name in names}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for first, second in links:
        low, high = sorted((find(first), find(second)))
        root[high] = low
    return {name: find(name) for name in root}
