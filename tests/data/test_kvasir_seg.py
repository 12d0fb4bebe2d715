import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import imported
from PIL import Image

REAL = os.environ.get("DIFFAUG_DATA")
needs_images = pytest.mark.skipif(REAL is None, reason="DIFFAUG_DATA names no folder of real images")


def test_the_published_layout_is_read_from_the_archive_or_the_folder_above(
    make_source: Callable[..., Path], tmp_path: Path
) -> None:
    published = make_source(10, "unpacked/Kvasir-SEG", ".jpg")
    (published / "kavsir_bboxes.json").write_text("{}")
    inside, _ = imported("kvasir-seg", published, tmp_path / "a")
    above, notices = imported("kvasir-seg", tmp_path / "unpacked", tmp_path / "b")
    assert [(c.id, c.split) for c in inside.cases] == [(c.id, c.split) for c in above.cases]
    assert notices == ["10 masks are JPEG and were cut at 127"]


def test_the_small_layout_keeps_its_splits(make_source: Callable[..., Path], tmp_path: Path) -> None:
    for first, split in enumerate(("train", "val", "test")):
        make_source(3, f"source/{split}", ".jpg", first=10 * first)
    data, _ = imported("kvasir-seg", tmp_path / "source", tmp_path / "data")
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [3, 3, 3]


@pytest.mark.slow  # test_duplicates.py finds repeated frames, and the test below reads real images, by default
@needs_images
def test_real_images_come_in_whole_and_the_repeated_frames_are_found(tmp_path: Path) -> None:
    data, _ = imported("kvasir-seg", Path(str(REAL)) / "kvasir-seg", tmp_path / "data")
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [600, 100, 200]
    assert data["train-593"].group == data["train-510"].group
    assert data["train-620"].group == data["train-459"].group
    assert len({case.group for case in data.split("train")}) == 589  # 11 frames twice, 8 of them cut or scaled


@needs_images
def test_real_masks_of_the_published_size_are_cut_at_127(tmp_path: Path) -> None:
    data, _ = imported("kvasir-seg", Path(str(REAL)) / "kvasir-seg-original", tmp_path / "data")
    assert len(data.cases) == 150
    for case in data.cases[::30]:
        assert case.mask is not None
        grey = np.asarray(Image.open(case.mask).convert("L"))
        assert (case.read_mask() == (grey > 127)).mean() > 0.9999
        assert case.read_image().shape[:2] == case.read_mask().shape
