"""Kvasir-SEG: 1,000 polyps with masks, in the published layout or in the 352 x 352 `train|val|test` layout.

Published: `images/` and `masks/` of 332 to 1,920 px, both JPEG, hence masks cut at 127. Its boxes are not read.
No patients are published: repeated frames share a group, and more cannot be known.

Source: Jha et al. 2020, "Kvasir-SEG: A Segmented Polyp Dataset", https://datasets.simula.no/kvasir-seg/. The small
    layout: effisegnet, Zenodo 10.5281/zenodo.10601024. Terms: research and education.
"""

from pathlib import Path

from diffaug.data.sources.folder import read_folder
from diffaug.data.sources.layout import SourceRecords, subfolder

UNPACKED = "Kvasir-SEG"  # the folder inside the published archive


def read_kvasir_seg(source: Path) -> SourceRecords:
    """Find the cases in the unpacked archive, the folder above it, or a folder of `train`, `val` and `test`.

    Raises:
        DataError: The layout breaks a rule of `read_folder`.
    """
    return read_folder(subfolder(source, UNPACKED) or source)
