"""Pictures for the page: frames with outlines, close-ups and masks, as data URIs; knows pixels, no files of a run."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.data.images import Mask, Pixels

SIDE = 320  # px; longer side of a picture on the page
LINE = 2  # px; width of an outline
CLOSE = 1.7  # side of a close-up over the longer side of its lesion

REQUESTED = (255, 214, 0)  # yellow: the mask that was asked for
REFERENCE = (0, 214, 143)  # green
PREDICTION = (255, 45, 149)  # magenta


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(pixels: Pixels) -> str:
    """Return pixels (H, W, 3) as a JPEG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=86)
    return data_uri(buffer.getvalue(), "image/jpeg")


def shown(image: Pixels) -> Pixels:
    """Scale an image so that its longer side is `SIDE`, up or down."""
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(
        Image.fromarray(image).resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    )


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Scale a mask to the shape (H, W) of another."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    values: NDArray[np.uint8] = np.asarray(grey)
    return values > 127


def outlined(image: Pixels, masks: list[tuple[Mask, tuple[int, int, int]]]) -> str:
    """Return an image with the outline of each mask in its colour."""
    canvas = shown(image).copy()
    for mask, colour in masks:
        inside = resized(mask, canvas.shape)
        edge = inside & ~ndimage.binary_erosion(inside, iterations=LINE, border_value=1)
        canvas[edge] = colour
    return jpeg(canvas)


def plain(image: Pixels) -> str:
    """Return an image as it is."""
    return jpeg(shown(image))


def mask_picture(masks: Mask) -> str:
    """Return masks (K, H, W) in greys: the more classes a pixel belongs to, the lighter; one class is white."""
    share = masks.sum(0) * 255 // len(masks)
    grey = np.repeat(share[..., None].astype(np.uint8), 3, axis=2)
    return jpeg(shown(grey))


def close_up(image: Pixels, mask: Mask) -> Pixels:
    """Cut the square around a lesion, moved inside the frame; the whole frame without a lesion."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return image
    height, width = mask.shape
    side = min(height, width, round(CLOSE * max(rows[-1] - rows[0], columns[-1] - columns[0]) + 8))
    top = int(np.clip((rows[0] + rows[-1] - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] - side) // 2, 0, width - side))
    return image[top : top + side, left : left + side]
