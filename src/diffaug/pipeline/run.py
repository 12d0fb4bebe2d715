"""Every stage from one config: `diffaug run`, `diffaug demo` and `diffaug study --folds`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import (
    PathLike,
    held,
    make_folder,
    read_json,
    read_jsonl,
    write_json,
)
from diffaug.config import Config
from diffaug.data.folder import read_dataset, subset_dataset
from diffaug.errors import EmptyArmError

if TYPE_CHECKING:
    from diffaug.study.records import Records
    from diffaug.synthesis.generate import GenerateSummary
    from diffaug.training.fit import FitSummary

from diffaug.pipeline.estimate import within_budget
from diffaug.pipeline.jobs import Job, check_jobs, checked, derived, imported, is_painted, jobs_of, made_of
from diffaug.pipeline.pooled import EXCEPTIONS, pool, report

log = logging.getLogger(__name__)


def run_pipeline(config: Config, data: PathLike | None = None) -> list[Path]:
    """Run every stage for each number of annotated cases, draw and fold, and pool them; nothing recorded is repeated.

    Args:
        config: Every stage. Without arms the study has `real`, `copy-paste`, `unfiltered` and `selected`.
        data: The full data set, where it is not to be imported.

    Returns:
        The reports, one for each number of annotated cases.

    Raises:
        ConfigError: A stage asks for what cannot be made, told before the first one starts; or another process works
            in the folder of a job.
        FindingsError: The findings are unknown or break a rule.
        DiffaugError: Any error of a stage.

    Example:
        >>> diffaug.run_pipeline(diffaug.read_config("run.yaml"))  # doctest: +SKIP
    """
    from diffaug.study.records import Records

    config = checked(config).model_copy(update={"device": _device(config.device)})
    dataset = read_dataset(data) if data is not None else imported(config)
    records = Records(config.records or config.out / "records.jsonl")
    jobs = within_budget(jobs_of(config, dataset), records)
    check_jobs([job for job in jobs if job.pending(records)])
    for job in jobs:
        _run_job(job, records)
    numbers = list(dict.fromkeys(job.annotated for job in jobs))
    pooled = {number: pool([job for job in jobs if job.annotated == number], records) for number in numbers}
    return [report(config, number, jobs, pooled, records) for number in numbers]


def _device(name: str) -> str:
    """Return a device's own name: a record does not depend on whether it was asked for by `auto`.

    Any other name stays, and need not be there to read what is recorded.
    """
    if name != "auto":
        return name
    from diffaug.compute.devices import device_of

    return str(device_of(name))


def _run_job(job: Job, records: "Records") -> None:
    """Run the stages of a job whose runs are not all recorded, and record them."""
    pending, beside = job.pending(records), job.oracles_beside(records)
    if pending or beside:
        with held(job.out):
            _run_stages(job, records, pending, beside)


def _run_stages(job: Job, records: "Records", pending: list[str], beside: Mapping[str, Mapping[str, Any]]) -> None:
    """Run what the pending arms need, and record it with the runs of `oracle` that are recorded beside."""
    from diffaug.study.arms import is_derived
    from diffaug.synthesis.generate import generate
    from diffaug.training.fit import fit

    config, out = job.config, job.out
    painted, labelled = any(is_painted(arm) for arm in pending), config.data.backgrounds == "pseudo-labelled"
    if any(is_derived(arm) for arm in pending) or (painted and labelled):
        pending = list(dict.fromkeys(["real", *pending]))  # its weights are needed, even where it is recorded
    derived(
        out / "data",
        {**made_of(config, job.digest, job.fold), "annotated": job.count, "draw": job.draw},
        lambda to: subset_dataset(read_dataset(job.full), to, job.count, job.draw),
    )
    if beside:
        records.repeat(beside, job.annotated, _contrast_cut(out / "data"))
    if not pending:
        return
    write_json(make_folder(out / "study") / "duplicates.json", read_json(job.repeated))  # of the same images
    if painted:
        log.info(f"fit: {job.count} annotated cases, draw {job.draw}{'' if job.fold is None else f', fold {job.fold}'}")
        options = {"seed": job.seed, "device": config.device, "painting": job.generate}
        fitted = fit(out / "data", out / "model", config.fit, **options)  # type: ignore[arg-type]
        for notice in fitted.notices if fitted else ():
            log.info(notice)
        wanted = job.generate
        if labelled:
            first = [arm for arm in pending if not is_painted(arm)]
            log.info(f"study: {', '.join(first)}; real labels the frames that are painted on")
            _study_and_record(job, first, records)
            wanted = wanted.model_copy(update={"backgrounds": _label_frames(job)})
        log.info(f"generate: {wanted.count} cases")
        made = generate(
            out / "model", out / "data", out / "synthetic", wanted,
            seed=job.seed, workers=job.generate.workers, device=config.device,
        )  # fmt: skip
        records.note("cost", job.painted_key, {"alike": job.alike(), **_cost(job, fitted, made)})
    log.info(f"study: {', '.join(pending)}; {config.study.seeds} seeds")
    _study_and_record(job, pending, records)


def _contrast_cut(data: Path) -> float | None:
    from diffaug.study.arms import annotated
    from diffaug.study.strata import contrast_cut, profile

    return contrast_cut(profile(case) for case in annotated(read_dataset(data), "train"))


def _label_frames(job: Job) -> Path | None:
    """Make the data set of the images that `real` labels with confidence; None where there is none."""
    from diffaug.study.derive import pseudo_label_set

    to = job.out / "labelled"
    try:
        found = pseudo_label_set(job.out / "study", to)
    except EmptyArmError as error:
        log.info(f"lesions are painted on annotated frames alone: {error}")
        return None
    log.info(f"{found['labelled']} of {found['unannotated']} unannotated images are labelled")
    return to


def _study_and_record(job: Job, arms: Sequence[str], records: "Records") -> None:
    """Run some arms of a job's study and record the runs that are not recorded yet."""
    from diffaug.study.records import alarms_key
    from diffaug.study.run import cases_of_pool

    summary, runs = _study(job, arms), job.out / "study" / "runs"
    plan = read_json(job.out / "study" / "study.json")
    for (arm, seed), key in job.keys().items():
        if arm not in arms:
            continue
        pool, known = read_json(runs / f"{arm}-{seed}.pool.json"), records.run(key, job.painted_key)
        if known is None:
            last = read_jsonl(runs / f"{arm}-{seed}.log.jsonl")[-1]
            told: dict[str, Any] = {"arm": arm, "annotated": job.annotated, "draw": job.draw}
            told |= {"fold": job.fold, "seed": seed}
            told |= {"alike": job.alike(arm), "seconds": round(last["ms"] * last["iteration"] / 1000, 3)}
            told |= {"cases": cases_of_pool(pool), "fills": pool["fills"]}
            told |= {"painted": job.painted_key} if pool["fills"] else {}
            told |= {"base_seen": summary["base_seen"]} if is_painted(arm) else {}
            told |= {name: plan[name] for name in EXCEPTIONS if plan[name]}
            records.add(key, told, read_jsonl(runs / f"{arm}-{seed}.jsonl"), summary["contrast_cut"])
        elif pool["fills"] and not known["fills"]:
            records.note("alarms", alarms_key(key, job.painted_key), {"fills": pool["fills"]})


def _study(job: Job, arms: Sequence[str]) -> dict[str, Any]:
    """Run some arms of a job's study, with its synthetic set where it is made, and return the summary."""
    from diffaug.study.run import run_study

    config = job.config
    sets = [job.out / "synthetic"] if (job.out / "synthetic" / "summary.json").is_file() else []
    return run_study(
        job.out / "data", job.out / "study", sets, config.study.model_copy(update={"arms": tuple(arms)}),
        seed=job.seed, test=job.tests, device=config.device, oracle=job.full,
        allow_duplicates=config.data.allow_duplicates,
    )  # fmt: skip


def _cost(job: Job, fitted: "FitSummary | None", made: "GenerateSummary") -> dict[str, Any]:
    counts = made.funnel.lesions
    return {
        "annotated": job.annotated,
        "draw": job.draw,
        "fold": job.fold,
        "fit_seconds": round(sum(fitted.seconds.values()), 1) if fitted else 0.0,
        "requested": counts.requested,
        "stopped": counts.stopped,
        "rejected": counts.rejected,
        "kept": counts.kept,
        "fills": made.funnel.negatives.kept,
        "generate_seconds": made.seconds,
    }
