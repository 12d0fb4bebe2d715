"""Repeated frames: the same picture saved twice, recompressed, rescaled, cut, mirrored, or taken a moment later.

Knows nothing of splits and masks, only pixels.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.data.alignment import SAME_PART, SIDE, aligned, candidates, candidates_across, views_of
from diffaug.data.case import Case
from diffaug.data.images import Pixels

Item = TypeVar("Item")
THUMBNAIL = 32  # px
BLUR = 4.0  # px of the thumbnail; broader structure is light and the shape of the field of view
CLIP = 12.0  # grey levels; highlights and the edges of instruments count no more than fine structure
DARK = 16.0  # grey levels; darker pixels of the thumbnail lie outside the field of view
SAME_FRAME = 0.90  # Kvasir-SEG, 900 images: three true pairs at 0.936 and above, the next pair at 0.712
FLAT = 0.25  # grey levels; structure weaker than this says nothing
BLOCK = 512  # images compared at once; the views of each have 40 kB


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an image.

    Attributes:
        digest: Of its pixels.
        structure: Its fine structure, of length THUMBNAIL ** 2, mean 0 and norm 1, or all 0 where the image is flat.
        thumbnail: Its grey levels, (SIDE, SIDE), by which cut and mirrored copies are found.
    """

    digest: str
    structure: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]


def fingerprint(pixels: Pixels) -> Fingerprint:
    """Return the fingerprint of an image, shape (H, W, 3): its grey thumbnail, high-passed and normalised.

    Only the field of view counts, one px inside its border: all frames of one camera share that border, and with it the
    round frames of a fundus camera would look alike.
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    size = (THUMBNAIL, THUMBNAIL)
    grey = Image.fromarray(pixels).convert("L")
    larger = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0))
    thumbnail = np.asarray(grey.resize(size, Image.Resampling.BOX, reducing_gap=2.0), dtype=np.float32)
    inside = binary_erosion(thumbnail >= DARK, border_value=1)
    share = np.maximum(gaussian_filter(inside.astype(np.float32), BLUR), 1e-3)
    structure = np.clip(thumbnail - gaussian_filter(thumbnail * inside, BLUR) / share, -CLIP, CLIP) * inside
    structure = (structure - structure.sum() / max(1, inside.sum())) * inside
    norm = float(np.linalg.norm(structure))
    structure = structure / norm if norm > FLAT * THUMBNAIL else np.zeros_like(structure)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)  # a large image is not copied
    return Fingerprint(digest.hexdigest()[:16], structure.ravel().astype(np.float32), larger)


def duplicates_of_fingerprints(
    prints: Mapping[str, Fingerprint], sides: Mapping[str, int] | None = None
) -> list[tuple[str, str]]:
    """Return the pairs of names whose images are equal or nearly equal, in order, each pair once.

    Two images are nearly equal when one, or a part of it, fits the other, mirrored or turned as may be, at SAME_PART.

    Args:
        prints: Of each image.
        sides: A positive number for each name; images of one side are not compared. None compares all.
    """
    names = list(prints)
    if not names:
        return []
    side_of = np.array([sides[name] if sides else 0 for name in names], dtype=np.intp)
    views = [views_of(each.thumbnail) for each in prints.values()]
    pairs, wanted = set[tuple[int, int]](), set(candidates(views, side_of))
    for one, other in _alike(list(prints.values())):
        if not sides or side_of[one] != side_of[other]:
            is_equal = prints[names[one]].digest == prints[names[other]].digest
            (pairs if is_equal else wanted).add((one, other))
    for one, other in sorted(wanted - pairs):
        if aligned(views[one], views[other]) >= SAME_PART:
            pairs.add((one, other))
    return [(names[one], names[other]) for one, other in sorted(pairs)]


def duplicates_across(
    many: Iterable[tuple[str, Fingerprint]], few: Mapping[str, Fingerprint]
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a name of many and one of few whose images are equal or nearly equal; see above.

    The many are gone through in blocks of BLOCK, so memory does not grow with their number.

    Args:
        many: Names and fingerprints, in any number.
        few: Fingerprints by name; all of them are held.
    """
    if not few:
        return
    names, prints = list(few), list(few.values())
    views = [views_of(each.thumbnail) for each in prints]
    for block in _blocks(many):
        looked = [views_of(each.thumbnail) for _, each in block]
        pairs, wanted = set[tuple[int, int]](), set(candidates_across(looked, views))
        for one, other in _alike_across([each for _, each in block], prints):
            is_equal = block[one][1].digest == prints[other].digest
            (pairs if is_equal else wanted).add((one, other))
        pairs |= {pair for pair in sorted(wanted - pairs) if aligned(looked[pair[0]], views[pair[1]]) >= SAME_PART}
        yield from ((block[one][0], names[other]) for one, other in sorted(pairs))


def _blocks(many: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(many)
    while block := list(islice(rest, BLOCK)):
        yield block


def _alike_across(many: Sequence[Fingerprint], few: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places whose pixels are the same, or whose structures correlate at SAME_FRAME."""
    alike = np.stack([each.structure for each in many]) @ np.stack([each.structure for each in few]).T >= SAME_FRAME
    alike |= np.array([each.digest for each in many])[:, None] == np.array([each.digest for each in few])[None, :]
    for row, column in zip(*np.nonzero(alike), strict=True):
        yield int(row), int(column)


def _alike(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places whose pixels are the same, or whose structures correlate at SAME_FRAME.

    The latter are candidates alone: frames of one camera share the border of a field of view that is not quite dark.
    """
    structures = np.stack([each.structure for each in prints])
    digests = np.array([each.digest for each in prints])
    for start in range(0, len(prints), BLOCK):
        rows = slice(start, start + BLOCK)
        alike = structures[rows] @ structures.T >= SAME_FRAME
        alike |= digests[rows, None] == digests[None, :]
        for row, column in zip(*np.nonzero(alike), strict=True):
            if start + row < column:
                yield start + int(row), int(column)


def find_duplicates(cases: Iterable[Case]) -> list[tuple[str, str]]:
    """Return the pairs of ids whose images are equal or nearly equal.

    Raises:
        DataError: An image cannot be read.
    """
    return duplicates_of_fingerprints({case.id: fingerprint(case.read_image()) for case in cases})
