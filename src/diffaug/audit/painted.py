"""Painted lesions, looked at one after the other: of each a few numbers are kept, and no pixels.

All are compared with the training lesions, since each may be a copy. What is an average over lesions is measured on
MOST_COMPARED of them, evenly spaced over the set, where there are more.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import overload

import numpy as np

from diffaug.audit.lesions import Found, PaintedLesions
from diffaug.audit.privacy import Known, Likeness, Limits, likeness
from diffaug.compute.progress import tracked
from diffaug.conditioning.attributes import measure_attributes
from diffaug.data.manifest import Row
from diffaug.data.records import Part, spread
from diffaug.painting.looks import features_in
from diffaug.painting.seams import ratios, region_around
from diffaug.realism.measures import Features

MOST_COMPARED = 1000  # lesions that averages are measured on; pairs of all of them take memory by the square
MOST_SEAMS = 120  # lesions of a kind


@dataclass
class Measured:
    """Numbers of some lesions, with the group of each.

    Attributes:
        values: A row for each lesion.
        groups: The group of each.
    """

    values: list[Sequence[float]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def add(self, values: Sequence[float], group: str) -> None:
        """Take one lesion."""
        self.values.append(values)
        self.groups.append(group)


class Likenesses(Sequence[Likeness]):
    """How like each of many lesions is to the training lesions: 24 bytes a lesion."""

    def __init__(self) -> None:
        self._distances, self._correlations, self._nearest = array("d"), array("d"), array("q")

    def add(self, one: Likeness) -> None:
        """Take one lesion."""
        self._distances.append(one.distance)
        self._correlations.append(one.correlation)
        self._nearest.append(one.nearest)

    def __len__(self) -> int:
        return len(self._nearest)

    @overload
    def __getitem__(self, key: int) -> Likeness: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Likeness]: ...
    def __getitem__(self, key: int | slice) -> Likeness | Sequence[Likeness]:
        if isinstance(key, slice):
            return [self[place] for place in range(len(self))[key]]
        return Likeness(self._distances[key], self._correlations[key], self._nearest[key])

    def __iter__(self) -> Iterator[Likeness]:
        return map(Likeness, self._distances, self._correlations, self._nearest)


@dataclass(frozen=True, eq=False)
class Painted:
    """What is kept of the painted lesions of a set.

    Attributes:
        lesions: Where they can be read again.
        rows: The rows that have a lesion.
        groups: The group of the background of each.
        likenesses: Of each to the training lesions; none where copies are not measured.
        from_example: Whether the training lesion that each is most like is the one it was painted from.
        features: Of those that averages are measured on, (S, D).
        attributes: Of the same.
        seams: Ratios of gradients and of detail of the first MOST_SEAMS, (n, 2).
    """

    lesions: PaintedLesions
    rows: Part[Row]
    groups: Sequence[str]
    likenesses: Likenesses
    from_example: Sequence[int]
    features: Features
    attributes: Measured
    seams: Measured

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def compared(self) -> int:
        """How many lesions averages are measured on."""
        return len(self.features)

    def pixels(self, place: int) -> Found:
        """Return the lesion at a place with its pixels."""
        found = self.lesions.of(self.rows[place])
        assert found is not None  # it had one when it was looked at
        return found


def look_at_all(lesions: PaintedLesions, known: Known, limits: Limits | None, said: Callable[[str], str]) -> Painted:
    """Look at painted lesions, one after the other.

    Args:
        lesions: The lesions.
        known: The training lesions.
        limits: Beyond which a lesion is a copy; None where copies are not measured.
        said: Returns the name of a progress bar for some work.
    """
    averaged = set(spread(np.arange(len(lesions.rows)), MOST_COMPARED).tolist())
    places, groups, own = array("q"), list[str](), array("b")
    likenesses, attributes, seams, features = Likenesses(), Measured(), Measured(), list[Features]()
    work = tracked(zip(lesions.rows.numbers.tolist(), lesions.rows, strict=True), len(lesions.rows), said("painted lesions"))  # fmt: skip  # noqa: E501
    for number, (place, row) in enumerate(work):
        one = lesions.of(row)
        if one is None:
            continue
        places.append(place)
        groups.append(one.group)
        row_features = features_in(one.image, one.mask) if limits or number in averaged else None
        if limits and row_features is not None:
            like = likeness(one, row_features, known)
            likenesses.add(like)
            own.append(known.lesions[like.nearest].case == one.example)
        if number in averaged and row_features is not None:
            features.append(row_features)
            attributes.add(list(asdict(measure_attributes(one.image, one.mask)).values()), one.group)
        if len(seams.values) < MOST_SEAMS:
            seams.add(ratios(one.image, one.mask, region_around(one.mask)), one.group)
    stacked = np.stack(features) if features else np.zeros((0, 1))
    return Painted(lesions, lesions.rows.only(places), groups, likenesses, own, stacked, attributes, seams)
