"""The lesions that an audit compares: annotated ones of training, held-out ones, and painted ones."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from diffaug.data.case import Case
from diffaug.data.folder import Dataset
from diffaug.data.images import Mask, Pixels, read_image, read_label
from diffaug.data.lesions import lesion_masks
from diffaug.data.manifest import Row, SyntheticSet
from diffaug.data.records import Part
from diffaug.painting.looks import origins_of
from diffaug.study.choose import is_kept_lesion

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


def audited_rows(made: SyntheticSet, damaged: frozenset[str] = frozenset()) -> Part[Row]:
    """Return the rows whose lesions may be trained on: kept ones, of whole files, those in shared pictures too."""
    usable, joined = np.zeros(len(made), np.bool_), list[int]()
    for place, row in enumerate(made.rows):
        usable[place] = is_kept_lesion(row) and row.id not in damaged
        if row.shown_in and not row.request.negative:
            joined.append(place)
    pictures = [made.place_of(made.rows[place].shown_in) for place in joined]
    shown = [place for place, picture in zip(joined, pictures, strict=True) if picture is not None and usable[picture]]
    usable[shown] = True
    return Part(made.rows, np.flatnonzero(usable).tolist())


class PaintedLesions:
    """The painted lesions of some rows, each read from its files when it is asked for."""

    def __init__(self, made: SyntheticSet, dataset: Dataset, rows: Part[Row]) -> None:
        self._made, self.rows = made, rows
        self._groups = {case.id: case.group for case in dataset.cases}

    def of(self, row: Row) -> Found | None:
        """Return the lesion of a row; None where its label has none."""
        mask = new_lesion(self._made, row)
        if mask is None:
            return None
        picture = self._made[row.shown_in] if row.shown_in else row
        background, example = origins_of(row.request)
        group = self._groups.get(background, sys.intern(background))
        return Found(read_image(self._made.folder / picture.image), mask, picture.id, group, row, example)

    def count(self, most: int) -> int:
        """Return how many lesions there are, or `most` where there are as many."""
        return sum(1 for _ in islice((row for row in self.rows if new_lesion(self._made, row) is not None), most))


def new_lesion(made: SyntheticSet, row: Row) -> Mask | None:
    """Return the lesion that was painted for a row: the one nearest to the middle of its window; None without any."""
    picture = made[row.shown_in] if row.shown_in else row
    parts = lesion_masks(read_label(made.folder / picture.mask) > 0)
    top, left, side = row.window
    middle = np.array([top + side / 2, left + side / 2])
    return min(parts, key=lambda part: float(np.abs(np.argwhere(part).mean(0) - middle).sum()), default=None)
