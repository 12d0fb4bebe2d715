"""How images and labels are written, whatever the format: copied byte by byte where every reader sees the same.

An image is copied if it is an upright RGB file of 8 bits; all others become RGB PNG, so that the images of an export
have one number of channels, and no reader needs to know EXIF. A label becomes a grey PNG of class numbers, or of 0 and
255, and is copied where it is that already.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from PIL import Image

from diffaug.compute.progress import tracked
from diffaug.data.case import Case, LabelClass, check_mask_size
from diffaug.data.images import DAMAGE, Label, opened, write_png
from diffaug.data.orientation import orientation_of
from diffaug.data.records import Names, Spool
from diffaug.export.entries import Entry

Result = TypeVar("Result")
WAITING = 64  # cases
KEPT = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg")}  # formats that every reader reads, with their suffixes


@dataclass(frozen=True)
class Numbers:
    """Class numbers that start at 1 and leave none out, as most formats want them.

    Attributes:
        classes: The classes with their new values.
        table: The new value of each old one, (256,), 0 for the background.
    """

    classes: tuple[LabelClass, ...]
    table: Label

    @property
    def are_nested(self) -> bool:
        """Whether classes share pixels."""
        return sum(len(each.values) for each in self.classes) > int(self.table.max())

    def names(self) -> dict[int, str]:
        """Return the name of each value: that of its innermost class, the one with the fewest values."""
        return {
            value: min((each for each in self.classes if value in each.values), key=lambda each: len(each.values)).name
            for value in range(1, int(self.table.max()) + 1)
        }


def numbers_of(classes: Sequence[LabelClass]) -> Numbers:
    """Number the sets of classes that a pixel can belong to, in the order of their first values.

    Example:
        >>> numbers_of((LabelClass("disc", (3, 7)), LabelClass("cup", (7,)))).classes
        (LabelClass(name='disc', values=(1, 2)), LabelClass(name='cup', values=(2,)))
    """
    values = sorted({value for each in classes for value in each.values})
    members = {value: tuple(each.name for each in classes if value in each.values) for value in values}
    sets = list(dict.fromkeys(members.values()))
    table = np.zeros(256, np.uint8)
    for value in values:
        table[value] = sets.index(members[value]) + 1
    renamed = [LabelClass(each.name, tuple(sorted({int(table[value]) for value in each.values}))) for each in classes]
    return Numbers(tuple(renamed), table)


def read_checked(case: Case, shape: tuple[int, int]) -> Label:
    """Return the class numbers of a case, (H, W), which must have the size of its image.

    Raises:
        DataError: They have another size, or the file breaks a rule.
    """
    label = case.read_label()
    check_mask_size(case, label.shape, shape)
    return label


def write_image(case: Case, folder: Path, name: str, kinds: Sequence[str] = ("PNG", "JPEG")) -> tuple[Path, int, int]:
    """Write the image of a case, byte by byte where it can stay as it is.

    Args:
        case: Whose image it is.
        folder: Where it is written; it is there.
        name: The stem of the new file.
        kinds: The formats that may stay, by Pillow's names.

    Returns:
        The new file, its height and its width, px.

    Raises:
        DataError: The image cannot be read.
    """
    size = _plain_size(case.image, kinds)
    if size:
        to = folder / f"{name}{case.image.suffix.lower()}"
        shutil.copyfile(case.image, to)
        return to, *size
    pixels = case.read_image()
    to = folder / f"{name}.png"
    write_png(to, pixels)
    return to, *pixels.shape[:2]


def _plain_size(path: Path, kinds: Sequence[str]) -> tuple[int, int] | None:
    """Return height and width of a file that every reader shows as `read_image` does; None for others."""
    try:
        with opened(path) as image:
            kind = image.format or ""
            fits = kind in kinds and path.suffix.lower() in KEPT[kind]
            plain = image.mode == "RGB" and "transparency" not in image.info and getattr(image, "n_frames", 1) == 1
            plain = plain and all(tile[3] in ("RGB", ("RGB", "")) for tile in image.tile)  # else of 16 bits a channel
            width, height = image.size
    except (*DAMAGE, Image.DecompressionBombError):
        return None  # whoever decodes the file says what is wrong with it
    return (height, width) if fits and plain and orientation_of(path) == 1 else None


def write_label(path: Path, values: Label, source: Path | None) -> None:
    """Write a grey PNG, byte by byte from its source where that holds the same values."""
    if source is not None and source.suffix.lower() == ".png":
        with opened(source) as image:
            same = image.mode == "L" and np.array_equal(np.asarray(image), values) and orientation_of(source) == 1
        if same:
            shutil.copyfile(source, path)
            return
    write_png(path, values)


def write_pair(
    case: Case, numbers: Numbers, image: Path, label: Path, kinds: Sequence[str] = ("PNG", "JPEG"), unknown: int = 0
) -> tuple[Path, Label]:
    """Write the image of a case, and its label in numbers that leave none out.

    Args:
        case: Whose files they are.
        numbers: What its label's values become.
        image: The new file without its suffix.
        label: The new file.
        kinds: The formats that an image may keep, by Pillow's names.
        unknown: The value of pixels whose label is not known.

    Returns:
        The new image file, and the written label, (H, W).

    Raises:
        DataError: A file cannot be read, or the label has another size than its image.
    """
    made, height, width = write_image(case, image.parent, image.name, kinds)
    values = numbers.table[read_checked(case, (height, width))]
    if case.known is not None:
        values = np.where(case.read_known(), values, np.uint8(unknown))
    write_label(label, values, case.mask)
    return made, values


class NamedSpool:
    """Values that wait on the disk, and can be asked for by name; see `Spool`."""

    def __init__(self, folder: Path) -> None:
        self._values, self._names = Spool(folder), Spool(folder)
        self._places: Names | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._values.__exit__(*error)
        self._names.__exit__(*error)

    def add(self, name: str, value: Any) -> None:
        """Take a value, before any is read."""
        self._names.add(name)
        self._values.add(value)

    def at(self, numbers: Iterable[int]) -> Iterator[Any]:
        """Yield the values at some places."""
        return self._values.at(numbers)

    def named(self, names: Iterable[str]) -> Iterator[Any]:
        """Yield the values of some names."""
        self._places = self._places or Names(self._names)
        for name in names:
            places = self._places.places(name)
            yield from self.at(place for place in places if next(self._names.at([place])) == name)


def in_threads(work: Callable[[Entry], Result], entries: Sequence[Entry], progress: str) -> Iterator[Result]:
    """Do the same for each entry, in threads, and yield the results in order.

    Args:
        work: Writes the files of an entry.
        entries: All of them.
        progress: What to call the work in a progress bar on stderr; empty for none.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            yield from tracked(_in_order(pool, work, entries), len(entries), progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order(pool: Executor, work: Callable[[Entry], Result], entries: Iterable[Entry]) -> Iterator[Result]:
    """Yield results in order; only WAITING are begun or done before they are taken."""
    begun = deque[Future[Result]]()
    for entry in entries:
        begun.append(pool.submit(work, entry))
        if len(begun) == WAITING:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
