"""Lesions as formats of shapes want them: one mask a lesion, and its outline as one polygon.

A polygon is drawn through the middles of the outer edges of the lesion's pixels, a fifth of a pixel inside: whoever
takes the pixels whose centres lie inside, as pycocotools does, and whoever cuts corners down to whole pixels, as OpenCV
does, gets the same mask back. Where a polygon has holes, cuts of no width join them to the outline.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import Mask
from diffaug.data.lesions import LEAST_PIXELS, connected_parts, least_area, part_areas

INSIDE = 0.7  # level between a pixel (1) and its neighbour (0) at which an outline runs: 0.2 px inside the pixel's edge
Ring = NDArray[np.float64]  # (n, 2), corners x and y in px from the frame's corner; the last is joined to the first


def lesions_of(mask: Mask) -> list[Mask]:
    """Divide a mask into its lesions, the largest first, each (H, W); together they are the mask.

    Specks that are no lesions of their own (see `data.lesions`) belong to the nearest lesion. A mask of specks alone is
    one lesion.
    """
    labels, count = connected_parts(mask)
    if count <= 1:
        return [mask] if count else []
    areas = part_areas(labels, count)
    least = max(LEAST_PIXELS, min(least_area(mask.size), int(areas.max())))
    large = [number for number in range(1, count + 1) if areas[number - 1] >= least]
    if len(large) <= 1:
        return [mask]
    if len(large) < count:
        labels = _without_specks(labels, large)
    order = sorted(large, key=lambda number: (-areas[number - 1], number))
    return [np.asarray(labels == number) for number in order]


def _without_specks(labels: NDArray[np.int32], large: Sequence[int]) -> NDArray[np.int32]:
    """Give the pixels of specks the number of the nearest lesion."""
    from scipy.ndimage import distance_transform_edt

    kept = np.isin(labels, large)
    rows, columns = distance_transform_edt(~kept, return_distances=False, return_indices=True)
    return np.where(labels > 0, labels[rows, columns], 0)


def outline_of(part: Mask) -> tuple[Ring, int]:
    """Return the outline of one connected part as a polygon, and how many holes were joined to it by cuts.

    Args:
        part: Shape (H, W); pixels that touch at a corner are connected.
    """
    from skimage.measure import find_contours

    rows, columns = np.nonzero(part)
    top, left = int(rows.min()), int(columns.min())
    crop = np.pad(part[top : rows.max() + 1, left : columns.max() + 1], 1)
    found = find_contours(crop.astype(np.float64), INSIDE, fully_connected="high")
    # pixel centres of the padded crop => px from the frame's corner
    shift = np.array([left - 1 + 0.5, top - 1 + 0.5])
    rings = [_corners(ring[:-1, ::-1]) + shift for ring in found]
    outer = max(range(len(rings)), key=lambda number: float(np.ptp(rings[number][:, 0])))
    holes = [ring for number, ring in enumerate(rings) if number != outer]
    return _joined(rings[outer], holes), len(holes)


def _corners(ring: Ring) -> Ring:
    """Drop the points of a ring that lie on a straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    kept = np.abs(turns) > 1e-9
    return ring[kept] if kept.sum() >= 3 else ring


def _joined(ring: Ring, holes: Sequence[Ring]) -> Ring:
    """Join holes to a ring, those near it first, each by a cut to its nearest corner and back."""
    from scipy.spatial import KDTree

    outer = KDTree(ring)
    for hole in sorted(holes, key=lambda hole: float(np.min(outer.query(hole)[0]))):
        distances, corners = KDTree(ring).query(hole)
        end = int(np.argmin(distances))
        start = int(np.asarray(corners)[end])
        around = np.concatenate([hole[end:], hole[: end + 1]])
        ring = np.concatenate([ring[: start + 1], around, ring[start:]])
    return ring
