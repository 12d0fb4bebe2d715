"""A case: one image with its mask and attributes, and the one way to read images and masks from disk."""

import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from diffaug.artifacts import digest_of_file, digest_of_value
from diffaug.errors import DataError

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB, 0..255
Mask = NDArray[np.bool_]  # (H, W), True = lesion

MAX_PIXELS = 80_000_000  # larger files are taken for decompression bombs
MASK_THRESHOLD = 127  # JPEG masks hold values around 0 and 255; the published Kvasir-SEG rule
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of more than 8 bits a value
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
class Case:
    """One image with its mask and attributes.

    `mask` is None in the split `unannotated`. `group` names what must not be divided by a split: a patient, a sequence,
    or the case itself. `prompt` is empty unless the user wrote one. `attributes` are measured numbers by name.
    """

    id: str
    image: Path
    mask: Path | None
    group: str
    split: str
    prompt: str = ""
    attributes: dict[str, float] = field(default_factory=dict)

    def read_image(self) -> Pixels:
        """Return the image, shape (H, W, 3), uint8 RGB, EXIF orientation applied."""
        return read_image(self.image, self.id)

    def read_mask(self) -> Mask:
        """Return the lesion mask, shape (H, W), in the frame of `read_image`.

        A mask without EXIF orientation that fits its image only as the sensor stored it is turned as the image is.

        Raises:
            DataError: The case has no mask, or the file cannot be read.
        """
        if self.mask is None:
            raise DataError(f"a mask is needed: case {self.id} has none; annotate it or leave it out")
        return _turned_like(self.image, self.mask, read_mask(self.mask, self.id))


def digest_of_case(case: Case) -> str:
    """Return the digest of what a case says: its prompt and the bytes of its files, wherever they lie."""
    files = [case.image] if case.mask is None else [case.image, case.mask]
    return digest_of_value([case.prompt, *(digest_of_file(path) for path in files)])


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
                return *image.size, orientation if orientation in range(1, 9) else 1
    except DAMAGE:
        return 0, 0, 1  # whoever decodes the file says what is wrong with it


def _turned_like(image: Path, mask: Path, values: Mask) -> Mask:
    """Turn a mask that was drawn on the stored pixels of an image whose EXIF says that it lies on its side."""
    width, height, orientation = _header(image)
    if orientation not in TURNS or width == height or values.shape != (height, width) or orientation_of(mask) != 1:
        return values
    return np.asarray(Image.fromarray(values.astype(np.uint8)).transpose(TURNS[orientation])) > 0


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


def _full_range(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale integers or floats of more than 8 bits to 0..255 by their own largest value."""
    numbers = np.nan_to_num(values.astype(np.float64))
    highest = numbers.max(initial=0)
    unit = values.dtype.kind == "f" and highest <= 1
    top = 65535.0 if highest > 4095 else 4095.0 if highest > 255 else 1.0 if unit else 255.0
    return np.clip(np.rint(numbers * (255.0 / top)), 0, 255).astype(np.uint8)


def rgb_from_file(path: Path, case: str = "") -> tuple[Pixels, str]:
    """Decode an image file to RGB.

    Returns:
        Pixels, shape (H, W, 3), and what was converted ("grey", "palette", "16-bit", "transparency") or "".

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    image = _open(path, case or path.stem)
    if image.mode in DEEP:
        grey = _full_range(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2), "16-bit"
    kind = {"RGB": "", "L": "grey", "1": "grey", "P": "palette", "RGBA": "transparency", "LA": "transparency"}
    note = kind.get(image.mode, image.mode)
    return np.array(image.convert("RGB")), note


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
    """Write pixels (H, W, 3) or a grey image (H, W) as PNG; the bytes depend on the pixels alone."""
    Image.fromarray(pixels).save(path, format="PNG", compress_level=4)
