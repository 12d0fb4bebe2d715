"""A case: one image with its mask and attributes, and the one way to read images and masks from disk."""

import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from diffaug.artifacts import atomic_path, digest_of_file, digest_of_value
from diffaug.errors import DataError

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB, 0..255
Mask = NDArray[np.bool_]  # (H, W), True = lesion
Label = NDArray[np.uint8]  # (H, W), class numbers, 0 = background

NEGATIVE = "negative"  # the column of cases.csv that declares, with 1, a case whose empty mask is meant
LESION = "lesion"  # the class of a data set that declares none
MAX_PIXELS = 80_000_000  # larger files are taken for decompression bombs
MASK_THRESHOLD = 127  # JPEG masks hold values around 0 and 255; the published Kvasir-SEG rule
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of more than 8 bits a value
DEPTHS = {"8-bit": 255.0, "12-bit": 4095.0, "16-bit": 65535.0, "unit": 1.0}  # what white is in them
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
# Orientations that lie on their side, and the turn that sets them upright (EXIF 2.3, tag 0x0112).
TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

Notice = Callable[[str], None]


@dataclass(frozen=True)
class LabelClass:
    """A class of a label: its name and the values of the label that belong to it, in 1..255.

    Classes may share values, and so nest: where 1 is the rim and 2 the cup, the disc has 1 and 2, the cup 2.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One image with its mask and attributes.

    `mask` is None in the split `unannotated`. `group` names what must not be divided by a split: a patient, a sequence,
    or the case itself. `prompt` is empty unless the user wrote one. `attributes` are measured numbers by name.
    `classes` are those that the data set declares; without them a mask has the one class `lesion`.
    """

    id: str
    image: Path
    mask: Path | None
    group: str
    split: str
    prompt: str = ""
    attributes: dict[str, float] = field(default_factory=dict)
    classes: tuple[LabelClass, ...] = ()

    @property
    def negative(self) -> bool:
        """Whether the case is declared to be lesion-free."""
        return self.attributes.get(NEGATIVE) == 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `read_masks`."""
        return tuple(one.name for one in self.classes) or (LESION,)

    def read_image(self) -> Pixels:
        """Return the image, shape (H, W, 3), uint8 RGB, EXIF orientation applied."""
        return read_image(self.image, self.id)

    def read_mask(self) -> Mask:
        """Return the lesion mask, shape (H, W), in the frame of `read_image`; of several classes their union.

        A mask without EXIF orientation that fits its image only as the sensor stored it is turned as the image is.

        Raises:
            DataError: The case has no mask, the file cannot be read, or a value is of no class.
        """
        if self.classes:
            return self.read_label() > 0
        mask = self._mask_file()
        return _turned_like(self.image, mask, read_mask(mask, self.id).astype(np.uint8)) > 0

    def read_label(self) -> Label:
        """Return the class numbers as they stand in the mask file, shape (H, W), 0 = background.

        A mask of the one class `lesion` holds 0 and 1. Turned as `read_mask` is.

        Raises:
            DataError: The case has no mask, the file cannot be read, or a value is of no class.
        """
        if not self.classes:
            return self.read_mask().astype(np.uint8)
        mask = self._mask_file()
        label = _turned_like(self.image, mask, read_label(mask, self.id))
        self._check_values(label)
        return label

    def read_masks(self) -> Mask:
        """Return one mask for each class, shape (K, H, W), in the order of `class_names`.

        Raises:
            DataError: The case has no mask, the file cannot be read, or a value is of no class.
        """
        return masks_from_label(self.read_label(), self.classes)

    def _mask_file(self) -> Path:
        if self.mask is None:
            raise DataError(f"a mask is needed: case {self.id} has none; annotate it or leave it out")
        return self.mask

    def _check_values(self, label: Label) -> None:
        declared = sorted({0, *(value for one in self.classes for value in one.values)})
        for value in np.unique(label).tolist():
            if value not in declared:
                nearest = min(declared, key=lambda known: abs(known - value))
                raise DataError(
                    f"a label holds the values of its classes alone, here {', '.join(map(str, declared))}: "
                    f"case {self.id} ({self.mask}) has {value}, nearest is {nearest}; correct the label or classes.json"
                )


def check_mask_size(case: Case, mask: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Refuse a mask of another size, (H, W), than its image.

    Raises:
        DataError: Naming the case.
    """
    if mask != image:
        raise DataError(
            f"a mask must have the size of its image: case {case.id} ({case.mask}) has {mask[1]} x {mask[0]} for an "
            f"image of {image[1]} x {image[0]}; export the mask again at the image's size"
        )


def masks_from_label(label: Label, classes: Sequence[LabelClass]) -> Mask:
    """Return one mask for each class of a label (H, W), shape (K, H, W); without classes its one mask."""
    return np.stack([np.isin(label, one.values) for one in classes or (LabelClass(LESION, (1,)),)])


def label_from_probabilities(probability: NDArray[np.floating[Any]], classes: Sequence[LabelClass]) -> Label:
    """Return the most probable label of each pixel, (H, W), given the probability of each class, (K, H, W).

    A value v belongs to some classes and not to others; its likelihood is the product of p over the former and of 1 - p
    over the latter. Background, 0, belongs to none. Only declared values are written, so a cup stays inside its disc
    whatever the probabilities say. Of values of the same classes the first is written.
    """
    values = [0, *dict.fromkeys(value for one in classes for value in one.values)]
    share = np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6)
    belongs = np.array([[value in one.values for one in classes] for value in values], dtype=np.float64)  # (V, K)
    likelihood = np.tensordot(belongs, np.log(share), 1) + np.tensordot(1 - belongs, np.log1p(-share), 1)
    return np.asarray(np.array(values, dtype=np.uint8)[likelihood.argmax(axis=0)])


def digest_of_case(case: Case) -> str:
    """Return the digest of what a case says: its prompt, the bytes of its files, wherever they lie, and its classes."""
    files = [case.image] if case.mask is None else [case.image, case.mask]
    classes = [[one.name, *one.values] for one in case.classes]
    return digest_of_value([case.prompt, *(digest_of_file(path) for path in files), *classes])


def orientation_of(path: Path) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    return _header(path)[2]


def _header(path: Path) -> tuple[int, int, int]:
    """Return the stored width and height in pixels and the EXIF orientation, without decoding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                size = image.size
                if isinstance(image, TiffImageFile):  # whose size may be that of the upright image
                    size = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
                return *size, orientation if orientation in range(1, 9) else 1
    except DAMAGE:
        return 0, 0, 1  # whoever decodes the file says what is wrong with it


def _turned_like(image: Path, mask: Path, values: Label) -> Label:
    """Turn a mask that was drawn on the stored pixels of an image whose EXIF says that it lies on its side."""
    width, height, orientation = _header(image)
    if orientation not in TURNS or width == height or values.shape != (height, width) or orientation_of(mask) != 1:
        return values
    return np.asarray(Image.fromarray(values).transpose(TURNS[orientation]))


def _open(path: Path, case: str) -> Image.Image:
    """Decode a file completely, in its own mode and the orientation its EXIF asks for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and of odd EXIF; the rules here decide
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"an image may have {MAX_PIXELS:,} pixels at most: case {case} ({path}) "
                        f"has {width} x {height}; scale it down"
                    )
                image.load()
                return ImageOps.exif_transpose(image) or image
    except FileNotFoundError:
        raise DataError(f"every case needs its file: case {case} has no {path}; restore it or drop the case") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"an image may have {MAX_PIXELS:,} pixels at most: case {case} ({path}) has more; scale it down"
        ) from None
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image"
        raise DataError(
            f"every file must decode: case {case} ({path}): {reason}; replace the file or drop the case"
        ) from None


def _full_range(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], str]:
    """Scale integers or floats of more than 8 bits to 0..255 by the depth of their own largest value, and name it."""
    numbers = np.nan_to_num(values.astype(np.float64))
    highest = numbers.max(initial=0)
    unit = values.dtype.kind == "f" and highest <= 1
    depth = "16-bit" if highest > 4095 else "12-bit" if highest > 255 else "unit" if unit else "8-bit"
    return np.clip(np.rint(numbers * (255.0 / DEPTHS[depth])), 0, 255).astype(np.uint8), depth


def rgb_from_file(path: Path, case: str = "") -> tuple[Pixels, str]:
    """Decode an image file to RGB.

    Returns:
        Pixels, shape (H, W, 3), and what was converted ("grey", "palette", "transparency", a name of `DEPTHS`) or "".

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    image = _open(path, case or path.stem)
    if image.mode in DEEP:
        grey, depth = _full_range(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2), depth
    kind = {"RGB": "", "L": "grey", "1": "grey", "P": "palette", "RGBA": "transparency", "LA": "transparency"}
    note = kind.get(image.mode, image.mode)
    return np.array(image.convert("RGB")), note


def read_codes(path: Path, case: str = "") -> Label:
    """Return the grey values of a file, of a colour the red, or the indices of a palette of colours, shape (H, W).

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    image = _open(path, case or path.stem)
    if image.mode == "P" and not _is_grey_palette(image):
        return np.array(image)
    return rgb_from_file(path, case)[0][:, :, 0]


def read_image(path: Path, case: str = "") -> Pixels:
    """Return an image file as pixels, shape (H, W, 3), uint8 RGB."""
    return rgb_from_file(path, case)[0]


def read_mask(path: Path, case: str = "") -> Mask:
    """Return a mask file as booleans, shape (H, W).

    Values over 127 of an 8-bit mask are lesion; of a colour its strongest channel counts. A lossless mask whose largest
    value is at most 127 holds class numbers: there every value over 0 is lesion, as in a palette of colours. Deeper
    masks are cut at half of their largest value. What is transparent is background.

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    image = _open(path, case or path.stem)
    if image.mode == "P" and not _is_grey_palette(image):
        return np.asarray(image) > 0
    if image.mode in DEEP:
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        top = float(values.max(initial=0))
        return values > (0 if image.mode != "F" and top <= MASK_THRESHOLD else top / 2)
    strongest = _strongest_channel(image)
    lossless = path.suffix.lower() not in (".jpg", ".jpeg")
    return strongest > (0 if lossless and strongest.max(initial=0) <= MASK_THRESHOLD else MASK_THRESHOLD)


def read_label(path: Path, case: str = "") -> Label:
    """Return the class numbers of a label file, shape (H, W): grey values, or the indices of a palette.

    Raises:
        DataError: The file is missing, damaged, too large or lossy, or its pixels are no class numbers.
    """
    image = _open(path, case or path.stem)
    values = np.asarray(image)
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    if lossy or values.ndim != 2 or values.dtype.kind == "f" or values.max(initial=0) > 255 or values.min() < 0:
        raise DataError(
            f"a label of several classes is a lossless grey or palette image of class numbers up to 255: "
            f"case {case or path.stem} ({path}) is {'JPEG' if lossy else image.mode}; export it as such a PNG"
        )
    return values.astype(np.uint8)


def _is_grey_palette(image: Image.Image) -> bool:
    """Tell a palette of greys (a converted grey mask) from one of colours (class numbers)."""
    palette = np.asarray(image.getpalette("RGB"), dtype=np.int16).reshape(-1, 3)
    used = palette[np.unique(np.asarray(image)).clip(max=len(palette) - 1)]
    return bool((used == used[:, :1]).all())


def _strongest_channel(image: Image.Image) -> NDArray[np.uint8]:
    """Return the largest of red, green and blue, shape (H, W), on black where the mask is transparent."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    strongest: NDArray[np.uint8] = np.asarray(image.convert("RGB")).max(axis=2)
    return strongest


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels (H, W, 3) or a grey image (H, W) as PNG, atomically; the bytes depend on the pixels alone."""
    with atomic_path(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", compress_level=4)
