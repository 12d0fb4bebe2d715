"""What puts a hostile file into a place."""

from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path, bytes], None]  # puts it at a path, where the valid bytes were


def writes(data: bytes | Callable[[bytes], bytes]) -> Maker:
    """Return what writes bytes, or what a function makes of the valid ones."""

    def make(path: Path, old: bytes) -> None:
        path.write_bytes(data if isinstance(data, bytes) else data(old))

    return make
