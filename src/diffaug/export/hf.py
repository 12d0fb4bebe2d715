"""Hugging Face imagefolder: images with metadata.jsonl in train/, validation/ and test/, a data card, and Croissant.

    README.md                       the card
    train/metadata.jsonl            file_name, mask_file_name (a column `mask`), id, group, origin, negative, prompt, ..
    train/images/CASE.png, train/masks/CASE.png
    classes.json                    the values of each class in the masks
    croissant.json                  the same in the words of https://mlcommons.org/croissant/1.0

Source: https://huggingface.co/docs/datasets/image_dataset.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffaug.artifacts import write_jsonl, write_text
from diffaug.data.folder import CLASSES
from diffaug.data.records import Spool
from diffaug.export.cases import Collection, count_of
from diffaug.export.croissant import MEANINGS, croissant_of
from diffaug.export.entries import Entry
from diffaug.export.files import Numbers, in_threads, numbers_of, write_pair

FOLDERS = {"train": "train", "val": "validation", "test": "test"}
METADATA = "metadata.jsonl"
SUMMARY = "Medical images with segmentation masks; lesions of the synthetic ones are painted by diffaug."
CARD = """---
pretty_name: {name}
task_categories:
- image-segmentation
tags:
- medical
- synthetic
---

# {name}

{summary}

| split | cases |
| --- | --- |
{counts}

Load it with `datasets.load_dataset("imagefolder", data_dir=...)`, or by the name of its repository: `image` and `mask`
are pictures.

## Masks

Masks are grey PNG files. 0 is background, and {values}.

## Columns

| column | meaning |
| --- | --- |
{columns}

## How it was made

Synthetic images are real ones, on which [diffaug](https://arxiv.org/abs/2508.17844) painted lesions from a mask and a
prompt, and which it kept where its checks found the lesion at its mask. Beyond the band around a lesion every pixel is
that of the `background`. So a synthetic image is as personal as its background, and belongs to the same patient.

## Use and limits

Synthetic images are for training alone. Never test on them, and never train on one when you test on its `background`,
`mask_source` or `example`, or on another image of their `group`. It is not known here under which terms the real images
may be shared: add a licence and the source before you publish this folder.
"""


def write_hf(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images, masks, metadata, card and Croissant metadata, and return what the user should know.

    Raises:
        DataError: A file breaks a rule.
    """
    numbers = numbers_of(collection.classes)
    for split in collection.splits:
        for name in ("images", "masks"):
            (folder / FOLDERS[split] / name).mkdir(parents=True)

    def put(entry: Entry) -> dict[str, Any]:
        base = folder / FOLDERS[entry.case.split]
        mask = base / "masks" / f"{entry.id}.png"
        image, _ = write_pair(entry.case, numbers, base / "images" / entry.id, mask)
        record = {key: str(value) for key, value in entry.record().items() if key in MEANINGS}
        return {
            **record,
            "split": entry.case.split,  # is left out of the table
            "file_name": f"images/{image.name}",
            "mask_file_name": f"masks/{mask.name}",
            "negative": entry.case.negative,  # as `diffaug data import hf` understands it
            "painted_negative": entry.negative,
        }

    with ExitStack() as stack:
        rows = {split: stack.enter_context(Spool(folder)) for split in collection.splits}
        for row in in_threads(put, collection.entries, progress):
            rows[row["split"]].add(row)
        for split in collection.splits:
            write_jsonl(folder / FOLDERS[split] / METADATA, (_without_split(row) for row in rows[split]))
    values = {each.name: each.values for each in numbers.classes}  # outer classes first, as they are declared
    write_text(folder / CLASSES, json.dumps(values, ensure_ascii=False) + "\n")
    write_text(folder / "README.md", _card(collection, numbers))
    splits = [FOLDERS[split] for split in collection.splits]
    croissant = croissant_of(collection.name, SUMMARY, folder, splits, METADATA)
    write_text(folder / "croissant.json", json.dumps(croissant, indent=1, ensure_ascii=False) + "\n")
    return ()


def _without_split(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "split"}


def _card(collection: Collection, numbers: Numbers) -> str:
    """Return the data card."""
    counts = [f"| {FOLDERS[split]} | {count_of(collection.split(split))} |" for split in collection.splits]
    values = [
        f"`{each.name}` has the value{'s' * (len(each.values) > 1)} {' and '.join(map(str, each.values))}"
        for each in numbers.classes
    ]
    return CARD.format(
        name=collection.name,
        summary=SUMMARY,
        counts="\n".join(counts),
        values=", ".join(values),
        columns="\n".join(f"| `{column}` | {meaning} |" for column, meaning in MEANINGS.items()),
    )
