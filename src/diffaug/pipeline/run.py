"""Every stage from one config: `diffaug run`, `diffaug demo` and `diffaug study --folds`."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import PathLike, make_folder, read_json, read_jsonl, write_json
from diffaug.compute.cluster import connected
from diffaug.config import Config
from diffaug.data.folder import read_dataset, subset_dataset
from diffaug.errors import EmptyArmError
from diffaug.pipeline.estimate import within_budget
from diffaug.pipeline.jobs import Job, check_jobs, checked, derived, imported, is_painted, jobs_of, made_of
from diffaug.pipeline.pooled import EXCEPTIONS, curve_of, pool, write_pooled
from diffaug.runfolder import altered_files, held, note_files

if TYPE_CHECKING:
    from diffaug.study.records import Records
    from diffaug.synthesis.generate import GenerateSummary
    from diffaug.training.fit import FitSummary

log = logging.getLogger(__name__)


def run_pipeline(config: Config, data: PathLike | None = None) -> list[Path]:
    """Run every stage for each number of annotated cases, draw and fold, and report the pooled results.

    Recorded trainings are not repeated. If a file of a finished job was altered, the job's stages are called again, and
    make it again or name it.

    Args:
        config: Every stage. Without arms the study has `real`, `copy-paste` and `selected`.
        data: The full data set. By default it is imported from `config.data.source`.

    Returns:
        The reports, one for each number of annotated cases.

    Raises:
        ConfigError: A stage cannot be run, which is found before the first stage starts; or another process works in
            the folder of a job.
        FindingsError: The findings are unknown or break a rule.
        DataError: A file of a finished job was altered, and no stage makes it again.
        DiffaugError: Any error of a stage.

    Example:
        >>> diffaug.run_pipeline(diffaug.read_config("run.yaml"))  # doctest: +SKIP
    """
    from diffaug.study.records import Records

    config = checked(config).model_copy(update={"device": _device(config.device)})
    dataset = read_dataset(data) if data is not None else imported(config)
    records = Records(config.records or config.out / "records.jsonl")
    jobs = within_budget(jobs_of(config, dataset), records)
    altered = {job.out: altered_files(job.out) for job in jobs}
    check_jobs([job for job in jobs if job.missing(records) or altered[job.out] or job.is_repeated_damaged])
    with _cluster(config):
        for job in jobs:
            _run_job(job, records, altered[job.out])
    pooled = {number: pool([job for job in jobs if job.annotated == number], records) for number in _numbers(jobs)}
    curve = curve_of(pooled.values())
    return [write_pooled(config.out / f"n{number}", each, curve, records) for number, each in pooled.items()]


def _numbers(jobs: Sequence[Job]) -> list[int | str]:
    """Return the numbers of annotated cases, each once, in order."""
    return list(dict.fromkeys(job.annotated for job in jobs))


def _cluster(config: Config) -> AbstractContextManager[Any]:
    """Return what connects to the Ray cluster of the stages once for all jobs, if there is one."""
    stages = [stage for stage in (config.generate, config.study) if stage.ray]
    return connected(stages[0].ray, max(stage.workers for stage in stages)) if stages else nullcontext()


def _device(name: str) -> str:
    """Return the device that `auto` stands for, so that records do not depend on the word.

    Any other name is returned as it is: records of a device can be read without it.
    """
    if name != "auto":
        return name
    from diffaug.compute.devices import device_of

    return str(device_of(name))


def _run_job(job: Job, records: "Records", altered: Mapping[str, int]) -> None:
    """Run the stages of a job that its unrecorded runs need, or its runs here if files were altered; record them."""
    from diffaug.study.arms import parse_arm

    pending = list(dict.fromkeys([*job.missing(records), *(job.trained() if altered else ())]))
    if not pending:
        if altered:
            note_files(job.out, altered)  # names one: there are no stages here that would make it again
        return
    with held(job.out):
        derived(
            job.out / "data",
            {**made_of(job.config, job.digest, job.fold), "annotated": job.count, "draw": job.draw},
            lambda to: subset_dataset(read_dataset(job.full), to, job.count, job.draw, job.config.data.unannotated),
        )
        # The images are the same as those that were compared before the first job.
        write_json(make_folder(job.out / "study") / "duplicates.json", read_json(job.repeated))
        painted = any(map(is_painted, pending))
        if (painted and job.labels_backgrounds) or any(parse_arm(arm).is_derived for arm in pending):
            pending = list(dict.fromkeys(["real", *pending]))  # its weights are needed, even if it is recorded
        if painted:
            _paint(job, [arm for arm in pending if not is_painted(arm)], records)
        log.info(f"study: {', '.join(pending)}; {job.config.study.seeds} seeds")
        summary = _study(job, pending)
        note_files(job.out, altered)  # before the last run is recorded
        _record(job, pending, records, summary)


def _paint(job: Job, others: Sequence[str], records: "Records") -> None:
    """Fit and paint the synthetic set of a job, and record what that costs.

    Args:
        job: The job.
        others: Pending arms without painted cases. If backgrounds are labelled they are run before painting.
        records: The cost is added to them.
    """
    from diffaug.synthesis.generate import generate
    from diffaug.training.fit import fit

    out, device, wanted = job.out, job.config.device, job.generate
    fold = "" if job.fold is None else f", fold {job.fold}"
    log.info(f"fit: {job.count} annotated cases, draw {job.draw}{fold}")
    fitted = fit(out / "data", out / "model", job.config.fit, seed=job.seed, device=device, painting=wanted)
    for notice in fitted.notices if fitted else ():
        log.info(notice)
    if job.labels_backgrounds:
        log.info(f"study: {', '.join(others)}; real labels the images that are painted on")
        _record(job, others, records, _study(job, others))
        wanted = wanted.model_copy(update={"backgrounds": _label_backgrounds(job)})
    log.info(f"generate: {wanted.count} cases")
    options: dict[str, Any] = {"workers": wanted.workers, "ray": wanted.ray, "device": device}
    made = generate(out / "model", out / "data", job.synthetic, wanted, seed=job.seed, **options)
    records.note_cost(job.painted_key, {"alike": job.alike(), **_cost(job, fitted, made)})


def _label_backgrounds(job: Job) -> Path | None:
    """Make the data set of the images that `real` labels with confidence. Return None if there are no such images."""
    from diffaug.study.sets import pseudo_label_set

    to = job.out / "labelled"
    try:
        found = pseudo_label_set(job.out / "study", to)
    except EmptyArmError as error:
        log.info(f"lesions are painted on annotated images alone: {error}")
        return None
    log.info(f"{found.labelled} of {found.unannotated} unannotated images are labelled")
    return to


def _record(job: Job, arms: Sequence[str], records: "Records", summary: Mapping[str, Any]) -> None:
    """Record the runs of some arms of a job's study, whose summary is given, that are not recorded yet."""
    from diffaug.study.records import alarms_key
    from diffaug.study.runs import read_trained

    runs = job.out / "study" / "runs"
    plan = read_json(job.out / "study" / "study.json")
    for (arm, seed), key in job.keys().items():
        if arm not in arms:
            continue
        trained, known = read_trained(runs / f"{arm}-{seed}.pool.json"), records.run(key, job.painted_key)
        if known is None:
            last = read_jsonl(runs / f"{arm}-{seed}.log.jsonl")[-1]
            about: dict[str, Any] = {"arm": arm, "annotated": job.annotated, "draw": job.draw}
            about |= {"fold": job.fold, "seed": seed}
            about |= {"alike": job.alike(arm), "seconds": round(last["ms"] * last["iteration"] / 1000, 3)}
            about |= {"cases": trained.cases(), "negatives": list(trained.negatives)}
            about |= {"painted": job.painted_key} if trained.negatives else {}
            about |= {"base_seen": summary["base_seen"]} if is_painted(arm) else {}
            about |= {name: plan[name] for name in EXCEPTIONS if plan[name]}
            records.add(key, about, read_jsonl(runs / f"{arm}-{seed}.jsonl"), summary["contrast_cut"])
        elif trained.negatives and not known.negatives:
            records.note_alarms(alarms_key(key, job.painted_key), trained.negatives)


def _study(job: Job, arms: Sequence[str]) -> dict[str, Any]:
    """Run some arms of a job's study, with its synthetic set where it is made, and return the summary."""
    from diffaug.study.study import run_study

    config = job.config
    sets = [job.synthetic] if job.has_synthetic else []
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
        "negatives": made.funnel.negatives.kept,
        "generate_seconds": made.seconds,
    }
