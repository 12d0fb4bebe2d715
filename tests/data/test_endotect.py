import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import imported

from diffaug.data.sources.endotect import DEVELOPMENT, TEST
from diffaug.errors import DataError

Make = Callable[..., Path]


def test_the_segmented_images_alone_are_divided_by_the_seed(make_source: Make, tmp_path: Path) -> None:
    inside = make_source(20, f"hyper-kvasir/{DEVELOPMENT}", ".jpg")
    (inside / "bounding-boxes.json").write_text("{}")
    data, notices = imported("endotect", inside.parent, tmp_path / "a")
    assert Counter(case.split for case in data.cases) == {"train": 14, "val": 2, "test": 4}
    assert notices == ["20 masks are JPEG and were cut at 127"]
    assert imported("endotect", inside, tmp_path / "b")[0].cases[3].split == data.cases[3].split


def test_beside_the_test_set_the_segmented_images_are_train_and_val_alone(make_source: Make, tmp_path: Path) -> None:
    make_source(16, f"endotect/{DEVELOPMENT}", ".jpg")
    test = make_source(5, f"endotect/{TEST}", ".jpg", first=30)
    data, _ = imported("endotect", test.parent, tmp_path / "data")
    assert Counter(case.split for case in data.cases) == {"train": 14, "val": 2, "test": 5}
    assert all(case.id == f"test-{case.image.stem.removeprefix('test-')}" for case in data.split("test"))


@pytest.mark.parametrize("inner", [f"downloads/{TEST}", f"downloads/{TEST}/.."], ids=["itself", "above"])
def test_the_test_set_alone_is_a_test_set(make_source: Make, tmp_path: Path, inner: str) -> None:
    make_source(3, f"downloads/{TEST}", ".jpg")
    data, _ = imported("endotect", (tmp_path / inner).resolve(), tmp_path / "data")
    assert {case.split for case in data.cases} == {"test"}


def test_a_frame_of_both_sets_is_said(make_source: Make, tmp_path: Path) -> None:
    make_source(8, f"endotect/{DEVELOPMENT}", ".jpg")
    test = make_source(3, f"endotect/{TEST}", ".jpg", first=7)
    _, notices = imported("endotect", test.parent, tmp_path / "data")
    assert any("c7 and test-c7" in notice for notice in notices)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda source: shutil.rmtree(source / DEVELOPMENT), "holds no file"),
        (lambda source: shutil.rmtree(source / DEVELOPMENT / "masks"), "lacks one"),
        (lambda source: (source / DEVELOPMENT / "masks/c3.jpg").unlink(), "every image needs a mask"),
        (lambda source: (source / DEVELOPMENT / "images/c3.jpg").write_bytes(b"no image"), "must decode: case c3"),
        (shutil.rmtree, "must lie in a folder"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    make_source: Make, tmp_path: Path, spoil: Callable[[Path], object], part: str
) -> None:
    source = make_source(5, f"endotect/{DEVELOPMENT}", ".jpg").parent
    spoil(source)
    with pytest.raises(DataError, match=part) as error:
        imported("endotect", source, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()
