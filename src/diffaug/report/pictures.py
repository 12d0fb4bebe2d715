"""Pictures for the page as data URIs: frames with outlines, close-ups and masks, and the cards that show them."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.data.case import Case, LabelClass, masks_from_label
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, Pixels, read_image, read_label, read_mask
from diffaug.data.manifest import Row, SyntheticSet, kept
from diffaug.data.request import Check
from diffaug.errors import DataError
from diffaug.report.tables import MATTERS, PairedCase, Study, TestedCase, mean_dice, paired_cases
from diffaug.study.places import FILE, Places

T = TypeVar("T")
ACCEPTED, REFUSED, WORST, CHANGED = 8, 8, 8, 4  # how many cards of each kind
LESION_FREE = 2  # of the worst cases
NEGATIVES = 2  # of the refused ones, where enough lesions were refused
SIDE = 320  # px; longer side of a picture on the page
LINE = 2  # px; width of an outline
CLOSE = 1.7  # side of a close-up over the longer side of its lesion

REQUESTED = (255, 214, 0)  # yellow: the mask that was asked for
REFERENCE = (0, 214, 143)  # green
PREDICTION = (255, 45, 149)  # magenta


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(pixels: Pixels) -> str:
    """Return pixels (H, W, 3) as a JPEG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=86)
    return data_uri(buffer.getvalue(), "image/jpeg")


def shown(image: Pixels) -> Pixels:
    """Scale an image so that its longer side is `SIDE`, up or down."""
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(
        Image.fromarray(image).resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    )


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Scale a mask to the shape (H, W) of another."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    values: NDArray[np.uint8] = np.asarray(grey)
    return values > 127


def outlined(image: Pixels, masks: list[tuple[Mask, tuple[int, int, int]]]) -> str:
    """Return an image with the outline of each mask in its colour."""
    picture = shown(image).copy()
    for mask, colour in masks:
        inside = resized(mask, picture.shape)
        edge = inside & ~ndimage.binary_erosion(inside, iterations=LINE, border_value=1)
        picture[edge] = colour
    return jpeg(picture)


def plain(image: Pixels) -> str:
    """Return an image without any outline."""
    return jpeg(shown(image))


def mask_picture(masks: Mask) -> str:
    """Return masks (K, H, W) in greys: the more classes a pixel belongs to, the lighter; one class is white."""
    share = masks.sum(0) * 255 // len(masks)
    grey = np.repeat(share[..., None].astype(np.uint8), 3, axis=2)
    return jpeg(shown(grey))


def close_up(image: Pixels, mask: Mask) -> Pixels:
    """Cut the square around a lesion, moved inside the frame; the whole frame without a lesion."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return image
    height, width = mask.shape
    side = min(height, width, round(CLOSE * max(rows[-1] - rows[0], columns[-1] - columns[0]) + 8))
    top = int(np.clip((rows[0] + rows[-1] - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] - side) // 2, 0, width - side))
    return image[top : top + side, left : left + side]


# cards


@dataclass(frozen=True)
class PaintedCard:
    """A request with what was painted: the frame or window with the requested mask, the same without, the mask.

    Attributes:
        row: The request.
        of: Name of its set.
        outlined: Of a negative, with the outline of what was painted; empty where there is nothing to outline.
        plain: The same without.
        mask: Empty where it is: a negative asks for no lesion.
    """

    row: Row
    of: str
    outlined: str
    plain: str
    mask: str

    @property
    def check(self) -> Check | None:
        """The last look of the gate at it."""
        return self.row.checks[-1] if self.row.checks else None


@dataclass(frozen=True)
class TestedCard:
    """A test case with its predictions: the picture of each arm, and its mean Dice under `real` and under the arm."""

    tested: TestedCase
    pictures: Sequence[str]
    real: float | None
    other: float


def spread(rows: Sequence[T], count: int) -> list[T]:
    """Return at most `count` rows, evenly spread over the list, and the same ones every time."""
    if len(rows) <= count:
        return list(rows)
    return [rows[(2 * index + 1) * len(rows) // (2 * count)] for index in range(count)]


def accepted_cards(sets: Mapping[str, SyntheticSet]) -> list[PaintedCard]:
    """Show kept cases of some sets, by name, evenly spread over their manifests."""
    rows = [(name, row) for name, made in sets.items() for row in kept(made)]
    return [_painted_card(name, sets[name], row, is_whole=True) for name, row in spread(rows, ACCEPTED)]


def refused_cards(sets: Mapping[str, SyntheticSet]) -> list[PaintedCard]:
    """Show rejected and stopped requests of which a picture was saved, evenly spread over the manifests.

    Lesions that were rejected come first, then those that were stopped, then negatives.
    """
    saved = [(name, row) for name, made in sets.items() for row in made if row.preview]
    asked, negatives = ([pair for pair in saved if pair[1].request.negative == one] for one in (False, True))
    rejected, stopped = ([pair for pair in asked if pair[1].decision == end] for end in ("rejected", "stopped"))
    most = REFUSED - min(NEGATIVES, len(negatives))
    half = max(most // 2, most - len(stopped))
    chosen = spread(rejected, half) + spread(stopped, most - min(half, len(rejected)))
    chosen += spread(negatives, REFUSED - len(chosen))
    return [_painted_card(name, sets[name], row, is_whole=False) for name, row in chosen]


def _painted_card(name: str, made: SyntheticSet, row: Row, is_whole: bool) -> PaintedCard:
    """Return the card of a case, whose whole image is shown, or of the window that was turned down."""
    image, mask = (row.image, row.mask) if is_whole else (row.preview, row.preview_mask)
    pixels = read_image(made.folder / image, row.id)
    masks = read_masks(made.folder / mask, row.id, made.classes)
    is_known = is_whole and row.request.negative and row.region  # what was painted is no part of its mask
    marked = read_mask(made.folder / row.region, row.id)[None] if is_known else masks
    return PaintedCard(
        row,
        name,
        outlined(pixels, [(one, REQUESTED) for one in marked]) if marked.any() else "",
        plain(close_up(pixels, np.any(marked, axis=0)) if is_whole else pixels),
        mask_picture(masks) if masks.any() else "",
    )


def read_masks(path: Path, case: str, classes: Sequence[LabelClass]) -> Mask:
    """Read the mask of each class from a picture of a synthetic set or of a prediction, (K, H, W)."""
    return masks_from_label(read_label(path, case), classes) if classes else read_mask(path, case)[None]


def find_test_cases(study: Study, places: Places) -> dict[str, Case]:
    """Return the annotated cases by their ids in cases.csv, from those data sets of a study that still exist.

    Raises:
        DataError: Such a data set cannot be read, or, where all are there, one lacks a case that is shown.
    """
    found: dict[str, Case] = {}
    folders = {prefix: Path(folder) for prefix, folder in (("", places.data), *places.tests.items()) if folder}
    there = {prefix: folder for prefix, folder in folders.items() if (folder / "cases.csv").exists()}
    for prefix, folder in there.items():
        cases = read_dataset(folder).cases
        found |= {f"{prefix}:{case.id}" if prefix else case.id: case for case in cases if case.mask is not None}
    shown = {row.case for row in study.cases if row.prediction}
    lost = sorted(shown - found.keys())
    if lost and there and there == folders:
        raise DataError(
            f"a report shows test images of its study: {len(lost)} of {len(shown)} are not in "
            f"{', '.join(map(str, there.values()))}, such as {lost[0]}; restore the data set, or remove "
            f"{study.folder / FILE} for a report without images"
        )
    return found


def predicted(study: Study, case: Case, tested: TestedCase) -> str:
    """Draw the outlines of reference and prediction of each class into a test image."""
    references = case.read_masks()
    predictions = read_masks(study.folder / tested.prediction, tested.case, case.classes)
    lines = [(resized(mask, references.shape[1:]), PREDICTION) for mask in predictions]
    return outlined(case.read_image(), [*lines, *((mask, REFERENCE) for mask in references)])


def changed_cards(study: Study, cases: Mapping[str, Case], arm: str | None) -> dict[str, list[TestedCard]]:
    """Show the cases that an arm rescued most and those that it lost most, as `real` and as the arm predict them."""
    if arm is None:
        return {"rescued": [], "lost": []}
    by_arm = {(row.arm, row.case): row for row in study.cases if row.prediction and row.case in cases}
    pairs = sorted(paired_cases(study.cases, arm), key=lambda pair: pair.real - pair.other)
    pairs = [pair for pair in pairs if {("real", pair.tested.case), (arm, pair.tested.case)} <= by_arm.keys()]

    def card(pair: PairedCase) -> TestedCard:
        name = pair.tested.case
        both = [predicted(study, cases[name], by_arm[kind, name]) for kind in ("real", arm)]
        return TestedCard(pair.tested, both, pair.real, pair.other)

    return {
        "rescued": [card(pair) for pair in [pair for pair in pairs if pair.gain > MATTERS][:CHANGED]],
        "lost": [card(pair) for pair in [pair for pair in reversed(pairs) if pair.gain < -MATTERS][:CHANGED]],
    }


def worst_cards(study: Study, cases: Mapping[str, Case], arm: str) -> list[TestedCard]:
    """Show the cases with the lowest Dice under an arm, those with a prediction, which are of its first seed.

    At most LESION_FREE of them have no lesion: with a single false alarm the Dice of such a case is 0.
    """
    rows = sorted((row for row in study.cases if row.arm == arm and row.prediction), key=lambda row: row.dice)
    free, others = [row for row in rows if not row.strata], [row for row in rows if row.strata]
    worst = sorted([*free[:LESION_FREE], *others[:WORST]], key=lambda row: row.dice)[:WORST]
    real = mean_dice(study.cases, "real")
    return [
        TestedCard(row, [predicted(study, cases[row.case], row)], real.get(row.case), row.dice)
        for row in worst
        if row.case in cases
    ]
