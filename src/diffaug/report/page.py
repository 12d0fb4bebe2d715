"""The report of a study: one HTML file that holds everything it shows and needs no network.

Reads files alone: the study folder, its synthetic set, and images of the data set for the worst cases. Beside the page
it writes the funnel of the synthetic set as a table, `funnel.csv`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, date_of_writing, make_folder, read_json, write_csv, write_text
from diffaug.data.funnel import Counts, Funnel, funnel
from diffaug.data.manifest import MANIFEST, SUMMARY, negatives, read_manifest
from diffaug.errors import DataError, StudyError
from diffaug.report import figures, pictures, tables, wording
from diffaug.report.rendering import render
from diffaug.report.tables import Study
from diffaug.study.places import read_places

FUNNEL_COLUMNS = ("size", "requested", "stopped", "rejected", "kept")


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
        ConfigError: The variable SOURCE_DATE_EPOCH is no number of seconds.
        DataError: A file of the study or of the set is damaged.

    Example:
        >>> diffaug.write_report("studies/mine")  # doctest: +SKIP
        PosixPath('studies/mine/report.html')
    """
    study, synthetic = Path(study), None if synthetic is None else Path(synthetic)
    to, date = Path(to or study / "report.html"), date_of_writing()  # which is checked before figures take it
    if to.is_dir() or to.suffix.lower() not in (".html", ".htm"):
        found = "a folder" if to.is_dir() else "not one"
        raise StudyError(f"a report is an HTML file: {to} is {found}; choose a file name that ends in .html")
    if synthetic is not None and not (synthetic / MANIFEST).is_file():
        raise StudyError(f"a report shows a finished synthetic set: {synthetic} has no {MANIFEST}; check the path")
    with _understood(study):
        read = tables.read_study(study)
    places = read_places(study, read.plan)
    if synthetic is None and any(places.synthetic):
        synthetic = Path(places.synthetic[0])
    make_folder(to.parent)
    with _understood(study):
        text = render("page.html.j2", {**_page(read, synthetic, to), "date": date})
    write_text(to, text)
    return to


@contextmanager
def _understood(study: Path) -> Iterator[None]:
    """Tell in one line of tables and summaries that are not as a study writes them; they may come from anybody.

    Raises:
        DataError: A value is missing, or is of another type.
    """
    from jinja2 import TemplateError

    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, TemplateError) as error:
        raise DataError(
            f"a report shows what a study wrote: the tables of {study} are damaged ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); run the study again, which writes them anew"
        ) from error


def _page(study: Study, synthetic: Path | None, to: Path) -> dict[str, Any]:
    """Return everything that the template names."""
    results, plan = study.results, study.plan
    arm = wording.headline_arm(results)
    cases = pictures.find_test_cases(read_places(study.folder, plan))
    worst_arm = arm or next(iter(results.arms))
    verdict, concludes = wording.verdict(results, arm), not wording.reasons_against(results, arm)
    return {
        "study": study,
        "plan": plan,
        "results": results,
        "strata": results.strata,
        "candidate": arm,
        "verdict": verdict,
        "concludes": concludes,
        "labelled": wording.labelled_sentence(results, arm) if concludes else "",
        "missed": wording.missed_sentence(results, arm) if concludes else "",
        "bases": wording.bases_sentence(results),
        "clean": wording.clean_sentence(plan, results),
        "contrast": wording.contrast_limit(results.contrast_cuts),
        "colours": figures.COLOURS,
        "differences": tables.difference_table(results),
        "comparisons": tables.comparisons(results, arm),
        "changed": tables.changed(study.cases, arm),
        "changes": pictures.changed_cards(study, cases, arm if concludes else None),
        "worst": pictures.worst_cards(study, cases, worst_arm),
        "worst_arm": worst_arm,
        "predicted": any(row.arm == worst_arm and row.prediction for row in study.cases),
        "set": _set_page(synthetic, to) if synthetic and (synthetic / MANIFEST).is_file() else None,
        "vcdr": "vcdr_error" in results.first,
        "figures": figures.draw_all(study, arm),  # last: it takes longest, and what is read before may be damaged
    }


@dataclass(frozen=True)
class SetPage:
    """What the page shows of a synthetic set.

    Attributes:
        name: Name of its folder.
        counts: What became of its requests for lesions.
        negatives: How many negatives it holds.
        bins: What became of the requests of each size, and of all.
        chosen_from: Number of accepted cases that `diffaug select` chose from; None for a set as it was painted.
        seconds_per_kept: What a kept case cost, where known.
        figure: The funnel; None for a chosen set, whose requests are not here.
        accepted: Cards of kept cases.
        refused: Cards of requests that were not kept.
        digests: Of the model, the validators and the config that it was made with.
    """

    name: str
    counts: Counts
    negatives: int
    bins: list[tuple[str, Counts]]
    chosen_from: int | None
    seconds_per_kept: float | None
    figure: figures.Drawing | None
    accepted: list[pictures.PaintedCard]
    refused: list[pictures.PaintedCard]
    digests: Mapping[str, str]


def _set_page(folder: Path, to: Path) -> SetPage:
    synthetic, summary = read_manifest(folder), read_json(folder / SUMMARY)
    ends = funnel(synthetic.rows)
    chosen_from = summary.get("accepted")
    bins = [(size, counts) for size, counts in ends.by_size.items() if counts.requested]
    first = next((row for row in synthetic if row.decision == "kept"), None)
    return SetPage(
        name=folder.name,
        counts=ends.lesions,
        negatives=len(negatives(synthetic)),
        bins=[*bins, ("all", ends.lesions)],
        chosen_from=chosen_from,
        seconds_per_kept=summary.get("seconds_per_kept"),
        figure=None if chosen_from is not None else _funnel_figure(ends, to.with_name("funnel.csv")),
        accepted=pictures.accepted_cards(synthetic),
        refused=pictures.refused_cards(synthetic),
        digests={"model": first.model, "validator": first.validator, "config": first.config} if first else {},
    )


def _funnel_figure(ends: Funnel, table: Path) -> figures.Drawing:
    """Write what became of the requests of each size as a table, and draw the table."""
    rows = [{"size": size, **asdict(counts)} for size, counts in ends.by_size.items() if counts.requested]
    write_csv(table, rows, FUNNEL_COLUMNS)
    return figures.funnel_figure({row["size"]: row for row in tables.read_table(table)})
