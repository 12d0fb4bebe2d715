"""Readers of published data sets: each turns one layout into the folder format."""

from collections.abc import Callable
from pathlib import Path

from diffaug.data.folder import Dataset
from diffaug.data.sources.cvc_clinicdb import import_cvc_clinicdb
from diffaug.data.sources.endotect import import_endotect
from diffaug.data.sources.folder import import_folder
from diffaug.data.sources.kvasir_seg import import_kvasir_seg

Reader = Callable[[Path, Path, int, str], tuple[Dataset, list[str]]]  # source, to, seed, progress

READERS: dict[str, Reader] = {
    "folder": import_folder,
    "kvasir-seg": import_kvasir_seg,
    "cvc-clinicdb": import_cvc_clinicdb,
    "endotect": import_endotect,
}
