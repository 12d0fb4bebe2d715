"""Croissant metadata of a Hugging Face imagefolder: what its files are, and what the columns of its tables mean.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
MEANINGS: Mapping[str, str] = {
    "file_name": "The image, relative to the table.",
    "mask_file_name": "Its mask, class numbers from 0 = background, relative to the table.",
    "id": "The name of the case.",
    "group": "What a split must not divide: a patient, a sequence, or the case itself.",
    "origin": "real or synthetic.",
    "negative": "Whether the mask is empty and the image is known to be lesion-free.",
    "painted_negative": "Whether lesion-free tissue was painted on it and labelled background.",
    "background": "The real case that a synthetic one is painted on.",
    "mask_source": "The real case that its mask comes from.",
    "example": "The real case whose lesion the painting started from.",
    "prompt": "What the lesion was to look like.",
    "decision": "What the checks decided while it was painted.",
    "seed": "Of the painter's noise.",
    "model": "Digest of the painter.",
}
TRUTHS = ("negative", "painted_negative")


def croissant_of(name: str, description: str, folder: Path, splits: Sequence[str], table: str) -> dict[str, Any]:
    """Return the metadata of an imagefolder that is written.

    Args:
        name: Of the data set.
        description: What it is, in a sentence.
        folder: Where it lies; it holds a table for each split.
        splits: The folders of the splits.
        table: The name of the tables.
    """
    return {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
        "version": "1.0.0",
        "distribution": [_file(folder / split / table, f"{split}/{table}") for split in splits],
        "recordSet": [_records(split, f"{split}/{table}") for split in splits],
    }


def _file(path: Path, name: str) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name,
        "encodingFormat": "application/jsonlines", "sha256": digest,
    }  # fmt: skip


def _records(split: str, table: str) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field", "@id": f"{split}/{column}", "name": f"{split}/{column}", "description": meaning,
            "dataType": "sc:Boolean" if column in TRUTHS else "sc:Text",
            "source": {"fileObject": {"@id": table}, "extract": {"column": column}},
        }
        for column, meaning in MEANINGS.items()
    ]  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}
