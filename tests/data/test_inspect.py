import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import imported, write_eyes
from PIL import Image, ImageFont

from diffaug.data.folder import Dataset, read_dataset, write_cases
from diffaug.data.inspect import inspect_dataset
from diffaug.data.phantom import make_phantoms
from diffaug.data.pictures import FONT, OUTLINE, OUTLINES, fitting, outlined
from diffaug.data.sheet import drawn_cases
from diffaug.errors import ConfigError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "data", 10, 3, 4, 3, size=64)


def test_the_table_counts_every_case_once(data: Dataset) -> None:
    found = inspect_dataset(data)
    assert {summary.split: summary.cases for summary in found.splits} == {
        "train": 10,
        "val": 3,
        "test": 4,
        "unannotated": 3,
    }
    assert found.sizes == (((64, 64), 20),)
    assert found.within == found.across == found.divided == ()
    assert found.sheet is None


def test_areas_and_lesions_are_those_of_the_masks(data: Dataset) -> None:
    train = inspect_dataset(data).splits[0]
    areas = np.array([case.read_mask().mean() for case in data.split("train")])
    assert train.areas == pytest.approx(sorted(areas))
    assert train.small == pytest.approx((areas < 0.05).mean())
    assert train.large == pytest.approx((areas > 0.15).mean())
    assert len(areas) <= train.lesions <= 2 * len(areas)


def test_lesion_free_images_are_counted_apart(data: Dataset, tmp_path: Path) -> None:
    folder = shutil.copytree(data.folder, tmp_path / "data")
    before = inspect_dataset(data).splits[0]
    empty = {case.id for case in data.split("train")[:4]}
    for name in empty:
        Image.new("L", (64, 64)).save(folder / "masks" / f"{name}.png")
    free = {"negative": 1.0}
    cases = read_dataset(folder)
    write_cases(folder, [replace(case, attributes=free) if case.id in empty else case for case in cases])
    found = inspect_dataset(read_dataset(folder)).splits[0]
    assert (found.cases, found.lesion_free, len(found.areas)) == (10, 4, 6) and before.lesion_free == 0
    assert min(found.areas) > 0 and found.cells()[1] == "10 (4 lesion-free)" and before.cells()[1] == "10"
    assert found.cells()[-1] == f"{found.lesions / 6:.2f}" and found.lesions >= 6


def test_declared_classes_are_named(data: Dataset, tmp_path: Path) -> None:
    assert "classes" not in inspect_dataset(data).text()
    copy = shutil.copytree(data.folder, tmp_path / "copy")
    (copy / "classes.json").write_text('{"disc": [255], "cup": [255]}')
    assert "classes: disc, cup;" in inspect_dataset(read_dataset(copy)).text()


def test_repeated_frames_and_divided_groups_are_said(data: Dataset, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    cases = []
    for name, split, old in (("a", "train", 0), ("b", "train", 0), ("c", "test", 0), ("d", "test", 1)):
        case = data[f"train-{old}"]
        assert case.mask is not None
        image, mask = tmp_path / "images" / f"{name}.png", tmp_path / "masks" / f"{name}.png"
        image.write_bytes(case.image.read_bytes())
        mask.write_bytes(case.mask.read_bytes())
        cases.append(replace(case, id=name, image=image, mask=mask, split=split, group="p1"))
    write_cases(tmp_path, cases)
    found = inspect_dataset(read_dataset(tmp_path))
    assert found.within == (("a", "b"),)
    assert found.across == (("a", "c"), ("b", "c"))
    assert found.divided == ("p1",)
    assert "a = b" in found.text()
    assert "p1" in found.text()


def test_the_sheet_is_a_picture_with_outlines_and_the_same_each_time(data: Dataset, tmp_path: Path) -> None:
    first = inspect_dataset(data, tmp_path / "one").sheet
    second = inspect_dataset(data, tmp_path / "two" / "sheet.png").sheet
    assert first is not None
    assert second == tmp_path / "two" / "sheet.png"
    assert first.read_bytes() == second.read_bytes()
    pixels = np.asarray(Image.open(first).convert("RGB"))
    assert (pixels == OUTLINE).all(axis=2).sum() > 1000
    assert str(first) in inspect_dataset(data, tmp_path / "one").text()


def test_an_outline_lies_around_the_mask_and_nowhere_else() -> None:
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    changed = (outlined(np.zeros((9, 9, 3), np.uint8), mask) == OUTLINE).all(axis=2)
    assert changed.sum() == 12
    assert not (changed & mask).any()


def test_each_class_is_outlined_in_its_colour_and_shown(tmp_path: Path) -> None:
    eyes = imported("folder", write_eyes(tmp_path / "eyes"), tmp_path / "data")[0]
    sheet = inspect_dataset(eyes, tmp_path / "sheet.png").sheet
    assert sheet is not None
    for pixels in (np.asarray(Image.open(sheet)), np.asarray(eyes[0].show())):
        assert all((pixels == colour).all(axis=2).sum() > 50 for colour in OUTLINES[: len(eyes.classes)])


def test_a_picture_of_a_case_is_its_image_where_no_mask_is(data: Dataset) -> None:
    case = data.split("unannotated")[0]
    assert np.array_equal(np.asarray(case.show()), case.read_image())
    assert data[0].show(side=32).size == (32, 32)
    assert data[0].show()._repr_png_()


@pytest.mark.parametrize("text", ["a", "train-0", "Patient_2024-03-17_" * 9, "画像" * 60])
def test_a_text_is_shortened_to_its_width_and_keeps_both_ends(text: str) -> None:
    shown = fitting(text, 180)
    assert ImageFont.load_default(FONT).getlength(shown) <= 180
    assert shown == text or (shown[:6] == text[:6] and shown[-6:] == text[-6:])


def test_every_split_is_on_the_sheet(data: Dataset) -> None:
    many = [replace(data[0], id=f"t{number}") for number in range(500)]
    shown = drawn_cases([*many, *data.split("val"), *data.split("test"), *data.split("unannotated")])
    assert {case.split for case in shown} == {"train", "val", "test", "unannotated"} and len(shown) == 48


def test_a_sheet_that_cannot_be_written_is_one_line(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ConfigError, match="choose another folder"):
        inspect_dataset(data, tmp_path / "file" / "sheets")


def test_sizes_are_sorted_by_count(make_source: Callable[..., Path], tmp_path: Path) -> None:

    source = make_source(4)
    Image.open(source / "images/c0.png").resize((20, 30)).save(source / "images/c0.png")
    Image.fromarray(np.full((30, 20), 255, np.uint8)).save(source / "masks/c0.png")
    found = inspect_dataset(imported("folder", source, tmp_path / "data")[0])
    assert found.sizes == (((48, 40), 3), ((20, 30), 1))
    assert "48 x 40 (3), 20 x 30 (1)" in found.text()
