"""YOLO segmentation: a text file of polygons for each image, and data.yaml with the names of the classes.

Read layouts, where SOURCE is the folder or its data.yaml:

    images/train/a.jpg, labels/train/a.txt, images/val, ..     or train/images, train/labels, valid/.., test/..
    images/a.jpg, labels/a.txt                                 split at random
    data.yaml                                                  names: a list, or a mapping from numbers

A line is a class number and the corners of a polygon, x and y from 0 to 1. Classes that overlap keep all their pixels.
An image without a text file, or with an empty one, has an empty mask.

Source: https://docs.ultralytics.com/datasets/segment/; drawn by pycocotools.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffaug.data.images import SUFFIXES, read_image
from diffaug.data.sources.layout import Record, SourceRecords
from diffaug.data.sources.names import normal, read_folder_name
from diffaug.data.sources.polygons import Outlines, Shape, coded
from diffaug.data.sources.recognise import files_of, not_understood
from diffaug.errors import DataError
from diffaug.reading import read_bytes, read_yaml

BOX = 5  # numbers of a line that is a box: class, centre, width and height


def read_yolo(source: Path) -> SourceRecords:
    """Find the images and the polygons of each.

    Raises:
        DataError: There are no labels, a class has no name, or a line breaks a rule.
    """
    base = source if source.is_dir() else source.parent
    files = files_of(base)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    labels = [path for path in files if path.suffix.lower() == ".txt" and _in_labels(path, base)]
    if not images or not labels:
        raise not_understood("YOLO has images/ and labels/ with text files", base, "yolo")
    names = _names_of(source if source.is_file() else _table_of(base))
    by_label = {_label_path(path, base): path for path in images}
    alone = [path for path in labels if path.relative_to(base).with_suffix("") not in by_label]
    if alone:
        raise DataError(
            f"every label needs an image: {alone[0].relative_to(base)} has none in {base}; add it or remove the label"
        )
    texts = {path.relative_to(base).with_suffix(""): path for path in labels}
    outlines, classes = coded(
        [_outlines(image, texts.get(label), names, base) for label, image in by_label.items()], list(names.values())
    )
    splits = [_split_of(image, base) for image in by_label.values()]
    short = {(split, image.stem) for split, image in zip(splits, by_label.values(), strict=True)}
    records = [
        Record(_name(image, split, base, len(short) < len(images)), image, drawn, split=split)
        for image, split, drawn in zip(by_label.values(), splits, outlines, strict=True)
    ]
    return SourceRecords(records, classes, settled=True)


def _in_labels(path: Path, base: Path) -> bool:
    return "labels" in [part.lower() for part in path.relative_to(base).parts[:-1]]


def _label_path(image: Path, base: Path) -> Path:
    """Return where the text file of an image lies, without suffix: `labels` stands for the last `images`."""
    parts = list(image.relative_to(base).with_suffix("").parts)
    places = [index for index, part in enumerate(parts[:-1]) if part.lower() == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)


def _table_of(base: Path) -> Path | None:
    return next((base / name for name in ("data.yaml", "dataset.yaml", "data.yml") if (base / name).is_file()), None)


def _names_of(table: Path | None) -> dict[int, str]:
    """Return the names of classes by number; without a table there is one, lesion."""
    if table is None:
        return {0: "lesion"}
    try:
        plan: Any = read_yaml(table)
        names = plan["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}
    except (DataError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise DataError(
            f"data.yaml has names, a list of the classes: {table} has not; add, say, names: [lesion]"
        ) from None


def _split_of(image: Path, base: Path) -> str:
    folders = [read_folder_name(part) for part in image.relative_to(base).parts[:-1]]
    return next((folder.split for folder in folders if folder.split), "")


def _name(image: Path, split: str, base: Path, deep: bool) -> str:
    folders = image.relative_to(base).parts[:-1] if deep else ()
    return "-".join([*([split] if split else []), *folders, normal(image.stem)])


def _outlines(image: Path, text: Path | None, names: dict[int, str], base: Path) -> Outlines:
    height, width = read_image(image).shape[:2]
    where = str(text.relative_to(base)) if text else f"{image.relative_to(base)} without a text file"
    try:
        lines = read_bytes(text).decode().splitlines() if text else []
    except UnicodeDecodeError:
        raise DataError(f"a label is text in UTF-8: {where} is not; export it again") from None
    shapes = [
        _shape(line.split(), f"{where} line {number}", names, (width, height))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return Outlines(tuple(shapes), height, width, where, {})


def _shape(cells: Sequence[str], where: str, names: dict[int, str], size: tuple[int, int]) -> Shape:
    try:
        number, corners = int(float(cells[0])), [float(cell) for cell in cells[1:]]
    except (ValueError, OverflowError):
        raise DataError(
            f"a line is a class number and corners: {where} holds {' '.join(cells[:3])!r}; correct it"
        ) from None
    if len(cells) == BOX:
        raise DataError(
            f"a lesion has a polygon: {where} is a box, {' '.join(cells)}; export the data set for segmentation"
        )
    if number not in names:
        raise DataError(
            f"a class has a name in data.yaml, here {', '.join(map(str, names))}: {where} has class {number}; write, "
            f"say, names: [{', '.join([*names.values(), 'another'][: number + 1])}] there"
        )
    polygon = tuple(corner * size[index % 2] for index, corner in enumerate(corners))
    return Shape(names[number], (polygon,), where)
