"""Readers of layouts: each finds the records of one layout, which `import_dataset` turns into a data set."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from diffaug.data.sources.busi import read_busi
from diffaug.data.sources.coco import read_coco
from diffaug.data.sources.cvc_clinicdb import read_cvc_clinicdb
from diffaug.data.sources.dicom import read_dicom
from diffaug.data.sources.drishti_gs import read_drishti_gs
from diffaug.data.sources.endotect import read_endotect
from diffaug.data.sources.folder import read_folder
from diffaug.data.sources.kvasir_seg import read_kvasir_seg
from diffaug.data.sources.layout import ReadOptions, SourceRecords
from diffaug.data.sources.nifti import read_nifti
from diffaug.data.sources.nnunet import read_nnunet
from diffaug.data.sources.refuge2 import read_refuge2
from diffaug.data.sources.tables import read_imagefolder, read_table
from diffaug.data.sources.yolo import read_yolo

Reader = Callable[[Path, ReadOptions], SourceRecords]


def _plain(read: Callable[[Path], SourceRecords]) -> Reader:
    return lambda source, _: read(source)


LAYOUTS: Mapping[str, Reader] = {
    "folder": lambda source, options: read_folder(source, options.missing_masks),
    "nnunet": read_nnunet,
    "coco": _plain(read_coco),
    "yolo": _plain(read_yolo),
    "csv": _plain(read_table),
    "dicom": read_dicom,
    "nifti": read_nifti,
    "hf": _plain(read_imagefolder),
    "busi": read_busi,
    "kvasir-seg": _plain(read_kvasir_seg),
    "cvc-clinicdb": _plain(read_cvc_clinicdb),
    "refuge2": _plain(read_refuge2),
    "refuge2-crops": _plain(partial(read_refuge2, crop=True)),
    "drishti-gs": _plain(read_drishti_gs),
    "endotect": _plain(read_endotect),
}
