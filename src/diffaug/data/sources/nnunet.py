"""nnU-Net's raw data sets, version 2 or 1, and those of the Medical Segmentation Decathlon.

Read layout:

    dataset.json                                 channel_names, labels: a value, or a list for a region
    imagesTr/CASE_0000.png, CASE_0001.png, ..    a file a channel: PNG, TIFF, BMP or NIfTI
    labelsTr/CASE.png
    imagesTs, labelsTs                           the split `test`, where there are labels

One channel becomes grey, or stays an RGB file; two or three become red, green and blue. Volumes are cut into slices as
in `nifti`. Splits are drawn, since cross-validation is not part of the raw data.

Source: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md and region_based_training.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import read_json
from diffaug.data.case import LabelClass
from diffaug.data.classes import classes_from_json
from diffaug.data.depths import PERCENTILES, eight_bit, percentile_limits
from diffaug.data.examine import counted
from diffaug.data.images import SUFFIXES, is_deep, read_deep, read_image
from diffaug.data.sources.layout import ReadOptions, Record, Scan, SourceRecords, subfolder
from diffaug.data.sources.names import natural
from diffaug.data.sources.nifti import choose_channels, is_nifti, slice_notice, slices_of, stack_colours
from diffaug.data.sources.pairing import stem_of
from diffaug.data.sources.recognise import not_understood
from diffaug.errors import DataError

PLAN = "dataset.json"
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
FOLDERS = (("imagesTr", "labelsTr", ""), ("imagesTs", "labelsTs", "test"))
IGNORED = "ignore"  # nnU-Net's name of pixels that do not count


@dataclass(frozen=True)
class Channels:
    """An image whose channels are files of one grey channel each."""

    paths: tuple[Path, ...]

    def read(self) -> Scan:
        """Return red, green and blue; channels of more than 8 bits are scaled by their own percentiles."""
        planes, deep = [], False
        for path in self.paths:
            if is_deep(path):
                values = read_deep(path)
                planes.append(eight_bit(values, percentile_limits(values, PERCENTILES)))
                deep = True
            else:
                planes.append(read_image(path)[:, :, 0])
        shapes = [one.shape for one in planes]
        if len(set(shapes)) > 1:
            raise DataError(
                f"channels of one image have one size: {self.paths[0]} has {shapes[0][1]} x {shapes[0][0]} and another "
                f"of its channels not; export them again"
            )
        return Scan(stack_colours(planes), source="percentiles" if deep else "")


def read_nnunet(source: Path, options: ReadOptions) -> SourceRecords:
    """Find the training cases, and the test cases that have labels.

    Raises:
        DataError: The layout breaks a rule: no dataset.json, a case without its label, or channels that differ.
    """
    base = _base_of(source)
    classes = _classes_of(base / PLAN)
    records: list[Record] = []
    notices: list[str] = []
    volumes = 0
    for images_name, labels_name, split in FOLDERS:
        images, labels = subfolder(base, images_name), subfolder(base, labels_name)
        if images is None or (labels is None and not split):
            if split:
                continue
            raise not_understood(f"nnU-Net has {images_name}/ and {labels_name}/", source, "nnunet")
        cases, labelled = _cases_of(images), _labels_of(labels) if labels else {}
        bare = [case for case in cases if case not in labelled]
        if bare and split:
            notices.append(counted(len(bare), "images of imagesTs are without labels and were left out"))
            cases = {case: files for case, files in cases.items() if case in labelled}
        _check_partners(cases, labelled, images, labels or images)
        _check_channels(cases, images)
        for case, files in cases.items():
            name = f"{split}-{case}" if split else case
            if is_nifti(files[0]):
                records += slices_of(name, files, labelled[case], options, "", split)
                volumes += 1
            else:
                records.append(Record(name, _image_of(files, options), labelled[case], split=split))
    said = [slice_notice(records, volumes)] if volumes else []
    return SourceRecords(records, classes, notices=(*said, *notices))


def _base_of(source: Path) -> Path:
    """Return the folder that holds imagesTr: the source, or the only such folder inside it."""
    inside = [source, *(path for path in sorted(source.iterdir()) if path.is_dir())]
    found = [folder for folder in inside if subfolder(folder, "imagesTr")]
    if not found:
        raise not_understood("nnU-Net has imagesTr/, labelsTr/ and dataset.json", source, "nnunet")
    if len(found) > 1 and found[0] != source:
        names = " and ".join(folder.name for folder in found[:2])
        raise DataError(f"an import reads one data set: {source} holds {names}; name one of them")
    return found[0]


def _classes_of(path: Path) -> tuple[LabelClass, ...]:
    """Return the classes that dataset.json declares; in version 1 it maps values to names."""
    if not path.is_file():
        raise DataError(
            f'nnU-Net declares the classes in {PLAN}: {path.parent} has none; write {{"labels": '
            '{"background": 0, "lesion": 1}}'
        )
    plan = read_json(path)
    labels = plan.get("labels") if isinstance(plan, dict) else None
    if not isinstance(labels, dict):
        raise DataError(f'{PLAN} maps names of classes to values under "labels": {path} does not; correct it')
    if all(name.isdigit() for name in labels):
        labels = {str(name): int(value) for value, name in labels.items()}
    if IGNORED in labels:
        raise DataError(
            f"every pixel has a label here: {path} declares {IGNORED!r} ({labels[IGNORED]}); remove it "
            f"there, and declare what its pixels are, for example with --classes lesion=1 background={labels[IGNORED]}"
        )
    return classes_from_json(_without_zero(labels), path)


def _without_zero(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what means background: a name with the value 0 alone."""
    return {name: value for name, value in labels.items() if value not in (0, [0])}


def _cases_of(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each case in the order of their channels."""
    found: dict[str, dict[int, Path]] = {}
    for path in _files(folder):
        stem = stem_of(path)
        parts = CHANNEL.fullmatch(stem)
        case, channel = (parts["case"], int(parts["channel"])) if parts else (stem, 0)
        twin = found.setdefault(case, {}).setdefault(channel, path)
        if twin is not path:
            raise DataError(f"a channel is one file: {folder} has {twin.name} and {path.name}; remove one of them")
    if not found:
        raise DataError(f"imagesTr holds images ({' '.join(SUFFIXES)} .nii.gz): {folder} has none; add them")
    return {case: [files[number] for number in sorted(files)] for case, files in found.items()}


def _labels_of(folder: Path) -> dict[str, Path]:
    return {stem_of(path): path for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    kept = [path for path in files if path.suffix.lower() in SUFFIXES or is_nifti(path)]
    return sorted(kept, key=lambda path: natural(path.name))


def _check_partners(
    cases: Mapping[str, Sequence[Path]], labels: Mapping[str, Path], images: Path, folder: Path
) -> None:
    bare = [case for case in cases if case not in labels]
    if bare:
        raise DataError(
            f"every case needs a label: {cases[bare[0]][0].name} has none in {folder}, where {bare[0]}.png or the like "
            "is missing; add it or remove the image"
        )
    alone = [case for case in labels if case not in cases]
    if alone:
        raise DataError(
            f"every label needs an image: {labels[alone[0]].name} has none in {images}, where {alone[0]}_0000.png or "
            "the like is missing; add it or remove the label"
        )


def _check_channels(cases: Mapping[str, Sequence[Path]], folder: Path) -> None:
    counts = {case: len(files) for case, files in cases.items()}
    if len(set(counts.values())) > 1:
        most = max(counts.values())
        lacking = next(case for case, count in counts.items() if count < most)
        raise DataError(
            f"all images have the same channels: {lacking} has {counts[lacking]} in {folder}, others have {most}; add "
            "the missing files or remove the case"
        )


def _image_of(files: Sequence[Path], options: ReadOptions) -> Path | Channels:
    """Return what gives the image: one file as it is, or several as colours."""
    if len(files) == 1 and not options.channels:
        return files[0]
    chosen = choose_channels(len(files), options, files[0])
    return files[chosen[0]] if len(chosen) == 1 else Channels(tuple(files[index] for index in chosen))
