"""The lesions that an audit compares: annotated ones of training, held-out ones, and painted ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.compute.progress import tracked
from diffaug.data.case import Case
from diffaug.data.folder import Dataset
from diffaug.data.images import Mask, Pixels, read_image, read_label
from diffaug.data.lesions import lesion_masks
from diffaug.data.manifest import Row, SyntheticSet, accepted, lesions
from diffaug.painting.looks import origins_of

FEWEST_HELD_OUT = 40  # lesions; with fewer, training lesions stand in for held-out ones, too
MOST_HELD_OUT = 400


@dataclass(frozen=True, eq=False)
class Found:
    """A lesion in its frame.

    Attributes:
        image: The frame, (H, W, 3).
        mask: The lesion, (H, W).
        case: Id of a real case, or of the case that shows a painted lesion.
        group: The group of a real case, or of a painted lesion's background.
        row: Of a painted lesion.
        example: Case that a painted lesion was made from.
    """

    image: Pixels
    mask: Mask
    case: str
    group: str
    row: Row | None = None
    example: str = ""


def real_lesions(cases: Iterable[Case], most: int | None = None) -> list[Found]:
    """Return the lesions of annotated cases, the first `most` of them."""
    found = list[Found]()
    for case in cases:
        if most is not None and len(found) >= most:
            break
        image = case.read_image()
        found += [Found(image, mask, case.id, case.group) for mask in lesion_masks(case.read_mask())]
    return found[:most]


def held_out_lesions(dataset: Dataset) -> list[Found]:
    """Return lesions of val and test."""
    return real_lesions([*dataset.annotated("val"), *dataset.annotated("test")], MOST_HELD_OUT)


def audited_rows(made: SyntheticSet, damaged: frozenset[str] = frozenset()) -> list[Row]:
    """Return the rows whose lesions may be trained on: accepted ones, of whole files, those in shared pictures too."""
    usable = {row.id for row in accepted(made.rows) if row.id not in damaged}
    shown = [row for row in lesions(made.rows) if row.shown_in in usable]
    return [row for row in made.rows if row.id in usable or row in shown]


def painted_lesions(made: SyntheticSet, dataset: Dataset, rows: Sequence[Row], progress: str = "") -> list[Found]:
    """Return the painted lesions of rows; a row without a lesion in its label has none."""
    groups, found = {case.id: case.group for case in dataset.cases}, list[Found]()
    for row in tracked(rows, len(rows), progress):
        mask = new_lesion(made, row)
        if mask is not None:
            picture = made[row.shown_in] if row.shown_in else row
            background, example = origins_of(row.request)
            group = groups.get(background, background)
            found.append(Found(read_image(made.folder / picture.image), mask, picture.id, group, row, example))
    return found


def new_lesion(made: SyntheticSet, row: Row) -> Mask | None:
    """Return the lesion that was painted for a row: the one nearest to the middle of its window; None without any."""
    picture = made[row.shown_in] if row.shown_in else row
    parts = lesion_masks(read_label(made.folder / picture.mask) > 0)
    top, left, side = row.window
    middle = np.array([top + side / 2, left + side / 2])
    return min(parts, key=lambda part: float(np.abs(np.argwhere(part).mean(0) - middle).sum()), default=None)
