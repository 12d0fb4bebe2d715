"""Folders as people have them: every layout is a tiny tree, with exact masks, classes, groups and splits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import SIDE, imported, lesion, picture, put, refused
from PIL import Image

from diffaug.data.importing import import_dataset
from diffaug.data.sources.names import read_folder_name
from diffaug.errors import DataError


def area(seed: int, value: int = 255) -> np.ndarray:
    """Return a mask whose rectangle depends on the seed."""
    mask = np.zeros(SIDE, np.uint8)
    mask[4 + seed % 5 : 20, 6 : 16 + seed % 7] = value
    return mask


def pairs(source: Path, image: str, mask: str, count: int = 4, value: int = 255) -> Path:
    for index in range(count):
        put(source / image.format(index), picture(index))
        put(source / mask.format(index), area(index, value))
    return source


def one_line(source: Path, to: Path, layout: str = "folder", **options: object) -> str:
    return refused(layout, source, to, **options)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/c{}.png", "masks/c{}.png"),
        ("img/c{}.png", "labels/c{}.png"),
        ("Images/c{}.png", "Ground Truth/c{}.png"),
        ("original/c{}.png", "annotations/c{}_mask.png"),
        ("data/c{}.png", "GT/gt_c{}.png"),
        ("frames/c{}.png", "segmentations/c{}_seg.png"),
        ("c{}.png", "c{}_mask.png"),
        ("c{}.png", "c{}_seg.png"),
        ("c{}.png", "c{}_segmentation.png"),
        ("c{}.png", "c{}-label.png"),
        ("c{}.png", "mask_c{}.png"),
        ("images/c{}.png", "images/c{}_mask.png"),
        ("images/C{}.PNG", "masks/c{}.png"),
        ("images/c{}.webp", "masks/c{}.png"),
        ("images/c{}.jp2", "masks/c{}.png"),
        ("download/set/images/c{}.png", "download/set/masks/c{}.png"),
        ("ISIC-2017_Data/c{}.png", "ISIC-2017_Part1_GroundTruth/c{}_segmentation.png"),
        ("imgs/img_c{}.png", "masks/mask_c{}.png"),
        ("imgs/c{}_image.png", "masks/c{}_mask.png"),
        ("c{}.jpg", "c{}_mask.png"),
    ],
)
def test_names_pair_images_with_their_masks(tmp_path: Path, image: str, mask: str) -> None:
    data, _ = imported("folder", pairs(tmp_path / "source", image, mask), tmp_path / "data")
    assert len(data) == 4
    assert data.class_names == ("lesion",)
    for case in data:
        index = int("".join(filter(str.isdigit, case.id)))
        assert np.array_equal(case.read_mask(), area(index) > 0)
        if image.endswith("png"):
            assert np.array_equal(case.read_image(), picture(index))
        assert case.group == case.id


def test_a_lossless_webp_or_jp2_mask_keeps_its_values(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png", 3)
    for index, (suffix, how) in enumerate([("webp", {"lossless": True}), ("jp2", {}), ("jp2", {"irreversible": True})]):
        (source / f"masks/c{index}.png").unlink()
        put(source / f"masks/c{index}.{suffix}", area(index), **how)
    data, _ = imported("folder", source, tmp_path / "data")
    for index in range(2):
        assert np.array_equal(data[f"c{index}"].read_mask(), area(index) > 0)
    assert (data["c2"].read_mask() ^ (area(2) > 0)).mean() < 0.02


def test_split_folders_in_either_order_are_kept(tmp_path: Path) -> None:
    for number, (image, mask) in enumerate([("train/img", "train/gt"), ("images/val", "masks/val")]):
        put(tmp_path / "source" / image / f"a{number}.png", picture(number))
        put(tmp_path / "source" / mask / f"a{number}.png", area(number))
    put(tmp_path / "source/test_images/a9.png", picture(9))
    put(tmp_path / "source/test_masks/a9.png", area(9))
    data, _ = imported("folder", tmp_path / "source", tmp_path / "data")
    assert {case.id: case.split for case in data} == {"train-a0": "train", "val-a1": "val", "test-a9": "test"}


def test_a_folder_a_patient_is_a_group(tmp_path: Path) -> None:
    for patient in range(6):
        for number in range(3):
            folder = tmp_path / f"source/patient-{patient}"
            put(folder / f"{number}.png", picture(10 * patient + number))
            put(folder / f"{number}_mask.png", area(number))
    result = import_dataset("folder", tmp_path / "source", tmp_path / "data")
    data = result.dataset
    assert data["patient-2-1"].group == "patient-2"
    assert {case.group for case in data} == {f"patient-{patient}" for patient in range(6)}
    assert all(len({case.split for case in data if case.group == group}) == 1 for group in {c.group for c in data})
    assert "6 folders became groups, such as patient-0: each is kept in one split" in result.notices
    assert not any("a patient of its own" in line for line in result.advice)


@pytest.mark.parametrize("layout", ["folder", "busi"])
def test_images_whose_patients_nobody_names_are_told_and_the_remedy_works(tmp_path: Path, layout: str) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png", 6)
    (told, *_) = import_dataset(layout, source, tmp_path / "one").advice
    assert told.startswith("each of 6 images counts as a patient of its own, since no groups.csv says")
    rows = "".join(f"c{number},patient-{number // 2}\n" for number in range(6))
    (source / "groups.csv").write_text(f"id,group\n{rows}")
    result = import_dataset(layout, source, tmp_path / "other")
    assert not any("a patient of its own" in line for line in result.advice)
    assert {case.group for case in result.dataset} == {f"patient-{number}" for number in range(3)}


def test_grey_pixels_of_a_mask_are_cut_and_told(tmp_path: Path) -> None:
    source, levels = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png", 3), np.arange(10, 250, 20)
    soft = area(1).astype(np.uint8)
    rows, columns = np.nonzero(soft)
    soft[rows[: len(levels)], columns[: len(levels)]] = levels  # one pixel each, as soft edges have
    put(source / "masks/c1.png", soft)
    data, notices = imported("folder", source, tmp_path / "data")
    assert "1 mask has grey pixels and was cut at 127: what is lighter counts as lesion, such as c1" in notices
    assert np.array_equal(data["c1"].read_mask(), soft > 127)


def test_patients_that_share_a_frame_become_one_group_and_it_is_said(tmp_path: Path) -> None:
    for patient in range(6):
        for index in range(2):
            put(tmp_path / f"source/P{patient}/c{index}.png", picture(10 * patient + index))
            put(tmp_path / f"source/P{patient}/c{index}_mask.png", area(index))
    put(tmp_path / "source/P4/c0.png", picture(10))  # that of P1
    data, notices = imported("folder", tmp_path / "source", tmp_path / "data", split="100:0:0")
    assert len({case.group for case in data}) == 5
    assert any(
        "2 groups of the source, such as P1 and P4, hold frames that look alike and became 1" in line
        and "5 groups are left" in line
        for line in notices
    )


def test_a_patient_may_have_folders_of_its_own(tmp_path: Path) -> None:
    for patient in ("anna", "ben"):
        put(tmp_path / f"source/{patient}/images/x.png", picture(len(patient)))
        put(tmp_path / f"source/{patient}/masks/x.png", area(1))
    data, _ = imported("folder", tmp_path / "source", tmp_path / "data", split="100:0:0")
    assert {case.id: case.group for case in data} == {"anna-x": "anna", "ben-x": "ben"}


def test_folders_of_diagnoses_are_no_patients(tmp_path: Path) -> None:
    for kind in ("benign", "malignant"):
        for number in range(3):
            put(tmp_path / f"source/{kind}/{number}.png", picture(10 * len(kind) + number))
            put(tmp_path / f"source/{kind}/{number}_mask.png", area(number))
    data, _ = imported("folder", tmp_path / "source", tmp_path / "data")
    assert {case.group for case in data} == {case.id for case in data}
    assert "malignant-1" in {case.id for case in data}


@pytest.mark.parametrize("name", ["normal", "negatives", "Healthy", "lesion-free"])
def test_folders_of_lesion_free_images_are_negative_cases(tmp_path: Path, name: str) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png")
    put(source / name / "n0.png", picture(20))
    put(source / name / "images" / "n1.png", picture(21))
    result = import_dataset("folder", source, tmp_path / "data", split="100:0:0")
    negatives = [case for case in result.dataset if case.negative]
    assert [case.id for case in negatives] == ["n0", "n1"]
    assert all(case.read_mask().shape == SIDE and not case.read_mask().any() for case in negatives)
    assert result.counts() == "6 train; 2 of them lesion-free"


def test_lesion_free_images_beside_folders_of_splits_are_trained_on(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split in ("train", "val", "test"):
        put(source / split / "images/a.png", picture(len(split)))
        put(source / split / "masks/a.png", area(0))
    put(source / "normal/n.png", picture(33))
    data, _ = imported("folder", source, tmp_path / "data")
    assert (data["n"].split, data["n"].negative) == ("train", True)


def test_a_lesion_in_a_lesion_free_image_is_one_line_and_can_be_moved(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png")
    put(source / "normal/n.png", picture(9))
    put(source / "normal/n_mask.png", area(9))
    assert "is among the lesion-free images and its mask holds one" in one_line(source, tmp_path / "data")
    for name in ("n.png", "n_mask.png"):
        (source / "normal" / name).rename(source / name)
    assert len(imported("folder", source, tmp_path / "data")[0]) == 5


def test_empty_masks_are_asked_about_and_every_remedy_works(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png")
    put(source / "masks/c2.png", np.zeros(SIDE, np.uint8))
    said = one_line(source, tmp_path / "data")
    assert "case c2" in said
    for option in ("--empty-masks negative", "--empty-masks leave-out"):
        assert option in said
    data, _ = imported("folder", source, tmp_path / "negative", empty_masks="negative")
    assert [case.id for case in data if case.negative] == ["c2"]
    data, notices = imported("folder", source, tmp_path / "left", empty_masks="leave-out")
    assert [case.id for case in data] == ["c0", "c1", "c3"]
    assert "1 image was left out: its mask is empty" in notices


def test_missing_masks_are_asked_about_and_the_remedy_works_in_folders_of_patients(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for patient in range(4):
        for index in range(3):
            put(source / f"P{patient}/images/c{index}.png", picture(10 * patient + index))
            if index or patient == 3:
                put(source / f"P{patient}/masks/c{index}.png", area(index))
    said = one_line(source, tmp_path / "data", split="50:0:50")
    assert "case c0" in said
    assert "add --missing-masks unannotated" in said
    data, notices = imported("folder", source, tmp_path / "data", split="100:0:0", missing_masks="unannotated")
    assert [case.id for case in data.split("unannotated")] == [f"P{patient}-c0" for patient in range(3)]
    assert {case.group for case in data.split("unannotated")} == {"P0", "P1", "P2"}
    assert len(data.split("train")) == 9
    assert "3 images have no mask and became unannotated" in notices
    data, notices = imported("folder", source, tmp_path / "split", split="50:0:50", missing_masks="unannotated")
    held_out = {case.group for case in data.split("test")}
    assert {case.group for case in data.split("unannotated")} == {"P0", "P1", "P2"} - held_out
    assert any("from groups of val or test and were left out" in line or "was left out" in line for line in notices)


def test_missing_masks_of_test_images_and_of_other_layouts_are_refused(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "train/images/c{}.png", "train/masks/c{}.png")
    pairs(source, "test/images/c{}.png", "test/masks/c{}.png")
    (source / "test/masks/c1.png").unlink()
    said = one_line(source, tmp_path / "data", missing_masks="unannotated")
    assert "every image of test needs one" in said
    assert "--missing-masks" not in said
    (source / "train/masks/c2.png").unlink()
    (source / "unannotated/images").mkdir(parents=True)
    (source / "test/images/c1.png").rename(source / "unannotated/images/c1.png")
    data, _ = imported("folder", source, tmp_path / "data", missing_masks="unannotated")
    assert {case.id for case in data.split("unannotated")} <= {"train-c2", "unannotated-c1"}
    said = one_line(source, tmp_path / "other", "coco", missing_masks="unannotated")
    assert "the layout is coco" in said


def test_two_masks_for_one_image_are_ambiguous_and_every_remedy_works(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png")
    other = area(0) * 0
    other[30:36, 30:40] = 255
    put(source / "c1_seg.png", other)
    said = one_line(source, tmp_path / "data")
    assert "c1.png has c1_mask.png and c1_seg.png" in said
    assert "`busi`" in said
    united, _ = imported("busi", source, tmp_path / "united")
    assert np.array_equal(united["c1"].read_mask(), (area(1) > 0) | (other > 0))
    (source / "c1_seg.png").unlink()
    assert np.array_equal(imported("folder", source, tmp_path / "data")[0]["c1"].read_mask(), area(1) > 0)


def test_a_folder_that_is_not_understood_says_what_was_seen(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "c{:02}.png", "c{:02}_mask.png")
    said = one_line(source, tmp_path / "data", "cvc-clinicdb")
    assert "c00_mask.png beside c00.png; import it as `folder`" in said
    assert len(imported("folder", source, tmp_path / "data")[0]) == 4
    for path in source.glob("*_mask.png"):
        path.unlink()
    said = one_line(source, tmp_path / "other")
    assert "every image needs a mask of the same stem: case c00" in said
    for remedy in ("masks/c00.png", "c00_mask.png", "unannotated/images", "normal/"):
        assert remedy in said
    (tmp_path / "empty").mkdir()
    assert "holds no file" in one_line(tmp_path / "empty", tmp_path / "other")


@pytest.mark.parametrize("place", ["masks/c00.png", "c00_mask.png", "unannotated/images", "normal"])
def test_every_remedy_for_a_missing_mask_works(tmp_path: Path, place: str) -> None:
    source = pairs(tmp_path / "source", "c{:02}.png", "c{:02}_mask.png")
    (source / "c00_mask.png").unlink()
    assert "case c00" in one_line(source, tmp_path / "data")
    if place.endswith(".png"):
        if place.startswith("masks"):
            for path in source.glob("*_mask.png"):
                put(source / "masks" / path.name.replace("_mask", ""), np.asarray(Image.open(path)))
                path.unlink()
        put(source / place, area(0))
    else:
        (source / place).mkdir(parents=True)
        (source / "c00.png").rename(source / place / "c00.png")
    assert len(imported("folder", source, tmp_path / "data")[0]) == 4


def labels(source: Path, values: tuple[int, ...] = (1, 2)) -> Path:
    for index in range(4):
        label = area(index, values[0])
        label[8:12, 8:12] = values[1]
        put(source / f"images/c{index}.png", picture(index))
        put(source / f"masks/c{index}.png", label)
    return source


def test_several_values_are_a_question_and_every_remedy_works(tmp_path: Path) -> None:
    source = labels(tmp_path / "source")
    said = one_line(source, tmp_path / "data")
    assert "case c0" in said and "holds 1 and 2" in said
    for remedy in (
        "--classes first=1 second=2",
        'classes.json in the source, {"first": [1], "second": [2]}',
        "--classes lesion=1-2",
    ):
        assert remedy in said
    data, _ = imported("folder", source, tmp_path / "a", classes=("first=1", "second=2"))
    assert [(each.name, each.values) for each in data.classes] == [("first", (1,)), ("second", (2,))]
    (source / "classes.json").write_text('{"first": [1], "second": [2]}')
    again, _ = imported("folder", source, tmp_path / "b")
    assert again.classes == data.classes
    for case in again:
        assert np.array_equal(case.read_label(), np.asarray(Image.open(source / "masks" / f"{case.id}.png")))
    one, _ = imported("folder", source, tmp_path / "c", classes=("lesion=1-2",))
    assert one.class_names == ("lesion",)
    assert np.array_equal(one["c1"].read_mask(), one["c1"].read_masks()[0])
    assert one["c1"].read_mask().sum() == (np.asarray(Image.open(source / "masks/c1.png")) > 0).sum()


def test_nested_classes_share_values(tmp_path: Path) -> None:
    source = labels(tmp_path / "source")
    data, _ = imported("folder", source, tmp_path / "data", classes=("disc=1,2", "cup=2"))
    disc, cup = data["c3"].read_masks()
    label = np.asarray(Image.open(source / "masks/c3.png"))
    assert np.array_equal(disc, label > 0)
    assert np.array_equal(cup, label == 2)
    assert (data.folder / "masks/c3.png").read_bytes() == (source / "masks/c3.png").read_bytes()


@pytest.mark.parametrize("values", [(85, 170), (128, 255), (1, 255), (300, 7000)])
def test_levels_that_fill_areas_are_asked_about_too(tmp_path: Path, values: tuple[int, int]) -> None:
    source = tmp_path / "source"
    for index in range(3):
        label = np.zeros(SIDE, np.uint16 if max(values) > 255 else np.uint8)
        label[5:20, 5:20], label[22:32, 22:32] = values
        put(source / f"images/c{index}.png", picture(index))
        put(source / f"masks/c{index}.png", label)
    said = one_line(source, tmp_path / "data")
    assert f"holds {values[0]} and {values[1]}" in said
    data, _ = imported("folder", source, tmp_path / "data", classes=(f"a={values[0]}", f"b={values[1]}"))
    masks = data["c1"].read_masks()
    assert [int(mask.sum()) for mask in masks] == [225, 100]


def test_one_value_a_mask_but_two_in_all_is_a_question(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png", value=1)
    put(source / "masks/c3.png", area(3, 2))
    assert "case c0 holds 1 and case c3 holds 2" in one_line(source, tmp_path / "data")


def test_soft_edges_are_no_classes(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png")
    for index in range(4):
        mask = np.zeros(SIDE, np.uint8)
        mask[10:30, 10:30] = 255
        mask[10, 10:30] = mask[29, 10:30] = (60, 90, 128, 200)[index]
        put(source / f"masks/c{index}.png", mask)
    assert imported("folder", source, tmp_path / "data")[0].class_names == ("lesion",)


def test_noise_of_a_lossy_copy_is_no_class(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png")
    mask = np.zeros(SIDE, np.uint8)
    mask[5:20, 5:20], mask[22:36, 22:36] = 255, 11  # as in frame 215 of CVC-ClinicDB
    mask[24:30:2, 24:30:3], mask[23:33:3, 25:30:2] = 12, 10
    put(source / "masks/c1.png", mask)
    data, _ = imported("folder", source, tmp_path / "data")
    assert data.class_names == ("lesion",)
    assert np.array_equal(data["c1"].read_mask(), mask == 255)


def test_areas_of_several_colours_are_one_line_and_the_remedy_works(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png")
    label = area(1, 1)
    label[8:14, 8:14] = 2
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[label]
    put(source / "masks/c1.png", colours)
    said = one_line(source, tmp_path / "data")
    assert "case c1" in said and "#00ff00, #ff0000" in said and "--classes" in said
    for path in sorted((source / "masks").iterdir()):
        put(path, area(0, 1))
    put(source / "masks/c1.png", label)
    data, _ = imported("folder", source, tmp_path / "data", classes=("a=1", "b=2"))
    assert np.array_equal(data["c1"].read_label(), label)


def test_a_value_of_no_class_is_one_line_and_the_remedies_work(tmp_path: Path) -> None:
    source = labels(tmp_path / "source")
    label = area(2, 1)
    label[30:36, 30:36] = 9
    put(source / "masks/c2.png", label)
    said = one_line(source, tmp_path / "data", classes=("a=1", "b=2"))
    assert "case c2" in said and "has 9, nearest is 2" in said and "background=9" in said
    data, _ = imported("folder", source, tmp_path / "b", classes=("a=1", "b=2", "background=9"))
    assert np.array_equal(data["c2"].read_label(), np.where(label == 9, 0, label))
    data, _ = imported("folder", source, tmp_path / "c", classes=("a=1", "b=2", "other=9"))
    assert data.class_names == ("a", "b", "other")


def test_a_named_single_class_takes_masks_of_255_and_jpeg(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.png", "masks/c{}.png")
    (source / "masks/c0.png").unlink()
    put(source / "masks/c0.jpg", area(0), quality=95)
    data, _ = imported("folder", source, tmp_path / "data", classes=("polyp=255",))
    assert data.class_names == ("polyp",)
    for case in data:
        assert np.array_equal(case.read_mask(), area(int(case.id[1:])) > 0)


@pytest.mark.parametrize(
    ("classes", "rule"),
    [(("disc",), "'disc'"), (("disc=",), "'disc='"), (("disc=0",), "'disc=0'"), (("=1",), "'=1'"),
     (("a=1", "a=2"), "stands twice"), (("a=3-1",), "'a=3-1'"), (("background=0",), "at least one class"),
     (("a=1", "background=1"), "declared as both")],
)  # fmt: skip
def test_malformed_classes_are_one_line(tmp_path: Path, classes: tuple[str, ...], rule: str) -> None:
    assert rule in one_line(labels(tmp_path / "source"), tmp_path / "data", classes=classes)


@pytest.mark.parametrize(
    ("split", "sizes"),
    [("70:10:20", (7, 1, 2)), ("100:0:0", (10, 0, 0)), ("50:0:50", (5, 0, 5)), ("0.5:0.25:0.25", (5, 3, 2))],
)
def test_the_split_is_the_users(tmp_path: Path, split: str, sizes: tuple[int, ...]) -> None:
    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png", 10)
    result = import_dataset("folder", source, tmp_path / "data", split=split)
    assert sorted(len(result.dataset.split(name)) for name in ("train", "val", "test")) == sorted(sizes)
    assert len(result.dataset.split("train")) == sizes[0]
    assert f"{sizes[0]} train" in result.counts()


@pytest.mark.parametrize("split", ["70:30", "a:b:c", "0:50:50", "-1:1:1", "nan:1:1", "70:10:20:0"])
def test_a_malformed_split_is_one_line(tmp_path: Path, split: str) -> None:
    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png")
    assert "such as 70:10:20 or 100:0:0" in one_line(source, tmp_path / "data", split=split)


def test_a_split_of_a_source_with_splits_is_refused_and_the_remedies_work(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "train/c{}.png", "train/c{}_mask.png")
    assert "has train already; leave the option out" in one_line(source, tmp_path / "data", split="100:0:0")
    assert len(imported("folder", source, tmp_path / "data")[0]) == 4
    for path in (source / "train").iterdir():
        path.rename(source / path.name)
    assert len(imported("folder", source, tmp_path / "b", split="100:0:0")[0].split("train")) == 4


def deep(source: Path) -> Path:
    for index in range(3):
        values = (picture(index)[:, :, 0].astype(np.uint16) * 20 + 1000).astype(np.uint16)
        put(source / f"images/c{index}.png", values)
        put(source / f"masks/c{index}.png", area(index))
    return source


def test_sixteen_bits_are_scaled_by_percentiles_and_said(tmp_path: Path) -> None:
    source = deep(tmp_path / "source")
    data, notices = imported("folder", source, tmp_path / "data")
    stored = np.asarray(Image.open(source / "images/c1.png")).astype(float)
    low, high = np.percentile(stored, (0.5, 99.5))
    expected = np.clip(np.rint((stored - low) * 255 / (high - low)), 0, 255)
    assert np.array_equal(data["c1"].read_image()[:, :, 0], expected)
    assert any("from its 0.5th to its 99.5th percentile; --window CENTRE,WIDTH sets" in notice for notice in notices)


def test_a_declared_window_scales_all_images_alike(tmp_path: Path) -> None:
    source = deep(tmp_path / "source")
    data, notices = imported("folder", source, tmp_path / "data", window=(3000, 4000))
    stored = np.asarray(Image.open(source / "images/c1.png")).astype(float)
    assert np.array_equal(data["c1"].read_image()[:, :, 0], np.clip(np.rint((stored - 1000) * 255 / 4000), 0, 255))
    assert "3 images of more than 8 bits were cut to the window 3000,4000 and scaled to 8" in notices


def test_a_window_without_deep_images_is_refused(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png")
    assert "the source has none; leave it out" in one_line(source, tmp_path / "data", window=(40.0, 400.0))


def test_busi_is_read_as_published(tmp_path: Path) -> None:
    base = tmp_path / "source/Dataset_BUSI_with_GT"
    for kind, count in (("benign", 3), ("malignant", 2), ("normal", 2)):
        for number in range(1, count + 1):
            put(base / kind / f"{kind} ({number}).png", picture(len(kind) * 10 + number))
            mask = area(number) if kind != "normal" else np.zeros(SIDE, np.uint8)
            put(base / kind / f"{kind} ({number})_mask.png", mask)
    second = np.zeros(SIDE, np.uint8)
    second[30:38, 30:40] = 255
    put(base / "benign/benign (2)_mask_1.png", second)
    data, notices = imported("busi", tmp_path / "source", tmp_path / "data", split="100:0:0")
    assert len(data) == 7
    assert np.array_equal(data["benign (2)"].read_mask(), (area(2) > 0) | (second > 0))
    assert np.array_equal(data["malignant (1)"].read_mask(), area(1) > 0)
    assert sorted(case.id for case in data if case.negative) == ["normal (1)", "normal (2)"]
    assert any("several masks" in notice for notice in notices)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in base.rglob("*.png"):
        shutil.copy(path, flat / path.name)
    again, _ = imported("busi", flat, tmp_path / "again", split="100:0:0")
    assert {case.id: case.negative for case in again} == {case.id: case.negative for case in data}
    for path in flat.glob("normal*_mask.png"):
        path.unlink()
    assert sum(case.negative for case in imported("busi", flat, tmp_path / "c", split="100:0:0")[0]) == 2
    for path in flat.glob("benign (1)_mask*"):
        path.unlink()
    left, _ = imported("busi", flat, tmp_path / "d", split="100:0:0", missing_masks="unannotated")
    assert [case.id for case in left.split("unannotated")] == ["benign (1)"]
    assert sum(case.negative for case in left) == 2  # normal images need no mask, and are known to hold no lesion


def test_a_stack_is_one_line_and_the_remedies_work(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "images/c{}.tif", "masks/c{}.png")
    pages = [Image.fromarray(picture(index)) for index in range(3)]
    pages[0].save(source / "images/c1.tif", save_all=True, append_images=pages[1:])
    assert "holds 3; save each" in one_line(source, tmp_path / "data")
    pages[0].save(source / "images/c1.tif", save_all=True, append_images=[pages[1].resize((6, 5))])
    assert len(imported("folder", source, tmp_path / "preview")[0]) == 4
    pages[0].save(source / "images/c1.tif")
    assert len(imported("folder", source, tmp_path / "data")[0]) == 4


def test_masks_of_unequal_size_are_not_united(tmp_path: Path) -> None:
    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png")
    put(source / "c1_mask_1.png", lesion(20, 48))
    assert "masks of one image have one size: case c1" in one_line(source, tmp_path / "data", "busi")


@pytest.mark.parametrize(
    ("name", "kind", "split", "patient"),
    [
        ("images", "image", "", False),
        ("Ground Truth", "mask", "", False),
        ("groundtruth", "mask", "", False),
        ("labelsTr", "mask", "train", False),
        ("validation_set", "", "val", False),
        ("SegmentationClass", "mask", "", False),
        ("test patient 1", "", "", True),
        ("scan_012", "", "", True),
        ("P0042", "", "", True),
        ("No Lesion", "", "", False),
        ("benign", "", "", False),
    ],
)
def test_names_of_folders_say_what_they_hold(name: str, kind: str, split: str, patient: bool) -> None:
    found = read_folder_name(name)
    assert (found.kind, found.split, found.patient) == (kind, split, patient)


def test_the_same_import_again_changes_nothing(tmp_path: Path) -> None:
    source = deep(tmp_path / "source")
    imported("folder", source, tmp_path / "data")
    assert len(imported("folder", source, tmp_path / "data")[0]) == 3


def test_classes_are_written_where_data_sets_keep_them(tmp_path: Path) -> None:
    data, _ = imported("folder", labels(tmp_path / "s"), tmp_path / "d", classes=("a=1", "b=2"))
    assert json.loads((data.folder / "classes.json").read_text()) == {"a": [1], "b": [2]}


def test_too_few_cases_to_fit_says_how_many_are_held_out_and_the_remedy_works(tmp_path: Path) -> None:
    from diffaug.config import FitConfig
    from diffaug.training.fit import check_count, fit

    source = pairs(tmp_path / "source", "c{}.png", "c{}_mask.png", 7)
    imported("folder", source, tmp_path / "data")
    with pytest.raises(DataError) as error:
        fit(tmp_path / "data", tmp_path / "model", FitConfig(), base=None)
    assert "has 5, and 1 in val and 1 in test that are never trained on" in str(error.value)
    assert "--split 100:0:0" in str(error.value)
    data, _ = imported("folder", source, tmp_path / "all", split="100:0:0")
    check_count(len(data.split("train")), data.folder)
