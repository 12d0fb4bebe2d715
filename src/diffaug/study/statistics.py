"""Means with bootstrap intervals over draws and groups of cases, plain and paired; knows arrays and records, no files.

A draw is one choice of annotated cases with its own fit; where a study has a single draw, its seeds stand in for draws,
and where draws have several seeds, a draw's value is their mean.

Shapes: D draws, C cases, R resamples. A value that does not exist (a case outside a stratum, a precision without a
prediction) is NaN and takes part in nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.domain import domain_of
from diffaug.errors import StudyError
from diffaug.study.arms import parse_arm
from diffaug.study.strata import strata_names

Values = NDArray[np.float64]  # (D, C)
Interval = dict[str, float | None]
Record = Mapping[str, Any]

MINUS = " - "  # between the arms of a comparison's name
LEVEL = 0.95  # of every interval
REFERENCE_ARM = "real"  # differences are against this arm
HEADLINES = ("selected", "validated")  # arms of the first kind there are compared with every other arm
METRICS = (
    "dice", "iou", "sensitivity", "precision", "hd95", "lesion_recall", "false_negative_rate", "missed", "false_alarm",
    "false_area",
)  # fmt: skip
STRATUM_METRICS = ("dice", "missed", "false_negative_rate")
NOTHING: Interval = {"mean": None, "low": None, "high": None}
NO_CASES = {**NOTHING, "n": 0, "groups": 0}
ALARM = 0.1  # of a negative's region; where more is predicted, painted tissue was taken for a lesion


def resampled_means(values: Values, resamples: int, seed: int, groups: Sequence[str] | None = None) -> Values:
    """Return the mean of each bootstrap resample, shape (R,).

    Draws and groups of cases are drawn with replacement, independently of each other: how often each was drawn weighs
    its rows or columns. Two arrays of one shape get the same draws for one `seed`, so that differences stay paired.

    Args:
        values: Shape (D, C), NaN where there is no value.
        resamples: R.
        seed: Of the draws.
        groups: The group of each case, such as its patient; None takes every case for itself.

    Source: Field & Welsh 2007, "Bootstrapping clustered data" (the cluster bootstrap).
    """
    rng = np.random.default_rng(seed)
    draws, cases = values.shape
    _, member = np.unique(np.arange(cases) if groups is None else np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    rows = rng.multinomial(draws, np.full(draws, 1 / draws), size=resamples).astype(np.float64)  # (R, D)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)  # (R, groups)
    columns = drawn[:, member]  # (R, C)
    there = np.isfinite(values)
    total = ((rows @ np.where(there, values, 0.0)) * columns).sum(axis=1)
    weight = ((rows @ there.astype(np.float64)) * columns).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weight)  # NaN where a resample drew no value at all


def _bounds(mean: float, means: Values) -> Interval:
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": mean, "low": min(float(low), mean), "high": max(float(high), mean)}


def interval(values: Values, resamples: int, seed: int, groups: Sequence[str] | None = None) -> Interval:
    """Return the mean with its percentile bootstrap interval of 95 %.

    The interval always contains the mean: where it would not (a handful of values, far from symmetric), the nearer end
    is moved to the mean. Without any value all three are None. `n` and `groups` count the cases that have a value, and
    their groups.

    Args:
        values: Shape (D, C), NaN where there is no value.
        resamples: Number of bootstrap resamples.
        seed: Of the draws.
        groups: See `resampled_means`.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if not np.isfinite(values).any():
        return dict(NO_CASES)
    values, groups = _with_values(values, groups)
    means = resampled_means(values, resamples, seed, groups)
    return _bounds(float(np.nanmean(values)), means) | _counts(values, groups)


def _counts(values: Values, groups: Sequence[str] | None) -> dict[str, int]:
    """Return how many cases there are, shape (D, C), and of how many groups."""
    cases = values.shape[1]
    return {"n": cases, "groups": cases if groups is None else len(set(groups))}


def _with_values(values: Values, groups: Sequence[str] | None) -> tuple[Values, Sequence[str] | None]:
    """Drop cases without any value, which would only make resamples empty."""
    there = np.isfinite(values).any(axis=0)
    return values[:, there], None if groups is None else [groups[int(column)] for column in np.flatnonzero(there)]


def paired(
    arm: Values, other: Values, resamples: int, seed: int, groups: Sequence[str] | None = None
) -> dict[str, float | None]:
    """Return the mean of (arm - other) with its interval, its p-value, and the change relative to the other arm.

    `n` and `groups` count the cases where both have a value, and their groups.
    `p` is two-sided: twice the smaller share of resamples on either side of zero, with one added to both counts; None
    where one draw and one group are all there is, since every resample would be the same.
    `relative` is mean(arm) / mean(other) - 1 over the same cases; None where the other mean is 0.

    Source: Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 4.4 for the p-value.
    """
    difference = arm - other
    if not np.isfinite(difference).any():
        return {**NO_CASES, "p": None, "relative": None, "relative_low": None, "relative_high": None}
    both = np.where(np.isfinite(difference), other, np.nan)
    kept, chosen = _with_values(difference, groups)
    base, _ = _with_values(both, groups)
    means = resampled_means(kept, resamples, seed, chosen)
    found = _bounds(float(np.nanmean(kept)), means) | _counts(kept, chosen)
    means = means[np.isfinite(means)]
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    several = np.isfinite(kept).any(axis=1).sum() > 1 or len(set(chosen or range(kept.shape[1]))) > 1
    found["p"] = min(1.0, 2 * (tail + 1) / (len(means) + 1)) if several else None
    relative = _ratio(kept, base, resamples, seed, chosen)
    return found | {"relative": relative["mean"], "relative_low": relative["low"], "relative_high": relative["high"]}


def _ratio(over: Values, under: Values, resamples: int, seed: int, groups: Sequence[str] | None) -> Interval:
    """Return mean(over) / mean(under) with its interval.

    Nothing where the lower mean is not safely above 0, that is in more than half of 5 % of the resamples: the ratio
    would be of noise.
    """
    below = resampled_means(under, resamples, seed, groups)
    mean, safe = float(np.nanmean(under)), below > 0
    if mean <= 0 or safe.mean() < (1 + LEVEL) / 2:
        return dict(NOTHING)
    ratios = resampled_means(over, resamples, seed, groups)[safe] / below[safe]
    return _bounds(float(np.nanmean(over)) / mean, ratios)


def holm(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p-values that hold for a whole family, by name; None stays None and is not counted.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    known = sorted((value, name) for name, value in values.items() if value is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(values)
    highest = 0.0
    for place, (value, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * value))
        adjusted[name] = highest
    return adjusted


def unit_of(records: Sequence[Record]) -> str:
    """Return the column of what a bootstrap draws as one: draws of the annotated cases, or seeds of a single draw."""
    return "draw" if len({record.get("draw", 0) for record in records}) > 1 else "seed"


def values_of(records: Sequence[Record], metric: str, stratum: str | None = None) -> Values:
    """Return one arm's metric as an array over draws and cases, both sorted.

    Several seeds of a draw are averaged; those of a single draw stand in for draws.

    Args:
        records: Per-case records of one arm.
        metric: A column of the records.
        stratum: Cases outside it become NaN; None keeps all.
    """
    unit = unit_of(records)
    draws = {draw: row for row, draw in enumerate(sorted({record[unit] for record in records}))}
    cases = {case: column for column, case in enumerate(sorted({record["case"] for record in records}))}
    total, count = np.zeros((len(draws), len(cases))), np.zeros((len(draws), len(cases)))
    for record in records:
        if record.get(metric) is not None and (stratum is None or stratum in record["strata"]):
            place = draws[record[unit]], cases[record["case"]]
            total[place] += record[metric]
            count[place] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def groups_of(records: Sequence[Record]) -> list[str]:
    """Return the group of each case, in the order of `values_of`; a case without one is its own."""
    found = {record["case"]: record.get("group") or record["case"] for record in records}
    return [found[case] for case in sorted(found)]


def _sizes(records: Sequence[Record], stratum: str | None = None) -> dict[str, int]:
    """Return how many cases there are, and of how many groups."""
    own = [record for record in records if stratum is None or stratum in record["strata"]]
    return {"n": len({record["case"] for record in own}), "groups": len(set(groups_of(own)))}


def summarise(
    records: Sequence[Record],
    resamples: int,
    seed: int = 0,
    classes: Sequence[str] = (),
    alarms: Sequence[Record] = (),
) -> dict[str, Any]:
    """Return the summary of a study: every arm, every stratum, and arms against each other.

    An empty stratum has n = 0 and None for its values, never zero. A difference is the mean over the same cases and
    draws of (arm - other); negative is better for `missed`, `false_negative_rate` and `hd95`. Every arm is compared
    with `real`; the headline arm, alone and with unannotated images, with every other. With `oracle`, `gap_closed` is
    the share of the Dice between `real` and `oracle` that an arm gains.

    Args:
        records: Per-case records of all arms; every arm has the same draws, seeds and cases.
        resamples: Bootstrap resamples of each interval.
        seed: Of the bootstrap draws.
        classes: Names of several classes, whose own metrics the records hold beside the means over classes.
        alarms: Runs (arm, seed and, where there are several, draw and fold) with `negatives`: the share of the region
            of each held-out negative that was predicted to be a lesion. Runs of one draw and fold have the same
            negatives.
    """
    by_arm: dict[str, list[Record]] = {}
    for record in records:
        by_arm.setdefault(record["arm"], []).append(record)
    summary: dict[str, Any] = {"arms": {}, "differences": {}}
    for arm, own in by_arm.items():
        summary["arms"][arm] = _arm_summary(own, resamples, seed, classes)
        summary["arms"][arm]["negatives"] = _alarm([run for run in alarms if run["arm"] == arm], resamples, seed)
    for pair in compared(list(by_arm)):
        own, other = by_arm[pair.arm], by_arm[pair.against]
        found = summary["differences"][pair.name] = _difference(own, other, resamples, seed, classes)
        if pair.against == REFERENCE_ARM and "oracle" in by_arm and pair.arm != "oracle":
            found["gap_closed"] = _gap(own, other, by_arm["oracle"], resamples, seed)
    return summary


def _alarm(runs: Sequence[Record], resamples: int, seed: int) -> dict[str, Any]:
    """Return how often a held-out negative raises an alarm: each draw and fold has any number of its own."""
    found = [
        {**run, "case": (run.get("draw") or 0, run.get("fold") or 0, index), "alarm": float(share >= ALARM)}
        for run in runs
        for index, share in enumerate(run["negatives"])
    ]
    values = values_of(found, "alarm")
    return {"n": values.shape[1], **(interval(values, resamples, seed) if found else NOTHING)}


@dataclass(frozen=True)
class Comparison:
    """One arm against another: differences are (arm - against)."""

    arm: str
    against: str

    @property
    def name(self) -> str:
        """The key of its differences in a summary."""
        return f"{self.arm}{MINUS}{self.against}"

    @staticmethod
    def parse(name: str) -> "Comparison":
        """Return the comparison with this name."""
        arm, _, against = name.partition(MINUS)
        return Comparison(arm, against)


def differences(summary: Mapping[str, Any], against: str | None = None) -> dict[Comparison, dict[str, Any]]:
    """Return the differences of a summary by what they compare; with `against`, those against one arm alone."""
    found = {Comparison.parse(name): values for name, values in summary["differences"].items()}
    return {pair: values for pair, values in found.items() if against in (None, pair.against)}


def compared(arms: Sequence[str]) -> list[Comparison]:
    """Return which arms are compared.

    Each with `real`; the headline arm, alone and with the unannotated images of another, with each other arm.
    """
    pairs = [Comparison(arm, REFERENCE_ARM) for arm in arms if arm != REFERENCE_ARM and REFERENCE_ARM in arms]
    rest = [arm for arm in arms if arm not in (REFERENCE_ARM, "oracle") and parse_arm(arm).ratio is None]
    kind = next((kind for kind in HEADLINES if any(parse_arm(arm).kind == kind for arm in rest)), "")
    leads = [arm for arm in rest if parse_arm(arm).kind == kind]
    for lead in sorted(leads, key=lambda arm: not parse_arm(arm).added):
        rest = [arm for arm in rest if arm != lead]
        pairs += [Comparison(lead, arm) for arm in rest]
    return pairs


def _arm_summary(records: Sequence[Record], resamples: int, seed: int, classes: Sequence[str]) -> dict[str, Any]:
    groups, draws = groups_of(records), len({record.get("draw", 0) for record in records})
    arm: dict[str, Any] = {
        **_sizes(records),
        "seeds": len({(record.get("draw"), record["seed"]) for record in records}) // draws,  # of each draw
        "draws": draws,
        "n_lesion_free": len({record["case"] for record in records if record.get("area") == 0}),
        "strata": {},
    }
    for metric in METRICS:
        arm[metric] = interval(values_of(records, metric), resamples, seed, groups)
    for stratum in strata_names(classes):
        arm["strata"][stratum] = _sizes(records, stratum) | {
            metric: interval(values_of(records, metric, stratum), resamples, seed, groups) for metric in STRATUM_METRICS
        }
    return arm | _by_class(classes, lambda column: interval(values_of(records, column), resamples, seed, groups))


def _by_class(classes: Sequence[str], measure: Callable[[str], Interval]) -> dict[str, Any]:
    """Return what is measured of each of several classes, and what their domain adds; nothing of a single class."""
    if len(classes) < 2:
        return {}
    found: dict[str, Any] = {
        "classes": {name: {metric: measure(f"{name}_{metric}") for metric in METRICS} for name in classes}
    }
    return found | {column: measure(column) for column in domain_of(classes).summary}


def _difference(
    arm: Sequence[Record], other: Sequence[Record], resamples: int, seed: int, classes: Sequence[str]
) -> dict[str, Any]:
    groups = groups_of(other)
    _check_same(arm, other)

    def against(metric: str, stratum: str | None = None) -> dict[str, float | None]:
        return paired(values_of(arm, metric, stratum), values_of(other, metric, stratum), resamples, seed, groups)

    difference: dict[str, Any] = {metric: against(metric) for metric in METRICS}
    strata: dict[str, dict[str, Any]] = {
        stratum: _sizes(other, stratum) | {metric: against(metric, stratum) for metric in STRATUM_METRICS}
        for stratum in strata_names(classes)
    }
    for metric in STRATUM_METRICS:
        for stratum, value in holm({name: found[metric]["p"] for name, found in strata.items()}).items():
            strata[stratum][metric]["p_holm"] = value
    difference["missed_small"] = strata["small"]["missed"]
    difference["strata"] = strata
    return difference | _by_class(classes, against)


def _check_same(arm: Sequence[Record], other: Sequence[Record]) -> None:
    """Refuse to pair arms that were tested on different cases, or in different draws.

    Raises:
        StudyError: Naming a case of one of them.
    """
    tested = [{(record[unit_of(some)], record["case"]) for record in some} for some in (arm, other)]
    if odd := sorted(tested[0] ^ tested[1]):
        names = [some[0]["arm"] for some in (arm, other)]
        (_, case), has = odd[0], names[odd[0] not in tested[0]]
        raise StudyError(
            f"arms are compared on the same cases of the same draws: of {names[0]} and {names[1]}, {has} alone was "
            f"tested on {case}; call test folders as before, or start another records file"
        )


def _gap(
    arm: Sequence[Record], real: Sequence[Record], oracle: Sequence[Record], resamples: int, seed: int
) -> Interval:
    base, groups = values_of(real, "dice"), groups_of(real)
    gain, gap = values_of(arm, "dice") - base, values_of(oracle, "dice") - base
    there = np.isfinite(gain) & np.isfinite(gap)
    gain, gap = np.where(there, gain, np.nan), np.where(there, gap, np.nan)
    return _ratio(gain, gap, resamples, seed, groups) if there.any() else dict(NOTHING)


def tidy(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a summary as the rows of one long table, from which the figures and tables of the report are made."""
    return [
        {"arm": arm, "against": against, "stratum": stratum, "metric": metric, "n": one.get("n", sizes["n"])}
        | {"groups": one.get("groups", sizes.get("groups"))}  # which older summaries lack
        | {name: one.get(name) for name in ("mean", "low", "high", "p", "p_holm")}
        for arm, against, stratum, sizes, found in _parts(summary)
        for metric, one in _intervals(found)
    ]


def _parts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any], dict[str, Any]]]:
    for arm, found in summary["arms"].items():
        yield arm, "", "all", found, found | _flat(found)
        for stratum, one in found["strata"].items():
            yield arm, "", stratum, one, one
    for pair, found in differences(summary).items():
        yield pair.arm, pair.against, "all", summary["arms"][pair.arm], found | _flat(found)
        for stratum, one in found["strata"].items():
            yield pair.arm, pair.against, stratum, one, one


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of each class under names such as `cup_dice`."""
    by_class = found.get("classes", {})
    return {f"{name}_{metric}": one for name, own in by_class.items() for metric, one in own.items()}


def _intervals(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for metric, one in found.items():
        if isinstance(one, Mapping) and "mean" in one and metric != "missed_small":
            yield metric, one
            if one.get("relative") is not None:
                bounds = {"mean": one["relative"], "low": one["relative_low"], "high": one["relative_high"]}
                yield f"{metric}_relative", {"n": one["n"], "groups": one["groups"], **bounds}
