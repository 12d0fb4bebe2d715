"""nnU-Net's raw data sets, version 2, with the folds that keep painted cases out of every validation.

    dataset.json                        channel_names, labels (regions where classes lie inside each other)
    imagesTr/CASE_0000.png              RGB, read by NaturalImage2DIO; labelsTr/CASE.png holds 0, 1, 2, ..
    imagesTs, labelsTs                  the split `test`
    splits_final.json                   goes into nnUNet_preprocessed/DatasetXXX_NAME before training

Source: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md, region_based_training.md,
manual_data_splits.md.
"""

import json
import re
from pathlib import Path
from typing import Any

from diffaug.artifacts import write_csv, write_text
from diffaug.data.case import LabelClass
from diffaug.errors import DataError
from diffaug.export.cases import Collection
from diffaug.export.entries import Entry
from diffaug.export.files import Numbers, in_threads, numbers_of, write_pair
from diffaug.export.folds import write_folds

NAME = re.compile(r"Dataset\d{3}_\w+")
TAKEN = ("background", "ignore")  # names with a meaning of their own
SPLITS = "splits_final.json"


def write_nnunet(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write the raw data set, and return what the user should know.

    Raises:
        DataError: The classes overlap without lying inside each other, or a file breaks a rule.
    """
    numbers = numbers_of(collection.classes)
    labels, ignored = labels_of(numbers), int(numbers.table.max()) + 1
    partly = any(entry.case.known for entry in collection.real) or bool(collection.painted.known.any())
    if partly:
        labels["labels"]["ignore"] = ignored  # pixels whose label is not known
    for place in ("Tr", "Ts") if collection.split("test") else ("Tr",):
        (folder / f"images{place}").mkdir()
        (folder / f"labels{place}").mkdir()

    def put(entry: Entry) -> None:
        place = _place(entry)
        image, label = folder / f"images{place}" / f"{entry.id}_0000", folder / f"labels{place}" / f"{entry.id}.png"
        write_pair(entry.case, numbers, image, label, ("PNG",), unknown=ignored)

    for _ in in_threads(put, collection.entries, progress):
        pass
    plan = {
        "name": collection.name,
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        **labels,
        "numTraining": len(collection.entries) - len(collection.split("test")),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    write_text(folder / "dataset.json", json.dumps(plan, indent=2, ensure_ascii=False) + "\n")  # regions have an order
    if collection.folds:
        write_folds(collection.folds, folder / SPLITS)
    named = (
        {"id": f"{'test-' * (_place(entry) == 'Ts')}{entry.id}", "group": entry.case.group}
        for entry in collection.entries
    )
    write_csv(folder / "groups.csv", named, ("id", "group"))  # for `diffaug data import nnunet`
    return _remarks(collection, to)


def _place(entry: Entry) -> str:
    return "Ts" if entry.case.split == "test" else "Tr"


def labels_of(numbers: Numbers) -> dict[str, Any]:
    """Return `labels` of dataset.json and, where classes share pixels, `regions_class_order`.

    A region's place in the order is the value that nnU-Net writes where it finds the region; later ones write over
    earlier ones, so outer regions come first.

    Raises:
        DataError: Two regions overlap and neither lies inside the other, or a name has a meaning of its own.
    """
    for each in numbers.classes:
        if each.name in TAKEN:
            raise DataError(
                f"nnU-Net keeps the names {' and '.join(TAKEN)} for itself: a class is called {each.name!r}; rename it "
                "in classes.json"
            )
    if not numbers.are_nested:
        return {"labels": {"background": 0, **{each.name: each.values[0] for each in numbers.classes}}}
    regions = sorted(numbers.classes, key=lambda each: -len(each.values))
    for index, outer in enumerate(regions):
        for inner in regions[index + 1 :]:
            shared = set(outer.values) & set(inner.values)
            if shared and shared != set(inner.values):
                raise DataError(
                    f"nnU-Net's regions lie inside each other or apart: {outer.name} and {inner.name} share pixels, "
                    "and neither holds the other; export them as coco or folder"
                )
    labels = {each.name: each.values[0] if len(each.values) == 1 else list(each.values) for each in regions}
    order = [_own_value(region, regions) for region in regions]
    return {"labels": {"background": 0, **labels}, "regions_class_order": order}


def _own_value(region: LabelClass, regions: list[LabelClass]) -> int:
    """Return the value of a region outside the regions that it holds; its first one where they fill it."""
    inner = {value for each in regions if len(each.values) < len(region.values) for value in each.values}
    return next((value for value in region.values if value not in inner), region.values[0])


def _remarks(collection: Collection, to: Path) -> tuple[str, ...]:
    name = to.name if NAME.fullmatch(to.name) else "DatasetXXX_NAME"
    said = []
    if name != to.name:
        said.append(
            "nnU-Net finds a data set in nnUNet_raw by a name such as Dataset101_Polyp: move the folder there under one"
        )
    if collection.folds:
        said.append(
            f"after nnUNetv2_plan_and_preprocess, copy {SPLITS} to nnUNet_preprocessed/{name}: without it nnU-Net "
            "draws folds of its own, which validate on painted cases"
        )
        without = {entry.id for entry in collection.real if entry.case.negative}
        if blind := [str(number) for number, fold in enumerate(collection.folds) if without.issuperset(fold.val)]:
            said.append(
                f"{', '.join(blind)} of the folds (from 0) validate on lesion-free cases alone, of which nnU-Net "
                "reports no Dice: ask for as many --folds as groups hold a lesion, or fewer"
            )
    else:
        said.append(
            f"there is no {SPLITS}, since no two groups of real cases are exported: train with `nnUNetv2_train .. all`"
        )
    return tuple(said)
