"""Estimate minutes and disk of a stage or a run, and keep a run within its budget."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from diffaug.config import UNET, Config, FitConfig, GenerateConfig, StudyConfig
from diffaug.pipeline.jobs import ARMS, Job, is_painted

if TYPE_CHECKING:
    from diffaug.study.lines import CostLine, RunLine
    from diffaug.study.records import Records

log = logging.getLogger(__name__)

# Milliseconds of one core, from the run of runs/kvasir.sh in docs/results.md (two AVX-512 cores); a rough guide.
TRAIN_PAINTER, TRAIN_VALIDATOR, AUGMENT_SEGMENTER, TRAIN_SEGMENTER = 34.0, 12.0, 1.5, 10.0  # per row of a batch
TRAIN_ENCODER = 32.0  # the same of efficientnet-lite0 with its decoder, and so of any network whose cost is unknown
PAINT_STEP, PREPARE, FINISH = 12.0, 90.0, 90.0  # per request
KEPT_MB = 0.25  # a kept case of 352 x 352 as PNG
MODEL_MB = 75.0
ALL = 500  # training cases of a data set that is not looked at


@dataclass(frozen=True)
class Estimate:
    """What a stage or a run will take, roughly.

    Attributes:
        minutes: On two cores.
        megabytes: On disk.
        draws: Of a whole run: the number of draws that its budget allows.
    """

    minutes: float
    megabytes: float
    draws: int | None = None

    def as_dict(self) -> dict[str, float]:
        """Return the numbers that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def estimate(config: Config | FitConfig | GenerateConfig | StudyConfig) -> Estimate:
    """Estimate what a stage or a whole run will take. The codec counts as shipped: it is not trained."""
    if isinstance(config, FitConfig):
        d, v = config.denoiser, config.validator
        ms = d.iterations * d.batch_size * TRAIN_PAINTER + v.folds * v.iterations * v.batch_size * TRAIN_VALIDATOR
        return Estimate(round(ms / 2 / 60_000 + 2, 1), 3 * MODEL_MB)
    if isinstance(config, GenerateConfig):
        requests = 1.5 * config.count * (1 + config.negatives)
        ms = requests * (PREPARE + FINISH + 10 * PAINT_STEP)
        return Estimate(round(ms / config.workers / 60_000, 1), round(requests * KEPT_MB, 1))
    if isinstance(config, StudyConfig):
        runs = len(config.arms or ARMS) * config.seeds
        row = TRAIN_SEGMENTER * config.widths[0] / 48 if config.network == UNET else TRAIN_ENCODER
        row = AUGMENT_SEGMENTER + row * (config.size / 128) ** 2
        ms = runs * config.iterations * config.batch_size * row
        return Estimate(round(ms / config.workers / 60_000, 1), 10.0 * runs)
    return _estimate_run(config)


def _estimate_run(config: Config) -> Estimate:
    data = config.data
    train = data.phantoms[0] if data.source == "phantom" else ALL
    parts = []
    for annotated in data.annotated:
        count = math.ceil(data.painted_per_real * (train if isinstance(annotated, str) else annotated))
        painting = config.generate.model_copy(update={"count": count})
        parts += [estimate(config.fit), estimate(painting), estimate(config.study)]
    folds, draws = max(1, data.folds), len(data.draws)
    minutes, megabytes = (
        folds * sum(values) for values in zip(*((p.minutes, p.megabytes) for p in parts), strict=True)
    )
    if config.budget is not None:
        draws = min(draws, max(1, int(config.budget / minutes)))
    return Estimate(round(draws * minutes, 1), round(draws * megabytes, 1), draws)


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
    if any(is_painted(arm) for arm in pending) and not (job.out / "synthetic" / "summary.json").is_file():
        costs, guess = records.alike(job.alike()), estimate(job.config.fit).minutes
        minutes += _measured(costs, 1, guess, "fit_seconds")
        minutes += _measured(costs, job.generate.workers, estimate(job.generate).minutes, "generate_seconds")
    return minutes


def _measured(lines: Sequence["RunLine | CostLine"], workers: int, guess: float, what: str = "seconds") -> float:
    """Return the mean minutes of recorded lines, which hold seconds of a core. Without lines it is the guess."""
    seconds = [getattr(line, what, None) for line in lines]
    minutes = [each / workers / 60 for each in seconds if each is not None]
    return sum(minutes) / len(minutes) if minutes else guess
