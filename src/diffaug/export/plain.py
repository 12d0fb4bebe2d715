"""Flat images/ and masks/, with a table: a data set in the folder format, so that every command reads it, too.

cases.csv               id, image, mask, group, split, prompt, kind, synthetic, negative
classes.json            the values of each class, where there are several
known/                  masks of the pixels whose label is known, where not all are
images/, masks/         masks of one class hold 0 and 255, others the values of their classes
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from diffaug.data.case import Case
from diffaug.data.folder import copy_file, write_cases
from diffaug.export.cases import Collection
from diffaug.export.entries import Entry
from diffaug.export.files import in_threads, read_checked, write_image, write_label


def write_plain(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images, masks and their table, and return what the user should know.

    Raises:
        DataError: A file breaks a rule.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir()

    def put(entry: Entry) -> Case:
        image, height, width = write_image(entry.case, folder / "images", entry.id)
        label = read_checked(entry.case, (height, width))
        values = label if entry.case.classes else label * np.uint8(255)
        mask = folder / "masks" / f"{entry.id}.png"
        write_label(mask, values, entry.case.mask)
        known = copy_file(entry.case.known, folder / "known", entry.id) if entry.case.known else None
        attributes = {**entry.case.attributes, "synthetic": float(not entry.is_real)}
        return replace(entry.case, image=image, mask=mask, known=known, attributes=attributes)

    write_cases(folder, in_threads(put, collection.entries, progress))
    return ()
