"""Small real data sets on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `count` pairs as SOURCE/images and SOURCE/masks."""

    def make(count: int = 10, name: str = "source", suffix: str = ".png", first: int = 0) -> Path:
        for index in range(first, first + count):
            write_pair(tmp_path / name, f"c{index}", index, suffix)
        return tmp_path / name

    return make
