"""Where lesions lie in the annotated frames, and how likely one lies at each place of another frame.

The density of a place is a product of three ratios, each of how often lesions lie there and how often tissue does:

    w = p_lesion(u, v) / p_tissue(u, v) * p_lesion(light) / p_tissue(light) * p_lesion(texture) / p_tissue(texture)

(u, v) is the position in the bounding box of the field of view, light the mean L* of the tissue around the place less
the median of the frame, texture the spread of L* around the place. Around means a box in proportion to the lesion, of
tissue without lesions. Densities are histograms, smoothed, with some lesions more that lie like tissue: few annotated
lesions say little, and none excludes a place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.masks import MaskEntry
from diffaug.conditioning.placement import PlacementMap

POSITIONS = 12  # bins of a position, each way
BINS = 8  # of light and of texture: eighths of the tissue
PRIOR = 2.0  # lesions in each bin, and in all for positions, that lie like tissue
FLOOR = 0.05  # least density, as a share of the mean over the frame
AROUND = 1.7  # side of the box, over the diameter of the lesion
LIKE = 0.6  # a lesion speaks less of others the more their diameters differ; the deviation of the logarithm
DEPTH = 0.06  # of the height of the tissue in a scan; by so much the depth of a moved lesion deviates from its own
FARTHEST = 3  # times that, at most
FRAMES, PER_FRAME, TISSUE = 40, 8, 64  # frames that are learned from, lesions of each, and places of tissue for each

Map = NDArray[np.float64]


@dataclass(frozen=True)
class Site:
    """The place of one lesion: its position, 0..1; its diameter over the side of a square frame; light and texture."""

    across: float
    down: float
    diameter: float
    light: float
    texture: float


def surroundings_at(places: PlacementMap, diameter: float) -> tuple[Map, Map]:
    """Return light and texture around each cell, for a lesion of so many px; NaN where little tissue is around."""
    tissue = (places.tissue & ~places.lesion).astype(np.float64)
    side = max(3, round(AROUND * diameter / places.cell))
    light = places.lightness.astype(np.float64)
    share, mean, square = (
        ndimage.uniform_filter(values, side, mode="constant") for values in (tissue, tissue * light, tissue * light**2)
    )
    enough = share > 0.15
    mean, square = (np.where(enough, values / np.maximum(share, 1e-6), np.nan) for values in (mean, square))
    usual = float(np.median(light[tissue > 0])) if tissue.any() else 0.0
    return mean - usual, np.sqrt(np.maximum(square - mean**2, 0.0))


def positions_in(places: PlacementMap) -> tuple[Map, Map]:
    """Return the position of each cell across and down the bounding box of the tissue, 0..1 inside it."""
    grid = np.indices(places.tissue.shape).astype(np.float64)
    found = []
    for axis in (1, 0):
        inside = np.flatnonzero(places.tissue.any(axis=1 - axis))
        first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (0, places.tissue.shape[axis] - 1)
        found.append(np.clip((grid[axis] - first + 0.5) / (last - first + 1), 0.0, 1.0 - 1e-9))
    return found[0], found[1]


def site_of(places: PlacementMap, lesion: MaskEntry) -> Site:
    """Measure the place of a lesion of a frame.

    Args:
        places: Of the draft of its frame.
        lesion: In that draft.
    """
    row, column = ndimage.center_of_mass(lesion.crop)
    cell = _cell_at(places, lesion.top + row, lesion.left + column)
    across, down = positions_in(places)
    light, texture = surroundings_at(places, _diameter(lesion))
    share = float(np.sqrt(lesion.relative_area))
    return Site(float(across[cell]), float(down[cell]), share, float(light[cell]), float(texture[cell]))


class Sites:
    """What is known of where lesions lie."""

    def __init__(self, backgrounds: Backgrounds, lesions: Sequence[MaskEntry]) -> None:
        """Take the backgrounds, and the annotated lesions on them. They are measured when it is first asked."""
        self._backgrounds = backgrounds
        names = list(dict.fromkeys(lesion.case for lesion in lesions))
        sample = names[:: -(-len(names) // FRAMES)] if names else []
        self._lesions = [lesion for lesion in lesions if lesion.case in sample and lesion.component < PER_FRAME]

    def density(self, name: str, removed: bool, share: float, lesion: MaskEntry | None = None) -> Map:
        """Return how likely a lesion lies at each cell of a background, relative to others.

        Args:
            name: The background.
            removed: Whether its lesions are painted away first.
            share: Of the frame that the lesion covers.
            lesion: The one that is moved there; where down is away from the probe it stays at about its depth, and is
                nowhere else: its grain and what it does to the tissue below are those of that depth. None for any.
        """
        places, relative = self._backgrounds.placement_map(name, removed), float(np.sqrt(share))
        diameter = relative * float(np.sqrt(4 / np.pi * places.frame[0] * places.frame[1]))
        across, down = positions_in(places)
        ratio = self._position_ratio(relative)[_binned(down, POSITIONS), _binned(across, POSITIONS)]
        for values, (edges, ratios) in zip(surroundings_at(places, diameter), self._ratios, strict=True):
            ratio = ratio * np.where(np.isnan(values), 1.0, ratios[np.searchsorted(edges, values)])
        ratio = np.maximum(ratio, FLOOR * float(ratio.mean()))
        if lesion is not None and self._backgrounds.rules.is_upright:
            own = site_of(self._backgrounds.placement_map(lesion.case), lesion.draft).down
            apart = np.abs(down - own) / DEPTH
            ratio = np.where(apart <= FARTHEST, ratio * np.exp(-0.5 * apart**2), 0.0)
        return ratio

    @cached_property
    def sites(self) -> list[Site]:
        """The places of the annotated lesions."""
        return [site_of(self._backgrounds.placement_map(each.case), each.draft) for each in self._lesions]

    @cached_property
    def _tissue(self) -> Map:
        """How much of the tissue of the frames lies in each bin of positions, smoothed; it sums to 1."""
        total = np.zeros((POSITIONS, POSITIONS))
        for name in dict.fromkeys(each.case for each in self._lesions):
            places = self._backgrounds.placement_map(name)
            across, down = (_binned(values[places.tissue], POSITIONS) for values in positions_in(places))
            np.add.at(total, (down, across), 1.0 / max(1, len(down)))
        total = total if total.any() else np.ones_like(total)
        return np.asarray(total / total.sum())

    @cached_property
    def _ratios(self) -> list[tuple[Map, Map]]:
        """The edges of the bins of light and of texture, and the ratio of each bin."""
        lights: list[Map] = []
        textures: list[Map] = []
        for each in self._lesions:
            places = self._backgrounds.placement_map(each.case)
            inside = np.flatnonzero(places.tissue & ~places.lesion)
            some = inside[:: max(1, len(inside) // TISSUE)]
            for values, found in zip(surroundings_at(places, _diameter(each.draft)), (lights, textures), strict=True):
                found.append(values.ravel()[some])
        pairs = ((lights, [site.light for site in self.sites]), (textures, [site.texture for site in self.sites]))
        return [_ratio(np.concatenate([np.zeros(0), *tissue]), np.array(lesions)) for tissue, lesions in pairs]

    def _position_ratio(self, relative: float) -> Map:
        """Return the ratio of each bin of positions, for a lesion of so much of a square frame's side."""
        if not self.sites:
            return np.ones((POSITIONS, POSITIONS))
        found = np.zeros((POSITIONS, POSITIONS))
        apart = np.log([site.diameter / relative for site in self.sites])
        weights = np.exp(-0.5 * (apart / LIKE) ** 2) + 1e-3
        for site, weight in zip(self.sites, weights, strict=True):
            found[int(site.down * POSITIONS), int(site.across * POSITIONS)] += weight
        number = float(weights.sum() ** 2 / (weights**2).sum())  # of lesions that speak
        width = POSITIONS * 0.25 * number ** (-1 / 6)  # Scott's rule; positions deviate by about a quarter
        lesions, tissue = (ndimage.gaussian_filter(part, width, mode="nearest") for part in (found, self._tissue))
        lesions = lesions / lesions.sum() * number
        return np.asarray((lesions + PRIOR * tissue) / ((number + PRIOR) * np.maximum(tissue, 1e-4)))


def _ratio(tissue: Map, lesions: Map) -> tuple[Map, Map]:
    """Return the inner edges of the bins, which tissue fills alike, and in which share lesions lie in each of them."""
    tissue, lesions = tissue[~np.isnan(tissue)], lesions[~np.isnan(lesions)]
    if not len(tissue) or not len(lesions):
        return np.zeros(0), np.ones(1)
    edges = np.quantile(tissue, np.arange(1, BINS) / BINS)
    of_tissue, of_lesions = (
        np.bincount(np.searchsorted(edges, values), minlength=BINS) for values in (tissue, lesions)
    )
    expected = len(lesions) * of_tissue / len(tissue)
    return edges, np.asarray((of_lesions + PRIOR) / (expected + PRIOR))


def _diameter(lesion: MaskEntry) -> float:
    return float(np.sqrt(4 * lesion.area / np.pi))


def _cell_at(places: PlacementMap, row: float, column: float) -> tuple[int, int]:
    rows, columns = places.tissue.shape
    return min(rows - 1, int(row // places.cell)), min(columns - 1, int(column // places.cell))


def _binned(values: Map, bins: int) -> NDArray[np.intp]:
    return np.asarray(np.minimum(values * bins, bins - 1), dtype=np.intp)
