import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import fundus, imported, write_drishti
from PIL import Image

from diffaug.data.folder import check_dataset, read_dataset
from diffaug.errors import DataError

REAL = os.environ.get("DIFFAUG_DATA")


def test_disc_and_cup_come_in_with_glaucoma_and_seeded_splits(tmp_path: Path) -> None:
    source = write_drishti(tmp_path / "source")
    data, notices = imported("drishti-gs", source, tmp_path / "data")
    assert notices == []
    assert data == read_dataset(tmp_path / "data")
    assert data.class_names == ("disc", "cup")
    assert Counter(case.split for case in data.cases) == {"train": 14, "val": 2, "test": 4}
    case = data["drishtiGS_003"]
    disc, cup = case.read_masks()
    assert np.array_equal(case.read_label(), fundus(3)[1])
    assert cup.any() and not (cup & ~disc).any()
    assert np.array_equal(case.read_mask(), disc)
    assert [data[f"drishtiGS_{n:03}"].attributes for n in (2, 3)] == [{"glaucoma": 0.0}, {"glaucoma": 1.0}]
    again, _ = imported("drishti-gs", source, tmp_path / "again", seed=1)
    assert [case.split for case in again.cases] != [case.split for case in data.cases]


def undeclared(source: Path) -> None:
    Image.fromarray(np.full((96, 96), 3, np.uint8)).save(source / "masks/drishtiGS_003.png")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda s: (s / "labels.csv").unlink(), "labels.csv must be a CSV file"),
        (
            lambda s: (s / "labels.csv").write_text("id,label\ndrishtiGS_000,1\n"),
            "needs the columns id,glaucoma: glaucoma is",
        ),
        (lambda s: (s / "labels.csv").write_text("id,glaucoma\ndrishtiGS_000,yes\n"), "'yes' for case drishtiGS_000"),
        (lambda s: (s / "labels.csv").write_text("id,glaucoma\ndrishtiGS_000,1\n"), "lacks drishtiGS_001"),
        (lambda s: (s / "masks/drishtiGS_003.png").unlink(), "needs a mask of the same stem: case drishtiGS_003"),
        (lambda s: shutil.rmtree(s / "images"), "holds masks such as masks"),
        (undeclared, "has 3, nearest is 2"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    tmp_path: Path, spoil: Callable[[Path], object], part: str
) -> None:
    source = write_drishti(tmp_path / "source", 5)
    spoil(source)
    with pytest.raises(DataError, match=part) as error:
        imported("drishti-gs", source, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.skipif(REAL is None, reason="DIFFAUG_DATA names no folder of real images")
def test_real_crops_come_in_whole(tmp_path: Path) -> None:
    data, notices = imported("drishti-gs", Path(str(REAL)) / "drishti-gs", tmp_path / "data")
    assert notices == []
    assert Counter(case.split for case in data.cases) == {"train": 35, "val": 5, "test": 10}
    assert sum(case.attributes["glaucoma"] for case in data.cases) == 32
    assert check_dataset(data).notices == ()
    assert all(masks.any(axis=(1, 2)).all() for masks in (case.read_masks() for case in data.cases))
