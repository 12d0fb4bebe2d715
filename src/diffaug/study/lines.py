"""The lines of a records file: four kinds, each a type that is checked when a line is read.

A file may come from another version or another machine. Fields that are unknown here are passed over, and fields that
older versions did not write have a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffaug.errors import DataError
from diffaug.reading import typed
from diffaug.study.statistics import METRICS

# Metrics that are kept of one class, with their units; the others follow from them.
STORED = {"dice": 1e-4, "sensitivity": 1e-4, "precision": 1e-4, "hd95": 0.1, "lesion_recall": 1e-4, "false_alarm": 1.0,
          "false_area": 1e-6}  # fmt: skip
FIX = "restore the file, or remove the line, and what it records is run again"


@dataclass(frozen=True)
class CasesLine:
    """Test cases, described once; columns of one value for each case.

    Attributes:
        test: Digest of the columns, by which runs name them.
        case: Names.
        group: What a split must not divide.
        area: Share of the image that is lesion.
        contrast: To the surroundings; None without a lesion.
        strata: Strata apart from low contrast, which depends on the draw.
    """

    test: str
    case: list[str]
    group: list[str]
    area: list[float | None]
    contrast: list[float | None]
    strata: list[list[str]]

    def check(self, where: object) -> None:
        """Refuse columns of several lengths.

        Raises:
            DataError: A column has not one value for each case.
        """
        for name in ("group", "area", "contrast", "strata"):
            _check_length(name, getattr(self, name), len(self.case), where)


@dataclass(frozen=True)
class RunLine:
    """The scores of one run.

    Attributes:
        run: Digest of all that they depend on.
        arm: Its arm.
        annotated: Annotated cases: a number, or `all`.
        draw: Which of them.
        fold: Which fold was left out; None without folds.
        seed: Of the training.
        on: Digest of the test cases.
        cut: The contrast under which a lesion of this draw is low-contrast; None where none is.
        units: What a whole number of each column of `values` is multiplied by.
        values: Scores by metric, a whole number for each test case.
        cases: What the run was trained on.
        negatives: Of each held-out negative, the share of its region that is predicted to be a lesion; None where the
            line does not say.
        painted: Digest of the painting of the negatives; None where the line does not say.
        alike: Digest of what takes as long.
        seconds: Of the training.
        base_seen: How many test images the bases of the painter have seen.
        duplicates: Test images that were trained on, where that was allowed, each with its twin.
        shared_groups: Groups that were trained on, where that was allowed.
    """

    run: str
    arm: str
    annotated: int | str
    draw: int
    fold: int | None
    seed: int
    on: str
    cut: float | None
    units: dict[str, float]
    values: dict[str, list[int | None]]
    cases: dict[str, int]
    negatives: list[float] | None = None
    painted: str | None = None
    alike: str = ""
    seconds: float | None = None
    base_seen: dict[str, bool | int] | None = None
    duplicates: list[list[str]] = field(default_factory=list)
    shared_groups: list[str] = field(default_factory=list)

    def check(self, tests: Mapping[str, CasesLine], where: object) -> None:
        """Refuse scores that are not of known test cases.

        Raises:
            DataError: The test cases are unknown, or a column has not one value for each of them.
        """
        if self.on not in tests:
            raise DataError(f"a run is of test cases that the file describes: {where} names {self.on[:40]}; {FIX}")
        for name in STORED if "iou" not in self.units else METRICS:
            if name not in self.units:
                raise DataError(f"a run has a unit for each metric: {where} has none for {name}; {FIX}")
        for name, column in self.values.items():
            if name not in self.units:
                raise DataError(f"a column of scores has a unit: {name[:40]} of {where} has none; {FIX}")
            _check_length(name, column, len(tests[self.on].case), where)


@dataclass(frozen=True)
class CostLine:
    """What fit and painting cost.

    Attributes:
        cost: Digest of what they depend on.
        alike: Digest of what takes as long.
        annotated: Annotated cases.
        draw: Which of them.
        fold: Which fold was left out; None without folds.
        fit_seconds: Of the fit.
        generate_seconds: Of the painting, on one core.
        requested: Requests for lesions.
        stopped: Those of them that the gate stopped on the way.
        rejected: Those that it turned down at the end.
        kept: Those that it kept.
        negatives: Kept cases without a lesion.
    """

    cost: str
    alike: str = ""
    annotated: int | str | None = None
    draw: int | None = None
    fold: int | None = None
    fit_seconds: float | None = None
    generate_seconds: float | None = None
    requested: int | None = None
    stopped: int | None = None
    rejected: int | None = None
    kept: int | None = None
    negatives: int | None = None


@dataclass(frozen=True)
class AlarmsLine:
    """What a run finds on negatives that were painted after it.

    Attributes:
        alarms: Digest of the run and of the painting.
        negatives: See `RunLine`.
    """

    alarms: str
    negatives: list[float]


Line = CasesLine | RunLine | CostLine | AlarmsLine
KINDS: Mapping[str, type[Line]] = {"run": RunLine, "cost": CostLine, "alarms": AlarmsLine, "test": CasesLine}


def line_of(values: Mapping[str, Any], where: object) -> Line:
    """Return a line of a records file as what it is.

    Args:
        values: Its JSON value.
        where: What the error names.

    Raises:
        DataError: It is of no kind, or breaks a rule of its kind.
    """
    kind = next((kind for name, kind in KINDS.items() if name in values), None)
    if kind is None:
        raise DataError(f"a line of records is one of {', '.join(KINDS)}: {where} is none; {FIX}")
    return typed(kind, values, where, FIX)


def _check_length(name: str, column: list[Any], count: int, where: object) -> None:
    if len(column) != count:
        raise DataError(
            f"a column has one value for each test case: {name[:40]} of {where} has {len(column)}, not {count}; {FIX}"
        )
