"""Phantoms: procedural images with lesions, for demonstrations and tests.

There are two kinds of data set: endoscopy-like scenes, and nuclei of cells under a microscope (`cells.py`). In scenes
about half of the lesions are obvious; the others are small, flat or both. Every case is a pure function of the kind, of
the seed, of its split and of its index, however many cases are made.

Knows nothing of anatomy: a phantom shows that the software runs and that some lesions are hard to find, and nothing
about patients.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator

from diffaug.artifacts import PathLike
from diffaug.compute.progress import tracked
from diffaug.data.case import Case
from diffaug.data.cells import draw_cells
from diffaug.data.folder import Dataset, new_dataset, read_dataset, refuse_occupied, write_cases
from diffaug.data.images import Mask, Pixels, write_png
from diffaug.data.scene import (
    PALE,
    RED,
    Field,
    Scene,
    blur,
    fractal,
    lesion_free_scene,
    render,
    shape,
    smoothstep,
    step_towards,
)
from diffaug.data.table import SPLITS
from diffaug.errors import ConfigError

Kind = Literal["protruding", "small-protruding", "small-flat", "flat"]
Phantoms = Literal["endoscopy", "cells"]  # kinds of data set

SMALLEST = 64  # px; below, a small lesion has no pixels left
LESION_FREE_SHARE = 0.5  # of the unannotated scenes
SECOND_LESION_SHARE = 0.1
# kind                 share  area of the frame   height / radius   colour step  edge / radius
KINDS: dict[Kind, tuple[float, tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "protruding":       (0.50, (0.050, 0.300), (0.55, 0.95), (0.30, 0.80), (0.02, 0.05)),
    "small-protruding": (0.15, (0.008, 0.040), (0.35, 0.70), (0.15, 0.50), (0.05, 0.12)),
    "small-flat":       (0.20, (0.008, 0.040), (0.04, 0.12), (0.30, 0.50), (0.15, 0.30)),
    "flat":             (0.15, (0.050, 0.140), (0.03, 0.08), (0.25, 0.45), (0.12, 0.25)),
}  # fmt: skip


@dataclass(frozen=True)
class Phantom:
    """A painted scene: pixels, shape (S, S, 3), mask, shape (S, S), and the kind of each lesion."""

    image: Pixels
    mask: Mask
    kinds: tuple[Kind, ...]


def make_phantoms(
    to: PathLike,
    train: int = 60,
    val: int = 20,
    test: int = 40,
    unannotated: int = 40,
    *,
    kind: Phantoms = "endoscopy",
    size: int = 256,
    seed: int = 0,
    progress: str = "",
) -> Dataset:
    """Make a data set of phantoms.

    Args:
        to: A new folder.
        train: How many training cases, at least 1.
        val: How many cases to choose settings on.
        test: How many cases to test on.
        unannotated: How many images without a mask. About half of the scenes have a lesion; all frames of cells do.
        kind: `endoscopy` draws scenes with one or two lesions, `cells` some 20 to 40 nuclei a frame.
        size: Side of the square images in px, at least 64.
        seed: Chooses every scene; a case depends on the seed, its split and its index only.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        ConfigError: A number is out of range, the kind is unknown, or `to` holds something else, or cannot be written.

    Example:
        >>> diffaug.make_phantoms("data/phantoms", train=2, val=1, test=1, unannotated=0, size=64)
        Dataset(data/phantoms: 4 cases, 2 train, 1 val, 1 test)
    """
    to = Path(to)
    counts = dict(zip(SPLITS, (train, val, test, unannotated), strict=True))
    if min(counts.values()) < 0 or train < 1 or size < SMALLEST:
        raise ConfigError(
            f"phantoms need one training case and {SMALLEST} px at least: got {counts} at {size} px; raise them"
        )
    if kind not in get_args(Phantoms):
        raise ConfigError(f"a kind of phantoms is one of {', '.join(get_args(Phantoms))}: it is {kind!r}; choose one")
    refuse_occupied(to)
    names = [(split, index) for split, count in counts.items() for index in range(count)]
    with new_dataset(to) as folder:
        for part in ("images", "masks"):
            (folder / part).mkdir()
        written = (_write_phantom(folder, *name, kind, size, seed) for name in tracked(names, len(names), progress))
        write_cases(folder, list(written))
    return read_dataset(to)


def _write_phantom(folder: Path, split: str, index: int, kind: Phantoms, size: int, seed: int) -> Case:
    name = f"{split}-{index}"
    if kind == "cells":
        pixels, lesions = cells_of_index(split, index, size, seed)
    else:
        phantom = phantom_of_index(split, index, size, seed)
        pixels, lesions = phantom.image, phantom.mask
    image = folder / "images" / f"{name}.png"
    write_png(image, pixels, settled=False)
    mask = None if split == "unannotated" else folder / "masks" / f"{name}.png"
    if mask:
        write_png(mask, lesions.astype(np.uint8) * 255, settled=False)
    return Case(name, image, mask, group=name, split=split)


def cells_of_index(split: str, index: int, size: int = 256, seed: int = 0) -> tuple[Pixels, Mask]:
    """Draw the frame of nuclei of a split and an index: pixels, shape (S, S, 3), and mask, shape (S, S)."""
    pixels, mask, _ = draw_cells(np.random.default_rng([seed, SPLITS.index(split), index]), size)
    return pixels, mask


def phantom_of_index(split: str, index: int, size: int = 256, seed: int = 0) -> Phantom:
    """Paint the scene of a split and an index.

    Annotated scenes hold one or two lesions, unannotated ones none or one. A second lesion that finds no room is left
    out.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    if split == "unannotated":
        lesions = int(rng.random() >= LESION_FREE_SHARE)
    else:
        lesions = 1 + int(rng.random() < SECOND_LESION_SHARE)
    scene = lesion_free_scene(rng, size)
    mask = np.zeros((size, size), bool)
    kinds: list[Kind] = []
    for _ in range(lesions):
        kind = list(KINDS)[int(rng.choice(len(KINDS), p=[share for share, *_ in KINDS.values()]))]
        lesion = _add_lesion(rng, scene, kind, mask)
        if lesion.any():
            kinds.append(kind)
            mask |= lesion
    return Phantom(render(rng, scene), mask, tuple(kinds))


def _add_lesion(rng: Generator, scene: Scene, kind: Kind, taken: Mask) -> Mask:
    """Add a lesion and return its mask; empty where there is no room."""
    _, areas, heights, steps, edges = KINDS[kind]
    area = float(np.exp(rng.uniform(*np.log(areas))))
    rho = _find_place(rng, scene, area, taken)
    if rho is None:
        return np.zeros_like(taken)
    radius = scene.size * np.sqrt(area / np.pi)
    _raise(rng, scene, rho, radius * rng.uniform(*heights))
    _colour(rng, scene, rho, rng.uniform(*steps), rng.uniform(*edges), flat=heights[1] < 0.2)
    return (rho < 1) & scene.view


def _find_place(rng: Generator, scene: Scene, area: float, taken: Mask) -> Field | None:
    """Draw places until a lesion lies in the field of view, apart from others and in fair light.

    After 40 draws any light will do; from then on the lesion shrinks by 1 % a draw, so that a first one finds room.
    """
    size, radius = scene.size, scene.size * np.sqrt(area / np.pi)
    elongation, ragged = rng.uniform(1.0, 1.7), rng.uniform(0.05, 0.22)
    for draw in range(200):
        centre = rng.uniform(0.08, 0.92, 2) * size
        if not scene.view[int(centre[1]), int(centre[0])]:
            continue
        shrunk = radius * 0.99 ** max(0, draw - 40)
        rho = shape(rng, size, centre, shrunk, elongation=elongation, ragged=ragged)
        seen = (rho < 1) & scene.view
        apart = seen.sum() >= 0.85 * (rho < 1).sum() and not (taken & (rho < 1.3)).any()
        if apart and (draw >= 40 or 0.35 < scene.light[seen].mean() < 1.5):
            return rho
    return None


def _raise(rng: Generator, scene: Scene, rho: Field, height: float) -> None:
    """Add a dome with lobes and, where it stands high, its contact shadow."""
    dome = blur(np.maximum(0, 1 - np.minimum(rho, 1) ** 2.2) ** 0.7, 0.008 * scene.size)
    lobes = 1 + rng.uniform(0.01, 0.06) * fractal(rng, scene.size, rng.uniform(6, 10), 1)
    high = np.float32(min(1.0, height / (0.06 * scene.size)))
    scene.height = scene.height * (1 - high * dome) + dome * lobes * np.float32(height)
    shadow = np.exp(-(((rho - 1.08) / 0.10) ** 2)) * smoothstep(0.96, 1.04, rho)
    scene.light = scene.light + high * dome * (np.float32(1.1) * scene.light[rho < 1].mean() - scene.light)
    scene.light = scene.light * (1 - 0.30 * high * shadow)
    scene.wet = np.maximum(scene.wet, rng.uniform(0.4, 1.0) * high * dome)


def _colour(rng: Generator, scene: Scene, rho: Field, step: float, edge: float, *, flat: bool) -> None:
    """Give a lesion its own colour and texture, and end the vessels at its edge."""
    cover = smoothstep(1 + edge, 1 - edge, rho)
    towards = RED if rng.random() < 0.6 else PALE
    step_towards(scene, towards * step, cover)
    texture = fractal(rng, scene.size, scene.size / rng.uniform(5, 9), 2)
    step_towards(scene, PALE * rng.uniform(0.10, 0.22) * (0.7 if flat else 1.0), cover * texture)
    scene.vessels = scene.vessels * (1 - rng.uniform(0.75, 1.0) * cover)
    scene.bumps = scene.bumps * (1 + (0.2 if flat else -0.3) * cover)
