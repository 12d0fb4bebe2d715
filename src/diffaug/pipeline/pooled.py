"""Pool the records of all draws and folds of one number of annotated cases, and write its tables and report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import (
    make_folder,
    read_json,
    write_csv,
    write_json,
)
from diffaug.config import Config
from diffaug.data.folder import read_dataset

if TYPE_CHECKING:
    from diffaug.study.records import Records

from diffaug.pipeline.jobs import Job, is_painted

EXCEPTIONS = ("duplicates", "shared_groups")  # test images and groups that were also trained on, where it was allowed
CURVE_COLUMNS = ("annotated", "arm", "draws", "n", "mean", "low", "high")
TRAINING_COLUMNS = ("annotated", "draw", "fold", "arm", "seed", "minutes")
COST_COLUMNS = (
    "annotated", "draw", "fold", "fit_seconds", "requested", "stopped", "rejected", "kept", "fills", "generate_seconds",
)  # fmt: skip


def pool(jobs: Sequence[Job], records: "Records") -> dict[str, Any]:
    """Return records and summary of all draws and folds of one number of annotated cases."""
    from diffaug.study.statistics import summarise

    lines = [(job, records.run(key, job.painted_key)) for job in jobs for key in job.keys().values()]
    found = [line for _, line in lines if line is not None]
    rows = [row for job, line in lines if line is not None for row in _with_pictures(job, records.records_of(line))]
    config = jobs[0].config
    names = read_dataset(jobs[0].full).class_names
    summary = summarise(rows, config.study.bootstrap, config.seed, names, found)
    cuts = sorted({line["cut"] for line in found if line["cut"] is not None})  # each draw and fold has its own
    summary |= {"contrast_cut": cuts[0] if len(cuts) == 1 else None, "contrast_cuts": cuts}
    plans = [read_json(path) for job in jobs if (path := job.out / "study" / "study.json").is_file()]
    exceptions = {name: _together(one.get(name, []) for one in [*found, *plans]) for name in EXCEPTIONS}
    summary["base_seen"] = _seen_by_bases([line for line in found if is_painted(line["arm"])])
    for line in reversed(found):
        summary["arms"][line["arm"]]["cases"] = line["cases"]
    return {"rows": rows, "summary": summary, "names": names, "count": jobs[0].count, "exceptions": exceptions}


def _together(lists: Iterable[Sequence[Any]]) -> list[Any]:
    """Return what any of some lists of names, or of pairs of names, holds: once, in order."""
    return sorted({tuple(one) if isinstance(one, list) else one for some in lists for one in some})


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


def report(
    config: Config, number: int | str, jobs: Sequence[Job], pooled: Mapping[int | str, Any], records: "Records"
) -> Path:
    """Write the tables and the report of one number of annotated cases; the curve is over all numbers."""
    from diffaug.report.page import write_report
    from diffaug.study.run import write_tables

    own = [job for job in jobs if job.annotated == number]
    out, found = make_folder(config.out / f"n{number}"), pooled[number]
    painted = {job.painted_key for job in own}
    costs = [line for line in records.noted("cost") if line["cost"] in painted]
    runs = [line for job in own for key in job.keys().values() if (line := records.run(key)) is not None]
    trained = [{**line, "minutes": round(line["seconds"] / 60, 4)} for line in runs if "seconds" in line]
    write_csv(out / "curve.csv", curve(pooled), CURVE_COLUMNS)
    write_csv(out / "costs.csv", costs, COST_COLUMNS)
    write_csv(out / "training.csv", trained, TRAINING_COLUMNS)
    write_json(out / "study.json", _plan(own[0].config, own, found))
    write_tables(out, found["rows"], found["summary"], found["names"])
    synthetic = own[0].out / "synthetic"
    return write_report(out, synthetic if (synthetic / "summary.json").is_file() else None)


def curve(pooled: Mapping[int | str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean Dice by arm and number of annotated cases, which for `oracle` is that of the arms beside it."""
    return [
        {
            "annotated": found["count"],
            "arm": arm,
            "draws": one["draws"],
            "n": one["n"],
        }
        | one["dice"]
        for found in pooled.values()
        for arm, one in found["summary"]["arms"].items()
    ]


def _plan(config: Config, jobs: Sequence[Job], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was run, pooled over jobs, as study.json says it."""
    from diffaug.artifacts import versions
    from diffaug.study.arms import meaning_of

    plan: dict[str, Any] = next(
        (read_json(path) for job in jobs if (path := job.out / "study" / "study.json").is_file()), {}
    )
    config_of = config.study.model_dump(mode="json")
    cases = {"train": jobs[0].count, "unannotated": 0, "synthetic": [], "full": 0, **plan.get("cases", {})}
    return {
        "identity": {"seed": config.seed, "test": list(jobs[0].tests), "device": config.device},
        "config": config_of,
        "arms": {name: meaning_of(name) for name in config.study.arms},
        "data": str(jobs[0].source),
        **({"classes": list(found["names"])} if len(found["names"]) > 1 else {}),
        "tests": plan.get("tests", []) if not config.data.folds else [],
        "synthetic": plan.get("synthetic", []),
        "oracle": str(jobs[0].full),
        "cases": {**cases, "test": len({row["case"] for row in found["rows"]})},
        **found["exceptions"],
        "draws": sorted({job.draw for job in jobs}),
        "wanted_draws": list(config.data.draws),
        "folds": config.data.folds,
        "versions": plan.get("versions", versions()),
    }
