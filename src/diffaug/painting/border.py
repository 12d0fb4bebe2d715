"""Where the tissue that a lesion brings along ends: along the closed path on which it differs least from the place.

At a fixed distance the two differ here and there, and the lesion gets a haze or a collar. A path around the lesion goes
where they agree, so that nothing is seen of it.

Source: Jia, Sun, Tang and Shum 2006, "Drag-and-drop pasting", Sec. 3.2, the border of the least difference; here its
distance from the outline is found for each direction, by dynamic programming.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.conditioning.rays import centre_of
from diffaug.data.images import Mask

LEVELS = np.linspace(0.2, 0.75, 12)  # distances from the outline at which the tissue may end, shares of the halo
DIRECTIONS = 72
BLUR = 1.0  # px; differences are compared at structures coarser than this
SPREAD = (1.0, 0.6)  # directions and levels over which they are averaged
STRAIGHT = 0.35  # of the usual difference; what it costs to go one level nearer or farther from a direction to the next
ROUND = 1.5  # directions over which the path is smoothed
LEAST = 0.02  # pixels that tell of a difference


def ends_of_halo(difference: NDArray[Any], away: NDArray[Any], new: Mask, known: Mask) -> NDArray[Any]:
    """Return in each pixel's direction how far from the lesion the tissue around it ends, a share of the halo, (h, w).

    Args:
        difference: Between what comes and what is there, (h, w), not negative.
        away: Distance from the lesion, a share of the halo, (h, w).
        new: The lesion, (h, w), not empty.
        known: Where both show tissue, (h, w).
    """
    rows, columns = np.indices(new.shape)
    row, column = centre_of(new)
    direction = (np.arctan2(rows - row, columns - column) / (2 * np.pi)) % 1.0 * DIRECTIONS
    level = np.rint((away - LEVELS[0]) / (LEVELS[1] - LEVELS[0])).astype(np.int64)
    told = ~new & known & (level >= 0) & (level < len(LEVELS))
    if not told.any():
        return np.full(new.shape, float(LEVELS.mean()))
    place = direction[told].astype(np.int64) * len(LEVELS) + level[told]
    smooth = ndimage.gaussian_filter(difference.astype(np.float64), BLUR)[told]
    total, count = (_summed(weights, place) for weights in (smooth, np.ones_like(smooth)))
    cost = total / np.maximum(count, LEAST)
    cost[count < LEAST] = cost.max()
    path = closed_path(cost, STRAIGHT * float(np.median(cost)))
    ends = ndimage.gaussian_filter1d(LEVELS[path], ROUND, mode="wrap")
    return np.asarray(np.interp(direction, np.arange(DIRECTIONS) + 0.5, ends, period=DIRECTIONS))


def _summed(weights: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    """Return weights summed by direction and level, (DIRECTIONS, levels), and spread over neighbours."""
    found = np.bincount(place, weights, DIRECTIONS * len(LEVELS)).reshape(DIRECTIONS, -1)
    return np.asarray(ndimage.gaussian_filter(found, SPREAD, mode=("wrap", "nearest")))


def closed_path(cost: NDArray[Any], step: float) -> NDArray[np.int64]:
    """Return the level in each direction, (n,), of the closed path that costs least.

    Args:
        cost: Of each direction and level, (n, k).
        step: Cost of each level by which two neighbouring directions differ, the last and the first ones too.
    """
    count, levels = cost.shape
    moves = step * np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))  # from one level to another
    totals = np.where(np.eye(levels, dtype=bool), cost[0], np.inf)  # of paths from each level (rows) to each (columns)
    came = np.empty((count, levels, levels), np.int64)
    for number in range(1, count):
        options = totals[:, :, None] + moves  # start, before, now
        came[number] = options.argmin(1)
        totals = options.min(1) + cost[number]
    start, end = np.unravel_index(int((totals + moves).argmin()), totals.shape)
    path = [int(end)]
    for number in range(count - 1, 0, -1):
        path.append(int(came[number, start, path[-1]]))
    return np.array(path[::-1])
