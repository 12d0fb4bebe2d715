"""Readers of published data sets: each finds the cases of one layout, which `import_dataset` turns into a data set."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from diffaug.data.sources.cvc_clinicdb import read_cvc_clinicdb
from diffaug.data.sources.drishti_gs import read_drishti_gs
from diffaug.data.sources.endotect import read_endotect
from diffaug.data.sources.folder import read_folder
from diffaug.data.sources.kvasir_seg import read_kvasir_seg
from diffaug.data.sources.layout import SourceCases
from diffaug.data.sources.refuge2 import read_refuge2

LAYOUTS: Mapping[str, Callable[[Path], SourceCases]] = {
    "folder": read_folder,
    "kvasir-seg": read_kvasir_seg,
    "cvc-clinicdb": read_cvc_clinicdb,
    "refuge2": read_refuge2,
    "refuge2-crops": partial(read_refuge2, crop=True),
    "drishti-gs": read_drishti_gs,
    "endotect": read_endotect,
}
