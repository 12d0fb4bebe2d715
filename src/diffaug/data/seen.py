"""Which images a model has seen, as sketches that are small enough to ship: 64 bytes an image.

A model folder and a synthetic set hold the list as SEEN_FILE. A fitted model takes over the list of its base, so that a
study can find the test images that any of them has seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffaug.artifacts import atomic_path
from diffaug.data.duplicates import THUMBNAIL, fingerprint
from diffaug.data.images import Pixels
from diffaug.errors import DataError
from diffaug.reading import read_arrays

SEEN_FILE = "seen_images.npz"
SKETCH = 64  # cosine coefficients of a fingerprint, the lowest ones
SAME_SKETCH = 0.93  # Kvasir-SEG, 900 images: three true pairs at 0.987 and above, the next pair at 0.860

Sketches = NDArray[np.int8]  # (n, SKETCH)
_ALL = np.indices((THUMBNAIL, THUMBNAIL)).reshape(2, -1)
_DOWN, _ACROSS = _ALL[:, np.lexsort((_ALL[0], _ALL.sum(0)))[:SKETCH]]  # frequencies of the coefficients
# A mirrored image has the same coefficients, those of odd frequency with the other sign.
_MIRRORS = tuple(np.where(axes % 2, -1, 1).astype(np.int8) for axes in (0 * _DOWN, _DOWN, _ACROSS, _DOWN + _ACROSS))


def sketches_of(images: Iterable[Pixels]) -> Sketches:
    """Return a sketch of each image: the lowest cosine coefficients of its fingerprint; zeros where it is flat."""
    from scipy.fft import dctn

    sketches = []
    for pixels in images:
        structure = fingerprint(pixels).structure.reshape(THUMBNAIL, THUMBNAIL)
        values = dctn(structure, norm="ortho")[_DOWN, _ACROSS]
        sketches.append(np.round(values * 127 / max(1e-6, float(np.abs(values).max()))).astype(np.int8))
    return np.stack(sketches) if sketches else np.zeros((0, SKETCH), np.int8)


@dataclass(frozen=True)
class Seen:
    """The images that a model has seen.

    Attributes:
        sketches: One of each image.
        annotated: Whether each was seen with its annotation.
        own: Whether each was seen by the fit of the model itself, and not only by its base.
        complete: Whether the list has all images; a base that came without a list may have seen any.
    """

    sketches: Sketches
    annotated: NDArray[np.bool_]
    own: NDArray[np.bool_]
    complete: bool = True

    @classmethod
    def of(cls, annotated: Iterable[Pixels], others: Iterable[Pixels]) -> "Seen":
        """Return the list of the images of a fit: annotated ones and others."""
        masked, plain = sketches_of(annotated), sketches_of(others)
        flags = np.arange(len(masked) + len(plain)) < len(masked)
        return cls(np.concatenate([masked, plain]), flags, np.ones(len(flags), np.bool_))

    def then(self, fit: "Seen") -> "Seen":
        """Return the list of a model that was fitted on this base."""
        return all_of([replace(self, own=np.zeros_like(self.own)), fit])

    def by_base(self, annotated: bool) -> "Seen":
        """Return the images that a base has seen, either with annotations or without."""
        chosen = ~self.own & (self.annotated == annotated)
        return replace(self, sketches=self.sketches[chosen], annotated=self.annotated[chosen], own=self.own[chosen])

    def holds(self, sketches: Sketches) -> list[bool]:
        """Return for each sketch whether its image, or nearly the same or a mirrored image, is in the list."""
        if not len(self.sketches) or not len(sketches):
            return [False] * len(sketches)
        known = _unit(self.sketches).T
        alike: NDArray[np.float32] = np.max([np.max(_unit(sketches * signs) @ known, axis=1) for signs in _MIRRORS], 0)
        return [bool(value >= SAME_SKETCH) for value in alike]


NOTHING = Seen(np.zeros((0, SKETCH), np.int8), np.zeros(0, np.bool_), np.zeros(0, np.bool_))
UNKNOWN = replace(NOTHING, complete=False)


def _unit(sketches: Sketches) -> NDArray[np.float32]:
    values = sketches.astype(np.float32)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6), np.float32)


def write_seen(folder: Path, seen: Seen) -> None:
    """Write SEEN_FILE into a folder, atomically; the same list gives the same bytes."""
    with atomic_path(folder / SEEN_FILE) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file, sketches=seen.sketches, annotated=seen.annotated, own=seen.own, complete=np.array(seen.complete)
        )


def read_seen(folder: Path) -> Seen:
    """Read SEEN_FILE of a folder; without the file the list is `UNKNOWN`.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / SEEN_FILE
    if not path.is_file():
        return UNKNOWN
    try:
        arrays = read_arrays(path, ("sketches", "annotated", "own", "complete"))
    except DataError as error:
        raise DataError(f"{path} must be a list of seen images: {error}") from None
    sketches, annotated, own, complete = arrays.values()
    flags = annotated.shape == own.shape == sketches.shape[:1] and annotated.dtype == own.dtype == np.bool_
    if not flags or sketches.shape[1:] != (SKETCH,) or sketches.dtype != np.int8 or complete.size != 1:
        raise DataError(f"{path} must be a list of seen images: its arrays are of other shapes; fit or generate again")
    return Seen(sketches, annotated, own, bool(complete))


def all_of(lists: Sequence[Seen]) -> Seen:
    """Return the list of all images that several models have seen."""
    return Seen(
        np.concatenate([each.sketches for each in (NOTHING, *lists)]),
        np.concatenate([each.annotated for each in (NOTHING, *lists)]),
        np.concatenate([each.own for each in (NOTHING, *lists)]),
        all(each.complete for each in lists),
    )
