"""How values of more than 8 bits become bytes: what is black and what is white.

Knows arrays; opens no files.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.errors import DataError

DEPTHS = {"8-bit": 255.0, "12-bit": 4095.0, "16-bit": 65535.0, "unit": 1.0}  # what white is in them
PERCENTILES = (0.5, 99.5)  # between which values of more than 8 bits are spread, as in nnU-Net's preprocessing
LEAST_WHITE = 16  # the largest of real numbers over 1 that are still taken for 8 bits
OVERSHOOT = 0.1  # share of white by which real numbers may pass black and white: interpolation does that


def eight_bit(values: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Scale values so that the lower limit becomes 0 and the upper 255; what lies outside is cut."""
    low, high = limits
    numbers = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.clip(np.rint((numbers - low) * (255.0 / max(high - low, 1e-12))), 0, 255).astype(np.uint8)


def percentile_limits(values: NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return two percentiles of the finite values, or their extremes where the percentiles are equal."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.flatten()  # a copy, which is sorted
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, percentiles, overwrite_input=True))
    return (low, high) if high > low else (float(finite.min()), float(finite.max()))


def scaled(values: NDArray[np.generic], where: str) -> tuple[NDArray[np.uint8], str]:
    """Scale values of more than 8 bits to 0..255; their largest value decides the depth, a name of `DEPTHS`.

    Raises:
        DataError: They are negative, or real numbers whose white is not clear: a guess could turn the image black.
    """
    numbers = np.nan_to_num(values.astype(np.float64))
    highest, lowest = numbers.max(initial=0), numbers.min(initial=0)
    is_real = values.dtype.kind == "f"
    unit = is_real and highest <= 1 + OVERSHOOT
    if lowest < (-OVERSHOOT if unit else 0) or (is_real and not unit and highest < LEAST_WHITE):
        raise DataError(
            f"what is white must be clear: case {where} has values from {lowest:g} to "
            f"{highest:g}; import it, with --window CENTRE,WIDTH where you know the scale"
        )
    depth = "16-bit" if highest > 4095 else "12-bit" if highest > 255 else "unit" if unit else "8-bit"
    depth += "-cut" if unit and (highest > 1 or lowest < 0) else ""
    scale = 255.0 / DEPTHS[depth.removesuffix("-cut")]
    return np.clip(np.rint(numbers * scale), 0, 255).astype(np.uint8), depth
