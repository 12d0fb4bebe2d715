"""A critic that has learned to tell real lesions from painted ones: logistic regression on the encoder's features.

The annotated cases are divided into folds, and there is one regression for each pair of them. It has seen no case of
the two folds: neither as a real lesion nor as background or example of a painted one. So a painted lesion is looked at
by a regression that knows neither its background nor the real lesion that it was made from, and a real lesion by one
that does not know its case.

Its threshold comes from real lesions, as in `validator.calibration`: among n exchangeable scores, the k-th largest with
k = floor(alpha (n + 1)) is exceeded by a fresh one with probability at most alpha. A critic that knows one painter may
turn down nearly all that it paints. Then the threshold is the score under which LEAST_ACCEPTED of the painted lesions
lie, and a notice says so: what is kept is the best that the painter can do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from diffaug.artifacts import digest_of_value, make_folder, write_json, write_tensors
from diffaug.encoder import encoder_digest
from diffaug.errors import DataError, ModelError
from diffaug.reading import read_tensors, read_typed
from diffaug.realism.features import LENGTH, Features

FOLDS = 6  # of the annotated cases; a regression learns from four of them
FOLDER = "realism"  # of a model
PENALTY = 100.0  # of the squared weights of standardised features
FEWEST = 4  # lesions of each kind, in training, under which there is no critic
LEAST_ACCEPTED = 0.25  # share of the painted lesions that a critic lets pass, whatever it thinks of them


@dataclass(frozen=True)
class Seen:
    """A lesion that a critic learns from.

    Attributes:
        views: Its features, a row for each view, (V, LENGTH); the first is the lesion as it is.
        sources: Of a painted lesion the cases of its background and its example, of a real one its own case.
    """

    views: Features
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What was measured when a critic was fitted; all scores are of regressions that have not seen the lesion.

    Attributes:
        alpha: Stated chance of turning down a lesion as real as a real one.
        conformal: Threshold that the real lesions ask for.
        threshold: Threshold that holds: the largest accepted chance of being painted.
        real: Number of real lesions.
        painted: Number of painted ones.
        auc: How well the two are told apart, from 0.5, which is not at all, to 1.
        accepted: Share of the painted lesions that the threshold accepts.
        encoder: Digest of the encoder's weights.
    """

    alpha: float
    conformal: float
    threshold: float
    real: int
    painted: int
    auc: float
    accepted: float
    encoder: str


@dataclass(frozen=True, eq=False)
class Critic:
    """Regressions and their threshold.

    Attributes:
        weights: Of each regression, (R, LENGTH), in the order of `pairs_of`.
        bias: Of each regression, (R,).
        folds: The fold of each annotated case.
        measured: What is known of it.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    folds: Mapping[str, int]
    measured: Measured

    @property
    def threshold(self) -> float:
        """The largest accepted score."""
        return self.measured.threshold

    def looks_painted(self, features: Features, sources: Sequence[str] = ()) -> float:
        """Return the chance that a lesion is painted, in [0, 1].

        Args:
            features: Of the lesion, (LENGTH,).
            sources: The cases of its background and its example: the regression that knows neither decides. Where no
                source is an annotated case, it is the mean over all regressions.
        """
        chances = _sigmoid(self.weights @ features + self.bias)
        number = regression_for(sources, self.folds)
        return round(float(chances.mean() if number is None else chances[number]), 5)

    def notices(self) -> list[str]:
        """Return what a user should know of this gate, a sentence each."""
        known, lines = self.measured, list[str]()
        if known.threshold > known.conformal:
            lines.append(
                f"painted lesions are told from real ones with ease (area under the curve {known.auc:.2f}): nearly all "
                f"look more painted than real lesions do ({known.conformal:.2f}), so the realism gate keeps the best "
                f"{100 * LEAST_ACCEPTED:.0f} % instead (threshold {known.threshold:.2f}); look at the contact sheet, "
                "annotate more cases, or fit longer"
            )
        if known.conformal >= 1.0:
            needed = math.ceil(1 / known.alpha - 1)
            lines.append(
                f"only {known.real} real lesions are annotated ({needed} are needed for alpha {known.alpha:g}): the "
                "realism gate turns nothing down; annotate more"
            )
        return lines

    def save(self, model: Path) -> None:
        """Write the critic into a model folder, before the folder is sealed."""
        folder = make_folder(model / FOLDER)
        tensors = {"weights": torch.from_numpy(self.weights), "bias": torch.from_numpy(self.bias)}
        write_tensors(folder / "critic.safetensors", tensors)
        write_json(folder / "critic.json", {"folds": dict(self.folds), "measured": asdict(self.measured)})


@dataclass(frozen=True)
class _Kept:
    """What critic.json holds."""

    folds: dict[str, int]
    measured: Measured


def load_critic(model: Path) -> Critic | None:
    """Return the critic of a model folder; None where its fit made none.

    Raises:
        ModelError: A file is malformed, or the critic was fitted on another encoder than the one of this version.
    """
    folder = model / FOLDER
    if not folder.is_dir():
        return None
    try:
        values = read_typed(folder / "critic.json", _Kept)
        tensors = {name: value.numpy() for name, value in read_tensors(folder / "critic.safetensors")[0].items()}
        critic = Critic(tensors["weights"], tensors["bias"], values.folds, values.measured)
        _check_fit(critic)
    except (DataError, TypeError, ValueError, KeyError, OSError):
        raise ModelError(f"a critic has weights and a threshold: {folder} is damaged; fit the model again") from None
    if critic.measured.encoder != encoder_digest() or critic.weights.shape[1:] != (LENGTH,):
        raise ModelError(
            f"a critic looks through the encoder it was fitted with: that of {folder} is "
            f"{critic.measured.encoder}, this version has {encoder_digest()}; fit the model again"
        )
    return critic


def _check_fit(critic: Critic) -> None:
    """Refuse a critic whose parts do not belong together, before its folds are counted out; it may come from anybody.

    Raises:
        DataError: There is not one regression for each pair of folds, or alpha is no chance.
    """
    folds = set(critic.folds.values())
    pairs = (max(folds) + 1) * max(folds) // 2 if folds and min(folds) >= 0 else 0
    if not pairs or (len(critic.weights), critic.bias.shape) != (pairs, (pairs,)) or not 0 < critic.measured.alpha < 1:
        raise DataError("its parts do not fit each other")


def pairs_of(folds: int) -> list[tuple[int, int]]:
    """Return the pairs of folds that a regression each does not know."""
    return list(combinations(range(folds), 2))


def regression_for(sources: Sequence[str], folds: Mapping[str, int]) -> int | None:
    """Return the number of the regression that does not know the sources of a lesion; None where all may know it.

    Sources of one fold leave the second fold of the pair open: it follows from their names.
    """
    known = sorted({folds[name] for name in sources if name in folds})
    if not known:
        return None
    count = max(folds.values()) + 1
    if len(known) == 1:
        shift = int(digest_of_value(sorted(sources))[:8], 16) % (count - 1)
        known = sorted((known[0], (known[0] + 1 + shift) % count))
    return pairs_of(count).index((known[0], known[1]))


def is_enough(real: Sequence[tuple[str, ...]], painted: Sequence[tuple[str, ...]], folds: Mapping[str, int]) -> bool:
    """Tell whether every regression finds lesions of both kinds that lie outside its two folds, from their sources."""
    for pair in pairs_of(max(folds.values()) + 1):
        left_out = {name for name, fold in folds.items() if fold in pair}
        for kind in (real, painted):
            if sum(left_out.isdisjoint(sources) for sources in kind) < FEWEST:
                return False
    return True


def fit_critic(real: Sequence[Seen], painted: Sequence[Seen], folds: Mapping[str, int], alpha: float) -> Critic | None:
    """Fit a regression for each pair of folds, and the threshold on real lesions that it does not know.

    Args:
        real: Real annotated lesions.
        painted: Painted ones.
        folds: The fold of each annotated case; at least three folds.
        alpha: Stated chance of turning down a lesion as real as a real one.

    Returns:
        The critic; None where there are too few lesions of a kind for a regression.
    """
    lesions = [*real, *painted]
    labels = np.array([False] * len(real) + [True] * len(painted))
    known = [{folds[name] for name in lesion.sources if name in folds} for lesion in lesions]
    weights, biases = [], []
    if not is_enough([lesion.sources for lesion in real], [lesion.sources for lesion in painted], folds):
        return None
    for pair in pairs_of(max(folds.values()) + 1):
        rows = [number for number, of in enumerate(known) if not of & set(pair)]
        views = np.concatenate([lesions[number].views for number in rows])
        kinds = np.repeat(labels[rows], [len(lesions[number].views) for number in rows])
        found = regression(views, kinds)
        weights.append(found[0])
        biases.append(found[1])
    stacked, bias = np.stack(weights), np.array(biases)
    numbers = [regression_for(lesion.sources, folds) for lesion in lesions]
    scores = np.array([
        float(_sigmoid(stacked[number] @ lesion.views[0] + bias[number]).mean())
        for number, lesion in zip(numbers, lesions, strict=True)
    ]).round(5)  # fmt: skip
    return Critic(stacked, bias, dict(folds), measured_on(scores[~labels], scores[labels], alpha))


def measured_on(real: NDArray[np.float64], painted: NDArray[np.float64], alpha: float) -> Measured:
    """Return threshold and quality for scores of real and of painted lesions, each out of fold."""
    conformal = upper_threshold(real, alpha)
    least = float(np.sort(painted)[max(0, math.ceil(LEAST_ACCEPTED * len(painted)) - 1)])
    threshold = max(conformal, least)
    accepted = float((painted <= threshold).mean())
    auc = round(area_under_curve(real, painted), 4)
    return Measured(alpha, conformal, threshold, len(real), len(painted), auc, round(accepted, 4), encoder_digest())


def upper_threshold(scores: Sequence[float] | NDArray[np.float64], alpha: float) -> float:
    """Return the least threshold that a fresh score exceeds with probability at most alpha.

    The k-th largest score, k = floor(alpha (n + 1)); 1, which no score exceeds, stands for infinity where k = 0.
    """
    k = math.floor(alpha * (len(scores) + 1))
    return float(np.sort(np.asarray(scores))[-k]) if k >= 1 else 1.0


def area_under_curve(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Return the chance that a score of `high` exceeds one of `low`; a tie counts half."""
    ranks = rankdata(np.concatenate([low, high]))
    return float((ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))


def regression(rows: Features, labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Return weights (D,) and bias of a logistic regression for rows (N, D), with both kinds weighed alike.

    Features are standardised; the penalty is PENALTY / 2 times the squared weights.
    """
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    inputs, signs = (rows - mean) / deviation, np.where(labels, 1.0, -1.0)
    share = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum()) * len(labels)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (inputs @ values[:-1] + values[-1])
        slopes = -signs * share * _sigmoid(-margins)
        total = float((share * np.logaddexp(0.0, -margins)).sum() + PENALTY / 2 * (values[:-1] @ values[:-1]))
        return total, np.append(inputs.T @ slopes + PENALTY * values[:-1], slopes.sum())

    start = np.zeros(inputs.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    weights = found[:-1] / deviation
    return weights, float(found[-1] - mean @ weights)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    chances: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * values))
    return chances
