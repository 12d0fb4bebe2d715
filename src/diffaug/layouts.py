"""The names of the layouts that `diffaug data import` reads and `diffaug export` writes: the one list of them.

The config's type, the command line's help, the readers in `data/sources` and docs/datasets.md follow it; a test holds
that.
"""

from collections.abc import Mapping
from typing import Literal, get_args

Source = Literal[
    "folder", "nnunet", "coco", "yolo", "csv", "dicom", "nifti", "hf", "busi",
    "kvasir-seg", "cvc-clinicdb", "refuge2", "refuge2-crops", "drishti-gs", "endotect",
]  # fmt: skip
EmptyMasks = Literal["refuse", "negative", "leave-out"]  # what an empty mask means
MissingMasks = Literal["refuse", "unannotated"]  # what an image without a mask is
PAIRED: tuple[Source, ...] = ("folder", "busi", "dicom", "nifti")  # layouts in which names pair images with masks
Unannotated = Literal["all", "lesion-free"]  # which images of a subset have no annotation
SOURCES: Mapping[str, str] = {
    "folder": "images and masks, paired by the names of folders and files",
    "nnunet": "nnU-Net's or the Decathlon's imagesTr, labelsTr and dataset.json",
    "coco": "polygons or run lengths in a JSON file",
    "yolo": "polygons in text files, with data.yaml",
    "csv": "a table with the columns image and mask",
    "dicom": "DICOM images or slices with masks",
    "nifti": "volumes and label volumes, cut into slices",
    "hf": "Hugging Face imagefolder with metadata.csv or metadata.jsonl",
    "busi": "masks beside images, several masks of an image united, normal images",
    "kvasir-seg": "Kvasir-SEG",
    "cvc-clinicdb": "CVC-ClinicDB",
    "refuge2": "REFUGE, whole photographs",
    "refuge2-crops": "REFUGE, crops around the disc",
    "drishti-gs": "Drishti-GS",
    "endotect": "EndoTect",
}
NAMES: tuple[str, ...] = get_args(Source)
FORMATS: Mapping[str, str] = {
    "nnunet": "nnU-Net's imagesTr, labelsTr, dataset.json and splits_final.json",
    "monai": "datalists that MONAI reads, one a fold",
    "coco": "a JSON file of run lengths a split",
    "yolo": "polygons in text files, with data.yaml",
    "hf": "Hugging Face imagefolder with a data card and Croissant metadata",
    "folder": "images/ and masks/ with cases.csv",
    "fiftyone": "a data set that FiftyOne loads",
}
