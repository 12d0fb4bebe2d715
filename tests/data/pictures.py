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


def fundus(seed: int, side: int = 96) -> tuple[Pixels, Pixels]:
    """Return a drawn fundus photograph, bright at its rim and in small spots, and its label: 1 = rim, 2 = cup."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    centre = rng.uniform(0.4, 0.6), rng.choice((0.28, 0.72)) + rng.uniform(-0.04, 0.04)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    radius = np.hypot(rows - 0.5, columns - 0.5)
    grid = Image.fromarray(rng.integers(0, 40, (9, 9), dtype=np.uint8))
    tissue = 90 + np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    for spot in rng.uniform(0.3, 0.7, (6, 2)):
        tissue += 120 * np.exp(-(((rows - spot[0]) ** 2 + (columns - spot[1]) ** 2) / (2 * 0.012**2)))
    tissue += 90 * np.exp(-(((radius - 0.47) / 0.015) ** 2))  # flash haze
    tissue += 70 / (1 + np.exp((distance - 0.07) / 0.004))
    tissue[radius > 0.48] = 4
    pixels = np.clip(tissue[:, :, None] * (1.0, 0.65, 0.35), 0, 255).astype(np.uint8)
    label = (distance < 0.07).astype(np.uint8) + (distance < 0.035).astype(np.uint8)
    return pixels, label
