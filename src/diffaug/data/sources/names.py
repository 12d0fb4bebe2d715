"""What the names of folders and files say: image or mask, split, lesion-free, or a patient.

Knows only names; no file is opened.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


IMAGE_WORDS = _words(
    "image images img imgs frame frames original originals photo photos photograph photographs picture pictures",
    "input inputs scan scans raw data jpegimages",
)
MASK_WORDS = _words(
    "mask masks label labels annotation annotations annot annots groundtruth gt gts seg segs segmentation",
    "segmentations target targets truth",
)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
    **dict.fromkeys(("unannotated", "unlabelled", "unlabeled"), "unannotated"),
}
FREE_WORDS = _words("normal normals negative negatives healthy lesionfree nolesion nolesions")
# Folders of these words sort images by diagnosis or format: they are no patients.
PLAIN_WORDS = _words(
    "benign malignant positive positives abnormal lesion lesions polyp polyps tumor tumors tumour tumours cancer",
    "disease diseased glaucoma png jpg jpeg tif tiff bmp webp set sets dataset part all cases",
)
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
MARK = "masks?|seg|segmentation|segmented|labels?|annotation|gt|ground[ _-]?truth"
MASK_ALONE = re.compile(rf"^(?:{MARK})(?P<part>[ _-]*\d+)?$", re.IGNORECASE)
MASK_SUFFIX = re.compile(rf"^(?P<base>.+?)[ _.-]+(?:{MARK})(?P<part>[ _-]*\d+)?$", re.IGNORECASE)
MASK_PREFIX = re.compile(rf"^(?:{MARK})[ _.-]+(?P<base>.+)$", re.IGNORECASE)
IMAGE_MARK = re.compile(
    r"^(?:(?:image|img|volume|vol)[ _.-]*(?P<end>.+)|(?P<start>.+?)[ _.-]+(?:image|img|original|orig))$", re.I
)


@dataclass(frozen=True)
class FolderName:
    """What the name of a folder says.

    Attributes:
        kind: "image", "mask" or "".
        split: train, val, test, unannotated or "".
        free: Whether its images are lesion-free.
        patient: Whether it may stand for a patient: its name says none of the above.
        plain: Whether its name consists of known words.
    """

    kind: str = ""
    split: str = ""
    free: bool = False
    patient: bool = False
    plain: bool = False


def read_folder_name(name: str) -> FolderName:
    """Return what the name of a folder says; capitals, blanks and joined words do not matter.

    Example:
        >>> read_folder_name("Ground Truth").kind, read_folder_name("labelsTr").split
        ('mask', 'train')
    """
    parts = [part.lower() for part in WORD.findall(name)]
    words = {part for part in parts if not part.isdigit()}
    words |= {first + second for first, second in pairwise(parts)}
    kind = "mask" if words & MASK_WORDS else "image" if words & IMAGE_WORDS else ""
    numbered = any(part.isdigit() for part in parts) and len(parts) == len(set(parts) & (IMAGE_WORDS | MASK_WORDS)) + 1
    if numbered:  # scan 012 is one of many, and images 3 too
        kind = ""
    singles = {part for part in parts if not part.isdigit()}
    known = IMAGE_WORDS | MASK_WORDS | set(SPLIT_WORDS) | FREE_WORDS | PLAIN_WORDS
    whole = not numbered and singles <= known | {"lesion", "free", "no", "ground", "truth", "un", "annotated"}
    split = next((SPLIT_WORDS[part] for part in parts if part in SPLIT_WORDS), "") if whole or kind else ""
    free = bool(words & FREE_WORDS) and (whole or bool(kind))
    plain = whole and bool(singles)
    return FolderName(kind, split, free, not (kind or split or free or plain), plain)


def normal(stem: str) -> str:
    """Return a stem in one spelling: macOS writes accents apart, so one name can differ in bytes."""
    return unicodedata.normalize("NFC", stem)


def base_of_mask(stem: str) -> tuple[str, str] | None:
    """Return the stem of the image that a mask's stem names, and its number among several; None without a mark.

    The stem of the image is "" where the name is a mark alone, such as `mask` in a folder of one case.

    Example:
        >>> base_of_mask("benign (1)_mask_2"), base_of_mask("mask_7"), base_of_mask("7")
        (('benign (1)', '2'), ('7', ''), None)
    """
    alone = MASK_ALONE.match(stem)
    if alone:
        return "", (alone["part"] or "").strip(" _-")
    suffix = MASK_SUFFIX.match(stem)
    if suffix:
        return suffix["base"], (suffix["part"] or "").strip(" _-")
    prefix = MASK_PREFIX.match(stem)
    return (prefix["base"], "") if prefix else None


def base_of_image(stem: str) -> str:
    """Return the stem of an image without a mark such as `img_` or `_image`."""
    found = IMAGE_MARK.match(stem)
    return (found["end"] or found["start"]) if found else stem


def natural(stem: str) -> list[tuple[int, str]]:
    """Sort numbers inside names by value, so that c9 comes before c12."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem) if part]
