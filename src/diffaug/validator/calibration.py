"""Thresholds from real lesions that a validator has not seen, per size bin and checked step.

Split conformal prediction: among n exchangeable scores, the k-th smallest with k = floor(alpha (n + 1)) exceeds a fresh
score with probability at most alpha. Scores here are out-of-fold, pooled over the fold validators (cross-conformal,
Vovk 2015, arXiv:1208.0806), where the bound is approximate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffaug.artifacts import read_json, write_json
from diffaug.errors import DataError, ModelError

BINS = ("small", "medium", "large")


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
class Calibration:
    """What the gate needs to know.

    Attributes:
        alpha: Stated chance of rejecting a lesion as good as a real one, at each check.
        steps: Sampler steps the thresholds were made for.
        checks: Steps after which the gate looks, ascending; the last is `steps`.
        folds: Which validator has not seen each annotated case.
        groups: For each size bin, the bins whose lesions set its threshold.
        counts: Lesions scored, per size bin.
        thresholds: Per size bin and check (as text), the least score accepted.
        validator: Digest of the validators.
    """

    alpha: float
    steps: int
    checks: tuple[int, ...]
    folds: dict[str, int]
    groups: dict[str, tuple[str, ...]]
    counts: dict[str, int]
    thresholds: dict[str, dict[str, float]]
    validator: str

    def threshold(self, size_bin: str, step: int) -> float:
        """Return the least accepted score."""
        return self.thresholds[size_bin][str(step)]

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
            values: dict[str, Any] = read_json(path)
            values["checks"] = tuple(values["checks"])
            values["groups"] = {name: tuple(members) for name, members in values["groups"].items()}
            return Calibration(**values)
        except (DataError, TypeError, KeyError, AttributeError):
            raise ModelError(f"a model needs its calibration: {path} is missing or malformed; fit it again") from None


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


def check_steps(shares: Sequence[float], steps: int) -> tuple[int, ...]:
    """Return the steps after which the gate looks, from shares of the steps; the last step is always one."""
    return tuple(sorted({min(steps, max(1, round(share * steps))) for share in shares} | {steps}))
