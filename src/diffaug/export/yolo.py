"""YOLO segmentation, as ultralytics reads it: a text file of polygons for each image, and data.yaml.

    data.yaml                                   train, val, test and the names of the classes
    images/train/CASE.png, labels/train/CASE.txt
    data_fold0.yaml, fold0_train.txt, fold0_val.txt, ..     the lists of the images of each fold

A line is one connected part of a class. A polygon cannot hold a hole: the outline is cut open to the hole, which the
reader draws as one again. It cannot hold several parts either: each is a line of its own, and specks that are no lesion
are left out and counted.

Source: https://docs.ultralytics.com/datasets/segment/.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from diffaug.artifacts import atomic_path, write_text
from diffaug.data.case import masks_from_label
from diffaug.data.lesions import connected_parts, lesion_masks
from diffaug.export.cases import Collection
from diffaug.export.coco import write_groups
from diffaug.export.entries import Entry
from diffaug.export.files import NamedSpool, in_threads, read_checked, write_image
from diffaug.export.shapes import outline_of


def write_yolo(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images, polygons and data.yaml, and return what the polygons do not hold.

    Raises:
        DataError: A file breaks a rule.
    """
    for split in collection.splits:
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)

    def put(entry: Entry) -> tuple[str, str, Counter[str]]:
        split = entry.case.split
        image, height, width = write_image(entry.case, folder / "images" / split, entry.id)
        masks = masks_from_label(read_checked(entry.case, (height, width)), collection.classes)
        lines, told = [], Counter[str]()
        for number, mask in enumerate(masks):
            lesions = lesion_masks(mask)
            told["specks"] += connected_parts(mask)[1] - len(lesions)
            for lesion in lesions:
                ring, holes = outline_of(lesion)
                told["holes"] += holes
                corners = np.round(ring / (width, height), 6).clip(0, 1)
                lines.append(f"{number} " + " ".join(f"{value:.6g}" for value in corners.ravel()))
        write_text(folder / "labels" / split / f"{entry.id}.txt", "".join(line + "\n" for line in lines))
        return entry.id, f"./images/{split}/{image.name}", told

    total = Counter[str]()
    with NamedSpool(folder) as places:
        for name, place, told in in_threads(put, collection.entries, progress):
            places.add(name, place)
            total += told
        _write_tables(collection, folder, places)
    write_groups(collection, folder)
    return tuple(_remarks(collection, total))


def _write_tables(collection: Collection, folder: Path, places: NamedSpool) -> None:
    """Write data.yaml, and one of each fold with its lists of images."""
    names = dict(enumerate(each.name for each in collection.classes))
    _write_yaml(folder / "data.yaml", {split: f"images/{split}" for split in collection.splits}, names)
    for index, fold in enumerate(collection.folds if collection.folds_are_drawn else ()):
        for split, ids in (("train", fold.train), ("val", fold.val)):
            _write_list(folder / f"fold{index}_{split}.txt", places.named(ids))
        lists = {split: f"fold{index}_{split}.txt" for split in ("train", "val")}
        _write_yaml(folder / f"data_fold{index}.yaml", lists, names)


def _write_list(path: Path, places: Iterable[str]) -> None:
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(place + "\n" for place in places)


def _write_yaml(path: Path, splits: dict[str, str], names: dict[int, str]) -> None:
    plan: dict[str, Any] = {**splits, "names": names}
    write_text(path, yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))


def _remarks(collection: Collection, total: Counter[str]) -> list[str]:
    said = []
    if total["holes"]:
        said.append(f"holes of lesions are drawn by cuts in their outlines, since a polygon has none: {total['holes']}")
    if total["specks"]:
        said.append(f"specks of masks, too small for lesions, are left out: {total['specks']}")
    if "val" not in collection.splits and not collection.folds_are_drawn:
        said.append(
            "ultralytics validates on val, and there is none: add --folds 5, or a data set with the split val by --with"
        )
    return said
