"""Every stage from one config: `diffaug run` and `diffaug demo`."""

import sys
from collections.abc import Callable
from pathlib import Path

from diffaug.config import Config, FitConfig, GenerateConfig, StudyConfig
from diffaug.data.folder import Dataset, read_dataset, subset_dataset
from diffaug.errors import ConfigError

Say = Callable[[str], None]


def say(text: str) -> None:
    """Print a line to stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def import_data(config: Config, to: Path) -> Dataset:
    """Make the full data set of a run.

    Raises:
        ConfigError: The source needs a path and has none.
    """
    from diffaug.data.phantom import make_phantoms
    from diffaug.data.sources import READERS

    source, path = config.data.source, config.data.path
    if source == "phantom":
        counts = config.data.phantoms
        return make_phantoms(to, *counts, size=config.data.phantom_size, seed=config.seed, progress="phantoms")
    if path is None:
        raise ConfigError(f"data.path is needed for the source {source}: it is not set; name the folder of the images")
    dataset, notices = READERS[source](path, to, config.seed, "importing")
    for notice in notices:
        say(notice)
    return dataset


def run_pipeline(config: Config) -> list[Path]:
    """Run every stage for each number of annotated cases and each draw; finished stages are skipped.

    Returns:
        The reports, one for each number and draw.
    """
    full = config.out / "data"
    dataset = read_dataset(full) if (full / "cases.csv").is_file() else import_data(config, full)
    reports = []
    for annotated in config.data.annotated:
        for draw in config.data.draws:
            reports.append(_run_draw(config, dataset, annotated, draw))
    return reports


def _run_draw(config: Config, dataset: Dataset, annotated: int, draw: int) -> Path:
    from diffaug.report.page import write_report
    from diffaug.study.run import run_study
    from diffaug.synthesis.shards import generate
    from diffaug.training.fit import fit

    out, seed = config.out / f"n{annotated}-draw{draw}", config.seed + draw
    if not (out / "data" / "cases.csv").is_file():
        subset_dataset(dataset, out / "data", annotated, draw)
    say(f"fit: {annotated} annotated cases, draw {draw}")
    for notice in fit(out / "data", out / "model", config.fit, seed=seed, painting=config.generate)["notices"]:
        say(notice)
    say(f"generate: {config.generate.count} cases")
    generate(
        out / "model", out / "data", out / "synthetic", config.generate, seed=seed, workers=config.generate.workers
    )
    say(f"study: {', '.join(config.study.arms)}; {config.study.seeds} seeds")
    run_study(
        out / "data", out / "study", [out / "synthetic"], config.study,
        seed=seed, test=config.data.test, device=config.device, oracle=config.out / "data",
    )  # fmt: skip
    return write_report(out / "study", out / "synthetic")


# Milliseconds of one core, from the run of runs/kvasir.sh in docs/results.md (two AVX-512 cores); a rough guide.
TRAIN_PAINTER, TRAIN_VALIDATOR, TRAIN_SEGMENTER = 34.0, 12.0, 16.0  # per row of a batch
PAINT_STEP, PREPARE, FINISH = 12.0, 90.0, 90.0  # per request
KEPT_MB = 0.25  # a kept case of 352 x 352 as PNG
MODEL_MB = 75.0


def estimate(config: Config | FitConfig | GenerateConfig | StudyConfig) -> dict[str, float]:
    """Return the minutes on two cores and the megabytes that a stage or a whole run will take, roughly.

    The codec counts only where it is trained, which it is not when the shipped one suits the images.
    """
    if isinstance(config, Config):
        parts = [estimate(config.fit), estimate(config.generate), estimate(config.study)]
        runs = len(config.data.annotated) * len(config.data.draws)
        return {key: round(runs * sum(part[key] for part in parts), 1) for key in ("minutes", "megabytes")}
    if isinstance(config, FitConfig):
        d, v = config.denoiser, config.validator
        ms = d.iterations * d.batch_size * TRAIN_PAINTER + v.folds * v.iterations * v.batch_size * TRAIN_VALIDATOR
        return {"minutes": round(ms / 2 / 60_000 + 2, 1), "megabytes": 3 * MODEL_MB}
    if isinstance(config, GenerateConfig):
        requests = 1.5 * config.count
        ms = requests * (PREPARE + FINISH + 10 * PAINT_STEP)
        return {"minutes": round(ms / config.workers / 60_000, 1), "megabytes": round(requests * KEPT_MB, 1)}
    runs = len(config.arms) * config.seeds
    ms = runs * config.iterations * config.batch_size * TRAIN_SEGMENTER
    return {"minutes": round(ms / config.workers / 60_000, 1), "megabytes": 10.0 * runs}
