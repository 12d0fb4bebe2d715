"""What a lesion does to the ultrasound image below it: a shadow, or tissue that looks brighter.

Sound comes from the top of the image. A lesion that swallows it leaves the tissue below dark, and a cyst lets through
more of it than tissue does. Both change slowly, and are a factor on the brightness of what lies below. It is measured
as the brightness below a lesion over that of the tissue beside it, at the same depth.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.conditioning.attributes import bounding_box
from diffaug.data.images import Mask
from diffaug.painting.light import LEVEL, brightness

Values = NDArray[np.float32]
FADES = 0.25  # of the depth; from here on the factor fades
EDGE = 0.06  # of a lesion's width; the Gaussian that the sides of the column are smoothed by
SMOOTH = 0.1  # of a lesion's width; what is finer belongs to the tissue, and is no part of the factor
BESIDE = (0.1, 0.7)  # of a lesion's width; the tissue beside it lies between these distances from its sides
SEEN = 0.3  # share of the pixels that must be tissue where the factor is measured
DARKER, BRIGHTER = -0.9, 0.6  # least and most of the factor's natural logarithm
LIGHTEST = 170.0  # grey level, smoothed by SMOOTHED px, to which tissue is brightened at most
SMOOTHED = 3.0


def share_below(lesion: Mask, depth: float) -> Values:
    """Return how much of the factor acts on each pixel, (H, W): 1 right below a lesion, 0 from `depth` px on."""
    rows = np.arange(len(lesion))[:, None]
    lowest = np.maximum.accumulate(np.where(lesion, rows, -1), axis=0)
    far = np.where((lowest >= 0) & ~lesion, rows - lowest, np.inf) / max(depth, 1.0)
    share = np.clip((1 - far) / (1 - FADES), 0, 1)
    _, left, _, right = bounding_box(lesion)
    return np.asarray(ndimage.gaussian_filter1d(share, EDGE * (right - left), axis=1), dtype=np.float32)


def contrast_to_sides(image: NDArray[Any], lit: Mask, lesion: Mask) -> Values:
    """Return the logarithm of the brightness over that of the tissue beside a lesion at the same depth, (H, W).

    Args:
        image: Shape (H, W, 3), grey levels.
        lit: Where it shows tissue that is no lesion, (H, W); 0 is returned where too little is seen.
        lesion: Shape (H, W), not empty.
    """
    light, seen = np.log(brightness(image)[..., 0] + LEVEL), lit.astype(np.float32)
    _, left, _, right = bounding_box(lesion)
    width = right - left
    columns = np.arange(image.shape[1])
    away = np.maximum(left - columns, columns - (right - 1))
    beside = (away >= BESIDE[0] * width) & (away <= BESIDE[1] * width)
    if not beside.any():
        return np.zeros(lit.shape, dtype=np.float32)
    sigma = SMOOTH * width
    known, values = (ndimage.gaussian_filter(each, sigma) for each in (seen, light * seen))
    rows, sums = (each[:, beside].mean(axis=1) for each in (seen, light * seen))
    rows, sums = (ndimage.gaussian_filter1d(each, sigma)[:, None] for each in (rows, sums))
    found = values / np.maximum(known, 1e-3) - sums / np.maximum(rows, 1e-3)
    return np.asarray(np.where((known > SEEN) & (rows > SEEN), found, 0), dtype=np.float32)


def with_effect_below(
    place: NDArray[Any], usable: Mask, patch: NDArray[Any], lit: Mask, lesion: Mask, depth: float
) -> Values:
    """Return a place, (H, W, 3), that looks below a lesion as the tissue below its example looks.

    Args:
        place: What lies there without the lesion, (H, W, 3), grey levels.
        usable: Where it shows tissue, (H, W).
        patch: The example, moved there, (H, W, 3).
        lit: Where that shows tissue, (H, W).
        lesion: The new lesion, (H, W), not empty.
        depth: How far the effect reaches, px.
    """
    change = contrast_to_sides(patch, lit & ~lesion, lesion) - contrast_to_sides(place, usable & ~lesion, lesion)
    factor = np.exp(share_below(lesion, depth) * np.clip(change, DARKER, BRIGHTER))[..., None]
    light = brightness(place)
    usual = np.maximum(ndimage.gaussian_filter(light, (SMOOTHED, SMOOTHED, 0)), 1)
    return np.asarray(place * np.minimum(factor, np.maximum(LIGHTEST / usual, 1)), dtype=np.float32)
