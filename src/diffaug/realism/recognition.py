"""Whether a lesion is recognisable as another one: its fine structure, aligned by flips, turns, shifts and size.

A lesion is seen in a square around its centroid whose side follows its area, so that its size in the frame does not
matter. Its structure is what is left of its grey levels without broad light, inside its own outline. Lesions are
compared in many positions, and the best correlation counts. Two lesions of two patients reach a certain correlation by
chance, the more so the more lesions there are to compare with: held-out real lesions say what is recognisable.

Knows images and masks of lesions. Legend: P = 27 positions (shifts and sizes), T = 72 turns, S = 32 px.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.data.images import Mask, Pixels

SIDE = 32  # px of a structure
WIDE = 1.5  # the square that is turned, over that of the structure
CONTEXT = 1.6  # side of the square over the diameter of a circle of the lesion's area
BLUR = 4.0  # px; broader structure is light
CLIP = 2.0  # standard deviations, so that highlights count no more than texture
FLAT = 0.7  # grey levels; a lesion with weaker structure shows nothing to recognise
ANGLES = tuple(range(-40, 50, 10))  # degrees, beside quarter turns and flips
SIZES = (0.93, 1.0, 1.08)
SHIFT = 2  # px

Structures = NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """The training lesion that a lesion is most like.

    Attributes:
        place: Its number.
        correlation: Of their structures where they fit best, at most 1; 0 where either is flat.
    """

    place: int
    correlation: float


def structure_of(image: Pixels, lesion: Mask, angle: float = 0.0, size: float = 1.0) -> Structures:
    """Return the structure of a lesion, (S, S), of norm 1; all 0 where it is flat.

    Args:
        image: The frame, (H, W, 3).
        lesion: Its mask, (H, W).
        angle: Degrees by which it is turned first.
        size: Factor by which it is enlarged first.
    """
    side = CONTEXT * 2 * np.sqrt(lesion.sum() / np.pi)
    grey, mask = _square(image, lesion, WIDE * side)
    step = len(grey) / (WIDE * SIDE) / size
    radians = np.deg2rad(angle)
    turn = step * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    offset = np.full(2, (len(grey) - 1) / 2) - turn @ np.full(2, (SIDE - 1) / 2)
    moved = [ndimage.affine_transform(each, turn, offset, (SIDE, SIDE), order=1) for each in (grey, mask)]
    return _structure(moved[0], moved[1] > 0.5)


def _square(image: Pixels, lesion: Mask, side: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return grey levels and covered share in the square around a lesion's centroid, scaled to WIDE * SIDE px."""
    row, column = np.argwhere(lesion).mean(0) + 0.5
    box = (column - side / 2, row - side / 2, column + side / 2, row + side / 2)
    count, whole = round(WIDE * SIDE), (int(np.floor(box[0])), int(np.floor(box[1])), int(np.ceil(box[2])), int(np.ceil(box[3])))  # fmt: skip  # noqa: E501
    inner = tuple(edge - start for edge, start in zip(box, (whole[0], whole[1]) * 2, strict=True))
    found = []
    for values in (Image.fromarray(image).convert("L"), Image.fromarray(lesion.astype(np.uint8) * 255)):
        part = values.crop(whole).convert("F")  # beyond the frame it is 0, where no lesion is
        found.append(np.asarray(part.resize((count, count), Image.Resampling.BOX, inner), np.float32))
    return found[0], np.asarray(found[1] / 255, np.float32)


def _structure(grey: NDArray[np.float32], inside: Mask) -> Structures:
    weight = inside.astype(np.float32)
    share = np.maximum(ndimage.gaussian_filter(weight, BLUR), 1e-3)
    values = (grey - ndimage.gaussian_filter(grey * weight, BLUR) / share) * weight
    area = max(1.0, float(weight.sum()))
    deviation = float(np.sqrt((values**2).sum() / area))
    if deviation < FLAT:
        return np.zeros((SIDE, SIDE), np.float32)
    values = np.clip(values, -CLIP * deviation, CLIP * deviation)
    values = (values - values.sum() / area) * weight
    return np.asarray(values / max(1e-6, float(np.linalg.norm(values))), np.float32)


def turned(image: Pixels, lesion: Mask) -> Structures:
    """Return the structures of a training lesion in all turns, (T, S * S)."""
    found = [structure_of(image, lesion, angle) for angle in ANGLES]
    views = [np.rot90(each, quarter) for each in found for quarter in range(4)]
    return np.stack([view.ravel() for each in views for view in (each, each[::-1])])


def shifted(image: Pixels, lesion: Mask) -> Structures:
    """Return the structures of a lesion that is looked up, in all positions, (P, S * S)."""
    shifts = [(down, across) for down in (-SHIFT, 0, SHIFT) for across in (-SHIFT, 0, SHIFT)]
    found = [structure_of(image, lesion, size=size) for size in SIZES]
    return np.stack([np.roll(each, shift, (0, 1)).ravel() for each in found for shift in shifts])


def nearest(query: Structures, known: Sequence[Structures], allowed: Sequence[bool] | None = None) -> Match:
    """Return the training lesion that a lesion is most like.

    Args:
        query: Its structures, (P, S * S).
        known: Of each training lesion the structures, (T, S * S).
        allowed: Which of them count; None for all.
    """
    best = Match(-1, 0.0)
    for place, one in enumerate(known):
        if allowed is None or allowed[place]:
            value = float((query @ one.T).max())
            best = Match(place, value) if value > best.correlation else best
    return best
