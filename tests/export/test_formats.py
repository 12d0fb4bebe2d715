"""Each format as its own readers open it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from study_folders import row_of, with_files, write_set

from diffaug.artifacts import read_json, read_jsonl
from diffaug.data.case import LabelClass
from diffaug.data.folder import read_dataset
from diffaug.data.lesions import count_lesions
from diffaug.data.manifest import read_manifest
from diffaug.errors import DataError
from diffaug.export.export import export_set
from diffaug.export.files import numbers_of
from diffaug.export.nnunet import labels_of

DISC_AND_CUP = (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image)


# nnU-Net


def test_nnunet_gets_what_its_reader_and_its_check_ask_for(painted, odd, tmp_path):
    out = tmp_path / "Dataset101_Polyp"
    found = export_set(painted, out, "nnunet", odd)
    plan = read_json(out / "dataset.json")
    assert plan["channel_names"] == {"0": "R", "1": "G", "2": "B"} and plan["file_ending"] == ".png"
    assert plan["labels"] == {"background": 0, "lesion": 1} and "regions_class_order" not in plan
    images = sorted(path.name for path in (out / "imagesTr").iterdir())
    labels = sorted(path.name for path in (out / "labelsTr").iterdir())
    assert images == [name.replace(".png", "_0000.png") for name in labels] and len(images) == plan["numTraining"] == 13
    assert sorted(path.name for path in (out / "imagesTs").iterdir()) == ["test-1_0000.png", "test.0_0000.png"]
    for name in labels:
        image, label = drawn(out / "imagesTr" / name.replace(".png", "_0000.png")), drawn(out / "labelsTr" / name)
        assert image.shape == (*label.shape, 3) and set(np.unique(label)) <= {0, 1}
    assert any("nnUNet_preprocessed/Dataset101_Polyp" in notice for notice in found.notices)


def test_without_folds_nnunet_validates_on_val_and_with_folds_val_is_left_out(painted, odd, tmp_path):
    export_set(painted, tmp_path / "one", "nnunet", odd)
    (fold,) = read_json(tmp_path / "one" / "splits_final.json")
    assert fold["val"] == ["val-0", "val-1"] and len(fold["train"]) == 6 + 5
    found = export_set(painted, tmp_path / "three", "nnunet", odd, folds=3)
    assert not (tmp_path / "three" / "labelsTr" / "val-0.png").exists()
    assert read_json(tmp_path / "three" / "dataset.json")["numTraining"] == 11
    assert "cases of val are left out, since the folds validate on parts of train: 2" in found.notices


def test_nested_classes_become_regions_in_the_order_in_which_nnunet_draws_them(painted_eyes, eyes, tmp_path):
    export_set(painted_eyes, tmp_path / "out", "nnunet", eyes)
    text = (tmp_path / "out" / "dataset.json").read_text()
    plan = json.loads(text)
    assert list(plan["labels"].items()) == [("background", 0), ("disc", [1, 2]), ("cup", 2)]
    assert plan["regions_class_order"] == [1, 2]
    for case in read_dataset(eyes).annotated("train"):
        disc, cup = case.read_masks()
        restored = np.zeros(disc.shape, int)  # as nnU-Net turns regions into labels: later ones write over earlier ones
        for value, region in zip(plan["regions_class_order"], (disc, cup), strict=True):
            restored[region] = value
        assert np.array_equal(restored, drawn(tmp_path / "out" / "labelsTr" / f"{case.id}.png"))


@pytest.mark.parametrize(
    ("classes", "labels", "order"),
    [
        ([("lesion", (1, 7, 9))], {"lesion": 1}, None),
        ([("a", (4,)), ("b", (2,))], {"a": 2, "b": 1}, None),
        ([("cup", (2,)), ("disc", (1, 2))], {"disc": [1, 2], "cup": 2}, [1, 2]),
        ([("all", (1, 2, 3)), ("core", (2, 3)), ("in", (3,))], {"all": [1, 2, 3], "core": [2, 3], "in": 3}, [1, 2, 3]),
        ([("all", (1, 2)), ("left", (1,)), ("right", (2,))], {"all": [1, 2], "left": 1, "right": 2}, [1, 1, 2]),
    ],
)  # fmt: skip
def test_values_are_numbered_from_one_by_the_classes_that_share_them(classes, labels, order):
    found = labels_of(numbers_of([LabelClass(*each) for each in classes]))
    assert found["labels"] == {"background": 0, **labels} and list(found["labels"]) == ["background", *labels]
    assert found.get("regions_class_order") == order


def test_classes_that_nnunet_cannot_hold_are_refused_in_one_line():
    with pytest.raises(DataError, match="a and b share pixels, and neither holds the other; export them as coco"):
        labels_of(numbers_of([LabelClass("a", (1, 3)), LabelClass("b", (2, 3))]))
    with pytest.raises(DataError, match="called 'ignore'; rename it"):
        labels_of(numbers_of([LabelClass("ignore", (1,))]))


def test_one_group_of_real_cases_gives_no_folds_and_says_so(painted, odd, tmp_path):
    shutil.copytree(odd, tmp_path / "data")
    path = tmp_path / "data" / "cases.csv"
    lines = path.read_text().splitlines()
    kept = [
        lines[0],
        *(
            ",".join([*line.split(",")[:3], "all", *line.split(",")[4:]])
            for line in lines[1:]
            if "train" in line or "unann" in line
        ),
    ]
    path.write_text("\n".join(kept) + "\n")
    found = export_set(painted, tmp_path / "out", "nnunet", tmp_path / "data")
    assert not (tmp_path / "out" / "splits_final.json").exists()
    assert any("train with `nnUNetv2_train .. all`" in notice for notice in found.notices)


def test_pixels_without_a_label_are_ignored_by_nnunet_named_in_a_folder_and_left_out_elsewhere(
    partly_known, odd, tmp_path
):
    export_set(partly_known, tmp_path / "nnunet", "nnunet", odd, folds=3)
    assert read_json(tmp_path / "nnunet/dataset.json")["labels"] == {"background": 0, "lesion": 1, "ignore": 2}
    label = drawn(tmp_path / "nnunet/labelsTr/synth-00000.png")
    assert (label[10:20, 10:22] == 1).all() and (label[6:10, 6:28] == 0).all() and (label[:6] == 2).all()
    assert set(np.unique(drawn(tmp_path / "nnunet/labelsTr/synth-00002.png"))) == {0, 1}
    export_set(partly_known, tmp_path / "folder", "folder", odd)
    case = read_dataset(tmp_path / "folder")["synth-00001"]
    assert np.array_equal(case.read_known(), read_dataset(partly_known)["synth-00001"].read_known())
    for layout in ("coco", "yolo", "monai", "hf", "fiftyone"):
        found = export_set(partly_known, tmp_path / layout, layout, odd, folds=3)
        assert found.counts["train"] == "6 real and 1 synthetic" and any("known in part" in s for s in found.notices)
        kept = {name for fold in read_json(tmp_path / layout / "folds.json") for name in fold["train"]}
        assert "synth-00002" in kept and "synth-00000" not in kept


def test_a_set_of_labels_in_part_alone_is_refused_by_formats_that_cannot_hold_it(partly_known, odd, tmp_path):
    rows = [row for row in read_manifest(partly_known) if row.is_partly_known]
    shutil.copytree(partly_known, tmp_path / "set")
    write_set(tmp_path / "set", rows)
    with pytest.raises(DataError, match="all synthetic cases have labels in part; export them as nnunet or folder"):
        export_set(tmp_path / "set", tmp_path / "out", "coco", odd)
    assert not (tmp_path / "out").exists()


# MONAI


def test_monai_loads_each_list_with_paths_that_are_there(painted, odd, tmp_path):
    from monai.data import load_decathlon_datalist

    export_set(painted, tmp_path, "monai", odd, folds=3)
    sizes = {
        key: len(load_decathlon_datalist(tmp_path / "datalist.json", True, key))
        for key in ("training", "validation", "test")
    }
    assert sizes == {"training": 11, "validation": 2, "test": 2}
    folds = read_json(tmp_path / "folds.json")
    for index, fold in enumerate(folds):
        path = tmp_path / f"datalist_fold{index}.json"
        training = load_decathlon_datalist(path, True, "training")
        validation = load_decathlon_datalist(path, True, "validation")
        assert [case["id"] for case in training] == fold["train"] and [case["id"] for case in validation] == fold["val"]
        assert all(case["origin"] == "real" for case in validation)
        for case in (*training, *validation):
            assert drawn(case["image"]).shape == (*drawn(case["label"]).shape, 3)


@pytest.mark.filterwarnings("ignore:NvImgCodec")  # MONAI tries every reader that it has
def test_monai_reads_labels_whose_values_the_list_names(painted_eyes, eyes, tmp_path):
    from monai.data import load_decathlon_properties
    from monai.transforms import LoadImage

    export_set(painted_eyes, tmp_path, "monai", eyes)
    plan = load_decathlon_properties(tmp_path / "datalist.json", ["labels", "classes", "numTraining"])
    assert plan["labels"] == {"0": "background", "1": "disc", "2": "cup"} and plan["classes"] == {
        "disc": [1, 2],
        "cup": [2],
    }
    case = read_dataset(eyes).annotated("train")[0]
    label = LoadImage(reader="PILReader", image_only=True)(tmp_path / "labels" / f"{case.id}.png").numpy().T
    masks = [np.isin(label, values) for values in plan["classes"].values()]
    assert np.array_equal(masks, case.read_masks())


# COCO


def test_pycocotools_reads_one_annotation_a_lesion_and_together_they_are_the_mask(painted, odd, tmp_path):
    from pycocotools.coco import COCO

    export_set(painted, tmp_path, "coco", odd)
    cases = {case.id: case for case in (*read_dataset(odd), *read_dataset(painted))}
    seen = []
    for split in ("train", "val", "test"):
        coco = COCO(tmp_path / "annotations" / f"instances_{split}.json")
        for image in coco.loadImgs(coco.getImgIds()):
            path = tmp_path / "images" / split / image["file_name"]
            case = cases[path.stem]
            seen.append(case.id)
            assert drawn(path).shape == (image["height"], image["width"], 3)
            found = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert len(found) == count_lesions(case.read_mask())
            masks = [coco.annToMask(each) > 0 for each in found]
            assert np.array_equal(
                np.sum(masks, axis=0) if masks else np.zeros(case.read_mask().shape), case.read_mask()
            )
            for each, mask in zip(found, masks, strict=True):
                left, top, width, height = (int(side) for side in each["bbox"])
                assert each["area"] == mask.sum() == mask[top : top + height, left : left + width].sum()
                assert each["iscrowd"] == 0
    assert sorted(seen) == sorted(name for name, case in cases.items() if case.mask)


def test_classes_that_touch_or_hold_each_other_have_annotations_of_their_own(painted_eyes, eyes, tmp_path):
    from pycocotools.coco import COCO

    export_set(painted_eyes, tmp_path, "coco", eyes)
    coco = COCO(tmp_path / "annotations" / "instances_train.json")
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["disc", "cup"]
    for case in read_dataset(eyes).annotated("train"):
        (image,) = [each for each in coco.imgs.values() if each["file_name"].startswith(f"{case.id}.")]
        for number, mask in enumerate(case.read_masks(), start=1):
            found = coco.loadAnns(coco.getAnnIds(image["id"], catIds=[number]))
            assert len(found) == mask.any()
            assert all(np.array_equal(coco.annToMask(each) > 0, mask) for each in found)


# YOLO


def checked_label(path, classes):
    """Restate what ultralytics checks of a label file before it trains (`verify_image_label`)."""
    lines = [line.split() for line in path.read_text().splitlines() if line]
    for cells in lines:
        numbers = np.array([float(cell) for cell in cells[1:]])
        assert len(cells) > 6 and len(numbers) % 2 == 0, "a polygon has at least three corners, x and y of each"
        assert numbers.min() >= 0 and numbers.max() <= 1, "corners are shares of the frame"
        assert cells[0].isdecimal() and int(cells[0]) < classes
    assert len({tuple(line) for line in lines}) == len(lines), "no line stands twice"
    return lines


def test_yolo_labels_pass_the_rules_of_ultralytics(painted, odd, tmp_path):
    found = export_set(painted, tmp_path, "yolo", odd, folds=3)
    plan = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert plan == {"train": "images/train", "val": "images/val", "test": "images/test", "names": {0: "lesion"}}
    cases = {case.id: case for case in (*read_dataset(odd), *read_dataset(painted)) if case.mask}
    for name, case in cases.items():
        split = "train" if name.startswith("synth") else case.split
        lines = checked_label(tmp_path / "labels" / split / f"{name}.txt", 1)
        assert len(lines) == count_lesions(case.read_mask())
    assert "holes of lesions are drawn by cuts in their outlines, since a polygon has none: 1" in found.notices
    for index, fold in enumerate(read_json(tmp_path / "folds.json")):
        plan = yaml.safe_load((tmp_path / f"data_fold{index}.yaml").read_text())
        for side in ("train", "val"):
            places = (tmp_path / plan[side]).read_text().splitlines()
            assert all((tmp_path / place).is_file() for place in places)
            assert [place.rsplit("/", 1)[1].rsplit(".", 1)[0] for place in places] == fold[side]


def test_yolo_says_what_its_polygons_do_not_hold_and_that_nothing_is_validated_on(painted, tmp_path):
    folder = tmp_path / "set"
    for kind in ("image", "mask"):
        (folder / f"shards/00000/{kind}s").mkdir(parents=True)
    mask = np.zeros((200, 200), np.uint8)
    mask[20:60, 20:60] = 255
    mask[100, 100] = mask[150, 20] = 255
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "shards/00000/images/synth-00000.png")
    Image.fromarray(mask).save(folder / "shards/00000/masks/synth-00000.png")
    write_set(folder, [replace(with_files(folder, row_of(0, ("a",))), checks=())])
    found = export_set(folder, tmp_path / "out", "yolo")
    assert "specks of masks, too small for lesions, are left out: 2" in found.notices
    assert any("validates on val, and there is none" in notice for notice in found.notices)
    assert len((tmp_path / "out/labels/train/synth-00000.txt").read_text().splitlines()) == 1


# Hugging Face


def test_an_imagefolder_has_metadata_and_a_card_and_croissant_that_name_the_same_columns(painted, odd, tmp_path):
    export_set(painted, tmp_path, "hf", odd)
    for split, count in (("train", 11), ("validation", 2), ("test", 2)):
        rows = read_jsonl(tmp_path / split / "metadata.jsonl")
        assert len(rows) == count
        for row in rows:
            assert drawn(tmp_path / split / row["file_name"]).shape[2] == 3
            assert drawn(tmp_path / split / row["mask_file_name"]).max() <= 1
            assert row["negative"] == (drawn(tmp_path / split / row["mask_file_name"]).max() == 0)
    card = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["task_categories"] == ["image-segmentation"]
    croissant = read_json(tmp_path / "croissant.json")
    fields = {field["source"]["extract"]["column"] for field in croissant["recordSet"][0]["field"]}
    assert fields == set(rows[0]) and all(f"| `{name}` |" in card for name in fields)
    assert "| train | 6 real and 5 synthetic (2 of them negatives) |" in card


# FiftyOne


def test_fiftyone_samples_name_files_that_are_there_with_tags_boxes_and_masks(painted_eyes, eyes, tmp_path):
    export_set(painted_eyes, tmp_path, "fiftyone", eyes)
    metadata = read_json(tmp_path / "metadata.json")
    assert "version" not in metadata, "then the importer takes its JSON form"
    assert metadata["info"]["default_mask_targets"] == {"1": "disc", "2": "cup"}
    cases = {case.id: case for case in (*read_dataset(eyes), *read_dataset(painted_eyes))}
    samples = read_json(tmp_path / "samples.json")["samples"]
    kept = {row.id for row in read_manifest(painted_eyes)}
    assert {sample["case_id"] for sample in samples} == {name for name, case in cases.items() if case.mask}
    for sample in samples:
        case = cases[sample["case_id"]]
        label = drawn(tmp_path / sample["ground_truth"]["mask_path"])
        assert (tmp_path / sample["filepath"]).is_file() and np.array_equal(label, case.read_label())
        assert sample["tags"] == (["train", "synthetic"] if case.id in kept else [case.split, "real"])
        for each in sample["lesions"]["detections"]:
            left, top, width, height = np.array(each["bounding_box"]) * np.tile(label.shape[::-1], 2)
            inside = case.read_masks()[case.class_names.index(each["label"])]
            rows, columns = np.nonzero(inside)
            assert np.allclose(
                [left, top, width, height], [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            )
