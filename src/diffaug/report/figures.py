"""Figures of the page as SVG data URIs: one style, one colour per arm; knows summaries, no files."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffaug.report.pictures import data_uri

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
    "no-fills": "#7fb800",
    "pseudo-label": "#56b4e9",
    "oracle": "#1c2330",
}
FUNNEL = {"kept": "#0072b2", "rejected": "#e69f00", "stopped": "#b9c0ca"}
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


def _figure(width: float, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _svg(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return data_uri(buffer.getvalue(), "image/svg+xml")


def strata_figure(summary: Mapping[str, Any], strata: Sequence[str]) -> str:
    """Draw Dice and missed rate of every arm, over all cases and by stratum, with intervals; not of other ratios."""
    from matplotlib import rc_context

    arms = [arm for arm in summary["arms"] if "@" not in arm] or list(summary["arms"])
    with rc_context(STYLE):
        figure, axes = _figure(10, 4.2, 2)
        for ax, metric, title in zip(
            axes, ("dice", "missed"), ("Dice (higher is better)", "Missed lesions, % (lower is better)"), strict=True
        ):
            factor = 1 if metric == "dice" else 100
            for index, arm in enumerate(arms):
                groups = [summary["arms"][arm], *(summary["arms"][arm]["strata"][name] for name in strata)]
                shift = (index - (len(arms) - 1) / 2) * min(0.2, 0.7 / len(arms))
                _points(ax, [group[metric] for group in groups], shift, factor, COLOURS.get(arm, INK), arm)
            one = summary["arms"][arms[0]]
            counts = [one["n"], *(one["strata"][name]["n"] for name in strata)]
            ax.set_xticks(range(len(counts)))
            names = [name.replace("-", "-\n") for name in ("all", *strata)]
            ax.set_xticklabels([f"{name}\nn = {n}" for name, n in zip(names, counts, strict=True)], fontsize=9)
            ax.axvline(0.5, color=GRID, linewidth=1.2)
            ax.grid(axis="y", color=GRID)
            ax.set_axisbelow(True)
            ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
            if metric == "missed":
                ax.set_ylim(bottom=0)
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, frameon=False, fontsize=9, loc="outside lower center", ncols=min(6, len(arms)))
        return _svg(figure)


def _points(
    ax: "Axes", intervals: Sequence[Mapping[str, Any]], shift: float, factor: float, colour: str, label: str
) -> None:
    there = [(index, one) for index, one in enumerate(intervals) if one["mean"] is not None]
    x = [index + shift for index, _ in there]
    y = [factor * one["mean"] for _, one in there]
    below = [factor * (one["mean"] - one["low"]) for _, one in there]
    above = [factor * (one["high"] - one["mean"]) for _, one in there]
    ax.errorbar(x, y, [below, above], fmt="o", color=colour, label=label, markersize=6, linewidth=1.8, capsize=3)


def differences_figure(differences: Mapping[str, Any], strata: Sequence[str]) -> str:
    """Draw paired differences to `real` in points of Dice and of missed rate, with intervals and the line of zero."""
    from matplotlib import rc_context

    shown = [name for name in differences if "@" not in name]
    rows = [(name, group) for name in shown for group in ("all", *strata)]
    with rc_context(STYLE):
        figure, axes = _figure(10, 1.1 + 0.3 * len(rows), 2)
        for ax, metric, title in zip(
            axes, ("dice", "missed"), ("Dice, points (right is better)", "Missed, points (left is better)"), strict=True
        ):
            for row, (name, group) in enumerate(rows):
                difference = differences[name] if group == "all" else differences[name]["strata"][group]
                one, arm = difference[metric], name.split(" - ")[0]
                if one["mean"] is None:
                    ax.text(0, row, "no cases", va="center", ha="center", fontsize=8, color="#9aa3af")
                    continue
                low, high = 100 * (one["mean"] - one["low"]), 100 * (one["high"] - one["mean"])
                size = 8 if group == "all" else 5
                ax.errorbar(
                    [100 * one["mean"]], [row], xerr=[[low], [high]], fmt="o", color=COLOURS.get(arm, INK),
                    markersize=size, linewidth=2 if group == "all" else 1.4, capsize=3,
                )  # fmt: skip
            ax.axvline(0, color=INK, linewidth=1)
            ax.set_yticks(range(len(rows)))
            ax.set_yticklabels([f"{name.split(' - ')[0]}: {group}" for name, group in rows], fontsize=9)
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.grid(axis="x", color=GRID)
            ax.set_axisbelow(True)
            ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes[1].set_yticklabels([])
        return _svg(figure)


def cases_figure(pairs: Sequence[tuple[float, float, bool]], arm: str) -> str:
    """Draw each test case's Dice under `real` against its Dice under another arm; small lesions are filled.

    Args:
        pairs: (Dice of real, Dice of the arm, whether the lesion is small), means over seeds.
        arm: The other arm.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, (ax,) = _figure(4.6, 4.4)
        ax.plot([0, 1], [0, 1], color="#9aa3af", linewidth=1)
        for small, label in ((False, "other lesions"), (True, "small lesions")):
            chosen = [(real, other) for real, other, is_small in pairs if is_small == small]
            colour = COLOURS.get(arm, INK)
            ax.scatter(
                [real for real, _ in chosen], [other for _, other in chosen], s=26, label=label, linewidths=1.2,
                facecolors=colour if small else "none", edgecolors=colour, alpha=0.9,
            )  # fmt: skip
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="Dice, real", ylabel=f"Dice, {arm}", aspect="equal")
        ax.text(0.03, 0.97, "rescued", va="top", color="#5b6472")
        ax.text(0.97, 0.03, "lost", ha="right", color="#5b6472")
        ax.grid(color=GRID)
        ax.set_axisbelow(True)
        ax.legend(frameon=False, fontsize=9, loc="lower center")
        return _svg(figure)


def funnel_figure(by_size: Mapping[str, Mapping[str, int]]) -> str:
    """Draw what became of the requests of each size bin, as shares with counts."""
    from matplotlib import rc_context

    bins = [name for name in ("small", "medium", "large") if by_size.get(name, {}).get("requested")]
    bins += [name for name in by_size if name not in ("small", "medium", "large") and by_size[name].get("requested")]
    with rc_context(STYLE):
        figure, (ax,) = _figure(7.5, 0.9 + 0.5 * max(1, len(bins)))
        for row, name in enumerate(bins):
            left = 0.0
            for decision, colour in FUNNEL.items():
                count = by_size[name].get(decision, 0)
                share = 100 * count / by_size[name]["requested"]
                ax.barh(row, share, left=left, color=colour, height=0.62, label=decision if row == 0 else None)
                if share > 4:
                    ink = "white" if decision == "kept" else INK
                    ax.text(left + share / 2, row, str(count), ha="center", va="center", color=ink, fontsize=9)
                left += share
        ax.set_yticks(range(len(bins)))
        ax.set_yticklabels(bins)
        ax.invert_yaxis()
        ax.set(xlim=(0, 100), xlabel="% of the requests of that size")
        ax.legend(frameon=False, ncols=3, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure)


def curve_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw Dice against the number of annotated cases, a line with a band for each arm.

    Args:
        rows: annotated, arm, mean, low, high.
    """
    from matplotlib import rc_context

    arms = list(dict.fromkeys(row["arm"] for row in rows))
    with rc_context(STYLE):
        figure, (ax,) = _figure(7.5, 4.2)
        for arm in arms:
            own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["annotated"])
            x, colour = [row["annotated"] for row in own], COLOURS.get(arm, INK)
            style = "--" if arm == "oracle" else "-"
            ax.plot(
                x, [row["mean"] for row in own], style, color=colour, label=arm, linewidth=2, marker="o", markersize=5
            )
            ax.fill_between(
                x, [row["low"] for row in own], [row["high"] for row in own], color=colour, alpha=0.13, linewidth=0
            )
        ticks = sorted({row["annotated"] for row in rows})
        ax.set_xscale("log")
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set(xlabel="annotated training cases", ylabel="Dice")
        ax.grid(color=GRID)
        ax.set_axisbelow(True)
        ax.legend(frameon=False, fontsize=9, loc="best")
        return _svg(figure)


def ratio_figure(points: Sequence[tuple[str, float, Mapping[str, Any]]]) -> str:
    """Draw the gain over `real` against the number of painted cases for each real one, with intervals.

    Args:
        points: (arm without its ratio, ratio, difference of Dice to `real` as mean, low and high).
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, (ax,) = _figure(7.5, 3.6)
        for arm in dict.fromkeys(arm for arm, _, _ in points):
            own = sorted((ratio, one) for name, ratio, one in points if name == arm and one["mean"] is not None)
            x, y = [ratio for ratio, _ in own], [100 * one["mean"] for _, one in own]
            below = [100 * (one["mean"] - one["low"]) for _, one in own]
            above = [100 * (one["high"] - one["mean"]) for _, one in own]
            colour = COLOURS.get(arm, INK)
            ax.errorbar(x, y, [below, above], fmt="o-", color=colour, label=arm, linewidth=1.8, capsize=3)
        ax.axhline(0, color=INK, linewidth=1)
        ax.set(xlabel="painted cases for each real one", ylabel="Dice against real, points")
        ax.grid(color=GRID)
        ax.set_axisbelow(True)
        ax.legend(frameon=False, fontsize=9, loc="best")
        return _svg(figure)
