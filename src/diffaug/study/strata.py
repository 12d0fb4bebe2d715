"""Subgroups of test cases: by size, which divides them without rest, and by contrast, which cuts across.

Knows masks and colours of single cases; knows no predictions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffaug.conditioning.domain import domain_of, strata_of_ratio
from diffaug.data.case import Case, check_mask_size
from diffaug.data.lesions import SIZES, size_class

STRATA = (*SIZES, "low-contrast")
LOW = 1 / 3  # the share of training cases under the contrast cut


@dataclass(frozen=True)
class Profile:
    """What decides a case's strata.

    Attributes:
        area: Lesion area over image area.
        contrast: Colour difference between lesion and ring, in CIELAB; None without a ring to compare with.
        cup_ratio: Vertical cup-to-disc ratio; None where it has no meaning.
    """

    area: float
    contrast: float | None
    cup_ratio: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return the fields by name; a ratio only where there is one."""
        values = {"area": self.area, "contrast": self.contrast}
        return values if self.cup_ratio is None else {**values, "cup_ratio": self.cup_ratio}


def strata_of(profile: Profile, cut: float | None) -> tuple[str, ...]:
    """Return every stratum of a case; a lesion-free case has none.

    Args:
        profile: The case's measurements.
        cut: Contrast under which a lesion is `low-contrast`; None when there is no such cut.
    """
    if profile.area == 0:
        return ()
    low = cut is not None and profile.contrast is not None and profile.contrast < cut
    return (size_class(profile.area), *(("low-contrast",) if low else ()), *strata_of_ratio(profile.cup_ratio))


def strata_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the strata that cases with these classes have, those of their domain included."""
    return (*STRATA, *domain_of(classes).strata)


def profile(case: Case) -> Profile:
    """Measure a case at the size of its files.

    Raises:
        DataError: The image or the mask cannot be read, or they differ in size.
    """
    from diffaug.conditioning.attributes import measure_attributes

    image, masks = case.read_image(), case.read_masks()
    mask = np.asarray(masks.any(axis=0))
    check_mask_size(case, mask.shape, image.shape[:2])
    if not mask.any():
        return Profile(area=0.0, contrast=None)
    contrast = float(measure_attributes(image, mask).colour_contrast)
    ratio = domain_of(case.class_names).ratio(masks)
    return Profile(float(mask.mean()), contrast or None, ratio)  # a contrast of exactly 0 had no ring to compare with


def contrast_cut(profiles: Iterable[Profile]) -> float | None:
    """Return the contrast under which the lowest third of training cases lie; None when none has a contrast."""
    contrasts: Sequence[float] = [one.contrast for one in profiles if one.contrast is not None]
    return float(np.quantile(contrasts, LOW)) if contrasts else None


def record(case: Case, profile: Profile, cut: float | None) -> dict[str, Any]:
    """Return a case's group, profile and strata as the columns of a per-case record."""
    own = {"group": case.group, "area": profile.area, "contrast": profile.contrast}
    return {**own, "strata": list(strata_of(profile, cut))}
