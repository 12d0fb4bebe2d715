"""The one writer of an import: it turns records into cases whose files lie where they are, or were written anew.

A file is written anew only where it cannot be copied as it is: more than 8 bits, several masks of one image, values
that become others, DICOM, volumes and polygons.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffaug.compute.progress import tracked
from diffaug.data.case import LESION, NEGATIVE, Case
from diffaug.data.classes import Labelling, spans
from diffaug.data.depths import PERCENTILES, eight_bit, percentile_limits
from diffaug.data.examine import counted, in_turn
from diffaug.data.images import (
    Label,
    class_values,
    count_pages,
    is_deep,
    is_lossy,
    read_deep,
    read_image,
    read_mask,
    read_values,
    write_png,
)
from diffaug.data.sources.layout import Record, Scan, Values
from diffaug.errors import ConfigError, DataError
from diffaug.layouts import EmptyMasks

# What is said of images whose values were scaled, by where the limits come from.
SCALED = {
    "window": "images of more than 8 bits were cut to the window {window} and scaled to 8",
    "header": "images were cut to the window that their file declares and scaled to 8 bits",
    "volume": "slices were scaled to 8 bits from the 0.5th to the 99.5th percentile of their volume",
    "percentiles": "images of more than 8 bits were scaled to 8, each from its 0.5th to its 99.5th percentile",
}


@dataclass(frozen=True)
class Preparing:
    """How records become cases.

    Attributes:
        folder: Where files are written.
        labelling: What the values of masks mean; None where masks have the single class `lesion`.
        empty_masks: What an empty mask means.
        window: Centre and width of the values that become black to white; None for percentiles.
    """

    folder: Path
    labelling: Labelling | None = None
    empty_masks: EmptyMasks = "refuse"
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Prepared:
    """A record that became a case.

    Attributes:
        case: Its files lie in the source or in the new folder; its group and split are those of the record.
        notes: Keys of what is said about it.
        values: The class numbers that were found in a mask without declared classes.
    """

    case: Case
    notes: tuple[str, ...] = ()
    values: tuple[int, ...] = field(default=())


def prepare_all(records: Sequence[Record], how: Preparing, progress: str = "") -> tuple[list[Case], list[str]]:
    """Prepare records in threads, in order.

    Returns:
        The cases and the notices. Cases whose empty masks are left out are missing.

    Raises:
        DataError: The first record, in order, that breaks a rule.
        ConfigError: A window is declared, and no image has more than 8 bits.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        work = pool.map(lambda record: _prepared(record, how), records)
        try:
            done = list(tracked(work, len(records), progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    kept = [one for one in done if one is not None]
    _ask_for_classes(kept)
    counts = Counter(note for one in kept for note in one.notes)
    if how.window and not counts["window"]:
        raise ConfigError("--window is for images of more than 8 bits: the source has none; leave it out")
    if not kept:
        raise DataError("a data set needs cases: every mask is empty and was left out; use --empty-masks negative")
    notices = [
        counted(counts[key], sentence.format(window=_words(how.window)))
        + ("; --window CENTRE,WIDTH sets one scale for all" if key in ("percentiles", "volume") else "")
        for key, sentence in SCALED.items()
        if counts[key]
    ]
    if counts["free"]:
        notices.append(counted(counts["free"], "images are lesion-free cases (negative)"))
    if counts["united"]:
        notices.append(counted(counts["united"], "images have several masks, which were united"))
    if len(kept) < len(done):
        notices.append(counted(len(done) - len(kept), "images were left out: their masks are empty"))
    return [one.case for one in kept], notices


def _words(window: tuple[float, float] | None) -> str:
    return f"{window[0]:g},{window[1]:g}" if window else ""


def _prepared(record: Record, how: Preparing) -> Prepared | None:
    """Prepare one record, of large ones one at a time."""
    with in_turn(record.image):
        return _prepared_alone(record, how)


def _prepared_alone(record: Record, how: Preparing) -> Prepared | None:
    """Prepare one record; None where its mask is empty and such cases are left out."""
    _check_pages(record)
    image, notes = _image_of(record, how)
    mask, lesion, values = _mask_of(record, how, image)
    attributes = dict(record.attributes)
    if mask is not None and not lesion:
        if not record.free and how.empty_masks == "leave-out":
            return None
        if not record.free and how.empty_masks == "refuse":
            raise DataError(
                f"a mask must hold a lesion: case {record.id} ({_origin(record)}) is empty; if such images are "
                "lesion-free, add --empty-masks negative, or leave them out with --empty-masks leave-out"
            )
        attributes[NEGATIVE] = 1.0
        notes.append("free")
    elif record.free and lesion:
        raise DataError(
            f"a lesion-free image has no lesion: case {record.id} ({_origin(record)}) is among the lesion-free images "
            "and its mask holds one; move it, or empty its mask"
        )
    if isinstance(record.mask, tuple):
        notes.append("united")
    classes = how.labelling.classes if how.labelling else ()
    case = Case(record.id, image, mask, record.group, record.split, record.prompt, attributes, classes)
    return Prepared(case, tuple(notes), values)


def _check_pages(record: Record) -> None:
    """Refuse a TIFF stack, of which only the first image would be read."""
    parts = (record.image, *(record.mask if isinstance(record.mask, tuple) else (record.mask,)))
    for path in (part for part in parts if isinstance(part, Path)):
        pages = count_pages(path)
        if pages > 1:
            raise DataError(
                f"a file holds one image: case {record.id} ({path}) holds {pages}; save each as a file of its own, or "
                "the stack as NIfTI"
            )


def _origin(record: Record) -> object:
    source = record.mask[0] if isinstance(record.mask, tuple) else record.mask
    return source or record.image


def _image_of(record: Record, how: Preparing) -> tuple[Path, list[str]]:
    """Return the file of an image, written anew where it has more than 8 bits, and notes."""
    if isinstance(record.image, Path):
        if not is_deep(record.image):
            return record.image, []
        scan = Scan(read_deep(record.image, record.id))
    else:
        scan = record.image.read()
    path = how.folder / "images" / f"{record.id}.png"
    if scan.values.dtype == np.uint8:
        values = 255 - scan.values if scan.inverted else scan.values
        _write(path, np.ascontiguousarray(values))
        return path, [scan.source] if scan.source else []
    if how.window:
        centre, width = how.window
        limits, note = (centre - width / 2, centre + width / 2), "window"
    else:
        limits = scan.limits or percentile_limits(scan.values, PERCENTILES)
        note = scan.source or "percentiles"
    values = eight_bit(scan.values, limits)
    _write(path, 255 - values if scan.inverted else values)
    return path, [note]


def _mask_of(record: Record, how: Preparing, image: Path) -> tuple[Path | None, bool, tuple[int, ...]]:
    """Return the file of a mask, whether it holds a lesion, and the class numbers that nobody declared."""
    path = how.folder / "masks" / f"{record.id}.png"
    if record.mask is None:
        if not record.free or record.split == "unannotated":
            return None, False, ()
        height, width = read_image(image, record.id).shape[:2]
        _write(path, np.zeros((height, width), np.uint8))
        return path, False, ()
    if how.labelling is not None:
        label, kept = _label_of(record, how.labelling)
        if not kept:
            _write(path, label)
        return (kept or path), bool(label.any()), ()
    if isinstance(record.mask, Path):
        values = class_values(record.mask, record.id)
        _check_values(record, values)
        return record.mask, bool(read_mask(record.mask, record.id).any()), values
    if isinstance(record.mask, tuple):
        masks = [read_mask(one, record.id) for one in record.mask]
        _check_same_size(record, [mask.shape for mask in masks])
        united = np.any(masks, axis=0)
        _write(path, united.astype(np.uint8) * 255)
        return path, bool(united.any()), ()
    drawn = record.mask.read()
    values = tuple(np.unique(drawn[drawn > 0]).tolist())
    _check_values(record, values)
    _write(path, (drawn > 0).astype(np.uint8) * 255)
    return path, bool(values), values


def _write(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_png(path, values, settled=False)  # all of them are, before the data set appears


def _label_of(record: Record, labelling: Labelling) -> tuple[Label, Path | None]:
    """Return the label of a record with the values that are written, and its file where that can be kept."""
    if isinstance(record.mask, tuple):
        parts = [_values_of_file(one, record.id, labelling) for one in record.mask]
        _check_same_size(record, [part.shape for part in parts])
        return labelling.written(np.max(parts, axis=0), record.id, record.mask[0]), None
    if isinstance(record.mask, Path):
        values = _values_of_file(record.mask, record.id, labelling)
        label = labelling.written(values, record.id, record.mask)
        plain = labelling.table is None and not is_lossy(record.mask) and values.dtype == np.uint8
        return label, record.mask if plain and _is_plain(record.mask, label) else None
    assert record.mask is not None
    return labelling.written(record.mask.read(), record.id, record.mask), None


def _is_plain(path: Path, label: Label) -> bool:
    """Tell whether a mask file is read as this label as it is: it is grey or has a palette."""
    from diffaug.data.images import read_label

    try:
        return np.array_equal(read_label(path), label)
    except DataError:
        return False


def _values_of_file(path: Path, case: str, labelling: Labelling) -> Values:
    """Return the values of a mask file; a lossy mask of a single class is cut as any mask is."""
    if is_lossy(path) and len(labelling.classes) == 1:
        value = next(value for value in labelling.declared if value)
        return np.where(read_mask(path, case), value, 0)
    return read_values(path, case)


def _check_same_size(record: Record, shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1 and isinstance(record.mask, tuple):
        first, other = shapes[0], next(shape for shape in shapes if shape != shapes[0])
        raise DataError(
            f"masks of one image have one size: case {record.id} ({record.mask[0]}) has {first[1]} x {first[0]} and "
            f"{other[1]} x {other[0]}; export them again at the image's size"
        )


def _check_values(record: Record, values: Sequence[int]) -> None:
    """Refuse a mask of several class numbers that nobody declared."""
    if len(values) > 1:
        raise DataError(_question(values, f"case {record.id} ({_origin(record)}) holds {_listed(values)}"))


def _ask_for_classes(prepared: Sequence[Prepared]) -> None:
    """Refuse masks that hold one class number each, but not all the same."""
    found = {one.values[0]: one.case.id for one in reversed(prepared) if one.values}
    numbers = sorted(value for value in found if value < 255)
    if len(numbers) > 1:
        first, second = numbers[:2]
        where = f"case {found[first]} holds {first} and case {found[second]} holds {second}"
        raise DataError(_question(numbers, where))


def _question(values: Sequence[int], where: str) -> str:
    first, second = sorted(values)[:2]
    return (
        f"several values in masks are several classes or parts of one: {where}; name them with --classes "
        f'first={first} second={second}, or in classes.json in the source, {{"first": [{first}], "second": '
        f"[{second}]}}; --classes {LESION}={spans(values)} makes them one class"
    )


def _listed(values: Sequence[int]) -> str:
    few = [str(value) for value in sorted(values)[:4]]
    return (
        ", ".join(few[:-1]) + f" and {few[-1]}" if len(values) <= 4 else ", ".join(few) + f" and {len(values) - 4} more"
    )
