"""The in-flight decision: score an estimate against its requested mask, and stop what is not where it should be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffaug.data.request import Check
from diffaug.errors import ModelError
from diffaug.validator.calibration import Calibration, agreement
from diffaug.validator.latent_segmenter import segment


@dataclass(frozen=True)
class Target:
    """What a sample is held against, at the validator's side.

    Attributes:
        mask: Requested mask, (K, s, s); the gate compares with it, the validator never sees it.
        region: (1, s, s), 0 or 1.
        size_bin: small, medium or large in the frame.
        fold: The validator that has not seen the case of the mask; None asks all of them.
    """

    mask: Tensor
    region: Tensor
    size_bin: str
    fold: int | None


class Gate:
    """Validators and their calibrated thresholds.

    Args:
        validators: One network per fold.
        calibration: Thresholds and folds.
    """

    def __init__(self, validators: Sequence[Any], calibration: Calibration) -> None:
        if len(validators) <= max(calibration.folds.values(), default=0):
            raise ModelError(
                f"a calibration needs its validators: it names fold {max(calibration.folds.values())}, "
                f"the model has {len(validators)}; fit the model again"
            )
        self.validators = validators
        self.calibration = calibration

    def looks_at(self, step: int) -> bool:
        """Tell whether samples are checked after this step."""
        return step in self.calibration.checks

    @torch.no_grad()
    def probability(self, fold: int | None, x0_hat: Tensor, t: Tensor) -> Tensor:
        """Return the lesion probabilities that a validator finds, or the mean of all, (B, K, s, s).

        Args:
            fold: Which validator; None is the mean of all.
            x0_hat: Direct estimates, (B, Z, h, w).
            t: Timestep of each, (B,).
        """
        if fold is not None:
            return segment(self.validators[fold], x0_hat, t)
        return torch.stack([segment(network, x0_hat, t) for network in self.validators]).mean(0)

    @torch.no_grad()
    def check(self, x0_hat: Tensor, t: Tensor, step: Tensor, targets: Sequence[Target]) -> list[Check]:
        """Score estimates.

        Args:
            x0_hat: Direct estimates, (B, Z, h, w).
            t: Timestep of each, (B,).
            step: Steps done by each, (B,).
            targets: What each is held against.
        """
        probability = torch.zeros(len(targets), *targets[0].mask.shape)
        for fold in dict.fromkeys(target.fold for target in targets):
            rows = torch.tensor([i for i, target in enumerate(targets) if target.fold == fold])
            probability[rows] = self.probability(fold, x0_hat[rows], t[rows]).cpu()
        mask, region = torch.stack([s.mask for s in targets]), torch.stack([s.region for s in targets])
        scores = agreement(probability, mask, region).tolist()
        return [
            Check(int(n), int(when), round(score, 5), round(self.calibration.threshold(target.size_bin, int(n)), 5))
            for n, when, score, target in zip(step.tolist(), t.tolist(), scores, targets, strict=True)
        ]
