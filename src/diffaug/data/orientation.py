"""How image files lie: the orientation and the size that they say, without decoding their pixels."""

import math
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from diffaug.data.images import DAMAGE, Label, opened

# EXIF orientations that lie on their side, and the turn that sets each upright (EXIF 2.3, tag 0x0112).
TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TEXTS = (b"tEXt", b"zTXt", b"iTXt")  # chunks of a PNG
ORIENTED = (b"Raw profile type ", b"XML:com.adobe.xmp")  # keywords of texts that can hold an orientation


def orientation_of(path: Path) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    return _stored_frame(path)[2]


def pixels_of(path: Path) -> int:
    """Return how many pixels an image file says that it has; 0 where it cannot be read."""
    return math.prod(_stored_frame(path)[:2])


def turned_like(image: Path, mask: Path, values: Label) -> Label:
    """Turn a mask that was drawn on the stored pixels of an image whose EXIF orientation lies on its side.

    Args:
        image: The image file.
        mask: The mask file; one with an EXIF orientation of its own was set upright when it was decoded.
        values: The decoded mask, shape (H, W).

    Returns:
        The mask in the frame of the upright image; unchanged unless its shape shows that it was not turned.
    """
    width, height, orientation = _stored_frame(image)
    if orientation not in TURNS or width == height or values.shape != (height, width) or orientation_of(mask) != 1:
        return values
    return np.asarray(Image.fromarray(values).transpose(TURNS[orientation]))


def _stored_frame(path: Path) -> tuple[int, int, int]:
    """Return the stored width and height in pixels and the EXIF orientation, without decoding."""
    try:
        with opened(path) as image:
            told = not isinstance(image, PngImageFile) or _may_have_orientation(path)
            orientation, size = image.getexif().get(ExifTags.Base.Orientation, 1) if told else 1, image.size
            if isinstance(image, TiffImageFile):  # its size may be that of the upright image
                size = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
            return *size, orientation if orientation in range(1, 9) else 1
    except (*DAMAGE, Image.DecompressionBombError):
        return 0, 0, 1  # whoever decodes the file says what is wrong with it


def _may_have_orientation(path: Path) -> bool:
    """Tell whether a PNG file has a chunk that can hold an orientation; Pillow decodes all pixels to find that out."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, start = int.from_bytes(head[:4], "big"), file.tell()
            if head[4:] == b"eXIf" or (
                head[4:] in TEXTS and file.read(len(max(ORIENTED, key=len))).startswith(ORIENTED)
            ):
                return True
            file.seek(start + length + 4)
    return False
