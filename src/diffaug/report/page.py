"""The report of a study: one HTML file that holds everything it shows and needs no network.

Reads files alone: the study folder, its synthetic sets, and images of the data set for the worst cases. Beside the page
it writes the funnel of the synthetic sets as a table, `funnel.csv`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, date_of_writing, make_folder, write_text
from diffaug.data.manifest import MANIFEST
from diffaug.errors import StudyError
from diffaug.report import figures, pictures, tables, wording
from diffaug.report.rendering import render
from diffaug.report.synthetic import set_page, sets_of
from diffaug.report.tables import Study
from diffaug.study.places import name_of, read_places
from diffaug.study.tables import REPORT


def write_report(study: PathLike, synthetic: PathLike | None = None, to: PathLike | None = None) -> Path:
    """Write the report of a finished study.

    Args:
        study: Study folder.
        synthetic: Synthetic set to show; None takes all that the study trained on, as far as they are there.
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
    to, date = Path(to or study / REPORT), date_of_writing()  # which is checked before figures take it
    if to.is_dir() or to.suffix.lower() not in (".html", ".htm"):
        found = "a folder" if to.is_dir() else "not one"
        raise StudyError(f"a report is an HTML file: {to} is {found}; choose a file name that ends in .html")
    if synthetic is not None and not (synthetic / MANIFEST).is_file():
        raise StudyError(f"a report shows a finished synthetic set: {synthetic} has no {MANIFEST}; check the path")
    read = tables.read_study(study)
    sets = sets_of(read_places(study, read.plan), read.plan) if synthetic is None else {name_of(synthetic): synthetic}
    make_folder(to.parent)
    with tables.understood(study):
        text = render("page.html.j2", {**_page(read, sets, to), "date": date})
    write_text(to, text)
    return to


def _page(study: Study, sets: Mapping[str, Path], to: Path) -> dict[str, Any]:
    """Return everything that the template names."""
    results, plan = study.results, study.plan
    arm = wording.headline_arm(results)
    cases = pictures.find_test_cases(study, read_places(study.folder, plan))
    worst_arm = arm or next(iter(results.arms))
    shown = set_page(sets, plan, to.with_name("funnel.csv")) if sets else None
    sources = ["summary.csv", "cases.csv", *["curve.csv"] * study.has_curve]
    verdict, concludes = wording.verdict(results, arm), not wording.reasons_against(results, arm)
    return {
        "study": study,
        "plan": plan,
        "results": results,
        "strata": results.strata,
        "studied": wording.studied_sentence(plan),
        "data": wording.data_sentence(plan),
        "candidate": arm,
        "verdict": verdict,
        "concludes": concludes,
        "labelled": wording.labelled_sentence(results, arm) if concludes else "",
        "missed": wording.missed_sentence(results, arm) if concludes else "",
        "bases": wording.bases_sentence(results),
        "repeats": wording.averaged_over(results.first),
        "first_only": wording.first_of_several(plan),
        "too_hard": wording.too_hard_sentence(plan, results),
        "few_negatives": [text for name in results.arms if (text := wording.negatives_sentence(results, name))],
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
        "set": shown,
        "sources": [*sources, "funnel.csv"] if shown and shown.figure else sources,
        "vcdr": "vcdr_error" in results.first,
        "figures": figures.draw_all(study, arm),  # last: it takes longest, and what is read before may be damaged
    }
