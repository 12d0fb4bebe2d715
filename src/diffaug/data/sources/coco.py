"""COCO: a JSON file lists images, categories and annotations, whose lesions are polygons or run lengths.

Read layouts, where SOURCE is the folder or one JSON file in it:

    annotations/instances_train.json, .._val.json, with images/, train/, val/, train2017/, ..
    train/_annotations.coco.json, valid/.., test/..      images beside the file
    annotations.json and images anywhere below

A file whose name or folder says train, val or test names the split; a single file of none is split at random. Images
are found by `file_name`, never outside SOURCE. Categories that overlap keep all their pixels. An image without
annotations has an empty mask.

Source: https://cocodataset.org/#format-data; drawn by pycocotools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diffaug.artifacts import read_json
from diffaug.data.images import MAX_PIXELS, SUFFIXES
from diffaug.data.sources.layout import Record, SourceRecords
from diffaug.data.sources.names import SPLIT_WORDS, WORD, normal
from diffaug.data.sources.polygons import Outlines, Shape, coded
from diffaug.data.sources.recognise import files_of, not_understood
from diffaug.errors import DataError

PARTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class _Entry:
    """An image of a file, with its shapes."""

    id: str
    path: Path
    split: str
    outlines: Outlines


def read_coco(source: Path) -> SourceRecords:
    """Find the images of all COCO files of a folder.

    Raises:
        DataError: There is no such file, an image is missing or listed twice, or an annotation breaks a rule.
    """
    base = source if source.is_dir() else source.parent
    tables = [source] if source.is_file() else [path for path in files_of(base) if path.suffix.lower() == ".json"]
    read = {path: table for path in tables if _is_coco(table := read_json(path))}
    if not read:
        raise not_understood("COCO has a JSON file with images, annotations and categories", base, "coco")
    index = _index(base)
    splits = {path: _split_of(path, base) for path in read} if len(read) > 1 or source.is_dir() else {}
    named = any(splits.values())
    if named and not all(splits.values()):
        bare = next(path for path, split in splits.items() if not split)
        raise DataError(
            f"each JSON file belongs to a split, or none does: {bare.relative_to(base)} names none of train, val and "
            "test; rename it, such as instances_train.json, or import one file by its path"
        )
    names: dict[str, None] = {}
    entries: list[_Entry] = []
    for path, table in read.items():
        entries += _entries_of(table, path, base, index, splits.get(path, ""))
        names |= dict.fromkeys(str(category["name"]) for category in table["categories"])
    _check_once(entries, base)
    outlines, classes = coded([entry.outlines for entry in entries], list(names))
    deep = len({(entry.split, entry.path.stem) for entry in entries}) < len(entries)
    records = [
        Record(_name(entry, base, deep), entry.path, drawn, split=entry.split)
        for entry, drawn in zip(entries, outlines, strict=True)
    ]
    unused = [name for name in names if name not in {each.name for each in classes}]
    notices = (f"categories without annotations were left out: {', '.join(unused)}",) if unused and classes else ()
    return SourceRecords(records, classes, settled=True, notices=notices)


def _is_coco(table: Any) -> bool:
    return isinstance(table, dict) and all(isinstance(table.get(part), list) for part in PARTS)


def _split_of(path: Path, base: Path) -> str:
    """Return the split that the name of a file says, else its folders, innermost first."""
    for part in reversed(path.relative_to(base).with_suffix("").parts):
        for word in WORD.findall(part):
            if word.lower() in SPLIT_WORDS:
                return SPLIT_WORDS[word.lower()]
    return ""


def _index(base: Path) -> dict[str, list[Path]]:
    """Return the images below a folder by their names."""
    index: dict[str, list[Path]] = {}
    for path in files_of(base):
        if path.suffix.lower() in SUFFIXES:
            index.setdefault(normal(path.name), []).append(path)
    return index


def find_image(name: str, table: Path, split: str, base: Path, index: Mapping[str, Sequence[Path]]) -> Path:
    """Return the image below a folder that a table names: its path ends with the given one.

    Of several, those in a folder of the table's split come first, then those nearest to the table.

    Raises:
        DataError: There is none, or there are several equally good ones.
    """
    parts = tuple(normal(part) for part in PurePosixPath(name.replace("\\", "/")).parts)
    found = list(index.get(parts[-1], ())) if parts else []
    if len(found) > 1:
        shared = {path: _shared_end(tuple(normal(part) for part in path.parts), parts) for path in found}
        found = [path for path in found if shared[path] == max(shared.values())]
    if len(found) > 1:
        found = [path for path in found if split and _split_of(path.parent, base) == split] or found
        close = {path: _shared_start(path.parts, table.parent.parts) for path in found}
        found = [path for path in found if close[path] == max(close.values())]
    if not found:
        raise DataError(
            f"every image that is listed must lie in the source: {table.name} names {name!r}, which {base} has "
            "not; add it or remove the entry"
        )
    if len(found) > 1:
        both = " and ".join(path.relative_to(base).as_posix() for path in found[:2])
        raise DataError(
            f"a listed image is one file: {table.name} names {name!r}, which may be {both}; name its folder"
        )
    return found[0]


def _shared_end(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(first[::-1], second[::-1], strict=False)) if a != b), len(second))


def _shared_start(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))


def _entries_of(
    table: Mapping[str, Any], path: Path, base: Path, index: Mapping[str, Sequence[Path]], split: str
) -> list[_Entry]:
    try:
        categories = {category["id"]: str(category["name"]) for category in table["categories"]}
        shapes: dict[Any, list[Shape]] = {image["id"]: [] for image in table["images"]}
        for annotation in table["annotations"]:
            where = f"annotation {annotation['id']} of {path.name}"
            if annotation["image_id"] not in shapes:
                raise DataError(
                    f"an annotation belongs to an image that is listed: {where} names image {annotation['image_id']}; "
                    "remove it or add the image"
                )
            if annotation["category_id"] not in categories:
                raise DataError(
                    f"an annotation has a category that is listed: {where} has {annotation['category_id']}; correct it"
                )
            name = categories[annotation["category_id"]]
            shapes[annotation["image_id"]].append(Shape(name, _polygons(annotation.get("segmentation"), where), where))
        return [
            _Entry(
                Path(image["file_name"]).stem,
                find_image(image["file_name"], path, split, base, index),
                split,
                Outlines(
                    tuple(shapes[image["id"]]), *_size_of(image, path), f"{path.name}, image {image['id']}", {},
                ),
            )
            for image in table["images"]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"images have id, file_name, height and width, and annotations id, image_id, category_id and segmentation: "
            f"{path} lacks or spoils {error}; export it again"
        ) from None


def _size_of(image: Mapping[str, Any], path: Path) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(
            f"an image has 1 to {MAX_PIXELS:,} pixels: image {image['id']} of {path.name} has {width} x {height}; "
            "correct its size"
        )
    return height, width


def _polygons(segmentation: Any, where: str) -> tuple[tuple[float, ...], ...] | Mapping[str, Any]:
    if isinstance(segmentation, dict):
        return segmentation
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(
            f"a lesion has a polygon or run lengths: {where} has none, only a box; annotate its outline or remove it"
        )
    return tuple(tuple(float(number) for number in polygon) for polygon in segmentation)


def _check_once(entries: Sequence[_Entry], base: Path) -> None:
    seen: dict[Path, _Entry] = {}
    for entry in entries:
        if entry.path in seen:
            raise DataError(
                f"an image is listed once: {entry.path.relative_to(base)} is in {seen[entry.path].outlines} and "
                f"{entry.outlines}; merge the two entries"
            )
        seen[entry.path] = entry


def _name(entry: _Entry, base: Path, deep: bool) -> str:
    folders = entry.path.relative_to(base).parts[:-1] if deep else ()
    return "-".join([*([entry.split] if entry.split else []), *folders, normal(entry.path.stem)])
