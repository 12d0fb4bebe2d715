"""What is kept of finished runs: one JSON line a run, small enough to be committed, from which every summary is made.

`test` describes the test cases once, `run` holds the scores of one run on them, rounded to 1e-4; `cost` and `alarms`
are what a fit took, and what a run finds on negatives that were painted after it.
A run is known by the digest of everything its numbers depend on; what is recorded is not run again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffaug.artifacts import append_jsonl, digest_of_value, make_folder, read_jsonl, write_jsonl
from diffaug.config import StudyConfig
from diffaug.study.arms import parse_arm
from diffaug.study.statistics import METRICS

STORED = {"dice": 1e-4, "sensitivity": 1e-4, "precision": 1e-4, "hd95": 0.1, "lesion_recall": 1e-4, "false_alarm": 1.0,
          "false_area": 1e-6}  # fmt: skip
MIXING = (  # knobs that an arm of real cases alone does not depend on
    "synthetic_per_real", "synthetic_share", "negatives", "select", "fixed_threshold", "pseudo_confidence",
)  # fmt: skip
TEACHING = ("teacher_confidence",)  # knobs that only an arm with a teacher depends on
LOW_CONTRAST = "low-contrast"
REAL_ALONE = ("real", "oracle")


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
    """The lines of a records file, and what can be read from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = read_jsonl(path)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_jsonl(path, self.lines)  # a kill cut the last line off

    def run(self, key: str, painted: str = "") -> dict[str, Any] | None:
        """Return the line of a run with the false alarms on the negatives of one painting. It is None without a record.

        Args:
            key: The key of the run.
            painted: The digest of what fit and painting depend on. A line that names no painting is taken for its own.
        """
        line = next((line for line in self.lines if line.get("run") == key), None)
        if line is None:
            return None
        if "negatives" not in line:
            return line
        alarms = line["negatives"] if line.get("painted", painted) == painted else []
        noted = (other["negatives"] for other in self.lines if other.get("alarms") == alarms_key(key, painted))
        return {**line, "negatives": alarms or next(noted, [])}

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
        if not any(line.get("test") == test and "case" in line for line in self.lines):
            self._append({"test": test, **cases})
        units = _columns_of(rows[0])
        values = {name: [_whole(row[name], unit) for row in rows] for name, unit in units.items()}
        values = {name: column for name, column in values.items() if any(value is not None for value in column)}
        self._append({"run": key, **told, "on": test, "cut": cut, "units": units, "values": values})

    def note(self, kind: str, key: str, told: Mapping[str, Any]) -> None:
        """Append what a stage cost (`cost`), or what a run says of negatives painted after it (`alarms`), once."""
        if not any(line.get(kind) == key for line in self.lines):
            self._append({kind: key, **told})

    def noted(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of a kind of stage."""
        return [line for line in self.lines if kind in line]

    def alike(self, digest: str) -> list[dict[str, Any]]:
        """Return the lines of what took as long, as far as is known."""
        return [line for line in self.lines if line.get("alike") == digest]

    def records_of(self, line: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the per-case records of a run's line, as `runs.complete_run` makes them, to the digits kept."""
        cases = next(one for one in self.lines if one.get("test") == line["on"] and "case" in one)
        told = {name: line[name] for name in ("arm", "annotated", "draw", "fold", "seed")}
        units, values, nothing = line["units"], line["values"], [None] * len(cases["case"])
        return [
            told
            | _scores({name: _number(values.get(name, nothing)[index], unit) for name, unit in units.items()})
            | {name: cases[name][index] for name in ("case", "group", "area", "contrast")}
            | {"strata": _strata(cases["strata"][index], cases["contrast"][index], line["cut"])}
            | {"prediction": ""}
            for index in range(len(cases["case"]))
        ]

    def _append(self, line: dict[str, Any]) -> None:
        make_folder(self.path.parent)
        append_jsonl(self.path, line)
        self.lines.append(line)


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
