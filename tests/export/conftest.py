"""A data set of odd files with a synthetic set that was painted on it, small enough to be exported in every test."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import picture
from PIL import Image
from study_folders import make_painted_eyes, row_of, with_files, write_provenance, write_set

from diffaug.artifacts import write_csv
from diffaug.data.folder import read_dataset

COLUMNS = ("id", "image", "mask", "group", "split", "prompt", "negative")
SIZE = (40, 48)


def lesions(*boxes, hole=None):
    """Return a mask, 0 and 255, of boxes (top, left, bottom, right), perhaps with one cut out."""
    mask = np.zeros(SIZE, np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 255
    if hole:
        mask[hole[0] : hole[2], hole[1] : hole[3]] = 0
    return mask


def write_odd_dataset(folder: Path) -> Path:
    """Write cases of every kind of file: PNG, JPEG, grey, transparent, turned by EXIF; a lesion-free one; groups."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [  # id, suffix, mode, how it is saved
        ("train-0", ".png", "RGB", {}), ("train-1", ".jpg", "RGB", {"quality": 95}), ("train-2", ".png", "L", {}),
        ("train-3", ".png", "RGBA", {}), ("train-4", ".jpg", "RGB", {"exif": turned}), ("train-5", ".png", "RGB", {}),
        ("val-0", ".png", "RGB", {}), ("val-1", ".png", "RGB", {}), ("test.0", ".png", "RGB", {}),
        ("test-1", ".jpg", "RGB", {}), ("un-0", ".png", "RGB", {}),
    ]  # fmt: skip
    rows = []
    for seed, (name, suffix, mode, how) in enumerate(files):
        Image.fromarray(picture(seed)).convert(mode).save(folder / "images" / f"{name}{suffix}", **how)
        mask = lesions((4 + seed, 5, 20 + seed, 25), (26, 30, 34, 44))
        if name == "train-0":
            mask = lesions((4, 5, 24, 30), (26, 30, 34, 44), hole=(10, 10, 15, 20))
        if name == "train-4":  # it lies on its side, as its image does
            mask = lesions((3, 3, 12, 40))
        if name == "train-5":
            mask = lesions()
        row = {"id": name, "image": f"images/{name}{suffix}", "mask": f"masks/{name}.png", "prompt": ""}
        row["split"] = next(s for s in ("train", "val", "test", "unannotated") if s.startswith(name[:2]))
        row["group"] = {"train-1": "patient 1", "train-2": "patient 1", "un-0": "patient 1"}.get(name, name)
        row["negative"] = "1" if name == "train-5" else ""
        if name == "un-0":
            row["mask"] = ""
        else:
            Image.fromarray(mask // 255 if name == "train-2" else mask).save(folder / "masks" / f"{name}.png")
        rows.append(row)
    write_csv(folder / "cases.csv", rows, COLUMNS)
    return folder


def write_odd_synthetic(folder: Path, data: Path) -> Path:
    """Write five pictures: two lesions, one shared by two requests, one on an unannotated frame, two negatives."""
    shard = folder / "shards" / "00000"
    for name in ("images", "masks", "rejected"):
        (shard / name).mkdir(parents=True)
    rows = []
    sources = [
        ("train-0", "train-1"),
        ("train-3",),
        ("un-0", "train-3"),
        ("train-4", "train-0"),
        ("train-5", "train-0"),
    ]
    for index, made_of in enumerate(sources):
        row = row_of(index, made_of, negative=index > 2, prompt=f"a lesion, the {index}th")
        Image.fromarray(picture(100 + index)).save(shard / "images" / f"{row.id}.png")
        mask = lesions() if index == 4 else lesions((6, 6, 20 + index, 20), (22, 30, 36, 40))
        Image.fromarray(mask).save(shard / "masks" / f"{row.id}.png")
        rows.append(replace(with_files(folder, row), lesion_free=index == 4, checks=()))
    shown = replace(row_of(5, ("train-5", "train-4")), decision="joined", shown_in="synth-00001")
    others = ["rejected", "stopped"]
    turned_down = [replace(row_of(6 + place, ("train-0",)), decision=what) for place, what in enumerate(others)]
    Image.fromarray(picture(300)).save(shard / "images" / "synth-00008.png")
    Image.fromarray(lesions((6, 6, 20, 20))).save(shard / "masks" / "synth-00008.png")
    surplus = replace(with_files(folder, row_of(8, ("train-0",))), decision="surplus")
    write_set(folder, [*rows, shown, *turned_down, surplus])
    write_provenance(folder, data)
    return folder


@pytest.fixture(scope="session")
def odd(tmp_path_factory) -> Path:
    return write_odd_dataset(tmp_path_factory.mktemp("odd") / "dätä")


@pytest.fixture(scope="session")
def painted(odd, tmp_path_factory) -> Path:
    return write_odd_synthetic(tmp_path_factory.mktemp("painted") / "synthetic", odd)


@pytest.fixture(scope="session")
def partly_known(odd, tmp_path_factory) -> Path:
    """Two synthetic cases on a frame of which nothing is known but what is painted, and one on an annotated frame."""
    folder = tmp_path_factory.mktemp("partly") / "synthetic"
    for name in ("images", "masks", "regions"):
        (folder / "shards/00000" / name).mkdir(parents=True)
    rows = []
    for index, source in enumerate(("un-0", "un-0", "train-0")):
        row = row_of(index, (source, "train-3"))
        Image.fromarray(picture(200 + index)).save(folder / f"shards/00000/images/{row.id}.png")
        Image.fromarray(lesions((10, 10, 20, 22))).save(folder / f"shards/00000/masks/{row.id}.png")
        row = replace(with_files(folder, row), checks=())
        if source == "un-0":
            row = replace(row, region=f"shards/00000/regions/{row.id}.png")
            Image.fromarray(lesions((6, 6, 26, 28))).save(folder / row.region)
        rows.append(row)
    write_set(folder, rows)
    write_provenance(folder, odd)
    return folder


@pytest.fixture(scope="session")
def painted_eyes(eyes, tmp_path_factory) -> Path:
    return make_painted_eyes(tmp_path_factory.mktemp("painted-eyes") / "synthetic", eyes)


@pytest.fixture(scope="session")
def real(odd):
    return read_dataset(odd)
