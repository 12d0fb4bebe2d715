"""Where a shape may lie in a frame: inside the field of view, off overlays, and off the lesions that are there.

The rules are simple image analysis, as far as they are in force for a data set (`rules.py`). Dark pixels at the frame's
edge are its border. Flat rectangles of colours that tissue does not have are overlays; text is found by `writing.py`.
Positions are sought on a coarse grid of cells: a cell
is free only if all its pixels are, and a shape takes every cell that it touches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from diffaug.conditioning.attributes import BRIGHT, COLOURLESS, Values, bounding_box, lab_from_rgb, longer_side
from diffaug.conditioning.masks import paste
from diffaug.conditioning.rules import ENDOSCOPIC, GLARE, FrameRules
from diffaug.conditioning.writing import raised, writing
from diffaug.data.images import Mask, Pixels, check_image, check_mask
from diffaug.data.lesions import CORNERS, components

CELLS = 128  # longest side of the grid of positions
BLACK = 26  # of 255; a box is no darker
GREY, WHITE = 4.0, 90.0  # chroma, L*; a flat surface below both is an overlay box
DEEP = 22.0  # L*; darker tissue is too far from the camera to show a lesion
LIT = (30.0, 30.0)  # L*; tissue under a shape is at least a + b sqrt(share of the frame), as 19 of 20 real lesions are
DUSK, DUSKY = 28.0, 0.1  # L*; share of a replacing shape that may lie on tissue darker than this, as in the lumen
WRITTEN = 0.005  # share of a replacing shape that may lie on text; a free one lies on none
STROKES = 0.015  # px of text on and beside a lesion over its area; with less, highlights may have been taken for text
LEAST_CLEAR = 0.05  # share of a frame; one with less clear tissue is not painted on
BAND = 0.08  # blending band as a share of the lesion's longer side
OVERLAP = 0.65  # a replacing shape covers at least this share of the smaller of itself and the old lesion
COVERED = 0.65  # and this share of the old lesion: tissue has to be found for what it leaves

Cells = NDArray[np.bool_]


def field_of_view(image: Pixels, rules: FrameRules = ENDOSCOPIC) -> Mask:
    """Find the pixels that show tissue, shape (H, W): they are neither black border nor an overlay box.

    They are the largest bright area, after an opening that drops the text on black. Its holes, such as a dark lumen,
    belong to it. What no rule in force speaks of is tissue.

    Raises:
        ShapeError: The image has not the shape (H, W, 3).
        DataError: The image does not hold bytes.
    """
    check_image(image)
    tissue = np.ones(image.shape[:2], dtype=bool) if rules.border is None else lit_area(image, rules.border)
    tissue &= ~overlays(image, rules)
    iterations = max(1, max(image.shape[:2]) // 256)
    return tissue if tissue.all() else ndimage.binary_erosion(tissue, CORNERS, iterations=iterations, border_value=1)


def lit_area(image: Pixels, border: float) -> Mask:
    """Find the largest area that is brighter than a border (of 255), with its holes, shape (H, W)."""
    bright = _opened(image.max(axis=2) > border, max(2.0, max(image.shape[:2]) / 90))
    labels, count = ndimage.label(bright)
    if count == 0:
        return np.zeros(image.shape[:2], dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(largest))


def lost_from_view(lesions: Mask, field: Mask) -> Mask:
    """Return the lesions more than half of which lie where no tissue is seen: they cannot be painted away.

    A dark or bluish lesion may be taken for a box, or for the frame's border.
    """
    lost = np.zeros_like(lesions)
    for lesion in components(lesions):
        if np.count_nonzero(lesion.crop & field[lesion.slices]) < lesion.area / 2:
            lost[lesion.slices] |= lesion.crop
    return lost


def overlays(image: Pixels, rules: FrameRules = ENDOSCOPIC) -> Mask:
    """Find boxes drawn into the frame: filled rectangles, green, blue or flat grey, 0.2 to 50 % of its area."""
    surfaces = []
    if rules.coloured_boxes is not None:
        red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
        odd = (np.maximum(green, blue) > red + rules.coloured_boxes) & (np.maximum(green, blue) > 40)
        surfaces.append(np.asarray(odd))
    if rules.grey_boxes is not None:
        surfaces.append(_flat_grey(image, rules.grey_boxes))
    return _boxes(surfaces, image.shape[:2])


def _boxes(surfaces: Sequence[Mask], frame: tuple[int, ...]) -> Mask:
    """Find the filled rectangles of some surfaces, with a margin."""
    boxes = np.zeros(frame, dtype=bool)
    for surface in surfaces:
        labels, _ = ndimage.label(ndimage.binary_opening(surface, CORNERS), structure=CORNERS)
        for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            part = labels[rows, columns] == index
            if 0.002 * boxes.size <= part.size <= 0.5 * boxes.size and part.mean() > 0.75:
                pad = 2 + max(frame) // 128
                boxes[max(0, rows.start - pad) : rows.stop + pad, max(0, columns.start - pad) : columns.stop + pad] = 1
    return boxes


def _flat_grey(image: Pixels, flat: float) -> Mask:
    """Find surfaces without colour, grain or gradient that are neither black border nor overexposed."""
    grey = image.mean(axis=2, dtype=np.float32)
    spread = np.sqrt(np.maximum(0.0, ndimage.uniform_filter(grey**2, 5) - ndimage.uniform_filter(grey, 5) ** 2))
    even = (spread < 2.55 * flat) & (grey > BLACK) & (grey < 2.55 * WHITE)
    return np.asarray(even & (np.ptp(image, axis=2) < 2.55 * GREY))


def highlights(lab: Values) -> Mask:
    """Find specular highlights and light text, shape (H, W), from CIELAB.

    They are bright pixels without colour, and thin pale strokes that are lighter than what surrounds them.
    """
    lightness, chroma = lab[..., 0], np.hypot(lab[..., 1], lab[..., 2])
    width = 2 * max(1, max(lab.shape[:2]) // 160) + 1
    stroke = raised(lightness, width) > 8.0
    return ((lightness > BRIGHT) & (chroma < COLOURLESS)) | (stroke & (lightness > 40.0) & (chroma < 30.0))


def density(glare: Mask) -> NDArray[np.float32]:
    """Return the share of highlights around each pixel, shape (H, W)."""
    size = max(glare.shape) // 22 | 1
    return np.asarray(ndimage.uniform_filter(glare.astype(np.float32), size))


def crowded(glare: Mask, limit: float = GLARE) -> Mask:
    """Find where highlights crowd, as they do in written lines and on instruments, shape (H, W)."""
    return np.asarray(density(glare) > limit)


@dataclass(frozen=True)
class PlacementMap:
    """What decides where a mask may lie on one background: its field of view by pixel, the rest by cells of a grid."""

    frame: tuple[int, int]  # height, width, px
    field: Mask  # the field of view, px by px
    cell: int  # px
    tissue: Cells  # every pixel of the cell is in the field of view
    unsuited: NDArray[np.uint16]  # px of the cell on highlights or in deep shadow
    text: NDArray[np.uint16]  # px of the cell on text
    lightness: NDArray[np.float32]  # mean L* of the cell
    lesion: Cells  # the cell touches a lesion
    clear: Cells  # the cell is tissue without text and crowded highlights, lesion or not
    rules: FrameRules = ENDOSCOPIC  # what is in force

    @cached_property
    def clearance(self) -> NDArray[np.float32]:
        """The px of clear tissue without a lesion around each cell."""
        return _clearance(self.clear & ~self.lesion, self.cell)

    @cached_property
    def without_lesion(self) -> "PlacementMap":
        """The map as if the lesions were removed."""
        return replace(self, lesion=np.zeros_like(self.lesion))

    @cached_property
    def bare(self) -> Mask:
        """The field of view without text, px by px, (H, W)."""
        written = ndimage.binary_dilation(self.text > 0, CORNERS)
        fine = np.kron(written, np.ones((self.cell, self.cell), dtype=bool))
        return np.asarray(self.field & ~fine[: self.frame[0], : self.frame[1]])

    def is_written_on(self, lesion: Mask) -> bool:
        """Tell whether text lies on a lesion, (H, W), or beside it in a cell that it touches, but for a stroke."""
        return bool(self.text[_touched(lesion, self.cell)].sum() > STROKES * lesion.sum())

    def share_cut(self, lesion: Mask) -> float:
        """Return the share of the band around a lesion, (H, W), that lies beyond the frame or on its border."""
        margin = max(1 + max(self.frame) // 128, round(BAND * longer_side(lesion)))
        wide, view = np.pad(lesion, margin), np.pad(self.field, margin)
        outline = ndimage.binary_dilation(wide, CORNERS, iterations=margin) & ~wide
        return float((outline & ~view).sum() / max(1, outline.sum()))

    def without(self, taken: Mask | None) -> "PlacementMap":
        """Return the map without the cells that a mask of the frame touches, as if a lesion lay there."""
        return self if taken is None else replace(self, lesion=self.lesion | _touched(taken, self.cell))

    @property
    def is_paintable(self) -> bool:
        """Whether enough of the frame is clear tissue, lesions included, to be painted on at all."""
        return bool(np.count_nonzero(self.clear) >= LEAST_CLEAR * self.clear.size)

    @property
    def room(self) -> float:
        """The share of the frame that is lesion-free tissue: no larger mask can be placed by `free`."""
        return float(np.count_nonzero(self.clearance)) * self.cell**2 / (self.frame[0] * self.frame[1])


def placement_map_of(
    image: Pixels, lesion: Mask, printed: Mask | None = None, rules: FrameRules = ENDOSCOPIC
) -> PlacementMap:
    """Prepare a background and its lesions (an empty mask if it has none) for placements.

    Args:
        image: The background.
        lesion: Its lesions.
        printed: Where frames like this one carry text, from `printed_on`; None if that is not known.
        rules: What is in force for frames like this one.

    Raises:
        ShapeError: The image has not the shape (H, W, 3), or the mask has another size.
        DataError: The image does not hold bytes, or the mask no booleans.
    """
    check_image(image)
    check_mask(lesion, image.shape[:2])
    frame = (int(lesion.shape[0]), int(lesion.shape[1]))
    cell = -(-max(frame) // CELLS)
    lab = lab_from_rgb(image)
    nothing = np.zeros(frame, dtype=bool)
    glare = nothing if rules.glare is None else highlights(lab)
    text = nothing if rules.text is None else writing(image, lab, printed)
    lightness = mean_lightness(lab, cell)
    field = field_of_view(image, rules)
    tissue = cells_of(field, cell) == cell * cell
    old = _touched(lesion, cell)
    crowd = nothing if rules.glare is None else crowded(glare, rules.glare)
    clear = tissue & ~_touched(crowd | text, cell)
    unsuited = cells_of(glare, cell)
    if rules.dark is not None:
        unsuited[lightness < DEEP - rules.dark] = cell * cell
    written = cells_of(text, cell)
    return PlacementMap(frame, field, cell, tissue, unsuited, written, lightness, old, clear, rules)


def place_free(
    places: PlacementMap,
    shape: Mask,
    rng: np.random.Generator,
    margin: float = 2.0,
    density: Callable[[], NDArray[np.float64]] | None = None,
) -> tuple[int, int] | None:
    """Draw a position where a shape lies on lesion-free tissue, among all such positions of the grid.

    Args:
        places: The background.
        shape: Tight crop, shape (h, w).
        rng: Decides which position.
        margin: px of free tissue that the shape needs around it.
        density: Returns how likely the shape's middle lies at each cell of the grid, relative to others, 0 for never;
            None for equally.

    Returns:
        Top and left in the frame, or None if the shape fits nowhere.
    """
    cells = _touched(shape, places.cell)
    blocked = places.clearance < max(margin, 0.5)
    if _too_large(cells, blocked):
        return None
    free = sums_under(blocked, cells) == 0
    if not free.any():
        return None
    area, count, rules = np.count_nonzero(shape), np.count_nonzero(cells), places.rules
    under = sums_under(np.stack([places.unsuited, places.lightness, places.lightness**2]), cells)
    unsuited, light, squares = under
    free &= unsuited <= rules.shiny * area
    if rules.uneven is not None:
        free &= np.sqrt(np.maximum(0.0, squares / count - (light / count) ** 2)) <= rules.uneven
    if rules.dark is not None:
        least = least_light(area / (places.frame[0] * places.frame[1])) - rules.dark
        free &= light >= least * count
    choices = np.flatnonzero(free)
    if len(choices) == 0:
        return None
    rows, columns = np.unravel_index(choices, free.shape)
    middle = rows + cells.shape[0] // 2, columns + cells.shape[1] // 2
    sums = np.cumsum(np.ones(len(choices)) if density is None else density()[middle])
    if not sums[-1]:
        return None
    choice = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
    row, column = rows[choice], columns[choice]
    return int(row) * places.cell, int(column) * places.cell


def place_replace(places: PlacementMap, old: Mask, shape: Mask, margin: float = 2.0) -> tuple[int, int] | None:
    """Return the position where a shape covers an old lesion; see `Covering`.

    Args:
        places: The background.
        old: The one lesion to replace, shape (H, W) of the frame. Other lesions are not touched.
        shape: Tight crop of the new mask, shape (h, w).
        margin: px of tissue around the new mask.
    """
    return Covering(places, old).place(shape, margin)


@dataclass(frozen=True, eq=False)
class Covering:
    """One lesion of a background that shapes are tried on, to replace it.

    Attributes:
        places: The background.
        old: The lesion, shape (H, W) of the frame. Other lesions are not touched.
    """

    places: PlacementMap
    old: Mask

    @cached_property
    def _clearance(self) -> NDArray[np.float32]:
        """The px of tissue without another lesion around each cell."""
        replaced = ndimage.binary_dilation(_touched(self.old, self.places.cell), CORNERS)
        return _clearance(self.places.tissue & ~(self.places.lesion & ~replaced), self.places.cell)

    @cached_property
    def _box(self) -> tuple[int, int, int, int]:
        return bounding_box(_touched(self.old, self.places.cell))

    @cached_property
    def _centre(self) -> NDArray[np.float64]:
        return np.array(ndimage.center_of_mass(self.old))

    def place(self, shape: Mask, margin: float = 2.0) -> tuple[int, int] | None:
        """Return top and left where a shape covers the lesion, as near to its centroid as the field of view allows.

        Args:
            shape: Tight crop of the new mask, shape (h, w).
            margin: px of tissue around the new mask.

        Returns:
            None if no position inside the field of view, off the text and out of the dark covers at least OVERLAP of
            the smaller of the two, and COVERED of the old one.
        """
        places, cells = self.places, _touched(shape, self.places.cell)
        blocked = self._clearance < max(margin, 0.5)
        if _too_large(cells, blocked):
            return None
        first, near = self._around(cells)
        allowed = sums_under(blocked[near], cells) == 0
        if places.text.any():
            allowed &= sums_under(places.text[near], cells) <= WRITTEN * np.count_nonzero(shape)
        if places.rules.dark is not None:
            dark = places.lightness[near] < DUSK - places.rules.dark
            allowed &= sums_under(dark, cells) <= DUSKY * np.count_nonzero(cells)
        rows, columns = np.nonzero(allowed)
        if len(rows) == 0:
            return None
        rows, columns = rows + first[0], columns + first[1]
        shift = self._centre - np.array(ndimage.center_of_mass(shape))
        best = int(np.argmin((rows * places.cell - shift[0]) ** 2 + (columns * places.cell - shift[1]) ** 2))
        top, left = int(rows[best]) * places.cell, int(columns[best]) * places.cell
        return (top, left) if covers(self.old, paste(shape, top, left, places.frame)) else None

    def _around(self, cells: Cells) -> tuple[tuple[int, int], tuple[slice, slice]]:
        """Return the first cell, and the cells, that a shape can take where it touches the lesion."""
        top, left, bottom, right = self._box
        (height, width), (rows, columns) = cells.shape, self.places.tissue.shape
        first = max(0, min(top - height + 1, rows - height)), max(0, min(left - width + 1, columns - width))
        return first, (slice(first[0], bottom + height - 1), slice(first[1], right + width - 1))


def covers(old: Mask, new: Mask) -> bool:
    """Tell whether a new lesion covers OVERLAP of the smaller of the two, and COVERED of the old one, both (H, W)."""
    shared, area = np.count_nonzero(old & new), np.count_nonzero(old)
    return bool(shared >= max(OVERLAP * min(area, np.count_nonzero(new)), COVERED * area))


def least_light(share: float) -> float:
    """Return the least mean L* under a shape that covers a share of the frame, by the endoscopic rule."""
    return LIT[0] + LIT[1] * float(np.sqrt(share))


def _opened(mask: Mask, radius: float) -> Mask:
    """Open a mask with a disc, by shifts; beyond the frame counts as bright, so that the edge erodes nothing."""
    pad = int(radius) + 1
    inner = _eroded(np.pad(mask, pad, mode="edge"), radius)
    return ~_eroded(~inner, radius)[pad:-pad, pad:-pad] & mask


def _eroded(mask: Mask, radius: float) -> Mask:
    """Return the pixels no nearer than a radius (px) to one that is not in a mask; beyond the frame all is in it."""
    made = mask.copy()
    for down in range(-int(radius), int(radius) + 1):
        reach = int(np.sqrt(radius**2 - down**2))
        for right in range(-reach, reach + 1):
            (here, there), (left, beside) = _shifted(down, mask.shape[0]), _shifted(right, mask.shape[1])
            made[here, left] &= mask[there, beside]
    return made


def _shifted(by: int, size: int) -> tuple[slice, slice]:
    """Return the indices of an axis whose neighbours so far on lie in the frame, and the indices of these."""
    return slice(max(0, -by), size - max(0, by)), slice(max(0, by), size - max(0, -by))


def _cells(mask: Mask, cell: int) -> Mask:
    """Return a mask as rows of cells, (rows, pixels of a cell down, pixels across); past the frame it is False."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell), (0, -width % cell)))
    return padded.reshape(padded.shape[0] // cell, cell, padded.shape[1])


def cells_of(mask: Mask, cell: int) -> NDArray[np.uint16]:
    """Return how many pixels of each cell are in the mask."""
    down = _cells(mask, cell).sum(axis=1, dtype=np.uint16)
    return np.asarray(down.reshape(len(down), -1, cell).sum(axis=2, dtype=np.uint16))


def mean_lightness(lab: Values, cell: int) -> NDArray[np.float32]:
    """Return the mean L* of each cell in whole numbers: decisions on it must not depend on rounding."""
    pixels = lab[..., 0]
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % cell), (0, -width % cell)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell)
    return np.asarray(np.rint(blocks.mean(axis=(1, 3))), dtype=np.float32)


def _touched(mask: Mask, cell: int) -> Cells:
    """Return the cells of which at least one pixel is in the mask."""
    down = np.asarray(_cells(mask, cell).any(axis=1))
    return np.asarray(down.reshape(len(down), -1, cell).any(axis=2), dtype=bool)


def _clearance(allowed: Cells, cell: int) -> NDArray[np.float32]:
    """Return a lower limit of the px from each free cell to the nearest pixel that is not free.

    Beyond the frame nothing is free. The pixels of cells d apart, centre to centre, are at most sqrt(2) cells less one
    pixel nearer to each other.
    """
    distance = ndimage.distance_transform_edt(np.pad(allowed, 1))[1:-1, 1:-1]
    gap = np.maximum((distance - np.sqrt(2.0)) * cell + 1.0, 1.0)
    return np.where(distance > 0, gap, 0.0).astype(np.float32)


def _too_large(cells: Cells, blocked: Cells) -> bool:
    fits = cells.shape[0] <= blocked.shape[0] and cells.shape[1] <= blocked.shape[1]
    return not fits or int(np.count_nonzero(cells)) > int(np.count_nonzero(~blocked))


def sums_under(values: NDArray[np.generic], cells: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the sum of values, (..., rows, columns), under a shape where it lies within the grid, rounded to integers.

    Where the cells of the shape are numbers, values under them are multiplied by these.

    A correlation by circular Fourier transforms: what wraps around reaches no position within the grid.
    """
    size = tuple(fft.next_fast_len(side, real=True) for side in values.shape[-2:])
    spectrum = fft.rfft2(values.astype(np.float64), size) * np.conj(fft.rfft2(cells.astype(np.float64), size))
    rows, columns = (side - part + 1 for side, part in zip(values.shape[-2:], cells.shape, strict=True))
    return np.rint(fft.irfft2(spectrum, size)[..., :rows, :columns])
