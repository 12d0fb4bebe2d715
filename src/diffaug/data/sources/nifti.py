"""NIfTI volumes and label volumes, cut into slices; or 2-D images saved as NIfTI.

Volumes and labels are paired as images and masks of a folder are, by the names of folders and files, such as
`images/p1.nii.gz` and `labels/p1.nii.gz`, or `p1/ct.nii.gz` and `p1/seg.nii.gz`. The slices of a volume are a group.
They are cut across the axis with the thickest voxels, the body's long axis if all are equal, and lie as a viewer shows
them: superior or anterior up, the patient's right on the left. The size of a pixel is kept, in mm.

Source: https://nifti.nimh.nih.gov/nifti-1; read by nibabel.
"""

import gzip
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.depths import PERCENTILES, eight_bit, percentile_limits
from diffaug.data.sources.folder import divided_split, group_notices
from diffaug.data.sources.layout import ReadOptions, Record, Scan, SourceRecords, Values
from diffaug.data.sources.pairing import find_pairs, in_natural_order, missing_notices
from diffaug.data.table import SPLITS
from diffaug.errors import DataError
from diffaug.reading import size_of

SUFFIXES = (".nii", ".nii.gz")
KEPT = 4  # volumes in memory
LARGEST_VOLUME = 2**29  # bytes: 1,024 slices of 512 x 512 of 16 bits
LARGEST_CASE = 3 * 2**28  # bytes of volumes in memory at once: those of one case are read in turn
MOST_SLICES = 32_767  # along an axis; NIfTI-1 can say no more
LARGEST_HEADER = 2**24  # bytes before the values
ONE_AT_A_TIME = Lock()  # slices are read in threads, and those of one volume load it once


@dataclass(frozen=True)
class Volume:
    """A volume in canonical orientation (RAS+).

    Attributes:
        values: As they are stored, shape (X, Y, Z, C).
        spacing: Of voxels, mm, of the first three axes.
        limits: The percentiles of each channel, scaled; None where the file holds bytes.
        scale: Slope and intercept, which turn what is stored into values.
    """

    values: NDArray[Any]
    spacing: tuple[float, float, float]
    limits: tuple[tuple[float, float], ...] | None
    scale: tuple[float, float] = (1.0, 0.0)

    def plane(self, axis: int, index: int) -> NDArray[Any]:
        """Return a slice as a viewer shows it, scaled, shape (H, W, C)."""
        from nibabel.volumeutils import apply_read_scaling

        cut = np.take(self.values, index, axis=axis)
        return np.asarray(apply_read_scaling(np.swapaxes(cut[::-1, ::-1], 0, 1), *self.scale))


_kept: OrderedDict[tuple[Path, int, int], Volume] = OrderedDict()


def is_nifti(path: Path) -> bool:
    """Tell whether a file's name ends as those of NIfTI files do."""
    return path.name.lower().endswith(SUFFIXES)


def read_volume(path: Path) -> Volume:
    """Return a volume; the last few are remembered.

    Raises:
        DataError: The file cannot be read or is too large, or nibabel is not installed.
    """
    with ONE_AT_A_TIME:
        size = size_of(path)
        key = (path, path.stat().st_mtime_ns, size)
        if key not in _kept:
            with _decoding(path):
                _make_room(_declared_bytes(path, size))
                _kept[key] = _volume(path)
        _kept.move_to_end(key)
        return _kept[key]


def _make_room(size: int) -> None:
    while _kept and (len(_kept) >= KEPT or sum(each.values.nbytes for each in _kept.values()) + size > LARGEST_CASE):
        _kept.popitem(last=False)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn what nibabel raises for damaged files, which is of many kinds, into one line."""
    try:
        yield
    except ImportError:
        raise DataError(
            f"NIfTI files are read by nibabel: it is not installed ({path}); install the extra: "
            "pip install 'diffaug[nifti]'"
        ) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"every file must decode: {path}: {reason}; replace the file or drop the case") from None


def _declared_bytes(path: Path, size: int) -> int:
    """Return how many bytes the values of a file take, by its header alone.

    Raises:
        ValueError: It declares too many values, or more than it holds.
    """
    import nibabel

    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else path.open("rb") as file:
        head = file.read(540)  # of NIfTI-2; that of NIfTI-1 has 348
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(head)), None)
    if kind is None:
        raise ValueError("it is no NIfTI-1 or NIfTI-2")
    header = kind(head[: kind.sizeof_hdr], check=False)
    shape, start = header.get_data_shape(), int(header.get_data_offset())
    held = math.prod(shape) * header.get_data_dtype().itemsize
    if not shape or min(shape) < 1 or max(shape) > MOST_SLICES or held > LARGEST_VOLUME:
        raise ValueError(
            f"it declares {' x '.join(map(str, shape)) or 'no'} values, where {LARGEST_VOLUME:,} bytes and "
            f"{MOST_SLICES:,} slices can be read; cut it into parts, or save it with 16 bits a value"
        )
    if not 0 <= start <= LARGEST_HEADER or (not packed and start + held > size):
        raise ValueError(f"its {held:,} bytes of values do not lie in its {size:,} bytes")
    return int(held)


def _volume(path: Path) -> Volume:
    import nibabel

    image = nibabel.load(path)
    scale = float(image.dataobj.slope), float(image.dataobj.inter)
    stored = nibabel.Nifti1Image(image.dataobj.get_unscaled(), image.affine, image.header)
    image = nibabel.as_closest_canonical(stored)
    values = np.asarray(image.dataobj)
    spacing = [float(size) for size in image.header.get_zooms()[:3]]
    if values.dtype.names:  # RGB voxels are a structure of three bytes
        values = np.stack([values[name] for name in values.dtype.names[:3]], axis=-1)
        values = values.reshape(*values.shape[:2], *(values.shape[2:-1] or (1,)), 3)
    while values.ndim < 4:
        values = values[..., None]
    if values.ndim > 4:
        values = values.reshape(*values.shape[:3], -1)
    spacing += [1.0] * (3 - len(spacing))
    limits = None
    if values.dtype != np.uint8 or scale != (1.0, 0.0):
        found = [percentile_limits(values[..., index], PERCENTILES) for index in range(values.shape[3])]
        limits = tuple(_scaled(each, scale) for each in found)
    return Volume(values, (spacing[0], spacing[1], spacing[2]), limits, scale)


def _scaled(limits: tuple[float, float], scale: tuple[float, float]) -> tuple[float, float]:
    low, high = sorted(limit * scale[0] + scale[1] for limit in limits)
    return low, high


def axis_of(volume: Volume) -> int:
    """Return the axis across which a volume is cut: the only one of length 1, else that of the thickest voxels."""
    flat = [axis for axis in (2, 1, 0) if volume.values.shape[axis] == 1]
    if flat:
        return flat[0]
    return max((2, 1, 0), key=lambda axis: round(volume.spacing[axis], 3))


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
            cut = volume.plane(self.axis, self.index)
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
        return whole_numbers(read_volume(self.path).plane(self.axis, self.index)[:, :, 0], self.path)


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
    if sum(volume.values.nbytes for volume in (*volumes, *(other for _, other in others))) > LARGEST_CASE:
        raise DataError(
            f"the volumes of a case are read together, {LARGEST_CASE:,} bytes at most: those of {images[0]} have more; "
            "cut them into parts, or save them with 16 bits a value"
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
    pairs = in_natural_order(find_pairs(source, "nifti", is_nifti, missing=options.missing_masks))
    split = divided_split(pairs)
    records: list[Record] = []
    for pair in pairs:
        image, unread = pair.image, pair.image.split == SPLITS[-1]
        label = pair.masks[0].path if pair.masks and not unread else None
        records += slices_of(pair.id, [image.path], label, options, image.group, image.split or split, image.free)
    said = (slice_notice(records, len(pairs)), *group_notices(records), *missing_notices(pairs))
    return SourceRecords(records, notices=said)


def slice_notice(records: Sequence[Record], volumes: int) -> str:
    """Say how many slices came from how many volumes."""
    return f"{volumes} volume{'s' * (volumes != 1)} became {len(records)} slice{'s' * (len(records) != 1)}"
