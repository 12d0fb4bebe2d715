"""Places for lesions that an edge of their frame cuts: at an edge of another frame that cuts them in the same way.

An edge is that of the frame, of its black border or of an overlay. Along the outline of a cut lesion some of the band
around it lies beyond the edge, the rest on tissue. A place suits where both do so again, as nearly as can be.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.conditioning.attributes import box_around, longer_side
from diffaug.conditioning.masks import MaskEntry, Values, render
from diffaug.conditioning.placement import BAND, COVERED, WRITTEN, PlacementMap, cells_of, least_light, sums_under
from diffaug.data.images import Mask
from diffaug.data.lesions import CORNERS, largest_part
from diffaug.data.request import MaskTransform

HIDDEN = 0.75  # least share of the band beyond its own edge that lies beyond the other
UNSEEN, LOST = 0.03, 0.08  # most of the rest of the band, and of the lesion, that does
OUTSIDE = 0.35  # of a lesion's longer side; so far it may be moved out of a frame
NEARLY = 0.05  # places that are worse than the best by less than this are as good
GAP = 0.03  # of the longer side of a lesion; so far from the edge, and 2 px more, it is drawn out to it
Counts = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class CutLesion:
    """A lesion that is cut, for the draft of another frame; pixels are counted by cells.

    Attributes:
        shape: Tight crop, (h, w).
        corner: Top and left of the crop in the cells, px.
        body: Pixels of the lesion.
        beyond: Pixels of the band around it that lie beyond the edge.
        beside: Those that do not.
    """

    shape: Mask
    corner: tuple[int, int]
    body: Counts
    beyond: Counts
    beside: Counts


def cut_lesion(lesion: MaskEntry, own: PlacementMap, transform: MaskTransform, places: PlacementMap) -> CutLesion:
    """Return a lesion as it is moved to the draft of another frame.

    Args:
        lesion: In the draft of its frame, with the side that was cut.
        own: The map of its frame.
        transform: A flip and a scale.
        places: The map of the other frame.
    """
    shape = render(lesion, transform, places.frame)
    margin = max(2, 1 + max(own.frame) // 128, round(BAND * longer_side(lesion.crop)))
    wide = np.pad(lesion.crop, margin)
    rows, columns = (
        slice(start, start + side) for start, side in zip((lesion.top, lesion.left), wide.shape, strict=True)
    )
    view = np.pad(own.field, margin)[rows, columns]
    band = ndimage.binary_dilation(wide, CORNERS, iterations=margin) & ~wide
    parts = [np.asarray(part[:, ::-1] if transform.flip else part) for part in (wide, band & ~view, band & view)]
    scale = shape.shape[0] / lesion.crop.shape[0], shape.shape[1] / lesion.crop.shape[1]
    size = round(wide.shape[1] * scale[1]), round(wide.shape[0] * scale[0])
    body, beyond, beside = (
        cells_of(np.asarray(Image.fromarray(part).resize(size, Image.Resampling.NEAREST)), places.cell)
        for part in parts
    )
    return CutLesion(shape, (round(margin * scale[0]), round(margin * scale[1])), body, beyond, beside)


def place_at_edge(
    places: PlacementMap, lesion: CutLesion, rng: np.random.Generator, old: Mask | None = None
) -> tuple[int, int] | None:
    """Return top and left, px, where an edge cuts a lesion as its own did; they may lie outside of the frame.

    Args:
        places: The frame.
        lesion: What is to lie there.
        rng: Decides among places that are as good.
        old: A lesion, (H, W), that it is to cover as far as it can; None for a place without a lesion.
    """
    pad = int(OUTSIDE * max(lesion.body.shape)) + 2
    if any(wide + 2 * pad < part for wide, part in zip(places.tissue.shape, lesion.body.shape, strict=True)):
        return None  # it is much longer than the frame is wide
    area = places.cell**2
    outside = area - np.pad(cells_of(places.field, places.cell), pad).astype(np.int64)
    hidden, unseen, lost = (
        sums_under(outside, part) / area / max(1, int(part.sum()))
        for part in (lesion.beyond, lesion.beside, lesion.body)
    )
    good = (hidden >= HIDDEN) & (unseen <= UNSEEN) & (lost <= LOST)
    if not good.any():
        return None
    suited, covered = _suited(places, lesion, pad, old)
    good &= suited
    if not good.any():
        return None
    cost = unseen + lost - hidden - covered
    best = np.argwhere(good & (cost <= cost[good].min() + NEARLY))
    row, column = best[int(rng.integers(len(best)))] - pad
    return int(row) * places.cell + lesion.corner[0], int(column) * places.cell + lesion.corner[1]


def _suited(places: PlacementMap, lesion: CutLesion, pad: int, old: Mask | None) -> tuple[Mask, NDArray[np.float64]]:
    """Return where a lesion is lit, off text and off others, and which share of the old one it covers there.

    The places are those of the grid of cells, wider by `pad` on each side.
    """
    body, around = lesion.body > 0, lesion.body + lesion.beside > 0
    others, covered = np.pad(places.lesion, pad), np.zeros(())
    good = np.ones([wide - part + 1 for wide, part in zip(others.shape, body.shape, strict=True)], dtype=bool)
    if old is not None:
        own = np.pad(cells_of(old, places.cell), pad) > 0
        others &= ~ndimage.binary_dilation(own, CORNERS)
        covered = sums_under(own, body) / np.count_nonzero(own)
        good &= covered >= COVERED
    good &= sums_under(others, around) == 0
    if places.text.any():
        good &= sums_under(np.pad(places.text, pad), body) <= (WRITTEN * lesion.body.sum() if old is not None else 0)
    if places.rules.dark is not None:
        tissue = np.pad(places.tissue, pad)
        light = sums_under(np.pad(places.lightness, pad) * tissue, body)
        least = least_light(float(lesion.body.sum()) / (places.frame[0] * places.frame[1])) - places.rules.dark
        good &= light >= least * np.maximum(sums_under(tissue, body), 1)
    return np.asarray(good), covered


def to_border(label: Values, field: Mask) -> Values:
    """Return a mask or label that ends at the border of the field of view where it comes near to it, (H, W).

    What lies beyond is cut off; a gap of up to GAP of its longer side, and 2 px more, takes the nearest value.

    Args:
        label: Shape (H, W); not empty.
        field: Field of view, (H, W).
    """
    mask = label > 0
    radius = round(GAP * longer_side(mask)) + 2
    box = box_around(mask, 3 * radius)
    inside = np.pad(mask[box], radius + 1)
    # Beyond the box is beyond the frame only where the box ends at the edge of the frame; elsewhere the mask is far.
    beyond = np.pad(~field[box], radius + 1, constant_values=True)
    both = inside | beyond
    grown = ndimage.distance_transform_edt(~both) <= radius
    closed = ndimage.distance_transform_edt(np.pad(grown, 1, constant_values=True))[1:-1, 1:-1] > radius
    near = ndimage.distance_transform_edt(~inside) <= 2 * radius
    new = (inside | (closed & near)) & ~beyond
    if not new.any():
        return label
    rows, columns = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    padded = np.pad(label[box], radius + 1)
    made = np.zeros_like(label)
    cut = slice(radius + 1, -radius - 1)
    made[box] = (padded[rows, columns] * largest_part(new))[cut, cut]
    return made
