"""Outlines as rays: how far a shape reaches from its centre in each direction, and how well one shape fits another.

An example is moved onto a mask along rays (`painting.example`). It may be mirrored and turned a little on the way; what
then remains to be stretched tells how unlike the two shapes are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.data.images import Mask

Values = NDArray[np.float64]
Rays = NDArray[np.intp]  # numbers of rays
RAYS = 128  # directions in which an outline is measured
SMOOTH = 1.5  # rays; of the Gaussian that smooths the measured lengths
UPRIGHT = (0.0,)  # degrees; for images whose lesions keep their upper side
TURNS = tuple(range(-30, 31, 6))  # degrees that an example may be turned by: light and gravity keep their directions


@dataclass(frozen=True)
class Alignment:
    """How a shape is laid over another before it is stretched.

    Attributes:
        angle: Degrees by which directions of the source are turned, from columns towards rows.
        flip: Whether left and right are exchanged first.
        stretch: Standard deviation, over the directions, of the logarithm of the lengths' ratio; 0 for similar shapes.
    """

    angle: float = 0.0
    flip: bool = False
    stretch: float = 0.0

    def direction(self, target: Values) -> Values:
        """Return the directions of the source, radians, that go to directions of the target."""
        turned = target - np.deg2rad(self.angle)
        return np.asarray(np.pi - turned if self.flip else turned)


def centre_of(mask: Mask) -> Values:
    """Return the centroid of a mask that is not empty, (2,): row and column, px."""
    centre: Values = np.argwhere(mask).mean(axis=0)
    return centre


def ray_lengths(mask: Mask, centre: Values) -> Values:
    """Return how far a mask reaches from a point in each of RAYS directions, (RAYS,), px and at least 1.

    The farthest pixel counts: of a shape that a ray crosses several times, its hull along the ray.

    Args:
        mask: Shape (H, W), not empty.
        centre: Row and column, px.
    """
    outline = mask & ~ndimage.binary_erosion(mask)
    away = np.argwhere(outline) - centre
    ray = np.round(np.arctan2(away[:, 0], away[:, 1]) / (2 * np.pi) * RAYS).astype(int) % RAYS
    lengths = np.zeros(RAYS)
    np.maximum.at(lengths, ray, np.hypot(away[:, 0], away[:, 1]))
    known = np.flatnonzero(lengths)
    filled = np.interp(np.arange(RAYS), known, lengths[known], period=RAYS) if len(known) else lengths
    return np.maximum(ndimage.gaussian_filter1d(filled, SMOOTH, mode="wrap"), 1.0)


def star_share(mask: Mask) -> float:
    """Return the area of a mask, (H, W), over that of the shape that its rays span: 1 unless it is bent or branched."""
    lengths = ray_lengths(mask, centre_of(mask))
    return float(np.count_nonzero(mask) / (np.pi * np.mean((lengths + 0.5) ** 2)))


def at_directions(lengths: Values, direction: Values) -> Values:
    """Return ray lengths in some directions, radians, interpolated."""
    return np.interp(direction / (2 * np.pi) * RAYS % RAYS, np.arange(RAYS), lengths, period=RAYS)


def aligned(source: Values, target: Values, turns: Iterable[float] = TURNS) -> Alignment:
    """Return how to lay a shape over another so that it is stretched least; of equals the smallest turn.

    Args:
        source: Ray lengths of the shape that is moved, (RAYS,).
        target: Those of the shape that it is to fill.
        turns: Angles that are allowed, degrees.
    """
    ways, before, after, share = _ways(tuple(sorted(turns, key=abs)))
    ratio = np.log(target / (source[before] * (1 - share) + source[after] * share))
    stretches = np.round(ratio.std(axis=1), 4)
    best = int(np.argmin(stretches))
    return Alignment(*ways[best], float(stretches[best]))


@cache
def _ways(turns: tuple[float, ...]) -> tuple[list[tuple[float, bool]], Rays, Rays, Values]:
    """Return the ways to lay a shape: each an angle, and whether it is flipped; and where its rays lie in the source.

    Each ray of the target lies between two of the source; the last array is how far it lies towards the second, and
    the arrays have the shape (ways, RAYS).
    """
    directions = np.arange(RAYS) / RAYS * 2 * np.pi
    ways = [(float(angle), flip) for angle in turns for flip in (False, True)]
    place = np.array([Alignment(*way).direction(directions) for way in ways]) / (2 * np.pi) * RAYS % RAYS
    before = np.floor(place).astype(np.intp)
    return ways, before % RAYS, (before + 1) % RAYS, place - before
