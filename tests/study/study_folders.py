"""Small data sets and synthetic sets on disk, in the formats of the product."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffaug.artifacts import digest_of_file, write_csv, write_json
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.config import GenerateConfig
from diffaug.data.case import LabelClass, digest_of_case
from diffaug.data.folder import read_dataset, write_cases
from diffaug.data.funnel import funnel
from diffaug.data.manifest import MANIFEST, SUMMARY, Row, SyntheticSet, write_rows
from diffaug.data.request import Check, MaskTransform, Request
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


def row_of(index: int, sources: tuple[str, ...], **more: Any) -> Row:
    """Return the row of a kept medium lesion, whose picture is elsewhere."""
    name, request = f"synth-{index:05d}", {name: more.pop(name) for name in ("negative", "prompt") if name in more}
    values = {
        "index": index, "id": name, "seed": index, "background": sources[0], "mask_case": sources[-1], "component": 0,
        "placement": "free", "transform": MaskTransform(), "top": 0, "left": 0, "prompt": "a small <flat> polyp",
        "size_bin": "medium",
    } | request  # fmt: skip
    row = Row(Request(**values), "kept", "", 10, (Check(10, 0, 0.8, 0.5),), (0, 0, 40), "m", "v", "c")
    return replace(row, **more)


def make_synthetic(
    folder: Path,
    kept: int = 4,
    sources: tuple[str, ...] = ("train-0", "train-1"),
    data: Path | None = None,
    negatives: int = 0,
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
        name = f"synth-{index:05d}"
        draw(shard / "images" / f"{name}.png", rng, (48, 40), 7)
        row = with_files(folder, row_of(index, sources))
        if index == kept:
            reason, checks = "score under threshold", (Check(10, 0, 0.2, 0.5),)
            row = replace(row, decision="rejected", reason=reason, checks=checks)
            row = row if paint_all else _turned_down(folder, row)
        rows.append(row)
    rows += [_negative(folder, sources, index, rng) for index in range(kept + 1, kept + 1 + negatives)]
    write_set(folder, rows)
    digests = folder.parent / "seen"
    write_provenance(folder, data or (digests if digests.is_dir() else make_dataset(digests)))
    return folder


def with_files(folder: Path, row: Row) -> Row:
    """Return a row with the paths and digests of its picture and label, which are there."""
    paths = {kind: f"shards/00000/{kind}s/{row.id}.png" for kind in ("image", "mask")}
    return replace(row, **paths, **{f"{kind}_digest": digest_of_file(folder / path) for kind, path in paths.items()})


def write_set(folder: Path, rows: list[Row], classes: tuple[LabelClass, ...] = ()) -> None:
    """Write the table and the manifest of a synthetic set, and a summary, which says that it is finished."""
    found = SyntheticSet(folder, tuple(rows), classes)
    write_cases(folder, [found.case(row) for row in rows if row.decision == "kept"])
    write_rows(folder / MANIFEST, rows)
    write_json(folder / SUMMARY, {**funnel(rows).as_dict(), "seconds": 9.0})


def _turned_down(folder: Path, row: Row) -> Row:
    preview = f"shards/00000/rejected/{row.id}.png"
    (folder / row.image).rename(folder / preview)
    mask = f"shards/00000/rejected/{row.id}_mask.png"
    (folder / row.mask).rename(folder / mask)
    return replace(row, image="", mask="", preview=preview, preview_mask=mask, image_digest="", mask_digest="")


def write_provenance(folder: Path, data: Path) -> None:
    """Say that the model of a synthetic set was fitted on the training cases of a data set alone."""
    write_seen(folder, NOTHING)
    train = read_dataset(data).split("train")
    images = {case.id: digest_of_file(case.image) for case in train}
    write_json(
        folder / "provenance.json", {"images": images, "cases": {case.id: digest_of_case(case) for case in train}}
    )


def _negative(folder: Path, sources: tuple[str, ...], index: int, rng: np.random.Generator) -> Row:
    """Write a painted case without a new lesion, on a frame that holds one elsewhere, and return its row."""
    row, shard = row_of(index, sources, negative=True, prompt="normal mucosa"), folder / "shards" / "00000"
    (shard / "regions").mkdir(exist_ok=True)
    draw(shard / "images" / f"{row.id}.png", rng, (48, 40), 6)
    region = np.zeros((40, 48), np.uint8)
    region[2:8, 2:10] = 255
    Image.fromarray(region).save(shard / "regions" / f"{row.id}.png")
    row = replace(row, checks=(), found=0.01, region=f"shards/00000/regions/{row.id}.png")
    return with_files(folder, row)


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
        row = Row(request, "kept", "", 10, (), (0, 0, 40), "m", "v", "c")
        rows.append(with_files(folder, row))
    write_set(folder, rows, drawer.classes)
    write_provenance(folder, eyes)
    return folder
