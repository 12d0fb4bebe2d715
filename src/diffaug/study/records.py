"""What is kept of finished runs: one JSON line a run, small enough to be committed, from which every summary is made.

`test` describes the test cases once, `run` holds the scores of one run on them, rounded to 1e-4; `cost` and `alarms`
are what a fit took, and what a run finds on negatives that were painted after it (`lines`).
A run is known by the digest of everything its numbers depend on; what is recorded is not run again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from diffaug.artifacts import append_jsonl, digest_of_value, make_folder, read_jsonl, write_text
from diffaug.config import StudyConfig
from diffaug.study.arms import parse_arm
from diffaug.study.lines import STORED, AlarmsLine, CasesLine, CostLine, Line, RunLine, line_of
from diffaug.study.statistics import METRICS

MIXING = (  # knobs that an arm of real cases alone does not depend on
    "synthetic_per_real", "synthetic_share", "negatives", "select", "fixed_threshold", "pseudo_confidence",
)  # fmt: skip
TEACHING = ("teacher_confidence",)  # knobs that only an arm with a teacher depends on
LOW_CONTRAST = "low-contrast"
REAL_ALONE = ("real", "oracle")
Kind = TypeVar("Kind", RunLine, CostLine, AlarmsLine)


def key_of_run(arm: str, config: StudyConfig, painting: Mapping[str, Any], where: Mapping[str, Any]) -> str:
    """Return the digest of all that a run's numbers depend on.

    Args:
        arm: Its arm.
        config: Knobs; an arm of real cases alone does not depend on those of mixing and selection, and one without a
            teacher not on those of teaching.
        painting: Knobs of fit and generation, which the arms with painted cases depend on.
        where: Data, annotated cases (on which `oracle` does not depend), test cases, draw, fold, seed and device.
    """
    from diffaug.study.architectures import identity_of_study

    spec = parse_arm(arm)
    apart = {*(MIXING if arm in REAL_ALONE else ()), *(() if spec.has_teacher else TEACHING)}
    knobs = {name: value for name, value in identity_of_study(config).items() if name not in apart}
    painted = painting if spec.is_painted else {}
    needed = {name: value for name, value in where.items() if arm != "oracle" or name != "annotated"}
    return digest_of_value([arm, knobs, painted, needed])


def alarms_key(run: str, painted: str) -> str:
    """Return the key of what a run says of the negatives of one painting."""
    return digest_of_value([run, painted])


class Records:
    """The lines of a records file, and what can be read from them.

    Raises:
        DataError: A line breaks a rule of its kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._tests: dict[str, CasesLine] = {}
        values = read_jsonl(path)
        for number, line in enumerate(values, start=1):
            self._take(line, f"{path} line {number}")
        if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):  # a kill cut the last line off
            whole = data.split(b"\n")[: len(values)]
            write_text(path, "".join(f"{line.decode()}\n" for line in whole))

    def run(self, key: str, painted: str = "") -> RunLine | None:
        """Return the line of a run with the false alarms on the negatives of one painting. It is None without a record.

        Args:
            key: The key of the run.
            painted: The digest of what fit and painting depend on. A line that names no painting is taken for its own.
        """
        line = next((line for line in self._of(RunLine) if line.run == key), None)
        if line is None or line.negatives is None:
            return line
        alarms = line.negatives if line.painted in (None, painted) else []
        noted = (other.negatives for other in self._of(AlarmsLine) if other.alarms == alarms_key(key, painted))
        return replace(line, negatives=alarms or next(noted, []))

    def add(self, key: str, told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], cut: float | None) -> None:
        """Append a run, and the description of its test cases where there is none yet.

        Args:
            key: Of the run.
            told: What else is known of it: arm, annotated, draw, fold, seed, cases, negatives, seconds of training, and
                the digest of what these depend on, `alike`.
            rows: Its per-case records.
            cut: The contrast under which a lesion of this draw is low-contrast.
        """
        cases = {name: [row[name] for row in rows] for name in ("case", "group", "area", "contrast")}
        cases["strata"] = [[name for name in row["strata"] if name != LOW_CONTRAST] for row in rows]
        test = digest_of_value(cases)
        if test not in self._tests:
            self._append({"test": test, **cases})
        units = _columns_of(rows[0])
        values = {name: [_whole(row[name], unit) for row in rows] for name, unit in units.items()}
        values = {name: column for name, column in values.items() if any(value is not None for value in column)}
        self._append({"run": key, **told, "on": test, "cut": cut, "units": units, "values": values})

    def note_cost(self, key: str, told: Mapping[str, Any]) -> None:
        """Append what fit and painting cost, once."""
        if not any(line.cost == key for line in self._of(CostLine)):
            self._append({"cost": key, **told})

    def note_alarms(self, key: str, negatives: Sequence[float]) -> None:
        """Append what a run finds on negatives that were painted after it, once."""
        if not any(line.alarms == key for line in self._of(AlarmsLine)):
            self._append({"alarms": key, "negatives": list(negatives)})

    def costs(self) -> list[CostLine]:
        """Return what fits and paintings cost."""
        return self._of(CostLine)

    def alike(self, digest: str) -> list[RunLine | CostLine]:
        """Return the lines of what took as long, as far as is known."""
        return [line for line in self.lines if isinstance(line, RunLine | CostLine) and line.alike == digest]

    def records_of(self, line: RunLine) -> list[dict[str, Any]]:
        """Return the per-case records of a run's line, as `runs.complete_run` makes them, to the digits kept."""
        cases = self._tests[line.on]
        told = {name: getattr(line, name) for name in ("arm", "annotated", "draw", "fold", "seed")}
        units, values, nothing = line.units, line.values, [None] * len(cases.case)
        return [
            told
            | _scores({name: _number(values.get(name, nothing)[index], unit) for name, unit in units.items()})
            | {name: getattr(cases, name)[index] for name in ("case", "group", "area", "contrast")}
            | {"strata": _strata(cases.strata[index], cases.contrast[index], line.cut)}
            | {"prediction": ""}
            for index in range(len(cases.case))
        ]

    def _of(self, kind: type[Kind]) -> list[Kind]:
        return [line for line in self.lines if isinstance(line, kind)]

    def _take(self, values: Mapping[str, Any], where: str) -> None:
        """Check a line, and keep it."""
        line = line_of(values, where)
        if isinstance(line, CasesLine):
            line.check(where)
            self._tests.setdefault(line.test, line)
        if isinstance(line, RunLine):
            line.check(self._tests, where)
        self.lines.append(line)

    def _append(self, line: dict[str, Any]) -> None:
        make_folder(self.path.parent)
        self._take(line, f"a line of {self.path}")
        append_jsonl(self.path, line)


def _whole(value: float | None, unit: float) -> int | None:
    return None if value is None else round(value / unit)


def _number(value: int | None, unit: float) -> float | None:
    return None if value is None else round(value * unit, 6)


def _strata(others: Sequence[str], contrast: float | None, cut: float | None) -> list[str]:
    """Return the strata of a case: those by size and cup, and whether its contrast is low in this draw."""
    low = bool(others) and cut is not None and contrast is not None and contrast < cut
    return [*others[:1], *([LOW_CONTRAST] if low else []), *others[1:]]


def _scores(kept: Mapping[str, float | None]) -> dict[str, Any]:
    """Return all metrics from the kept ones, iou = dice / (2 - dice); of several classes all are kept."""
    from diffaug.study.evaluate import Scores

    if "iou" in kept:
        return dict(kept)
    dice = kept["dice"] or 0.0
    scores = Scores(**{**kept, "dice": dice, "iou": dice / (2 - dice)})  # type: ignore[arg-type]
    return {**kept, "iou": scores.iou, "missed": scores.missed, "false_negative_rate": scores.false_negative_rate}


def _columns_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the columns of a record that are kept, with their units: of several classes all of them."""
    several = [name for name in row if name.startswith("vcdr") or any(name.endswith(f"_{one}") for one in METRICS)]
    own = [name for name in several if name not in METRICS]
    if not own:
        return dict(STORED)
    units = {name: next((u for m, u in STORED.items() if name.endswith(m)), 1e-4) for name in (*METRICS, *own)}
    return units | {"false_alarm": 1e-4}  # a mean over classes, where that of each is 0 or 1
