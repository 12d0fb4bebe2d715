"""Subgroups of test cases: by size, which divides them without rest, and by contrast, which cuts across.

Knows masks and colours of single cases; knows no predictions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffaug.data.case import Case, check_mask_size
from diffaug.data.fundus import disc_and_cup, vertical_ratio
from diffaug.data.lesions import SIZES, size_class

STRATA = (*SIZES, "low-contrast")
LOW = 1 / 3  # the share of training cases under the contrast cut
SMALL_CUP, LARGE_CUP = "smaller-cup", "very-large-cup"
CUP = 0.7  # vertical cup-to-disc ratio; from here on a cup is very large (`findings/fundus.yaml`)


@dataclass(frozen=True)
class Profile:
    """What decides a case's strata: lesion area over image area, and lesion-to-ring colour difference in CIELAB.

    Of disc and cup also the vertical cup-to-disc ratio.
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
    cups = () if profile.cup_ratio is None else (LARGE_CUP if profile.cup_ratio >= CUP else SMALL_CUP,)
    return (size_class(profile.area), *(("low-contrast",) if low else ()), *cups)


def strata_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the strata that cases with these classes have: of disc and cup also those by the size of the cup."""
    return (*STRATA, SMALL_CUP, LARGE_CUP) if disc_and_cup(classes) else STRATA


def profile(case: Case) -> Profile:
    """Measure a case at the size of its files.

    Raises:
        DataError: The image or the mask cannot be read, or they differ in size.
    """
    from diffaug.conditioning.attributes import measure_attributes

    image, mask = case.read_image(), case.read_mask()
    check_mask_size(case, mask.shape, image.shape[:2])
    if not mask.any():
        return Profile(area=0.0, contrast=None)
    contrast = float(measure_attributes(image, mask).colour_contrast)
    places = disc_and_cup(case.class_names)
    ratio = vertical_ratio(*(case.read_masks()[place] for place in places)) if places else None
    return Profile(float(mask.mean()), contrast or None, ratio)  # a contrast of exactly 0 had no ring to compare with


def contrast_cut(profiles: Iterable[Profile]) -> float | None:
    """Return the contrast under which the lowest third of training cases lie; None when none has a contrast."""
    contrasts: Sequence[float] = [one.contrast for one in profiles if one.contrast is not None]
    return float(np.quantile(contrasts, LOW)) if contrasts else None


def record(case: Case, profile: Profile, cut: float | None) -> dict[str, Any]:
    """Return a case's group, profile and strata as the columns of a per-case record."""
    own = {"group": case.group, "area": profile.area, "contrast": profile.contrast}
    return {**own, "strata": list(strata_of(profile, cut))}
