"""Means with bootstrap intervals over seeds and cases, plain and paired; knows arrays and records, no files.

Shapes: S seeds, C cases, R resamples. A value that does not exist (a case outside a stratum, a precision without a
prediction) is NaN and takes part in nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.fundus import disc_and_cup
from diffaug.study.strata import strata_names

Values = NDArray[np.float64]  # (S, C)
Interval = dict[str, float | None]

LEVEL = 0.95  # of every interval
REFERENCE_ARM = "real"  # differences are against this arm
METRICS = ("dice", "iou", "sensitivity", "precision", "false_negative_rate", "missed")
NOTHING: Interval = {"mean": None, "low": None, "high": None}


def resampled_means(values: Values, resamples: int, seed: int) -> Values:
    """Return the mean of each bootstrap resample, shape (R,).

    Seeds and cases are drawn with replacement, independently of each other: how often each was drawn weighs its row or
    column. Two arrays of one shape get the same draws for one `seed`, so that differences stay paired.

    Args:
        values: Shape (S, C), NaN where there is no value.
        resamples: R.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    seeds, cases = values.shape
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(np.float64)  # (R, S)
    columns = rng.multinomial(cases, np.full(cases, 1 / cases), size=resamples).astype(np.float64)  # (R, C)
    there = np.isfinite(values)
    total = ((rows @ np.where(there, values, 0.0)) * columns).sum(axis=1)
    count = ((rows @ there.astype(np.float64)) * columns).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count)  # NaN where a resample drew no value at all


def interval(values: Values, resamples: int, seed: int) -> Interval:
    """Return the mean with its percentile bootstrap interval of 95 %.

    The interval always contains the mean: where it would not (a handful of values, far from symmetric), the nearer end
    is moved to the mean. Without any value all three are None.

    Args:
        values: Shape (S, C), NaN where there is no value.
        resamples: Number of bootstrap resamples.
        seed: Of the draws.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if not np.isfinite(values).any():
        return dict(NOTHING)
    # Columns without any value would only make resamples empty: the draw is over the cases that the mean is over.
    values = values[:, np.isfinite(values).any(axis=0)]
    mean = float(np.nanmean(values))
    low, high = np.nanquantile(resampled_means(values, resamples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": mean, "low": min(float(low), mean), "high": max(float(high), mean)}


def values_of(records: Sequence[Mapping[str, Any]], metric: str, stratum: str | None = None) -> Values:
    """Return one arm's metric as an array over seeds and cases, both sorted.

    Args:
        records: Per-case records of one arm, all seeds.
        metric: A column of the records.
        stratum: Cases outside it become NaN; None keeps all.
    """
    seeds = {seed: row for row, seed in enumerate(sorted({record["seed"] for record in records}))}
    cases = {case: column for column, case in enumerate(sorted({record["case"] for record in records}))}
    values = np.full((len(seeds), len(cases)), np.nan)
    for record in records:
        if record[metric] is not None and (stratum is None or stratum in record["strata"]):
            values[seeds[record["seed"]], cases[record["case"]]] = record[metric]
    return values


def _size_of(records: Sequence[Mapping[str, Any]], stratum: str | None = None) -> int:
    return len({record["case"] for record in records if stratum is None or stratum in record["strata"]})


def summarise(
    records: Sequence[Mapping[str, Any]], resamples: int, seed: int = 0, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the summary of a study: every arm, every stratum, and every arm against `real`.

    An empty stratum has n = 0 and None for its values, never zero. A difference is the mean over the same cases and
    seeds of (arm - real); negative is better for `missed` and `false_negative_rate`.

    Args:
        records: Per-case records of all arms and seeds; every arm has the same seeds and cases.
        resamples: Bootstrap resamples of each interval.
        seed: Of the bootstrap draws.
        classes: Names of several classes, whose own metrics the records hold beside the means over classes.
    """
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_arm.setdefault(record["arm"], []).append(record)
    summary: dict[str, Any] = {"arms": {}, "differences": {}}
    for arm, own in by_arm.items():
        summary["arms"][arm] = _arm_summary(own, resamples, seed, classes)
        if arm != REFERENCE_ARM and REFERENCE_ARM in by_arm:
            name = f"{arm} - {REFERENCE_ARM}"
            summary["differences"][name] = _difference(own, by_arm[REFERENCE_ARM], resamples, seed, classes)
    return summary


def _arm_summary(
    records: Sequence[Mapping[str, Any]], resamples: int, seed: int, classes: Sequence[str]
) -> dict[str, Any]:
    arm: dict[str, Any] = {"n": _size_of(records), "seeds": len({record["seed"] for record in records}), "strata": {}}
    for metric in METRICS:
        arm[metric] = interval(values_of(records, metric), resamples, seed)
    for stratum in strata_names(classes):
        arm["strata"][stratum] = {"n": _size_of(records, stratum)} | {
            metric: interval(values_of(records, metric, stratum), resamples, seed)
            for metric in ("dice", "missed", "false_negative_rate")
        }
    return arm | _by_class(classes, lambda column: interval(values_of(records, column), resamples, seed))


def _by_class(classes: Sequence[str], measure: Callable[[str], Interval]) -> dict[str, Any]:
    """Return what is measured of each of several classes, and of the cup-to-disc ratio; nothing of a single class."""
    if len(classes) < 2:
        return {}
    found: dict[str, Any] = {
        "classes": {name: {metric: measure(f"{name}_{metric}") for metric in METRICS} for name in classes}
    }
    return found | ({"vcdr_error": measure("vcdr_error")} if disc_and_cup(classes) else {})


def _difference(
    arm: Sequence[Mapping[str, Any]],
    real: Sequence[Mapping[str, Any]],
    resamples: int,
    seed: int,
    classes: Sequence[str],
) -> dict[str, Any]:
    def paired(metric: str, stratum: str | None = None) -> Interval:
        return interval(values_of(arm, metric, stratum) - values_of(real, metric, stratum), resamples, seed)

    difference: dict[str, Any] = {metric: paired(metric) for metric in METRICS}
    difference["missed_small"] = paired("missed", "small")
    difference["strata"] = {
        stratum: {"n": _size_of(real, stratum)}
        | {metric: paired(metric, stratum) for metric in ("dice", "missed", "false_negative_rate")}
        for stratum in strata_names(classes)
    }
    return difference | _by_class(classes, paired)
