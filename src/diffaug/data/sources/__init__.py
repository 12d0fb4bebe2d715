"""Readers of published data sets: each turns one layout into the folder format."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffaug.data.folder import Dataset
from diffaug.data.sources.cvc_clinicdb import import_cvc_clinicdb
from diffaug.data.sources.drishti_gs import import_drishti_gs
from diffaug.data.sources.endotect import import_endotect
from diffaug.data.sources.folder import import_folder
from diffaug.data.sources.kvasir_seg import import_kvasir_seg
from diffaug.data.sources.refuge2 import import_refuge2

Reader = Callable[[Path, Path, int, str], tuple[Dataset, list[str]]]  # source, to, seed, progress

READERS: dict[str, Reader] = {
    "folder": import_folder,
    "kvasir-seg": import_kvasir_seg,
    "cvc-clinicdb": import_cvc_clinicdb,
    "refuge2": import_refuge2,
    "refuge2-crops": partial(import_refuge2, crop=True),
    "drishti-gs": import_drishti_gs,
    "endotect": import_endotect,
}
