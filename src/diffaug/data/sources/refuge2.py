"""REFUGE: 1,200 fundus photographs with disc and cup, 400 each to train, validate and test.

Read layouts, inside SOURCE, SOURCE/REFUGE2 or SOURCE/REFUGE; a set may lack a split:

    train, val, test, each with images and mask or masks; index.json beside them may name glaucoma    mirrors
    Training400, Annotation-Training400                                                               as published
    REFUGE-Validation400, REFUGE-Validation400-GT
    REFUGE-Test400 or Test400, REFUGE-Test-GT

Masks are BMP or PNG of the codes 0 = cup, 128 = rim, 255 = background, or of a mirror's class numbers 0 = background,
1 = rim, 2 = cup; they are written as the latter. The disc is rim and cup together. Glaucoma is read from index.json,
from the letter before the number of a name (g0001, n0001), or from a folder (Glaucoma, Non-Glaucoma; G, N); it becomes
an attribute. No patients are published. The public copies that are called REFUGE2 hold these 1,200 images.

Source: Orlando et al. 2020, "REFUGE Challenge" (doi:10.1016/j.media.2019.101570),
    https://refuge.grand-challenge.org/. Terms: those of the challenge, research.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from diffaug.artifacts import read_json
from diffaug.compute.progress import tracked
from diffaug.data.case import Case, check_mask_size
from diffaug.data.examine import counted
from diffaug.data.folder import copy_file
from diffaug.data.fundus import DISC_AND_CUP, crop_around, locate_disc
from diffaug.data.images import Label, read_codes, write_png
from diffaug.data.sources.layout import Record, SourceRecords, pair_files, subfolder
from diffaug.data.sources.recognise import not_understood
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


def read_refuge2(source: Path, crop: bool = False) -> SourceRecords:
    """Find the cases, with the classes disc and cup and, where it is known, the attribute `glaucoma`.

    Args:
        source: The unpacked set, in one of the layouts above; its splits are kept.
        crop: Cut each image to a square of three disc diameters around the place where `locate_disc` finds the disc.
            Masks never choose the square; they only show how often it misses.

    Raises:
        DataError: There is no split, or an image or mask has no partner.
    """
    base = subfolder(source, *UNPACKED) or source
    cases: list[Case] = []
    for split in IMAGES:
        folders = _folders_of(base, split)
        if folders:
            labels = _read_index(folders[0].parent / "index.json")
            pairs = [_case_of(record) for record in pair_files(*folders, split, SUFFIXES, deep=True)]
            cases += [replace(case, attributes=_glaucoma(case, labels)) for case in pairs]
    if not cases:
        rule = (
            "REFUGE has train/, val/, test/ with images/ and mask/, or Training400/, Annotation-Training400/ and more"
        )
        raise not_understood(rule, source, "refuge2")
    return SourceRecords(
        [_record_of(case) for case in cases], DISC_AND_CUP, settled=True, convert=partial(_convert, cases, crop)
    )


def _case_of(record: Record) -> Case:
    files = {kind: path for kind in ("image", "mask") if isinstance(path := getattr(record, kind), Path)}
    return Case(record.id, files["image"], files.get("mask"), record.id, record.split, classes=DISC_AND_CUP)


def _record_of(case: Case) -> Record:
    return Record(case.id, case.image, case.mask, split=case.split, attributes=case.attributes)


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
    """Return the attribute glaucoma, 1 or 0, or nothing where no source names it."""
    folders = [path.parent.name.lower() for path in (case.image, case.mask) if path]
    letter = re.match(r"([gn])\d", case.image.stem.lower())
    sources = [labels.get(case.image.stem), GLAUCOMA.get(letter[1]) if letter else None, *map(GLAUCOMA.get, folders)]
    return next(({"glaucoma": label} for label in sources if label is not None), {})


def _convert(cases: Sequence[Case], crop: bool, folder: Path, progress: str) -> tuple[list[Record], list[str]]:
    """Write the images, or crops of them, and their labels as class numbers."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    notices = _notices(cases)
    if not crop:
        return [_record_of(_write_photograph(case, folder)) for case in tracked(cases, len(cases), progress)], notices
    shares: dict[str, float] = {}
    written = []
    for case in tracked(cases, len(cases), progress):
        cropped, shares[case.id] = _write_crop(case, folder)
        written += [cropped] if shares[case.id] else []
    if not written:
        raise DataError(f"a crop needs a disc that is found: none of {len(cases)} was; import without crops")
    cut = [name for name, share in shares.items() if 0 < share < 1]
    missed = [name for name, share in shares.items() if not share]
    if cut:
        notices.append(f"crops that cut the disc: {len(cut)}, such as {cut[0]}")
    if missed:
        notices.append(f"crops that missed the disc and were left out: {len(missed)}, such as {missed[0]}")
    return [_record_of(case) for case in written], notices


def _write_photograph(case: Case, folder: Path) -> Case:
    mask = folder / "masks" / f"{case.id}.png"
    write_png(mask, _label_of(case), settled=False)
    return replace(case, image=copy_file(case.image, folder / "images", case.id), mask=mask)


def _write_crop(case: Case, folder: Path) -> tuple[Case, float]:
    """Write a crop, unless it misses the disc, and return its case and the share of the disc that it holds."""
    pixels, label = case.read_image(), _label_of(case)
    height, width = pixels.shape[:2]
    check_mask_size(case, label.shape, (height, width))
    window = crop_around(locate_disc(pixels), height, width, CROP)
    share = float((label[window] > 0).sum() / max(1, (label > 0).sum()))
    image, mask = (folder / kind / f"{case.id}.png" for kind in ("images", "masks"))
    if share:
        write_png(image, np.ascontiguousarray(pixels[window]), settled=False)
        write_png(mask, np.ascontiguousarray(label[window]), settled=False)
    return replace(case, image=image, mask=mask), share


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
    unlabelled = sum(not case.attributes for case in cases)
    return [*notices, *([counted(unlabelled, "images are without a glaucoma label")] if unlabelled else [])]
