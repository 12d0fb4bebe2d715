"""DICOM: a folder of 2-D images or slices, each a file, with masks that are DICOM or image files.

Files are paired as images and masks of a folder are, by the names of folders and files, such as `images/IM1.dcm` and
`masks/IM1.png`, or `IM1.dcm` and `IM1_mask.dcm`. Files without a suffix are read too. The patient becomes the group
under a number, so that no id of a patient gets into the data set; without one, the study or the series does. Grey
values are those of the modality (Hounsfield units in CT), cut to the window of the user, of the file, or percentiles.
The size of a pixel is kept, in mm. A file of several frames needs a mask of as many. What a file declares, such as its
frames, is compared with its bytes before any pixel is decoded.

Source: https://www.dicomstandard.org/current, PS3.3 C.7.6 and C.11; read by pydicom.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.data.images import MAX_PIXELS
from diffaug.data.sources.folder import divided_split
from diffaug.data.sources.layout import Drawing, ReadOptions, Record, Scan, SourceRecords, Values
from diffaug.data.sources.pairing import Pair, find_pairs, has_image_suffix, in_natural_order, missing_notices
from diffaug.data.table import SPLITS
from diffaug.errors import DataError
from diffaug.reading import LARGEST, read_bytes, size_of

SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC = b"DICM"  # at byte 128 (PS3.10, 7.1)
CM = 10.0  # mm
LARGEST_FILE = 2**30  # bytes: some minutes of uncompressed ultrasound
LEAST_FRAME = 8  # bytes of the header of a compressed frame (PS3.5, A.4)
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax whose data set is compressed as a whole
ANONYMOUS = ("", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "0")
COLUMNS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")  # what becomes the group, the first that is there
OTHER_OBJECTS = {
    "SEG": "a segmentation object",
    "RTSTRUCT": "a structure set",
    "SR": "a report",
    "PR": "a display state",
}


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM: by its suffix or, without one, by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # names such as 1.2.840.1
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == MAGIC


@dataclass(frozen=True)
class DicomPicture:
    """A frame of a DICOM image."""

    path: Path
    frame: int
    case: str

    def read(self) -> Scan:
        """Return grey values of the modality with the window of the file, or red, green and blue."""
        with _decoding(self.path, self.case):
            return self._scan()

    def _scan(self) -> Scan:
        from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

        data = _dataset(self.path, self.case)
        values = _pixels(data, self.path, self.frame, self.case)
        kind = str(data.get("PhotometricInterpretation", "MONOCHROME2"))
        if kind == "PALETTE COLOR":
            values = apply_color_lut(values, data)
        if values.ndim == 3:
            return Scan(values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8))
        inverted = kind == "MONOCHROME1"
        values = np.asarray(apply_modality_lut(values, data))
        if data.get("VOILUTSequence"):
            values = np.asarray(apply_voi_lut(values, data))
            return Scan(values, (float(values.min()), float(values.max())), "header", inverted)
        centre, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if centre is not None and width is not None and math.isfinite(centre) and 1 <= width < math.inf:
            half = max(width - 1, 1e-6) / 2  # PS3.3 C.11.2.1.2
            return Scan(_deep(values), (centre - 0.5 - half, centre - 0.5 + half), "header", inverted)
        return Scan(values, None, "", inverted)


@dataclass(frozen=True)
class DicomMask:
    """A frame of a DICOM file that holds a mask."""

    path: Path
    frame: int
    case: str

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Values:
        """Return its stored values; of a colour its strongest channel."""
        values = _pixels(_dataset(self.path, self.case), self.path, self.frame, self.case)
        return values.max(axis=2) if values.ndim == 3 else values


def read_dicom(source: Path, options: ReadOptions) -> SourceRecords:
    """Find the images of a folder with their masks.

    Raises:
        DataError: An image or a mask has no partner, a file is no image or cannot be decoded, or slices of a series
            differ in size.
    """
    pairs = in_natural_order(find_pairs(source, "dicom", _is_read, missing=options.missing_masks))
    headers = {pair.id: _header(pair) for pair in pairs if is_dicom(pair.image.path)}
    if not headers:
        from diffaug.data.sources.recognise import not_understood

        raise not_understood("DICOM images are files such as IM1.dcm", source, "dicom")
    _check_series(pairs, headers)
    groups, notices = _groups_of(pairs, headers)
    open_split = divided_split(pairs)
    records: list[Record] = []
    for pair in pairs:
        split = pair.image.split or open_split
        records += _records_of(pair, headers.get(pair.id), groups.get(pair.id, ""), split)
    return SourceRecords(records, notices=(*notices, *missing_notices(pairs)))


def _is_read(path: Path) -> bool:
    return is_dicom(path) or has_image_suffix(path)


def _records_of(pair: Pair, header: Any, group: str, split: str) -> list[Record]:
    frames = _frames_of(header) if header is not None else 1
    mask = pair.masks[0].path if pair.masks and split != SPLITS[-1] else None
    if mask is not None and frames > 1:
        there = _frames_of(_dataset(mask, pair.id, False)) if is_dicom(mask) else 1
        if there != frames:
            raise DataError(
                f"a file of several frames needs a mask of as many: case {pair.id} ({pair.image.path}) has {frames} "
                f"frames, its mask ({mask}) {there}; save the frame that was annotated as a file of its own"
            )
    records = []
    for frame in range(frames):
        name = pair.id if frames == 1 else f"{pair.id}-{frame:0{len(str(frames - 1))}}"
        image = pair.image.path if header is None else DicomPicture(pair.image.path, frame, name)
        drawn: Path | Drawing | None = DicomMask(mask, frame, name) if mask and is_dicom(mask) else mask
        with _decoding(pair.image.path, pair.id):
            attributes = {} if header is None else _spacing(header)
        owner = group or (pair.id if frames > 1 else "")
        records.append(Record(name, image, drawn, owner, split, pair.image.free, attributes=attributes))
    return records


def _header(pair: Pair) -> Any:
    header = _dataset(pair.image.path, pair.id, False)
    with _decoding(pair.image.path, pair.id):
        for column in COLUMNS:
            header.get(column)  # elements are decoded when they are asked for
    kind = OTHER_OBJECTS.get(str(header.get("Modality", "")))
    if kind or "Rows" not in header:
        raise DataError(
            f"a DICOM file here is an image: {pair.image.path} is {kind or 'without pixels'}; save masks as images, "
            f"such as masks/{pair.image.stem}.png, and move the file away"
        )
    return header


def _dataset(path: Path, case: str, pixels: bool = True) -> Any:
    try:
        import pydicom
    except ImportError:
        raise DataError(
            f"DICOM files are read by pydicom: it is not installed ({path}); install the extra: "
            "pip install 'diffaug[dicom]'"
        ) from None
    with _decoding(path, case):
        held = _bytes_of(path)
        data = pydicom.dcmread(path, stop_before_pixels=not pixels, force=path.suffix.lower() in SUFFIXES)
        _check_declared(data, held)
        return data


@contextmanager
def _decoding(path: Path, case: str) -> Iterator[None]:
    """Turn what pydicom raises for damaged files, which is of many kinds, into one line."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(_damaged(path, case, error)) from None


def _bytes_of(path: Path) -> int:
    """Return the bytes of a file, of a deflated one those that come out.

    Raises:
        ValueError: They are too many.
        DataError: It is no plain file.
    """
    size = size_of(path)
    if size > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
    with path.open("rb") as file:
        head = file.read(4096)
    if DEFLATED not in head:
        return size
    start = 144 + int.from_bytes(head[140:144], "little")  # the first element is the length of the others (PS3.10, 7.1)
    found = zlib.decompressobj(-zlib.MAX_WBITS).decompress(read_bytes(path)[start:], LARGEST + 1)
    if len(found) > LARGEST:
        raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
    return len(found)


def _frames_of(data: Any) -> int:
    return int(data.get("NumberOfFrames", 1) or 1)


def _check_declared(data: Any, held: int) -> None:
    """Compare the size that a file declares with its bytes.

    Raises:
        ValueError: An image is too large, or the file holds fewer bytes than it must.
    """
    if "Rows" not in data:
        return
    rows, columns, frames = int(data.Rows), int(data.Columns), _frames_of(data)
    samples = int(data.get("SamplesPerPixel", 1) or 1)
    if rows * columns < 1 or rows * columns * samples > MAX_PIXELS or samples not in (1, 3):
        raise ValueError(
            f"it declares {columns} x {rows} pixels of {samples} values, where {MAX_PIXELS:,} values can be read, one "
            "or three a pixel"
        )
    syntax = getattr(data, "file_meta", {}).get("TransferSyntaxUID")
    is_packed = syntax is not None and syntax.is_encapsulated
    frame = LEAST_FRAME if is_packed else rows * columns * samples * int(data.get("BitsAllocated", 8)) // 8
    if not 0 < frames <= max(1, held // max(1, frame)):
        raise ValueError(f"it declares {frames:,} frames, which need more than its {held:,} bytes")


def _damaged(path: Path, case: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"every file must decode: case {case} ({path}): {reason}; replace the file or drop the case"


def _pixels(data: Any, path: Path, frame: int, case: str) -> NDArray[Any]:
    """Return the stored values of a frame, shape (H, W) or (H, W, 3).

    Raises:
        DataError: The pixels are damaged, or compressed in a way whose codec is not installed.
    """
    from pydicom.pixels import get_decoder, pixel_array

    if "TransferSyntaxUID" not in getattr(data, "file_meta", {}):
        raise DataError(_damaged(path, case, ValueError("it does not say how its pixels are coded")))
    syntax = data.file_meta.TransferSyntaxUID
    try:
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            raise DataError(
                f"compressed pixels need their codec: case {case} ({path}) is {syntax.name}, and none is installed; "
                "install one with pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or save the file "
                "uncompressed"
            )
        index = frame if _frames_of(data) > 1 else None
        values = np.asarray(pixel_array(data, index=index))
        if values.shape[:2] != (int(data.Rows), int(data.Columns)) or values.shape[2:] not in ((), (3,)):
            raise ValueError(f"its pixels have the shape {values.shape}")
        return values
    except DataError:
        raise
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise DataError(_damaged(path, case, error)) from None


def _first(value: Any) -> float | None:
    """Return the first of several values of an element; None where it is empty."""
    if value is None or value == "":
        return None
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return float(value[0]) if several else float(value)


def _deep(values: NDArray[Any]) -> NDArray[Any]:
    """Return values of a type that is windowed, even if they are bytes."""
    return values.astype(np.int32) if values.dtype == np.uint8 else values


def _spacing(header: Any) -> dict[str, float]:
    """Return the size of a pixel in mm; nothing where the file does not tell it."""
    found: dict[str, float] = {}
    regions = header.get("SequenceOfUltrasoundRegions")
    if sizes := header.get("PixelSpacing") or header.get("ImagerPixelSpacing"):
        found = {"spacing_x": float(sizes[1]), "spacing_y": float(sizes[0])}  # rows come first
    elif regions and all(name in regions[0] for name in ("PhysicalDeltaX", "PhysicalDeltaY")):
        found = {f"spacing_{axis.lower()}": abs(float(regions[0][f"PhysicalDelta{axis}"].value)) * CM for axis in "XY"}
    return found if all(0 < size < math.inf for size in found.values()) else {}


def _check_series(pairs: Sequence[Pair], headers: Mapping[str, Any]) -> None:
    first: dict[str, tuple[Pair, tuple[int, int]]] = {}
    for pair in pairs:
        header = headers.get(pair.id)
        series = str(header.get("SeriesInstanceUID", "")) if header is not None else ""
        if header is None or not series:
            continue
        size = (int(header.Columns), int(header.Rows))
        other, known = first.setdefault(series, (pair, size))
        if size != known:
            raise DataError(
                f"slices of a series have one size: {pair.image.path} has {size[0]} x {size[1]}, {other.image.path} of "
                f"the same series {known[0]} x {known[1]}; move what is no slice, such as a localizer, away"
            )


def _groups_of(pairs: Sequence[Pair], headers: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Number the patients, or studies or series where no patient is named, and say what became the groups."""
    for column in COLUMNS:
        marks = {name: str(header.get(column, "")).strip() for name, header in headers.items()}
        if all(mark.lower() not in ANONYMOUS for mark in marks.values()):
            word = {"PatientID": "patient", "StudyInstanceUID": "study"}.get(column, "series")
            numbers = {mark: number for number, mark in enumerate(dict.fromkeys(marks.values()), start=1)}
            width = len(str(len(numbers)))
            groups = {name: f"{word}-{numbers[mark]:0{width}}" for name, mark in marks.items()}
            return groups, [f"the {word} became the group, under a number: {len(numbers)} in {len(marks)} files"]
    return {pair.id: pair.image.group for pair in pairs if pair.image.group}, []
