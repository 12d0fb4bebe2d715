"""Trees of the layouts in which data sets are published, with small drawn images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.data.case import Case
from diffaug.data.folder import Dataset, write_cases
from diffaug.data.fundus import DISC_AND_CUP
from diffaug.data.images import Mask
from diffaug.data.importing import import_dataset
from diffaug.errors import ConfigError, DataError

Pixels = NDArray[np.uint8]
SIDE = (40, 48)  # height and width of a picture, unless given


def picture(seed: int, height: int = 40, width: int = 48) -> Pixels:
    """Return smooth noise: pictures of two seeds do not look alike."""
    grid = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def lesion(height: int = 40, width: int = 48) -> Pixels:
    """Return a mask, 0 and 255, whose lesion lies left of and above the centre."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 8 : height // 2, width // 8 : width // 3] = 255
    return mask


def ellipse(
    frame: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> Mask:
    rows, columns = np.mgrid[: frame[0], : frame[1]]
    y, x = rows - centre[0], columns - centre[1]
    turned = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
    return (turned[0] / radii[0]) ** 2 + (turned[1] / radii[1]) ** 2 <= 1.0


def imported(layout: str, source: Path, to: Path, seed: int = 0, **options: Any) -> tuple[Dataset, list[str]]:
    """Import a source; return the data set and the notices."""
    result = import_dataset(layout, source, to, seed, **options)
    return result.dataset, list(result.notices)


def refused(layout: str, source: Path, to: Path, **options: Any) -> str:
    """Import a source that is refused; return the line, which names a remedy. Nothing was written."""
    with pytest.raises((DataError, ConfigError)) as error:
        import_dataset(layout, source, to, **options)
    assert not to.exists()
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)
    return str(error.value)


def put(path: Path, values: np.ndarray, **how: Any) -> Path:
    """Write an image; the options are those of Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **how)
    return path


def box(top: int, left: int, bottom: int, right: int, value: int = 1, size: tuple[int, ...] = SIDE) -> np.ndarray:
    """Return a mask with a rectangle."""
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = value
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


def eye(seed: int, side: int = 96, ratio: float = 0.6) -> tuple[Pixels, Pixels]:
    """Return a drawn crop around an optic disc and its label, 1 = rim, 2 = cup, of a vertical cup-to-disc ratio."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side - rng.uniform(0.45, 0.55, 2)[:, None, None]
    height, width = rng.uniform(0.26, 0.32), rng.uniform(0.24, 0.28)
    disc = np.hypot(rows / height, columns / width) < 1
    cup = np.hypot(rows / (ratio * height), columns / (ratio * width)) < 1 if ratio else np.zeros_like(disc)
    tissue = 100 + 15 * np.sin(20 * columns + seed) + 50 * disc + 40 * cup + rng.normal(0, 3, disc.shape)
    pixels = np.clip(tissue[:, :, None] * (1.0, 0.65, 0.35), 0, 255).astype(np.uint8)
    return pixels, disc.astype(np.uint8) + cup


def with_vessels(pixels: Pixels, seed: int) -> Pixels:
    """Return a drawn square eye with blotches of its own for vessels, without which one eye repeats another."""
    blotches = ndimage.gaussian_filter(
        np.random.default_rng((seed, 1)).normal(0, 1, pixels.shape[:2]), len(pixels) / 40
    )
    return np.clip(pixels + (14 * blotches / blotches.std())[..., None], 0, 255).astype(np.uint8)


def write_eyes(folder: Path, train: int = 8, test: int = 3, side: int = 96, vessels: bool = False) -> Path:
    """Write a data set of drawn discs and cups; the last training case has no cup."""
    cases = []
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            ratio = 0.0 if (split, index) == ("train", train - 1) else 0.35 + 0.5 * index / max(1, count - 1)
            name = f"{split}-{index}"
            paths = [folder / kind / f"{name}.png" for kind in ("images", "masks")]
            seed = 100 * len(split) + index
            pixels, label = eye(seed, side, ratio)
            for path, values in zip(paths, (with_vessels(pixels, seed) if vessels else pixels, label), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
            cases.append(Case(name, *paths, group=name, split=split, classes=DISC_AND_CUP))
    write_cases(folder, cases)
    return folder


SEQUENCE_ENDS = (25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428, 447,
                 466, 478, 503, 528, 546, 571, 591, 612)  # fmt: skip  # of CVC-ClinicDB, as its README.txt tells them


def write_clinicdb(folder: Path, size: tuple[int, int] = (18, 24), suffix: str = ".tif") -> Path:
    """Write CVC-ClinicDB as published; frames look like those of their sequence and unlike those of others."""
    for kind in ("Original", "Ground Truth"):
        (folder / kind).mkdir(parents=True)
    for number in range(1, 613):
        sequence = sum(number > end for end in SEQUENCE_ENDS)
        frame = np.round(0.55 * picture(sequence, *size) + 0.45 * picture(1000 + number, *size)).astype(np.uint8)
        Image.fromarray(frame).save(folder / "Original" / f"{number}{suffix}")
        Image.fromarray(lesion(*size)).save(folder / "Ground Truth" / f"{number}{suffix}")
    return folder


def write_drishti(folder: Path, count: int = 20, side: int = 96, cropped: bool = False) -> Path:
    """Write Drishti-GS: palette masks, a table of glaucoma; small discs in whole fields, or crops of large ones."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        pixels, label = eye(number, side, 0.35 + 0.5 * number / count) if cropped else fundus(number, side)
        mask = Image.fromarray(label).convert("P")
        mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        Image.fromarray(pixels).save(folder / "images" / f"drishtiGS_{number:03}.png")
        mask.save(folder / "masks" / f"drishtiGS_{number:03}.png")
    rows = [f"drishtiGS_{number:03},{number % 2}" for number in range(count)]
    (folder / "labels.csv").write_text("\n".join(["id,glaucoma", *rows]) + "\n")
    return folder


CODES = np.array([255, 128, 0], np.uint8)  # REFUGE's, of background, rim and cup


def refuge_stems(train: int = 5, val: int = 2, test: int = 3) -> dict[str, list[str]]:
    """Return the names of REFUGE by split: g and n in train, where two fifths are glaucoma, V and T elsewhere."""
    glaucoma = 2 * train // 5
    names = [f"{'gn'[index >= glaucoma]}{index + 1:04}" for index in range(train)]
    return {
        "train": names,
        "val": [f"V{index + 1:04}" for index in range(val)],
        "test": [f"T{index + 1:04}" for index in range(test)],
    }


def refuge_seed(stem: str) -> int:
    """Return what draws the photograph of a name."""
    return 1000 * "gnVT".index(stem[0]) + int(stem[1:])


def write_refuge_case(
    stem: str,
    images: Path,
    masks: Path,
    suffix: str = ".bmp",
    codes: Pixels = CODES,
    side: int = 96,
    vessels: bool = False,
) -> None:
    """Write one photograph and its mask; with vessels no two eyes look the same."""
    pixels, label = fundus(refuge_seed(stem), side)
    if vessels:
        pixels = with_vessels(pixels, refuge_seed(stem))
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(images / f"{stem}.jpg", quality=95)
    Image.fromarray(codes[label]).save(masks / f"{stem}{suffix}")


def write_refuge(
    folder: Path, stems: dict[str, list[str]] | None = None, side: int = 96, vessels: bool = False
) -> Path:
    """Write the archives of the challenge, with the pictures for people that lie among the annotations."""
    stems = stems or refuge_stems()
    training, annotation = folder / "Training400", folder / "Annotation-Training400"
    for stem in stems["train"]:
        kind = "Glaucoma" if stem[0] == "g" else "Non-Glaucoma"
        write_refuge_case(stem, training / kind, annotation / "Disc_Cup_Masks" / kind, side=side, vessels=vessels)
        (annotation / "Disc_Cup_Fovea_Illustration").mkdir(exist_ok=True)
        shutil.copy(training / kind / f"{stem}.jpg", annotation / "Disc_Cup_Fovea_Illustration" / f"{stem}.jpg")
    for stem in stems["val"]:
        masks = folder / "REFUGE-Validation400-GT" / "Disc_Cup_Masks"
        write_refuge_case(stem, folder / "REFUGE-Validation400", masks, side=side, vessels=vessels)
    for number, stem in enumerate(stems["test"]):
        masks = folder / "REFUGE-Test-GT" / "Disc_Cup_Masks" / "GN"[number % 2]
        write_refuge_case(stem, folder / "Test400", masks, side=side, vessels=vessels)
    return folder


def write_refuge_mirror(
    folder: Path, images: str = "images", masks: str = "mask", suffix: str = ".bmp", codes: Pixels = CODES
) -> Path:
    """Write the split folders of a mirror."""
    for split, stems in refuge_stems().items():
        for stem in stems:
            write_refuge_case(stem, folder / split / images, folder / split / masks, suffix, codes)
    return folder
