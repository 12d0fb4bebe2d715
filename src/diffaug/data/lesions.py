"""What a lesion is: how its pixels connect, how small it may be, and what size it is called.

A lesion is a connected part of a mask; pixels that touch at a corner are connected. It covers at least LEAST_SHARE of
the frame and LEAST_PIXELS pixels: smaller parts are specks of compression or of annotation. A mask of specks alone has
its largest part as its lesion, if that has LEAST_PIXELS. Every stage counts lesions by this definition: the mask bank,
fitting, evaluation, inspection and placement. Clearing a frame of its lesions also repaints its specks.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import Mask
from diffaug.errors import ShapeError

LEAST_SHARE = 0.0005  # of the frame
LEAST_PIXELS = 9
CORNERS = np.ones((3, 3), dtype=bool)  # a structuring element: pixels that touch at a corner are connected
SIZES = ("small", "medium", "large")
SMALL, LARGE = 0.05, 0.15  # share of the frame; a lesion under the first is small, over the second large


@dataclass(frozen=True, eq=False)
class Lesion:
    """One connected lesion of a mask: a tight crop, and where it lies in its frame. It equals itself alone.

    Attributes:
        crop: Shape (h, w), True inside the lesion.
        top: Row of the crop's first row in the frame, px.
        left: Column of the crop's first column in the frame, px.
        frame: Height and width of the frame, px.
    """

    crop: Mask = field(repr=False)
    top: int
    left: int
    frame: tuple[int, int]

    @property
    def area(self) -> int:
        """The number of its pixels."""
        return int(np.count_nonzero(self.crop))

    @property
    def relative_area(self) -> float:
        """Its share of the frame."""
        return self.area / (self.frame[0] * self.frame[1])

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of its crop in the frame."""
        height, width = self.crop.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def in_frame(self) -> Mask:
        """Return it at its place, shape (H, W) of its frame."""
        mask = np.zeros(self.frame, dtype=bool)
        mask[self.slices] = self.crop
        return mask


def connected_parts(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Number the connected parts of a mask, specks included.

    Args:
        mask: Shape (H, W).

    Returns:
        The number of each pixel's part, (H, W), 0 outside the mask; and how many parts there are.

    Raises:
        ShapeError: The mask is not two-dimensional.
    """
    from scipy.ndimage import label

    if np.ndim(mask) != 2:
        raise ShapeError(f"a mask has the shape (H, W): this one has {np.shape(mask)}; pass one mask at a time")
    labels, count = label(mask, structure=CORNERS)
    return np.asarray(labels, dtype=np.int32), int(count)


def part_areas(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the number of pixels of each part that `connected_parts` numbered, in the order of their numbers."""
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]


def components(mask: Mask) -> list[Lesion]:
    """Return the lesions of a mask, the largest first.

    Args:
        mask: Shape (H, W), True inside lesions.

    Raises:
        ShapeError: The mask is not two-dimensional.
    """
    from scipy.ndimage import find_objects

    labels, count = connected_parts(mask)
    areas = part_areas(labels, count)
    least = least_area(mask.size)
    if count and areas.max() < least:
        least = max(LEAST_PIXELS, int(areas.max()))
    frame = int(mask.shape[0]), int(mask.shape[1])
    boxes = find_objects(labels)
    lesions = []
    for index in np.argsort(-areas, kind="stable"):
        if areas[index] >= least:
            rows, columns = boxes[index]
            lesions.append(Lesion(labels[rows, columns] == index + 1, int(rows.start), int(columns.start), frame))
    return lesions


def lesion_masks(mask: Mask) -> list[Mask]:
    """Return the lesions of a mask, the largest first, each of the mask's shape (H, W)."""
    return [lesion.in_frame() for lesion in components(mask)]


def count_lesions(mask: Mask) -> int:
    """Return the number of lesions of a mask, (H, W)."""
    return len(components(mask))


def least_area(pixels: int) -> float:
    """Return the least number of pixels of a lesion in a frame of so many pixels."""
    return max(LEAST_PIXELS, LEAST_SHARE * pixels)


def largest_part(mask: Mask) -> Mask:
    """Return the largest connected part of a mask, speck or not, (H, W); an empty mask is returned as it is."""
    labels, count = connected_parts(mask)
    if count <= 1:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(part_areas(labels, count))))


def size_class(relative_area: float) -> str:
    """Return small, medium or large for a lesion's share of its frame."""
    return "small" if relative_area < SMALL else "large" if relative_area > LARGE else "medium"
