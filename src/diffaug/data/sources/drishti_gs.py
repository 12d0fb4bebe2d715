"""Drishti-GS1: 50 fundus photographs cropped around the optic disc, with disc and cup.

Read layout: SOURCE/images and SOURCE/masks with matching stems (masks are palette PNG: 0 background, 1 rim, 2 cup), and
SOURCE/labels.csv with the columns id,glaucoma (1 or 0), which becomes an attribute. No patients are published.

Source: Sivaswamy et al. 2014, "Drishti-GS: Retinal image dataset for optic nerve head (ONH) segmentation"
    (doi:10.1109/ISBI.2014.6867807); the crops: YZC-99/Semi4FundusODOC. Terms: research.
"""

import csv
from dataclasses import replace
from pathlib import Path

from diffaug.data.folder import Dataset, refuse_occupied
from diffaug.data.fundus import DISC_AND_CUP
from diffaug.data.sources.folder import import_cases, pair_files
from diffaug.errors import DataError

TABLE = "labels.csv"


def import_drishti_gs(source: Path, to: Path, seed: int = 0, progress: str = "") -> tuple[Dataset, list[str]]:
    """Turn cropped Drishti-GS1 into a data set with the classes disc and cup and the attribute `glaucoma`.

    Args:
        source: The folder of images/, masks/ and labels.csv.
        to: A new folder.
        seed: Chooses the splits.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Returns:
        The data set, and one line for each thing the user should know.

    Raises:
        DataError: The layout, a label or a file breaks a rule; nothing is written.
        ConfigError: `to` holds something else, or cannot be written.
    """
    refuse_occupied(to)
    if not (source / "images").is_dir():
        raise DataError(f"Drishti-GS has images/, masks/ and {TABLE}: {source} has no images/; check the path")
    labels = _read_labels(source / TABLE)
    cases = pair_files(source / "images", source / "masks")
    lacking = [case.id for case in cases if case.id not in labels]
    if lacking:
        raise DataError(f"{TABLE} must tell glaucoma of every case: {source / TABLE} lacks {lacking[0]}; add its row")
    cases = [replace(case, attributes={"glaucoma": labels[case.id]}, classes=DISC_AND_CUP) for case in cases]
    return import_cases(cases, to, {}, seed, progress)


def _read_labels(table: Path) -> dict[str, float]:
    """Read which eyes have glaucoma, 1 or 0, by case id."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = [(row["id"], row["glaucoma"]) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError):
        raise DataError(
            f"{TABLE} must be a CSV file in UTF-8 with the columns id,glaucoma: {table} is not; restore it"
        ) from None
    for name, label in rows:
        if label not in ("0", "1"):
            raise DataError(f"glaucoma is 1 or 0: {table} has {label!r} for case {name}; correct it")
    return {name: float(label) for name, label in rows}
