"""Thresholds of the gate: from real lesions at the end, from samples painted to the end on the way there."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffaug.artifacts import digest_of_folder
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.grammar import KnownWords
from diffaug.conditioning.request import seed_of_request
from diffaug.config import FitConfig, GenerateConfig
from diffaug.data.case import Case
from diffaug.errors import PlacementError
from diffaug.models.checkpoints import read_words
from diffaug.painting.clearing import Remover
from diffaug.painting.painter import Painter, painter_digest
from diffaug.painting.requests import LayoutMaker, paint_requests
from diffaug.training.windows import Annotated
from diffaug.validator.calibration import BINS, Calibration, Trajectory, calibrate, check_steps
from diffaug.validator.gate import Gate


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
        steps=config.sampler.steps,
        checks=check_steps(config.sampler.checks, config.sampler.steps),
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
    model: Path, painter: Painter, cases: Sequence[Case], count: int, config: GenerateConfig, seed: int
) -> Calibration:
    """Write a painter's calibration with thresholds before the end; without them where nothing can be painted.

    Args:
        model: The model folder.
        painter: Paints the samples that the thresholds are calibrated on.
        cases: The annotated cases.
        count: Samples.
        config: What is asked for.
        seed: Seeds them.
    """
    calibration = painter.calibration
    if count and len(calibration.checks) > 1:
        known = KnownWords(read_words(model), painter.model.reads)
        with suppress(PlacementError):  # told by `generate`, where it can be mended
            found = painted_trajectories(painter, cases, known, count, config, seed)
            calibration = calibration.with_trajectories(found)
    calibration.save(model / "calibration.json")
    return calibration


def painted_trajectories(
    painter: Painter, cases: Sequence[Case], known_words: KnownWords, count: int, config: GenerateConfig, seed: int
) -> list[Trajectory]:
    """Paint requests to the end and return their scores; another series of requests than any that is generated.

    Args:
        painter: What was fitted; of its calibration, folds and checks count.
        cases: The annotated training cases.
        known_words: Words of the painter's training prompts.
        count: Requests.
        config: What is asked for.
        seed: Seeds them.

    Returns:
        One for each request whose background could be cleared of lesions, where that was asked for.

    Raises:
        PlacementError: No mask fits on any background.
    """
    calibration, own_seed = painter.calibration, seed_of_request(seed, -1) % 2**31
    plain: dict[str, Any] = {"negatives": 0.0, "backgrounds": None}
    drawer = RequestDrawer(
        cases, own_seed, config.model_copy(update=plain), known_words=known_words, folds=calibration.folds
    )
    remover = Remover(painter.model, calibration, painter.validators, own_seed)
    maker = LayoutMaker(drawer, remover, painter.sampler.strength == 1.0)
    gate = Gate(painter.validators, calibration.fixed(0.0))
    requests = [drawer.draw(index) for index in range(count)]
    painted = list(paint_requests(painter, maker, requests, gate))
    return [
        Trajectory(request.size_bin, tuple(check.score for check in sample.checks))
        for request, _, sample in sorted(painted, key=lambda found: found[0].index)
        if sample.checks
    ]


def rare_classes(cases: Sequence[Annotated], names: Sequence[str], alpha: float) -> list[str]:
    """Return a line for each class of several that too few lesions hold for a threshold of its own."""
    least = math.ceil(1 / alpha - 1)
    counts = [
        sum(bool((case.masks[k] & lesion).any()) for case in cases for lesion in case.lesions)
        for k in range(len(names))
    ]
    return [
        f"only {count} annotated lesions hold the class {name}, and a threshold of its own needs {least}: the gate "
        "judges requests for it by the scores of lesions without it"
        for name, count in zip(names, counts, strict=True)
        if count < least and len(names) > 1
    ]
