"""The optic cup inside its disc: its class by the vertical cup-to-disc ratio, its words, and its shape at any ratio.

Knows masks and words. A painted cup takes the disc that is there; where that lies is decided elsewhere.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.attributes import signed_distance
from diffaug.conditioning.findings import library_of
from diffaug.conditioning.prompts import phrase
from diffaug.data.case import LabelClass, masks_from_label
from diffaug.data.fundus import disc_and_cup, vertical_diameter
from diffaug.data.images import Label, Mask, check_mask
from diffaug.errors import DataError

DISC = "disc"  # the finding of fundus.yaml that stands for any optic disc
CUPS = {
    "no-cup": 0.1,
    "small-cup": 0.3,
    "average-cup": 0.5,
    "large-cup": 0.7,
    "very-large-cup": 1.0,
}  # a class of cup holds the ratios under this one
DECIDED = ("cup", "rim")  # the groups of findings that a mask of disc and cup decides
ASPECTS_OF_DISC = ("size", "contrast", "shape")  # words of colour suit bowels alone; more words are too long for CLIP
HALVINGS = 24  # of the search for a ratio
LARGEST = 0.95  # ratio; beyond, no rim is left to paint


def cup_class(ratio: float) -> str:
    """Return the finding of fundus.yaml that names the cup of a vertical cup-to-disc ratio."""
    return next((name for name, limit in CUPS.items() if ratio < limit), "very-large-cup")


@cache
def terms() -> Mapping[str, str]:
    """Return the terms of the cups and of the plain disc, by finding."""
    findings = library_of("fundus").findings
    return {name: findings[name].term for name in (DISC, *CUPS)}


def describe_disc(words: Mapping[str, str], keep: Collection[str], ratio: float | None) -> str:
    """Describe an optic disc, such as "a large round optic disc with a small cup".

    Args:
        words: The word of each aspect.
        keep: The aspects that may be mentioned; only those of a disc are.
        ratio: Vertical cup-to-disc ratio; None leaves the cup out.
    """
    said, traits = terms(), [] if ratio is None else [terms()[cup_class(ratio)]]
    return phrase(words, set(keep) & set(ASPECTS_OF_DISC), said[DISC], traits)


def draw_ratio(seen: Sequence[float], rng: np.random.Generator) -> float:
    """Draw a class of cup that training cases show, then a vertical cup-to-disc ratio that they span within it.

    Every class is equally likely, so that rare ones are painted as often. No ratio is beyond those of training cases.
    """
    classes = sorted({cup_class(ratio) for ratio in seen}, key=list(CUPS).index)
    chosen = classes[int(rng.integers(len(classes)))]
    low = max([limit for name, limit in CUPS.items() if limit < CUPS[chosen]], default=0.0)
    low, high = max(low, min(seen)), min(CUPS[chosen], max(seen), LARGEST)
    return round(float(rng.uniform(min(low, high), high)), 3)


def cup_of_ratio(disc: Mask, cup: Mask, ratio: float) -> Mask:
    """Return the cup of a disc at another vertical cup-to-disc ratio, (H, W).

    Cups of rising ratio are nested: they grow from a point, the deepest of the cup, over the cup itself to the disc, as
    level sets between the signed distances of these three. The vertical diameter is that of the ratio within a pixel.

    Args:
        disc: Shape (H, W), with the cup.
        cup: The disc's own cup, which gives place and shape; empty takes the disc's.
        ratio: Vertical cup-to-disc ratio, 0 to 1; 0 is no cup.

    Raises:
        ShapeError: A mask is not two-dimensional, or the two differ in size.
        DataError: A mask is not boolean, the disc is empty, or the ratio is not in [0, 1].
    """
    check_mask(disc)
    check_mask(cup, disc.shape)
    if not disc.any() or not 0.0 <= ratio <= 1.0:
        raise DataError(
            f"a cup lies in a disc, and its ratio is 0 to 1: the ratio is {ratio}, the disc has {disc.sum()} px; pass "
            "the mask of the whole disc, and the cup's vertical diameter over the disc's"
        )
    target = ratio * vertical_diameter(disc)
    if target < 0.5:
        return np.zeros_like(disc)
    shapes = _from_point_to_disc(disc, cup & disc)

    def at(share: float) -> Mask:
        stage = min(int(share), len(shapes) - 2)
        level = (1 - (share - stage)) * shapes[stage] + (share - stage) * shapes[stage + 1]
        return np.asarray(level > 0) & disc

    low, high = 0.0, float(len(shapes) - 1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if vertical_diameter(at(middle)) < target else (low, middle)
    smaller, larger = at(low), at(high)
    return smaller if target - vertical_diameter(smaller) < vertical_diameter(larger) - target else larger


def label_of_ratio(label: Label, ratio: float, classes: Sequence[LabelClass]) -> Label:
    """Return the label of a disc with its cup at another vertical cup-to-disc ratio.

    Pixels of the disc get the first value that is of the disc and not of the cup, those of the cup its first value.

    Args:
        label: Of the disc with its own cup, shape (h, w).
        ratio: Vertical cup-to-disc ratio, 0 to 1.
        classes: Of the label; `disc` and `cup` are among them.

    Raises:
        DataError: The classes lack a disc with a rim and a cup.
    """
    places = disc_and_cup([each.name for each in classes])
    disc, cup = (classes[place].values for place in places) if places else ((), ())
    rim = [value for value in disc if value not in cup]
    if places is None or not rim:
        declared = ", ".join(f"{each.name} {list(each.values)}" for each in classes)
        raise DataError(f"a cup needs a class disc with a value that is not of the class cup: the data has {declared}")
    disc_mask, cup_mask = masks_from_label(label, classes)[list(places)]
    disc_mask |= cup_mask
    painted = np.where(disc_mask, np.uint8(rim[0]), np.uint8(0))
    painted[cup_of_ratio(disc_mask, cup_mask, ratio)] = cup[0]
    return painted


def _from_point_to_disc(disc: Mask, cup: Mask) -> list[NDArray[np.float32]]:
    """Return the signed distances of a point, of the cup if there is one, and of the disc; rising."""
    known = [signed_distance(cup), signed_distance(disc)] if cup.any() else [signed_distance(disc)]
    centre = np.unravel_index(int(np.argmax(known[0])), disc.shape)
    rows, columns = np.ogrid[: disc.shape[0], : disc.shape[1]]
    point = -np.hypot(rows - centre[0], columns - centre[1]).astype(np.float32)
    return [point, *known]
