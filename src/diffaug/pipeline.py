"""Every stage from one config: `diffaug run`, `diffaug demo` and `diffaug study --folds`."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import digest_of_value, make_folder, read_json, read_jsonl, write_csv, write_json
from diffaug.conditioning.requests import check_config
from diffaug.config import Config, FitConfig, GenerateConfig, StudyConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.duplicates import find_duplicates
from diffaug.data.folder import Dataset, copy_case, new_dataset, read_dataset, subset_dataset, write_cases
from diffaug.data.split import connected, folds_by_group
from diffaug.errors import ConfigError

if TYPE_CHECKING:
    from diffaug.study.records import Records

Say = Callable[[str], None]

ARMS = ("real", "copy-paste", "unfiltered", "selected")  # where a config names none
SPARE = 1.5  # accepted cases for each one that an arm takes, so that `selected` can choose
CURVE_COLUMNS = ("annotated", "arm", "draws", "n", "mean", "low", "high")
COST_COLUMNS = (
    "annotated", "draw", "fold", "fit_seconds", "requested", "stopped", "rejected", "kept", "fills", "generate_seconds",
)  # fmt: skip


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


@dataclass(frozen=True)
class Job:
    """One fit with its study: a number of annotated cases, a draw of them, and a fold (None without folds)."""

    config: Config
    source: Path  # the full data set
    full: Path  # every annotation, the fold's apart
    digest: str  # of the full data set
    annotated: int | str
    draw: int
    fold: int | None

    @property
    def out(self) -> Path:
        """The job's folder."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return self.config.out / f"n{self.annotated}-draw{self.draw}{fold}"

    @property
    def seed(self) -> int:
        """The first seed of fit, generation and study."""
        return self.config.seed + self.draw

    @property
    def count(self) -> int:
        """How many training cases are annotated."""
        train = len(read_dataset(self.full).split("train"))
        return train if isinstance(self.annotated, str) else self.annotated

    @cached_property
    def generate(self) -> GenerateConfig:
        """What is painted: enough for the arms, to the end where an arm chooses among what the gate turns down."""
        from diffaug.study.arms import UNGATED

        study, made = self.config.study, self.config.generate
        kinds = {name.partition("@")[0] for name in study.arms}
        ratios = [float(name.partition("@")[2] or study.synthetic_per_real) for name in study.arms if _is_painted(name)]
        wanted = math.ceil(SPARE * max(ratios, default=0.0) * self.count)
        paint_all = made.gate != "off" and (made.paint_all or bool(kinds & set(UNGATED)))
        return made.model_copy(update={"count": max(made.count, wanted), "paint_all": paint_all})

    def keys(self) -> dict[tuple[str, int], str]:
        """Return the key of each of its runs, by arm and seed."""
        from diffaug.study.records import key_of_run

        config = self.config
        test = [one if one in ("val", "test") else dataset_digest(read_dataset(Path(one))) for one in config.data.test]
        where = {
            "data": self.digest, "annotated": self.annotated, "draw": self.draw, "fold": self.fold,
            "folds": config.data.folds, "test": test, "device": config.device,
        }  # fmt: skip
        painting = {
            "fit": config.fit.model_dump(mode="json"),
            "generate": self.generate.model_dump(mode="json", exclude={"workers"}),
        }
        return {
            (arm, seed): key_of_run(arm, config.study, painting, {**where, "seed": seed, "first": self.seed})
            for seed in range(self.seed, self.seed + config.study.seeds)
            for arm in config.study.arms
        }


def dataset_digest(dataset: Dataset) -> str:
    """Return the digest of a data set's cases, splits included, wherever it lies."""
    return digest_of_value([[case.id, case.group, case.split, digest_of_case(case)] for case in dataset.cases])


def run_pipeline(config: Config, data: Path | None = None) -> list[Path]:
    """Run every stage for each number of annotated cases, draw and fold, and pool them; nothing recorded is repeated.

    Args:
        config: Every stage. Without arms the study has `real`, `copy-paste`, `unfiltered` and `selected`.
        data: The full data set, where it is not to be imported.

    Returns:
        The reports, one for each number of annotated cases.

    Raises:
        ConfigError: A stage asks for what cannot be made; told before the first one starts.
        FindingsError: The findings are unknown or break a rule.
        DiffaugError: A stage's own errors.
    """
    from diffaug.study.arms import check_arms
    from diffaug.study.records import Records

    check_config(config.generate)
    study = config.study.model_copy(update={"arms": config.study.arms or ARMS})
    config = config.model_copy(update={"study": study})
    check_arms(study.arms)
    full = data or config.out / "data"
    dataset = read_dataset(full) if (full / "cases.csv").is_file() else import_data(config, full)
    records = Records(config.records or config.out / "records.jsonl")
    jobs = _within_budget(_jobs(config, dataset), records)
    for job in jobs:
        _run_job(job, records)
    numbers = list(dict.fromkeys(job.annotated for job in jobs))
    pooled = {number: _pool([job for job in jobs if job.annotated == number], records) for number in numbers}
    return [_report(config, number, jobs, pooled, records) for number in numbers]


def _jobs(config: Config, dataset: Dataset) -> list[Job]:
    """Return the jobs in order; with folds, the data set of each fold is made first."""
    digest, wanted = dataset_digest(dataset), config.data
    if not wanted.folds:
        fulls: dict[int | None, Path] = {None: dataset.folder}
    else:
        fold_of = folds_by_group(_groups_of(dataset.split("train")), wanted.folds, config.seed)
        fulls = {
            fold: _fold_dataset(dataset, config.out / f"fold{fold}", fold_of, fold) for fold in range(wanted.folds)
        }
    return [
        Job(config, dataset.folder, full, digest, annotated, draw, fold)
        for annotated in wanted.annotated
        for draw in wanted.draws
        for fold, full in fulls.items()
    ]


def _groups_of(cases: Sequence[Case]) -> dict[str, str]:
    """Return the group of each case; groups that share a repeated frame are one, so that no fold is tested on it."""
    first: dict[str, str] = {}
    for case in cases:
        first.setdefault(case.group, case.id)
    links = [(case.id, first[case.group]) for case in cases]
    return connected([case.id for case in cases], [*links, *find_duplicates(cases)])


def _fold_dataset(dataset: Dataset, to: Path, fold_of: Mapping[str, int], fold: int) -> Path:
    """Copy a data set in which one fold of `train` is `test`; what was val and test stays out."""
    if not (to / "cases.csv").is_file():
        cases = [
            replace(case, split="test") if fold_of.get(case.id) == fold else case
            for case in dataset.cases
            if case.split in ("train", "unannotated")
        ]
        with new_dataset(to) as partial:
            write_cases(partial, [copy_case(case, partial) for case in cases])
    return to


def _within_budget(jobs: Sequence[Job], records: "Records") -> list[Job]:
    """Leave out the last draws where all of them would take longer than the budget, and say so."""
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
    if len(kept) < len(draws):
        say(
            f"budget: {config.budget:g} minutes are enough for {len(kept)} of {len(draws)} draws "
            f"(about {spent:.0f} minutes); intervals will say less about other draws"
        )
    return [job for job in jobs if job.draw in kept]


def _minutes(job: Job, records: "Records") -> float:
    """Return the minutes that a job will take: nothing for what is recorded."""
    pending = [arm for (arm, _), key in job.keys().items() if records.run(key) is None]
    if not pending:
        return 0.0
    painted = any(_is_painted(arm) for arm in pending)
    study = estimate(job.config.study)["minutes"] * len(pending) / len(job.keys())
    made = estimate(job.config.fit)["minutes"] + estimate(job.generate)["minutes"] if painted else 0.0
    return study + made


def _is_painted(arm: str) -> bool:
    from diffaug.study.arms import PAINTED

    return arm.partition("@")[0] in PAINTED


def _run_job(job: Job, records: "Records") -> None:
    """Run the stages of a job whose runs are not all recorded, and record them."""
    from diffaug.study.arms import DERIVED
    from diffaug.study.run import cases_of_pool, run_study
    from diffaug.synthesis.shards import generate
    from diffaug.training.fit import fit

    config, out, keys = job.config, job.out, job.keys()
    pending = [arm for arm in config.study.arms if any(not records.run(k) for (a, _), k in keys.items() if a == arm)]
    if not pending:
        return
    if {arm.partition("@")[0] for arm in pending} & set(DERIVED) and "real" not in pending:
        pending = ["real", *pending]  # its weights are needed
    if not (out / "data" / "cases.csv").is_file():
        subset_dataset(read_dataset(job.full), out / "data", job.count, job.draw)
    sets = []
    if any(_is_painted(arm) for arm in pending):
        say(f"fit: {job.count} annotated cases, draw {job.draw}{'' if job.fold is None else f', fold {job.fold}'}")
        options = {"seed": job.seed, "device": config.device, "painting": job.generate}
        fitted = fit(out / "data", out / "model", config.fit, **options)  # type: ignore[arg-type]
        for notice in fitted["notices"]:
            say(notice)
        say(f"generate: {job.generate.count} cases")
        made = generate(
            out / "model", out / "data", out / "synthetic", job.generate,
            seed=job.seed, workers=job.generate.workers, device=config.device,
        )  # fmt: skip
        sets = [out / "synthetic"]
        records.note("cost", digest_of_value([job.digest, str(out.name), made]), _cost(job, fitted, made))
    say(f"study: {', '.join(pending)}; {config.study.seeds} seeds")
    study = config.study.model_copy(update={"arms": tuple(pending)})
    summary = run_study(
        out / "data", out / "study", sets, study,
        seed=job.seed, test=("test",) if config.data.folds else config.data.test, device=config.device, oracle=job.full,
        allow_duplicates=config.data.allow_duplicates,
    )  # fmt: skip
    for (arm, seed), key in keys.items():
        if arm in pending and records.run(key) is None:
            runs = out / "study" / "runs"
            pool = read_json(runs / f"{arm}-{seed}.pool.json")
            told: dict[str, Any] = {
                "arm": arm,
                "annotated": job.annotated,
                "draw": job.draw,
                "fold": job.fold,
                "seed": seed,
            }
            told |= {"cases": cases_of_pool(pool), "fills": pool["fills"]}
            told |= {"base_seen": summary["base_seen"]} if _is_painted(arm) else {}
            records.add(key, told, read_jsonl(runs / f"{arm}-{seed}.jsonl"), summary["contrast_cut"])


def _cost(job: Job, fitted: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "annotated": job.annotated,
        "draw": job.draw,
        "fold": job.fold,
        "fit_seconds": round(sum(fitted["seconds"].values()), 1),
        **{name: made[name] for name in ("requested", "stopped", "rejected", "kept")},
        "fills": made.get("fills", {}).get("kept", 0),
        "generate_seconds": made["seconds"],
    }


def _pool(jobs: Sequence[Job], records: "Records") -> dict[str, Any]:
    """Return records and summary of all draws and folds of one number of annotated cases."""
    from diffaug.study.statistics import summarise

    lines = [(job, records.run(key)) for job in jobs for key in job.keys().values()]
    found = [line for _, line in lines if line is not None]
    rows = [row for job, line in lines if line is not None for row in _with_pictures(job, records.records_of(line))]
    alarms: dict[str, list[list[float]]] = {}
    for line in found:
        alarms.setdefault(line["arm"], []).append(line["fills"])
    config = jobs[0].config
    names = read_dataset(jobs[0].full).class_names
    summary = summarise(rows, config.study.bootstrap, config.seed, names, alarms)
    cuts = {line["cut"] for line in found}
    summary["contrast_cut"] = cuts.pop() if len(cuts) == 1 else None
    summary["base_seen"] = _seen_by_bases([line for line in found if _is_painted(line["arm"])])
    for line in reversed(found):
        summary["arms"][line["arm"]]["cases"] = line["cases"]
    return {"rows": rows, "summary": summary, "names": names}


def _seen_by_bases(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how many test images the bases have seen: the most of any draw, summed over folds; None without arms."""
    if not lines:
        return None
    nothing = {"known": False, "of": 0, "annotated": 0, "unannotated": 0}
    told = [(line["fold"], line.get("base_seen") or nothing) for line in lines]
    folds = {fold: [seen for other, seen in told if other == fold] for fold, _ in told}
    counts = {name: sum(max(seen[name] for seen in own) for own in folds.values()) for name in list(nothing)[1:]}
    return {"known": all(seen["known"] for _, seen in told), **counts}


def _with_pictures(job: Job, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say where the predictions of a run lie, if they are still there; the pooled folder lies beside the job's."""
    for index, row in enumerate(rows):
        picture = Path("study") / "predictions" / f"{row['arm']}-{row['seed']}" / f"{index:05d}.png"
        if (job.out / picture).is_file() and job.draw == job.config.data.draws[0]:
            row["prediction"] = f"../{job.out.name}/{picture.as_posix()}"
    return rows


def _report(
    config: Config, number: int | str, jobs: Sequence[Job], pooled: Mapping[int | str, Any], records: "Records"
) -> Path:
    """Write the tables and the report of one number of annotated cases; the curve is over all numbers."""
    from diffaug.report.page import write_report
    from diffaug.study.run import write_tables

    own = [job for job in jobs if job.annotated == number]
    out, found = make_folder(config.out / f"n{number}"), pooled[number]
    costs = [line for line in records.noted("cost") if line["annotated"] == number]
    write_csv(out / "curve.csv", curve(pooled), CURVE_COLUMNS)
    write_csv(out / "costs.csv", costs, COST_COLUMNS)
    write_json(out / "study.json", _plan(config, own, found))
    write_tables(out, found["rows"], found["summary"], found["names"])
    synthetic = own[0].out / "synthetic"
    return write_report(out, synthetic if (synthetic / "summary.json").is_file() else None)


def curve(pooled: Mapping[int | str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean Dice by number of annotated cases and arm."""
    return [
        {
            "annotated": one["cases"]["real"] if arm != "oracle" else number,
            "arm": arm,
            "draws": one["draws"],
            "n": one["n"],
        }
        | one["dice"]
        for number, found in pooled.items()
        for arm, one in found["summary"]["arms"].items()
    ]


def _plan(config: Config, jobs: Sequence[Job], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was run, pooled over jobs, as study.json says it."""
    from diffaug.artifacts import versions
    from diffaug.study.arms import ARMS as MEANING

    plan: dict[str, Any] = next(
        (read_json(path) for job in jobs if (path := job.out / "study" / "study.json").is_file()), {}
    )
    config_of = config.study.model_dump(mode="json")
    cases = {"train": jobs[0].count, "unannotated": 0, "synthetic": [], "full": 0, **plan.get("cases", {})}
    tests = ["test"] if config.data.folds else list(config.data.test)
    return {
        "identity": {"seed": config.seed, "test": tests, "device": config.device},
        "config": config_of,
        "arms": {name: MEANING[name.partition("@")[0]] for name in config.study.arms},
        "data": str(jobs[0].source),
        **({"classes": list(found["names"])} if len(found["names"]) > 1 else {}),
        "tests": plan.get("tests", []) if not config.data.folds else [],
        "synthetic": plan.get("synthetic", []),
        "oracle": str(jobs[0].full),
        "cases": {**cases, "test": len({row["case"] for row in found["rows"]})},
        "duplicates": plan.get("duplicates", []),
        "shared_groups": plan.get("shared_groups", []),
        "draws": sorted({job.draw for job in jobs}),
        "wanted_draws": list(config.data.draws),
        "folds": config.data.folds,
        "versions": plan.get("versions", versions()),
    }


# Milliseconds of one core, from the run of runs/kvasir.sh in docs/results.md (two AVX-512 cores); a rough guide.
TRAIN_PAINTER, TRAIN_VALIDATOR, AUGMENT_SEGMENTER, TRAIN_SEGMENTER = 34.0, 12.0, 3.0, 20.0  # per row of a batch
PAINT_STEP, PREPARE, FINISH = 12.0, 90.0, 90.0  # per request
KEPT_MB = 0.25  # a kept case of 352 x 352 as PNG
MODEL_MB = 75.0


def estimate(config: Config | FitConfig | GenerateConfig | StudyConfig) -> dict[str, float]:
    """Return the minutes on two cores and the megabytes that a stage or a whole run will take, roughly.

    The codec counts only where it is trained, which it is not when the shipped one suits the images.
    """
    if isinstance(config, Config):
        parts = [estimate(config.fit), estimate(config.generate), estimate(config.study)]
        runs = len(config.data.annotated) * len(config.data.draws) * max(1, config.data.folds)
        return {key: round(runs * sum(part[key] for part in parts), 1) for key in ("minutes", "megabytes")}
    if isinstance(config, FitConfig):
        d, v = config.denoiser, config.validator
        ms = d.iterations * d.batch_size * TRAIN_PAINTER + v.folds * v.iterations * v.batch_size * TRAIN_VALIDATOR
        return {"minutes": round(ms / 2 / 60_000 + 2, 1), "megabytes": 3 * MODEL_MB}
    if isinstance(config, GenerateConfig):
        requests = 1.5 * config.count * (1 + config.fills)
        ms = requests * (PREPARE + FINISH + 10 * PAINT_STEP)
        return {"minutes": round(ms / config.workers / 60_000, 1), "megabytes": round(requests * KEPT_MB, 1)}
    runs = len(config.arms or ARMS) * config.seeds
    relative = (config.size / 128) ** 2 * (4 / config.cell) ** 2 * (config.widths[0] / 48) ** 2
    ms = runs * config.iterations * config.batch_size * (AUGMENT_SEGMENTER + TRAIN_SEGMENTER * relative)
    return {"minutes": round(ms / config.workers / 60_000, 1), "megabytes": 10.0 * runs}
