"""Tissue for a hole in a frame: a patch of the same frame, moved, perhaps mirrored, and relit.

The patch is chosen so that what surrounds the hole looks like what surrounds the patch. Its inside is tissue as it was
seen, without seams. Where no single patch covers a hole, nothing is filled: what is pieced together repeats itself.

Source: Pritch, Kav-Venaki and Peleg 2009, "Shift-map image editing", for filling by shifts; here by one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal
from torch.nn import functional as F

from diffaug.data.images import Mask, Pixels
from diffaug.painting.light import relit

GRID = 112  # cells of the longer side, on which shifts are sought
RING = 0.25  # width of what is compared around a hole, of the diameter of the circle of its area
LEAST_RING = 2  # cells
SEEN = 0.6  # share of what surrounds a hole that must be tissue around the patch, too
EVEN = 0.7  # weight of the spread of light in a patch: folds and the lumen would end at its border
NEAR = 4.0  # grey levels that count as much as a shift by a whole frame: near tissue is preferred
BLEND = 0.12  # width over which a patch meets the frame, of the diameter
MIRRORED = ((False, False), (False, True), (True, False), (True, True))  # rows, columns


@dataclass(frozen=True)
class Patch:
    """Where the tissue for a hole comes from.

    Attributes:
        down: Rows from the hole to the patch, px, in the mirrored frame.
        right: Columns likewise.
        mirrored: Whether the frame's rows and columns are mirrored first.
        difference: Mean difference, grey levels, of what surrounds the two.
        cost: What was minimised: the difference, the spread of light in the patch, and its distance.
    """

    down: int
    right: int
    mirrored: tuple[bool, bool]
    difference: float
    cost: float


def filled(frame: Pixels, hole: Mask, known: Mask) -> Pixels | None:
    """Return a frame with a hole filled with tissue of the same frame, or None if no patch covers the hole.

    Args:
        frame: Shape (H, W, 3).
        hole: What is to be filled, (H, W).
        known: Where the frame shows tissue that may be shown again, (H, W).
    """
    if not hole.any():
        return frame
    known = known & ~hole
    patch = best_patch(frame, hole, known)
    return None if patch is None else _filled_with(frame, hole, known, patch)


def best_patch(frame: Pixels, hole: Mask, known: Mask) -> Patch | None:
    """Return the patch that suits a hole best, or None if none covers it and a band around it.

    Args:
        frame: Shape (H, W, 3).
        hole: Shape (H, W), not empty.
        known: Where there is tissue to take, (H, W).
    """
    cell = max(1, -(-max(hole.shape) // GRID))
    image = _pooled(frame.astype(np.float32), cell)
    taken, tissue = _pooled(hole[..., None], cell)[..., 0] > 0, _pooled(known[..., None], cell)[..., 0] > 0.999
    diameter = float(np.sqrt(4 * taken.sum() / np.pi))
    ring = ndimage.binary_dilation(taken, iterations=max(LEAST_RING, round(RING * diameter))) & tissue
    taken = ndimage.binary_dilation(taken)
    if not ring.any():
        return None
    found = []
    for rows, columns in MIRRORED:
        step = (-1 if rows else 1, -1 if columns else 1)
        patch = _best_shift(image, image[:: step[0], :: step[1]], taken, ring, tissue[:: step[0], :: step[1]])
        if patch is not None:
            (down, right), difference, cost = patch
            extra = [(-size % cell if flip else 0) for size, flip in zip(hole.shape, (rows, columns), strict=True)]
            found.append(Patch(down * cell - extra[0], right * cell - extra[1], (rows, columns), difference, cost))
    return min(found, key=lambda one: one.cost, default=None)


Found = tuple[tuple[int, int], float, float]


def _best_shift(
    image: NDArray[np.float32], source: NDArray[np.float32], taken: Mask, ring: Mask, tissue: Mask
) -> Found | None:
    """Return the best shift in cells, the difference around it and its cost; None if none covers what is taken."""

    def under(values: NDArray[np.generic], where: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return, for each shift, the sum of the source's values under a shifted pattern: (2 h - 1, 2 w - 1)."""
        pattern = where[::-1, ::-1].astype(np.float64)
        return np.asarray(signal.fftconvolve(values.astype(np.float64), pattern))

    shown = source * tissue[..., None]
    seen = np.maximum(under(tissue, ring), 1e-6)
    squares = under(tissue, (image**2).sum(axis=2) * ring) + under((shown**2).sum(axis=2), ring)
    products = sum(under(shown[..., channel], image[..., channel] * ring) for channel in range(3))
    difference = np.sqrt(np.maximum(squares - 2 * products, 0) / 3 / seen)
    light, count = shown.mean(axis=2), float(taken.sum())
    spread = np.sqrt(np.maximum(under(light**2, taken) / count - (under(light, taken) / count) ** 2, 0))
    height, width = taken.shape
    down, right = np.meshgrid(np.arange(1 - height, height), np.arange(1 - width, width), indexing="ij")
    cost = difference + EVEN * spread + NEAR * np.hypot(down / height, right / width)
    cost[(under(tissue, taken) < count - 0.5) | (seen < SEEN * ring.sum())] = np.inf
    best = np.unravel_index(int(np.argmin(cost)), cost.shape)
    if not np.isfinite(cost[best]):
        return None
    return (int(down[best]), int(right[best])), float(difference[best]), float(cost[best])


def _pooled(values: NDArray[np.generic], cell: int) -> NDArray[np.float32]:
    """Return the mean of each cell, (h, w, C); cells past the edge count what is there."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).permute(2, 0, 1)[None]
    pooled = F.avg_pool2d(tensor, cell, ceil_mode=True, count_include_pad=False)
    return np.asarray(pooled[0].permute(1, 2, 0).numpy())


def _filled_with(frame: Pixels, hole: Mask, known: Mask, patch: Patch) -> Pixels:
    """Return a frame with a patch in its hole, in the light of what surrounds the hole."""
    step = tuple(-1 if flip else 1 for flip in patch.mirrored)
    source, usable = frame[:: step[0], :: step[1]], known[:: step[0], :: step[1]]
    diameter = float(np.sqrt(4 * hole.sum() / np.pi))
    band = max(2.0, BLEND * diameter)
    rows, columns = np.nonzero(hole)
    pad = int(np.ceil(3 * band)) + 2
    box = [
        np.arange(max(0, at.min() - pad), min(size, at.max() + pad + 1))
        for at, size in zip((rows, columns), hole.shape, strict=True)
    ]
    there = [axis + shift for axis, shift in zip(box, (patch.down, patch.right), strict=True)]
    within = [(axis >= 0) & (axis < size) for axis, size in zip(there, hole.shape, strict=True)]
    clipped = np.ix_(*(np.clip(axis, 0, size - 1) for axis, size in zip(there, hole.shape, strict=True)))
    here = np.ix_(*box)
    tissue = usable[clipped] & within[0][:, None] & within[1][None]
    todo, place, moved = hole[here], frame[here].astype(np.float32), source[clipped].astype(np.float32)
    away = ndimage.distance_transform_edt(~todo)
    around = (away > 0) & (away <= 2 * band) & known[here] & tissue
    lit = relit(moved, place, around, todo)
    weight = np.clip(1 - away / band, 0, 1) ** 2 * (todo | (known[here] & tissue))
    mixed = place * (1 - weight[..., None]) + lit * weight[..., None]
    made = frame.copy()
    made[here] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return made
