"""The square window around a region: crop it, paint in it, put it back.

Every border here is named: pixels are native (the frame's) or window pixels (the model's side, such as 128).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from diffaug.conditioning.attributes import bounding_box
from diffaug.data.images import Mask, Pixels

Frame = NDArray[np.uint8]
LARGE = 4096  # px; the side of a window that is resampled a channel at a time
CONTEXT = (1.3, 2.2)  # window side over the longer side of what is painted, drawn between these


@dataclass(frozen=True)
class Window:
    """A square of native pixels; it may reach beyond the frame, where the frame is mirrored.

    Attributes:
        top: First row, px of the frame; may be negative.
        left: First column.
        side: Height and width, px of the frame.
    """

    top: int
    left: int
    side: int

    def crop(self, frame: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the window's pixels, shape (side, side, ...), mirrored beyond the frame."""
        rows, columns = self.inside(frame.shape)
        if rows.stop - rows.start == self.side == columns.stop - columns.start:
            return np.array(frame[rows, columns])
        down = _mirrored(np.arange(self.top, self.top + self.side), frame.shape[0])
        right = _mirrored(np.arange(self.left, self.left + self.side), frame.shape[1])
        return frame[down[:, None], right[None, :]]

    def inside(self, frame: tuple[int, ...]) -> tuple[slice, slice]:
        """Return the rows and columns of a frame of shape (H, W, ...) that the window shows."""
        (top, bottom), (left, right) = (
            (min(max(0, start), size), max(0, min(start + self.side, size)))
            for start, size in zip((self.top, self.left), frame, strict=False)
        )
        return slice(top, bottom), slice(left, right)

    def place(self, values: NDArray[np.float32], frame: tuple[int, int]) -> NDArray[np.float32]:
        """Return the window's values, shape (side, side), in a frame of zeros, (H, W); what lies beyond is lost."""
        whole = np.zeros(frame, dtype=np.float32)
        rows, columns = self.inside(frame)
        whole[rows, columns] = values[
            rows.start - self.top : rows.stop - self.top, columns.start - self.left : columns.stop - self.left
        ]
        return whole


def windows_at_once(side: int) -> int:
    """Return how many windows of a side (px) a codec takes together: 16, and fewer where these fill its memory."""
    return max(1, min(16, 2**20 // side**2))


def _mirrored(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Reflect indices into 0..size-1 without repeating the edge."""
    period = max(1, 2 * (size - 1))
    folded = np.abs((index + size - 1) % period - (size - 1)) if size > 1 else np.zeros_like(index)
    return np.minimum(folded, size - 1)


def window_around(mask: Mask, context: float, shift: tuple[float, float] = (0.0, 0.0), least: int = 32) -> Window:
    """Return the square window around a mask's bounding box.

    Args:
        mask: Lesion mask of the frame, shape (H, W); not empty.
        context: Side over the longer side of the bounding box.
        shift: Offset of the centre, as a share of the free margin, each in [-1, 1].
        least: Smallest side, px of the frame.

    Returns:
        A window moved inside the frame where it fits; a side longer than the frame is cut to the frame's longer side,
        unless the mask needs more.
    """
    top, left, bottom, right = bounding_box(mask)
    longer = max(bottom - top, right - left)
    side = max(least, min(round(context * longer), max(mask.shape)), longer + 2)
    row = (top + bottom - side) / 2 + shift[0] * (side - (bottom - top)) / 2
    column = (left + right - side) / 2 + shift[1] * (side - (right - left)) / 2
    return Window(_inside(row, side, mask.shape[0]), _inside(column, side, mask.shape[1]), int(side))


def frame_window(shape: tuple[int, ...]) -> Window:
    """Return the smallest square window that holds a whole frame of shape (H, W, ...), centred on it."""
    side = max(shape[:2])
    return Window((shape[0] - side) // 2, (shape[1] - side) // 2, side)


def _inside(start: float, side: int, size: int) -> int:
    """Move a span inside 0..size where it fits, else centre it."""
    return round((size - side) / 2) if side >= size else int(np.clip(round(start), 0, size - side))


def resize(values: Tensor, side: int | tuple[int, int]) -> Tensor:
    """Resample (B, C, H, W), bicubic and antialiased; it overshoots a little at edges."""
    target = (side, side) if isinstance(side, int) else side
    if tuple(values.shape[-2:]) == target:
        return values
    return F.interpolate(values, target, mode="bicubic", antialias=True, align_corners=False)


def resize_mask(values: Tensor, side: int) -> Tensor:
    """Resample masks (B, K, H, W) in [0, 1] so that each output pixel holds its covered share."""
    if values.shape[-1] == side:
        return values
    return F.interpolate(values, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def tensor_from_pixels(pixels: Pixels) -> Tensor:
    """Return (1, 3, H, W) float32 in [-1, 1] from (H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def tensor_from_mask(mask: NDArray[np.generic]) -> Tensor:
    """Return (1, 1, H, W) float32 in [0, 1] from (H, W)."""
    return torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]


def pixels_from_tensor(image: Tensor) -> Pixels:
    """Return (H, W, 3) uint8 from (3, H, W) in [-1, 1]."""
    scaled = ((image.detach().float().clamp(-1, 1) + 1.0) * 127.5).round()
    pixels: Pixels = scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels


def window_image(frame: Pixels, window: Window, side: int) -> Tensor:
    """Return the window of a frame at the model's side: pixels => (1, 3, side, side) in [-1, 1]."""
    return image_of(np.asarray(window.crop(frame), dtype=np.uint8), side)


def image_of(square: Pixels, side: int) -> Tensor:
    """Return a square of pixels at another side: (s, s, 3) => (1, 3, side, side) in [-1, 1]."""
    if len(square) > LARGE:  # a channel at a time, which takes a third of the memory
        return torch.cat([resize(tensor_from_pixels(square[..., n, None]), side).clamp(-1, 1) for n in range(3)], 1)
    return resize(tensor_from_pixels(square), side).clamp(-1, 1)


def resized(square: Pixels, side: int) -> Pixels:
    """Return a square of pixels at another side: (s, s, 3) => (side, side, 3)."""
    return square if len(square) == side else pixels_from_tensor(image_of(square, side)[0])


def window_masks(masks: Mask, window: Window, side: int) -> Tensor:
    """Return the window of the masks of classes, (K, H, W), at the model's side: (1, K, side, side), covered shares."""
    return torch.cat([window_mask(mask, window, side) for mask in masks], dim=1)


def window_mask(mask: Mask, window: Window, side: int) -> Tensor:
    """Return the window of a mask at the model's side: (1, 1, side, side), covered share of each pixel."""
    return resize_mask(tensor_from_mask(window.crop(mask)), side)
