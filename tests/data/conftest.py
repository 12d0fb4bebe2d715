"""Small real data sets on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import write_pair


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `count` pairs as SOURCE/images and SOURCE/masks."""

    def make(count: int = 10, name: str = "source", suffix: str = ".png", first: int = 0) -> Path:
        for index in range(first, first + count):
            write_pair(tmp_path / name, f"c{index}", index, suffix)
        return tmp_path / name

    return make
