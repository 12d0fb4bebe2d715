"""Kvasir-SEG: 1,000 polyps with masks, in the published layout or in the 352 x 352 `train|val|test` layout.

Published: `images/` and `masks/` of 332 to 1,920 px, both JPEG, hence masks cut at 127. Its boxes are not read.
No patients are published: what repeats a frame shares its group, and more cannot be known.

Source: Jha et al. 2020, "Kvasir-SEG: A Segmented Polyp Dataset", https://datasets.simula.no/kvasir-seg/. The small
    layout: effisegnet, Zenodo 10.5281/zenodo.10601024. Terms: research and education.
"""

from pathlib import Path

from diffaug.data.folder import Dataset
from diffaug.data.sources.folder import import_folder

UNPACKED = "Kvasir-SEG"  # the folder inside the published archive


def import_kvasir_seg(source: Path, to: Path, seed: int = 0, progress: str = "") -> tuple[Dataset, list[str]]:
    """Turn Kvasir-SEG into a data set; see `import_folder`.

    Args:
        source: The unpacked archive or the folder above it, or a folder of `train`, `val` and `test`.
        to: A new folder.
        seed: Chooses the splits of the published layout, which has none.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Returns:
        The data set, and one line for each thing the user should know.

    Raises:
        DataError: The layout or a file breaks a rule; nothing is written.
        ConfigError: `to` holds something else, or cannot be written.
    """
    inside = source / UNPACKED
    return import_folder(inside if inside.is_dir() else source, to, seed, progress)
