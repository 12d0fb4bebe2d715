"""REFUGE: 1,200 fundus photographs with disc and cup, 400 each to train, validate and test.

Read layouts, inside SOURCE, SOURCE/REFUGE2 or SOURCE/REFUGE; a set may lack a split:

    train, val, test, each with images and mask or masks; index.json beside them may tell glaucoma    mirrors
    Training400, Annotation-Training400                                                               as published
    REFUGE-Validation400, REFUGE-Validation400-GT
    REFUGE-Test400 or Test400, REFUGE-Test-GT

Masks are BMP or PNG of the codes 0 = cup, 128 = rim, 255 = background, or of a mirror's class numbers 0 = background,
1 = rim, 2 = cup; they are written as the latter. The disc is rim and cup together. Glaucoma is told by index.json, by
the letter before the number of a name (g0001, n0001), or by a folder (Glaucoma, Non-Glaucoma; G, N); it becomes an
attribute. No patients are published. The public copies that are called REFUGE2 hold these 1,200 images.

Source: Orlando et al. 2020, "REFUGE Challenge" (doi:10.1016/j.media.2019.101570),
    https://refuge.grand-challenge.org/. Terms: those of the challenge, research.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffaug.artifacts import read_json
from diffaug.compute.progress import tracked
from diffaug.data.case import Case
from diffaug.data.examine import counted
from diffaug.data.folder import Dataset, copy_file, new_dataset, read_dataset, refuse_occupied, write_cases
from diffaug.data.fundus import DISC_AND_CUP, crop_around, locate_disc
from diffaug.data.images import Label, read_codes, write_png
from diffaug.data.sources.folder import ANNOTATED, pair_files, place_cases, subfolder
from diffaug.errors import DataError

UNPACKED = ("REFUGE2", "REFUGE")  # the folder inside a mirror's archive
IMAGES = {
    "train": ("Training400", "REFUGE-Training400"),
    "val": ("REFUGE-Validation400", "Validation400"),
    "test": ("REFUGE-Test400", "Test400"),
}
MASKS = {
    "train": ("Annotation-Training400",),
    "val": ("REFUGE-Validation400-GT",),
    "test": ("REFUGE-Test-GT", "REFUGE-Test400-GT"),
}
PUBLISHED = 400  # images of a split
BACKGROUND = 255  # the published code of what is neither disc nor cup
CODES = {0: 2, 128: 1, BACKGROUND: 0}  # of a published mask => class numbers
NUMBERS = {0: 0, 1: 1, 2: 2}  # of a mirror's mask
SUFFIXES = (".bmp", ".png")  # of masks; the annotations hold pictures for people too, as JPEG
GLAUCOMA = {"g": 1.0, "glaucoma": 1.0, "n": 0.0, "non-glaucoma": 0.0}
CROP = 3.0  # disc diameters


@dataclass(frozen=True)
class Converted:
    """A case that was written, and the share of its disc that the crop holds, 1 without a crop."""

    case: Case
    held: float


def import_refuge2(
    source: Path, to: Path, seed: int = 0, progress: str = "", crop: bool = False
) -> tuple[Dataset, list[str]]:
    """Turn REFUGE into a data set with the classes disc and cup and, where it is told, the attribute `glaucoma`.

    Args:
        source: The unpacked set, in one of the layouts above; its splits are kept.
        to: A new folder.
        seed: Not used: the splits are published.
        progress: What to call the work in a progress bar on stderr; empty for none.
        crop: Cut each image to a square of three disc diameters around the place where `locate_disc` finds the disc.
            Masks never choose the square; they only tell how often it misses.

    Returns:
        The data set, and one line for each thing the user should know.

    Raises:
        DataError: The layout or a file breaks a rule; nothing is written.
        ConfigError: `to` holds something else, or cannot be written.
    """
    refuse_occupied(to)
    cases = cases_of_refuge2(source)
    with new_dataset(to) as partial:
        made = [_convert(case, partial, crop) for case in tracked(cases, len(cases), progress)]
        kept = [one.case for one in made if one.held]
        if not kept:
            raise DataError(f"a crop needs a disc that is found: none of {len(made)} was; import without crops")
        placed, notices = place_cases(kept, {}, seed, progress)
        write_cases(partial, placed)
    return read_dataset(to), [*notices, *_notices(cases), *_misses(made)]


def cases_of_refuge2(source: Path) -> list[Case]:
    """Find the cases, with their splits and glaucoma labels.

    Raises:
        DataError: There is no split, or an image or mask has no partner.
    """
    if not source.is_dir():
        raise DataError(f"a source must be a folder: {source} is none; check the path")
    base = subfolder(source, *UNPACKED) or source
    cases = []
    for split in ANNOTATED:
        folders = _folders_of(base, split)
        if folders:
            labels = _read_index(folders[0].parent / "index.json")
            found = pair_files(*folders, split, SUFFIXES, deep=True)
            cases += [replace(case, attributes=_glaucoma(case, labels), classes=DISC_AND_CUP) for case in found]
    if not cases:
        raise DataError(
            "REFUGE has train/, val/, test/ with images/ and mask/, or Training400/, Annotation-Training400/ and more: "
            f"{source} has neither; check the path"
        )
    return cases


def _folders_of(base: Path, split: str) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks of a split, None where there are none."""
    inside = subfolder(base, split)
    images = subfolder(inside, "images") if inside else subfolder(base, *IMAGES[split])
    masks = subfolder(inside, "mask", "masks") if inside else subfolder(base, *MASKS[split])
    if bool(images) != bool(masks):
        raise DataError(f"images need their masks: {split} of {base} has only {images or masks}; fetch the other part")
    return (images, masks) if images and masks else None


def _read_index(path: Path) -> dict[str, float]:
    """Read the glaucoma labels of a mirror's index.json by the stem of the image; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        entries = [entry for entry in read_json(path).values() if "Label" in entry]
        return {Path(entry["ImgName"]).stem: float(entry["Label"]) for entry in entries}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            f"index.json lists ImgName and Label of each image: {path} does not; restore or remove it"
        ) from None


def _glaucoma(case: Case, labels: dict[str, float]) -> dict[str, float]:
    """Return the attribute glaucoma, 1 or 0, or nothing where no source tells it."""
    folders = [path.parent.name.lower() for path in (case.image, case.mask) if path]
    letter = re.match(r"([gn])\d", case.image.stem.lower())
    told = [labels.get(case.image.stem), GLAUCOMA.get(letter[1]) if letter else None, *map(GLAUCOMA.get, folders)]
    return next(({"glaucoma": label} for label in told if label is not None), {})


def _convert(case: Case, folder: Path, crop: bool) -> Converted:
    """Write the image, or a crop of it, and the label as class numbers."""
    label = _label_of(case)
    (folder / "images").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    mask = folder / "masks" / f"{case.id}.png"
    if not crop:
        write_png(mask, label)
        return Converted(replace(case, image=copy_file(case.image, folder / "images", case.id), mask=mask), 1.0)
    pixels = case.read_image()
    height, width = pixels.shape[:2]
    if label.shape != (height, width):
        raise DataError(
            f"a mask must have the size of its image: case {case.id} ({case.mask}) has {label.shape[1]} x "
            f"{label.shape[0]} for an image of {width} x {height}; restore the file"
        )
    window = crop_around(locate_disc(pixels), height, width, CROP)
    held = float((label[window] > 0).sum() / max(1, (label > 0).sum()))
    image = folder / "images" / f"{case.id}.png"
    if held:
        write_png(image, np.ascontiguousarray(pixels[window]))
        write_png(mask, np.ascontiguousarray(label[window]))
    return Converted(replace(case, image=image, mask=mask), held)


def _label_of(case: Case) -> Label:
    """Read a mask of published codes or of class numbers as class numbers, shape (H, W)."""
    if case.mask is None:
        raise DataError(f"a mask is needed: case {case.id} has none; restore it")
    codes = read_codes(case.mask, case.id)
    values = np.unique(codes).tolist()
    table = CODES if values[-1] > max(NUMBERS) else NUMBERS
    strange = [value for value in values if value not in table]
    if table is CODES and BACKGROUND not in values:
        raise DataError(
            f"a mask of REFUGE holds 0 (cup), 128 (rim) and {BACKGROUND} (background): case {case.id} ({case.mask}) "
            f"has no {BACKGROUND}; restore the file, or give it the numbers of classes"
        )
    if strange:
        nearest = min(table, key=lambda code: abs(code - strange[0]))
        raise DataError(
            f"a mask of REFUGE holds 0 (cup), 128 (rim) and 255 (background): case {case.id} ({case.mask}) has "
            f"{strange[0]}, nearest is {nearest}; restore the file"
        )
    numbers = np.zeros(256, np.uint8)
    numbers[list(table)] = list(table.values())
    return numbers[codes]


def _notices(cases: Sequence[Case]) -> list[str]:
    counts = Counter(case.split for case in cases)
    notices = [
        f"{split} has {count} of the {PUBLISHED} published images"
        for split, count in counts.items()
        if count != PUBLISHED
    ]
    untold = sum(not case.attributes for case in cases)
    return [*notices, *([counted(untold, "images are without a glaucoma label")] if untold else [])]


def _misses(made: Iterable[Converted]) -> list[str]:
    """Say how often the crop missed, by the masks."""
    missed = [one.case.id for one in made if not one.held]
    cut = [one.case.id for one in made if 0 < one.held < 1]
    return [
        *([f"crops that cut the disc: {len(cut)}, such as {cut[0]}"] if cut else []),
        *([f"crops that missed the disc and were left out: {len(missed)}, such as {missed[0]}"] if missed else []),
    ]
