"""Outlines of lesions, polygons or run lengths, drawn into masks; and values that stand for classes that overlap."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.case import LabelClass
from diffaug.data.sources.layout import Values
from diffaug.errors import DataError

TOLERANCE = 1.0  # px by which a corner may lie outside the image: tools that label round to the pixel
FEWEST = 3  # corners
Members = tuple[str, ...]  # the classes that a pixel belongs to, in order


@dataclass(frozen=True)
class Shape:
    """One lesion.

    Attributes:
        name: Its class.
        polygons: Each a row of x, y, x, y, .. in px; or run lengths as COCO has them.
        where: What an error calls it.
    """

    name: str
    polygons: tuple[tuple[float, ...], ...] | Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Outlines:
    """The shapes of an image, and the value of each set of classes that a pixel can belong to."""

    shapes: tuple[Shape, ...]
    height: int
    width: int
    where: str
    codes: Mapping[Members, int]

    def __str__(self) -> str:
        return self.where

    def read(self) -> Values:
        """Return the value of each pixel, shape (H, W)."""
        layers = self.layers()
        values = np.zeros((self.height, self.width), np.int64)
        for members, code in self.codes.items():
            inside = np.ones(values.shape, bool)
            for name, layer in layers.items():
                inside &= layer if name in members else ~layer
            if set(members) <= set(layers):
                values[inside] = code
        return values

    def layers(self) -> dict[str, NDArray[np.bool_]]:
        """Return the mask of each class that the image has."""
        layers: dict[str, NDArray[np.bool_]] = {}
        for shape in self.shapes:
            drawn = draw(shape, self.height, self.width)
            layers[shape.name] = layers.get(shape.name, False) | drawn
        return layers

    def sets(self) -> set[Members]:
        """Return the sets of classes that pixels belong to."""
        layers = self.layers()
        names = list(layers)
        if not names:
            return set()
        rows = np.stack([layer.ravel() for layer in layers.values()], axis=1)
        return {tuple(n for n, there in zip(names, row, strict=True) if there) for row in np.unique(rows, axis=0)} - {
            ()
        }


def draw(shape: Shape, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask of one shape, shape (H, W).

    Raises:
        DataError: A polygon has no area or leaves the image, or the run lengths do not fit it.
    """
    from pycocotools import mask as coco

    if isinstance(shape.polygons, Mapping):
        return _draw_runs(shape, height, width)
    for polygon in shape.polygons:
        _check_polygon(polygon, shape, height, width)
    parts = coco.frPyObjects([list(polygon) for polygon in shape.polygons], height, width)
    return np.asarray(coco.decode(coco.merge(parts)), dtype=bool)


def _draw_runs(shape: Shape, height: int, width: int) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    runs = dict(shape.polygons) if isinstance(shape.polygons, Mapping) else {}
    size = runs.get("size")
    if size != [height, width]:
        raise DataError(
            f"run lengths have the size of their image, {[height, width]}: {shape.where} has {size}; export it again"
        )
    try:
        if isinstance(runs.get("counts"), list):
            if sum(runs["counts"]) != height * width:
                raise ValueError(f"they cover {sum(runs['counts'])} of {height * width} pixels")
            runs = coco.frPyObjects(runs, height, width)
        return np.asarray(coco.decode(runs), dtype=bool)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"run lengths must be readable: {shape.where}: {error}; export it again") from None


def _check_polygon(polygon: Sequence[float], shape: Shape, height: int, width: int) -> None:
    if len(polygon) % 2 or len(polygon) < 2 * FEWEST:
        raise DataError(
            f"a polygon has at least {FEWEST} corners, x and y of each: {shape.where} has {len(polygon)} numbers; "
            "correct it or remove it"
        )
    corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(corners).all():
        raise DataError(f"corners of a polygon are numbers: {shape.where} holds others; correct it or remove it")
    outside = (corners < -TOLERANCE) | (corners > np.array([width, height]) + TOLERANCE)
    if outside.any():
        x, y = corners[outside.any(axis=1)][0]
        raise DataError(
            f"a polygon lies inside its image of {width} x {height}: {shape.where} has a corner at {x:g}, {y:g}; "
            "correct it, or check that the annotations belong to images of this size"
        )


def coded(outlines: Iterable[Outlines], names: Sequence[str]) -> tuple[list[Outlines], tuple[LabelClass, ...]]:
    """Give each set of classes that occurs a value, and return the outlines with them and the classes.

    A pixel of two classes, such as a cup inside a disc, keeps both: `{"disc": [1, 2], "cup": [2]}`.

    Args:
        outlines: The shapes of all images.
        names: The classes in order; those that no shape has are left out.

    Raises:
        DataError: There are more than 255 sets.
    """
    drawn = list(outlines)
    order = {name: number for number, name in enumerate(names)}
    found: set[Members] = set()
    for one in drawn:
        present = {shape.name for shape in one.shapes}
        found |= {tuple(present)} if len(present) == 1 else one.sets()
    found = {tuple(sorted(members, key=lambda name: order[name])) for members in found}
    ranked = sorted(found, key=lambda members: (len(members), [order[name] for name in members]))
    if len(ranked) > 255:
        raise DataError(
            f"a data set has at most 255 sets of overlapping classes: here are {len(ranked)}; merge classes"
        )
    codes = {members: number for number, members in enumerate(ranked, start=1)}
    used = [name for name in names if any(name in members for members in ranked)]
    classes = [LabelClass(name, tuple(code for members, code in codes.items() if name in members)) for name in used]
    outer_first = sorted(classes, key=lambda each: -len(each.values))
    return [replace(one, codes=codes) for one in drawn], tuple(outer_first)
