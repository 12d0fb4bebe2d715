"""Thresholds of the gate: from real lesions at the end, from samples painted to the end on the way there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffaug.artifacts import digest_of_folder
from diffaug.config import FitConfig, GenerateConfig
from diffaug.errors import PlacementError
from diffaug.synthesis.shards import painted_trajectories, painter_digest, painting_of
from diffaug.training.windows import Annotated
from diffaug.validator.calibration import BINS, Calibration, calibrate, check_steps


def first_calibration(
    model: Path,
    config: FitConfig,
    scores: Mapping[str, Mapping[int, list[float]]],
    folds: Mapping[str, int],
    classes: int,
) -> Calibration:
    """Return what out-of-fold scores of real lesions say: thresholds at the end, none before it."""
    groups, thresholds = calibrate(scores, config.validator.alpha)
    return Calibration(
        alpha=config.validator.alpha,
        steps=config.steps,
        checks=check_steps(config.checks, config.steps),
        folds=dict(folds),
        groups=groups,
        counts={name: len(next(iter(scores.get(name, {}).values()), [])) for name in BINS},
        thresholds=thresholds,
        validator=digest_of_folder(model / "validator"),
        painter=painter_digest(model),
        classes=classes,
        real=thresholds,
        delta=config.validator.delta,
    ).without_stops()


def write_calibration(
    model: Path,
    data: Path,
    calibration: Calibration,
    count: int,
    painting: GenerateConfig,
    seed: int,
    device: str = "cpu",
) -> Calibration:
    """Write a calibration with thresholds before the end, from samples painted with it; without, where none can be."""
    calibration.save(model / "calibration.json")
    if count and len(calibration.checks) > 1:
        try:
            found = painted_trajectories(model, data, calibration, count, painting, seed, device)
        except PlacementError:  # told by `generate`, where it can be mended
            return calibration
        calibration = calibration.with_trajectories(found, painting_of(painting))
        calibration.save(model / "calibration.json")
    return calibration


def rare_classes(cases: Sequence[Annotated], names: Sequence[str], alpha: float) -> list[str]:
    """Return a line for each class of several that is in too few lesions to shape the thresholds by itself."""
    least = math.ceil(1 / alpha - 1)
    counts = [
        sum(bool((case.masks[k] & lesion).any()) for case in cases for lesion in case.lesions)
        for k in range(len(names))
    ]
    return [
        f"{count} annotated lesions hold the class {name}, fewer than the {least} that a threshold needs: where it is "
        "asked for, the gate judges it by what lesions without it reach"
        for name, count in zip(names, counts, strict=True)
        if count < least and len(names) > 1
    ]
