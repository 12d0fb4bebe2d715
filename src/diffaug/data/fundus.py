"""Fundus photographs: their classes, the cup-to-disc ratio, and where the disc lies by the light of the image alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.data.case import LabelClass
from diffaug.data.images import Mask, Pixels, check_image, check_mask

DISC_AND_CUP = (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))  # 1 = rim, 2 = cup: the disc holds the cup
SIDE = 256  # px; the longer side of the image that is searched
DARK = 16  # grey levels; what is darker lies outside the field of view
DISC = 0.14  # disc diameter over field diameter: 1.8 mm on the 13 mm that a field of 45 degrees shows

Light = NDArray[np.float64]  # (H, W), grey levels


def disc_and_cup(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the places of disc and cup among the names of classes, or None where they are not both there."""
    return (names.index("disc"), names.index("cup")) if {"disc", "cup"} <= set(names) else None


def vertical_diameter(mask: Mask) -> int:
    """Return the largest number of pixels of a mask (H, W) in one column; 0 of an empty mask.

    Raises:
        ShapeError: The mask is not two-dimensional.
        DataError: The mask is not boolean.
    """
    check_mask(mask)
    return int(np.count_nonzero(mask, axis=0).max(initial=0))


def vertical_ratio(disc: Mask, cup: Mask) -> float | None:
    """Return the vertical cup-to-disc ratio (vCDR) of two masks of one photograph, upright, both (H, W).

    vCDR = vertical diameter of the cup / vertical diameter of the disc, each the longest column of the mask. The disc
    holds its cup: a class `disc` that is declared as the rim alone counts with it.

    Returns:
        0 without a cup; None without a disc, where the ratio has no meaning.

    Raises:
        ShapeError: A mask is not two-dimensional, or the two differ in size.
        DataError: A mask is not boolean.

    Source: Orlando et al. 2020 (doi:10.1016/j.media.2019.101570), the REFUGE challenge, which compares the ratio.
    """
    check_mask(disc)
    check_mask(cup, disc.shape)
    return vertical_diameter(cup) / vertical_diameter(disc | cup) if disc.any() else None


@dataclass(frozen=True)
class DiscPlace:
    """Where the optic disc is expected: its centre and its diameter, in px of the image."""

    row: float
    column: float
    diameter: float


def locate_disc(image: Pixels) -> DiscPlace:
    """Find the optic disc of a fundus photograph by simple image analysis; no annotation is used.

    The disc is the brightest spot of its own size: where the mean of red and green, smoothed to that size, is furthest
    above the light around it, G(d / 3) - G(d). G(s) is a Gaussian of standard deviation s inside the field of view, d
    the expected diameter, which follows from the width of the field, not from the disc. Places closer to the border
    than half a disc are left out: flash haze is as bright there.

    Args:
        image: A whole photograph, shape (H, W, 3), uint8 RGB: a field of view of about 45 degrees on a dark ground.

    Returns:
        The place; the middle of the image where it has no field of view.

    Raises:
        ShapeError: The image has not the shape (H, W, 3).
        DataError: The image does not hold bytes.

    Example:
        >>> rows, columns = np.mgrid[:300, :300] - 150
        >>> field = 90.0 * (np.hypot(rows, columns) < 140)
        >>> field += 120 * np.exp(-(rows**2 + (columns - 60) ** 2) / 15**2)
        >>> place = diffaug.locate_disc(np.repeat(field[:, :, None], 3, axis=2).astype(np.uint8))
        >>> round(place.row / 300, 1), round(place.column / 300, 1)  # as shares of the image
        (0.5, 0.7)

    A rule of this project; compare Sinthanayothin et al. 1999 (doi:10.1136/bjo.83.8.902), who take the place where the
    brightness varies most. Bright lesions as large as the disc can mislead it.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    check_image(image)
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), dtype=np.float64)
    field = np.asarray(binary_fill_holes(small.max(axis=2) >= DARK))
    if not field.any():
        return DiscPlace(height / 2, width / 2, DISC * max(height, width))
    diameter = DISC * max(np.ptp(axis) + 1 for axis in np.nonzero(field))
    light = small[:, :, :2].mean(axis=2)
    response = _smooth(light, field, diameter / 3) - _smooth(light, field, diameter)
    depth = np.asarray(distance_transform_edt(np.pad(field, 1)))[1:-1, 1:-1]
    response[depth < min(diameter / 2, depth.max())] = -np.inf
    row, column = np.unravel_index(np.argmax(response), response.shape)
    return DiscPlace((float(row) + 0.5) / scale, (float(column) + 0.5) / scale, diameter / scale)


def _smooth(light: Light, field: NDArray[np.bool_], deviation: float) -> Light:
    """Return the Gaussian mean of the light inside the field."""
    from scipy.ndimage import gaussian_filter

    share = np.maximum(gaussian_filter(field.astype(np.float64), deviation), 1e-6)
    mean: Light = gaussian_filter(light * field, deviation) / share
    return mean


def crop_around(place: DiscPlace, height: int, width: int, diameters: float) -> tuple[slice, slice]:
    """Return the rows and columns of a square around a disc, moved into the image where it leaves it.

    Args:
        place: The disc.
        height: Of the image, px.
        width: Of the image, px.
        diameters: Side of the square in disc diameters; at most the shorter side of the image.
    """
    side = min(round(diameters * place.diameter), height, width)
    top = min(max(0, round(place.row - side / 2)), height - side)
    left = min(max(0, round(place.column - side / 2)), width - side)
    return slice(top, top + side), slice(left, left + side)
