"""The mask bank: shapes of annotated training lesions, drawn again under random similarity transforms.

Knows masks only; where a shape may lie on a background is decided in placement.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.conditioning.attributes import bounding_box, equivalent_diameter, signed_distance
from diffaug.data.case import Case, Label, Mask
from diffaug.errors import DataError, PlacementError

MIN_SHARE = 0.0005  # of the frame; smaller components are specks of compression or annotation
MIN_PIXELS = 9
SCALES = (0.7, 1.3)  # drawn log-uniformly between these
STRAIGHT = 0.5  # of the equivalent diameter; a longer straight side was cut by the frame or drawn in a hurry
ROUNDING = 0.08  # of the equivalent diameter; what a shape with such a side is smoothed by
EIGHT = np.ones((3, 3), dtype=bool)  # corners connect

Values = TypeVar("Values", Mask, Label)


@dataclass(frozen=True)
class MaskTransform:
    """A similarity transform: flip left-right, then rotate, then scale.

    `scale` is relative to the frame: 1 keeps the lesion's share of the frame's area, whatever the frame's size.
    """

    scale: float = 1.0
    angle: float = 0.0  # degrees, counter-clockwise
    flip: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def transform_from_dict(values: dict[str, Any]) -> MaskTransform:
    """Return the transform that `as_dict` wrote."""
    return MaskTransform(float(values["scale"]), float(values["angle"]), bool(values["flip"]))


def draw_transform(rng: np.random.Generator) -> MaskTransform:
    """Draw a scale from SCALES, any angle, and a flip every other time."""
    scale = float(np.exp(rng.uniform(*np.log(SCALES))))
    return MaskTransform(round(scale, 4), round(float(rng.uniform(0.0, 360.0)), 2), bool(rng.random() < 0.5))


@dataclass(frozen=True)
class MaskEntry:
    """One component of an annotated lesion mask: a tight crop and where it lay in its frame."""

    case: str
    component: int  # components of a case are numbered from 0, the largest first
    crop: Mask = field(repr=False)
    top: int
    left: int
    frame: tuple[int, int]  # height, width of the case
    label: Label | None = field(default=None, repr=False)  # values of the crop's classes, (h, w); None where it has one

    @property
    def relative_area(self) -> float:
        """Return the component's share of its frame."""
        return float(np.count_nonzero(self.crop)) / (self.frame[0] * self.frame[1])

    @cached_property
    def is_cut(self) -> bool:
        """Say whether a side is straight, as the frame's edge or its black corner leaves it."""
        return longest_side(self.crop) > STRAIGHT * equivalent_diameter(float(np.count_nonzero(self.crop)))

    @cached_property
    def shape(self) -> Mask:
        """Return the crop, with rounded corners if it is cut."""
        return rounded(self.crop) if self.is_cut else self.crop

    def in_frame(self) -> Mask:
        """Return the component at its place, shape (H, W) of its frame."""
        return paste(self.crop, self.top, self.left, self.frame)


@dataclass(frozen=True)
class MaskBank:
    """Every component of every annotated training mask."""

    entries: tuple[MaskEntry, ...]

    @classmethod
    def from_cases(cls, cases: Sequence[Case]) -> "MaskBank":
        """Read the masks of annotated training cases.

        Raises:
            DataError: A case is of val or test, or has no mask.
            PlacementError: No mask has a component of `MIN_PIXELS`.
        """
        ordered = sorted(cases, key=lambda case: case.id)
        entries = tuple(entry for case in ordered for entry in entries_of(check_train(case), case.read_label()))
        if not entries:
            raise PlacementError(
                f"a mask bank needs a lesion of {MIN_PIXELS} px or more: none of {len(ordered)} training masks has "
                "one; annotate more cases"
            )
        return cls(entries)

    def entry(self, case: str, component: int) -> MaskEntry:
        """Return one component of one case.

        Raises:
            DataError: The bank has no such component.
        """
        found = self._by_name.get((case, component))
        if found is None:
            raise DataError(
                f"a request's mask must be in the bank: component {component} of case {case!r} is not; "
                "use the data set that the requests were drawn from"
            )
        return found

    def components(self, case: str) -> tuple[MaskEntry, ...]:
        """Return the components of one case, the largest first; none if the bank does not know it."""
        return self._by_case.get(case, ())

    def draw(self, rng: np.random.Generator) -> tuple[MaskEntry, MaskTransform]:
        """Draw a component and a transform."""
        return self.entries[int(rng.integers(len(self.entries)))], draw_transform(rng)

    @cached_property
    def _by_name(self) -> dict[tuple[str, int], MaskEntry]:
        return {(entry.case, entry.component): entry for entry in self.entries}

    @cached_property
    def _by_case(self) -> dict[str, tuple[MaskEntry, ...]]:
        found: dict[str, tuple[MaskEntry, ...]] = {}
        for entry in self.entries:
            found[entry.case] = (*found.get(entry.case, ()), entry)
        return found


def check_train(case: Case) -> Case:
    """Return a case that may shape what is painted.

    Raises:
        DataError: The case is of val or test.
    """
    if case.split in ("val", "test"):
        raise DataError(
            f"masks and backgrounds come from training cases only: case {case.id} is of {case.split}; "
            "pass the train split"
        )
    return case


def entries_of(case: Case, label: Mask | Label) -> Iterator[MaskEntry]:
    """Yield the components of a mask or label, the largest first; of specks only the largest, if nothing else is there.

    A component is connected over all classes: a cup lies in the component of its disc.
    """
    mask = label > 0
    frame = (int(mask.shape[0]), int(mask.shape[1]))
    labels, count = ndimage.label(mask, structure=EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    least = max(MIN_PIXELS, MIN_SHARE * mask.size)
    if count and areas.max() < least:
        least = max(MIN_PIXELS, int(areas.max()))
    order = [int(index) for index in np.argsort(-areas, kind="stable") if areas[index] >= least]
    boxes = ndimage.find_objects(labels)
    for component, index in enumerate(order):
        rows, columns = boxes[index]
        crop = labels[rows, columns] == index + 1
        values = label[rows, columns] * crop if case.classes else None
        yield MaskEntry(case.id, component, crop, int(rows.start), int(columns.start), frame, values)


def render(entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int]) -> Mask:
    """Return an entry's shape, transformed, as a tight crop for a frame of another size.

    The signed distance to the boundary is resampled and cut at zero: edges stay smooth when scaled up, and the area
    follows scale squared. The identity returns the entry's shape itself.

    Args:
        entry: The shape and the frame it comes from.
        transform: Flip, angle and relative scale.
        frame: Height and width of the background, px.

    Returns:
        Shape (h, w), never empty.
    """
    shape = entry.shape[:, ::-1] if transform.flip else entry.shape
    forward = _forward(entry, transform, frame)
    if forward is None:
        return np.ascontiguousarray(shape)
    moved = _moved(signed_distance(np.pad(shape, 2)), forward)
    found = moved > min(0.0, float(moved.max()) - 1e-6)  # a shape thinner than a pixel keeps its middle
    top, left, bottom, right = bounding_box(found)
    return np.asarray(found[top:bottom, left:right], dtype=bool)


def render_label(entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int]) -> Label:
    """Return the label values of `render`, shape (h, w), 0 outside it: the classes of a mask move together.

    Every pixel takes the value whose own part of the entry, moved alike, reaches deepest there; so values fill the
    shape, and classes that nest stay nested. An entry of one class has the value 1.
    """
    shape = render(entry, transform, frame)
    if entry.label is None:
        return shape.astype(np.uint8)
    own = _label_of_shape(entry)[:, ::-1] if transform.flip else _label_of_shape(entry)
    values = [int(value) for value in np.unique(own[own > 0])]
    forward = _forward(entry, transform, frame)
    if forward is None:
        return np.ascontiguousarray(own)
    whole = _moved(signed_distance(np.pad(own > 0, 2)), forward)
    top, left, bottom, right = bounding_box(whole > min(0.0, float(whole.max()) - 1e-6))
    depths = [_moved(signed_distance(np.pad(own == value, 2)), forward)[top:bottom, left:right] for value in values]
    return np.asarray(np.array(values, dtype=np.uint8)[np.argmax(depths, axis=0)] * shape)


def label_of_entry(entry: MaskEntry) -> Label:
    """Return the values of an entry's crop, (h, w), 0 outside the component; 1 where no classes are declared."""
    return entry.crop.astype(np.uint8) if entry.label is None else entry.label


def _label_of_shape(entry: MaskEntry) -> Label:
    """Return an entry's values on its `shape`; where corners were rounded, pixels take the nearest value."""
    label = label_of_entry(entry)
    if entry.shape.shape == label.shape and np.array_equal(entry.shape, label > 0):
        return label
    pad = max(entry.shape.shape)
    wide = np.pad(label, pad)
    row, column = ndimage.center_of_mass(wide > 0)
    inner = ndimage.center_of_mass(entry.shape)
    top, left = round(row - inner[0]), round(column - inner[1])
    rows, columns = ndimage.distance_transform_edt(wide == 0, return_distances=False, return_indices=True)
    nearest = wide[rows, columns][top : top + entry.shape.shape[0], left : left + entry.shape.shape[1]]
    return np.asarray(nearest * entry.shape, dtype=np.uint8)


def _forward(entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return the map of (row, column) offsets in px, after the flip; None where nothing is resampled."""
    scale = transform.scale * float(np.sqrt(frame[0] * frame[1] / (entry.frame[0] * entry.frame[1])))
    if abs(scale - 1.0) < 1e-6 and transform.angle % 360.0 == 0.0:
        return None
    return scale * _rotation(transform.angle)


def _moved(distance: NDArray[np.float32], forward: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a signed distance under a linear map about its centre, on a grid that holds all of it."""
    height, width = distance.shape
    corners = forward @ np.array([[height, height, -height, -height], [width, -width, width, -width]]) / 2
    size = np.ceil(np.abs(corners).max(axis=1) * 2).astype(int) + 1
    backward = np.linalg.inv(forward)
    offset = (np.array(distance.shape) - 1) / 2 - backward @ (size - 1) / 2
    moved: NDArray[np.float32] = ndimage.affine_transform(
        distance, backward, offset, tuple(size), order=1, cval=float(distance.min())
    )
    return moved


def paste(crop: Values, top: int, left: int, frame: tuple[int, int]) -> Values:
    """Return a mask or label of a frame's size with the crop at (top, left); what lies outside is cut off."""
    mask = np.zeros(frame, dtype=crop.dtype)
    rows, columns = slice(max(0, top), max(0, top + crop.shape[0])), slice(max(0, left), max(0, left + crop.shape[1]))
    target = mask[rows, columns]
    first_row, first_column = max(0, -top), max(0, -left)
    target |= crop[first_row : first_row + target.shape[0], first_column : first_column + target.shape[1]]
    return mask


def longest_side(crop: Mask) -> float:
    """Return the length in px of the longest straight piece of a shape's outline, within 1 % of its diameter."""
    from skimage.measure import approximate_polygon, find_contours

    tolerance = max(0.7, 0.01 * equivalent_diameter(float(np.count_nonzero(crop))))
    outline = max(find_contours(np.pad(crop, 1).astype(np.float32), 0.5), key=len)
    sides = np.diff(approximate_polygon(outline, tolerance), axis=0)
    return float(np.hypot(sides[:, 0], sides[:, 1]).max())


def rounded(crop: Mask) -> Mask:
    """Round off the corners that the edge of a frame cut into a shape."""
    sigma = ROUNDING * equivalent_diameter(float(np.count_nonzero(crop)))
    pad = int(np.ceil(2 * sigma)) + 1
    soft = ndimage.gaussian_filter(np.pad(crop, pad).astype(np.float32), sigma)
    labels, count = ndimage.label(soft > 0.5, structure=EIGHT)
    if count == 0:
        return crop
    found = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    top, left, bottom, right = bounding_box(found)
    return np.asarray(found[top:bottom, left:right], dtype=bool)


def _rotation(angle: float) -> NDArray[np.float64]:
    """Return the rotation of (row, column) vectors that turns a picture counter-clockwise."""
    radians = np.deg2rad(angle)
    return np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
