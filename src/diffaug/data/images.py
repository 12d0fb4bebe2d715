"""The one way to read images, masks and labels from files, and to write pictures.

Every file is decoded completely, in the orientation that its EXIF data asks for. Images become 8-bit RGB, masks become
booleans, labels become class numbers. Knows nothing of data sets: the argument `case` is the name that an error gives.
"""

import math
import mmap
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from diffaug.artifacts import atomic_path
from diffaug.data.codes import FEW, background_of, is_solid, lost_codes, pure_codes
from diffaug.data.depths import scaled
from diffaug.errors import DataError, ShapeError
from diffaug.names import PICTURES
from diffaug.reading import opened_at_once

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB, 0..255
Mask = NDArray[np.bool_]  # (H, W), True = lesion
Label = NDArray[np.uint8]  # (H, W), class numbers, 0 = background

MAX_PIXELS = 80_000_000  # larger files are taken for decompression bombs
MASK_THRESHOLD = 127  # JPEG masks hold values around 0 and 255; the published Kvasir-SEG rule
DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of more than 8 bits a value
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
SUFFIXES = PICTURES
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "JPEG2000", "GIF", "PPM")
LOSSY = (".jpg", ".jpeg")
KINDS = {"RGB": "", "L": "grey", "1": "grey", "P": "palette", "RGBA": "transparency", "LA": "transparency"}
CODING_STYLE = b"\xff\x52"  # the marker of a JPEG 2000 file behind which its wavelet stands (ISO 15444-1, A.6.1)
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of a PNG file (PNG specification, 11.2.5); Pillow does not miss it
REVERSIBLE = 1  # the value of a lossless wavelet


@contextmanager
def opened(file: Path | IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """Open a picture of one of `FORMATS`, whatever its suffix: of its others Pillow hands some to other programs.

    Raises:
        OSError: The file is missing, or is no picture.
        ValueError: It is a device, a pipe or a folder.
    """
    Image.init()  # Pillow knows some formats only when it has seen a file of them
    with (
        opened_at_once(file) if isinstance(file, Path) else nullcontext(file) as plain,
        warnings.catch_warnings(action="ignore"),
        Image.open(plain, formats=FORMATS) as image,
    ):
        yield image  # Pillow warns of bombs and of odd EXIF; the rules here decide


def rgb_from_file(path: Path, case: str = "") -> tuple[Pixels, str]:
    """Decode an image file to RGB.

    Returns:
        Pixels, shape (H, W, 3), and what was converted: "grey", "palette", "transparency", a name of `DEPTHS`, another
        mode of Pillow, or "" for an RGB file.

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    image = _decoded(path, case)
    if image.mode in DEEP:
        grey, depth = scaled(np.asarray(image), f"{case or path.stem} ({path})")
        return np.repeat(grey[:, :, None], 3, axis=2), depth
    kind = KINDS.get(image.mode, image.mode)
    if kind == "transparency" and image.getextrema()[-1] == (255, 255):
        kind = "grey" if image.mode == "LA" else ""  # an opaque alpha channel hides nothing
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), kind


def read_image(path: Path, case: str = "") -> Pixels:
    """Return an image file as pixels, shape (H, W, 3), uint8 RGB.

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    return rgb_from_file(path, case)[0]


def mask_from_file(path: Path, case: str = "") -> tuple[Mask, str]:
    """Decode a mask file.

    Values over 127 of an 8-bit mask are lesion; of a colour its strongest channel counts. A lossless mask whose largest
    value is at most 127 holds class numbers: there every value over 0 is lesion, as in a palette of colours all but its
    background. Masks of more than 8 bits are cut at half of their largest value. What is transparent is background.

    Returns:
        Booleans, shape (H, W), and what was guessed: "palette-mask" (the background is not index 0), "half-mask" (more
        than 8 bits were cut at half), "grey-mask" (a lossless mask has grey values, which were cut at 127), or "".

    Raises:
        DataError: The file is missing, damaged or too large; or its reading would be a guess: a cut would lose areas of
            low values, values are negative, or no index of a palette is clearly the background.
    """
    image, guessed, lossy = _decoded(path, case), "", is_lossy(path)
    values: NDArray[Any] = np.asarray(image)
    if _has_class_palette(image):
        background = _background_of(image, path, case)
        return np.asarray(values != background, np.bool_), "palette-mask" if background else ""
    if image.mode in DEEP:
        values = np.nan_to_num(values.astype(np.float64))
        top = float(values.max(initial=0))
        if values.min(initial=0) < 0:
            raise DataError(
                f"a mask holds no negative values: case {case or path.stem} ({path}) reaches {values.min():g}; save it "
                "with 0 as background"
            )
        guessed = "" if image.mode != "F" and top <= MASK_THRESHOLD else "half-mask"
        threshold = top / 2 if guessed else 0
    else:
        values = _strongest_channel(image)
        threshold = 0 if not lossy and values.max(initial=0) <= MASK_THRESHOLD else MASK_THRESHOLD
        guessed = "grey-mask" if not lossy and threshold and ((values > 0) & (values < 255)).any() else ""
    if not lossy and image.mode != "F" and (codes := lost_codes(values, threshold)):
        listed = ",".join(map(str, codes))
        raise DataError(
            f"a mask of several values is no mask of one lesion class: case {case or path.stem} ({path}) holds "
            f"{listed}, and a cut at {threshold:g} would lose the lower ones; import it with --classes "
            f"lesion={listed}, or name the values in classes.json"
        )
    return np.asarray(values > threshold, np.bool_), guessed


def read_mask(path: Path, case: str = "") -> Mask:
    """Return a mask file as booleans, shape (H, W); see `mask_from_file`.

    Raises:
        DataError: The file cannot be read, or its reading would be a guess.
    """
    return mask_from_file(path, case)[0]


def _background_of(image: Image.Image, path: Path, case: str) -> int:
    """Return the index of the background of a palette of colours.

    Raises:
        DataError: The palette does not say, so a guess could turn the mask inside out.
    """
    used = np.unique(np.asarray(image)).tolist()
    found = background_of(np.asarray(image.getpalette("RGB")).reshape(-1, 3), used)
    if found is None:
        raise DataError(
            f"the background of a palette mask is index 0 or black: case {case or path.stem} ({path}) has the indices "
            f"{', '.join(map(str, used[:8]))} and neither; say which is which with --classes, such as background=1 "
            "lesion=0, or save the mask in black and white"
        )
    return found


def read_label(path: Path, case: str = "") -> Label:
    """Return the class numbers of a label file, shape (H, W): grey values, or the indices of a palette.

    Raises:
        DataError: The file is missing, damaged, too large or lossy, or its pixels are not class numbers.
    """
    image = _decoded(path, case)
    values = np.asarray(image)
    lossy = is_lossy(path)
    if lossy or values.ndim != 2 or values.dtype.kind == "f" or values.max(initial=0) > 255 or values.min() < 0:
        raise DataError(
            f"a label of several classes is a lossless grey or palette image of class numbers up to 255: "
            f"case {case or path.stem} ({path}) is {_format(path) if lossy else image.mode}; export it as such a PNG"
        )
    return values.astype(np.uint8)


def is_lossy(path: Path) -> bool:
    """Tell whether the pixels of a file were altered when it was saved: JPEG, lossy WebP, irreversible JPEG 2000."""
    suffix = path.suffix.lower()
    if suffix not in (".webp", ".jp2"):
        return suffix in LOSSY
    with path.open("rb") as file:
        data = file.read(4096)
    if suffix == ".webp":
        return b"VP8L" not in data
    start = data.find(CODING_STYLE)
    return start < 0 or data[start + 13 : start + 14] != bytes([REVERSIBLE])


def _format(path: Path) -> str:
    return {".webp": "lossy WebP", ".jp2": "lossy JPEG 2000"}.get(path.suffix.lower(), "JPEG")


def is_deep(path: Path) -> bool:
    """Tell whether a file holds grey values of more than 8 bits; False where it cannot be opened."""
    try:
        with opened(path) as image:
            return image.mode in DEEP
    except (*DAMAGE, Image.DecompressionBombError):
        return False  # whoever decodes the file says what is wrong with it


def count_pages(path: Path) -> int:
    """Return how many images of one size a TIFF file holds; 1 for other files, and where it cannot be opened."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return 1
    try:
        with opened(path) as image:
            size, pages = image.size, getattr(image, "n_frames", 1)
            if pages > 1:
                image.seek(1)
            return pages if image.size == size else 1  # a smaller second page is a preview
    except (*DAMAGE, Image.DecompressionBombError):
        return 1  # whoever decodes the file says what is wrong with it


def read_deep(path: Path, case: str = "") -> NDArray[Any]:
    """Return the values of a file of more than 8 bits, shape (H, W), as they are stored.

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    return np.asarray(_decoded(path, case))


def read_values(path: Path, case: str = "") -> NDArray[np.integer[Any]]:
    """Return the class numbers of a label of up to 16 bits, shape (H, W): greys, or the indices of a palette.

    Raises:
        DataError: The file is missing, damaged, too large or lossy, or its pixels are not class numbers.
    """
    image = _decoded(path, case)
    values = np.asarray(image)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if image.mode in ("RGB", "RGBA", "LA"):
        colour = values[:, :, : 1 if image.mode == "LA" else 3]
        if (colour == colour[:, :, :1]).all():
            values = colour[:, :, 0]
    whole = values.dtype.kind in "iu" or (values == np.rint(values)).all()
    if is_lossy(path) or values.ndim != 2 or not whole or values.min() < 0 or values.max(initial=0) > 65535:
        found = _format(path) if is_lossy(path) else image.mode if whole else "of fractions"
        raise DataError(
            f"a label of several classes is a lossless grey or palette image of class numbers: case "
            f"{case or path.stem} ({path}) is {found}; export it as such a PNG"
        )
    return values if values.dtype.kind in "iu" else values.astype(np.int32)


def class_values(path: Path, case: str = "") -> tuple[int, ...]:
    """Return the values of a mask that look like class numbers, 0 left out; () for a mask of one lesion class.

    Class numbers are all values of a lossless mask of up to 127, all indices of a palette of colours, and otherwise
    the values, where there are few, that fill areas and not only soft edges.

    Raises:
        DataError: The file is missing, damaged or too large, or holds areas of several colours.
    """
    image = _decoded(path, case)
    if is_lossy(path):
        return ()
    if not _has_class_palette(image) and image.mode not in DEEP:
        _check_colours(image, path, case)
    plain = _has_class_palette(image) or image.mode in DEEP
    values = np.asarray(image) if plain else _strongest_channel(image)
    if _has_class_palette(image):
        values = np.where(values == _background_of(image, path, case), 0, np.maximum(values, 1))
    found = np.unique(values[values > 0])
    if not len(found) or (found != np.rint(found)).any():
        return ()
    top = float(found[-1])
    if not plain and top > MASK_THRESHOLD:
        solid = [int(value) for value in found if is_solid(values == value)] if len(found) <= FEW else []
        solid = pure_codes(solid, found)
        return tuple(solid) if len(solid) > 1 else ()
    if image.mode in DEEP and top > 32767:  # white of 16 bits, with soft edges
        return ()
    return tuple(int(value) for value in found)


def _check_colours(image: Image.Image, path: Path, case: str) -> None:
    """Refuse a mask in which areas of several colours stand for several classes."""
    if image.mode not in ("RGB", "RGBA", "P"):
        return
    pixels = np.asarray(image.convert("RGB"))
    if (pixels == pixels[:, :, :1]).all():
        return
    codes = pixels.astype(np.int32) @ np.array([65536, 256, 1])
    found = np.unique(codes[codes > 0])
    areas = [int(code) for code in found if is_solid(codes == code)] if len(found) <= FEW else []
    if len(areas) > 1:
        raise DataError(
            f"a mask of several classes holds class numbers: case {case or path.stem} ({path}) has areas of "
            f"the colours {', '.join(f'#{code:06x}' for code in areas)}; save it as a grey or palette PNG and name the "
            "classes with --classes"
        )


def read_codes(path: Path, case: str = "") -> Label:
    """Return published codes, shape (H, W): grey values, the red of a colour image, or the indices of a palette.

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    image = _decoded(path, case)
    return np.array(image) if _has_class_palette(image) else rgb_from_file(path, case)[0][:, :, 0]


def is_grey(values: NDArray[np.generic]) -> bool:
    """Tell whether an image, (H, W, 3), has no colour anywhere: then nothing that is painted on it may have any."""
    return bool((values == values[..., :1]).all())


def check_image(image: Pixels) -> None:
    """Refuse an array that is no image as every stage takes it.

    Raises:
        ShapeError: The shape is not (H, W, 3).
        DataError: The values are not bytes.
    """
    if np.ndim(image) != 3 or np.shape(image)[2] != 3 or 0 in np.shape(image):
        raise ShapeError(
            f"an image has the shape (H, W, 3): this one has {np.shape(image)}; repeat a grey image three times with "
            "np.stack([image] * 3, axis=-1)"
        )
    if np.asarray(image).dtype != np.uint8:
        raise DataError(f"an image holds bytes, 0 to 255: this one holds {image.dtype}; convert it to np.uint8")


def check_mask(mask: Mask, frame: tuple[int, ...] | None = None) -> None:
    """Refuse an array that is no mask, or that has another size than its image.

    Args:
        mask: What is to be a mask, (H, W).
        frame: Height and width of the image that it belongs to; None for any.

    Raises:
        ShapeError: The shape is not (H, W), or not that of the image.
        DataError: The values are not booleans.
    """
    if np.ndim(mask) != 2 or (frame is not None and np.shape(mask) != tuple(frame)):
        expected = "(H, W)" if frame is None else f"of its image, {tuple(frame)}"
        raise ShapeError(f"a mask has the shape {expected}: this one has {np.shape(mask)}; pass the mask of this image")
    if np.asarray(mask).dtype != np.bool_:
        raise DataError(f"a mask is boolean, True inside the lesion: this one holds {mask.dtype}; pass mask > 0")


def write_png(
    path: Path, pixels: NDArray[np.uint8], settled: bool = True, texts: Mapping[str, str] | None = None
) -> None:
    """Write pixels (H, W, 3) or a grey image (H, W) as PNG, atomically; the bytes depend on pixels and texts alone.

    Args:
        path: The file.
        pixels: What it is to hold.
        settled: See `artifacts.atomic_path`.
        texts: What its metadata say, by keyword.
    """
    with atomic_path(path, settled) as partial:
        Image.fromarray(pixels).save(partial, format="PNG", compress_level=2, pnginfo=png_info(texts or {}))


def png_info(texts: Mapping[str, str]) -> PngInfo:
    """Return texts, by keyword, as Pillow writes them into the metadata of a PNG."""
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    return info


def _decoded(path: Path, case: str) -> Image.Image:
    """Decode a file completely, in its own mode and the orientation its EXIF asks for."""
    case = case or path.stem
    try:
        with opened(path) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise DataError(_too_large(path, case, " x ".join(map(str, image.size))))
            image.load()
            if image.format == "PNG" and not _has_end(path):
                raise OSError("the end of the file is missing")
            ImageOps.exif_transpose(image, in_place=True)  # a copy of each image would take as much memory again
            return image
    except FileNotFoundError:
        raise DataError(f"every case needs its file: case {case} has no {path}; restore it or drop the case") from None
    except Image.DecompressionBombError:
        raise DataError(_too_large(path, case, "more")) from None
    except DAMAGE as error:
        said = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        reason = (said.splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"every file must decode: case {case} ({path}): {reason}; replace the file or drop the case"
        ) from None


def _has_end(path: Path) -> bool:
    """Tell whether a PNG file has its last chunk, behind which others may have written something."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.rfind(PNG_END) >= 0


def _too_large(path: Path, case: str, size: str) -> str:
    return f"an image may have {MAX_PIXELS:,} pixels at most: case {case} ({path}) has {size}; scale it down"


def _has_class_palette(image: Image.Image) -> bool:
    """Tell whether an image has a palette of colours, which stand for classes; greys are a converted grey mask."""
    if image.mode != "P":
        return False
    palette = np.asarray(image.getpalette("RGB"), dtype=np.int16).reshape(-1, 3)
    used = palette[np.unique(np.asarray(image)).clip(max=len(palette) - 1)]
    return not (used == used[:, :1]).all()


def _strongest_channel(image: Image.Image) -> NDArray[np.uint8]:
    """Return the largest of red, green and blue, shape (H, W), on black where the mask is transparent."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    strongest: NDArray[np.uint8] = np.asarray(image if image.mode == "RGB" else image.convert("RGB")).max(axis=2)
    return strongest
