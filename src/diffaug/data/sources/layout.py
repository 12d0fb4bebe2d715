"""What every reader of a layout returns: records, which one writer checks and writes; and how files are found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffaug.data.case import LabelClass
from diffaug.data.examine import Finding
from diffaug.data.images import SUFFIXES
from diffaug.data.sources.names import natural, normal
from diffaug.data.sources.recognise import files_of
from diffaug.errors import DataError
from diffaug.layouts import MissingMasks

Values = NDArray[np.integer[Any]]  # (H, W), the values of a mask, 0 = background


@dataclass(frozen=True)
class Scan:
    """The values of an image of any depth, before they become 8 bits.

    Attributes:
        values: Shape (H, W) or (H, W, 3). Bytes are taken as they are.
        limits: What becomes black and what white; None for percentiles of these values.
        source: Where limits come from: "header", or "volume" for percentiles of a whole volume. Of bytes, how they were
            made of more than 8 bits.
        inverted: Whether the lowest value is white.
    """

    values: NDArray[Any]
    limits: tuple[float, float] | None = None
    source: str = ""
    inverted: bool = False


class Picture(Protocol):
    """An image that no file holds in a form that data sets keep."""

    def read(self) -> Scan:
        """Return its values."""
        ...


class Drawing(Protocol):
    """A mask that no image file holds."""

    def read(self) -> Values:
        """Return its values, shape (H, W)."""
        ...


@dataclass(frozen=True)
class Record:
    """One image of a source, wherever its pixels are.

    Attributes:
        id: Its name in the data set.
        image: A file that is copied as it is where that is possible, or what gives the values.
        mask: The mask, or several that are united; None for an image without one.
        group: The patient or sequence that the source names; "" for none.
        split: The split that the source names; "" where it is still to be drawn.
        free: The source says that the image is lesion-free; its mask may be empty or None.
        prompt: What the source says about the image.
        attributes: Measured numbers by name, such as the size of a pixel.
    """

    id: str
    image: "Path | Picture"
    mask: "Path | Drawing | tuple[Path, ...] | None"
    group: str = ""
    split: str = ""
    free: bool = False
    prompt: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)


Convert = Callable[[Path, str], tuple[list[Record], list[str]]]  # folder, progress => written records, notices


def _no_remark(_: Sequence[Finding]) -> list[str]:
    return []


@dataclass(frozen=True)
class SourceRecords:
    """The records of a source.

    Attributes:
        records: In the order of the data set.
        classes: The classes that the source declares, with their values in its masks; none where it declares none.
        settled: Whether the masks follow the classes by construction, so that the user cannot declare others.
        notices: What the user should know, one sentence each.
        remark: Returns what else the user should know about the decoded cases, one sentence each.
        convert: Writes the files of all records into a folder, where a record alone cannot tell them.
    """

    records: Sequence[Record]
    classes: tuple[LabelClass, ...] = ()
    settled: bool = False
    notices: tuple[str, ...] = ()
    remark: Callable[[Sequence[Finding]], list[str]] = _no_remark
    convert: Convert | None = None


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about how to read a layout.

    Attributes:
        channels: Which channels of an image become grey (one) or red, green and blue; () for those that there are.
        missing_masks: What an image without a mask is, in the layouts `PAIRED`.
    """

    channels: tuple[int, ...] = ()
    missing_masks: MissingMasks = "refuse"


def pair_files(
    images_folder: Path,
    masks_folder: Path | None,
    split: str = "",
    mask_suffixes: Sequence[str] = SUFFIXES,
    deep: bool = False,
) -> list[Record]:
    """Match the files of two folders by stem; without a folder of masks the records have none.

    Args:
        images_folder: Where the images lie.
        masks_folder: Where their masks lie; None for records without masks.
        split: The split of the records, which begins their ids; "" where it is still to be drawn.
        mask_suffixes: The suffixes of mask files.
        deep: Look into the folders inside as well.

    Raises:
        DataError: There are no images, two files have one stem, or an image or mask has no partner.
    """
    images = files_by_stem(images_folder, SUFFIXES, deep)
    masks = {} if masks_folder is None else files_by_stem(masks_folder, mask_suffixes, deep)
    if not images:
        raise DataError(f"images/ must hold images ({' '.join(SUFFIXES)}): {images_folder} holds none; add them")
    if masks_folder is not None:
        _check_partners(images, images_folder, masks, masks_folder)
    prefix = f"{split}-" if split else ""
    return [Record(prefix + stem, images[stem], masks.get(stem), split=split) for stem in sorted(images, key=natural)]


def files_by_stem(folder: Path, suffixes: Sequence[str] = SUFFIXES, deep: bool = False) -> dict[str, Path]:
    """Return the images of a folder, or with `deep` of all folders below it, by stem.

    Raises:
        DataError: Two files have one stem.
    """
    files: dict[str, Path] = {}
    for path in (files_of(folder) if deep else sorted(folder.iterdir())) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        stem = normal(path.stem)
        if stem in files:
            raise DataError(
                f"stems must be unique in a folder: {folder} has {files[stem].name} and {path.name}; rename one of them"
            )
        files[stem] = path
    return files


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first folder of one of these names inside another, whatever their capitals; None without one."""
    folders = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()}
    return next((folders[name.lower()] for name in names if name.lower() in folders), None)


def _check_partners(
    images: Mapping[str, Path], images_folder: Path, masks: Mapping[str, Path], masks_folder: Path
) -> None:
    sides = (
        ("image", "mask", images, masks, masks_folder, "add it or move the image to unannotated/images"),
        ("mask", "image", masks, images, images_folder, "add the image or remove the mask"),
    )
    for kind, partner, files, partners, folder, remedy in sides:
        alone = sorted(set(files) - set(partners), key=natural)
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise DataError(
                f"every {kind} needs {'a mask' if partner == 'mask' else 'an image'} of the same stem: "
                f"case {alone[0]} ({files[alone[0]]}) has none in {folder}{more}; {remedy}"
            )
