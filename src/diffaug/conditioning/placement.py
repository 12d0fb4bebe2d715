"""Where a shape may lie in a frame: inside the field of view, off overlays, off the lesions that are there.

Simple image analysis: dark pixels at the frame's edge are its border, flat rectangles of colours that tissue does not
have are overlays. Positions are sought on a coarse grid of cells, conservatively: a cell is free only if all its pixels
are, and a shape occupies every cell that it touches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from diffaug.conditioning.attributes import BRIGHT, COLOURLESS, lab_from_rgb
from diffaug.conditioning.masks import EIGHT, paste
from diffaug.data.case import Mask, Pixels

CELLS = 128  # longest side of the grid of positions
BORDER = 26  # of 255; pixels without a brighter channel are black border, if they touch the frame's edge
COLOUR_GAP = 12  # green or blue above red by this much is no tissue under white light
DEEP = 22.0  # L*; darker tissue is too far away to show a lesion
GLARE = 0.05  # share of a shape that may lie on highlights, text and deep shadow
UNEVEN = 9.0  # L*; the spread of light under a shape; more, and it would span a fold's edge or the lumen
OVERLAP = 0.65  # a replacing shape covers at least this share of the smaller of itself and the old lesion

Cells = NDArray[np.bool_]


def field_of_view(image: Pixels) -> Mask:
    """Find the pixels that show tissue, shape (H, W): neither black border nor an overlay box.

    The largest bright area, after an opening that drops the text on black; its holes (a dark lumen) belong to it.
    """
    side = max(image.shape[:2])
    bright = _opened(image.max(axis=2) > BORDER, max(2.0, side / 90))
    labels, count = ndimage.label(bright)
    if count == 0:
        return np.zeros(image.shape[:2], dtype=bool)
    tissue = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    tissue = ndimage.binary_fill_holes(tissue) & ~overlays(image)
    return ndimage.binary_erosion(tissue, EIGHT, iterations=max(1, side // 256), border_value=1)


def overlays(image: Pixels) -> Mask:
    """Find boxes drawn into the frame: filled rectangles, green or blue, of at least 0.2 % of its area."""
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    odd = (np.maximum(green, blue) > red + COLOUR_GAP) & (np.maximum(green, blue) > 40)
    odd = ndimage.binary_opening(odd, EIGHT)
    found = np.zeros(odd.shape, dtype=bool)
    labels, _ = ndimage.label(odd, structure=EIGHT)
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == index
        if part.size >= 0.002 * odd.size and part.mean() > 0.75:
            pad = 2 + max(image.shape[:2]) // 128
            found[max(0, rows.start - pad) : rows.stop + pad, max(0, columns.start - pad) : columns.stop + pad] = True
    return found


def highlights(image: Pixels) -> Mask:
    """Find specular highlights and light text, shape (H, W).

    Bright pixels without colour, and thin pale strokes that are lighter than what surrounds them.
    """
    lab = lab_from_rgb(image)
    lightness, chroma = lab[..., 0], np.hypot(lab[..., 1], lab[..., 2])
    width = 2 * max(1, max(image.shape[:2]) // 160) + 1
    stroke = lightness - ndimage.grey_opening(lightness, (width, width)) > 8.0
    return ((lightness > BRIGHT) & (chroma < COLOURLESS)) | (stroke & (lightness > 40.0) & (chroma < 30.0))


def crowded(glare: Mask) -> Mask:
    """Find where highlights crowd, as they do in written lines and on instruments, shape (H, W)."""
    size = max(glare.shape) // 22 | 1
    return ndimage.uniform_filter(glare.astype(np.float32), size) > 0.15


@dataclass(frozen=True)
class Terrain:
    """What placement needs to know of one background, on a grid of cells but for its field of view."""

    frame: tuple[int, int]  # height, width, px
    field: Mask  # the field of view, px by px
    cell: int  # px
    tissue: Cells  # every pixel of the cell is in the field of view
    unsuited: NDArray[np.uint16]  # px of the cell on highlights or in deep shadow
    lightness: NDArray[np.float32]  # mean L* of the cell
    lesion: Cells  # the cell touches a lesion
    clearance: NDArray[np.float32]  # px of lesion-free tissue, without text and crowded highlights, around the cell

    @property
    def room(self) -> float:
        """Return the share of the frame that is lesion-free tissue: an upper limit of what `free` can place."""
        return float(np.count_nonzero(self.clearance)) * self.cell**2 / (self.frame[0] * self.frame[1])


def terrain_of(image: Pixels, lesion: Mask) -> Terrain:
    """Prepare a background and its lesions (an empty mask if it has none) for placements."""
    frame = (int(lesion.shape[0]), int(lesion.shape[1]))
    cell = -(-max(frame) // CELLS)
    glare = highlights(image)
    lightness = _mean_lightness(image, cell)
    field = field_of_view(image)
    tissue = np.asarray(_cells(field, cell).all(axis=2), dtype=bool)
    old = _touched(lesion, cell)
    clear = tissue & ~old & ~_touched(crowded(glare), cell)
    unsuited = _cells(glare, cell).sum(axis=2, dtype=np.uint16)
    unsuited[lightness < DEEP] = cell * cell
    return Terrain(frame, field, cell, tissue, unsuited, lightness, old, _clearance(clear, cell))


def place_free(terrain: Terrain, shape: Mask, rng: np.random.Generator, margin: float = 2.0) -> tuple[int, int] | None:
    """Draw a position where a shape lies on lesion-free tissue, uniformly among all such positions of the grid.

    Args:
        terrain: The background.
        shape: Tight crop, shape (h, w).
        rng: Decides which position.
        margin: px of free tissue that the shape needs around it.

    Returns:
        Top and left in the frame, or None if the shape fits nowhere.
    """
    cells = _touched(shape, terrain.cell)
    blocked = terrain.clearance < max(margin, 0.5)
    if _too_large(cells, blocked):
        return None
    free = _sums_under(blocked, cells) == 0
    if not free.any():
        return None
    free &= _sums_under(terrain.unsuited, cells) <= GLARE * np.count_nonzero(shape)
    free &= _spread_under(terrain.lightness, cells) <= UNEVEN
    choices = np.flatnonzero(free)
    if len(choices) == 0:
        return None
    row, column = np.unravel_index(choices[int(rng.integers(len(choices)))], free.shape)
    return int(row) * terrain.cell, int(column) * terrain.cell


def place_replace(terrain: Terrain, old: Mask, shape: Mask, margin: float = 2.0) -> tuple[int, int] | None:
    """Return the position where a shape covers an old lesion, as near to the old centroid as the field of view allows.

    Args:
        terrain: The background.
        old: The one lesion to replace, shape (H, W) of the frame. Other lesions are not touched.
        shape: Tight crop of the new mask, shape (h, w).
        margin: px of tissue around the new mask.

    Returns:
        Top and left in the frame, or None if no position inside the field of view overlaps the old lesion by at least
        OVERLAP of the smaller of the two.
    """
    cells = _touched(shape, terrain.cell)
    replaced = _touched(old, terrain.cell)
    allowed = terrain.tissue & ~(terrain.lesion & ~ndimage.binary_dilation(replaced, EIGHT))
    blocked = _clearance(allowed, terrain.cell) < max(margin, 0.5)
    if _too_large(cells, blocked):
        return None
    rows, columns = np.nonzero(_sums_under(blocked, cells) == 0)
    if len(rows) == 0:
        return None
    shift = np.array(ndimage.center_of_mass(old)) - np.array(ndimage.center_of_mass(shape))
    best = int(np.argmin((rows * terrain.cell - shift[0]) ** 2 + (columns * terrain.cell - shift[1]) ** 2))
    top, left = int(rows[best]) * terrain.cell, int(columns[best]) * terrain.cell
    shared = np.count_nonzero(old & paste(shape, top, left, terrain.frame))
    smaller = min(np.count_nonzero(old), np.count_nonzero(shape))
    return (top, left) if shared >= OVERLAP * smaller else None


def _opened(mask: Mask, radius: float) -> Mask:
    """Open with a disc, by distances; beyond the frame counts as bright, so that its edge erodes nothing."""
    inner = ndimage.distance_transform_edt(np.pad(mask, int(radius) + 1, mode="edge")) > radius
    if not inner.any():
        return np.zeros(mask.shape, dtype=bool)
    pad = int(radius) + 1
    return (ndimage.distance_transform_edt(~inner) <= radius)[pad:-pad, pad:-pad] & mask


def _cells(mask: Mask, cell: int) -> NDArray[np.bool_]:
    """Divide a mask into cells, shape (rows, columns, pixels of a cell); past the frame it is False."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell), (0, -width % cell)))
    rows, columns = padded.shape[0] // cell, padded.shape[1] // cell
    return padded.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows, columns, cell * cell)


def _mean_lightness(image: Pixels, cell: int) -> NDArray[np.float32]:
    """Return the mean L* of each cell, in whole numbers: it takes part in decisions that must not hang on rounding."""
    pixels = lab_from_rgb(image)[..., 0]
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, -height % cell), (0, -width % cell)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell)
    return np.asarray(np.rint(blocks.mean(axis=(1, 3))), dtype=np.float32)


def _touched(mask: Mask, cell: int) -> Cells:
    """Return the cells of which at least one pixel is in the mask."""
    return np.asarray(_cells(mask, cell).any(axis=2), dtype=bool)


def _clearance(allowed: Cells, cell: int) -> NDArray[np.float32]:
    """Return px from each free cell to the nearest pixel that is not, at least; beyond the frame nothing is free.

    Cells d apart, centre to centre, have pixels that are no more than sqrt(2) cells nearer, less one pixel.
    """
    distance = ndimage.distance_transform_edt(np.pad(allowed, 1))[1:-1, 1:-1]
    gap = np.maximum((distance - np.sqrt(2.0)) * cell + 1.0, 1.0)
    return np.where(distance > 0, gap, 0.0).astype(np.float32)


def _too_large(cells: Cells, blocked: Cells) -> bool:
    fits = cells.shape[0] <= blocked.shape[0] and cells.shape[1] <= blocked.shape[1]
    return not fits or int(np.count_nonzero(cells)) > int(np.count_nonzero(~blocked))


def _sums_under(values: NDArray[np.generic], cells: Cells) -> NDArray[np.float64]:
    """Return the sum of values under a shape at each position where it lies within the grid, rounded to integers."""
    kernel = cells[::-1, ::-1].astype(np.float64)
    return np.rint(signal.fftconvolve(values.astype(np.float64), kernel, mode="valid"))


def _spread_under(values: NDArray[np.float32], cells: Cells) -> NDArray[np.float64]:
    """Return the standard deviation of values under a shape at each position."""
    count = np.count_nonzero(cells)
    mean = _sums_under(values, cells) / count
    return np.sqrt(np.maximum(0.0, _sums_under(values**2, cells) / count - mean**2))
