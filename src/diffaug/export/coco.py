"""COCO instances: one annotation a lesion, as run lengths, which hold every pixel, holes and several parts included.

    annotations/instances_train.json, .._val.json, .._test.json
    images/train/, images/val/, images/test/

Classes that lie inside each other have annotations of their own: a cup's pixels are the disc's, too.

Source: https://cocodataset.org/#format-data.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.artifacts import write_csv, write_text
from diffaug.data.case import masks_from_label
from diffaug.data.images import Mask
from diffaug.export.cases import Collection, Entry
from diffaug.export.files import in_threads, read_checked, write_image
from diffaug.export.shapes import lesions_of


def write_coco(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images and annotations, and return what the user should know.

    Raises:
        DataError: A file breaks a rule.
    """
    (folder / "annotations").mkdir()
    for split in collection.splits:
        (folder / "images" / split).mkdir(parents=True)

    def put(entry: Entry) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        image, height, width = write_image(entry.case, folder / "images" / entry.case.split, entry.id)
        masks = masks_from_label(read_checked(entry.case, (height, width)), collection.classes)
        found = [
            {"category_id": number, **_annotation(lesion)}
            for number, mask in enumerate(masks, start=1)
            for lesion in lesions_of(mask)
        ]
        record = entry.record()
        told = {key: record[key] for key in ("group", "origin", "negative", "lesion_free")}
        return {"file_name": image.name, "height": height, "width": width, **told}, found

    categories = [
        {"id": number, "name": each.name, "supercategory": ""} for number, each in enumerate(collection.classes, 1)
    ]
    done = in_threads(put, collection.entries, progress)
    tables: dict[str, dict[str, Any]] = {
        split: {"info": {"description": collection.name}, "images": [], "annotations": [], "categories": categories}
        for split in collection.splits
    }
    for entry, (image, found) in zip(collection.entries, done, strict=True):
        table = tables[entry.case.split]
        number = len(table["images"]) + 1
        table["images"].append({"id": number, **image})
        for annotation in found:
            table["annotations"].append({"id": len(table["annotations"]) + 1, "image_id": number, **annotation})
    for split, table in tables.items():
        write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(table, ensure_ascii=False) + "\n")
    write_groups(collection, folder)
    return ()


def write_groups(collection: Collection, folder: Path) -> None:
    """Write `groups.csv`, which `diffaug data import` reads, for formats whose ids begin with the split there."""
    named = [{"id": f"{entry.case.split}-{entry.id}", "group": entry.case.group} for entry in collection.entries]
    write_csv(folder / "groups.csv", named, ("id", "group"))


def _annotation(lesion: Mask) -> dict[str, Any]:
    """Return run lengths, area and box of one lesion, (H, W)."""
    from pycocotools import mask as coco

    runs = coco.encode(np.asfortranarray(lesion, dtype=np.uint8))
    counts, size = runs["counts"].decode("ascii"), [int(side) for side in runs["size"]]
    return {
        "segmentation": {"size": size, "counts": counts},
        "area": int(coco.area(runs)),
        "bbox": [float(side) for side in coco.toBbox(runs)],
        "iscrowd": 0,
    }
