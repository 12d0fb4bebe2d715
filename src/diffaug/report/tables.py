"""A finished study as its tables say it: reads summary, cases, curve, costs and training; draws and writes nothing."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import read_csv, read_json
from diffaug.data.split import ENOUGH_GROUPS
from diffaug.errors import DataError, StudyError
from diffaug.names import Inside, without_links
from diffaug.reading import read_typed, typed
from diffaug.study.inputs import check_plan
from diffaug.study.statistics import Comparison, differences

STRATA = ("small", "medium", "large", "low-contrast")  # in the order of the page; others follow
MEASURES = (("Dice", "dice"), ("Missed", "missed"), ("Pixels not found", "false_negative_rate"))
UNSURE = {"low", "high", "p", "p_holm", "relative_low", "relative_high"}  # what says how sure a mean is
FEWEST_GROUPS = 3  # that an interval is shown of: fewer groups of test cases vary too little to say anything
SMALL_P = 0.05  # a change with at most this p-value is printed in bold
MOST_ARMS, MOST_ROWS = 100, 1_000  # that a page shows, or rows of a table that it draws: figures of more take minutes
MATTERS = 0.1  # the change of a case's Dice from which it counts as rescued or lost

Interval = Mapping[str, Any]  # mean, low, high: numbers, or None where there is no value
Group = Mapping[str, Any]  # what was measured of an arm, or of two arms' difference: intervals by metric, and `strata`


@dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
        arms: What was measured of each arm, in the order of the study.
        differences: The paired difference of two arms, by what is compared.
        base_seen: How many test images the painter's base model has seen; None where nothing was painted.
        contrast_cuts: The contrast below which a lesion is low-contrast, one for each draw that has another.
        iterations: How long each network was trained; None where that is not known.
    """

    arms: Mapping[str, Group]
    differences: Mapping[Comparison, Group]
    base_seen: Mapping[str, Any] | None = None
    contrast_cuts: tuple[float, ...] = ()
    iterations: int | None = None

    @property
    def against_real(self) -> list[tuple[str, Group]]:
        """Each arm that was compared with `real`, and the difference."""
        return [(pair.arm, group) for pair, group in self.differences.items() if pair.against == "real"]

    @property
    def first(self) -> Group:
        """The first arm; what does not depend on the arm, such as numbers of cases, is read from it."""
        return next(iter(self.arms.values()))

    @property
    def strata(self) -> list[str]:
        """The strata in the order of the page."""
        return sorted(self.first["strata"], key=stratum_order)

    def difference(self, arm: str, other: str) -> Group:
        """Return the paired difference of two arms that were compared."""
        return self.differences[Comparison(arm, other)]


@dataclass(frozen=True)
class TestedCase:
    """One test case as one trained network segments it, a row of cases.csv.

    Attributes:
        arm: The arm of the network.
        case: Id of the case.
        dice: Its Dice.
        strata: The strata that it belongs to.
        prediction: Path of the predicted mask in the study's folder; empty where none was written.
    """

    arm: str
    case: str
    dice: float
    strata: tuple[str, ...]
    prediction: str


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        folder: Where it lies.
        plan: What was run, as study.json says it.
        results: What was found, with all that summary.json holds.
        measured: The same numbers as summary.csv holds them, which the figures are drawn from.
        cases: Every row of cases.csv.
        curve: Dice by number of annotated cases, where several numbers were studied.
        costs: What fitting and painting cost, a row for each draw.
        training: Mean minutes that a run of each arm was trained, where known.
        leaks: What careless splits would have gained, where that was measured.
    """

    folder: Path
    plan: Mapping[str, Any]
    results: Results
    measured: Results
    cases: tuple[TestedCase, ...]
    curve: Sequence[Mapping[str, Any]]
    costs: Sequence[Mapping[str, Any]]
    training: Sequence[tuple[str, float]]
    leaks: Mapping[str, Any] | None

    @property
    def classes(self) -> list[str]:
        """The names of several classes, outer ones first; empty with a single class."""
        found = self.results.first.get("classes", {})
        return [name for name in self.plan.get("classes", sorted(found)) if name in found]

    @property
    def has_curve(self) -> bool:
        """Whether several numbers of annotated cases were studied."""
        return len({row["annotated"] for row in self.curve}) > 1


@contextmanager
def understood(study: Path) -> Iterator[None]:
    """Tell in one line of tables and summaries that are not as a study writes them; they may come from anybody.

    Raises:
        DataError: A value is missing, or is of another type.
    """
    from jinja2 import TemplateError

    try:
        yield
    except (LookupError, StopIteration, TypeError, ValueError, AttributeError, ArithmeticError, TemplateError) as error:
        raise DataError(
            f"a page shows what a study wrote: the tables of {study} are damaged ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); run the study again, which writes them anew"
        ) from error


def read_study(folder: Path) -> Study:
    """Read the tables of a finished study.

    Raises:
        StudyError: The study is not finished.
        DataError: A file of the study is damaged, or a link leads out of its folder.
    """
    if not (folder / "summary.json").is_file():
        if not folder.exists():
            raise StudyError(f"a report needs a finished study: {folder} does not exist; check the path")
        if inside := sorted(path.parent for path in folder.glob("n*/summary.json")):  # of a run, or of folds
            raise StudyError(
                f"a report is of one folder of results: those of {folder} lie in {', '.join(map(str, inside))}; name "
                f"{'it' if len(inside) == 1 else 'one of them'}"
            )
        raise StudyError(
            f"a report needs a finished study: {folder} has no summary.json; check the path, or "
            "run `diffaug study` to its end"
        )
    with understood(folder):
        return _read_study(folder)


def _read_study(folder: Path) -> Study:
    found = read_json(without_links(folder) / "study.json")
    check_plan(found, folder / "study.json")
    plan = {"shared_groups": [], "duplicates": [], "synthetic_of": [], **found}
    arms = typed(list[str], plan["config"].get("arms"), folder / "study.json")
    summary = read_typed(folder / "summary.json", dict[str, Any])
    results = results_from(summary, arms, plan["config"].get("iterations"))
    return Study(
        folder=folder,
        plan=plan,
        results=results,
        measured=results_from(nested(read_table(folder / "summary.csv")), arms),
        cases=read_cases(folder / "cases.csv"),
        curve=_few(folder / "curve.csv"),
        costs=_few(folder / "costs.csv"),
        training=_minutes(read_table(folder / "training.csv", optional=True), results.arms),
        leaks=read_json(folder / "leaks.json") if (folder / "leaks.json").is_file() else None,
    )


def results_from(summary: Mapping[str, Any], order: Sequence[str] = (), iterations: int | None = None) -> Results:
    """Return what a summary holds, in the order of a study's arms; JSON files sort by name.

    What was measured on fewer than `FEWEST_GROUPS` groups of test cases has a mean, but no interval and no p-value.
    """
    names = [arm for arm in order or summary["arms"] if arm in summary["arms"]]
    if not 0 < len(names) <= MOST_ARMS:
        raise DataError(f"a page shows 1 to {MOST_ARMS} arms: these tables have {len(names)}; study others")
    written = differences(summary)
    pairs = dict.fromkeys(Comparison(arm, other) for other in ("real", *names) for arm in names)
    cuts = summary.get("contrast_cuts") or [summary.get("contrast_cut")]
    return Results(
        arms={name: _shown(summary["arms"][name], groups_of(summary["arms"][name])) for name in names},
        differences={
            pair: _shown(written[pair], groups_of(summary["arms"][pair.arm])) for pair in pairs if pair in written
        },
        base_seen=summary.get("base_seen", {"known": False, "unannotated": 0, "annotated": 0}),
        contrast_cuts=tuple(cut for cut in cuts if cut is not None),
        iterations=iterations,
    )


def groups_of(group: Group) -> int:
    """Return how many groups of test cases something was measured on; where that is not known, how many cases."""
    groups = group.get("groups")
    return int(group["n"] if groups is None else groups)


def _shown(group: Group, groups: int) -> Group:
    """Return what was measured on a number of groups, without the intervals that come from too few of them."""
    found = dict(group)
    for name, value in group.items():
        if name == "strata":
            found[name] = {stratum: _shown(part, groups_of(part)) for stratum, part in value.items()}
        elif name == "classes":
            found[name] = {one: _shown(part, groups) for one, part in value.items()}
        elif isinstance(value, Mapping) and "mean" in value:
            own = value.get("groups")  # of the cases that have a value
            if own is None:  # in an older summary
                own = groups_of(group["strata"]["small"]) if name == "missed_small" else value.get("n", groups)
            few = dict.fromkeys(UNSURE & value.keys()) if own < FEWEST_GROUPS else {}
            found[name] = {**value, "groups": own, **few}
    return found


def nested(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of summary.csv in the form of summary.json: arms and differences, by metric and stratum."""
    found: dict[str, Any] = {"arms": {}, "differences": {}}
    for row in table:
        name = Comparison(row["arm"], row["against"]).name if row["against"] else row["arm"]
        sizes = {"n": row["n"], "groups": row.get("groups")}
        group = found["differences" if row["against"] else "arms"].setdefault(name, {**sizes, "strata": {}})
        if row["stratum"] != "all":
            group = group["strata"].setdefault(row["stratum"], dict(sizes))
        group[row["metric"]] = {key: row[key] for key in ("mean", "low", "high", "n", "groups") if key in row}
    return found


def read_cases(path: Path) -> tuple[TestedCase, ...]:
    """Read a study's cases.csv.

    Raises:
        DataError: The file is missing or has no such columns, or a prediction does not lie in the study's folder.
    """
    place = Inside(path.parent)

    def checked(text: str) -> str:
        return text and place.picture(text, f"a prediction in {path.name}").relative_to(path.parent).as_posix()

    try:
        rows = _rows(path)
        if not rows:
            raise ValueError("it has no rows")
        return tuple(
            TestedCase(
                arm=row["arm"], case=row["case"], dice=float(row["dice"]), prediction=checked(row["prediction"]),
                strata=tuple(filter(None, row["strata"].split(";"))),
            )
            for row in rows
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def read_table(path: Path, optional: bool = False) -> list[dict[str, Any]]:
    """Read a table of numbers and names; empty cells are None. With `optional`, a missing file has no rows.

    Raises:
        DataError: The file is missing or is no table.
    """
    if optional and not path.is_file():
        return []
    return [{name: _value(cell) for name, cell in row.items()} for row in _rows(path)]


def _few(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table that is drawn or shown whole; none where it is missing.

    Raises:
        DataError: It is no table, or has more rows than a page can show.
    """
    found = read_table(path, optional=True)
    if len(found) > MOST_ROWS or len({row.get("arm") for row in found}) > MOST_ARMS:
        raise DataError(
            f"a page shows {MOST_ROWS:,} rows of a table, of {MOST_ARMS} arms, at most: {path} has more; restore it"
        )
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        return read_csv(path, ())
    except DataError as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} must be a table that a study wrote: {error}; run `diffaug study` again")


def _value(cell: str) -> Any:
    try:
        return (int(cell) if cell.lstrip("-").isdigit() else float(cell)) if cell else None
    except ValueError:
        return cell


def _minutes(rows: Sequence[Mapping[str, Any]], arms: Iterable[str]) -> list[tuple[str, float]]:
    by_arm = {arm: [row["minutes"] for row in rows if row["arm"] == arm] for arm in arms}
    return [(arm, statistics.fmean(minutes)) for arm, minutes in by_arm.items() if minutes]


def stratum_order(name: str) -> int:
    """Return where a stratum stands on the page."""
    return STRATA.index(name) if name in STRATA else len(STRATA)


# tables of the page


@dataclass(frozen=True)
class DifferenceRow:
    """A row of the table of differences: what is measured, on how many cases, and the interval of each arm."""

    label: str
    n: int
    intervals: Sequence[Interval]


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the table of comparisons: a change with its p-value, in points or, relative to `real`, in percent."""

    label: str
    n: int
    relative: bool
    interval: Interval
    p: float | None

    @property
    def is_sure(self) -> bool:
        """Whether the p-value is small, and comes from enough groups of test cases to say so."""
        groups = self.interval.get("groups")
        return self.p is not None and self.p <= SMALL_P and (groups is None or groups >= ENOUGH_GROUPS)


def difference_table(results: Results) -> list[DifferenceRow]:
    """Return every arm's differences to `real`: of each class, of the cup-to-disc ratio, of all cases, by stratum."""
    groups = [group for _, group in results.against_real]
    if not groups:
        return []
    count = results.first["n"]
    rows = [
        DifferenceRow(f"{label}, {name}", count, [group["classes"][name][metric] for group in groups])
        for name in groups[0].get("classes", {})
        for label, metric in (MEASURES[0], MEASURES[2])
    ]
    if "vcdr_error" in groups[0]:
        ratios = [group["vcdr_error"] for group in groups]
        rows.append(DifferenceRow("Error of the vertical cup-to-disc ratio", count, ratios))
    for label, metric in MEASURES:
        every = [group[metric] for group in groups]
        rows.append(DifferenceRow(f"{label}, all", every[0].get("n", count), every))
        for stratum in results.strata:
            parts = [group["strata"][stratum] for group in groups]
            found = [part[metric] for part in parts]
            rows.append(DifferenceRow(f"{label}, {stratum}", found[0].get("n", parts[0]["n"]), found))
    return rows


def comparisons(results: Results, arm: str | None) -> list[ComparisonRow]:
    """Return how the headline arm compares with the others, and how much of the gap to the oracle it closes."""
    if arm is None:
        return []
    count, against_real = results.arms[arm]["n"], results.difference(arm, "real")
    rows = [
        ComparisonRow(f"Dice, {arm} against {pair.against}", count, False, group["dice"], group["dice"]["p"])
        for pair, group in results.differences.items()
        if pair.arm == arm and pair.against != "real"
    ]
    parts = {"all lesions": against_real} | {f"{name} lesions": part for name, part in against_real["strata"].items()}
    for label, part in parts.items():
        for measure, metric in (("missed", "missed"), ("pixels not found", "false_negative_rate")):
            change = part[metric]
            if change.get("relative") is not None:
                ends = {"low": change["relative_low"], "high": change["relative_high"]}
                interval = {"mean": change["relative"], **ends, "groups": change.get("groups")}
                p, n = change.get("p_holm", change["p"]), change.get("n", part.get("n", count))
                rows.append(ComparisonRow(f"Relative change, {measure}, {label}", n, True, interval, p))
    if "gap_closed" in against_real:
        label = "Share of the Dice between real and oracle that is gained"
        rows.append(ComparisonRow(label, count, True, against_real["gap_closed"], None))
    return rows


def mean_dice(cases: Sequence[TestedCase], arm: str) -> dict[str, float]:
    """Return the mean Dice of each case under an arm, over draws and seeds."""
    by_case: dict[str, list[float]] = {}
    for tested in cases:
        if tested.arm == arm:
            by_case.setdefault(tested.case, []).append(tested.dice)
    return {case: statistics.fmean(values) for case, values in by_case.items()}


@dataclass(frozen=True)
class PairedCase:
    """A test case with its mean Dice under `real` and under another arm."""

    tested: TestedCase  # by the other arm, the first of its rows
    real: float
    other: float

    @property
    def gain(self) -> float:
        """The other arm's Dice minus that of `real`."""
        return self.other - self.real


def paired_cases(cases: Sequence[TestedCase], arm: str) -> list[PairedCase]:
    """Return the cases that both `real` and an arm were tested on."""
    real, other = mean_dice(cases, "real"), mean_dice(cases, arm)
    first = {tested.case: tested for tested in reversed(cases) if tested.arm == arm}
    return [PairedCase(first[case], real[case], other[case]) for case in real if case in other]


def changed(cases: Sequence[TestedCase], arm: str | None) -> dict[str, int]:
    """Count the cases whose mean Dice rose or fell by more than ten points."""
    gains = [pair.gain for pair in paired_cases(cases, arm)] if arm else []
    return {"rescued": sum(gain > MATTERS for gain in gains), "lost": sum(gain < -MATTERS for gain in gains)}
