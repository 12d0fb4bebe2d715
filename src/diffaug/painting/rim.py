"""Whether the tissue that a moved lesion brings along meets the tissue of its place.

A lesion that lay in debris or before dark lumen does not suit even tissue, nor one from even tissue the edge of a fold:
its rim looks cut out, whatever is blended. So light and dark of both are compared around the lesion, after light has
been made up for, with how much they vary around the annotated lesions of the same data.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.masks import MaskEntry
from diffaug.data.images import Mask

Values = NDArray[np.float64]
SIDE = 128  # px; about how many a side are compared of a window
TEXTURE, LIGHT = 0.15, 0.75  # of the halo; structure finer than the first is texture, coarser than the second is light
COMPARED, VARYING = (0.1, 1.0), (0.15, 0.8)  # of the halo; the rings where lesion and place, and real lesions, count
SPREAD = 0.9  # quantile of the differences that counts
LEAST = 4.0  # px; radius of a lesion in a draft that tells how light varies around it
FEWEST = 30  # pixels of a ring that tell it


def rim_difference(patch: NDArray[np.float32], place: NDArray[np.float32], new: Mask, halo: float) -> float:
    """Return by how much L* around a moved lesion differs from that of its place, by its SPREAD quantile.

    Args:
        patch: What is moved, in the light of the place, (s, s, 3), grey levels.
        place: What was there, (s, s, 3).
        new: The lesion, (s, s).
        halo: How much tissue the lesion brings along, px; 0 is none, which differs by 0.
    """
    step = max(1, len(new) // SIDE)
    shown, there, inside = patch[::step, ::step], place[::step, ::step], new[::step, ::step]
    width = halo / step
    away = ndimage.distance_transform_edt(~inside)
    ring = _ring(away, width, COMPARED)
    if not ring.any():
        return 0.0
    apart = ndimage.gaussian_filter(_lightness(shown) - _lightness(there), TEXTURE * width)
    return float(np.quantile(np.abs(apart[ring]), SPREAD))


def usual_variation(backgrounds: Backgrounds, lesions: Iterable[MaskEntry], share: float) -> float:
    """Return by how much L* varies around real lesions, without texture and light.

    It is the median over the lesions of their SPREAD quantiles.

    Args:
        backgrounds: What is known of their frames.
        lesions: The annotated lesions.
        share: Width of a lesion's halo over the radius of its area.

    Returns:
        L*; infinite if no lesion is large enough to tell.
    """
    found = [spread for lesion in lesions if (spread := _variation(backgrounds, lesion, share)) is not None]
    return float(np.median(found)) if found else float("inf")


def _variation(backgrounds: Backgrounds, lesion: MaskEntry, share: float) -> float | None:
    radius = float(np.sqrt(lesion.draft.area / np.pi))
    if radius < LEAST:
        return None
    draft, halo = backgrounds.draft(lesion.case), share * radius
    away = ndimage.distance_transform_edt(~lesion.draft.in_frame())
    tissue = backgrounds.placement_map(lesion.case).field & ~draft.lesion
    ring = tissue & _ring(away, halo, VARYING)
    if np.count_nonzero(ring) < FEWEST:
        return None
    around = (tissue & (away <= 2 * LIGHT * halo)).astype(np.float64)
    light = _lightness(draft.image)
    even, fine = (_smoothed(light, around, width * halo) for width in (LIGHT, TEXTURE))
    return float(np.quantile(np.abs(fine - even)[ring], SPREAD))


def _ring(away: Values, halo: float, ends: tuple[float, float]) -> Mask:
    return np.asarray((away > ends[0] * halo) & (away <= ends[1] * halo))


def _lightness(image: NDArray[Any]) -> Values:
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return np.asarray(lab_from_rgb(pixels)[..., 0], dtype=np.float64)


def _smoothed(values: Values, where: Values, sigma: float) -> Values:
    """Smooth values where they count: normalised convolution (Knutsson and Westin 1993)."""
    total, weight = (ndimage.gaussian_filter(each, sigma) for each in (values * where, where))
    return np.asarray(total / np.maximum(weight, 1e-3))
