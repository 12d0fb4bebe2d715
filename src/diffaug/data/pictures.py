"""Pictures for people: scaled images with the outlines of their masks, and tiles with a text beneath."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffaug.data.images import Mask, Pixels

OUTLINES = ((64, 255, 64), (255, 208, 0), (255, 96, 255), (64, 224, 255), (255, 128, 64), (160, 160, 255))  # by class
OUTLINE = OUTLINES[0]
FONT, LINE, GAP = 11, 14, 4  # px: of a text, from one line to the next, and between tiles


def outlined(pixels: Pixels, masks: Mask) -> Pixels:
    """Return a copy of the pixels with the outer rim of each mask drawn in the colour of its class.

    Args:
        pixels: Shape (H, W, 3).
        masks: One mask, shape (H, W), or one for each class, shape (K, H, W). Later ones lie over earlier ones.
    """
    from scipy.ndimage import binary_dilation

    drawn = np.array(pixels)
    for number, mask in enumerate(masks.reshape(-1, *masks.shape[-2:])):
        drawn[binary_dilation(mask) & ~mask] = OUTLINES[number % len(OUTLINES)]
    return drawn


def picture_of(pixels: Pixels, masks: Mask | None, side: int) -> Image.Image:
    """Return an image, scaled so that its longer side has a length, with the outlines of its masks.

    Args:
        pixels: Shape (H, W, 3).
        masks: As `outlined` takes them; None draws no outline.
        side: Of the picture, px.
    """
    scale = side / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    small = Image.fromarray(pixels).resize(size, method)
    if masks is None:
        return small
    layers = masks.reshape(-1, *masks.shape[-2:]).astype(np.uint8) * 255
    inside = np.stack([np.asarray(Image.fromarray(layer).resize(size, method)) > 127 for layer in layers])
    return Image.fromarray(outlined(np.asarray(small), inside))


def fitting(text: str, width: int) -> str:
    """Return a text that is at most so many pixels wide: of a longer one the middle is left out."""
    font = ImageFont.load_default(FONT)
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 1 and font.getlength(shortened := _shortened(text, kept)) > width:
        kept -= 1
    return shortened


def _shortened(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def tile(picture: Image.Image, lines: Sequence[str], side: int) -> Image.Image:
    """Return a square with a picture in its middle, lines of text under it that fit its width, and gaps beside it."""
    drawn = Image.new("RGB", (side + GAP, side + LINE * len(lines) + GAP), "white")
    drawn.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    pen = ImageDraw.Draw(drawn)
    for number, line in enumerate(lines):
        pen.text((4, side + 1 + LINE * number), fitting(line, side - 8), fill="black", font_size=FONT)
    return drawn
