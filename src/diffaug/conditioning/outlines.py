"""Procedural outlines: masks without a lesion behind them, within the ranges that a finding's outline names.

An outline is a closed curve around an ellipse, r(theta) = 1 + s sum_k a_k cos(k theta + b_k) / k^1.5, k = 2..6: the
ellipse's axes set the eccentricity, s the solidity, and both are measured, as on any mask, before the outline is used.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.attributes import shape_of
from diffaug.conditioning.findings import Finding, Library, Outline, nearest
from diffaug.conditioning.masks import MaskEntry, MaskTransform, draw_transform, largest_component
from diffaug.conditioning.prompts import WORDS, shape_word
from diffaug.data.case import Mask
from diffaug.data.lesions import size_class
from diffaug.errors import FindingsError

SIDE = 256  # px; side of the frame that an outline is drawn for
RADIUS = 28  # px; its mean radius there
WAVES = np.arange(2, 7)
ROUGHEST = 0.9  # largest s
ATTEMPTS = 40  # outlines drawn until one is within the ranges
HALVINGS = 6  # of the interval of s


@dataclass(frozen=True)
class OutlineSource:
    """Outlines of a library's findings, whose sizes follow the training lesions.

    Attributes:
        library: Its spoken heads with an outline are drawn.
        areas: Shares of the frame of the training lesions.
    """

    library: Library
    areas: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a library without an outline."""
        if not self.findings():
            raise FindingsError(
                f"procedural masks need a finding with an outline: the domain {self.library.domain} has none; "
                "use --masks bank, or add an outline to a finding"
            )

    def findings(self) -> dict[str, Finding]:
        """Return the findings that can be drawn, by name."""
        head = next(group for group, role in self.library.groups.items() if role == "head")
        return {name: one for name, one in self.library.spoken(head).items() if one.outline}

    def draw(self, rng: np.random.Generator) -> tuple[MaskEntry, MaskTransform]:
        """Draw a size from the data, a finding that occurs at that size, and an outline."""
        transform = draw_transform(rng)
        return self.draw_at(self.areas[int(rng.integers(len(self.areas)))] * transform.scale**2, transform, rng)

    def draw_at(
        self, area: float, transform: MaskTransform, rng: np.random.Generator
    ) -> tuple[MaskEntry, MaskTransform]:
        """Draw an outline of a size, a share of the frame; angle and flip are the transform's."""
        found = self.findings()
        called = {
            name: one for name, one in found.items() if size_class(area) in one.attributes.get("size", WORDS["size"])
        }
        fitting = [name for name, one in called.items() if _occurs(one, area)] or list(called or found)
        name, seed = fitting[int(rng.integers(len(fitting)))], int(rng.integers(2**31))
        entry = self.entry(name, seed)
        scale = round(float(np.sqrt(area / entry.relative_area)), 4)
        return entry, MaskTransform(scale, transform.angle, transform.flip)

    def entry(self, name: str, component: int) -> MaskEntry:
        """Return the outline of a finding with a seed.

        Raises:
            FindingsError: The library has no such outline, or nothing was drawn within its ranges.
        """
        finding = self.library.findings.get(name)
        if finding is None or finding.outline is None:
            near = nearest(name, self.findings())
            raise FindingsError(f"an outline must be of a known finding: {name!r} is none; {near}")
        return MaskEntry("", component, _drawn(finding, finding.outline, component), 0, 0, (SIDE, SIDE), name)


def _occurs(finding: Finding, area: float) -> bool:
    return finding.outline is not None and finding.outline.area[0] <= area <= finding.outline.area[1]


@lru_cache(maxsize=512)
def _drawn_within(
    eccentricities: tuple[float, float], solidities: tuple[float, float], shapes: tuple[str, ...], seed: int
) -> Mask | None:
    """Return an outline within the ranges, whose shape may be called by one of the words; None if none was found."""
    rng = np.random.default_rng(seed)
    for _ in range(ATTEMPTS):
        wanted, solidity = rng.uniform(*eccentricities), rng.uniform(*solidities)
        waves = rng.standard_normal(len(WAVES)), rng.uniform(0.0, 2 * np.pi, len(WAVES))
        low, high = 0.0, ROUGHEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if shape_of(_curve(wanted, middle, *waves))[1] > solidity else (low, middle)
        mask = _curve(wanted, (low + high) / 2, *waves)
        found = shape_of(mask)
        inside = eccentricities[0] <= found[0] <= eccentricities[1] and solidities[0] <= found[1] <= solidities[1]
        if inside and (not shapes or shape_word(*found) in shapes):
            return mask
    return None


def _drawn(finding: Finding, outline: Outline, seed: int) -> Mask:
    mask = _drawn_within(outline.eccentricity, outline.solidity, finding.attributes.get("shape", ()), seed)
    if mask is None:
        raise FindingsError(
            f"an outline must be drawable: none of {ATTEMPTS} of {finding.term!r} was within eccentricity "
            f"{outline.eccentricity} and solidity {outline.solidity}; widen them"
        )
    return mask


def _curve(eccentricity: float, rough: float, sizes: NDArray[np.float64], phases: NDArray[np.float64]) -> Mask:
    """Return the curve's inside as a tight crop."""
    longer = (1.0 - eccentricity**2) ** -0.25  # the axes are longer and 1 / longer times the radius
    half = int(np.ceil(RADIUS * longer * (1.3 + 1.2 * rough)))
    y, x = np.mgrid[-half : half + 1, -half : half + 1] / RADIUS
    angle, distance = np.arctan2(y * longer, x / longer), np.hypot(y * longer, x / longer)
    waves = np.cos(angle[..., None] * WAVES + phases) * (sizes / WAVES**1.5)
    inside: Mask = distance < np.maximum(0.25, 1.0 + rough * waves.sum(axis=-1))
    return largest_component(inside)
