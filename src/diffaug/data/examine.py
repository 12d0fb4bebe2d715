"""Decode cases once, in threads; check them by the rules of the folder format; keep what an inspection shows."""

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from diffaug.compute.progress import tracked
from diffaug.data.case import Case, check_mask_size
from diffaug.data.depths import DEPTHS
from diffaug.data.duplicates import Fingerprint, fingerprint
from diffaug.data.images import LOSSY, Mask, rgb_from_file
from diffaug.data.lesions import count_lesions
from diffaug.data.orientation import TURNS, orientation_of, pixels_of
from diffaug.errors import DataError

# The sentence of each note, in the plural; `counted` makes the singular.
SENTENCES = {
    "grey": "images are grey and were read as RGB",
    "palette": "images are in palette colours and were read as RGB",
    "8-bit": "images of more than 8 bits were read as they are, with 255 as white",
    "12-bit": "images of more than 8 bits were scaled to 8, with 4,095 as white",
    "16-bit": "images of more than 8 bits were scaled to 8, with 65,535 as white",
    "unit": "images of real numbers were scaled to 8 bits, with 1 as white",
    "unit-cut": "images of real numbers pass 0 or 1 a little; they were cut there and scaled, with 1 as white",
    "transparency": "images are transparent in parts and were read without transparency",
    "turned": "images are turned by their EXIF orientation and were set upright",
    "unturned-mask": "masks lack the EXIF orientation of their images, fit turned and unturned, and were read upright",
    "palette-mask": "masks are palettes whose background is another index than 0, and were read so",
    "half-mask": "masks of more than 8 bits were cut at half of their largest value",
    "grey-mask": "masks have grey pixels and were cut at 127: what is lighter counts as lesion",
    "jpeg-mask": "masks are JPEG and were cut at 127",
}

LARGE = 10_000_000  # pixels
_one_large = threading.Lock()
GUESSES = ("palette-mask", "half-mask", "grey-mask", "unit-cut")  # notes that name a case


@dataclass(frozen=True)
class Finding:
    """What decoding a case showed.

    Attributes:
        case: The case.
        height: Of the image, px.
        width: Of the image, px.
        area: The share of the image that is lesion; None without a mask.
        lesions: The number of lesions; 0 without a mask.
        fingerprint: Finds repeated frames.
        notes: Keys of `SENTENCES`, or modes of Pillow.
    """

    case: Case
    height: int
    width: int
    area: float | None
    lesions: int
    fingerprint: Fingerprint
    notes: tuple[str, ...]


@contextmanager
def in_turn(path: object) -> Iterator[None]:
    """Wait, in threads, until no other large image is at work: decoded, each takes some hundred megabytes."""
    with _one_large if isinstance(path, Path) and pixels_of(path) > LARGE else nullcontext():
        yield


def examine_case(case: Case) -> Finding:
    """Decode the image and the mask of a case; of large images one at a time.

    Raises:
        DataError: See `_examined`.
    """
    with in_turn(case.image):
        return _examined(case)


def _examined(case: Case) -> Finding:
    """Decode the image and the mask of a case.

    Raises:
        DataError: A file cannot be read, or the mask has another size than the image, is empty, or holds a value of no
            declared class.
    """
    pixels, conversion = rgb_from_file(case.image, case.id)
    height, width = pixels.shape[:2]
    notes = [conversion] if conversion else []
    orientation = orientation_of(case.image)
    turned = orientation != 1
    if turned:
        notes.append("turned")
    area, lesions = None, 0
    if case.mask is not None:
        mask, guessed = case.read_mask_and_guess()
        notes += [guessed] if guessed else []
        _check_mask(case, mask, (height, width))
        area, lesions = float(mask.mean()), count_lesions(mask)
        if case.mask.suffix.lower() in LOSSY:
            notes.append("jpeg-mask")
        shape_decides = orientation in TURNS and height != width  # whether the mask was drawn on stored pixels
        if turned and orientation_of(case.mask) == 1 and not shape_decides:
            notes.append("unturned-mask")
    return Finding(case, height, width, area, lesions, fingerprint(pixels), tuple(notes))


def _check_mask(case: Case, mask: Mask, size: tuple[int, int]) -> None:
    check_mask_size(case, mask.shape, size)
    if not mask.any() and not case.negative:
        raise DataError(
            f"a mask must hold a lesion: case {case.id} ({case.mask}) is empty; annotate it, declare it lesion-free "
            "with 1 in a column `negative` of cases.csv, or move the image to `unannotated` or to the normal images"
        )
    if mask.any() and case.negative:
        raise DataError(
            f"a negative case has no lesion: case {case.id} ({case.mask}) is declared negative and has one; "
            "empty its mask, or clear its cells in the columns `kind` and `negative`"
        )


def examine_cases(cases: Iterable[Case], progress: str = "") -> list[Finding]:
    """Examine cases in parallel threads, in order.

    Args:
        cases: Cases to decode.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        DataError: The first case, in order, that breaks a rule.
    """
    ordered = list(cases)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        findings = pool.map(examine_case, ordered)
        try:
            return list(tracked(findings, len(ordered), progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def notices_of(findings: Sequence[Finding]) -> list[str]:
    """Return one line for each kind of conversion, with its count, and one where images were scaled in several ways."""
    counts = Counter(note for finding in findings for note in finding.notes)
    first = {note: finding.case.id for finding in reversed(findings) for note in finding.notes}
    lines = [
        counted(count, SENTENCES.get(note, f"images are {note} and were read as RGB"))
        + (f", such as {first[note]}" if note in GUESSES else "")
        for note, count in sorted(counts.items())
    ]
    depths = [depth for depth in DEPTHS if counts[depth] or counts[f"{depth}-cut"]]
    if len(depths) > 1:
        lines.append(
            f"images of more than 8 bits were read as {', '.join(depths)}, each by its own largest value: where one "
            "camera made them, dark ones come out lighter; save all of them as 8 bits on one scale"
        )
    return lines


def counted(count: int, sentence: str) -> str:
    """Return a plural sentence behind its count, in the singular where the count is 1."""
    if count != 1:
        return f"{count} {sentence}"
    singular = {
        "images": "image",
        "masks": "mask",
        "slices": "slice",
        "cases": "case",
        "are": "is",
        "were": "was",
        "their": "its",
        "frames": "frame",
        "files": "file",
        "links": "link",
        "lead": "leads",
        "they": "it",
        "have": "has",
        "names": "a name",
    }
    return f"1 {' '.join(singular.get(word, word) for word in sentence.split())}"
