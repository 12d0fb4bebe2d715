"""Procedural frames: tissue with a vignette, black corners, an overlay box and one or two lesions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import ellipse
from scipy import ndimage

from diffaug.conditioning.drawer import RequestDrawer, draw_requests
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels, write_png
from diffaug.data.request import Request

Frame = tuple[Pixels, Mask]
TISSUE, LESION = (190, 100, 85), (205, 90, 80)


def make_frame(seed: int, size: int = 160) -> Frame:
    rng = np.random.default_rng(seed)
    frame = (size, size)
    mask = np.zeros(frame, dtype=bool)
    for _ in range(1 + seed % 2):
        centre = (float(rng.uniform(0.25, 0.7) * size), float(rng.uniform(0.3, 0.75) * size))
        radii = (float(rng.uniform(0.05, 0.13) * size), float(rng.uniform(0.05, 0.13) * size))
        mask |= ellipse(frame, centre, radii, float(rng.uniform(0, np.pi)))
    image = np.where(mask[..., None], LESION, TISSUE) + 3.0 * ndimage.gaussian_filter(
        rng.normal(0, 3, (*frame, 3)), 1.0
    )
    rows, columns = np.mgrid[:size, :size] / (size - 1) - 0.5
    image *= (1.0 - 0.3 * (rows**2 + columns**2))[..., None]
    image[np.abs(rows) + np.abs(columns) > 0.75] = 3  # black corners
    image[int(0.7 * size) : int(0.9 * size), int(0.1 * size) : int(0.3 * size)] = (20, 170, 140)  # an overlay box
    image[: size // 10] = 0
    mask[image.max(axis=2) < 20] = False
    mask[int(0.68 * size) :, : int(0.32 * size)] = False
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    """Twelve annotated training cases."""
    return write_cases(tmp_path_factory.mktemp("cases"), range(12))


@pytest.fixture(scope="session")
def frame_of() -> Callable[[int], Frame]:
    return make_frame


@pytest.fixture(scope="session")
def ellipse_in() -> Callable[..., Mask]:
    return ellipse


def write_cases(folder: Path, seeds: range) -> tuple[Case, ...]:
    found = []
    for seed in seeds:
        image, mask = make_frame(seed)
        name = f"train-{seed}"
        write_png(folder / f"{name}.png", image)
        write_png(folder / f"{name}-mask.png", mask.astype(np.uint8) * 255)
        found.append(Case(name, folder / f"{name}.png", folder / f"{name}-mask.png", name, "train"))
    return tuple(found)


CONFIG = GenerateConfig(negatives=0.0)
COLONOSCOPY = GenerateConfig(negatives=0.0, domain="colonoscopy")


@pytest.fixture(scope="session")
def drawer(cases: tuple[Case, ...]) -> RequestDrawer:
    return RequestDrawer(cases, 0, CONFIG)


@pytest.fixture(scope="session")
def requests(cases: tuple[Case, ...]) -> list[Request]:
    return list(draw_requests(cases, 60, 0, CONFIG))


@pytest.fixture(scope="session")
def with_findings(cases: tuple[Case, ...]) -> list[Request]:
    return list(draw_requests(cases, 60, 0, COLONOSCOPY))
