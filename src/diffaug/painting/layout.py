"""Layouts: what is painted where, in native pixels, and what sampling starts from.

A layout is a pure function of a background, its masks, its field of view and a seed.
"""

from dataclasses import dataclass

import numpy as np

from diffaug.conditioning.attributes import band_width, bounding_box, longer_side
from diffaug.conditioning.placement import BAND
from diffaug.conditioning.request import RequestMasks
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import size_class
from diffaug.data.request import RemovedRegion
from diffaug.painting.below import share_below
from diffaug.painting.compose import halo_width, reach_of, region_of, without_border
from diffaug.painting.window import CONTEXT, Window, resized, window_around

LIT = 0.8  # of the halo; by so much a window is wider than its region, to show the light of the place
LEAST_SHARE = 0.01  # of an effect below a lesion; less of it is left out of the region
FINEST = 4  # times the painter's pixels; an example is moved in pixels no finer than these


@dataclass(frozen=True, eq=False)
class Layout:
    """A painting that is laid out on its background, before it is painted.

    Attributes:
        index: Number of the request.
        background: Frame, (H, W, 3).
        masks: The new lesion, the old ones that it replaces, and the label of the result, each (H, W).
        classes: What is to be painted of each class, (K, H, W); empty masks for lesion-free tissue.
        prompt: What is painted, in words.
        seed: Of the noise, the window and the grain.
        size_bin: Size class of the new lesion.
        negative: Whether lesion-free tissue is painted where the new mask lies.
        fold: The validator that looks at it, which has not seen the case of its mask; None asks all of them.
        region: Where the result may differ from the background, (H, W): the masks and the blending band around them,
            or the halo of the new one where that is wider, and what it darkens or brightens below itself.
        reach: What the painter fills, (H, W): masks and blending band, and what lies beside them outside the field of
            view.
        field: Field of view; nothing outside it changes.
        band: Width of the blending band, px.
        halo: Width of what an example brings along of the tissue around it, px.
        depth: How far below itself the new lesion changes an ultrasound image, px; 0 in others.
        window: The square that is painted.
        tissue: The window's pixels with border and overlays filled, (s, s, 3).
        start: What sampling starts from, in pixels as fine as the painter's or finer; None is noise alone.
        removed: Regions of the background that were painted lesion-free before.
        covered: Whether tissue of the frame covers what the new lesion leaves of an old one.
    """

    index: int
    background: Pixels
    masks: RequestMasks
    classes: Mask
    prompt: str
    seed: int
    size_bin: str
    negative: bool
    fold: int | None
    region: Mask
    reach: Mask
    field: Mask
    band: float
    halo: float
    depth: float
    window: Window
    tissue: Pixels
    start: Pixels | None = None
    removed: tuple[RemovedRegion, ...] = ()
    covered: bool = True

    @property
    def shown(self) -> Pixels:
        """What the painter sees around what it fills, (s, s, 3) in pixels of any size: the start, or the tissue."""
        return self.tissue if self.start is None else self.start

    @property
    def remains(self) -> float:
        """The largest share of a removed lesion that the validator still finds; 0 where none was removed."""
        return max((region.found_after for region in self.removed), default=0.0)

    @property
    def is_clear(self) -> bool:
        """Whether tissue of the frame covers what is to go of the lesions that were there."""
        return self.covered and all(region.patched for region in self.removed)


def layout_of(
    background: Pixels,
    masks: RequestMasks,
    classes: Mask,
    field: Mask,
    *,
    prompt: str,
    seed: int,
    index: int = 0,
    size_bin: str | None = None,
    negative: bool = False,
    fold: int | None = None,
    removed: tuple[RemovedRegion, ...] = (),
    halo: float = 0.0,
    depth: float = 0.0,
) -> Layout:
    """Lay a painting out: its region, its band, and a window of a size that is drawn from the seed.

    Args:
        background: Frame, (H, W, 3).
        masks: Masks of the frame; the new one is not empty, and lies in the field of view.
        classes: The new lesion of each class, (K, H, W).
        field: Field of view, (H, W).
        prompt: What is painted.
        seed: Of all that is drawn.
        index: Number of the request.
        size_bin: Size class; measured on the new mask unless given.
        negative: Whether lesion-free tissue is painted.
        fold: Which validator looks at it; None is all of them.
        removed: What was painted away on the background before.
        halo: Width of what an example brings along of the tissue around it, a share of the radius of the new lesion's
            area; 0 leaves it at the blending band.
        depth: How far below itself the new lesion changes the image, a share of its height.
    """
    band = band_width(masks.new, BAND)
    filled = region_of(masks.new, masks.old, band) & field
    width = max(band, halo_width(masks.new, halo))
    top, _, bottom, _ = bounding_box(masks.new)
    reached = region_of(masks.new, masks.new, width)
    if depth:
        reached |= share_below(masks.new, depth * (bottom - top)) > LEAST_SHARE
    region = filled | (reached & field & ~(masks.label & ~masks.new))
    context = float(np.random.default_rng((seed, 1)).uniform(*CONTEXT))
    side = min(round(context * longer_side(masks.new | masks.old)), max(field.shape))
    window = window_around(region, 1.0, least=max(32, side, longer_side(region) + round(LIT * width) + 4))
    reach = reach_of(filled, field, band)
    tissue: Pixels = np.asarray(window.crop(without_border(background, field, reach, window)), dtype=np.uint8)
    size = size_bin or size_class(float(masks.new.mean()))
    return Layout(
        index, background, masks, classes & (not negative), prompt, seed, size, negative, fold,
        region, reach, field, band, width, depth * (bottom - top), window, tissue, removed=removed,
    )  # fmt: skip


def tissue_of(layout: Layout, side: int) -> Pixels:
    """Return the tissue of a layout's window in pixels as fine as the painter's, whose side is given, or finer."""
    return resized(layout.tissue, finest(layout.window, side))


def finest(window: Window, side: int) -> int:
    """Return the side in pixels of what sampling starts from: those of the frame, none coarser than the painter's."""
    return min(max(window.side, side), FINEST * side)
