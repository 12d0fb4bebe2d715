"""What a person hands in to be painted: refused in one line where it cannot be."""

from typing import Any

import numpy as np

from diffaug.conditioning.placement import field_of_view, lost_from_view
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.images import Mask, Pixels
from diffaug.errors import DataError, ShapeError

LEAST_SIDE = 32  # px of a frame


def check_image(image: Any) -> None:
    """Refuse what is no picture in colour.

    Raises:
        ShapeError: It is no array (H, W, 3) of uint8, or has a side under LEAST_SIDE.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(f"an image is an array (H, W, 3) of uint8: it is {found}; convert it")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise ShapeError(
            f"an image has sides of {LEAST_SIDE} px at least: its shape is {image.shape}; use a larger one"
        )


def checked_masks(image: Pixels, mask: Mask, count: int, rules: FrameRules = ENDOSCOPIC) -> tuple[Mask, Mask]:
    """Return the mask of each class, (K, H, W), and the field of view of an image, (H, W).

    Args:
        image: Frame, (H, W, 3) uint8.
        mask: (H, W) bool; of several classes (K, H, W).
        count: Classes of the model.
        rules: What in such frames is no tissue.

    Raises:
        ShapeError: A shape or type is wrong.
        DataError: The mask is empty, or lies where no tissue is seen.
    """
    check_image(image)
    shape = image.shape[:2] if count == 1 and np.ndim(mask) == 2 else (count, *image.shape[:2])
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != shape:
        found = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ShapeError(
            f"a mask is an array of bool with the shape of its image, here {shape}: it is {found}; "
            "write mask > 0, and cut or scale it to the image"
        )
    classes = mask.reshape(count, *image.shape[:2])
    new, view = np.asarray(classes.any(axis=0)), field_of_view(image, rules)
    if not new.any():
        raise DataError("a mask says where to paint: it is empty; mark at least one pixel")
    if lost_from_view(new, view).any() or not (new & view).any():
        seen, marked = int((new & view).sum()), int(new.sum())
        raise DataError(
            f"a lesion is painted on tissue: {seen} of the mask's {marked} pixels lie in the field of view, off black "
            "border and overlays; move the mask"
        )
    return classes, view
