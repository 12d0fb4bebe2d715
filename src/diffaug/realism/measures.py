"""How far a set of features lies from another: kernel distance, precision and recall, density and coverage.

Knows features alone, (N, D) and (M, D). All are standardised by the second set, the real one.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS, NEIGHBOURS_OF_DENSITY = 3, 5  # as in the papers
Features = NDArray[np.float64]
Places = NDArray[np.intp]


def resampler(groups: Sequence[str]) -> Callable[[np.random.Generator], Places]:
    """Return a function that draws whole groups with replacement, and returns the places of their members."""
    members: dict[str, list[int]] = {}
    for place, name in enumerate(groups):
        members.setdefault(name, []).append(place)
    parts = [np.array(some) for some in members.values()]

    def draw(rng: np.random.Generator) -> Places:
        return np.concatenate([parts[place] for place in rng.integers(0, len(parts), len(parts))])

    return draw


def kid(a: Features, b: Features, draws: int = 300) -> dict[str, float]:
    """Return the kernel distance of two feature sets, (N, D) and (M, D), with a 95 % bootstrap interval.

    The unbiased estimate of the squared maximum mean discrepancy with k(x, y) = (x y / D + 1)^3, times 1000; features
    are standardised by the second set. Resampled rows that are the same row make no pair.

    Source: Binkowski et al. 2018 (arXiv:1801.01401), Sec. 4.
    """
    a, b = standardised(a, b)
    kernels = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]

    def distance(rows: Places, columns: Places) -> float:
        within = []
        for kernel, index in ((kernels[0], rows), (kernels[1], columns)):
            apart = index[:, None] != index[None, :]
            within.append(float(kernel[np.ix_(index, index)][apart].mean()))
        return 1000 * (within[0] + within[1] - 2 * float(kernels[2][np.ix_(rows, columns)].mean()))

    rng = np.random.default_rng(0)
    resampled = [distance(rng.integers(0, len(a), len(a)), rng.integers(0, len(b), len(b))) for _ in range(draws)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    value = distance(np.arange(len(a)), np.arange(len(b)))
    return {"value": round(value, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def standardised(a: Features, b: Features) -> tuple[Features, Features]:
    """Return two feature sets in standard deviations from the mean of the second."""
    mean, deviation = b.mean(0), b.std(0) + 1e-6
    return (a - mean) / deviation, (b - mean) / deviation


def precision_recall(made: Features, real: Features) -> dict[str, float]:
    """Return the share of made features in the manifold of real ones, and the share of real in that of made ones.

    A manifold is the union of balls around its points, each as wide as the distance to the third nearest other point.

    Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), Eq. 1 to 3.
    """
    made, real = standardised(made, real)
    between = _distances(made, real)
    return {
        "precision": float((between <= _radii(real, NEIGHBOURS)[None, :]).any(1).mean()),
        "recall": float((between <= _radii(made, NEIGHBOURS)[:, None]).any(0).mean()),
    }


def density_coverage(made: Features, real: Features) -> dict[str, float]:
    """Return in how many real balls a made point lies, over the expected number, and the share of balls that have one.

    Density is not bounded by 1; coverage is.

    Source: Naeem et al. 2020 (arXiv:2002.09797), Eq. 4 and 6.
    """
    made, real = standardised(made, real)
    inside = _distances(made, real) <= _radii(real, NEIGHBOURS_OF_DENSITY)[None, :]
    neighbours = min(NEIGHBOURS_OF_DENSITY, len(real) - 1)
    return {"density": float(inside.sum(1).mean() / neighbours), "coverage": float(inside.any(0).mean())}


def _distances(a: Features, b: Features) -> Features:
    from scipy.spatial.distance import cdist

    found: Features = cdist(a, b)
    return found


def _radii(points: Features, neighbours: int) -> Features:
    """Return the distance of each point to its k-th nearest other one; 0 for a single point."""
    if len(points) < 2:
        return np.zeros(len(points))
    radii: Features = np.sort(_distances(points, points), axis=1)[:, min(neighbours, len(points) - 1)]
    return radii
