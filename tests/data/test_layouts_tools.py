"""What tools for training and annotation write, as tiny trees: nnU-Net, COCO, YOLO, CSV, Hugging Face imagefolder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import SIDE, box, imported, picture, put, refused


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def write_nnunet(source: Path, labels: dict[str, Any], count: int = 4, channels: int = 1) -> Path:
    plan = {"channel_names": {str(n): f"c{n}" for n in range(channels)}, "labels": labels, "file_ending": ".png"}
    write(source / "dataset.json", plan)
    for index in range(count):
        for channel in range(channels):
            pixels = picture(index) if channels == 1 else picture(index)[:, :, channel % 3]
            put(source / f"imagesTr/c_{index}_{channel:04}.png", pixels)
        put(source / f"labelsTr/c_{index}.png", np.maximum(box(4, 4, 20, 20), box(8, 8, 12, 12 + index, 2)))
    return source


def test_nnunet_is_read_with_its_regions(tmp_path: Path) -> None:
    source = write_nnunet(tmp_path / "Dataset001_Eyes", {"background": 0, "disc": [1, 2], "cup": [2]})
    put(source / "imagesTs/t_0_0000.png", picture(20))
    put(source / "labelsTs/t_0.png", box(3, 3, 9, 9))
    put(source / "imagesTs/t_1_0000.png", picture(21))
    data, notices = imported("nnunet", source, tmp_path / "data")
    assert [(each.name, each.values) for each in data.classes] == [("disc", (1, 2)), ("cup", (2,))]
    assert {case.id for case in data} == {"c_0", "c_1", "c_2", "c_3", "test-t_0"}
    assert data["test-t_0"].split == "test"
    assert np.array_equal(data["c_3"].read_image(), picture(3))
    assert np.array_equal(data["c_3"].read_masks()[1], box(8, 8, 12, 15) > 0)
    assert "1 image of imagesTs is without labels and was left out" in notices
    again, _ = imported("nnunet", source.parent, tmp_path / "again")
    assert again.class_names == data.class_names


def test_nnunet_of_version_1_maps_values_to_names(tmp_path: Path) -> None:
    source = write_nnunet(tmp_path / "source", {"0": "background", "1": "organ", "2": "tumour"})
    data, _ = imported("nnunet", source, tmp_path / "data")
    assert [(each.name, each.values) for each in data.classes] == [("organ", (1,)), ("tumour", (2,))]


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_of_nnunet_become_colours(tmp_path: Path, channels: int) -> None:
    source = write_nnunet(tmp_path / "source", {"background": 0, "a": 1, "b": 2}, channels=channels)
    data, _ = imported("nnunet", source, tmp_path / "data")
    expected = picture(2).copy()
    expected[:, :, channels:] = 0
    assert np.array_equal(data["c_2"].read_image(), expected)


def test_more_than_three_channels_are_a_question_and_the_remedies_work(tmp_path: Path) -> None:
    source = write_nnunet(tmp_path / "source", {"background": 0, "a": 1, "b": 2}, channels=4)
    said = refused("nnunet", source, tmp_path / "data")
    assert "has 4; choose with --channels 0 or 0,1,2" in said
    data, _ = imported("nnunet", source, tmp_path / "a", channels=(1,))
    assert np.array_equal(data["c_1"].read_image()[:, :, 0], picture(1)[:, :, 1])
    data, _ = imported("nnunet", source, tmp_path / "b", channels=(0, 1, 2))
    assert np.array_equal(data["c_1"].read_image(), picture(1))
    assert "has no 7" in refused("nnunet", source, tmp_path / "c", channels=(7,))


def test_bad_nnunet_is_refused(tmp_path: Path) -> None:
    source = write_nnunet(tmp_path / "source", {"background": 0, "a": 1})
    assert "has 2, nearest is 1" in refused("nnunet", source, tmp_path / "data")
    write(source / "dataset.json", {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}})
    assert "'ignore' (3)" in refused("nnunet", source, tmp_path / "data")
    write(source / "dataset.json", {"labels": {"background": 0, "a": 1, "b": 2}})
    (source / "labelsTr/c_2.png").rename(source / "labelsTr/d.png")
    assert "c_2_0000.png has none" in refused("nnunet", source, tmp_path / "data")
    put(source / "labelsTr/c_2.png", box(1, 1, 9, 9))
    assert "d.png has none" in refused("nnunet", source, tmp_path / "data")
    (source / "dataset.json").unlink()
    assert '"labels": {"background": 0, "lesion": 1}' in refused("nnunet", source, tmp_path / "data")
    assert "import it as `nnunet`" in refused("folder", source, tmp_path / "data")


def test_ignored_pixels_can_be_declared_as_the_line_says(tmp_path: Path) -> None:
    source = write_nnunet(tmp_path / "source", {"background": 0, "a": 1, "ignore": 2})
    assert "--classes lesion=1 background=2" in refused("nnunet", source, tmp_path / "data")
    write(source / "dataset.json", {"labels": {"background": 0, "a": 1}})
    data, _ = imported("nnunet", source, tmp_path / "data", classes=("lesion=1", "background=2"))
    assert np.array_equal(data["c_0"].read_mask(), (box(4, 4, 20, 20) > 0) & (box(8, 8, 12, 12) == 0))


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: tuple[str, ...] = ("polyp",)) -> Any:
    listed = [{"id": number, "width": SIDE[1], "height": SIDE[0], **image} for number, image in enumerate(images, 1)]
    shapes = [{"id": number, "iscrowd": 0, **annotation} for number, annotation in enumerate(annotations, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": listed, "annotations": shapes, "categories": categories}


def rectangle(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [float(value) for value in (left, top, right, top, right, bottom, left, bottom)]


def runs(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    from pycocotools import mask as tools

    if compressed:
        found = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": found["size"], "counts": found["counts"].decode()}
    flat = mask.ravel(order="F") > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges.tolist(), flat.size]).tolist()}


def write_coco(source: Path) -> Path:
    """Write four images: two polygons, uncompressed and compressed run lengths, and polygons that overlap."""
    for index in range(4):
        put(source / f"images/c{index}.png", picture(index))
    annotations = [
        {"image_id": 1, "category_id": 1, "segmentation": [rectangle(4, 6, 20, 16), rectangle(30, 30, 38, 40)]},
        {"image_id": 2, "category_id": 1, "segmentation": runs(box(3, 4, 10, 12), False), "iscrowd": 1},
        {"image_id": 3, "category_id": 1, "segmentation": runs(box(3, 4, 11, 12), True)},
        {"image_id": 4, "category_id": 1, "segmentation": [rectangle(2, 2, 30, 30)]},
        {"image_id": 4, "category_id": 2, "segmentation": [rectangle(8, 8, 20, 20)]},
    ]
    files = [{"file_name": f"c{index}.png"} for index in range(4)]
    write(source / "annotations.json", coco(files, annotations, ("disc", "cup", "vessel")))
    return source


def test_coco_polygons_and_run_lengths_are_exact(tmp_path: Path) -> None:
    data, notices = imported("coco", write_coco(tmp_path / "source"), tmp_path / "data")
    assert [(each.name, each.values) for each in data.classes] == [("disc", (1, 2)), ("cup", (2,))]
    assert np.array_equal(data["c0"].read_mask(), (box(4, 6, 20, 16) + box(30, 30, 38, 40)) > 0)
    assert np.array_equal(data["c1"].read_mask(), box(3, 4, 10, 12) > 0)
    assert np.array_equal(data["c2"].read_mask(), box(3, 4, 11, 12) > 0)
    disc, cup = data["c3"].read_masks()
    assert np.array_equal(disc, box(2, 2, 30, 30) > 0)
    assert np.array_equal(cup, box(8, 8, 20, 20) > 0)
    assert np.array_equal(data["c3"].read_image(), picture(3))
    assert "categories without annotations were left out: vessel" in notices


def test_coco_files_by_split_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, split in enumerate(("train", "valid", "test")):
        put(source / split / "a.png", picture(number))
        shapes = [{"image_id": 1, "category_id": 1, "segmentation": [rectangle(4, 6, 20, 16 + number)]}]
        write(source / split / "_annotations.coco.json", coco([{"file_name": "a.png"}], shapes))
    data, _ = imported("coco", source, tmp_path / "data")
    assert {case.id: case.split for case in data} == {"train-a": "train", "val-a": "val", "test-a": "test"}
    assert np.array_equal(data["test-a"].read_image(), picture(2))
    assert np.array_equal(data["val-a"].read_mask(), box(4, 6, 20, 17) > 0)
    assert data.class_names == ("polyp",)


def test_coco_is_read_from_its_file_and_from_nested_folders(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split in ("train2017", "val2017"):
        put(source / split / "a.png", picture(len(split)))
        shapes = [{"image_id": 1, "category_id": 1, "segmentation": [rectangle(4, 6, 20, 16)]}]
        write(source / f"annotations/instances_{split}.json", coco([{"file_name": "a.png"}], shapes))
    data, _ = imported("coco", source, tmp_path / "data")
    assert {case.id: case.split for case in data} == {"train-a": "train", "val-a": "val"}
    for split in ("train2017", "val2017"):
        assert np.array_equal(data[f"{split[:-4]}-a"].read_image(), picture(len(split)))
    table = write_coco(tmp_path / "one") / "annotations.json"
    assert len(imported("coco", table, tmp_path / "single")[0]) == 4


def spoiled(tmp_path: Path, annotation: dict[str, Any], image: dict[str, Any] | None = None) -> Path:
    put(tmp_path / "source/images/c0.png", picture(0))
    table = coco([{"file_name": "c0.png", **(image or {})}], [{"image_id": 1, "category_id": 1, **annotation}])
    return write(tmp_path / "source/annotations.json", table).parent


@pytest.mark.parametrize(
    ("annotation", "image", "rule"),
    [
        ({"segmentation": [rectangle(4, 6, 20, 60)]}, {}, "a polygon lies inside its image of 48 x 40: annotation 1"),
        ({"segmentation": [[1.0, 2.0, 3.0, 4.0]]}, {}, "at least 3 corners"),
        ({"segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]]}, {}, "corners of a polygon are numbers"),
        ({"segmentation": []}, {}, "only a box"),
        ({"bbox": [1, 2, 3, 4]}, {}, "only a box"),
        ({"segmentation": {"size": [40, 48], "counts": [5, 6]}}, {}, "they cover 11 of 1920 pixels"),
        ({"segmentation": {"size": [48, 40], "counts": [1920]}}, {}, "have the size of their image"),
        ({"segmentation": [rectangle(4, 6, 20, 16)], "category_id": 9}, {}, "a category that is listed"),
        ({"segmentation": [rectangle(4, 6, 20, 16)], "image_id": 9}, {}, "an image that is listed"),
        ({"segmentation": [rectangle(4, 6, 20, 16)]}, {"file_name": "../c9.png"}, "which"),
        ({"segmentation": [rectangle(4, 6, 20, 16)]}, {"width": 20}, "the size of its image"),
        ({"segmentation": "x"}, {}, "only a box"),
    ],
)
def test_bad_coco_is_refused(tmp_path: Path, annotation: dict[str, Any], image: dict[str, Any], rule: str) -> None:
    assert rule in refused("coco", spoiled(tmp_path, annotation, image), tmp_path / "data")


def test_an_image_outside_the_source_is_never_read(tmp_path: Path) -> None:
    put(tmp_path / "secret.png", picture(5))
    source = spoiled(tmp_path, {"segmentation": [rectangle(4, 6, 20, 16)]}, {"file_name": "../secret.png"})
    assert "names '../secret.png', which" in refused("coco", source, tmp_path / "data")


def test_an_image_of_two_places_is_a_question_and_the_remedy_works(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("left", "right"):
        put(source / folder / "a.png", picture(len(folder)))
    shapes = [{"image_id": 1, "category_id": 1, "segmentation": [rectangle(4, 6, 20, 16)]}]
    write(source / "annotations.json", coco([{"file_name": "a.png"}], shapes))
    assert "which may be left/a.png and right/a.png; name its folder" in refused("coco", source, tmp_path / "data")
    write(source / "annotations.json", coco([{"file_name": "right/a.png"}], shapes))
    data, _ = imported("coco", source, tmp_path / "data")
    assert np.array_equal(data["a"].read_image(), picture(5))


def test_coco_names_its_classes_itself_and_knows_empty_images(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "source")
    assert "leave the option out" in refused("coco", source, tmp_path / "data", classes=("a=1",))
    table = json.loads((source / "annotations.json").read_text())
    table["annotations"] = table["annotations"][:3]
    write(source / "annotations.json", table)
    assert "--empty-masks negative" in refused("coco", source, tmp_path / "data")
    data, _ = imported("coco", source, tmp_path / "data", empty_masks="negative", split="100:0:0")
    assert [case.id for case in data if case.negative] == ["c3"]
    assert data.class_names == ("disc",)


def test_folders_of_annotation_tools_are_named_where_another_layout_was_asked_for(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "source")
    assert "holds annotations.json, as COCO has it; import it as `coco`" in refused("folder", source, tmp_path / "d")
    yolo = write_yolo(tmp_path / "yolo")
    assert "import it as `yolo`" in refused("folder", yolo, tmp_path / "data")
    assert "import it as `yolo`" in refused("coco", yolo, tmp_path / "data")
    assert "import it as `coco`" in refused("hf", source, tmp_path / "data")


def line(number: int, *corners: tuple[int, int]) -> str:
    """Return a line of YOLO for corners, row and column in px."""
    return " ".join([str(number), *(f"{x / SIDE[1]:.6f} {y / SIDE[0]:.6f}" for y, x in corners)])


def yolo_box(number: int, top: int, left: int, bottom: int, right: int) -> str:
    return line(number, (top, left), (top, right), (bottom, right), (bottom, left))


def write_yolo(source: Path, order: str = "{kind}/{split}", names: str = "names: [polyp, scar]") -> Path:
    write(source / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnc: 2\n{names}\n")
    for number, split in enumerate(("train", "train", "val", "test")):
        image, label = (order.format(kind=kind, split=split) for kind in ("images", "labels"))
        put(source / image / f"a{number}.png", picture(number))
        write(source / label / f"a{number}.txt", yolo_box(number % 2, 4, 6, 20, 16 + number) + "\n")
    return source


@pytest.mark.parametrize("order", ["{kind}/{split}", "{split}/{kind}"])
@pytest.mark.parametrize("names", ["names: [polyp, scar]", "names:\n  0: polyp\n  1: scar"])
def test_yolo_polygons_are_exact(tmp_path: Path, order: str, names: str) -> None:
    source = write_yolo(tmp_path / "source", order, names)
    data, _ = imported("yolo", source, tmp_path / "data")
    assert {case.id: case.split for case in data} == {
        "train-a0": "train", "train-a1": "train", "val-a2": "val", "test-a3": "test"
    }  # fmt: skip
    assert [(each.name, each.values) for each in data.classes] == [("polyp", (1,)), ("scar", (2,))]
    for number, case in ((0, "train-a0"), (1, "train-a1"), (2, "val-a2"), (3, "test-a3")):
        assert np.array_equal(data[case].read_label(), box(4, 6, 20, 16 + number, 1 + number % 2))
    again, _ = imported("yolo", source / "data.yaml", tmp_path / "again")
    assert [case.id for case in again] == [case.id for case in data]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (yolo_box(0, 4, 6, 20, 70), "a polygon lies inside its image"),
        ("0 0.5 0.5 0.2 0.2", "is a box, 0 0.5 0.5 0.2 0.2"),
        ("0 0.5 0.5 0.2", "at least 3 corners"),
        (yolo_box(5, 4, 6, 20, 16), "has class 5"),
        ("polyp 0.1 0.1 0.2 0.2 0.3 0.3", "a line is a class number and corners"),
        ("", "--empty-masks negative"),
    ],
)
def test_bad_yolo_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    source = write_yolo(tmp_path / "source")
    write(source / "labels/train/a1.txt", text)
    assert rule in refused("yolo", source, tmp_path / "data")


def test_a_yolo_image_without_a_text_file_is_empty_and_a_class_needs_a_name(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source")
    (source / "labels/train/a1.txt").unlink()
    data, _ = imported("yolo", source, tmp_path / "data", empty_masks="negative")
    assert [case.id for case in data if case.negative] == ["train-a1"]
    write(source / "labels/train/a9.txt", yolo_box(0, 1, 1, 9, 9))
    assert "every label needs an image: labels/train/a9.txt" in refused("yolo", source, tmp_path / "b")
    (source / "labels/train/a9.txt").unlink()
    write(source / "labels/train/a1.txt", yolo_box(2, 4, 6, 20, 16))
    said = refused("yolo", source, tmp_path / "b")
    assert "names: [polyp, scar, another]" in said
    write(source / "data.yaml", "names: [polyp, scar, another]")
    assert imported("yolo", source, tmp_path / "b")[0].class_names == ("polyp", "scar", "another")


def write_table(source: Path) -> Path:
    rows = ["Image,Mask,patient,split,prompt,negative"]
    for index in range(4):
        put(source / f"pictures/{index}.png", picture(index))
        put(source / f"drawn/lesion_of_{index}.png", box(3, 3, 12 + index, 14, 255))
        split = ("train", "train", "valid", "test")[index]
        rows.append(f"pictures/{index}.png,drawn/lesion_of_{index}.png,p{index // 2 + index // 3},{split},a polyp,0")
    put(source / "pictures/n.png", picture(8))
    put(source / "pictures/u.png", picture(9))
    rows += ["pictures/n.png,,p9,train,,1", "pictures/u.png,,p8,,,"]
    write(source / "pairs.csv", "\n".join(rows) + "\n")
    return source


def test_a_table_lists_pairs_groups_and_splits(tmp_path: Path) -> None:
    source = write_table(tmp_path / "source")
    data, _ = imported("csv", source, tmp_path / "data")
    assert {case.id: (case.split, case.group) for case in data} == {
        "train-0": ("train", "p0"),
        "train-1": ("train", "p0"),
        "val-2": ("val", "p1"),
        "test-3": ("test", "p2"),
        "train-n": ("train", "p9"),
        "unannotated-u": ("unannotated", "p8"),
    }
    assert np.array_equal(data["val-2"].read_mask(), box(3, 3, 14, 14) > 0)
    assert data["train-0"].prompt == "a polyp"
    assert data["train-n"].negative
    again, _ = imported("csv", source / "pairs.csv", tmp_path / "again")
    assert [case.id for case in again] == [case.id for case in data]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("image,class\npictures/0.png,1\n", "rename the column of the masks to mask"),
        ("image,mask\npictures/0.png,drawn/nothing.png\n", "the mask of pairs.csv row 2 is missing"),
        ("image,mask\n../x.png,drawn/lesion_of_0.png\n", "move pairs.csv above its images"),
        ("image,mask\n/etc/passwd,drawn/lesion_of_0.png\n", "move pairs.csv above its images"),
        ("image,mask\n,drawn/lesion_of_0.png\n", "every row names an image"),
        ("image,mask\npictures/0\0.png,drawn/lesion_of_0.png\n", "paths are made of plain names"),
        (f"image,mask\n{'x' * 300},drawn/lesion_of_0.png\n", "is longer than 255 bytes"),
        ("image,mask\npictures/0.png,drawn/lesion_of_0.png\npictures/0.png,drawn/lesion_of_1.png\n", "rows 2 and 3"),
        ("image,mask,split\npictures/0.png,drawn/lesion_of_0.png,fold 1\n", "a split is train, val or test"),
        ("image,mask,split\npictures/0.png,,test\n", "every case of test needs a mask"),
        ("image,mask,id\npictures/0.png,drawn/lesion_of_0.png,a/b\n", "a name is plain, without slashes"),
        ("image,mask,negative\npictures/0.png,,maybe\n", "negative is 1 or 0"),
        ("image,mask,negative\npictures/0.png,drawn/lesion_of_0.png,1\n", "its mask holds one"),
        ("", "has no row"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    source = write_table(tmp_path / "source")
    write(source / "pairs.csv", text)
    assert rule in refused("csv", source, tmp_path / "data")


def test_two_tables_are_a_question_and_the_remedy_works(tmp_path: Path) -> None:
    source = write_table(tmp_path / "source")
    write(source / "more.csv", (source / "pairs.csv").read_text())
    said = refused("csv", source, tmp_path / "data")
    assert f"such as {source / 'more.csv'}" in said
    assert len(imported("csv", source / "more.csv", tmp_path / "data")[0]) == 6
    assert "with the columns image and mask; import it as `csv`" in refused("hf", source, tmp_path / "other")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_imagefolder_is_read_by_its_metadata(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    for number, split in enumerate(("train", "validation", "test")):
        put(source / split / "a.jpg", picture(number), quality=95)
        put(source / split / "masks/a.png", box(3, 3, 12 + number, 14, 255))
        row = {"file_name": "a.jpg", "mask_file_name": "masks/a.png", "text": "a flat polyp", "label": "1"}
        text = json.dumps(row) if form == "jsonl" else ",".join(row) + "\n" + ",".join(row.values())
        write(source / split / f"metadata.{form}", text + "\n")
    data, _ = imported("hf", source, tmp_path / "data")
    assert {case.id: case.split for case in data} == {"train-a": "train", "val-a": "val", "test-a": "test"}
    assert data["val-a"].prompt == "a flat polyp"
    assert np.array_equal(data["test-a"].read_mask(), box(3, 3, 14, 14) > 0)


def test_an_imagefolder_at_the_root_is_split_and_other_forms_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = ["image_file_name,mask_file_name"]
    for number in range(10):
        put(source / f"{number}.png", picture(number))
        put(source / f"m/{number}.png", box(3, 3, 12, 14, 255))
        rows.append(f"{number}.png,m/{number}.png")
    write(source / "metadata.csv", "\n".join(rows) + "\n")
    data, _ = imported("hf", source, tmp_path / "data")
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [7, 1, 2]
    (source / "metadata.csv").rename(source / "train.parquet")
    assert "has train.parquet; write the images" in refused("hf", source, tmp_path / "b")
    (source / "train.parquet").unlink()
    write(source / "metadata.jsonl", '{"file_name": "0.png", "mask": "m/0.png"}\n{"mask": "m/1.png"}\n')
    assert "every row names an image: metadata.jsonl row 2 has none" in refused("hf", source, tmp_path / "b")
    (source / "metadata.jsonl").unlink()
    write(source / "metadata.csv", "file_name,label\n0.png,1\n")
    assert "rename the column of the masks to mask" in refused("hf", source, tmp_path / "b")
