"""COCO instances: one annotation a lesion, as run lengths, which hold every pixel, holes and several parts included.

    annotations/instances_train.json, .._val.json, .._test.json
    images/train/, images/val/, images/test/

Classes that lie inside each other have annotations of their own: a cup's pixels are the disc's, too.

Source: https://cocodataset.org/#format-data.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.artifacts import write_csv, write_long_json
from diffaug.data.case import masks_from_label
from diffaug.data.images import Mask
from diffaug.data.records import Spool
from diffaug.export.cases import Collection
from diffaug.export.entries import Entry
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
        split = entry.case.split
        return {"split": split, "file_name": image.name, "height": height, "width": width, **told}, found

    categories = [
        {"id": number, "name": each.name, "supercategory": ""} for number, each in enumerate(collection.classes, 1)
    ]
    with ExitStack() as stack:
        images, annotations = (
            {split: stack.enter_context(Spool(folder)) for split in collection.splits} for _ in range(2)
        )
        done = in_threads(put, collection.entries, progress)
        for image, found in done:
            split = image.pop("split")
            number = len(images[split]) + 1
            images[split].add({"id": number, **image})
            for annotation in found:
                annotations[split].add({"id": len(annotations[split]) + 1, "image_id": number, **annotation})
        for split in collection.splits:
            table = {
                "info": {"description": collection.name},
                "images": iter(images[split]),
                "annotations": iter(annotations[split]),
                "categories": categories,
            }
            write_long_json(folder / "annotations" / f"instances_{split}.json", table)
    write_groups(collection, folder)
    return ()


def write_groups(collection: Collection, folder: Path) -> None:
    """Write `groups.csv`, which `diffaug data import` reads, for formats whose ids begin with the split there."""
    named = ({"id": f"{entry.case.split}-{entry.id}", "group": entry.case.group} for entry in collection.entries)
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
