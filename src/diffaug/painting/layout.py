"""Layouts: what is painted where, in native pixels, and what sampling starts from.

A layout is a pure function of a background, its masks, its field of view and a seed.
"""

from dataclasses import dataclass

import numpy as np

from diffaug.conditioning.attributes import longer_side
from diffaug.conditioning.placement import BAND
from diffaug.conditioning.request import RequestMasks
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import size_class
from diffaug.data.manifest import RemovedRegion
from diffaug.painting.compose import band_width, reach_of, region_of, without_border
from diffaug.painting.window import CONTEXT, Window, resized, window_around

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
        region: Where the result may differ from the background, (H, W).
        reach: What the painter fills: the region, and what lies beside it outside the field of view.
        field: Field of view; nothing outside it changes.
        band: Width of the blending band, px.
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
    window: Window
    tissue: Pixels
    start: Pixels | None = None
    removed: tuple[RemovedRegion, ...] = ()
    covered: bool = True

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
    """
    band = band_width(masks.new, BAND)
    region = region_of(masks.new, masks.old, band) & field
    context = float(np.random.default_rng((seed, 1)).uniform(*CONTEXT))
    window = window_around(masks.new | masks.old, context, least=max(32, longer_side(region) + 4))
    reach = reach_of(region, field, band)
    tissue: Pixels = np.asarray(window.crop(without_border(background, field, reach)), dtype=np.uint8)
    size = size_bin or size_class(float(masks.new.mean()))
    return Layout(
        index, background, masks, classes & (not negative), prompt, seed, size, negative, fold,
        region, reach, field, band, window, tissue, removed=removed,
    )  # fmt: skip


def tissue_of(layout: Layout, side: int) -> Pixels:
    """Return the tissue of a layout's window in pixels as fine as the painter's, whose side is given, or finer."""
    return resized(layout.tissue, finest(layout.window, side))


def finest(window: Window, side: int) -> int:
    """Return the side in pixels of what sampling starts from: those of the frame, none coarser than the painter's."""
    return min(max(window.side, side), FINEST * side)
