"""Figures of the page as SVG data URIs: one style, one colour per arm; knows results, no files."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffaug.data.lesions import SIZES
from diffaug.report.pictures import data_uri
from diffaug.report.tables import Group, Interval, PairedCase, Results, Study, paired_cases
from diffaug.study.arms import parse_arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {  # after Okabe & Ito 2008: told apart by colour-blind readers, and in grey
    "real": "#5b6472",
    "copy-paste": "#e69f00",
    "unfiltered": "#cc79a7",
    "random-kept": "#b07aa1",
    "fixed-threshold": "#d55e00",
    "validated": "#0072b2",
    "selected": "#009e73",
    "selected+pseudo-label": "#00593f",
    "selected+mean-teacher": "#5b3a1e",
    "no-negatives": "#7fb800",
    "pseudo-label": "#56b4e9",
    "mean-teacher": "#a0522d",
    "oracle": "#1c2330",
}
NARROW = 4.6  # inches; width of a figure on a narrow page
FUNNEL = {
    "kept": ("kept", "#0072b2"),
    "joined": ("in another picture", "#009e73"),
    "surplus": ("beyond the count", "#56b4e9"),
    "rejected": ("rejected", "#e69f00"),
    "stopped": ("stopped", "#b9c0ca"),
}
INK, GRID = "#1c2330", "#e3e6ea"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#9aa3af",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "diffaug",  # the same summary gives the same bytes
}


@dataclass(frozen=True)
class Drawing:
    """A figure as data addresses of SVG pictures: for a wide page, and for one of a phone's width, in one column."""

    wide: str
    narrow: str


def draw_all(study: Study, arm: str | None) -> dict[str, Drawing | None]:
    """Draw every figure of a study; None where there is nothing to draw.

    Args:
        study: A finished study.
        arm: The arm that the page is about; None where nothing was compared.
    """
    results = study.measured
    gains = _gains_by_ratio(results, study.plan["config"]["synthetic_per_real"])
    return {
        "strata": strata_figure(results),
        "differences": differences_figure(results) if arm else None,
        "cases": cases_figure(paired_cases(study.cases, arm), arm) if arm else None,
        "curve": curve_figure(study.curve) if study.has_curve else None,
        "ratio": ratio_figure(gains) if gains else None,
    }


def _gains_by_ratio(results: Results, usual: float) -> list[tuple[str, float, Interval]]:
    """Return (arm without its ratio, ratio, difference of Dice to `real`) of the arms that have several ratios."""
    gains = [(parse_arm(arm), group["dice"]) for arm, group in results.against_real]
    gains = [(spec, dice) for spec, dice in gains if not spec.added]
    several = {spec.kind for spec, _ in gains if spec.ratio is not None}
    return [(spec.kind, spec.ratio or usual, dice) for spec, dice in gains if spec.kind in several]


def _draw(draw: "Callable[[Figure, list[Axes]], None]", width: float, height: float, columns: int = 1) -> Drawing:
    """Return a figure that a function draws in the page's style; width and height are those of a wide page, inches."""
    narrow = min(width, NARROW)
    return Drawing(_drawn(draw, (width, height), (1, columns)), _drawn(draw, (narrow, columns * height), (columns, 1)))


def _drawn(draw: "Callable[[Figure, list[Axes]], None]", size: tuple[float, float], grid: tuple[int, int]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(*grid, squeeze=False).flat)
        draw(figure, axes)
        for ax in axes:
            ax.set_axisbelow(True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return data_uri(buffer.getvalue(), "image/svg+xml")


def _is_narrow(figure: "Figure") -> bool:
    return bool(figure.get_figwidth() <= NARROW)


def _bounds(intervals: Sequence[Interval], factor: float = 1.0) -> tuple[list[float], list[list[float]]]:
    """Return means, and how far each interval reaches below and above its mean; nowhere where there is no interval."""
    means = [factor * interval["mean"] for interval in intervals]
    ends = [(one["mean"], one["mean"]) if one["low"] is None else (one["low"], one["high"]) for one in intervals]
    below = [mean - factor * low for mean, (low, _) in zip(means, ends, strict=True)]
    return means, [below, [factor * high - mean for mean, (_, high) in zip(means, ends, strict=True)]]


def _colour(arm: str) -> str:
    return COLOURS.get(arm, INK)


def strata_figure(results: Results) -> Drawing:
    """Draw Dice and missed rate of every arm, over all cases and by stratum, with intervals.

    Arms of another ratio of painted cases (NAME@RATIO) are left out, unless there are no others.
    """
    arms = [arm for arm in results.arms if parse_arm(arm).ratio is None] or list(results.arms)
    strata = results.strata

    def groups(arm: str) -> list[Group]:
        return [results.arms[arm], *(results.arms[arm]["strata"][name] for name in strata)]

    def labels(metric: str) -> list[str]:  # of the cases that have a value: lesion-free ones are not missed
        counts = [group[metric].get("n", group["n"]) for group in groups(arms[0])]
        return [f"{name}\nn = {n}".replace("-", "-\n") for name, n in zip(("all", *strata), counts, strict=True)]

    def draw(figure: "Figure", axes: "list[Axes]") -> None:
        titles = ("Dice (higher is better)", "Missed lesions, % (lower is better)")
        for ax, metric, factor, title in zip(axes, ("dice", "missed"), (1, 100), titles, strict=True):
            for index, arm in enumerate(arms):
                shift = (index - (len(arms) - 1) / 2) * min(0.2, 0.7 / len(arms))
                intervals = [(at + shift, group[metric]) for at, group in enumerate(groups(arm))]
                _points(ax, [pair for pair in intervals if pair[1]["mean"] is not None], factor, arm)
            ax.set_xticks(range(1 + len(strata)))
            ax.set_xticklabels(labels(metric), fontsize=9)
            ax.axvline(0.5, color=GRID, linewidth=1.2)
            ax.grid(axis="y", color=GRID)
            ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
            if metric == "missed":
                ax.set_ylim(bottom=0)
        handles = axes[0].get_legend_handles_labels()
        figure.legend(
            *handles,
            frameon=False,
            fontsize=9,
            loc="outside lower center",
            ncols=min(2 if _is_narrow(figure) else 6, len(arms)),
        )

    return _draw(draw, 10, 4.2, 2)


def _points(ax: "Axes", places: Sequence[tuple[float, Interval]], factor: float, arm: str) -> None:
    means, bars = _bounds([interval for _, interval in places], factor)
    x = [at for at, _ in places]
    ax.errorbar(x, means, bars, fmt="o", color=_colour(arm), label=arm, markersize=6, linewidth=1.8, capsize=3)


def differences_figure(results: Results) -> Drawing:
    """Draw paired differences to `real` in points of Dice and of missed rate, with intervals and the line of zero."""
    rows = [
        (arm, name, group if name == "all" else group["strata"][name])
        for arm, group in results.against_real
        if parse_arm(arm).ratio is None
        for name in ("all", *results.strata)
    ]

    def draw(figure: "Figure", axes: "list[Axes]") -> None:
        titles = ("Dice, points (right is better)", "Missed, points (left is better)")
        for ax, metric, title in zip(axes, ("dice", "missed"), titles, strict=True):
            for row, (arm, name, group) in enumerate(rows):
                if group[metric]["mean"] is None:
                    ax.text(0, row, "no cases", va="center", ha="center", fontsize=8, color="#9aa3af")
                    continue
                means, bars = _bounds([group[metric]], 100)
                size, width = (8, 2) if name == "all" else (5, 1.4)
                ax.errorbar(
                    means, [row], xerr=bars, fmt="o", color=_colour(arm), markersize=size, linewidth=width, capsize=3
                )
            ax.axvline(0, color=INK, linewidth=1)
            ax.set_yticks(range(len(rows)))
            ax.set_yticklabels([f"{arm}: {name}" for arm, name, _ in rows], fontsize=9)
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.grid(axis="x", color=GRID)
            ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
        if not _is_narrow(figure):
            axes[1].set_yticklabels([])

    return _draw(draw, 10, 1.1 + 0.3 * len(rows), 2)


def cases_figure(pairs: Sequence[PairedCase], arm: str) -> Drawing:
    """Draw each test case's mean Dice under `real` against that under another arm; small lesions are filled points."""

    def draw(_: "Figure", axes: "list[Axes]") -> None:
        ax, colour = axes[0], _colour(arm)
        ax.plot([0, 1], [0, 1], color="#9aa3af", linewidth=1)
        for small, label in ((False, "other lesions"), (True, "small lesions")):
            chosen = [pair for pair in pairs if ("small" in pair.tested.strata) == small]
            ax.scatter(
                [pair.real for pair in chosen], [pair.other for pair in chosen], s=26, label=label, linewidths=1.2,
                facecolors=colour if small else "none", edgecolors=colour, alpha=0.9,
            )  # fmt: skip
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="Dice, real", ylabel=f"Dice, {arm}", aspect="equal")
        ax.text(0.03, 0.97, f"higher with {arm}", va="top", color="#5b6472")
        ax.text(0.97, 0.03, "higher with real", ha="right", color="#5b6472")
        ax.grid(color=GRID)
        ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 0.06))

    return _draw(draw, 4.6, 4.4)


def funnel_figure(by_size: Mapping[str, Mapping[str, int]]) -> Drawing:
    """Draw what became of the requests of each size class, and of others, as shares with counts."""
    bins = [name for name in dict.fromkeys((*SIZES, *by_size)) if by_size.get(name, {}).get("requested")]
    seldom = [end for end in ("joined", "surplus") if not any(by_size[name].get(end) for name in bins)]
    drawn = {end: look for end, look in FUNNEL.items() if end not in seldom}

    def draw(_: "Figure", axes: "list[Axes]") -> None:
        ax = axes[0]
        for row, name in enumerate(bins):
            start = 0.0
            for decision, (label, colour) in drawn.items():
                count = by_size[name].get(decision, 0)
                share = 100 * count / by_size[name]["requested"]
                ax.barh(row, share, left=start, color=colour, height=0.62, label=label if row == 0 else None)
                if share > 4:
                    ink = "white" if decision == "kept" else INK
                    ax.text(start + share / 2, row, str(count), ha="center", va="center", color=ink, fontsize=9)
                start += share
        ax.set_yticks(range(len(bins)))
        ax.set_yticklabels(bins)
        ax.invert_yaxis()
        ax.set(xlim=(0, 100), xlabel="% of the requests of that row")
        ax.legend(frameon=False, ncols=3, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))

    return _draw(draw, 7.5, 0.9 + 0.5 * max(1, len(bins)))


def curve_figure(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw Dice against the number of annotated cases, a line with a band for each arm.

    Args:
        rows: annotated, arm, mean, low, high.
    """

    def draw(_: "Figure", axes: "list[Axes]") -> None:
        ax = axes[0]
        for arm in dict.fromkeys(row["arm"] for row in rows):
            points = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["annotated"])
            x, mean, low, high = ([row[name] for row in points] for name in ("annotated", "mean", "low", "high"))
            style = "--" if arm == "oracle" else "-"
            ax.plot(x, mean, style, color=_colour(arm), label=arm, linewidth=2, marker="o", markersize=5)
            ax.fill_between(x, low, high, color=_colour(arm), alpha=0.13, linewidth=0)
        ticks = sorted({row["annotated"] for row in rows})
        ax.set_xscale("log")
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set(xlabel="annotated training cases", ylabel="Dice")
        ax.grid(color=GRID)
        ax.legend(frameon=False, fontsize=9, loc="best")

    return _draw(draw, 7.5, 4.2)


def ratio_figure(gains: Sequence[tuple[str, float, Interval]]) -> Drawing:
    """Draw the gain over `real` against the number of painted cases for each real one, with intervals.

    Args:
        gains: (arm without its ratio, ratio, difference of Dice to `real`).
    """

    def draw(_: "Figure", axes: "list[Axes]") -> None:
        ax = axes[0]
        for arm in dict.fromkeys(arm for arm, _, _ in gains):
            points = [(ratio, dice) for name, ratio, dice in gains if name == arm and dice["mean"] is not None]
            points.sort(key=lambda point: point[0])
            means, bars = _bounds([dice for _, dice in points], 100)
            x = [ratio for ratio, _ in points]
            ax.errorbar(x, means, bars, fmt="o-", color=_colour(arm), label=arm, linewidth=1.8, capsize=3)
        ax.axhline(0, color=INK, linewidth=1)
        ax.set(xlabel="painted cases for each real one", ylabel="Dice against real, points")
        ax.grid(color=GRID)
        ax.legend(frameon=False, fontsize=9, loc="best")

    return _draw(draw, 7.5, 3.6)
