"""MONAI datalists in the form of the Medical Segmentation Decathlon.

    datalist.json           training, validation and test: image, label, and where each case is from
    datalist_fold0.json, .. training and validation of each fold
    images/, labels/        labels hold 0, 1, 2, ..; `classes` names the values of each class

A key `fold` of each case, as some of MONAI's tools read it, cannot say that a painted case is left out of two folds:
so each fold has a datalist of its own.

Source: `monai.data.load_decathlon_datalist`.
"""

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffaug.artifacts import write_long_json
from diffaug.export.cases import Collection
from diffaug.export.entries import Entry
from diffaug.export.files import NamedSpool, Numbers, in_threads, numbers_of, write_pair

Part = tuple[int, Iterator[Any]]
KEYS = {"train": "training", "val": "validation", "test": "test"}


def write_monai(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images, labels and datalists, and return what the user should know.

    Raises:
        DataError: A file breaks a rule.
    """
    numbers = numbers_of(collection.classes)
    for name in ("images", "labels"):
        (folder / name).mkdir()

    def put(entry: Entry) -> tuple[str, dict[str, Any]]:
        label = folder / "labels" / f"{entry.id}.png"
        image, _ = write_pair(entry.case, numbers, folder / "images" / entry.id, label)
        record = entry.record()
        return entry.case.split, {
            "image": image.relative_to(folder).as_posix(),
            "label": label.relative_to(folder).as_posix(),
            **{key: record[key] for key in ("id", "group", "origin", "negative", "lesion_free", "prompt")},
        }

    with NamedSpool(folder) as made:
        numbers_of_split: dict[str, array[int]] = {split: array("q") for split in collection.splits}
        for number, (split, record) in enumerate(in_threads(put, collection.entries, progress)):
            numbers_of_split[split].append(number)
            made.add(record["id"], record)
        parts = {KEYS[split]: (len(some), made.at(some)) for split, some in numbers_of_split.items()}
        _write(folder / "datalist.json", collection, numbers, parts)
        for index, fold in enumerate(collection.folds if collection.folds_are_drawn else ()):
            sides = (("training", fold.train), ("validation", fold.val))
            divided = {name: (len(ids), made.named(ids)) for name, ids in sides}
            _write(folder / f"datalist_fold{index}.json", collection, numbers, divided)
    return ()


def _write(path: Path, collection: Collection, numbers: Numbers, parts: Mapping[str, Part]) -> None:
    """Write a datalist; of each part how many cases there are, and what yields them."""
    plan = {
        "name": collection.name,
        "tensorImageSize": "2D",
        "modality": {"0": "R", "1": "G", "2": "B"},
        "labels": {"0": "background", **{str(value): name for value, name in numbers.names().items()}},
        "classes": {each.name: list(each.values) for each in numbers.classes},
        "numTraining": parts["training"][0] if "training" in parts else 0,
        "numTest": parts["test"][0] if "test" in parts else 0,
    }
    write_long_json(path, {**plan, **{name: records for name, (_, records) in parts.items()}}, indent=1)
