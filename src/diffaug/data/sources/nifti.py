"""NIfTI volumes and label volumes, cut into slices; or 2-D images saved as NIfTI.

Volumes and labels are paired as images and masks of a folder are, by the names of folders and files, such as
`images/p1.nii.gz` and `labels/p1.nii.gz`, or `p1/ct.nii.gz` and `p1/seg.nii.gz`. The slices of a volume are a group.
They are cut across the axis with the thickest voxels, the body's long axis if all are equal, and lie as a viewer shows
them: superior or anterior up, the patient's right on the left. The size of a pixel is kept, in mm.

Source: https://nifti.nimh.nih.gov/nifti-1; read by nibabel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.depths import PERCENTILES, eight_bit, percentile_limits
from diffaug.data.sources.folder import divided_split, group_notices
from diffaug.data.sources.layout import ReadOptions, Record, Scan, SourceRecords, Values
from diffaug.data.sources.pairing import find_pairs, in_natural_order
from diffaug.data.table import SPLITS
from diffaug.errors import DataError

SUFFIXES = (".nii", ".nii.gz")
KEPT = 4  # volumes in memory
ONE_AT_A_TIME = Lock()  # slices are read in threads, and those of one volume load it once


@dataclass(frozen=True)
class Volume:
    """A volume in canonical orientation (RAS+).

    Attributes:
        values: Shape (X, Y, Z, C).
        spacing: Of voxels, mm, of the first three axes.
        limits: The percentiles of each channel; None where the file holds bytes.
    """

    values: NDArray[Any]
    spacing: tuple[float, float, float]
    limits: tuple[tuple[float, float], ...] | None


def is_nifti(path: Path) -> bool:
    """Tell whether a file's name ends as those of NIfTI files do."""
    return path.name.lower().endswith(SUFFIXES)


def read_volume(path: Path) -> Volume:
    """Return a volume; the last few are remembered.

    Raises:
        DataError: The file cannot be read, or nibabel is not installed.
    """
    with ONE_AT_A_TIME:
        status = path.stat()
        return _volume(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=KEPT)
def _volume(path: Path, *_status: int) -> Volume:
    try:
        import nibabel
    except ImportError:
        raise DataError(
            f"NIfTI files are read by nibabel: it is not installed ({path}); install the extra: "
            "pip install 'diffaug[nifti]'"
        ) from None
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asarray(image.dataobj)
        spacing = [float(size) for size in image.header.get_zooms()[:3]]
    except Exception as error:  # nibabel raises many kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"every file must decode: {path}: {reason}; replace the file or drop the case") from None
    if values.dtype.names:  # RGB voxels are a structure of three bytes
        values = np.stack([values[name] for name in values.dtype.names[:3]], axis=-1)
        values = values.reshape(*values.shape[:2], *(values.shape[2:-1] or (1,)), 3)
    while values.ndim < 4:
        values = values[..., None]
    if values.ndim > 4:
        values = values.reshape(*values.shape[:3], -1)
    spacing += [1.0] * (3 - len(spacing))
    limits = None
    if values.dtype != np.uint8:
        limits = tuple(percentile_limits(values[..., index], PERCENTILES) for index in range(values.shape[3]))
    return Volume(values, (spacing[0], spacing[1], spacing[2]), limits)


def axis_of(volume: Volume) -> int:
    """Return the axis across which a volume is cut: the only one of length 1, else that of the thickest voxels."""
    flat = [axis for axis in (2, 1, 0) if volume.values.shape[axis] == 1]
    if flat:
        return flat[0]
    return max((2, 1, 0), key=lambda axis: round(volume.spacing[axis], 3))


def plane(values: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Return a slice as a viewer shows it, shape (H, W, C)."""
    cut = np.take(values, index, axis=axis)
    return np.asarray(np.swapaxes(cut[::-1, ::-1], 0, 1))


@dataclass(frozen=True)
class SlicePicture:
    """A slice of one volume or of several that are its channels."""

    paths: tuple[Path, ...]
    channels: tuple[int, ...]
    axis: int
    index: int

    def read(self) -> Scan:
        """Return grey values or, with several channels, red, green and blue."""
        planes, limits = [], []
        for path in self.paths:
            volume = read_volume(path)
            cut = plane(volume.values, self.axis, self.index)
            for channel in range(cut.shape[2]):
                planes.append(cut[:, :, channel])
                limits.append(volume.limits[channel] if volume.limits else None)
        chosen = [(planes[channel], limits[channel]) for channel in self.channels]
        if len(chosen) == 1:
            values, limit = chosen[0]
            return Scan(values, limit, "volume")
        colours = [values if limit is None else eight_bit(values, limit) for values, limit in chosen]
        return Scan(stack_colours(colours), source="volume" if chosen[0][1] else "")


@dataclass(frozen=True)
class SliceLabel:
    """A slice of a label volume."""

    path: Path
    axis: int
    index: int

    def __str__(self) -> str:
        return f"{self.path}, slice {self.index}"

    def read(self) -> Values:
        """Return its values."""
        return whole_numbers(plane(read_volume(self.path).values[..., :1], self.axis, self.index)[:, :, 0], self.path)


def stack_colours(colours: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return two or three channels as red, green and blue, shape (H, W, 3); the third of two is black."""
    missing = [np.zeros_like(colours[0])] * (3 - len(colours))
    return np.stack([*colours, *missing], axis=-1)


def whole_numbers(values: NDArray[Any], path: Path) -> Values:
    """Return the values of a label as whole numbers.

    Raises:
        DataError: They are fractions or negative.
    """
    rounded = np.rint(values)
    if values.dtype.kind == "f" and not np.allclose(values, rounded, atol=1e-3):
        raise DataError(f"a label holds class numbers: {path} holds fractions; export it without interpolation")
    if rounded.min(initial=0) < 0:
        raise DataError(f"a label holds class numbers from 0: {path} holds {rounded.min():g}; correct it")
    whole: Values = rounded.astype(np.int64)
    return whole


def choose_channels(count: int, options: ReadOptions, where: object) -> tuple[int, ...]:
    """Return the channels that become grey or colours.

    Raises:
        DataError: There are more than three and none is chosen, or a chosen one does not exist.
    """
    if not options.channels and count > 3:
        raise DataError(f"an image has one to three channels: {where} has {count}; choose with --channels 0 or 0,1,2")
    channels = options.channels or tuple(range(count))
    if max(channels) >= count:
        raise DataError(
            f"--channels names channels that there are, 0 to {count - 1}: {where} has no {max(channels)}; correct it"
        )
    return channels


def slices_of(
    name: str,
    images: Sequence[Path],
    label: Path | None,
    options: ReadOptions,
    group: str = "",
    split: str = "",
    free: bool = False,
) -> list[Record]:
    """Return a record for each slice of a volume; a volume of one slice keeps its name.

    Args:
        name: The name of the volume, which begins the ids.
        images: The volume, or one volume for each channel.
        label: Its label volume; None without one.
        options: Which channels to take.
        group: The patient; the volume itself if empty.
        split: The split that the source names, or "".
        free: Whether the source says that it is lesion-free.

    Raises:
        DataError: A file cannot be read, or the shapes differ.
    """
    volumes = [read_volume(path) for path in images]
    first = volumes[0]
    shape, axis = first.values.shape[:3], axis_of(first)
    others = [(path, read_volume(path)) for path in (*images[1:], *([label] if label else []))]
    for path, other in others:
        if other.values.shape[:3] != shape:
            raise DataError(
                f"slices must have the size of their labels: {path} has {_shape(other.values)} for a volume of "
                f"{_shape(first.values)} ({images[0]}); resample it to the volume"
            )
    channels = choose_channels(sum(volume.values.shape[3] for volume in volumes), options, images[0])
    sides = [size for number, size in enumerate(first.spacing) if number != axis]
    attributes = {"spacing_x": sides[0], "spacing_y": sides[1]}
    width = len(str(shape[axis] - 1))
    return [
        Record(
            name if shape[axis] == 1 else f"{name}-{index:0{width}}",
            SlicePicture(tuple(images), channels, axis, index),
            SliceLabel(label, axis, index) if label else None,
            group or (name if shape[axis] > 1 else ""),
            split,
            free,
            attributes=attributes,
        )
        for index in range(shape[axis])
    ]


def _shape(values: NDArray[Any]) -> str:
    return " x ".join(str(size) for size in values.shape[:3])


def read_nifti(source: Path, options: ReadOptions) -> SourceRecords:
    """Find the volumes of a folder with their label volumes, and cut them into slices.

    Raises:
        DataError: A volume or a label has no partner, a file cannot be read, or the shapes differ.
    """
    pairs = in_natural_order(find_pairs(source, "nifti", is_nifti))
    split = divided_split(pairs)
    records: list[Record] = []
    for pair in pairs:
        image, unread = pair.image, pair.image.split == SPLITS[-1]
        label = pair.masks[0].path if pair.masks and not unread else None
        records += slices_of(pair.id, [image.path], label, options, image.group, image.split or split, image.free)
    return SourceRecords(records, notices=(slice_notice(records, len(pairs)), *group_notices(records)))


def slice_notice(records: Sequence[Record], volumes: int) -> str:
    """Say how many slices came from how many volumes."""
    return f"{volumes} volume{'s' * (volumes != 1)} became {len(records)} slice{'s' * (len(records) != 1)}"
