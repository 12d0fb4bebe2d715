"""FiftyOne's dataset format, in the JSON form that its importer has read since version 0.8.

    metadata.json                       name, classes and what the values of masks mean
    samples.json                        one sample a case: its tags (split, real or synthetic, negative) and labels
    data/CASE.png                       images
    fields/ground_truth/CASE.png        masks of 0, 1, 2, ..

`fiftyone.Dataset.from_dir(OUT, fiftyone.types.FiftyOneDataset)` loads it. Each lesion is also a box, so that views can
count them.

Source: https://docs.voxel51.com/user_guide/import_datasets.html, and `LegacyFiftyOneDatasetImporter`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from diffaug.artifacts import write_long_json
from diffaug.data.case import masks_from_label
from diffaug.data.images import Mask
from diffaug.export.cases import Collection
from diffaug.export.entries import Entry
from diffaug.export.files import in_threads, numbers_of, write_pair
from diffaug.export.shapes import lesions_of

TRUTH = "ground_truth"


def write_fiftyone(collection: Collection, folder: Path, to: Path, progress: str) -> tuple[str, ...]:
    """Write images, masks and samples, and return what the user should know.

    Raises:
        DataError: A file breaks a rule.
    """
    numbers, masks = numbers_of(collection.classes), folder / "fields" / TRUTH
    masks.mkdir(parents=True)
    (folder / "data").mkdir()

    def put(entry: Entry) -> dict[str, Any]:
        mask = masks / f"{entry.id}.png"
        image, values = write_pair(entry.case, numbers, folder / "data" / entry.id, mask)
        boxes = [
            {"_cls": "Detection", "label": each.name, "bounding_box": _box(lesion)}
            for each, layer in zip(numbers.classes, masks_from_label(values, numbers.classes), strict=True)
            for lesion in lesions_of(layer)
        ]
        record = entry.record()
        tags = [record["split"], record["origin"], *(["negative"] if entry.negative else [])]
        return {
            "filepath": image.relative_to(folder).as_posix(),
            "tags": tags,
            TRUTH: {"_cls": "Segmentation", "mask_path": mask.relative_to(folder).as_posix()},
            "lesions": {"_cls": "Detections", "detections": boxes},
            "case_id": entry.id,
            "case_group": record["group"],
            **{key: record[key] for key in ("background", "mask_source", "example", "prompt")},
        }

    info = {
        "classes": {"lesions": [each.name for each in numbers.classes]},
        "default_mask_targets": {str(value): name for value, name in numbers.names().items()},
    }
    metadata = {"name": collection.name, "media_type": "image", "info": info}
    write_long_json(folder / "metadata.json", metadata, indent=1)
    write_long_json(folder / "samples.json", {"samples": in_threads(put, collection.entries, progress)}, indent=1)
    return ()


def _box(lesion: Mask) -> list[float]:
    """Return left, top, width and height of a lesion, (H, W), as shares of the frame."""
    rows, columns = (np.flatnonzero(lesion.any(axis=axis)) for axis in (1, 0))
    height, width = lesion.shape
    left, top = columns[0] / width, rows[0] / height
    return [float(left), float(top), (columns[-1] + 1) / width - left, (rows[-1] + 1) / height - top]
