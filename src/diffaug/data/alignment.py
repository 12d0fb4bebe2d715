"""Whether one image shows a part of another, also mirrored, turned by quarters, lighter or darker.

Two steps. Views of each image, cut by up to a fifth of each side, are compared as sketches with all other images in the
eight orientations; that names candidates. Then the box of the best view is moved until its fine structure fits that of
the other image best, and the correlation there decides. Everything is a product of matrices, so a view costs little.

Knows grey thumbnails alone. Legend: V = 100 views, O = 8 orientations, D = 81 cosine coefficients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SIDE = 128  # px of a thumbnail
COARSE, FINE = 32, 64  # px of the structures that are sketched and that are aligned
SCALES = ((1.0, 1), (0.93, 2), (0.87, 3), (0.8, 4))  # of a side of a view, and the number of its places
LEAST = 0.7  # smallest side of an aligned box
COEFFICIENTS = 9  # of each axis of a sketch
BLUR = {COARSE: 4.0, FINE: 3.0}  # px; broader structure is light
CLIP = 1.5  # standard deviations; highlights and the edges of instruments count no more than fine structure
DARK = 0.12  # of the range of grey levels; what is darker lies outside the field of view
FLAT = 0.25  # grey levels; structure weaker than this says nothing
CANDIDATE = 0.78  # correlation of sketches
CANDIDATES = 3  # of an image that are aligned
STARTS = 6  # views of either image whose fine structure is compared; the search starts from the best
HOPELESS = (0.2, 0.35)  # correlation at the start, and after the first steps, under which no image was the same
STEPS = (0.04, 0.02, 0.01, 0.005)  # by which a box is moved, in sides
MOVES = 10  # of each step, at most
SAME_PART = 0.7  # `benchmarks/duplicates.py`: the measured recall and false alarms

Values = NDArray[np.float32]
Box = tuple[float, float, float, float]  # top, height, left, width, in sides


@dataclass(frozen=True, eq=False)
class Views:
    """What an image is compared by.

    Attributes:
        thumbnail: Grey levels, (SIDE, SIDE).
        fine: Its structure, (FINE, FINE).
        views: Sketches of its views, (V, D).
        turned: Sketches of the whole in each orientation, (O, D).
    """

    thumbnail: Values
    fine: Values
    views: Values
    turned: Values


def views_of(thumbnail: NDArray[np.uint8]) -> Views:
    """Return what a grey thumbnail, (SIDE, SIDE), is compared by."""
    grey = thumbnail.astype(np.float32)
    rows = _axis_views() @ grey  # (10, COARSE, SIDE)
    parts = np.einsum("vik,wjk->vwij", rows, _axis_views(), optimize=True).reshape(-1, COARSE, COARSE)
    structures = structures_of(parts)
    turned = np.stack([oriented(structures[0], number) for number in range(8)])
    return Views(grey, structures_of(_resampled(grey, [(0.0, 1.0, 0.0, 1.0)]))[0], _sketches(structures), _sketches(turned))  # fmt: skip  # noqa: E501


def oriented(structure: Values, number: int) -> Values:
    """Return a square in one of the eight orientations: the second four are transposed first."""
    square = structure.T if number >= 4 else structure
    square = square[::-1] if number % 2 else square
    return square[:, ::-1] if number % 4 >= 2 else square


def candidates(views: Sequence[Views], sides: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Yield pairs of images, of which one may show a part of the other, each pair once, in order.

    Args:
        views: Of each image.
        sides: A number for each image; those of one side are not compared, unless all are of side 0.
    """
    if not views:
        return
    best = _likeness(views, views)
    best = np.maximum(best, best.T)
    np.fill_diagonal(best, -1.0)
    if sides.any():
        best[sides[:, None] == sides[None, :]] = -1.0
    yield from sorted({(min(one, other), max(one, other)) for one, other in _nearest(best)})


def candidates_across(many: Sequence[Views], few: Sequence[Views]) -> Iterator[tuple[int, int]]:
    """Yield pairs of an image of one side and one of the other, of which one may show a part of the other, in order."""
    if not many or not few:
        return
    best = np.maximum(_likeness(many, few), _likeness(few, many).T)
    yield from sorted({*_nearest(best), *((one, other) for other, one in _nearest(best.T))})


def _likeness(views: Sequence[Views], others: Sequence[Views]) -> Values:
    """Return how well a view of each image fits each other one in the best orientation, (n, m)."""
    flat = np.concatenate([each.turned for each in others]).T  # (D, m O)
    return np.stack([(each.views @ flat).reshape(len(each.views), len(others), -1).max((0, 2)) for each in views])


def _nearest(best: Values) -> Iterator[tuple[int, int]]:
    """Yield each row with the columns of its greatest values, at most CANDIDATES that are likely enough."""
    for one, row in enumerate(best):
        nearest = np.argsort(-row, kind="stable")[:CANDIDATES]
        yield from ((one, int(other)) for other in nearest if row[other] >= CANDIDATE)


def aligned(one: Views, other: Views) -> float:
    """Return the correlation of the structures of two images where one, or a part of it, fits the other best.

    The search starts from one of the best views of either, and ends where SAME_PART is reached.
    """
    scores = [(a.views @ b.turned.T, a, b) for a, b in ((one, other), (other, one))]
    best = 0.0
    for found, a, b in sorted(scores, key=lambda each: -float(each[0].max())):
        likeliest = np.argsort(-found, axis=None, kind="stable")[:STARTS]
        views, numbers = np.unravel_index(likeliest, found.shape)
        boxes = [_boxes()[view] for view in views]
        turned = np.stack([oriented(b.fine, int(number)) for number in numbers])
        order = np.argsort(-_correlations(a.thumbnail, turned, boxes), kind="stable")
        for start in dict.fromkeys((int(order[0]), 0)):  # the best by fine structure, and by sketch
            best = max(best, _fitted(a.thumbnail, turned[start], boxes[start]))
            if best >= SAME_PART:
                return best
    return best


def structures_of(grey: Values) -> Values:
    """Return fine structures of N squares, (N, S, S): high-passed in the field of view, of mean 0 and norm 1.

    A structure does not depend on brightness and contrast; it is all 0 where a square is flat.
    """
    blur = _blur(grey.shape[-1])
    some = grey.reshape(len(grey), -1)[:, :: 5 if grey.shape[-1] == FINE else 3]  # in no step with the columns
    low, high = np.quantile(some, (0.01, 0.95), axis=1).astype(np.float32)[:, :, None, None]
    lit = grey >= low + DARK * (high - low)
    inside = _eroded(lit, grey.shape[-1] // COARSE).astype(np.float32)
    share = np.maximum(blur @ inside @ blur.T, 1e-3)
    values = (grey - blur @ (grey * inside) @ blur.T / share) * inside
    area = np.maximum(1.0, inside.sum((1, 2), keepdims=True))
    deviation = np.sqrt((values**2).sum((1, 2), keepdims=True) / area)
    values = np.clip(values, -CLIP * deviation, CLIP * deviation)
    values = (values - values.sum((1, 2), keepdims=True) / area) * inside
    norm = np.sqrt((values**2).sum((1, 2), keepdims=True))
    return np.asarray(np.where(deviation > FLAT, values / np.maximum(norm, 1e-6), 0.0), np.float32)


def _eroded(lit: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return the field of view without its border, which all frames of one camera share; that of the frame stays."""
    inside = lit
    for _ in range(pixels):
        padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        inside = inside & padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    return inside


def _fitted(grey: Values, structure: Values, start: Box) -> float:
    """Return the correlation of a structure with that of a box of a thumbnail, moved until it is enough."""
    box, best = np.array(start), float(_correlations(grey, structure, [start])[0])
    if best < HOPELESS[0]:
        return best
    for step in STEPS:
        for _ in range(MOVES):
            if best >= SAME_PART:
                return best
            moved = [_kept_inside(box, number, change) for number in range(4) for change in (-step, step)]
            values = _correlations(grey, structure, [tuple(each) for each in moved])
            if values.max() <= best + 1e-3:
                break
            box, best = moved[int(values.argmax())], float(values.max())
        if best < HOPELESS[1]:
            break
    return best


def _kept_inside(box: NDArray[np.float64], number: int, change: float) -> NDArray[np.float64]:
    """Return a box of which one number is changed; a side grows around its middle."""
    new = box.copy()
    new[number] += change
    if number % 2:
        new[number - 1] -= change / 2
    new[1::2] = np.clip(new[1::2], LEAST, 1.0)
    new[0::2] = np.clip(new[0::2], 0.0, 1.0 - new[1::2])
    return new


def _correlations(grey: Values, structure: Values, boxes: Sequence[Box]) -> Values:
    return np.asarray((structures_of(_resampled(grey, boxes)) * structure).sum((1, 2)))


def _resampled(grey: Values, boxes: Sequence[Box]) -> Values:
    """Return the means of a thumbnail in the cells of boxes, (N, FINE, FINE)."""
    rows, columns = (
        np.stack([_means(box[axis], box[axis + 1], FINE) for box in boxes]) for axis in (0, 2)
    )  # (N, FINE, SIDE)
    return np.asarray(rows @ grey @ columns.transpose(0, 2, 1), np.float32)


def _means(start: float, size: float, count: int) -> Values:
    """Return the matrix (count, SIDE) that takes means over `count` equal parts of an interval, in sides."""
    edges = np.linspace(start, start + size, count + 1) * SIDE
    cells = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(np.clip(covered, 0, None) * count / (size * SIDE), np.float32)


@cache
def _axis_views() -> Values:
    return np.stack([_means(start, size, COARSE) for start, size in _intervals()])


@cache
def _boxes() -> tuple[Box, ...]:
    return tuple((*one, *other) for one in _intervals() for other in _intervals())


@cache
def _intervals() -> tuple[tuple[float, float], ...]:
    return tuple((float(start), size) for size, count in SCALES for start in np.linspace(0, 1 - size, count))


@cache
def _blur(side: int) -> Values:
    """Return the matrix (side, side) that blurs an axis by a Gaussian."""
    places = np.arange(side, dtype=np.float32)
    weights = np.exp(-((places[:, None] - places[None, :]) ** 2) / (2 * BLUR[side] ** 2))
    return np.asarray(weights / (np.sqrt(2 * np.pi) * BLUR[side]), np.float32)


@cache
def _cosines() -> Values:
    """Return the lowest cosine functions, (COEFFICIENTS, COARSE), without norm."""
    places = (np.arange(COARSE) + 0.5) * np.pi / COARSE
    return np.asarray(np.cos(np.arange(COEFFICIENTS)[:, None] * places), np.float32)


def _sketches(structures: Values) -> Values:
    """Return the lowest cosine coefficients of structures, (N, D), of norm 1."""
    values = (_cosines() @ structures @ _cosines().T).reshape(len(structures), -1)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norm, 1e-6), np.float32)
