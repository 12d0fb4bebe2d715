"""Thresholds of the gate: what is accepted at the end, and what is stopped on the way.

Accepted at the end: at least the conformal quantile of real lesions. Among n exchangeable scores, the k-th smallest
with k = floor(alpha (n + 1)) exceeds a fresh one with probability at most alpha (split conformal prediction, Vovk et
al. 2005; one threshold a bin is the Mondrian form). The guarantee as it is: scores are out-of-fold and pooled over the
fold validators (cross-conformal, Vovk 2015, arXiv:1208.0806), whose members differ, so the bound holds about, not
exactly; it averages over draws of the annotated cases; and it speaks of real lesions, or painted ones that score alike.

Stopped on the way: what scores under nearly all painted samples that were accepted at the end. With k of n such
trajectories, a sample that would have been accepted is stopped with probability at most delta, if requests come from
where the trajectories came from; several looks share delta equally.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffaug.artifacts import write_json
from diffaug.data.lesions import SIZES
from diffaug.errors import DataError, ModelError
from diffaug.reading import read_typed

BINS = SIZES
TOP = 0.98  # quantile of a window's probabilities that stands for the strongest
POWER = 0.6  # of relative probabilities; under 1, a lesion that is seen faintly but in its place counts as seen
WEAK = 0.2  # a final threshold under which a gate turns down little but what is missing altogether


def agreement(probability: Tensor, mask: Tensor, region: Tensor) -> Tensor:
    """Return the score of the gate, (B,), in [0, 1]: `soft_iou` of (p / p_top) ** POWER instead of p.

    p_top is the TOP quantile of the window, over all classes; a selection costs a tenth of torch's `quantile`. A lesion
    of a kind that few annotated cases show is found with low probability but in its place; without this, such real
    lesions drag the threshold down to where it turns down nothing (docs/results.md). Arguments as in `soft_iou`.
    """
    found = probability.amax(1).flatten(1)
    top = found.kthvalue(1 + int(TOP * (found.shape[1] - 1)), dim=1).values.clamp_min(1e-3).view(-1, 1, 1, 1)
    return soft_iou((probability / top).clamp(max=1) ** POWER, mask, region)


def soft_iou(probability: Tensor, mask: Tensor, region: Tensor) -> Tensor:
    """Return the agreement of a probability map with a mask inside a region, (B,), in [0, 1]: that of the worst class.

    sum min(p, m) / sum max(p, m) over the region for each class; it equals IoU for hard masks. Two empty maps agree: 1.
    A class that a mask of other classes does not hold counts by the share of the region where it is not found,
    1 - sum p / sum region: a quotient with nothing requested would be 0 for the last trace of probability.

    Args:
        probability: (B, K, s, s).
        mask: Covered share, same shape.
        region: (B, 1, s, s), 0 or 1.
    """
    return class_ious(probability, mask, region).amin(1)


def class_ious(probability: Tensor, mask: Tensor, region: Tensor) -> Tensor:
    """Return the agreement of each class, (B, K); arguments and rules as in `soft_iou`."""
    some = mask.sum((1, 2, 3)) > 0
    scores = []
    for p, m in zip(probability.chunk(probability.shape[1], 1), mask.chunk(mask.shape[1], 1), strict=True):
        low = (p.minimum(m) * region).sum((1, 2, 3))
        high = (p.maximum(m) * region).sum((1, 2, 3))
        left = 1 - (p * region).sum((1, 2, 3)) / region.sum((1, 2, 3)).clamp_min(1e-6)
        absent = some & (m.sum((1, 2, 3)) == 0)
        scores.append(torch.where(absent, left, (low + 1e-6) / (high + 1e-6)))
    return torch.stack(scores, dim=1)


def conformal_threshold(scores: Sequence[float], alpha: float) -> float:
    """Return the largest threshold under which a fresh, equally good score falls with probability at most alpha.

    The k-th smallest score, k = floor(alpha (n + 1)); minus infinity would be right for k = 0, and 0 stands for it,
    since scores are not negative.
    """
    k = math.floor(alpha * (len(scores) + 1))
    return float(np.sort(np.asarray(scores))[k - 1]) if k >= 1 else 0.0


def bin_groups(counts: Mapping[str, int], alpha: float) -> dict[str, tuple[str, ...]]:
    """Return, for each size bin, the bins whose scores set its threshold.

    A bin needs 1 / alpha - 1 lesions; one with fewer takes in its neighbours, nearest and smaller first.
    """
    least = math.ceil(1 / alpha - 1)
    groups = {}
    for place, name in enumerate(BINS):
        members = [name]
        for other in sorted(BINS, key=lambda o, place=place: (abs(BINS.index(o) - place), BINS.index(o))):  # type: ignore[misc]
            if sum(counts.get(member, 0) for member in members) >= least:
                break
            if other not in members:
                members.append(other)
        groups[name] = tuple(sorted(members, key=BINS.index))
    return groups


@dataclass(frozen=True)
class Trajectory:
    """A painted sample that was run to its end.

    Attributes:
        size_bin: small, medium or large.
        scores: Score at each check, the result's last.
    """

    size_bin: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What the gate needs to know.

    Attributes:
        alpha: Stated chance of rejecting a lesion as good as a real one.
        steps: Sampler steps the thresholds were made for.
        checks: Steps after which the gate looks, ascending; the last is `steps`.
        folds: Which validator has not seen each annotated case.
        groups: For each size bin, the bins whose lesions set its threshold.
        counts: Lesions scored, per size bin.
        thresholds: Per size bin and check (as text), the least score accepted.
        validator: Digest of the validators.
        painter: Digest of the painter they were trained for.
        classes: Masks that they find.
        real: Per size bin and check, the score under which a lesion as good as a real one falls with probability alpha.
        delta: Stated chance of stopping on the way what would have been accepted.
        trajectories: Painted samples that set the thresholds before the last.
        stop_groups: For each size bin, the bins whose trajectories set these; empty where too few were painted.
        floor: Least agreement that is accepted at the end, whatever real lesions say.
    """

    alpha: float
    steps: int
    checks: tuple[int, ...]
    folds: dict[str, int]
    groups: dict[str, tuple[str, ...]]
    counts: dict[str, int]
    thresholds: dict[str, dict[str, float]]
    validator: str
    painter: str = ""
    classes: int = 1
    real: dict[str, dict[str, float]] = field(default_factory=dict)
    delta: float = 0.02
    trajectories: tuple[Trajectory, ...] = ()
    stop_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    floor: float = 0.0

    def threshold(self, size_bin: str, step: int) -> float:
        """Return the least accepted score."""
        return self.thresholds[size_bin][str(step)]

    def accepting(self, accept: Mapping[str, float]) -> "Calibration":
        """Return the calibration with other thresholds at the end, per size bin, and what follows from them before."""
        groups, stops = stop_thresholds(self.trajectories, accept, self.checks, self.delta)
        thresholds = {name: {**stops[name], str(self.steps): accept[name]} for name in BINS}
        return replace(self, thresholds=thresholds, stop_groups=groups)

    def with_trajectories(self, trajectories: Sequence[Trajectory]) -> "Calibration":
        """Return the calibration that stops what nearly no accepted trajectory looked like."""
        made = replace(self, trajectories=tuple(trajectories))
        return made.accepting({name: self.threshold(name, self.steps) for name in BINS})

    def over_floor(self) -> "Calibration":
        """Return the calibration that accepts nothing under the floor at the end."""
        return self.accepting({name: max(self.floor, self.threshold(name, self.steps)) for name in BINS})

    def fixed(self, threshold: float) -> "Calibration":
        """Return the calibration that accepts one score for every size: the published method, without a guarantee."""
        return self.accepting(dict.fromkeys(BINS, threshold))

    def without_stops(self) -> "Calibration":
        """Return the calibration that decides at the end alone."""
        return replace(self, trajectories=()).accepting({name: self.threshold(name, self.steps) for name in BINS})

    def notices(self) -> list[str]:
        """Return a sentence on sizes that share a threshold, and for a gate that rejects or stops little."""
        notices = []
        least, total = math.ceil(1 / self.alpha - 1), sum(self.counts.values())
        held = self.held_by_floor()
        if total < least:
            rule = f"the gate asks for an agreement of {self.floor:g} alone" if held else "the gate rejects nothing"
            notices.append(
                f"only {_counted(total, 'lesion')} annotated ({least} are needed for alpha {self.alpha:g}): {rule}; "
                "annotate more, or fit with a larger --validator.alpha"
            )
        elif held:
            scores = _listed(f"{self.real[name][str(self.steps)]:.2f} for {name} lesions" for name in held)
            notices.append(
                f"the floor of {self.floor:g} holds: the validators find 1 of {1 / self.alpha:.0f} real lesions with "
                f"less, {scores}, so more than {100 * self.alpha:g} % of lesions as good as real ones may be turned "
                "down; annotate more, or fit with a smaller --validator.floor"
            )
        if total >= least and (shared := _shared(self.groups)):
            counts = ", ".join(f"{self.counts.get(name, 0)} {name}" for name in BINS)
            notices.append(
                f"too few lesions for a threshold of each size ({counts}; {least} of each are needed): {shared}"
            )
        low = [name for name in BINS if total >= least and self.threshold(name, self.steps) < WEAK]
        if low:
            scores = _listed(f"{self.threshold(name, self.steps):.2f} for {name} lesions" for name in low)
            notices.append(
                f"the gate rejects little: the validators do not find 1 of {1 / self.alpha:.0f} real lesions, so a "
                f"score of {scores} is enough; annotate more, or generate with --gate fixed"
            )
        if shared := _shared(self.stop_groups):
            notices.append(
                f"too few painted samples for a limit of each size under which a sample is stopped early: {shared}"
            )
        if self.trajectories and not self.stop_groups:
            notices.append(
                f"no sample is stopped early: {_counted(len(self.trajectories), 'sample')} too few to set limits for "
                "it; fit with a larger --validator.trajectories, the number of samples that the fit paints to the end"
            )
        return notices

    def held_by_floor(self) -> list[str]:
        """Return the size bins whose threshold at the end is the floor, because real lesions ask for less."""
        end = str(self.steps)
        return [name for name in self.real if self.real[name][end] < self.floor == self.thresholds[name][end]]

    def save(self, path: Path) -> None:
        """Write `calibration.json`."""
        write_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Read `calibration.json`.

        Raises:
            ModelError: It is missing or malformed.
        """
        try:
            found = read_typed(path, Calibration)
            steps = {str(step) for step in found.checks}
            kept = all(steps <= set(found.thresholds.get(name, {})) for name in BINS)
            if not (kept and found.folds and found.checks and 0 < found.alpha < 1):
                raise DataError("its thresholds are not those of its checks")
            return found
        except DataError:
            raise ModelError(f"a model needs its calibration: {path} is missing or malformed; fit it again") from None


def _counted(count: int, what: str) -> str:
    """Return a number with its noun and its verb, such as `1 sample is` and `2 samples are`."""
    return f"{count} {what} is" if count == 1 else f"{count} {what}s are"


def _shared(groups: Mapping[str, Sequence[str]]) -> str:
    """Return in words which sizes share what; empty where each has its own.

    Args:
        groups: For each size bin, the bins that set what it has.
    """
    sizes: dict[tuple[str, ...], list[str]] = {}
    for name in BINS:
        if name in groups and tuple(groups[name]) != (name,):
            sizes.setdefault(tuple(groups[name]), []).append(name)
    return ", ".join(
        f"{_listed(names)} ones share one"
        if tuple(names) == members
        else f"{_listed(names)} ones have one that comes from {_listed(members)} ones together"
        for members, names in sizes.items()
    )


def _listed(parts: Iterable[str]) -> str:
    """Return parts as a list in words: "a", "a and b", "a, b and c"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def calibrate(
    scores: Mapping[str, Mapping[int, Sequence[float]]], alpha: float
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, float]]]:
    """Return the bin groups and thresholds of out-of-fold scores.

    Args:
        scores: Per size bin and checked step, one score for each real lesion.
        alpha: Stated chance of rejecting one as good.
    """
    counts = {name: max((len(s) for s in scores.get(name, {}).values()), default=0) for name in BINS}
    groups = bin_groups(counts, alpha)
    steps = sorted({step for by_step in scores.values() for step in by_step})
    thresholds = {
        name: {
            str(step): conformal_threshold(
                [score for member in members for score in scores.get(member, {}).get(step, ())], alpha
            )
            for step in steps
        }
        for name, members in groups.items()
    }
    return groups, thresholds


def stop_thresholds(
    trajectories: Sequence[Trajectory], accept: Mapping[str, float], checks: Sequence[int], delta: float
) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, float]]]:
    """Return the score under which a sample is stopped, per size bin and check before the last.

    Args:
        trajectories: Painted samples run to the end.
        accept: Per size bin, the least score accepted at the end.
        checks: Steps after which the gate looks; the last is the end.
        delta: Stated chance of stopping what would have been accepted, over all looks.

    Returns:
        For each size bin the bins whose trajectories count, and thresholds: 0, which stops nothing, where all of them
        are too few.
    """
    looks = checks[:-1]
    good = [item for item in trajectories if item.scores[-1] >= accept[item.size_bin]]
    share = delta / max(1, len(looks))
    if not looks or conformal_threshold([1.0] * len(good), share) == 0.0:
        return {}, {name: {str(step): 0.0 for step in looks} for name in BINS}
    counts = {name: sum(item.size_bin == name for item in good) for name in BINS}
    groups = bin_groups(counts, share)
    thresholds = {
        name: {
            str(step): conformal_threshold([item.scores[i] for item in good if item.size_bin in members], share)
            for i, step in enumerate(looks)
        }
        for name, members in groups.items()
    }
    return groups, thresholds


def check_steps(shares: Sequence[float], steps: int) -> tuple[int, ...]:
    """Return the steps after which the gate looks, from shares of the steps; the last step is always one."""
    return tuple(sorted({min(steps, max(1, round(share * steps))) for share in shares} | {steps}))
