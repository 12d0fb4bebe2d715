"""Turns: the order in which names are tried for a request, so that all of them are used alike.

In a round of as many requests as there are names, every name is first for one request, second for one, and so on. Who
takes the first that suits seldom takes a name twice a round; who chooses among the first k takes none more often than k
times. The order is a pure function of the names, the seed and the number of the request: nothing is counted.
"""

from collections.abc import Sequence

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
