"""Drishti-GS1: 50 fundus photographs cropped around the optic disc, with disc and cup.

Read layout: SOURCE/images and SOURCE/masks with matching stems (masks are palette PNG: 0 background, 1 rim, 2 cup), and
SOURCE/labels.csv with the columns id,glaucoma (1 or 0), which becomes an attribute. No patients are published.

Source: Sivaswamy et al. 2014, "Drishti-GS: Retinal image dataset for optic nerve head (ONH) segmentation"
    (doi:10.1109/ISBI.2014.6867807); the crops: YZC-99/Semi4FundusODOC. Terms: research.
"""

from dataclasses import replace
from pathlib import Path

from diffaug.artifacts import read_csv
from diffaug.data.fundus import DISC_AND_CUP
from diffaug.data.sources.layout import SourceRecords, pair_files
from diffaug.data.sources.recognise import not_understood
from diffaug.errors import DataError

TABLE = "labels.csv"


def read_drishti_gs(source: Path) -> SourceRecords:
    """Find the cases of cropped Drishti-GS1, with the classes disc and cup and the attribute `glaucoma`.

    Raises:
        DataError: The layout or a label breaks a rule.
    """
    if not (source / "images").is_dir():
        raise not_understood(f"Drishti-GS has images/, masks/ and {TABLE}", source, "drishti-gs")
    labels = _read_labels(source / TABLE)
    records = pair_files(source / "images", source / "masks")
    lacking = [record.id for record in records if record.id not in labels]
    if lacking:
        raise DataError(f"{TABLE} must have a row for every case: {source / TABLE} lacks {lacking[0]}; add its row")
    labelled = [replace(record, attributes={"glaucoma": labels[record.id]}) for record in records]
    return SourceRecords(labelled, DISC_AND_CUP)


def _read_labels(table: Path) -> dict[str, float]:
    """Read which eyes have glaucoma, 1 or 0, by case id."""
    rows = read_csv(table, ("id", "glaucoma"))
    for row in rows:
        if row["glaucoma"] not in ("0", "1"):
            raise DataError(f"glaucoma is 1 or 0: {table} has {row['glaucoma']!r} for case {row['id']}; correct it")
    return {row["id"]: float(row["glaucoma"]) for row in rows}
