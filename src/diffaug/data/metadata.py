"""Files of pictures without what is no picture: EXIF, GPS, comments, text, profiles and previews.

Pixels are never coded anew where a format can be taken apart: JPEG, PNG, WebP and JPEG 2000 lose the parts that no
reader needs, and keep the others byte for byte. TIFF files with other tags than those of their pixels are written anew,
without loss. What decoding depends on stays: the markers of JFIF and Adobe, transparency, and the orientation, which
stands alone in a new EXIF block. What marks a synthetic picture (`origin`) stays, so that it never becomes a real one.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from diffaug.data.images import DAMAGE, opened
from diffaug.data.orientation import orientation_of
from diffaug.data.origin import marks_of
from diffaug.errors import DataError
from diffaug.names import PICTURES
from diffaug.reading import read_bytes

LARGEST = 2**30  # bytes of a picture's file
PNG, JPEG, JP2 = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\x00\x00\x00\x0cjP  \r\n\x87\n"
PNG_PARTS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs")
WEBP_PARTS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH")
WEBP_FLAGS = 0b00101100  # of VP8X: a profile, EXIF and XMP follow
WEBP_EXIF = 0b00001000
JP2_PARTS = (b"jP  ", b"ftyp", b"jp2h", b"jp2c")
# Of the layout of pixels, their resolution and their orientation (TIFF 6.0, part 1; Adobe's supplements).
TIFF_TAGS = frozenset(
    [254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 317, 320, 322, 323, 324, 325, 338,
     339, 347, 529, 530, 531, 532]
)  # fmt: skip
TIFF_ORIENTATION = 274
AS_STORED = {  # the turn that undoes how an orientation is set upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
JP2_COMMENT = 0x64
SCANS = 0xDA  # the JPEG marker behind which coded pixels stand
ALONE = (*range(0xD0, 0xD8), 0x01)  # JPEG markers without a length


def copy_picture(path: Path, folder: Path, name: str) -> Path:
    """Write a picture without its metadata into a folder under another stem, and return its new path.

    Raises:
        DataError: The file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = read_bytes(path, LARGEST)
    try:
        suffix, clean = path.suffix.lower(), without_metadata(data, orientation_of(path))
        if clean is None or suffix not in PICTURES:
            suffix, clean = ".png", _as_png(data)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"every file must decode: {path}: {reason}; replace the file or drop the case") from None
    to = folder / f"{name}{suffix}"
    to.write_bytes(clean)
    return to


def without_metadata(data: bytes, orientation: int = 1) -> bytes | None:
    """Return the bytes of a picture's file without metadata; None for a format that is not known here.

    Args:
        data: The file.
        orientation: Its EXIF orientation, 1 to 8, which readers need.

    Raises:
        ValueError: The file is damaged.
    """
    if data.startswith(PNG):
        return PNG + b"".join(_png_parts(data, orientation))
    if data.startswith(JPEG):
        return JPEG + b"".join(_jpeg_parts(data, orientation))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data, orientation)
    if data.startswith(JP2):
        return b"".join(_without_comments(kind, box) for kind, box in _boxes(data) if kind in JP2_PARTS)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data, orientation)
    return data if data[:2] == b"BM" else None  # a bitmap has none


def _exif(orientation: int) -> bytes:
    """Return an EXIF block that holds an orientation alone (EXIF 2.3, tag 0x0112)."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _png_parts(data: bytes, orientation: int) -> Iterator[bytes]:
    """Yield the chunks that belong to the picture (PNG 1.2, section 3.2)."""
    place, blocks = len(PNG), [b"eXIf" + _exif(orientation)] if orientation != 1 else []
    with opened(io.BytesIO(data)) as image:
        marks = marks_of(image.info)
    blocks += [b"tEXt" + keyword.encode("latin-1") + b"\0" + text.encode("latin-1") for keyword, text in marks.items()]
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            raise ValueError("a chunk is cut off")
        if kind == b"IDAT":
            yield from map(_png_chunk, blocks)
            blocks = []
        if kind in PNG_PARTS:
            yield data[place:end]
        if kind == b"IEND":
            return
        place = end
    raise ValueError("the end is missing")


def _png_chunk(block: bytes) -> bytes:
    """Return a chunk from its kind and its data."""
    return struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))


def _jpeg_parts(data: bytes, orientation: int) -> Iterator[bytes]:
    """Yield the segments that belong to the picture, in order (ITU T.81, B.1)."""
    if orientation != 1:
        block = b"Exif\0\0" + _exif(orientation)
        yield b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    place = len(JPEG)
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise ValueError("a marker is missing")
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker == 0xD9:
            break
        end = place + 2 + (0 if marker in ALONE else int.from_bytes(data[place + 2 : place + 4]))
        if end > len(data):
            raise ValueError("a segment is cut off")
        if marker == SCANS:
            end = _end_of_scan(data, end)
        segment = data[place:end]
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            yield b"\xff\xe0\x00\x10" + segment[4:16].ljust(12, b"\0") + b"\0\0"  # without its preview
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or segment[4:9] == b"Adobe":
            yield segment
        place = end
    yield b"\xff\xd9"


def _end_of_scan(data: bytes, place: int) -> int:
    """Return where the next marker stands behind coded pixels, which hold FF00 and restart markers."""
    while True:
        place = data.find(b"\xff", place)
        if place < 0 or place + 1 >= len(data):
            return len(data)
        if data[place + 1] == 0 or data[place + 1] in ALONE or data[place + 1] == 0xFF:
            place += 1 if data[place + 1] == 0xFF else 2
            continue
        return place


def _webp(data: bytes, orientation: int) -> bytes:
    """Return a WebP file with the chunks of its picture (RFC 9649, section 2.7); the first one of an animation."""
    parts, place = [], 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + length
        if end > len(data):
            raise ValueError("a chunk is cut off")
        if kind in (b"ANIM", b"ANMF"):
            raise ValueError("an animation is no picture")
        chunk = bytearray(data[place:end] + bytes(length % 2))
        if kind == b"VP8X":
            chunk[8] = chunk[8] & ~WEBP_FLAGS | (WEBP_EXIF if orientation != 1 else 0)
        if kind in WEBP_PARTS:
            parts.append(bytes(chunk))
        place = end + length % 2
    if orientation != 1:
        block = _exif(orientation)
        parts.append(b"EXIF" + struct.pack("<I", len(block)) + block)
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the boxes of a JPEG 2000 file by kind (ISO 15444-1, annex I.4)."""
    place = 0
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16])
        length = length or len(data) - place  # 0: to the end of the file
        if length < 8 or place + length > len(data):
            raise ValueError("a box is cut off")
        yield kind, data[place : place + length]
        place += length


def _without_comments(kind: bytes, box: bytes) -> bytes:
    """Return a box, that of the coded picture without the comments of its main header (ISO 15444-1, A.9.2)."""
    if kind != b"jp2c":
        return box
    start = 16 if box[:4] == b"\0\0\0\1" else 8
    kept, place = [box[start : start + 2]], start + 2
    while box[place : place + 2] != b"\xff\x90":  # the first part of the picture
        end = place + 2 + int.from_bytes(box[place + 2 : place + 4])
        if box[place : place + 1] != b"\xff" or end > len(box):
            raise ValueError("a segment is cut off")
        if box[place + 1] != JP2_COMMENT:
            kept.append(box[place:end])
        place = end
    code = b"".join(kept) + box[place:]
    return struct.pack(">I", len(code) + 8) + kind + code


def _tiff(data: bytes, orientation: int) -> bytes:
    """Return a TIFF file as it is if it has tags of its pixels alone, else written anew with the same pixels."""
    with opened(io.BytesIO(data)) as image:
        tags = set(getattr(image, "tag_v2", {}))
        if tags <= TIFF_TAGS and getattr(image, "n_frames", 1) == 1:
            return data
        image.load()  # sets it upright
        plain = image.transpose(AS_STORED[orientation]) if orientation != 1 else image.copy()  # without its tags
        plain.info.clear()
        file = io.BytesIO()
        plain.save(file, format="TIFF", compression="tiff_deflate", tiffinfo={TIFF_ORIENTATION: orientation})
        return file.getvalue()


def _as_png(data: bytes) -> bytes:
    """Return a picture of any other format as PNG, in its own mode where PNG has it."""
    with opened(io.BytesIO(data)) as image:
        image.load()
        plain = image.copy()
        plain.info = {key: value for key, value in image.info.items() if key == "transparency"}
        file = io.BytesIO()
        plain.save(file, format="PNG", compress_level=2)
        return file.getvalue()
