"""What the values of a mask stand for: codes of classes, soft edges, and the background of a palette.

Knows arrays; opens no files.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 8  # values; a mask of more than that above 127 has soft edges
NOISE = 2  # grey levels; a value that has others so near, and they fill no area, comes from a lossy copy
SOLID = 5  # px; soft edges are thinner than this, areas of a class are not
APART = 9  # px of an area that touches nothing lighter: it is no soft edge
BLACK = 20  # of 255; a colour of a palette none of whose channels is over this is background


def is_solid(area: NDArray[np.bool_]) -> bool:
    """Tell whether a square of SOLID px lies inside an area, (H, W)."""
    from scipy.ndimage import minimum_filter

    return bool(minimum_filter(area, SOLID, mode="constant", cval=0).any())


def pure_codes(solid: Sequence[int], found: NDArray[Any]) -> list[int]:
    """Return the values that fill areas, without those that stand among nearly equal ones, as noise does."""
    stray = np.array([value for value in found if value not in solid], dtype=np.int64)
    return [value for value in solid if not (np.abs(stray - value) <= NOISE).any()]


def lost_codes(values: NDArray[Any], threshold: float) -> list[int]:
    """Return the values over 0 that a threshold would lose, though they fill areas or stand apart: codes of lesions.

    Soft edges are thin and touch what is lighter, and have many values; both kinds of mask are told apart by that.

    Args:
        values: Shape (H, W), 0 = background.
        threshold: Values up to it would be background.

    Returns:
        All values of the mask, ascending, if some of them would be lost; () where none would.
    """
    from scipy.ndimage import label

    low = (values > 0) & (values <= threshold)
    if not low.any():
        return []
    found = np.unique(values[values > 0]).astype(np.int64)
    if len(found) > FEW:
        return []
    codes = [int(value) for value in found]
    parts, count = label(values > 0, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    kept = np.bincount(parts[values > threshold], minlength=count + 1)
    alone = np.flatnonzero((sizes >= APART) & (kept == 0) & (np.arange(count + 1) > 0))
    apart = [value for value in np.unique(values[np.isin(parts, alone)]) if (np.abs(found - value) <= NOISE).sum() == 1]
    solid = [value for value in codes if value <= threshold and is_solid(values == value)]
    return codes if apart or pure_codes(solid, found) else []


def background_of(palette: NDArray[Any], used: Sequence[int]) -> int | None:
    """Return the index of a palette of colours that is the background: 0, or the only black that is used.

    Args:
        palette: Red, green and blue of each index, shape (n, 3).
        used: Indices that the picture has, ascending.

    Returns:
        None where the picture does not say: index 0 is a colour, and black is not used once.
    """
    dark = [index for index in used if (palette[min(index, len(palette) - 1)] <= BLACK).all()]
    first_is_dark = bool((palette[0] <= BLACK).all())
    if first_is_dark or not len(palette):
        return 0
    return dark[0] if len(dark) == 1 else None
