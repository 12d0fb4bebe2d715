"""From records of finished runs to the tables that the report is made from."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from diffaug.artifacts import write_csv, write_json
from diffaug.reading import read_kept
from diffaug.study.evaluate import class_columns
from diffaug.study.runs import Run, read_trained, records_of
from diffaug.study.statistics import METRICS, summarise, tidy

log = logging.getLogger(__name__)

SUMMARY, REPORT = "summary.json", "report.html"
COLUMNS = ("arm", "seed", "case", "group", *METRICS, "area", "contrast", "strata", "prediction")
SUMMARY_COLUMNS = ("arm", "against", "stratum", "metric", "n", "groups", "mean", "low", "high", "p", "p_holm")


def write_summary(
    out: Path, runs: Sequence[Run], resamples: int, seed: int, more: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """Write cases.csv, summary.csv and, last, summary.json from the records of finished runs.

    A report that shows another summary is removed.

    Args:
        out: Folder of the study.
        runs: All of them.
        resamples: Bootstrap resamples of each interval.
        seed: Of the resamples.
        more: What else the summary says.
        names: Of the classes.

    Returns:
        The summary, as written.
    """
    records = [row for run in runs for row in records_of(run)]
    trained = [(run, read_trained(run.about)) for run in runs]
    alarms = [
        {"arm": run.arm.name, "seed": run.seed, "fold": run.fold, "negatives": found.negatives}
        for run, found in trained
    ]
    summary = summarise(records, resamples, seed, names, alarms) | dict(more)
    for run, found in reversed(trained):
        summary["arms"][run.arm.name]["cases"] = found.cases()
    remove_old_report(out, summary)
    write_tables(out, records, summary, names)
    return summary


def remove_old_report(out: Path, summary: Mapping[str, Any], name: str = SUMMARY) -> None:
    """Remove the report of a study if what it shows is not what is about to be written, and say so.

    Args:
        out: The study.
        summary: What will be written.
        name: The JSON file that will hold it.
    """
    report = out / REPORT
    if report.is_file() and read_kept(out / name, dict[str, Any]) != json.loads(json.dumps(summary)):
        report.unlink()
        log.warning(
            f"{report} showed older results and is removed; to write it again: diffaug report {quote(str(out))}"
        )


def write_tables(
    out: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Write the tables that the report is made from, summary.json last."""
    extra = [name for name in ("annotated", "draw", "fold") if records and name in records[0]]
    rows = [{**row, "strata": ";".join(row["strata"])} for row in records]
    last = COLUMNS.index("area")
    write_csv(out / "cases.csv", rows, (*extra, *COLUMNS[:last], *class_columns(names), *COLUMNS[last:]))
    write_csv(out / "summary.csv", tidy(summary), SUMMARY_COLUMNS)
    write_json(out / SUMMARY, summary)
