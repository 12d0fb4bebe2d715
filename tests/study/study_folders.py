"""Small data sets and synthetic sets on disk, in the formats of the product."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from diffaug.artifacts import digest_of_file, write_csv, write_json
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.config import GenerateConfig
from diffaug.data.case import LabelClass, digest_of_case
from diffaug.data.folder import read_dataset, write_cases
from diffaug.data.manifest import Check, MaskTransform, Request, Row, SyntheticSet, funnel, write_rows
from diffaug.data.seen import NOTHING, write_seen

COLUMNS = ("id", "image", "mask", "group", "split", "prompt")


def draw(path: Path, rng: np.random.Generator, size: tuple[int, int], radius: float) -> None:
    """Write a pink frame with one redder ellipse, and its mask beside it in masks/."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    centre = rng.uniform(0.35, 0.65, 2) * (height, width)
    inside = ((rows - centre[0]) / radius) ** 2 + ((columns - centre[1]) / (radius * 0.8)) ** 2 <= 1
    image = np.full((height, width, 3), (190, 130, 120), np.int16)
    image[inside] += rng.integers(5, 60, 3).astype(np.int16) * (1, -1, -1)
    image += rng.integers(-8, 9, image.shape).astype(np.int16)
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
    mask = path.parent.parent / "masks" / path.name
    Image.fromarray(inside.astype(np.uint8) * 255).save(mask)


def make_dataset(folder: Path, train: int = 6, test: int = 5, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            name = f"{split}-{index}"
            size = (48, 40) if index % 2 else (40, 56)
            draw(folder / "images" / f"{name}.png", rng, size, (4, 9, 16)[index % 3])
            rows.append({"id": name, "image": f"images/{name}.png", "mask": f"masks/{name}.png", "split": split})
    write_csv(folder / "cases.csv", [{"group": row["id"], "prompt": "", **row} for row in rows], COLUMNS)
    return folder


def make_synthetic(
    folder: Path,
    kept: int = 4,
    sources: tuple[str, ...] = ("train-0", "train-1"),
    data: Path | None = None,
    fills: int = 0,
    paint_all: bool = False,
) -> Path:
    """Write a synthetic set in the format of `diffaug generate`: kept cases, negatives, and one rejected request.

    Its model has seen the training images of `data`; without `data` those that `make_dataset` makes first.
    """
    rng = np.random.default_rng(7)
    shard = folder / "shards" / "00000"
    for name in ("images", "masks", "rejected"):
        (shard / name).mkdir(parents=True)
    rows = []
    for index in range(kept + 1):
        decision = "kept" if index < kept else "rejected"
        request = Request(
            index, f"synth-{index:05d}", index, sources[0], sources[-1], 0, "free", MaskTransform(), 0, 0,
            "a small <flat> polyp", "medium",
        )  # fmt: skip
        draw(shard / "images" / f"{request.id}.png", rng, (48, 40), 7)
        check = Check(10, 0, 0.8 if decision == "kept" else 0.2, 0.5)
        row = Row(request, decision, "" if decision == "kept" else "score under threshold", 10, (check,), WINDOW, *MADE)
        row = with_files(row, folder)
        if decision == "rejected" and not paint_all:
            preview = f"shards/00000/rejected/{request.id}.png"
            (folder / row.image).rename(folder / preview)
            (folder / row.mask).rename(folder / preview.replace(".png", "_mask.png"))
            row = replace(row, image="", mask="", image_digest="", mask_digest="", preview=preview)
        rows.append(row)
    rows += [_negative(folder, rows[0], index, rng) for index in range(kept + 1, kept + 1 + fills)]
    digests = folder.parent / "seen"
    write_set(folder, rows, data or (digests if digests.is_dir() else make_dataset(digests)))
    return folder


WINDOW, MADE = (0, 0, 32), ("m", "v", "c")  # digests of model, validators and config


def with_files(row: Row, folder: Path) -> Row:
    """Return a row that names its image and its mask in the first shard."""
    image, mask = (f"shards/00000/{kind}/{row.id}.png" for kind in ("images", "masks"))
    digests = {"image_digest": digest_of_file(folder / image), "mask_digest": digest_of_file(folder / mask)}
    return replace(row, image=image, mask=mask, **digests)


def write_set(folder: Path, rows: Sequence[Row], data: Path, classes: Sequence[LabelClass] = ()) -> None:
    """Write what lies beside the shards of a set whose model was fitted on a data set."""
    write_rows(folder / "manifest.jsonl", rows)
    made = SyntheticSet(folder, tuple(rows), tuple(classes))
    write_cases(folder, [made.case(row) for row in rows if row.decision == "kept"])
    write_provenance(folder, data)
    write_json(folder / "summary.json", {**funnel(rows).as_dict(), "seconds": 9.0})


def write_provenance(folder: Path, data: Path) -> None:
    """Say that the model of a synthetic set was fitted on the training cases of a data set alone."""
    write_seen(folder, NOTHING)
    train = read_dataset(data).split("train")
    images = {case.id: digest_of_file(case.image) for case in train}
    write_json(
        folder / "provenance.json", {"images": images, "cases": {case.id: digest_of_case(case) for case in train}}
    )


def _negative(folder: Path, like: Row, index: int, rng: np.random.Generator) -> Row:
    """Write lesion-free tissue on a frame that holds a lesion elsewhere, and return its row."""
    name, shard = f"synth-{index:05d}", folder / "shards" / "00000"
    (shard / "regions").mkdir(exist_ok=True)
    draw(shard / "images" / f"{name}.png", rng, (48, 40), 6)
    region = np.zeros((40, 48), np.uint8)
    region[2:8, 2:10] = 255
    Image.fromarray(region).save(shard / "regions" / f"{name}.png")
    request = replace(like.request, index=index, id=name, negative=True, prompt="normal mucosa")
    row = replace(like, request=request, checks=(), found=0.01, region=f"shards/00000/regions/{name}.png")
    return with_files(row, folder)


def make_painted_eyes(folder: Path, eyes: Path, kept: int = 4) -> Path:
    """Write a synthetic set in the format of `diffaug generate` whose cups are labelled, not painted."""
    drawer = RequestDrawer(read_dataset(eyes).split("train"), 0, GenerateConfig())
    rows = []
    for index in range(kept):
        request = drawer.draw(index)
        paths = [folder / "shards" / "00000" / kind / f"{request.id}.png" for kind in ("images", "masks")]
        image = np.clip(drawer.cases[request.background].read_image() + np.uint8(index + 1), 0, 255)
        for path, values in zip(paths, (image, drawer.masks(request).values), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
        rows.append(with_files(Row(request, "kept", "", 10, (), WINDOW, *MADE), folder))
    write_set(folder, rows, eyes, drawer.classes)
    return folder
