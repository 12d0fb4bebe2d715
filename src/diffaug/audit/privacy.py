"""Whether painted lesions are copies of training lesions, and how much of training images a set shows.

Two measures of one question. The encoder's features say whether a lesion is as near to a training lesion as hardly any
held-out real lesion is; the aligned structure says whether its pixels are recognisable. A painted lesion is a copy if
it is nearer, by either of them, than all but ALPHA of the held-out lesions are. Real lesions that are flipped, saved
again, made lighter or moved are the positive control: they must be found.

A lesion that was painted from an example is expected to be recognisable: sampling starts from the example's pixels.
The audit does not excuse that. Whoever must not show a patient's lesion has to leave such cases out.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.audit.lesions import FEWEST_HELD_OUT, Found
from diffaug.audit.scores import Score, bootstrap
from diffaug.compute.progress import tracked
from diffaug.data.folder import Dataset
from diffaug.data.images import Mask, Pixels
from diffaug.data.manifest import SyntheticSet
from diffaug.painting.looks import features_in
from diffaug.realism.measures import Features
from diffaug.realism.recognition import Structures, nearest, shifted, turned

ALPHA = 0.05  # share of held-out real lesions that may count as copies
FEWEST = 8  # lesions of a kind, under which nothing is said
MOST_PLANTED = 40  # of each kind
MOST_BACKGROUNDS = 60  # pictures that are compared with their backgrounds
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Known:
    """Training lesions, ready to be compared with.

    Attributes:
        lesions: The lesions.
        features: Of each in eight orientations, (8, N, D).
        structures: Of each in all turns.
    """

    lesions: Sequence[Found]
    features: Features
    structures: Sequence[Structures]

    @cached_property
    def deviation(self) -> Values:
        """Standard deviation of each feature as the lesions lie, (D,)."""
        return np.asarray(self.features[0].std(0) + 1e-6)

    @classmethod
    def of(cls, lesions: Sequence[Found], progress: str = "") -> "Known":
        """Look at training lesions from all sides."""
        looked = [
            (np.stack([features_in(*view) for view in _orientations(one)]), turned(one.image, one.mask))
            for one in tracked(lesions, len(lesions), progress)
        ]
        return cls(lesions, np.stack([each[0] for each in looked], axis=1), [each[1] for each in looked])


@dataclass(frozen=True)
class Likeness:
    """How like a lesion is to the training lesions.

    Attributes:
        distance: To the nearest one, in the encoder's features, in standard deviations of the training lesions.
        correlation: With the one whose structure fits best.
        nearest: The place of that one; where no structure is, of the nearest one.
    """

    distance: float
    correlation: float
    nearest: int


@dataclass(frozen=True)
class Limits:
    """What is nearer or more alike than these is a copy; both hold strictly.

    Attributes:
        distance: In the encoder's features.
        correlation: Of structures.
        false_alarms: Chance that a fresh real lesion lies beyond them, at most.
    """

    distance: float
    correlation: float
    false_alarms: float

    def is_copy(self, found: Likeness) -> bool:
        """Whether a lesion is a copy."""
        return found.distance < self.distance or found.correlation > self.correlation


def likeness(lesion: Found, features: Features, known: Known, other_groups: bool = False) -> Likeness:
    """Return how like a lesion is to the training lesions.

    Args:
        lesion: The lesion.
        features: Its features, (D,).
        known: The training lesions.
        other_groups: Compare with those of other groups than its own alone.
    """
    allowed = np.array([not other_groups or one.group != lesion.group for one in known.lesions])
    distances = np.sqrt((((known.features - features) / known.deviation) ** 2).sum(2)).min(0)
    distances[~allowed] = np.inf
    match = nearest(shifted(lesion.image, lesion.mask), known.structures, allowed.tolist())
    place = match.place if match.place >= 0 else int(distances.argmin())
    return Likeness(float(distances.min()), match.correlation, place)


def limits_of(held_out: Sequence[Likeness]) -> Limits:
    """Return the limits beyond which a fresh real lesion lies with a chance of at most ALPHA, by either measure.

    Each limit is the (k + 1)-th most extreme of n held-out values, k + 1 = floor(ALPHA (n + 1) / 2): a fresh value is
    beyond it with probability (k + 1) / (n + 1). With fewer than 2 / ALPHA - 1 lesions it is the most extreme one, and
    the chance is 2 / (n + 1).
    """
    place = max(0, int(ALPHA * (len(held_out) + 1) / 2) - 1)
    distance = np.sort([one.distance for one in held_out])[place]
    correlation = -np.sort([-one.correlation for one in held_out])[place]
    return Limits(float(distance), float(correlation), min(1.0, 2 * (place + 1) / (len(held_out) + 1)))


def held_out_likeness(held_out: Sequence[Found], known: Known, features: Features) -> list[Likeness]:
    """Return how like held-out lesions are to training; with few, training lesions of other groups stand in, too."""
    found = [likeness(one, row, known) for one, row in zip(held_out, features, strict=True)]
    if len(found) < FEWEST_HELD_OUT and len({one.group for one in known.lesions}) > 1:
        for one, row in zip(known.lesions, known.features[0], strict=True):
            found.append(likeness(one, row, known, other_groups=True))
    return found


# --- Positive control -------------------------------------------------------------------------------------------------


def _saved_again(image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    memory = io.BytesIO()
    Image.fromarray(image).save(memory, "JPEG", quality=int(rng.integers(40, 80)))
    return np.asarray(Image.open(memory).convert("RGB")), mask


def _mirrored(image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    axis = int(rng.integers(2))
    return np.flip(image, axis).copy(), np.flip(mask, axis).copy()


def _smaller(image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    factor = rng.uniform(0.6, 0.9)
    size = (max(32, round(image.shape[1] * factor)), max(32, round(image.shape[0] * factor)))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return image, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _lighter(image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    changed = image.astype(np.float32) * rng.uniform(0.8, 1.2) + rng.uniform(-12, 12)
    return changed.clip(0, 255).astype(np.uint8), mask


def _moved(image: Pixels, mask: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Put a lesion back a little beside its place, by part of a pixel, too, with a soft edge."""
    reach = 0.1 * np.sqrt(mask.sum())
    shift = rng.uniform(-reach, reach, 2)
    moved = ndimage.shift(image.astype(np.float32), (*shift, 0), order=1, mode="nearest")
    new = ndimage.shift(mask.astype(np.float32), shift, order=1) > 0.5
    weight = ndimage.gaussian_filter(new.astype(np.float32), 1.5)[..., None]
    pasted = (image * (1 - weight) + moved * weight).round().astype(np.uint8)
    return (pasted, new) if new.any() else (image, mask)


PLANTED: Mapping[str, Callable[[Pixels, Mask, np.random.Generator], tuple[Pixels, Mask]]] = {
    "flipped": _mirrored,
    "moved": _moved,
    "saved as JPEG": _saved_again,
    "resized": _smaller,
    "lighter or darker": _lighter,
}


def control(known: Known, limits: Limits, progress: str = "") -> dict[str, float]:
    """Return the share of planted copies of training lesions that are found, by the kind of change."""
    chosen = known.lesions[:: max(1, -(-len(known.lesions) // MOST_PLANTED))]
    rng, found = np.random.default_rng(0), dict[str, float]()
    work = [(kind, one) for kind in PLANTED for one in chosen]
    hits: dict[str, list[bool]] = {kind: [] for kind in PLANTED}
    for kind, one in tracked(work, len(work), progress):
        image, mask = PLANTED[kind](one.image, one.mask, rng)
        planted = replace(one, image=image, mask=mask)
        hits[kind].append(limits.is_copy(likeness(planted, features_in(image, mask), known)))
    for kind, values in hits.items():
        found[kind] = float(np.mean(values))
    return found


# --- Scores -----------------------------------------------------------------------------------------------------------


def copy_scores(
    groups: Sequence[str], likenesses: Sequence[Likeness], held_out: Sequence[Likeness], limits: Limits
) -> list[Score]:
    """Return the shares of painted lesions that are copies: by either measure, and by each, at ALPHA of its own.

    Args:
        groups: The group of each painted lesion.
        likenesses: Of each painted lesion.
        held_out: Of held-out real lesions.
        limits: Beyond which a lesion is a copy.
    """
    both = [groups, [str(place) for place in range(len(held_out))]]
    flags = np.array([limits.is_copy(one) for one in likenesses], dtype=np.float64)
    value, low, high = bootstrap([flags], both[:1], np.mean)
    meaning = "painted lesions nearer to a training lesion, by features or by structure, than other real ones are"
    scores = [Score("copies", meaning, value, low, high, 0.0, 1.0, limits.false_alarms, "share")]
    measures = {
        "copies by features": ("the same by the encoder's features alone", _distance),
        "copies by structure": ("the same by aligned pixels alone: recognisable", _difference),
    }
    for name, (meaning, measure) in measures.items():
        values = [np.array([measure(one) for one in some]) for some in (likenesses, held_out)]
        value, low, high = bootstrap(values, both, _share_nearer)
        scores.append(Score(name, meaning, value, low, high, 0.0, 1.0, ALPHA, "share"))
    return scores


def _distance(found: Likeness) -> float:
    return found.distance


def _difference(found: Likeness) -> float:
    return -found.correlation


def _share_nearer(made: Values, real: Values) -> float:
    """Return the share of values under the ALPHA quantile of real ones."""
    return float((made < np.quantile(real, ALPHA)).mean())


def background_share(made: SyntheticSet, dataset: Dataset, damaged: frozenset[str]) -> tuple[float, float] | None:
    """Return how many pictures show a training image around the lesion, and how much of them is its exact pixels.

    A picture shows its background if at least a fifth of its pixels are the same. None where no background is at hand.
    """
    whole = (row for row in made.rows if row.decision == "kept" and row.image and row.id not in damaged)
    known, shares = {case.id: case for case in dataset.cases}, list[float]()
    for row in islice(whole, MOST_BACKGROUNDS):
        case = known.get(row.request.background)
        if case is None:
            continue
        picture, background = made.case(row).read_image(), case.read_image()
        same = picture.shape == background.shape
        shares.append(float((picture == background).all(2).mean()) if same else 0.0)
    return (float(np.mean([share >= 0.2 for share in shares])), float(np.mean(shares))) if shares else None


def _orientations(one: Found) -> list[tuple[Pixels, Mask]]:
    found = []
    for quarter in range(4):
        image, mask = np.rot90(one.image, quarter), np.rot90(one.mask, quarter)
        found += [(np.ascontiguousarray(image), np.ascontiguousarray(mask))]
        found += [(np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1]))]
    return found
