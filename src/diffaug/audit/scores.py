"""A score of an audit, with what would be best and worst beside it; and intervals over groups of cases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffaug.realism.measures import Places, resampler

DRAWS = 1000  # of a bootstrap
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One number of an audit.

    Attributes:
        name: What it is called.
        meaning: What it says, a clause.
        value: The number; None where it cannot be measured.
        low: Lower end of its 95 % interval; None without one.
        high: Upper end.
        best: The best possible value.
        worst: The worst possible value; None where there is no bound.
        real: The same measured between real lesions, which is as good as a painter can be expected to be; None where
            it is not measured.
        unit: share, ratio or number.
    """

    name: str
    meaning: str
    value: float | None
    low: float | None = None
    high: float | None = None
    best: float | None = None
    worst: float | None = None
    real: float | None = None
    unit: str = "number"


def bootstrap(
    values: Sequence[Values], groups: Sequence[Sequence[str]], statistic: Callable[..., float]
) -> tuple[float, float, float]:
    """Return a statistic of some samples with its 95 % interval, each resampled by whole groups.

    Args:
        values: Of each sample, (N, ...).
        groups: The group of each value of each sample.
        statistic: Takes the samples.
    """
    value, rng = float(statistic(*values)), np.random.default_rng(0)
    draw = [resampler(of) for of in groups]

    def resampled() -> float:
        places: list[Places] = [each(rng) for each in draw]
        return float(statistic(*(sample[place] for sample, place in zip(values, places, strict=True))))

    low, high = np.nanpercentile([resampled() for _ in range(DRAWS)], [2.5, 97.5])
    return value, min(float(low), value), max(float(high), value)
