"""Small images and masks for trees of published layouts."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def picture(seed: int, height: int = 40, width: int = 48) -> Pixels:
    """Return smooth noise: pictures of two seeds do not look alike."""
    grid = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def lesion(height: int = 40, width: int = 48) -> Pixels:
    """Return a mask, 0 and 255, whose lesion lies left of and above the centre."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 8 : height // 2, width // 8 : width // 3] = 255
    return mask


def write_pair(folder: Path, stem: str, seed: int, suffix: str = ".png") -> None:
    for kind, values in (("images", picture(seed)), ("masks", lesion())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / kind / f"{stem}{suffix}")
