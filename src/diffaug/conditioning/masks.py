"""The mask bank: shapes of annotated training lesions, drawn again under random similarity and elastic transforms.

Knows masks only; where a shape may lie on a background is decided in placement.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from diffaug.conditioning.attributes import bounding_box, equivalent_diameter, signed_distance
from diffaug.data.case import Case
from diffaug.data.images import Label, Mask
from diffaug.data.lesions import LEAST_PIXELS, Lesion, components, largest_part
from diffaug.data.request import MaskTransform, Request
from diffaug.errors import DataError, PlacementError

SCALES = (0.7, 1.3)  # drawn log-uniformly between these
TURN = 20.0  # degrees; light and gravity keep their directions, so a mask is turned no further to either side
ELASTIC = 0.04  # of the equivalent diameter; the deviation of an elastic transform is drawn up to it
KNOTS = 5  # of the grid of random shifts over a shape's box, a side
STRAIGHT = 0.5  # of the equivalent diameter; a longer straight side was cut by the frame or drawn in a hurry
ROUNDING = 0.08  # of the equivalent diameter; what a shape with such a side is smoothed by
DRAFT = 352  # px; longest side of the frames on which requests are drawn. Larger frames are scaled down to it

Values = TypeVar("Values", Mask, Label)


def draw_transform(rng: np.random.Generator, turn: float = TURN) -> MaskTransform:
    """Draw a scale from SCALES, an angle of up to `turn`, a flip every other time, and shifts of up to ELASTIC."""
    scale, angle = float(np.exp(rng.uniform(*np.log(SCALES)))), float(rng.uniform(-1, 1)) * turn
    flip, elastic = bool(rng.random() < 0.5), float(rng.uniform(0.0, ELASTIC))
    return MaskTransform(round(scale, 4), round(angle, 2), flip, round(elastic, 4), int(rng.integers(2**31)))


def draft_size(frame: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the draft of a frame: its longest side is at most DRAFT px."""
    scale = min(1.0, DRAFT / max(frame))
    return max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))


def drafted(mask: Mask, size: tuple[int, int], covered: float = 0.5) -> Mask:
    """Scale a mask that is not empty down to a draft.

    Args:
        mask: Shape (H, W).
        size: Height and width of the draft.
        covered: Share of a pixel of the draft that the mask must cover. A mask that covers none of them so far keeps
            those that it covers most.
    """
    if mask.shape == size:
        return mask
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BOX)
    values = np.asarray(soft)
    return np.asarray(values >= max(1, min(round(255 * covered), int(values.max()))))


@dataclass(frozen=True, eq=False)
class MaskEntry(Lesion):
    """One lesion of an annotated mask.

    Attributes:
        case: Id of the case.
        component: The lesions of a case are numbered from 0, the largest first.
        label: Class values of the crop, (h, w), 0 outside the lesion; None where the data set declares no classes.
        at_edge: Whether it keeps a side that the edge of its frame cut.
    """

    case: str
    component: int
    label: Label | None = field(default=None, repr=False)
    at_edge: bool = False

    @cached_property
    def is_cut(self) -> bool:
        """Whether a side is straight, as the frame's edge or its black corner leaves it."""
        return longest_side(self.crop) > STRAIGHT * equivalent_diameter(float(self.area))

    @cached_property
    def shape(self) -> Mask:
        """The crop, with rounded corners if it is cut and does not lie at an edge."""
        return self._rounded[0]

    @property
    def corner(self) -> tuple[int, int]:
        """Top and left of the shape in its frame, px."""
        return self.top + self._rounded[1][0], self.left + self._rounded[1][1]

    @cached_property
    def _rounded(self) -> tuple[Mask, tuple[int, int]]:
        return rounded(self.crop) if self.is_cut and not self.at_edge else (self.crop, (0, 0))

    @cached_property
    def cut(self) -> "MaskEntry":
        """The lesion as it lies at an edge."""
        return replace(self, at_edge=True)

    @cached_property
    def draft(self) -> "MaskEntry":
        """The lesion in the draft of its frame, of one class; itself where the frame is no larger."""
        size = draft_size(self.frame)
        if size == self.frame:
            return self
        small = drafted(self.in_frame(), size)
        top, left, bottom, right = bounding_box(small)
        crop = small[top:bottom, left:right]
        return MaskEntry(crop, top, left, size, self.case, self.component, at_edge=self.at_edge)

    @cached_property
    def depth(self) -> NDArray[np.float32]:
        """The signed distance to the outline of the shape, px, padded as far as any elastic transform that is drawn."""
        return signed_distance(np.pad(self.shape, _padding(self.shape, ELASTIC)))

    @property
    def values(self) -> Label:
        """Class values of the crop, (h, w), 0 outside the lesion; 1 inside where no classes are declared."""
        return self.crop.astype(np.uint8) if self.label is None else self.label


@dataclass(frozen=True)
class MaskBank:
    """Every lesion of every annotated training mask.

    Attributes:
        entries: The lesions.
        turn: Degrees that a mask is turned by, at most, to either side.
    """

    entries: tuple[MaskEntry, ...]
    turn: float = TURN

    @classmethod
    def from_cases(cls, cases: Sequence[Case], turn: float = TURN) -> "MaskBank":
        """Read the masks of annotated training cases, which are turned by at most so many degrees.

        Raises:
            DataError: A case is of val or test, or has no mask.
            PlacementError: No mask has a lesion, see `data.lesions`.
        """
        ordered = sorted(cases, key=lambda case: case.id)
        entries = tuple(entry for case in ordered for entry in entries_of(check_train(case), case.read_label()))
        if not entries:
            raise PlacementError(
                f"a mask bank needs a lesion of {LEAST_PIXELS} px or more: none of {len(ordered)} training masks has "
                "one; annotate more cases"
            )
        return cls(entries, turn)

    def entry(self, case: str, component: int) -> MaskEntry:
        """Return one lesion of one case.

        Raises:
            DataError: The bank has no such lesion.
        """
        lesions = self.components(case)
        if not 0 <= component < len(lesions):
            raise DataError(
                f"the mask of a request must be in the bank: lesion {component} of case {case!r} is not; "
                "use the data set that the requests were drawn from"
            )
        return lesions[component]

    def entry_of(self, request: Request) -> MaskEntry:
        """Return the lesion whose outline a request has, as it lies there."""
        lesion = self.entry(request.mask_case, request.component)
        return lesion.cut if request.transform.at_edge else lesion

    def components(self, case: str) -> tuple[MaskEntry, ...]:
        """Return the lesions of one case, the largest first; none if the bank does not know it."""
        return self._by_case.get(case, ())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The ids of the cases, sorted."""
        return tuple(self._by_case)

    def draw(
        self, rng: np.random.Generator, weights: NDArray[np.float64] | None = None
    ) -> tuple[MaskEntry, MaskTransform]:
        """Draw a case, one of its lesions, and a transform: a frame of ten lesions counts no more than others.

        Args:
            rng: Decides.
            weights: Of the cases, in the order of `names`; None for equal ones.
        """
        sums = np.cumsum(np.ones(len(self.names)) if weights is None else weights)
        lesions = self._by_case[self.names[int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))]]
        return lesions[int(rng.integers(len(lesions)))], draw_transform(rng, self.turn)

    @cached_property
    def _by_case(self) -> dict[str, tuple[MaskEntry, ...]]:
        grouped: dict[str, tuple[MaskEntry, ...]] = {}
        for entry in self.entries:
            grouped[entry.case] = (*grouped.get(entry.case, ()), entry)
        return grouped


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
    """Yield the lesions of a mask or label, the largest first.

    A lesion is connected over all classes: a cup lies in the lesion of its disc.
    """
    for component, lesion in enumerate(components(label > 0)):
        values = np.asarray(label[lesion.slices] * lesion.crop, dtype=np.uint8) if case.classes else None
        yield MaskEntry(lesion.crop, lesion.top, lesion.left, lesion.frame, case.id, component, values)


def render(entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int]) -> Mask:
    """Return an entry's shape, transformed, as a tight crop for a frame of another size.

    The signed distance to the boundary is resampled and cut at zero, or, after an elastic transform, at the level that
    keeps the area: edges stay smooth when scaled up, and the area follows scale squared. The identity returns the
    entry's shape itself.

    Args:
        entry: The shape and the frame it comes from.
        transform: Elastic shifts, flip, angle and relative scale.
        frame: Height and width of the background, px.

    Returns:
        Shape (h, w), never empty; one component.

    Source: elastic shifts as Simard et al. 2003 (doi:10.1109/ICDAR.2003.1227801), on a coarse grid of knots.
    """
    return rendered(entry, transform, frame)[0]


def render_label(entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int]) -> Label:
    """Return the label values of `render`, shape (h, w), 0 outside it: the classes of a mask move together.

    Every pixel takes the value whose own part of the entry, moved alike, reaches deepest there; so values fill the
    shape, and classes that nest stay nested. An entry of one class has the value 1.
    """
    shape, movement = rendered(entry, transform, frame)
    if entry.label is None:
        return shape.astype(np.uint8)
    label = _label_of_shape(entry)[:, ::-1] if transform.flip else _label_of_shape(entry)
    if movement.is_still:
        return np.ascontiguousarray(label)
    values = [int(value) for value in np.unique(label[label > 0])]
    parts = (signed_distance(np.pad(label == value, movement.pad)) for value in values)
    depths = [movement.moved(part)[movement.crop_of(shape)] for part in parts]
    return np.asarray(np.array(values, dtype=np.uint8)[np.argmax(depths, axis=0)] * shape)


@dataclass(frozen=True, eq=False)
class Movement:
    """How a shape was transformed: where each pixel of the result comes from.

    Attributes:
        backward: Matrix from positions in the canvas of the result to those in the padded shape, (2, 2).
        offset: What is added to that, px.
        size: Height and width of the canvas, px.
        pad: Px around the shape before it is moved.
        shifts: Elastic shifts at each pixel of the padded shape, (2, h, w), px; None for none.
        corner: Top and left of the result's crop in the canvas.
        is_still: Whether nothing moves but for a flip.
    """

    backward: NDArray[np.float64]
    offset: NDArray[np.float64]
    size: tuple[int, int]
    pad: int = 0
    shifts: NDArray[np.float64] | None = None
    corner: tuple[int, int] = (0, 0)
    is_still: bool = False

    def moved(self, distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a signed distance, px of the padded shape, moved onto the canvas of the result."""
        outside = float(distance.min())
        if self.shifts is not None:
            distance = ndimage.map_coordinates(
                distance, np.indices(distance.shape) + self.shifts, order=1, cval=outside
            )
        return _sampled(distance, self.backward, self.offset, self.size, outside)

    def crop_of(self, shape: Mask) -> tuple[slice, slice]:
        """Return the rows and columns of the canvas that the result, a tight crop, takes."""
        (top, left), (height, width) = self.corner, shape.shape
        return slice(top, top + height), slice(left, left + width)

    def origins(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where points of the result come from in the shape, both (2, ...), px; (0, 0) is the first pixel.

        Beyond the shape's padding, elastic shifts are those of the nearest pixel.
        """
        corner, flat = np.array(self.corner, dtype=np.float64), points.reshape(2, -1)
        found = self.backward @ (flat + corner[:, None]) + self.offset[:, None]
        if self.shifts is not None:
            shifts = [ndimage.map_coordinates(shift, found, order=1, mode="nearest") for shift in self.shifts]
            found = found + np.stack(shifts)
        return np.asarray(found - self.pad).reshape(points.shape)


@lru_cache(maxsize=4)  # a lesion is rendered for its mask, and again for what it shows
def rendered(entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int]) -> tuple[Mask, Movement]:
    """Return the transformed shape, see `render`, and how it was moved after its flip."""
    shape = entry.shape[:, ::-1] if transform.flip else entry.shape
    scale = transform.scale * float(np.sqrt(frame[0] * frame[1] / (entry.frame[0] * entry.frame[1])))
    if abs(scale - 1.0) < 1e-6 and transform.angle % 360.0 == 0.0 and transform.elastic == 0.0:
        return np.ascontiguousarray(shape), Movement(np.eye(2), np.zeros(2), _size_of(shape), is_still=True)
    area = int(np.count_nonzero(shape))
    reach, pad = transform.elastic * equivalent_diameter(area), _padding(shape, transform.elastic)  # px of the shape
    height, width = (side + 2 * pad for side in shape.shape)
    forward = scale * rotation(transform.angle)
    corners = forward @ np.array([[height, height, -height, -height], [width, -width, width, -width]]) / 2
    size = np.ceil(np.abs(corners).max(axis=1) * 2).astype(int) + 1
    backward = np.asarray(np.linalg.inv(forward), dtype=np.float64)
    offset = (np.array([height, width]) - 1) / 2 - backward @ (size - 1) / 2
    shifts = reach * _shifts((height, width), transform.warp) if reach else None
    movement = Movement(backward, offset, (int(size[0]), int(size[1])), pad, shifts)
    depth, level = movement.moved(_depth_of(entry, transform.flip, pad)), 0.0
    if reach:
        wanted = min(max(1, round(scale**2 * area)), depth.size)
        level = float(np.partition(depth.ravel(), depth.size - wanted)[depth.size - wanted]) - 1e-6
    inside = depth > min(level, float(depth.max()) - 1e-6)  # a shape thinner than a pixel keeps its middle
    inside = _largest(inside) if reach else inside
    top, left, bottom, right = bounding_box(inside)
    return np.asarray(inside[top:bottom, left:right], dtype=bool), replace(movement, corner=(top, left))


def origin_points(
    entry: MaskEntry, transform: MaskTransform, frame: tuple[int, int], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where points come from in an entry's own frame when its shape is transformed, both (2, ...), px.

    Args:
        entry: The shape.
        transform: As for `render`.
        frame: Height and width of the background, px.
        points: Rows and columns from the first pixel of the transformed shape's crop.
    """
    found = rendered(entry, transform, frame)[1].origins(points)
    columns = entry.shape.shape[1] - 1 - found[1] if transform.flip else found[1]
    return np.stack([found[0] + entry.corner[0], columns + entry.corner[1]])


def _size_of(shape: Mask) -> tuple[int, int]:
    return int(shape.shape[0]), int(shape.shape[1])


def _padding(shape: Mask, elastic: float) -> int:
    """Return the px around a shape that an elastic transform may need."""
    return 2 + int(np.ceil(3 * elastic * equivalent_diameter(int(np.count_nonzero(shape)))))


def _depth_of(entry: MaskEntry, flip: bool, pad: int) -> NDArray[np.float32]:
    """Return the signed distance to the outline of an entry's shape, flipped or not, padded by so many px."""
    spare = _padding(entry.shape, ELASTIC) - pad
    if max(entry.frame) > DRAFT or spare < 0:  # of larger frames each is rendered once or twice, and takes memory
        distance = signed_distance(np.pad(entry.shape, pad))
    else:
        height, width = entry.depth.shape
        distance = entry.depth[spare : height - spare, spare : width - spare]
    return distance[:, ::-1] if flip else distance


@lru_cache(maxsize=1024)
def _spline(count: int) -> NDArray[np.float64]:
    """Return the cubic spline of each of KNOTS knots at so many points, (count, KNOTS)."""
    knots = make_interp_spline(np.arange(KNOTS), np.eye(KNOTS), k=3)
    return np.asarray(knots(np.linspace(0, KNOTS - 1, count)), dtype=np.float64)


def _shifts(box: tuple[int, int], seed: int) -> NDArray[np.float64]:
    """Return smooth random shifts of unit deviation at each pixel of a box, (2, h, w): a cubic spline of its knots."""
    knots = np.random.default_rng(seed).standard_normal((2, KNOTS, KNOTS))
    return np.asarray(_spline(box[0]) @ knots @ _spline(box[1]).T)


def _sampled(
    values: NDArray[np.float32],
    backward: NDArray[np.float64],
    offset: NDArray[np.float64],
    size: tuple[int, int],
    outside: float,
) -> NDArray[np.float32]:
    """Return values under an affine transform, by bilinear interpolation: output p shows values at backward p + offset.

    Pillow does it in a fifth of SciPy's time. Its pixel centres lie at halves, and it gives 0 outside.
    """
    (ar, br), (ac, bc) = backward
    row, column = offset + 0.5 - backward @ np.array([0.5, 0.5])
    picture = Image.fromarray(np.asarray(values - outside, dtype=np.float32))
    turned = picture.transform(
        size[::-1], Image.Transform.AFFINE, (bc, ac, column, br, ar, row), Image.Resampling.BILINEAR
    )
    return np.asarray(turned, dtype=np.float32) + np.float32(outside)


def _largest(mask: Mask) -> Mask:
    """Return the largest part of a mask without holes, (H, W)."""
    outer, _ = ndimage.label(np.pad(~largest_part(mask), 1, constant_values=True))
    return np.asarray(outer != outer[0, 0])[1:-1, 1:-1]


def _label_of_shape(entry: MaskEntry) -> Label:
    """Return an entry's values on its `shape`; where corners were rounded, pixels take the nearest value."""
    label = entry.values
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


def rounded(crop: Mask) -> tuple[Mask, tuple[int, int]]:
    """Round off the corners that the edge of a frame cut into a shape; return it, and its top and left in the crop."""
    sigma = ROUNDING * equivalent_diameter(float(np.count_nonzero(crop)))
    pad = int(np.ceil(2 * sigma)) + 1
    inside = ndimage.gaussian_filter(np.pad(crop, pad).astype(np.float32), sigma) > 0.5
    if not inside.any():
        return crop, (0, 0)
    inside = _largest(inside)
    top, left, bottom, right = bounding_box(inside)
    return inside[top:bottom, left:right], (top - pad, left - pad)


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the rotation of (row, column) vectors that turns a picture counter-clockwise."""
    radians = np.deg2rad(angle)
    return np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
