"""Pictures of cases as bytes for a browser: thumbnails and whole frames, made when they are asked for.

What was made is kept in memory up to a bound, the least used first to go. Nothing is written to the disk.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock, Semaphore

from PIL import Image

from diffaug.data.case import Case, check_mask_size
from diffaug.data.pictures import picture_of

THUMBNAIL = 176  # px; longer side
BOUND = 64 * 2**20  # bytes that are kept
AT_ONCE = 2  # pictures that are decoded at the same time: a large one takes hundreds of MB


class Cache:
    """Bytes by key, which may be asked for from several threads."""

    def __init__(self, bound: int = BOUND) -> None:
        self.bound = bound
        self.size = 0  # bytes that are kept
        self._kept: OrderedDict[object, bytes] = OrderedDict()
        self._lock = Lock()
        self._making = Semaphore(AT_ONCE)

    def get(self, key: object, make: Callable[[], bytes]) -> bytes:
        """Return what is kept under a key; it is made where nothing is."""
        if (found := self._look(key)) is not None:
            return found
        with self._making:
            if (found := self._look(key)) is not None:  # another thread made it meanwhile
                return found
            made = make()
        with self._lock:
            self._kept[key] = made
            self.size += len(made)
            while self.size > self.bound and len(self._kept) > 1:
                self.size -= len(self._kept.popitem(last=False)[1])
        return made

    def _look(self, key: object) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)


def thumbnail(case: Case, outline: bool) -> bytes:
    """Return a small picture of a case as JPEG.

    Raises:
        DataError: A file of the case cannot be read.
    """
    return _encoded(_drawn(case, outline, THUMBNAIL), "JPEG", quality=82)


def frame(case: Case, outline: bool) -> bytes:
    """Return a case at its own size as PNG, without anything that its file says beside the pixels.

    Raises:
        DataError: A file of the case cannot be read.
    """
    return _encoded(_drawn(case, outline, None), "PNG", compress_level=1)


def _drawn(case: Case, outline: bool, side: int | None) -> Image.Image:
    pixels = case.read_image()
    masks = case.read_masks() if outline and case.mask is not None else None
    if masks is not None:
        check_mask_size(case, masks.shape[1:], pixels.shape[:2])
    return picture_of(pixels, masks, side or max(pixels.shape[:2]))


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
