"""Paint the requests that are drawn from a data set.

Reads the images of the cases; writes nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.attributes import bounding_box
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.masks import origin_points
from diffaug.conditioning.placer import REST
from diffaug.conditioning.rays import Alignment, aligned, centre_of, ray_lengths
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.writing import unwritten
from diffaug.data.images import Mask, Pixels
from diffaug.data.request import RemovedRegion, Request
from diffaug.painting.clearing import Remover
from diffaug.painting.compose import region_of, without_border
from diffaug.painting.engine import Painted
from diffaug.painting.example import (
    UPRIGHT,
    Example,
    mirrored_tissue,
    moved_example,
    scale_of_outline,
    source_points,
    window_points,
)
from diffaug.painting.judging import is_left_over
from diffaug.painting.layout import Layout, layout_of, tissue_of
from diffaug.painting.painter import Painter
from diffaug.painting.tissue import filled
from diffaug.painting.window import window_mask
from diffaug.validator.gate import Gate

HALO = 0.4  # of the radius of a new lesion's area; width of what its example brings along of the tissue around it
DEPTH = 1.2  # of the height of a new lesion; how far below itself it changes an ultrasound image
AROUND, BELOW = 0.5, 1.5  # of a lesion's longer side; so much tissue around an example is kept, and in ultrasound
ROOM = 48 * 2**20  # bytes of examples that are kept in memory, and of what was removed


class LayoutMaker:
    """Lays out requests of a data set.

    Args:
        drawer: Draws the requests, and knows their cases.
        remover: Paints lesions away, for the placement `removed`.
        from_noise: Whether sampling starts from noise alone, and not from an example.
    """

    def __init__(self, drawer: RequestDrawer, remover: Remover, from_noise: bool) -> None:
        self.drawer, self.remover, self.from_noise = drawer, remover, from_noise
        self.side = remover.model.window
        self._examples = Remembered(self._example_of, ROOM, lambda example: example.nbytes)
        self._cleared = Remembered(self._cleared_of, ROOM, lambda cleared: cleared.pixels.nbytes)
        self._sources = Remembered(self._sources_of, ROOM, lambda packed: packed.nbytes)  # eight pixels in a byte

    def layout(self, request: Request) -> Layout:
        """Lay out a request on its background, with the example that sampling starts from."""
        masks = self.drawer.masks(request)
        background, removed = self._background(request)
        view = self.drawer.backgrounds.field(request.background, with_text=False)
        laid = layout_of(
            background, masks, masks.new_classes(self.drawer.classes), view,
            prompt=request.prompt, seed=request.seed, index=request.index, size_bin=request.size_bin,
            negative=request.negative, fold=self.fold(request), removed=removed, **self._effect(request),
        )  # fmt: skip
        if self.from_noise:
            return laid
        if request.negative:
            return replace(laid, start=tissue_of(laid, self.side))
        bare = self._without_old(request.background, laid)
        example = self._example(request, laid, tissue_of(bare, self.side))
        return replace(laid, start=example, covered=bare.covered)

    def _effect(self, request: Request) -> dict[str, float]:
        """Return what an example brings along of the tissue around and below it, as `layout_of` takes it.

        Of several new lesions in one picture none brings along more than its band, so that none shows in another.
        """
        if request.negative or self.from_noise or self.drawer.domain.stays_in_place or self.drawer.per_case > 1:
            return {}
        return {"halo": HALO, "depth": DEPTH if self.drawer.domain.rules.is_upright else 0.0}

    def fold(self, request: Request) -> int:
        """Return which validator has not seen the case of a request's mask; of a negative, that of its background."""
        folds = self.remover.calibration.folds
        if request.negative and request.background in folds:
            return folds[request.background]
        return folds[request.mask_case]

    def _background(self, request: Request) -> tuple[Pixels, tuple[RemovedRegion, ...]]:
        """Return what a request is painted on, and for `removed` a record of what was painted away."""
        image = self.drawer.backgrounds.image(request.background)
        if request.placement != "removed":
            return image, ()
        cleared = self._cleared[request.background]
        image = image.copy()
        image[cleared.where] = cleared.pixels
        return image, cleared.regions

    def _cleared_of(self, background: str) -> "_Cleared":
        frame, regions = self.remover.remove(self.drawer.backgrounds.case(background))
        changed = (frame != self.drawer.backgrounds.image(background)).any(axis=2)
        top, left, bottom, right = bounding_box(changed) if changed.any() else (0, 0, 0, 0)
        where = slice(top, bottom), slice(left, right)
        return _Cleared(where, frame[where].copy(), regions)

    def _sources_of(self, background: str) -> NDArray[np.uint8]:
        """Return the tissue of a background that may be shown elsewhere in it, (H, W), packed to bits along a row."""
        backgrounds = self.drawer.backgrounds
        field = backgrounds.field(background, with_text=False)
        return np.packbits(unwritten(backgrounds.image(background), field, self.drawer.domain.rules), axis=1)

    def _without_old(self, background: str, layout: Layout) -> Layout:
        """Return a layout whose tissue shows no lesion that is painted over.

        Tissue of the frame takes the place of the whole lesion, or at least of what the new one does not cover; where
        no tissue suits, it is mirrored at the border.
        """
        old = layout.masks.old & ~layout.masks.new if self.drawer.domain.stays_in_place else layout.masks.old
        if not old.any():
            return layout
        gone = region_of(old, old, layout.band) & layout.field
        sources = np.unpackbits(self._sources[background], axis=1, count=old.shape[1]).astype(bool)
        known = sources & ~gone & ~layout.masks.label
        for hole in (gone, gone & ~layout.masks.new):
            frame = filled(layout.background, hole, known)
            if frame is not None:
                break
        else:
            frame = mirrored_tissue(layout.background, known)
            frame = np.where(gone[..., None], frame, layout.background)
            rest = np.count_nonzero(gone & ~layout.masks.new)
            layout = replace(layout, covered=bool(rest <= REST * np.count_nonzero(layout.masks.new)))
        tissue = layout.window.crop(without_border(frame, layout.field, layout.reach, layout.window))
        return replace(layout, tissue=np.asarray(tissue, dtype=np.uint8))

    def _example(self, request: Request, layout: Layout, tissue: Pixels) -> Pixels:
        """Return a window's `tissue`, (side, side, 3), with the request's example where the new mask lies."""
        source, new = self._examples[example_of(request)], layout.masks.new
        side, frame = len(tissue), (int(new.shape[0]), int(new.shape[1]))
        points = window_points(layout.window, side)
        own = self._is_own(request)
        if own:
            entry = self.drawer.bank.entry_of(request)
            corner = np.array([request.top, request.left], dtype=np.float64)
            points = origin_points(entry, request.transform, frame, points - corner[:, None, None])
            points -= np.array(source.corner, dtype=np.float64)[:, None, None]
        else:
            points = source_points(points, *self._outlines(request, layout, source))
        free = layout.field & ~(layout.masks.label & ~new)
        small, usable = (np.asarray(window_mask(mask, layout.window, side)[0, 0].numpy() > 0.5) for mask in (new, free))
        scale = side / layout.window.side
        step = scale_of_outline(source.lesion, new) / scale
        return moved_example(
            source, points, step, tissue, small, usable, layout.halo * scale, own, layout.depth * scale
        )

    def _is_own(self, request: Request) -> bool:
        """Tell whether a lesion lies on its own mask, so that both are transformed alike."""
        return request.example == request.mask_case and request.cup_ratio is None

    def _outlines(self, request: Request, layout: Layout, source: Example) -> tuple[list[tuple[Mask, Mask]], Alignment]:
        """Return where outlines of a source go on another mask, the innermost first, and how it is turned."""
        drawer, masks = self.drawer, layout.masks
        case, lesion = drawer.backgrounds.case(request.example), drawer.bank.entry(*example_of(request)).in_frame()
        nested = drawer.domain.nested(case, lesion, masks.new_classes(drawer.classes))
        outlines = [*((source.part_of(inner), new) for inner, new in nested), (source.lesion, masks.new)]
        if drawer.domain.stays_in_place:
            return outlines, UPRIGHT
        source_rays, target_rays = (ray_lengths(mask, centre_of(mask)) for mask in outlines[-1])
        return outlines, aligned(source_rays, target_rays, drawer.examples.turns)

    def _example_of(self, lesion: tuple[str, int]) -> Example:
        """Return what is moved of a lesion of a case; beyond an edge that cuts it, it goes on."""
        backgrounds, mask = self.drawer.backgrounds, self.drawer.bank.entry(*lesion).in_frame()
        top, left, bottom, right = bounding_box(mask)
        around = (BELOW if self.drawer.domain.rules.is_upright else AROUND) * max(bottom - top, right - left)
        corner = max(0, math.floor(top - around) - 2), max(0, math.floor(left - around) - 2)
        part = np.s_[corner[0] : math.ceil(bottom + around) + 3, corner[1] : math.ceil(right + around) + 3]
        field = backgrounds.field(lesion[0], with_text=False)[part]  # or letters beside the lesion would come along
        others, mask = (backgrounds.lesion(lesion[0]) & ~mask)[part], mask[part].copy()
        hidden = np.zeros_like(mask) if self.drawer.examples.flaws.at_edge[lesion] else mask
        frame = without_border(backgrounds.image(lesion[0])[part].copy(), field, hidden)
        return Example.of(frame, field & ~others, mask, corner)


@dataclass(frozen=True, eq=False)
class _Cleared:
    """What painting lesions away changed of a background.

    Attributes:
        where: The rows and columns that hold all of it.
        pixels: The pixels there, (h, w, 3).
        regions: A record of each region.
    """

    where: tuple[slice, slice]
    pixels: Pixels
    regions: tuple[RemovedRegion, ...]


def example_of(request: Request) -> tuple[str, int]:
    """Return the case and the number of the lesion that a request shows: its mask's own, or the largest of another."""
    return request.example, request.component if request.example == request.mask_case else 0


def paint_requests(
    painter: Painter, maker: LayoutMaker, requests: Sequence[Request], gate: Gate | None, *, everything: bool = False
) -> Iterator[tuple[Request, Layout, Painted]]:
    """Paint requests in slots, and yield each as it leaves.

    Under a gate, what lies on a background from which a lesion did not go is not painted: it is rejected without a
    look, and comes last.

    Args:
        painter: Paints them.
        maker: Lays them out.
        requests: Of the maker's drawer, each with an index of its own.
        gate: Looks at samples on the way; None keeps everything.
        everything: Paint also what the gate would turn down.
    """
    ordered = sorted(requests, key=maker.fold)  # so that one validator looks at a time
    by_index = {request.index: request for request in ordered}
    lost: list[Layout] = []

    def is_hopeless(layout: Layout) -> bool:
        return gate is not None and not everything and is_left_over(layout)

    frames = {maker.drawer.backgrounds.draft(request.background).frame for request in ordered}
    at_once = painter.at_once(max((math.prod(frame) for frame in frames), default=1))
    batch = min(painter.batch, at_once)

    def batches() -> Iterator[list[Layout]]:
        for start in range(0, len(ordered), batch):
            laid = [maker.layout(request) for request in ordered[start : start + batch]]
            lost.extend(layout for layout in laid if is_hopeless(layout))
            yield [layout for layout in laid if not is_hopeless(layout)]

    prompts = (request.prompt for request in ordered)
    for layout, sample in painter.paint_layouts(batches(), prompts, gate, at_once):
        yield by_index[layout.index], layout, sample
    for layout in lost:
        yield by_index[layout.index], layout, Painted(layout.index, painter.model.noise([0]), "rejected")
