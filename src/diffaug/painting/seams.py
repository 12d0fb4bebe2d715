"""Whether a painted lesion shows where it was painted: gradients at its border, and fine detail inside and around."""

import numpy as np
from scipy import ndimage

from diffaug.conditioning.attributes import band_width, equivalent_diameter, lab_from_rgb
from diffaug.data.images import Mask, Pixels
from diffaug.painting.compose import region_of

BAND = 0.08  # blending band over the diameter, as `SamplerConfig` has it
DARK = 12.0  # L* under which a pixel is not counted
FEWEST = 20  # pixels of a place


def region_around(mask: Mask) -> Mask:
    """Return where the paint of a lesion may show, (H, W)."""
    return region_of(mask, np.zeros_like(mask), band_width(mask, BAND))


def ratios(image: Pixels, mask: Mask, region: Mask) -> tuple[float, float]:
    """Return the gradient at the region's border over that beside it, and fine detail inside over outside.

    Gradients are those of L* under a Gaussian of 1 px; detail is their median. Border: within 1.5 px; beside it: 3 to
    8 px on both sides. Inside: deeper than the blending band; outside: within half a diameter of the region. Both are
    NaN where a place has too few pixels.
    """
    reach = max(8.0, equivalent_diameter(float(region.sum())) / 2)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    margin = int(reach) + 8
    part = (
        slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
        slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
    )
    lightness, inner = lab_from_rgb(image[part])[..., 0], region[part]
    gradient = ndimage.gaussian_gradient_magnitude(lightness, 1.0)
    inside, outside = ndimage.distance_transform_edt(inner), ndimage.distance_transform_edt(~inner)
    distance = np.where(inner, inside - 0.5, outside - 0.5)
    lit = lightness > DARK
    seam = gradient[(distance < 1.5) & lit], gradient[(distance >= 3) & (distance < 8) & lit]
    band = band_width(mask, BAND)
    detail = gradient[inner & (inside > band) & lit], gradient[~inner & (outside < reach) & lit]
    if min(len(places) for places in (*seam, *detail)) < FEWEST:
        return float("nan"), float("nan")
    return float(seam[0].mean() / seam[1].mean()), float(np.median(detail[0]) / np.median(detail[1]))
