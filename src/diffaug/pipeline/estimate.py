"""Estimate minutes and disk of a stage or a run, and keep a run within its budget."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from diffaug.config import FRAME_CELLS, FRAMES, UNET, Config, FitConfig, GenerateConfig, StudyConfig
from diffaug.pipeline.jobs import ARMS, Job, is_painted
from diffaug.pipeline.machine import Facts, Look

if TYPE_CHECKING:
    from diffaug.study.lines import CostLine, RunLine
    from diffaug.study.records import Records

log = logging.getLogger(__name__)

SEGMENTER, ENCODER = 10.0, 32.0  # ms of a training step of `unet` and of other networks at 128 px, for each row
# What else a stage does, in painter's rows, as measured on phantoms; decision 112 says how far off the sums are.
VALIDATOR = 0.35  # a training step of a validator, for each window, or part of an image that is as large
VIEW = 0.7  # a view of a whole image that a validator learns from: varied and encoded
WINDOW = 1.3  # a window that a validator learns from: cut, encoded, noised and denoised
LOOK = 24 / 3  # an annotated case that chooses the checkpoint, each time it is looked at: 24 windows without gradient
CALIBRATE = 8.0  # a sample that is painted to calibrate, and shown to the critic
LEARN = 8.0  # an annotated image: read, its rules and its windows
REQUEST = 8.0  # a request: drawn, laid out, painted, decoded, blended and checked
WRITE = 30.0  # a megapixel of a kept case: blended, written and read back
AUGMENT, TEST = 0.05, 0.4  # an image of a study, augmented or tested, in rows of its own network
LOADED = 0.15  # minutes until a stage works: imports, networks, and images that are checked
REQUESTED = 2.0  # requests for a kept lesion case
FEW = 2  # lesions of an image, up to which a case gets one
MODEL_MB, RUN_MB = 110.0, 20.0  # a model folder; the weights and predictions of a trained network


@dataclass(frozen=True)
class Estimate:
    """What a stage or a run will take, roughly.

    Attributes:
        minutes: On this machine where it was timed, else on two cores.
        megabytes: On disk.
        draws: Of a whole run: the number of draws that its budget allows.
        work: What is done, in a sentence.
    """

    minutes: float
    megabytes: float
    draws: int | None = None
    work: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what is known as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def estimate(config: Config | FitConfig | GenerateConfig | StudyConfig, look: Look | None = None) -> Estimate:
    """Estimate what a stage or a whole run will take. The codec counts as shipped: it is not trained."""
    look = look or Look()
    if isinstance(config, FitConfig):
        return _estimate_fit(config, look)
    if isinstance(config, GenerateConfig):
        return _estimate_painting(config, look)
    if isinstance(config, StudyConfig):
        return _estimate_study(config, look)
    return _estimate_run(config, look)


def _estimate_fit(config: FitConfig, look: Look) -> Estimate:
    from diffaug.training.loop import LOOKS

    d, v, cases = config.denoiser, config.validator, look.facts.train
    held_out = max(2, cases // 10) if cases >= 20 else 0
    rows = d.iterations * d.batch_size + min(LOOKS, d.iterations) * held_out * LOOK
    cells = config.codec.window // config.codec.cell
    step = v.batch_size + FRAMES * (max(FRAME_CELLS, cells) / cells) ** 2
    rows += v.folds * v.iterations * step * VALIDATOR
    rows += cases * (v.windows_per_case * WINDOW + v.views_per_case * VIEW)
    rows += v.trajectories * CALIBRATE + (cases + look.facts.unannotated) * LEARN
    work = (
        f"{d.iterations} painter iterations of {d.batch_size} windows, {v.folds} validators of {v.iterations} "
        f"iterations of {v.batch_size}, {v.trajectories} samples to calibrate"
    )
    return Estimate(_minutes_of(rows * look.row), MODEL_MB, work=work)


def _estimate_painting(config: GenerateConfig, look: Look) -> Estimate:
    facts, lesions = look.facts, round(REQUESTED * config.count)
    negatives = round(lesions * config.negatives)
    each = config.lesions_per_case or (1 if facts.lesions <= FEW else min(16, round(facts.lesions)))
    requests = lesions * each + negatives
    kept = config.count + negatives
    rows = requests * REQUEST + kept * facts.megapixels * WRITE
    work = f"{config.count} lesion cases, and up to {negatives} negatives beside them, of about {requests} requests"
    work += f", by {config.workers} processes" if config.workers > 1 else ""
    megabytes = kept * facts.megabytes + requests * 0.02  # previews and rows
    return Estimate(_minutes_of(rows * look.row_of_thread / config.workers), round(megabytes, 1), work=work)


def _estimate_study(config: StudyConfig, look: Look) -> Estimate:
    arms = config.arms or ARMS
    runs = len(arms) * config.seeds
    row = look.segmenter
    if row is None:
        row = SEGMENTER * config.widths[0] / 48 if config.network == UNET else ENCODER
        row *= (config.size / 128) ** 2
    images = config.iterations * config.batch_size * (1 + AUGMENT) + look.facts.tested * TEST
    work = (
        f"{len(arms)} arms ({', '.join(arms)}) x {config.seeds} seeds: {runs} trainings of {config.iterations} "
        f"iterations of {config.batch_size} images, {config.workers} at a time, "
        f"each tested on {look.facts.tested} images"
    )
    rounds = math.ceil(runs / config.workers)  # the last round may leave processes idle
    return Estimate(_minutes_of(rounds * images * row), RUN_MB * runs, work=work)


def _minutes_of(milliseconds: float) -> float:
    return round(milliseconds / 60_000 + LOADED, 1)


def _estimate_run(config: Config, look: Look) -> Estimate:
    data = config.data
    if data.source == "phantom":
        size, counts = data.phantom_size, data.phantoms
        look = replace(look, facts=Facts(counts[0], counts[3], counts[2], size, size, megabytes=2e-6 * size**2))
    parts = []
    for annotated in data.annotated:
        number = look.facts.train if isinstance(annotated, str) else annotated
        painting = config.generate.model_copy(update={"count": math.ceil(data.painted_per_real * number)})
        here = replace(look, facts=replace(look.facts, train=number))
        parts += [estimate(part, here) for part in (config.fit, painting, config.study)]
    folds, draws = max(1, data.folds), len(data.draws)
    minutes, megabytes = (
        folds * sum(values) for values in zip(*((p.minutes, p.megabytes) for p in parts), strict=True)
    )
    if config.budget is not None:
        draws = min(draws, max(1, int(config.budget / minutes)))
    numbers = ", ".join(map(str, data.annotated))
    work = f"fit, painting and study with {numbers} annotated cases"
    work += f" in each of {folds} folds" if data.folds else ""
    work += f", for each of {draws} random draws" if draws > 1 else ""
    return Estimate(round(draws * minutes, 1), round(draws * megabytes, 1), draws, work)


def within_budget(jobs: Sequence[Job], records: "Records") -> list[Job]:
    """Leave out the last draws if all would take longer than the budget, and log what is expected."""
    config = jobs[0].config
    if config.budget is None:
        return list(jobs)
    draws = list(dict.fromkeys(job.draw for job in jobs))
    spent, kept = 0.0, list[int]()
    for draw in draws:
        own = [job for job in jobs if job.draw == draw]
        minutes = sum(_minutes(job, records) for job in own)
        if kept and spent + minutes > config.budget:
            break
        spent += minutes
        kept.append(draw)
    message = f"budget: {len(kept)} of {len(draws)} draws, about {spent:.0f} of {config.budget:g} minutes"
    message += "; intervals will say less about other draws" if len(kept) < len(draws) else ""
    log.info(f"{message}; one draw is made even so" if spent > config.budget else message)
    return [job for job in jobs if job.draw in kept]


def _minutes(job: Job, records: "Records") -> float:
    """Return the minutes that a job will take. What is recorded or made takes none."""
    pending = job.missing(records)
    guess = estimate(job.config.study).minutes / len(job.keys())
    minutes = sum(_measured(records.alike(job.alike(arm)), job.config.study.workers, guess) for arm in pending)
    if any(is_painted(arm) for arm in pending) and not job.has_synthetic:
        costs, guess = records.alike(job.alike()), estimate(job.config.fit).minutes
        minutes += _measured(costs, 1, guess, "fit_seconds")
        minutes += _measured(costs, job.generate.workers, estimate(job.generate).minutes, "generate_seconds")
    return minutes


def _measured(lines: Sequence["RunLine | CostLine"], workers: int, guess: float, what: str = "seconds") -> float:
    """Return the mean minutes of recorded lines, which hold seconds of a core. Without lines it is the guess."""
    seconds = [getattr(line, what, None) for line in lines]
    minutes = [each / workers / 60 for each in seconds if each is not None]
    return sum(minutes) / len(minutes) if minutes else guess
