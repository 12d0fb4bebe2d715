"""Thresholds of the gate: from real lesions at the end, from samples painted to the end on the way there."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import digest_of_folder
from diffaug.compute.progress import tracked
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
from diffaug.realism.critic import Critic, why_no_critic
from diffaug.training.critic import Sample, find_critic
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
    """Return what out-of-fold scores of real lesions say: thresholds at the end, over the floor, and none before it."""
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
        floor=config.validator.floor,
    ).over_floor()


@dataclass(frozen=True)
class Gates:
    """What decides on painted samples.

    Attributes:
        calibration: Thresholds, those before the end included.
        critic: Tells how well painted lesions convince; None where no reader has taught it, or too little was painted.
        no_critic: Why there is none.
    """

    calibration: Calibration
    critic: Critic | None
    no_critic: str


def write_gates(
    model: Path, painter: Painter, cases: Sequence[Annotated], count: int, config: GenerateConfig, seed: int
) -> Gates:
    """Write a painter's calibration with thresholds before the end, and its critic, from samples painted to the end.

    Neither knows a painted sample where nothing can be painted; then there is no critic.

    Args:
        model: The model folder.
        painter: Paints the samples.
        cases: The annotated cases.
        count: Samples.
        config: What is asked for.
        seed: Seeds them.
    """
    calibration, critic, scores = painter.calibration, None, dict[int, Trajectory]()

    def noted(samples: Iterable[Sample]) -> Iterator[Sample]:
        for request, layout, sample in samples:
            if sample.checks:
                checks = tuple(check.score for check in sample.checks)
                scores[request.index] = Trajectory(request.size_bin, checks)
                yield request, layout, sample

    if count:
        known = KnownWords(read_words(model), painter.model.reads)
        with suppress(PlacementError):  # told by `generate`, where it can be mended
            samples = painted_samples(painter, [case.case for case in cases], known, count, config, seed)
            shown = tracked(noted(samples), count, "painting to calibrate")
            critic = find_critic(painter, shown)
        if len(calibration.checks) > 1 and scores:
            calibration = calibration.with_trajectories([scores[index] for index in sorted(scores)])
    calibration.save(model / "calibration.json")
    if critic is not None:
        critic.save(model)
    return Gates(calibration, critic, "" if critic else why_no_critic(painter.rules.domain, len(scores)))


def painted_samples(
    painter: Painter, cases: Sequence[Case], known_words: KnownWords, count: int, config: GenerateConfig, seed: int
) -> Iterator[Sample]:
    """Paint requests to the end and yield them; another series of requests than any that is generated.

    A request whose background could not be cleared of lesions has no checks.

    Args:
        painter: What was fitted; of its calibration, folds and checks count.
        cases: The annotated training cases.
        known_words: Words of the painter's training prompts.
        count: Requests.
        config: What is asked for.
        seed: Seeds them.

    Raises:
        PlacementError: No mask fits on any background.
    """
    calibration, own_seed = painter.calibration, seed_of_request(seed, -1) % 2**31
    plain: dict[str, Any] = {"negatives": 0.0, "backgrounds": None}
    drawer = RequestDrawer(
        cases, own_seed, config.model_copy(update=plain), known_words=known_words, folds=calibration.folds,
        rules=painter.rules,
    )  # fmt: skip
    remover = Remover(painter.model, calibration, painter.validators, own_seed, rules=painter.rules)
    maker = LayoutMaker(drawer, remover, painter.sampler.strength == 1.0)
    gate = Gate(painter.validators, calibration.fixed(0.0))
    requests = list(drawer.draw_some(count))
    yield from paint_requests(painter, maker, requests, gate)


def rare_classes(cases: Sequence[Annotated], names: Sequence[str], alpha: float) -> list[str]:
    """Return a line for each class of several that too few lesions hold for a threshold of its own."""
    least = math.ceil(1 / alpha - 1)
    counts = [
        sum(bool((case.masks[k] & lesion).any()) for case in cases for lesion in case.lesions)
        for k in range(len(names))
    ]
    return [
        f"only {count} annotated {'lesion holds' if count == 1 else 'lesions hold'} the class {name}, and a threshold "
        f"of its own needs {least}: the gate judges requests for it by the scores of lesions without it"
        for name, count in zip(names, counts, strict=True)
        if count < least and len(names) > 1
    ]
