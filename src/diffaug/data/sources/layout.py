"""What a reader of a published layout returns, and how files are found and paired."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffaug.data.case import Case
from diffaug.data.examine import Finding
from diffaug.data.images import SUFFIXES
from diffaug.errors import DataError

Convert = Callable[[Path, str], tuple[list[Case], list[str]]]  # folder, progress => written cases, notices


def _no_remark(_: Sequence[Finding]) -> list[str]:
    return []


@dataclass(frozen=True)
class SourceCases:
    """The cases of a source, wherever their files lie.

    Attributes:
        cases: In the order of the data set. A case whose split is still to be drawn has the split "".
        groups: The groups that the source names, by case id; every other case is a group of its own.
        remark: Returns what else the user should know about the decoded cases, one sentence each.
        convert: Writes the files of all cases into a folder, where copying them is not enough.
    """

    cases: Sequence[Case]
    groups: Mapping[str, str] = field(default_factory=dict)
    remark: Callable[[Sequence[Finding]], list[str]] = _no_remark
    convert: Convert | None = None


def pair_files(
    images_folder: Path,
    masks_folder: Path | None,
    split: str = "",
    mask_suffixes: Sequence[str] = SUFFIXES,
    deep: bool = False,
) -> list[Case]:
    """Match the files of two folders by stem; without a folder of masks the cases have none.

    Args:
        images_folder: Where the images lie.
        masks_folder: Where their masks lie; None for cases without masks.
        split: The split of the cases, which begins their ids; "" where it is still to be drawn.
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
    return [
        Case(id=prefix + stem, image=images[stem], mask=masks.get(stem), group=prefix + stem, split=split)
        for stem in sorted(images, key=_natural)
    ]


def files_by_stem(folder: Path, suffixes: Sequence[str] = SUFFIXES, deep: bool = False) -> dict[str, Path]:
    """Return the images of a folder, or with `deep` of all folders below it, by stem.

    Raises:
        DataError: Two files have one stem.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        stem = unicodedata.normalize("NFC", path.stem)  # macOS writes accents apart, so one name can differ in bytes
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


def _natural(stem: str) -> list[tuple[int, str]]:
    """Sort numbers inside names by value, so that c9 comes before c12."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem) if part]


def _check_partners(
    images: Mapping[str, Path], images_folder: Path, masks: Mapping[str, Path], masks_folder: Path
) -> None:
    sides = (
        ("image", "mask", images, masks, masks_folder, "add it or move the image to unannotated/images"),
        ("mask", "image", masks, images, images_folder, "add the image or remove the mask"),
    )
    for kind, partner, files, partners, folder, remedy in sides:
        alone = sorted(set(files) - set(partners), key=_natural)
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise DataError(
                f"every {kind} needs {'a mask' if partner == 'mask' else 'an image'} of the same stem: "
                f"case {alone[0]} ({files[alone[0]]}) has none in {folder}{more}; {remedy}"
            )
