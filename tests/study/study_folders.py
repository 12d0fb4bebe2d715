"""Small data sets and synthetic sets on disk, in the formats of the product."""

from pathlib import Path

import numpy as np
from PIL import Image

from diffaug.artifacts import digest_of_file, write_csv, write_json, write_jsonl
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.request import request_as_dict
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import read_dataset, write_cases
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
    """Write a synthetic set in the format of `diffaug generate`: kept cases, fills, and one rejected request.

    Its model has seen the training images of `data`; without `data` those that `make_dataset` makes first.
    """
    rng = np.random.default_rng(7)
    shard = folder / "shards" / "00000"
    for name in ("images", "masks", "rejected"):
        (shard / name).mkdir(parents=True)
    rows, cases = [], []
    for index in range(kept + 1):
        name, decision = f"synth-{index:05d}", "kept" if index < kept else "rejected"
        draw(shard / "images" / f"{name}.png", rng, (48, 40), 7)
        image, mask = f"shards/00000/images/{name}.png", f"shards/00000/masks/{name}.png"
        row = {
            "index": index, "id": name, "decision": decision, "background": sources[0], "mask_case": sources[-1],
            "reason": "" if decision == "kept" else "score under threshold", "placement": "free",
            "prompt": "a small <flat> polyp", "seed": index, "size_bin": "medium", "sources": list(sources),
            "checks": [{"step": 10, "t": 0, "score": 0.8 if decision == "kept" else 0.2, "threshold": 0.5}],
            "model": "m", "validator": "v", "config": "c", "image": image, "mask": mask, "preview": "",
            "image_digest": digest_of_file(folder / image), "mask_digest": digest_of_file(folder / mask),
        }  # fmt: skip
        if decision == "kept":
            cases.append(
                {
                    "id": name,
                    "image": image,
                    "mask": mask,
                    "group": sources[0],
                    "split": "train",
                    "prompt": row["prompt"],
                }
            )
        elif not paint_all:
            preview = f"shards/00000/rejected/{name}.png"
            (folder / image).rename(folder / preview)
            (folder / mask).rename(folder / preview.replace(".png", "_mask.png"))
            row |= {"image": "", "mask": "", "preview": preview}
        rows.append(row)
    for index in range(kept + 1, kept + 1 + fills):
        rows.append(_fill(folder, rows[0], index, rng))
        cases.append({**cases[0], **{name: rows[-1][name] for name in ("id", "image", "mask", "prompt")}})
    write_csv(folder / "cases.csv", cases, COLUMNS)
    write_jsonl(folder / "manifest.jsonl", rows)
    digests = folder.parent / "seen"
    write_provenance(folder, data or (digests if digests.is_dir() else make_dataset(digests)))
    funnel = {"requested": kept + 1, "stopped": 0, "rejected": 1, "kept": kept}
    write_json(folder / "summary.json", {**funnel, "by_size": {"medium": funnel}, "seconds": 9.0})
    return folder


def write_provenance(folder: Path, data: Path) -> None:
    """Say that the model of a synthetic set was fitted on the training cases of a data set alone."""
    write_seen(folder, NOTHING)
    train = read_dataset(data).split("train")
    images = {case.id: digest_of_file(case.image) for case in train}
    write_json(
        folder / "provenance.json", {"images": images, "cases": {case.id: digest_of_case(case) for case in train}}
    )


def _fill(folder: Path, like: dict, index: int, rng: np.random.Generator) -> dict:
    """Write a lesion-free fill on a frame that holds a lesion elsewhere, and return its row."""
    name, shard = f"synth-{index:05d}", folder / "shards" / "00000"
    (shard / "regions").mkdir(exist_ok=True)
    draw(shard / "images" / f"{name}.png", rng, (48, 40), 6)
    region = np.zeros((40, 48), np.uint8)
    region[2:8, 2:10] = 255
    Image.fromarray(region).save(shard / "regions" / f"{name}.png")
    parts = {kind: f"shards/00000/{kind}s/{name}.png" for kind in ("image", "mask", "region")}
    digests = {f"{kind}_digest": digest_of_file(folder / parts[kind]) for kind in ("image", "mask")}
    told = {"index": index, "id": name, "fill": True, "prompt": "normal mucosa", "checks": [], "found": 0.01}
    return {**like, **told, **parts, **digests}


def make_painted_eyes(folder: Path, eyes: Path, kept: int = 4) -> Path:
    """Write a synthetic set in the format of `diffaug generate` whose cups are labelled, not painted."""
    drawer = RequestDrawer(read_dataset(eyes).split("train"), 0, GenerateConfig())
    rows, cases = [], []
    for index in range(kept):
        request = drawer.draw(index)
        paths = [folder / "shards" / "00000" / kind / f"{request.id}.png" for kind in ("images", "masks")]
        image = np.clip(drawer.cases[request.background].read_image() + np.uint8(index + 1), 0, 255)
        for path, values in zip(paths, (image, drawer.masks(request).values), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
        cases.append(Case(request.id, *paths, request.background, "train", request.prompt, classes=drawer.classes))
        places = dict(zip(("image", "mask"), (path.relative_to(folder).as_posix() for path in paths), strict=True))
        more = {"decision": "kept", "sources": [request.background], "checks": [], "reason": "", "preview": ""}
        rows.append({**request_as_dict(request), **more, **places, "model": "m", "validator": "v", "config": "c"})
    write_cases(folder, cases)
    write_jsonl(folder / "manifest.jsonl", rows)
    write_provenance(folder, eyes)
    funnel = {"requested": kept, "stopped": 0, "rejected": 0, "kept": kept}
    write_json(folder / "summary.json", {**funnel, "by_size": {"large": funnel}, "seconds": 9.0})
    return folder
