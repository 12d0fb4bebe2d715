"""MONAI datalists in the form of the Medical Segmentation Decathlon.

    datalist.json           training, validation and test: image, label, and where each case is from
    datalist_fold0.json, .. training and validation of each fold
    images/, labels/        labels hold 0, 1, 2, ..; `classes` names the values of each class

A key `fold` of each case, as some of MONAI's tools read it, cannot say that a painted case is left out of two folds:
so each fold has a datalist of its own.

Source: `monai.data.load_decathlon_datalist`.
"""

import json
from pathlib import Path
from typing import Any

from diffaug.artifacts import write_text
from diffaug.export.cases import Collection, Entry
from diffaug.export.files import Numbers, in_threads, numbers_of, write_pair

KEYS = {"train": "training", "val": "validation", "test": "test"}


def write_monai(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images, labels and datalists, and return what the user should know.

    Raises:
        DataError: A file breaks a rule.
    """
    numbers = numbers_of(collection.classes)
    for name in ("images", "labels"):
        (folder / name).mkdir()

    def put(entry: Entry) -> dict[str, Any]:
        label = folder / "labels" / f"{entry.id}.png"
        image, _ = write_pair(entry.case, numbers, folder / "images" / entry.id, label)
        record = entry.record()
        return {
            "image": image.relative_to(folder).as_posix(),
            "label": label.relative_to(folder).as_posix(),
            **{key: record[key] for key in ("id", "group", "origin", "negative", "lesion_free", "prompt")},
        }

    made = dict(zip(
        (entry.id for entry in collection.entries), in_threads(put, collection.entries, progress), strict=True
    ))  # fmt: skip
    parts = {KEYS[split]: [made[entry.id] for entry in collection.split(split)] for split in collection.splits}
    _write(folder / "datalist.json", collection, numbers, parts)
    if collection.folds_are_drawn:
        for index, fold in enumerate(collection.folds):
            divided = {"training": [made[name] for name in fold.train], "validation": [made[name] for name in fold.val]}
            _write(folder / f"datalist_fold{index}.json", collection, numbers, divided)
    return ()


def _write(path: Path, collection: Collection, numbers: Numbers, parts: dict[str, list[dict[str, Any]]]) -> None:
    plan = {
        "name": collection.name,
        "tensorImageSize": "2D",
        "modality": {"0": "R", "1": "G", "2": "B"},
        "labels": {"0": "background", **{str(value): name for value, name in numbers.names().items()}},
        "classes": {each.name: list(each.values) for each in numbers.classes},
        "numTraining": len(parts.get("training", ())),
        "numTest": len(parts.get("test", ())),
    }
    write_text(path, json.dumps({**plan, **parts}, indent=1, ensure_ascii=False) + "\n")
