"""Turns: the order in which names are tried for a request, so that all of them are used alike.

In a round of as many requests as there are names, every name is first for one request, second for one, and so on. Who
takes the first that suits seldom takes a name twice a round; who chooses among the first k takes none more often than k
times. The order is a pure function of the names, the seed and the number of the request: nothing is counted.
"""

from collections.abc import Callable, Sequence

import numpy as np


def in_turn(names: Sequence[str], seed: int, number: int) -> list[str]:
    """Return the names in the order of their turns.

    Args:
        names: In a fixed order.
        seed: Chooses the order of every round.
        number: Of the request, 0 or more.
    """
    if not names:
        return []
    turn, first = divmod(number, len(names))
    order = np.random.default_rng((seed, turn)).permutation(len(names))
    return [names[int(each)] for each in np.roll(order, -first)]


def in_turn_with_substitutes(names: Sequence[str], seed: int, number: int) -> list[str]:
    """Return the name whose turn it is, and the others in an order that is drawn for the request.

    Where a name does not suit in its turn, its place is so not taken by the same other one for one request after the
    other.

    Args:
        names: In a fixed order.
        seed: Chooses the orders.
        number: Of the request, 0 or more.
    """
    first = in_turn(names, seed, number)[:1]
    others = [name for name in names if name not in first]
    order = np.random.default_rng((seed, number, 1)).permutation(len(others))
    return [*first, *(others[int(each)] for each in order)]


class Turns:
    """Counts turns of lesions and of negatives apart: which cases are negatives is drawn from the seed of each."""

    def __init__(self, negatives: float, seed_of: Callable[[int], int]) -> None:
        """Take how many negatives there are for each case with a lesion, and the seed of each case."""
        self._share, self._seed_of = negatives / (1 + negatives), seed_of
        self._lesions_before = [0]  # the number of cases with lesions before each case

    def is_negative(self, number: int) -> bool:
        """Tell whether a case is to be a negative."""
        return self._share > 0 and np.random.default_rng((self._seed_of(number), 2)).random() < self._share

    def of(self, number: int) -> int:
        """Return how many cases of the same sort come before one."""
        while len(self._lesions_before) <= number:
            last = len(self._lesions_before) - 1
            self._lesions_before.append(self._lesions_before[last] + (not self.is_negative(last)))
        before = self._lesions_before[number]
        return number - before if self.is_negative(number) else before
