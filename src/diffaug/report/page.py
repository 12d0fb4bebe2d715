"""The report of a study: one HTML file that holds everything it shows and needs no network.

Only reads files: the study folder, its synthetic set, and images of the data set for the worst cases. Beside the page
it writes the funnel of that set as a table, `funnel.csv`.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.artifacts import PathLike, make_folder, read_json, write_csv, write_text
from diffaug.config import WITH_LABELS
from diffaug.data.case import Case, LabelClass, masks_from_label
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, read_image, read_label, read_mask
from diffaug.data.manifest import Row, read_rows
from diffaug.errors import DataError, StudyError
from diffaug.report import figures, pictures

ACCEPTED, REFUSED, WORST = 8, 8, 8  # how many pictures of each kind
CHANGED, MATTERS = 4, 0.1  # rescued and lost cases shown; the change of Dice from which a case counts as one
STRATA = ("small", "medium", "large", "low-contrast")  # in the order of the page; others follow
FUNNEL_COLUMNS = ("size", "requested", "stopped", "rejected", "kept")
CLASS_DIFFERENCES = (("Dice", "dice"), ("Pixels not found", "false_negative_rate"))
CANDIDATES = (
    f"selected{WITH_LABELS}", "selected", "no-fills", "validated", "fixed-threshold", "random-kept", "unfiltered",
    "pseudo-label", "copy-paste",
)  # fmt: skip
SUBJECTS = {"copy-paste": "Pasted lesions", "pseudo-label": "Pseudo-labels"}  # of the headline; others are painted


def write_report(study: PathLike, synthetic: PathLike | None = None, to: PathLike | None = None) -> Path:
    """Write the report of a finished study.

    Args:
        study: Study folder.
        synthetic: Synthetic set to show; None takes the study's first, if it had one.
        to: HTML file; None means STUDY/report.html.

    Returns:
        The file written.

    Raises:
        StudyError: The study or the set is not finished, or `to` is no HTML file.
        DataError: A file of the study is damaged.

    Example:
        >>> diffaug.write_report("studies/mine")  # doctest: +SKIP
        PosixPath('studies/mine/report.html')
    """
    study, synthetic = Path(study), None if synthetic is None else Path(synthetic)
    if not (study / "summary.json").is_file():
        raise StudyError(f"a report needs a finished study: {study} has no summary.json; run `diffaug study` again")
    to = Path(to or study / "report.html")
    if to.is_dir() or to.suffix.lower() not in (".html", ".htm"):
        raise StudyError(f"a report is an HTML file: {to} is none; name one that ends in .html")
    if synthetic is not None and not (synthetic / "manifest.jsonl").is_file():
        raise StudyError(f"a report shows a finished synthetic set: {synthetic} has no manifest.jsonl; check the path")
    make_folder(to.parent)
    plan = {"shared_groups": [], "duplicates": []} | read_json(study / "study.json")
    summary = read_json(study / "summary.json")
    rows, table = read_cases(study / "cases.csv"), read_table(study / "summary.csv")
    points, costs = read_table(study / "curve.csv", optional=True), read_table(study / "costs.csv", optional=True)
    if synthetic is None and plan["synthetic"]:
        synthetic = Path(plan["synthetic"][0])
    summary = in_order(summary, plan["config"]["arms"])
    strata = sorted(next(iter(summary["arms"].values()))["strata"], key=_stratum_order)
    candidate = headline_arm(summary)
    measured = in_order(nested(table), plan["config"]["arms"])
    cases = _cases(plan)
    page = {
        "plan": plan,
        "summary": summary,
        "strata": strata,
        "candidate": candidate,
        "verdict": verdict(summary, candidate),
        "labelled": labelled_sentence(summary, candidate),
        "missed": missed_sentence(summary, candidate),
        "bases": bases_sentence(summary),
        "clean": clean_sentence(plan, summary),
        "figures": _figures(measured, strata, rows, candidate) | _curves(measured, points, plan),
        "costs": costs,
        "training": _training(read_table(study / "training.csv", optional=True), summary["arms"]),
        "leaks": read_json(study / "leaks.json") if (study / "leaks.json").is_file() else None,
        "curve": points if len({row["annotated"] for row in points}) > 1 else [],
        "changes": _changes(study, cases, rows, candidate),
        "comparisons": comparisons(summary, candidate),
        "set": _synthetic(synthetic, to),
        "contrast": contrast_limit(summary),
        "worst": _worst(study, cases, plan["data"], rows, candidate or next(iter(summary["arms"]))),
        "differences": difference_table(summary, strata),
        "changed": _changed(rows, candidate),
        "colours": figures.COLOURS,
        "classes": _classes(plan, summary),
        "vcdr": "vcdr_error" in next(iter(summary["arms"].values())),
    }
    write_text(to, _render(page))
    return to


def _training(rows: Sequence[Mapping[str, Any]], arms: Iterable[str]) -> list[tuple[str, float]]:
    """Return the mean minutes that a run of each arm was trained, as far as they are known."""
    found = {arm: [row["minutes"] for row in rows if row["arm"] == arm] for arm in arms}
    return [(arm, statistics.fmean(minutes)) for arm, minutes in found.items() if minutes]


def _classes(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """Return the names of several classes, outer ones first as in the plan; JSON files sort them by name."""
    found = next(iter(summary["arms"].values())).get("classes", {})
    return [name for name in plan.get("classes", sorted(found)) if name in found]


def _render(page: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("diffaug.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": fraction, "points": points, "percent": percent, "sure": is_sure}
    environment.filters |= {"cases": cases, "pixels": pixels, "signed_percent": signed_percent}
    return environment.get_template("page.html.j2").render(page)


def read_cases(path: Path) -> list[dict[str, Any]]:
    """Read a study's cases.csv: numbers as floats or None, `strata` as a list.

    Raises:
        DataError: The file is missing or has no such columns.
    """
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        for row in rows:
            row["strata"] = row["strata"].split(";") if row["strata"] else []
            for column in ("dice", "iou", "area"):
                row[column] = float(row[column]) if row[column] else None
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} must be a study's table: {error}; run `diffaug study` again") from None
    return rows


def read_table(path: Path, optional: bool = False) -> list[dict[str, Any]]:
    """Read a table of numbers and names; empty cells are None. With `optional`, a missing file has no rows.

    Raises:
        DataError: The file is missing or is no table.
    """
    if optional and not path.is_file():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} must be a study's table: {error}; run `diffaug study` again") from None
    return [{name: _value(cell) for name, cell in row.items()} for row in rows]


def _value(cell: str) -> Any:
    try:
        return (int(cell) if cell.lstrip("-").isdigit() else float(cell)) if cell else None
    except ValueError:
        return cell


def nested(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of `summary.csv` as the figures take them: arms and differences, by metric and stratum."""
    found: dict[str, Any] = {"arms": {}, "differences": {}}
    for row in table:
        name = f"{row['arm']} - {row['against']}" if row["against"] else row["arm"]
        one = found["differences" if row["against"] else "arms"].setdefault(name, {"n": row["n"], "strata": {}})
        if row["stratum"] != "all":
            one = one["strata"].setdefault(row["stratum"], {"n": row["n"]})
        one[row["metric"]] = {key: row[key] for key in ("mean", "low", "high")}
    return found


# numbers as text


def cases(count: Mapping[str, int]) -> str:
    """Write what an arm was trained on, such as 50 + 100 + 50: real cases, others, fills, perhaps labelled images."""
    fills, labelled = count.get("trained_fills", 0), count.get("labelled", 0)
    told = f"{count['real']} + {count['pool'] - fills - labelled} + {fills}"
    return f"{told} + {labelled} labelled" if labelled else told


def fraction(interval: Mapping[str, float | None]) -> str:
    """Write an interval of fractions, such as 0.785 [0.751, 0.812]; a dash where there is nothing."""
    if interval["mean"] is None:
        return "–"
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def percent(interval: Mapping[str, float | None]) -> str:
    """Write an interval of shares in percent, such as 12.0 % [8.1, 15.5]."""
    if interval["mean"] is None:
        return "–"
    low, high = interval["low"] or 0.0, interval["high"] or 0.0
    return f"{100 * interval['mean']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def pixels(interval: Mapping[str, float | None]) -> str:
    """Write an interval of distances in px, such as 21.3 [18.0, 25.1]."""
    if interval["mean"] is None:
        return "–"
    return f"{interval['mean']:.1f} [{interval['low']:.1f}, {interval['high']:.1f}]"


def signed_percent(interval: Mapping[str, float | None]) -> str:
    """Write an interval of relative changes in percent, with signs, such as −28.0 % [−40.1, −12.3]."""
    return "–" if interval["mean"] is None else points(interval).replace(" [", " % [", 1)


def points(interval: Mapping[str, float | None]) -> str:
    """Write an interval of differences in points of a hundred, with signs, such as +1.2 [−0.3, +2.6]."""
    if interval["mean"] is None:
        return "–"
    low, high = interval["low"] or 0.0, interval["high"] or 0.0
    return f"{signed(interval['mean'])} [{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """Write a fraction in points with a sign; what rounds to zero has none."""
    text = f"{abs(100 * value):.1f}"
    return text if text == "0.0" else f"{'+' if value > 0 else '−'}{text}"


def is_sure(interval: Mapping[str, float | None]) -> bool:
    """Tell whether an interval lies on one side of zero; one of a single case has no width and tells nothing."""
    low, high = interval["low"], interval["high"]
    return low is not None and high is not None and (low > 0 or high < 0) and low < high


def headline_arm(summary: Mapping[str, Any]) -> str | None:
    """Return the arm that the page is about: the furthest along the pipeline that was compared with `real`.

    Never `oracle`, whose gain is that of annotations.
    """
    compared = [name.removesuffix(" - real") for name in summary["differences"] if name.endswith(" - real")]
    rest = [arm for arm in compared if arm != "oracle"]
    return next((arm for arm in CANDIDATES if arm in rest), rest[0] if rest else None)


def in_order(summary: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    """Return a summary whose arms and differences come in the order of `arms`; JSON files sort them by name."""
    names = [name for name in arms if name in summary["arms"]]
    differences = summary["differences"]
    return {
        **summary,
        "arms": {name: summary["arms"][name] for name in names},
        "differences": {
            f"{name} - {other}": differences[f"{name} - {other}"]
            for other in ("real", *names)
            for name in names
            if f"{name} - {other}" in differences
        },
    }


def difference_table(summary: Mapping[str, Any], strata: Sequence[str]) -> list[tuple[str, int, list[Any]]]:
    """Return the rows of the table of differences: what is measured, on how many cases, and each arm's interval."""
    differences = [one for name, one in summary["differences"].items() if name.endswith(" - real")]
    if not differences:
        return []
    count = next(iter(summary["arms"].values()))["n"]
    rows = []
    for name in differences[0].get("classes", {}):
        found = [one["classes"][name] for one in differences]
        rows += [(f"{label}, {name}", count, [one[metric] for one in found]) for label, metric in CLASS_DIFFERENCES]
    if "vcdr_error" in differences[0]:
        rows.append(("Error of the vertical cup-to-disc ratio", count, [one["vcdr_error"] for one in differences]))
    for label, metric in (("Dice", "dice"), ("Missed", "missed"), ("Pixels not found", "false_negative_rate")):
        rows.append((f"{label}, all", count, [one[metric] for one in differences]))
        for stratum in strata:
            found = [one["strata"][stratum] for one in differences]
            rows.append((f"{label}, {stratum}", found[0]["n"], [one[metric] for one in found]))
    return rows


def verdict(summary: Mapping[str, Any], arm: str | None) -> dict[str, str]:
    """Return the headline: what it shows ("gain", "loss", "none", "nothing"), in a few words and in one sentence."""
    if arm is None:
        return {
            "kind": "nothing",
            "title": "Nothing was compared",
            "text": "This study has no arm beside real and oracle, or no arm real: it says how well a model does, not "
            "what helps.",
        }
    difference, one = summary["differences"][f"{arm} - real"]["dice"], summary["arms"][arm]
    what = "Painted and labelled cases" if labelled_count(one) else SUBJECTS.get(arm, "Synthetic cases")
    kind = "none" if not is_sure(difference) else "gain" if difference["mean"] > 0 else "loss"
    title = {
        "gain": f"{what} helped",
        "loss": f"{what} hurt",
        "none": "No difference shown",
    }[kind]
    text = (
        f"On {one['n']} held-out real cases and with {repeats(one)}, the arm {arm} changed mean Dice by "
        f"{signed(difference['mean'])} points against real (95 % interval {signed(difference['low'])} to "
        f"{signed(difference['high'])})"
    )
    return {"kind": kind, "title": title, "text": f"{text}{'; the interval spans zero.' if kind == 'none' else '.'}"}


def repeats(arm: Mapping[str, Any]) -> str:
    """Say how often an arm was trained: by draws of the annotated cases, and by seeds of each."""
    draws, seeds = arm["draws"], arm["seeds"]
    told = f"{seeds} seeds" if seeds > 1 else "a single seed"
    if draws == 1:
        return told
    return f"{draws} draws of the annotated cases" + (f", {told} each" if seeds > 1 else "")


def contrast_limit(summary: Mapping[str, Any]) -> str:
    """Write under which contrast a lesion is low-contrast; draws of the annotated cases have cuts of their own."""
    cuts = summary.get("contrast_cuts") or [cut for cut in [summary["contrast_cut"]] if cut is not None]
    if not cuts:
        return "no cut"
    low, high = (f"{cut:.1f}" for cut in (min(cuts), max(cuts)))
    return low if low == high else f"{low} to {high}, by draw"


def comparisons(summary: Mapping[str, Any], arm: str | None) -> list[tuple[str, int, str, Any, Any]]:
    """Return how the headline arm compares with the others, and how much of the gap to the oracle it closes.

    Returns:
        (What, n, "points" or "percent", interval, p-value or None).
    """
    if arm is None:
        return []
    rows, count = [], summary["arms"][arm]["n"]
    for name, one in summary["differences"].items():
        if name.startswith(f"{arm} - ") and not name.endswith(" - real"):
            rows.append((f"Dice, {arm} against {name.split(' - ')[1]}", count, "points", one["dice"], one["dice"]["p"]))
    own = summary["differences"][f"{arm} - real"]
    for label, group in (("all lesions", own), *((f"{name} lesions", own["strata"][name]) for name in own["strata"])):
        for what, metric in (("missed", "missed"), ("pixels not found", "false_negative_rate")):
            one = group[metric]
            if one.get("relative") is not None:
                change = {"mean": one["relative"], "low": one["relative_low"], "high": one["relative_high"]}
                p = one.get("p_holm", one["p"])
                rows.append((f"Relative change, {what}, {label}", group.get("n", count), "percent", change, p))
    if "gap_closed" in own:
        rows.append(
            ("Share of the Dice between real and oracle that is gained", count, "percent", own["gap_closed"], None)
        )
    return rows


def labelled_count(arm: Mapping[str, Any]) -> int:
    """Return on how many labelled images, beside painted cases, an arm was trained."""
    return int(arm.get("cases", {}).get("labelled", 0))


def labelled_sentence(summary: Mapping[str, Any], arm: str | None) -> str:
    """Say what painted cases add to self-training; empty for an arm that takes no labelled images."""
    if arm is None or not (count := labelled_count(summary["arms"][arm])):
        return ""
    first = " in the first draw" if summary["arms"][arm].get("draws", 1) > 1 else ""
    told = f"{arm} was also trained on unannotated images with the masks that real gave them ({count}{first})"
    difference = summary["differences"].get(f"{arm} - pseudo-label", {}).get("dice")
    if difference is None:
        return f"{told}; how much of this is their doing is not known, since the arm pseudo-label was not run."
    return (
        f"{told}. Against pseudo-label, which was trained on these without painted cases, it changed mean Dice by "
        f"{signed(difference['mean'])} points ({signed(difference['low'])} to {signed(difference['high'])})"
        f"{'.' if is_sure(difference) else '; no difference shown.'}"
    )


def missed_sentence(summary: Mapping[str, Any], arm: str | None) -> str:
    """Say what happened to missed small lesions; empty where there were none."""
    if arm is None or "real" not in summary["arms"]:
        return ""
    small, real = summary["arms"][arm]["strata"]["small"], summary["arms"]["real"]["strata"]["small"]
    difference = summary["differences"][f"{arm} - real"]["missed_small"]
    if difference["mean"] is None:
        return "The test cases hold no small lesion, so nothing can be said about them."
    return (
        f"Of the small lesions (n = {small['n']}), {100 * real['missed']['mean']:.1f} % were missed by real and "
        f"{100 * small['missed']['mean']:.1f} % by {arm}: {signed(difference['mean'])} points "
        f"({signed(difference['low'])} to {signed(difference['high'])})"
        f"{'.' if is_sure(difference) else '; no difference shown.'}"
    )


def bases_sentence(summary: Mapping[str, Any]) -> str:
    """Say which test images the bases of the painters have seen; empty where they have seen none."""
    seen = summary.get("base_seen", {"known": False, "unannotated": 0, "annotated": 0})
    if seen is None:
        return ""
    told = [
        f"{seen[kind]} of {seen['of']} test images were seen, {kind}, by the base model of the painter"
        for kind in ("unannotated", "annotated")
        if seen[kind]
    ]
    if not seen["known"]:
        told.append("what the painter's base model was trained on is not recorded: test images may be among it")
    return f"{'; '.join(told)}." if told else ""


def clean_sentence(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Say what kept the test clean, and every exception from that."""
    if plan["identity"].get("folds"):
        return "Each case is tested by a network that no case of its group trained; repeated frames were not sought."
    exceptions = [
        *(["repeated frames and groups that were allowed"] if plan["duplicates"] or plan["shared_groups"] else []),
        *(["what the base model has seen"] if bases_sentence(summary) else []),
    ]
    but = f", but for {' and '.join(exceptions)} (named at the top)" if exceptions else ""
    more = " and those of the full data set in oracle" if "oracle" in summary["arms"] else ""
    return (
        f"No test image was used to train or choose anything{but}, nor was an annotation outside the training "
        f"cases{more} (checked by digests, by fingerprints and by each synthetic case's sources)."
    )


# figures and pictures


def _figures(
    summary: Mapping[str, Any], strata: Sequence[str], rows: Sequence[Mapping[str, Any]], candidate: str | None
) -> dict[str, str]:
    drawn = {"strata": figures.strata_figure(summary, strata), "differences": "", "cases": ""}
    if candidate:
        against = {name: one for name, one in summary["differences"].items() if name.endswith(" - real")}
        drawn["differences"] = figures.differences_figure(against, strata)
        pairs = [(real, other, "small" in row["strata"]) for row, real, other in _paired(rows, candidate)]
        drawn["cases"] = figures.cases_figure(pairs, candidate)
    return drawn


def _curves(summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> dict[str, str]:
    """Draw Dice by number of annotated cases, and the gain by number of painted ones, where there are several."""
    against = {name[:-7]: one["dice"] for name, one in summary["differences"].items() if name.endswith(" - real")}
    parts = [(*name.partition("@"), one) for name, one in against.items() if not name.endswith(WITH_LABELS)]
    kinds, usual = {kind for kind, at, _, _ in parts if at}, plan["config"]["synthetic_per_real"]
    ratios = [(kind, float(ratio or usual), one) for kind, _, ratio, one in parts if kind in kinds]
    several = len({point["annotated"] for point in points}) > 1
    return {
        "curve": figures.curve_figure(points) if several else "",
        "ratio": figures.ratio_figure(ratios) if ratios else "",
    }


def _cases(plan: Mapping[str, Any]) -> dict[str, Case]:
    """Return the test cases by the ids of the records, as far as their data sets are still there."""
    found: dict[str, Case] = {}
    for name, folder in [
        ("", plan["data"]),
        *((t.get("prefix", Path(t["folder"]).name), t["folder"]) for t in plan["tests"] if t["folder"]),
    ]:
        try:
            cases = read_dataset(Path(folder)).cases
        except DataError:
            continue
        found |= {f"{name}:{case.id}" if name else case.id: case for case in cases if case.mask is not None}
    return found


def _mean_dice(rows: Sequence[Mapping[str, Any]], arm: str) -> dict[str, float]:
    by_case: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == arm:
            by_case.setdefault(row["case"], []).append(row["dice"])
    return {case: statistics.fmean(values) for case, values in by_case.items()}


def _paired(rows: Sequence[Mapping[str, Any]], arm: str) -> list[tuple[Mapping[str, Any], float, float]]:
    """Return each case's row with its mean Dice under `real` and under an arm."""
    real, other = _mean_dice(rows, "real"), _mean_dice(rows, arm)
    first = {row["case"]: row for row in reversed(rows) if row["arm"] == arm}
    return [(first[case], real[case], other[case]) for case in real if case in other]


def _changed(rows: Sequence[Mapping[str, Any]], arm: str | None) -> dict[str, int]:
    """Count the cases whose mean Dice rose or fell by more than ten points, on average over draws and seeds."""
    changes = [other - real for _, real, other in _paired(rows, arm)] if arm else []
    return {"rescued": sum(one > MATTERS for one in changes), "lost": sum(one < -MATTERS for one in changes)}


def _changes(
    study: Path, cases: Mapping[str, Case], rows: Sequence[Mapping[str, Any]], arm: str | None
) -> dict[str, list[dict[str, Any]]]:
    """Return the cases that an arm rescued most and those that it lost most, with the outlines of both predictions."""
    if arm is None:
        return {"rescued": [], "lost": []}
    shown = {(row["arm"], row["case"]): row for row in rows if row["prediction"] and row["case"] in cases}
    ordered = sorted(_paired(rows, arm), key=lambda one: one[1] - one[2])
    there = [one for one in ordered if {("real", one[0]["case"]), (arm, one[0]["case"])} <= shown.keys()]
    rescued = [one for one in there if one[2] - one[1] > MATTERS][:CHANGED]
    lost = [one for one in reversed(there) if one[1] - one[2] > MATTERS][:CHANGED]

    def card(one: tuple[Mapping[str, Any], float, float]) -> dict[str, Any]:
        name = one[0]["case"]
        pair = {kind: _outlined(study, cases[name], shown[kind, name]) for kind in ("real", arm)}
        return {"row": one[0], "real": one[1], "other": one[2], "pictures": [pair["real"], pair[arm]]}

    return {"rescued": [card(one) for one in rescued], "lost": [card(one) for one in lost]}


def _outlined(study: Path, case: Case, row: Mapping[str, Any]) -> str:
    """Draw the outlines of reference and prediction of each class into a test image."""
    references = case.read_masks()
    predictions = read_masks(study / row["prediction"], row["case"], case.classes)
    masks = [(pictures.resized(one, references.shape[1:]), pictures.PREDICTION) for one in predictions]
    return pictures.outlined(case.read_image(), [*masks, *((one, pictures.REFERENCE) for one in references)])


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` rows, evenly spread over the list: an unchosen sample that is the same every time."""
    if len(rows) <= count:
        return list(rows)
    return [rows[(2 * index + 1) * len(rows) // (2 * count)] for index in range(count)]


def _funnel(summary: Mapping[str, Any], table: Path) -> str:
    """Write what became of the requests of each size as a table, and draw the table."""
    sizes = summary.get("by_size", {}).items()
    rows = [{"size": name, **found} for name, found in sorted(sizes, key=lambda named: _stratum_order(named[0]))]
    write_csv(table, rows, FUNNEL_COLUMNS)
    return figures.funnel_figure({row["size"]: row for row in read_table(table)})


def _synthetic(folder: Path | None, to: Path) -> dict[str, Any] | None:
    """Return what the page shows of a synthetic set; None without one."""
    if folder is None or not (folder / "manifest.jsonl").is_file():
        return None
    rows = read_rows(folder / "manifest.jsonl")
    summary = read_json(folder / "summary.json")
    summary |= summary.get("lesions", {})
    chosen = "requested" not in summary  # by `diffaug select`, from a set whose funnel is not here
    kept = [row for row in rows if row.decision == "kept"]
    refused = [row for row in rows if row.decision != "kept" and row.preview]
    stopped = [row for row in refused if row.decision == "stopped"]
    rejected = [row for row in refused if row.decision == "rejected"]
    cases = read_dataset(folder).cases if kept else ()
    classes = cases[0].classes if cases else ()
    half = max(REFUSED // 2, REFUSED - len(stopped))
    return {
        "name": folder.name,
        "summary": summary,
        "bins": [
            *sorted(summary.get("by_size", {}).items(), key=lambda named: _stratum_order(named[0])),
            ("all", summary),
        ],
        "chosen": chosen,
        "figure": "" if chosen else _funnel(summary, to.with_name("funnel.csv")),
        "accepted": [_accepted(folder, row, classes) for row in spread(kept, ACCEPTED)],
        "refused": [
            _refused(folder, row, classes)
            for row in spread(rejected, half) + spread(stopped, REFUSED - min(half, len(rejected)))
        ],
        "digests": {name: getattr(kept[0], name) for name in ("model", "validator", "config")} if kept else {},
    }


def _stratum_order(name: str) -> int:
    return STRATA.index(name) if name in STRATA else len(STRATA)


def read_masks(path: Path, case: str, classes: Sequence[LabelClass]) -> Mask:
    """Read the mask of each class from a picture of a synthetic set or of a prediction, (K, H, W)."""
    return masks_from_label(read_label(path, case), classes) if classes else read_mask(path, case)[None]


def _accepted(folder: Path, row: Row, classes: Sequence[LabelClass]) -> dict[str, Any]:
    image, masks = read_image(folder / row.image, row.id), read_masks(folder / row.mask, row.id, classes)
    return {
        "row": row,
        "frame": pictures.outlined(image, [(mask, pictures.REQUESTED) for mask in masks]),
        "close": pictures.plain(pictures.close_up(image, np.any(masks, axis=0))),
        "mask": pictures.mask_picture(masks),
        "check": row.checks[-1] if row.checks else None,
    }


def _refused(folder: Path, row: Row, classes: Sequence[LabelClass]) -> dict[str, Any]:
    masks = read_masks(folder / row.preview_mask, row.id, classes)
    image = read_image(folder / row.preview, row.id)
    return {
        "row": row,
        "frame": pictures.outlined(image, [(mask, pictures.REQUESTED) for mask in masks]),
        "close": pictures.plain(image),
        "mask": pictures.mask_picture(masks),
        "check": row.checks[-1] if row.checks else None,
    }


def _worst(
    study: Path, cases: Mapping[str, Case], data: str, rows: Sequence[Mapping[str, Any]], arm: str
) -> dict[str, Any]:
    """Return the cases that an arm does worst, by its first seed, with both outlines."""
    shown = sorted((row for row in rows if row["arm"] == arm and row["prediction"]), key=lambda row: row["dice"])
    real = _mean_dice(rows, "real")
    found = [
        {"row": row, "picture": _outlined(study, cases[row["case"]], row), "real": real.get(row["case"])}
        for row in shown[:WORST]
        if row["case"] in cases
    ]
    return {"arm": arm, "cases": found, "data": data, "predicted": bool(shown)}
