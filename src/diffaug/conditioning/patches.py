"""Patches: where other tissue of a frame, moved and perhaps mirrored, looks like what surrounds a lesion.

A patch is chosen so that what surrounds the hole looks like what surrounds the patch. A lesion that no patch suits
cannot be painted away without a trace, and no new lesion is asked for in its place.

Source: Pritch, Kav-Venaki and Peleg 2009, "Shift-map image editing", for filling by shifts; here by one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch.nn import functional as F

from diffaug.conditioning.attributes import longer_side, near
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.conditioning.writing import unwritten
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import connected_parts

MARGIN = 0.12  # of a lesion's longer side: its rim and its shadow go with it
GRID = 112  # cells of the longer side, on which shifts are sought
RING = 0.25  # width of what is compared around a hole, of the diameter of the circle of its area
LEAST_RING = 2  # cells
SEEN = 0.6  # share of what surrounds a hole that must be tissue around the patch, too
EVEN = 0.7  # weight of the spread of light in a patch: folds and the lumen would end at its border
NEAR = 4.0  # grey levels that count as much as a shift by a whole frame: near tissue is preferred
WORST = 85.0  # cost over which a patch is seen at a glance: the lumen or a shadow in place of a lesion
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


def best_patch(frame: Pixels, hole: Mask, known: Mask) -> Patch | None:
    """Return the patch that suits a hole best, or None if none covers it and a band around it, or suits it at all.

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
    found, search = [], _Search(image, taken, ring)
    for rows, columns in MIRRORED:
        step = (-1 if rows else 1, -1 if columns else 1)
        patch = search.best(image[:: step[0], :: step[1]], tissue[:: step[0], :: step[1]])
        if patch is not None:
            (down, right), difference, cost = patch
            extra = [(-size % cell if flip else 0) for size, flip in zip(hole.shape, (rows, columns), strict=True)]
            found.append(Patch(down * cell - extra[0], right * cell - extra[1], (rows, columns), difference, cost))
    best = min(found, key=lambda one: one.cost, default=None)
    return best if best and best.cost <= WORST else None


def is_covered(frame: Pixels, mask: Mask, field: Mask, rules: FrameRules = ENDOSCOPIC) -> bool:
    """Tell whether tissue of a frame covers each of its lesions, so that they can be removed without a trace.

    Args:
        frame: Shape (H, W, 3).
        mask: Its lesions, (H, W).
        field: Where it shows tissue, (H, W).
        rules: What in the frame is no tissue.
    """
    sources = unwritten(frame, field, rules) & ~mask
    return all(best_patch(frame, region, sources & ~region) is not None for _, region in regions_of(mask, field))


def regions_of(mask: Mask, field: Mask) -> list[tuple[Mask, Mask]]:
    """Return lesions and the regions to repaint, largest first; lesions whose margins touch share a region.

    A piece of margin that the border cuts off from its lesion is left alone.

    Args:
        mask: Lesions of a frame, (H, W).
        field: Where the frame shows tissue; a lesion outside it is not seen, and nothing is painted there.
    """
    mask = mask & field
    labels, count = connected_parts(mask)  # of specks too: a cleared frame shows nothing of what was annotated
    covered = mask.copy()
    for index in range(1, count + 1):
        lesion = labels == index
        covered |= near(lesion, max(3.0, MARGIN * longer_side(lesion))) & field
    joined, _ = connected_parts(covered)
    pairs = [(mask & (joined == index), joined == index) for index in np.unique(joined[mask])]
    return sorted(pairs, key=lambda pair: -int(pair[1].sum()))


Found = tuple[tuple[int, int], float, float]


class _Search:
    """Seeks the shift of a source whose tissue suits a hole: sums under the hole and its ring, for all shifts at once.

    Args:
        image: Of the hole, (h, w, 3), in cells.
        taken: What is to be covered, (h, w).
        ring: What is compared around it, (h, w).
    """

    def __init__(self, image: NDArray[np.float32], taken: Mask, ring: Mask) -> None:
        self.taken, self.count, self.least = taken, float(taken.sum()), SEEN * float(ring.sum())
        self.size = tuple(fft.next_fast_len(2 * side - 1, real=True) for side in taken.shape)
        colours = [image[..., channel] * ring for channel in range(3)]
        around = [ring, (image**2).sum(axis=2) * ring, *colours]
        self.ring, self.square, *self.colours = self._spectra(np.stack([one[::-1, ::-1] for one in around]))
        self.hole = self._spectra(taken[::-1, ::-1])

    def _spectra(self, values: NDArray[np.generic]) -> NDArray[np.complex128]:
        return np.asarray(fft.rfft2(values.astype(np.float64), self.size))

    def best(self, source: NDArray[np.float32], tissue: Mask) -> Found | None:
        """Return the best shift in cells, the difference around it and its cost; None if none covers what is taken.

        Args:
            source: Where tissue is taken from, (h, w, 3).
            tissue: Where there is some, (h, w).
        """
        shown = source * tissue[..., None]
        light = shown.mean(axis=2)
        there, squares, lights, lights_squared, *colours = self._spectra(
            np.stack([tissue, (shown**2).sum(axis=2), light, light**2, *(shown[..., channel] for channel in range(3))])
        )
        products = sum(mine * theirs for mine, theirs in zip(colours, self.colours, strict=True))
        height, width = self.taken.shape
        under = fft.irfft2(
            np.stack(
                [
                    there * self.ring,
                    there * self.square + squares * self.ring - 2 * products,
                    lights_squared * self.hole,
                    lights * self.hole,
                    there * self.hole,
                ]
            ),
            self.size,
        )[:, : 2 * height - 1, : 2 * width - 1]
        seen, squared, light_squares, light_sums, covered = under
        difference = np.sqrt(np.maximum(squared, 0) / 3 / np.maximum(seen, 1e-6))
        spread = np.sqrt(np.maximum(light_squares / self.count - (light_sums / self.count) ** 2, 0))
        down, right = np.meshgrid(np.arange(1 - height, height), np.arange(1 - width, width), indexing="ij")
        cost = difference + EVEN * spread + NEAR * np.hypot(down / height, right / width)
        cost[(covered < self.count - 0.5) | (seen < self.least)] = np.inf
        best = np.unravel_index(int(np.argmin(cost)), cost.shape)
        if not np.isfinite(cost[best]):
            return None
        return (int(down[best]), int(right[best])), float(difference[best]), float(cost[best])


def _pooled(values: NDArray[np.generic], cell: int) -> NDArray[np.float32]:
    """Return the mean of each cell, (h, w, C); cells past the edge count what is there."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).permute(2, 0, 1)[None]
    pooled = F.avg_pool2d(tensor, cell, ceil_mode=True, count_include_pad=False)
    return np.asarray(pooled[0].permute(1, 2, 0).numpy())
