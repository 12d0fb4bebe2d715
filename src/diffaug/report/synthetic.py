"""The synthetic sets of a study as its page shows them: what became of their requests, and pictures of some."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import read_json, write_csv
from diffaug.data.funnel import Counts, counts_of
from diffaug.data.lesions import SIZES
from diffaug.data.manifest import MANIFEST, SUMMARY, Row, SyntheticSet, lesions, negatives, read_manifest
from diffaug.report import figures, pictures, tables
from diffaug.study.places import Places

FUNNEL_COLUMNS = ("size", "requested", "stopped", "rejected", "kept", "surplus", "joined")
NEGATIVES = "negatives"  # the row of requests for tissue without a lesion


@dataclass(frozen=True)
class SetPage:
    """What the page shows of synthetic sets, summed over them.

    Attributes:
        names: Their names, one each; where there are several, the pictures say which set they are of.
        studied: How many sets the study has; there are fewer names where some are not here.
        lesions: What became of the requests for lesions.
        negatives: How many negatives the sets hold.
        bins: What became of the requests of each size, of those for negatives, and of all.
        chosen_from: Number of accepted cases that `diffaug select` chose from; None for sets as they were painted.
        seconds_per_kept: What a kept case cost, where known.
        figure: The funnel; None for a chosen set, whose requests are not here.
        accepted: Cards of kept cases.
        refused: Cards of requests that were not kept.
        digests: By set: of the model, the validators and the config that it was made with.
    """

    names: Sequence[str]
    studied: int
    lesions: Counts
    negatives: int
    bins: Sequence[tuple[str, Counts]]
    chosen_from: int | None
    seconds_per_kept: float | None
    figure: figures.Drawing | None
    accepted: Sequence[pictures.PaintedCard]
    refused: Sequence[pictures.PaintedCard]
    digests: Mapping[str, Mapping[str, str]]

    @property
    def requested(self) -> int:
        """All requests, for lesions and for negatives, as `diffaug generate` counts them."""
        return self.bins[-1][1].requested


def sets_of(places: Places, plan: Mapping[str, Any]) -> dict[str, Path]:
    """Return the finished sets of a study that are still where they were, by the names that the page gives them."""
    labels = plan.get("synthetic_of") or plan.get("synthetic", [])
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({number})" for number, label in enumerate(labels, start=1)]
    found = {label: Path(place) for label, place in zip(labels, places.synthetic, strict=False) if place}
    return {
        label: folder
        for label, folder in found.items()
        if all((folder / name).is_file() for name in (MANIFEST, SUMMARY))
    }


def set_page(folders: Mapping[str, Path], plan: Mapping[str, Any], table: Path) -> SetPage:
    """Return what the page shows of some synthetic sets, and write their funnel as a table.

    Args:
        folders: The sets by name, at least one.
        plan: What study.json says.
        table: The file to write, funnel.csv; not written for chosen sets.
    """
    sets = {name: read_manifest(folder) for name, folder in folders.items()}
    summaries = [read_json(folder / SUMMARY) for folder in folders.values()]
    rows = [row for made in sets.values() for row in made]
    ends, bins = counts_of(lesions(rows)), _bins(rows)
    chosen = [summary["accepted"] for summary in summaries if summary.get("accepted") is not None]
    is_chosen = len(chosen) == len(summaries)
    seconds = [summary.get("seconds") for summary in summaries]
    known = sum(each for each in seconds if each is not None) if None not in seconds else 0
    return SetPage(
        names=list(sets),
        studied=max(1, plan.get("folds", 0)) * len(plan.get("draws", ())),
        lesions=ends,
        negatives=len(negatives(rows)),
        bins=bins,
        chosen_from=sum(chosen) if is_chosen else None,
        seconds_per_kept=known / ends.kept if known and ends.kept else None,
        figure=None if is_chosen else _funnel_figure(bins, table),
        accepted=pictures.accepted_cards(sets),
        refused=pictures.refused_cards(sets),
        digests={name: found for name, made in sets.items() if (found := _digests(made))},
    )


def _bins(rows: Sequence[Row]) -> list[tuple[str, Counts]]:
    """Return what became of the requests of each size, of all lesions, of negatives and of all, as far as there are."""
    asked = lesions(rows)
    found = [(size, counts_of(row for row in asked if row.request.size_bin == size)) for size in SIZES]
    empty = counts_of(row for row in rows if row.request.negative)
    beside = [("all lesions", counts_of(asked)), (NEGATIVES, empty)] if empty.requested else []
    return [*((size, ends) for size, ends in found if ends.requested), *beside, ("all", counts_of(rows))]


def _digests(made: SyntheticSet) -> dict[str, str]:
    first = next((row for row in made if row.decision == "kept"), None)
    return {"model": first.model, "validator": first.validator, "config": first.config} if first else {}


def _funnel_figure(bins: Sequence[tuple[str, Counts]], table: Path) -> figures.Drawing:
    """Write what became of the requests of each size, and of those for negatives, as a table, and draw the table."""
    rows = [{"size": name, **asdict(ends)} for name, ends in bins if name in (*SIZES, NEGATIVES)]
    write_csv(table, rows, FUNNEL_COLUMNS)
    return figures.funnel_figure({row["size"]: row for row in tables.read_table(table)})
