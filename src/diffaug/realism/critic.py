"""A critic that has learned from readers how well painted lesions convince.

Readers scored painted lesions in their surroundings from 0, absurd, to 10, surely real. The critic is a ridge
regression of a tenth of the score on the features of the lesion, one for each domain that was read; its weights come
with the package (`runs/readings.py`). So it has seen no image of a user, and needs no folds.

Its threshold is EVEN, "could be either". Where fewer than LEAST_ACCEPTED of what a model paints reach that, it is the
score that as many of them reach: what is kept is the better half of what the painter can do, and a notice says so.
Small lesions convince more easily, so each size class has its own, and what is kept has the sizes that were drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffaug.artifacts import make_folder, write_json, write_tensors
from diffaug.encoder import encoder_digest
from diffaug.errors import DataError, ModelError
from diffaug.reading import read_tensors, read_typed
from diffaug.realism.features import LENGTH, Features

FOLDER = "realism"  # of a model
READERS = Path(__file__).parents[1] / "weights" / "readers" / "model.safetensors"
EVEN = 0.5  # the score of a lesion of which a reader cannot say whether it is real
LEAST_ACCEPTED = 0.5  # share of the painted lesions that a critic lets pass, whatever it thinks of them
FEWEST = 8  # painted lesions, of all or of a size class, under which that share is not known
ALL = "all"  # sizes, as the name of a threshold
LEFT_OUT = 1 / 3  # share of the examples that are not shown elsewhere, since what was painted from them convinced least


@dataclass(frozen=True)
class Measured:
    """What was measured when a threshold was found.

    Attributes:
        domain: What the images show, such as endoscopy.
        painted: Number of painted lesions that were scored.
        mean: Their mean score, from 0 to 1.
        thresholds: The least accepted score by size class; a class that is missing has the one of `all`.
        accepted: Share of the painted lesions that these accept.
        encoder: Digest of the encoder's weights.
    """

    domain: str
    painted: int
    mean: float
    thresholds: dict[str, float]
    accepted: float
    encoder: str


@dataclass(frozen=True, eq=False)
class Critic:
    """A regression and its threshold.

    Attributes:
        weights: Of the features, (LENGTH,).
        bias: What is added.
        measured: What is known of it.
        examples: By how much what was painted from each example, by case, was over its threshold on average.
    """

    weights: NDArray[np.float64]
    bias: float
    measured: Measured
    examples: Mapping[str, float] = field(default_factory=dict)

    def threshold(self, size: str) -> float:
        """Return the least accepted score of a lesion of a size class."""
        return threshold_of(self.measured.thresholds, size)

    def score(self, features: Features) -> float:
        """Return how well a lesion convinces, in [0, 1], from its features, (LENGTH,)."""
        return score_of(self.weights, self.bias, features)

    @property
    def unconvincing(self) -> frozenset[str]:
        """The cases whose lesions convince least elsewhere: at most LEFT_OUT of all, each under its threshold."""
        least = sorted(self.examples, key=lambda name: (self.examples[name], name))
        return frozenset(name for name in least[: int(LEFT_OUT * len(least))] if self.examples[name] < 0)

    def notices(self) -> list[str]:
        """Return what a user should know of this gate, a sentence each."""
        known, lines = self.measured, list[str]()
        if self.unconvincing:
            lines.append(
                f"what was painted from {len(self.unconvincing)} of {len(self.examples)} annotated lesions convinced "
                "least, so these are shown at other places only where nothing else fits"
            )
        lowest, highest = min(known.thresholds.values()), max(known.thresholds.values())
        if lowest >= EVEN:
            return lines
        span = f"{lowest:.2f}" if lowest == highest else f"{lowest:.2f} to {highest:.2f} by size"
        return [
            *lines,
            f"painted lesions have a mean score of {known.mean:.2f}, from 0 to 1, where readers cannot tell them from "
            f"real ones at {EVEN}: the realism gate keeps the best {100 * known.accepted:.0f} % (threshold {span}); "
            "look at the contact sheet, or annotate more cases",
        ]

    def save(self, model: Path) -> None:
        """Write the critic into a model folder, before the folder is sealed."""
        folder = make_folder(model / FOLDER)
        tensors = {"weights": torch.from_numpy(self.weights), "bias": torch.tensor(self.bias, dtype=torch.float64)}
        write_tensors(folder / "critic.safetensors", tensors)
        write_json(folder / "critic.json", {"measured": asdict(self.measured), "examples": dict(self.examples)})


def threshold_of(thresholds: Mapping[str, float], size: str) -> float:
    """Return the threshold of a size class, which is that of all where it has none."""
    return thresholds.get(size, thresholds[ALL])


def score_of(weights: NDArray[np.float64], bias: float, features: Features) -> float:
    """Return the score of features, (LENGTH,), in [0, 1]."""
    return round(float(np.clip(weights @ features + bias, 0, 1)), 5)


@cache
def taught() -> dict[str, tuple[NDArray[np.float64], float]]:
    """Return weights, (LENGTH,), and bias by domain, as they come with the package."""
    tensors = {name: value.double().numpy() for name, value in read_tensors(READERS)[0].items()}
    domains = sorted({name.partition(".")[0] for name in tensors})
    return {domain: (tensors[f"{domain}.weights"], float(tensors[f"{domain}.bias"])) for domain in domains}


def critic_for(
    domain: str, painted: Sequence[Features], sizes: Sequence[str], examples: Sequence[str]
) -> Critic | None:
    """Return the critic of a domain with a threshold for a painter.

    Args:
        domain: What the images show.
        painted: Features of lesions that the painter painted, (LENGTH,) each.
        sizes: The size class of each.
        examples: The case that each was made from.

    Returns:
        The critic; None where no reader has scored the domain, or fewer than FEWEST lesions were painted.
    """
    if domain not in taught() or len(painted) < FEWEST:
        return None
    weights, bias = taught()[domain]
    scores = np.array([score_of(weights, bias, features) for features in painted])
    thresholds = {ALL: _reached(scores)} | {
        size: _reached(scores[own]) for size, own in _places(sizes).items() if len(own) >= FEWEST
    }
    over = scores - [threshold_of(thresholds, size) for size in sizes]
    accepted, mean = round(float((over >= 0).mean()), 4), round(float(scores.mean()), 4)
    measured = Measured(domain, len(scores), mean, thresholds, accepted, encoder_digest())
    means = {name: round(float(over[own].mean()), 5) for name, own in _places(examples).items()}
    return Critic(weights, bias, measured, means)


def _reached(scores: NDArray[np.float64]) -> float:
    """Return EVEN, or the score that LEAST_ACCEPTED of some scores reach, the lower of the two."""
    return min(EVEN, float(np.sort(scores)[-math.ceil(LEAST_ACCEPTED * len(scores))]))


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of each name, in the order of the names."""
    return {name: [place for place, each in enumerate(names) if each == name] for name in sorted(set(names))}


def why_no_critic(domain: str, painted: int) -> str:
    """Return why `critic_for` found none, and what can be done.

    Args:
        domain: What the images show.
        painted: Number of lesions that could be painted to the end.
    """
    if domain not in taught():
        return f"readers have scored painted lesions of {' and '.join(taught())}, and these images show {domain}"
    return (
        f"{painted} lesions were painted to find its threshold, and {FEWEST} are needed; fit with a larger "
        "--validator.trajectories, the number of samples that the fit paints for this"
    )


@dataclass(frozen=True)
class _Kept:
    """What critic.json holds."""

    measured: Measured
    examples: dict[str, float]


def load_critic(model: Path) -> Critic | None:
    """Return the critic of a model folder; None where its fit made none.

    Raises:
        ModelError: A file is malformed, or the critic was fitted on another encoder than the one of this version.
    """
    folder = model / FOLDER
    if not folder.is_dir():
        return None
    try:
        kept = read_typed(folder / "critic.json", _Kept)
        tensors = {name: value.numpy() for name, value in read_tensors(folder / "critic.safetensors")[0].items()}
        critic = Critic(tensors["weights"], float(tensors["bias"]), kept.measured, kept.examples)
        critic.threshold(ALL)
    except (DataError, TypeError, ValueError, KeyError, OSError):
        raise ModelError(
            f"a critic has weights and a threshold: {folder} is damaged or of another version; fit the model again"
        ) from None
    encoder = kept.measured.encoder
    if encoder != encoder_digest() or critic.weights.shape != (LENGTH,):
        raise ModelError(
            f"a critic looks through the encoder it was fitted with: that of {folder} is {encoder}, this version has "
            f"{encoder_digest()}; fit the model again"
        )
    return critic
