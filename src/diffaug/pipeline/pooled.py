"""Pool the records of all draws and folds of one number of annotated cases, and write its tables and report."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import make_folder, read_json, write_csv, write_json
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_manifest
from diffaug.pipeline.jobs import Job, is_painted
from diffaug.runfolder import held
from diffaug.study.places import Places, name_of, read_places, write_places

if TYPE_CHECKING:
    from diffaug.study.lines import RunLine
    from diffaug.study.records import Records

EXCEPTIONS = ("duplicates", "shared_groups")  # test images and groups that were trained on, where that was allowed
CURVE_COLUMNS = ("annotated", "arm", "draws", "n", "mean", "low", "high")
TRAINING_COLUMNS = ("annotated", "draw", "fold", "arm", "seed", "minutes")
COST_COLUMNS = (
    "annotated", "draw", "fold", "fit_seconds", "requested", "stopped", "rejected", "kept", "negatives",
    "generate_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Pooled:
    """What is recorded of the jobs with one number of annotated cases.

    Attributes:
        jobs: Every draw and fold.
        lines: The lines of their recorded runs.
        rows: The scores of these runs, one for each test case.
        summary: The statistics of the rows, as summary.json holds them.
        plans: The study.json of each job whose folder is there.
        class_names: Names of the classes of the labels.
    """

    jobs: tuple[Job, ...]
    lines: "tuple[RunLine, ...]"
    rows: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    plans: tuple[dict[str, Any], ...]
    class_names: tuple[str, ...]


def pool(jobs: Sequence[Job], records: "Records") -> Pooled:
    """Read the records of all draws and folds of one number of annotated cases, and summarise them."""
    from diffaug.study.statistics import summarise

    recorded = [(job, line) for job in jobs for line in job.recorded(records).values()]
    lines = [line for _, line in recorded]
    rows = [row for job, line in recorded for row in _with_pictures(job, records.records_of(line))]
    config, class_names = jobs[0].config, read_dataset(jobs[0].full).class_names
    alarms = [{**asdict(line), "negatives": line.negatives or []} for line in lines]
    summary = summarise(rows, config.study.bootstrap, config.seed, class_names, alarms)
    cuts = sorted({line.cut for line in lines if line.cut is not None})  # each draw and fold has its own
    summary |= {"contrast_cut": cuts[0] if len(cuts) == 1 else None, "contrast_cuts": cuts}
    summary["base_seen"] = _seen_by_bases([line for line in lines if is_painted(line.arm)])
    for line in reversed(lines):
        summary["arms"][line.arm]["cases"] = line.cases
    return Pooled(tuple(jobs), tuple(lines), tuple(rows), summary, _plans_of(jobs), tuple(class_names))


def _plans_of(jobs: Sequence[Job]) -> tuple[dict[str, Any], ...]:
    """Return the study.json of each job whose folder is there; the folder may come from anybody.

    Raises:
        DataError: One is not as a study writes it.
    """
    from diffaug.study.inputs import check_plan

    plans = {path: read_json(path) for job in jobs if (path := job.out / "study" / "study.json").is_file()}
    for path, plan in plans.items():
        check_plan(plan, path)
    return tuple(plans.values())


def _with_pictures(job: Job, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add where the predictions of a run of the first draw are, if they are there; seen from the folder of tables."""
    for index, row in enumerate(rows):
        picture = Path("study") / "predictions" / f"{row['arm']}-{row['seed']}" / f"{index:05d}.png"
        if (job.out / picture).is_file() and job.draw == job.config.data.draws[0]:
            row["prediction"] = f"../{job.out.name}/{picture.as_posix()}"
    return rows


def _with_own_pictures(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Copy predictions into the folder of the tables, which names no file outside, and return rows that name them."""
    own: list[Mapping[str, Any]] = []
    for row in rows:
        name = str(row["prediction"])
        if name:
            parts = Path(name).parts  # of the job, of the run, and of the case
            target = Path("predictions", parts[1], *parts[-2:])
            make_folder((out / target).parent)
            shutil.copyfile(out / name, out / target)
            own.append({**row, "prediction": target.as_posix()})
        else:
            own.append(row)
    return own


def _seen_by_bases(lines: "Sequence[RunLine]") -> dict[str, Any] | None:
    """Return how many test images the base models have seen: the most of any draw, summed over folds.

    Without lines it is None.
    """
    if not lines:
        return None
    nothing = {"known": False, "of": 0, "annotated": 0, "unannotated": 0}
    seen_in = [(line.fold, line.base_seen or nothing) for line in lines]
    folds = [[seen for fold, seen in seen_in if fold == each] for each in {fold for fold, _ in seen_in}]
    counts = {name: sum(max(seen[name] for seen in fold) for fold in folds) for name in list(nothing)[1:]}
    return {"known": all(seen["known"] for _, seen in seen_in), **counts}


def write_pooled(out: Path, pooled: Pooled, curve: Sequence[Mapping[str, Any]], records: "Records") -> Path:
    """Write the tables of one number of annotated cases, and their report.

    Args:
        out: Folder to write to.
        pooled: What is recorded.
        curve: Rows of curve.csv, for all numbers of annotated cases.
        records: The costs of fit and painting are in it.

    Returns:
        The report.

    Raises:
        ConfigError: Another process works in the folder.
    """
    with held(out):  # which also removes what a killed process left half-written
        return _write_pooled(out, pooled, curve, records)


def _write_pooled(out: Path, pooled: Pooled, curve: Sequence[Mapping[str, Any]], records: "Records") -> Path:
    from diffaug.report.page import write_report
    from diffaug.study.tables import write_tables

    painted = {job.painted_key for job in pooled.jobs}
    costs = [asdict(line) for line in records.costs() if line.cost in painted]
    trained = [
        {**asdict(line), "minutes": round(line.seconds / 60, 4)} for line in pooled.lines if line.seconds is not None
    ]
    write_csv(make_folder(out) / "curve.csv", curve, CURVE_COLUMNS)
    write_csv(out / "costs.csv", costs, COST_COLUMNS)
    write_csv(out / "training.csv", trained, TRAINING_COLUMNS)
    plan = _plan(pooled)
    write_json(out / "study.json", plan)
    write_places(out, _places(pooled, plan))
    write_tables(out, _with_own_pictures(out, pooled.rows), pooled.summary, pooled.class_names)
    return write_report(out)


def curve_of(pooled: Iterable[Pooled]) -> list[dict[str, Any]]:
    """Return the mean Dice of each arm at each number of annotated cases."""
    return [
        {"annotated": each.jobs[0].count, "arm": arm, "draws": values["draws"], "n": values["n"], **values["dice"]}
        for each in pooled
        for arm, values in each.summary["arms"].items()
    ]


def _places(pooled: Pooled, plan: Mapping[str, Any]) -> Places:
    """Return where the data lie that the first job has read, and the synthetic sets of all jobs."""
    job = pooled.jobs[0]
    there = read_places(job.out / "study", pooled.plans[0]) if pooled.plans else Places()
    sets = [str(each.synthetic.resolve()) for each in pooled.jobs if each.has_synthetic]
    return Places(str(job.source.resolve()), sets, there.tests if plan["tests"] else {})


def _plan(pooled: Pooled) -> dict[str, Any]:
    """Return what was compared, in the form of a study's study.json."""
    from diffaug.artifacts import versions
    from diffaug.study.arms import parse_arm
    from diffaug.study.choose import kept_lesions

    job, plan = pooled.jobs[0], pooled.plans[0] if pooled.plans else {}
    config, names = job.config, pooled.class_names
    painted = [each for each in pooled.jobs if each.has_synthetic]
    cases = {"train": job.count, "unannotated": 0, "full": 0, **plan.get("cases", {})}
    cases["synthetic"] = [len(kept_lesions(read_manifest(each.synthetic))) for each in painted]
    allowed = {
        name: _distinct(
            [*(getattr(line, name) for line in pooled.lines), *(plan.get(name, []) for plan in pooled.plans)]
        )
        for name in EXCEPTIONS
    }
    return {
        "identity": {"seed": config.seed, "test": list(job.tests), "device": config.device},
        "config": config.study.model_dump(mode="json"),
        "arms": {name: parse_arm(name).meaning for name in config.study.arms},
        "data": name_of(job.source),
        **({"classes": list(names)} if len(names) > 1 else {}),
        "tests": plan.get("tests", []) if not config.data.folds else [],
        "synthetic": [f"{each.out.name}/{each.synthetic.name}" for each in painted],
        "synthetic_of": [each.label for each in painted] if len(pooled.jobs) > 1 else [],
        "oracle": name_of(job.full),
        "cases": {**cases, "test": len({row["case"] for row in pooled.rows})},
        **allowed,
        "draws": sorted({each.draw for each in pooled.jobs}),
        "wanted_draws": list(config.data.draws),
        "folds": config.data.folds,
        "versions": plan.get("versions", versions()),
    }


def _distinct(lists: Iterable[Sequence[Any]]) -> list[Any]:
    """Return the names, or the pairs of names, of all lists: each once, in order."""
    return sorted({tuple(name) if isinstance(name, list) else name for names in lists for name in names})
