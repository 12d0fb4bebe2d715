"""Textured lesions on textured tissue: a data set, and synthetic sets of copies and of new lesions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_folders import row_of, with_files, write_provenance, write_set

from diffaug.artifacts import write_csv
from diffaug.data.folder import read_dataset

SIDE, TRAIN, HELD_OUT = 96, 8, 8


def texture(rng, cells, weight):
    grid = Image.fromarray(rng.normal(0, weight, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def frame_of(seed, tissue=None):
    """Return a frame and its mask: tissue of one seed, and a lesion of another in it."""
    rng, back = np.random.default_rng(seed), np.random.default_rng(seed if tissue is None else tissue)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    row, column = rng.uniform(38, 58, 2)
    inside = ((rows - row) / rng.uniform(14, 22)) ** 2 + ((columns - column) / rng.uniform(14, 22)) ** 2 <= 1
    ground = 120 + texture(back, 5, 14) + texture(back, 30, 6)
    lesion = 150 + texture(rng, 12, 22) + texture(rng, 24, 16)
    image = np.where(inside, lesion, ground).clip(0, 255).astype(np.uint8)
    return np.stack([image, image // 2 + 40, image // 2 + 30], axis=2), inside


def write_dataset(folder: Path) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = []
    for split, count, first in (("train", TRAIN, 0), ("test", HELD_OUT, 100)):
        for number in range(count):
            name, (image, mask) = f"{split}-{number}", frame_of(first + number)
            Image.fromarray(image).save(folder / "images" / f"{name}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
            files = {"image": f"images/{name}.png", "mask": f"masks/{name}.png"}
            rows.append({"id": name, "group": name, "split": split, "prompt": "", **files})
    write_csv(folder / "cases.csv", rows, ("id", "image", "mask", "group", "split", "prompt"))
    return folder


def write_synthetic(folder: Path, data: Path, seed_of: Callable[[int], int]) -> Path:
    """Write a set whose nth picture shows the lesion of a seed, mirrored, on the tissue of another training case."""
    for name in ("images", "masks"):
        (folder / "shards/00000" / name).mkdir(parents=True)
    rows = []
    for number in range(TRAIN):
        background = (number + 1) % TRAIN
        image, mask = frame_of(seed_of(number), tissue=background)
        row = row_of(number, (f"train-{background}", f"train-{number}"))
        Image.fromarray(np.ascontiguousarray(image[:, ::-1])).save(folder / f"shards/00000/images/{row.id}.png")
        mirrored = np.ascontiguousarray(mask[:, ::-1]).astype(np.uint8) * 255
        Image.fromarray(mirrored).save(folder / f"shards/00000/masks/{row.id}.png")
        rows.append(replace(with_files(folder, row), window=(0, 0, SIDE)))
    write_set(folder, rows)
    write_provenance(folder, data)
    return folder


@pytest.fixture(scope="session")
def lesion_data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("lesions") / "data")


@pytest.fixture(scope="session")
def copied(lesion_data, tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("copied") / "set <b>", lesion_data, lambda number: number)


@pytest.fixture(scope="session")
def fresh(lesion_data, tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("fresh") / "set", lesion_data, lambda number: 200 + number)


@pytest.fixture(scope="session")
def lesion_cases(lesion_data):
    return read_dataset(lesion_data)
