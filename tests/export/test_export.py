"""What an export holds, whatever its format: kept cases alone, every pixel, groups, classes, and where each is from."""

import json
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from layouts import imported
from PIL import Image

from diffaug.artifacts import read_csv, read_json
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_manifest, write_rows
from diffaug.errors import ConfigError, DataError, StudyError
from diffaug.export.export import WRITERS, export_set
from diffaug.export.files import write_image
from diffaug.layouts import FORMATS

KEPT = [f"synth-0000{index}" for index in range(5)]
IMPORTED = {
    "nnunet": lambda split, name: f"test-{name}" if split == "test" else name,
    "coco": lambda split, name: f"{split}-{name}",
    "yolo": lambda split, name: f"{split}-{name}",
    "hf": lambda split, name: name,
}


def cases_of(synthetic, data):
    """Return what is exported: annotated cases, and the kept ones of a synthetic set."""
    dataset, table = read_dataset(data), {case.id: case for case in read_dataset(synthetic)}
    made = [replace(table[row.id], split="train") for row in read_manifest(synthetic) if row.decision == "kept"]
    made = [replace(case, group=dataset[background_of(synthetic, case.id)].group) for case in made]
    return [*(case for case in dataset if case.mask), *made]


def background_of(synthetic, name):
    return read_manifest(synthetic)[name].request.background


def assert_same(found, case):
    assert np.array_equal(found.read_masks(), case.read_masks()), case.id
    assert found.group == case.group, case.id
    assert np.array_equal(found.read_image(), case.read_image()), case.id


def test_every_format_has_a_writer():
    assert list(WRITERS) == list(FORMATS)


@pytest.mark.parametrize("layout", IMPORTED)
@pytest.mark.parametrize("which", ["odd", "eyes"])
def test_our_own_importer_reads_the_same_masks_classes_groups_and_pixels(layout, which, request, tmp_path):
    data = request.getfixturevalue(which)
    synthetic = request.getfixturevalue("painted" if which == "odd" else "painted_eyes")
    export_set(synthetic, tmp_path / "out", layout, data)
    found, _ = imported(layout, tmp_path / "out", tmp_path / "back", empty_masks="negative")
    names = {IMPORTED[layout](case.split, case.id): case for case in cases_of(synthetic, data)}
    assert {case.id for case in found} == set(names)
    assert set(found.class_names) == set(read_dataset(data).class_names)
    for name, case in names.items():
        back = found[name]
        order = [back.class_names.index(one) for one in case.class_names]
        assert np.array_equal(back.read_masks()[order], case.read_masks()), name
        assert np.array_equal(back.read_image(), case.read_image()), name
        assert back.group == case.group, name
        assert layout == "nnunet" or back.split == case.split


@pytest.mark.parametrize("which", ["odd", "eyes"])
def test_the_flat_form_is_a_data_set_with_the_same_cases_that_a_table_imports(which, request, tmp_path):
    data = request.getfixturevalue(which)
    synthetic = request.getfixturevalue("painted" if which == "odd" else "painted_eyes")
    export_set(synthetic, tmp_path / "out", "folder", data)
    found = read_dataset(tmp_path / "out")
    table, _ = imported("csv", tmp_path / "out" / "cases.csv", tmp_path / "back")
    cases = cases_of(synthetic, data)
    assert {case.id for case in found} == {case.id for case in cases}
    for case in cases:
        assert_same(found[case.id], case)
        assert found[case.id].split == table[case.id].split == case.split
        assert found[case.id].attributes["synthetic"] == (case.id in KEPT)
        assert found[case.id].negative == case.negative
        assert table[case.id].group == case.group
    assert found.classes == read_dataset(data).classes


@pytest.mark.parametrize("layout", FORMATS)
def test_only_kept_cases_are_exported_each_once_with_where_it_is_from(layout, painted, odd, tmp_path):
    found = export_set(painted, tmp_path / "out", layout, odd)
    rows = {row["id"]: row for row in read_csv(tmp_path / "out" / "provenance.csv", ())}
    assert [name for name, row in rows.items() if row["origin"] == "synthetic"] == KEPT
    assert {row["split"] for name, row in rows.items() if name in KEPT} == {"train"}
    assert rows["synth-00000"]["background"] == "train-0" and rows["synth-00000"]["mask_source"] == "train-1"
    assert rows["synth-00000"]["prompt"] == "a lesion, the 0th" and rows["synth-00000"]["decision"] == "kept"
    assert rows["synth-00001"]["background"] == "train-3 / train-5", "a picture of two requests shows what both show"
    assert rows["synth-00001"]["mask_source"] == "train-3 / train-4"
    assert [rows[name]["negative"] for name in KEPT] == list("00011")
    assert [rows[name]["lesion_free"] for name in (*KEPT, "train-5")] == list("000011")
    assert rows["synth-00002"]["group"] == "patient 1", "an unannotated background brings its group along"
    assert rows["train-0"]["origin"] == "real" and rows["train-0"]["background"] == ""
    files = {path.stem.removesuffix("_0000") for path in (tmp_path / "out").rglob("*.png")}
    assert set(KEPT) <= files and not files & {f"synth-0000{index}" for index in (5, 6, 7, 8)}
    assert found.counts["train"].startswith("6 real and 5 synthetic (2 of them negatives)")


@pytest.mark.parametrize("layout", FORMATS)
def test_negatives_are_left_out_on_request_and_lesions_are_counted_by_a_ratio(layout, painted, odd, tmp_path):
    export_set(painted, tmp_path / "out", layout, odd, negatives=False)
    rows = {row["id"] for row in read_csv(tmp_path / "out" / "provenance.csv", ())}
    assert rows & set(KEPT) == set(KEPT[:3])
    assert "train-5" in rows, "a lesion-free case of the user's own is none of these"
    found = export_set(painted, tmp_path / "few", layout, odd, ratio=1 / 3)
    assert found.counts["train"] == "6 real and 3 synthetic (1 of them negatives)"


@pytest.mark.parametrize("layout", FORMATS)
def test_without_a_data_set_the_painted_cases_are_exported_alone(layout, painted, tmp_path):
    found = export_set(painted, tmp_path / "out", layout)
    assert found.counts == {"train": "5 synthetic (2 of them negatives)"} and found.folds == ()


@pytest.mark.parametrize("layout", FORMATS)
def test_the_same_export_again_changes_nothing_and_another_one_is_refused(layout, painted, odd, tmp_path):
    def files():
        return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    export_set(painted, tmp_path / "out", layout, odd, folds=3)
    before = files()
    export_set(painted, tmp_path / "out", layout, odd, folds=3)
    assert files() == before
    with pytest.raises(ConfigError, match="never replaces another"):
        export_set(painted, tmp_path / "out", layout, odd, folds=2)
    assert files() == before


@pytest.mark.parametrize("layout", FORMATS)
def test_files_that_every_reader_sees_alike_are_copied_and_the_others_become_rgb(layout, painted, odd, tmp_path):
    export_set(painted, tmp_path / "out", layout, odd)
    images = {
        path.stem.removesuffix("_0000"): path
        for path in (tmp_path / "out").rglob("*")
        if "mages" in str(path) or "data" in path.parts
    }
    images = {name: path for name, path in images.items() if path.is_file() and path.suffix in (".png", ".jpg")}
    same = {"train-0": ".png", "train-1": ".jpg", "synth-00000": ".png"}
    for name, suffix in same.items():
        source = (
            painted / "shards/00000/images/synth-00000.png"
            if name == "synth-00000"
            else odd / "images" / f"{name}{suffix}"
        )
        if layout != "nnunet" or suffix == ".png":
            assert images[name].read_bytes() == source.read_bytes(), name
    for path in images.values():
        with Image.open(path) as image:
            assert image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
            assert layout != "nnunet" or image.format == "PNG"


def test_a_png_of_16_bits_a_channel_is_written_anew_for_readers_that_would_see_other_values(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">3H", 65535, 32768, 256) * 8
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    (tmp_path / "out").mkdir()
    made, height, width = write_image(Case("deep", path, None, "deep", "train"), tmp_path / "out", "deep")
    assert (height, width) == (8, 8) and made.read_bytes() != path.read_bytes()
    with Image.open(made) as image:
        assert image.tile[0][3] == "RGB" and image.getpixel((0, 0)) == (255, 128, 1)


def test_folds_never_validate_on_painted_cases_nor_train_on_ones_that_show_their_validation(painted, odd, tmp_path):
    for layout in FORMATS:
        found = export_set(painted, tmp_path / layout, layout, odd, folds=4)
        name = "splits_final.json" if layout == "nnunet" else "folds.json"
        folds = read_json(tmp_path / layout / name)
        rows = {row["id"]: row for row in read_csv(tmp_path / layout / "provenance.csv", ())}
        group_of = {case.id: case.group for case in read_dataset(odd)}
        assert len(folds) == 4 == len(found.folds)
        for fold, counts in zip(folds, found.folds, strict=True):
            assert all(rows[name]["origin"] == "real" for name in fold["val"])
            unseen = {group_of[name] for name in fold["val"]}
            for name in fold["train"]:
                kinds = ("background", "mask_source", "example")
                sources = {one for kind in kinds for one in rows[name][kind].split(" / ") if one} or {name}
                assert unseen.isdisjoint(group_of[one] for one in sources)
            assert counts.val == len(fold["val"])
            assert counts.real + counts.synthetic == len(fold["train"])
            assert counts.synthetic + counts.left_out == len(KEPT)
        assert sorted(name for fold in folds for name in fold["val"]) == [f"train-{index}" for index in range(6)]
        one_side = next(fold for fold in folds if "train-1" in fold["val"])
        assert "train-2" in one_side["val"] and "synth-00002" not in one_side["train"]


def test_a_shared_picture_leaves_the_folds_of_all_that_it_shows(painted, odd, tmp_path):
    export_set(painted, tmp_path / "out", "nnunet", odd, folds=5)
    for fold in read_json(tmp_path / "out" / "splits_final.json"):
        assert ("synth-00001" in fold["train"]) == {"train-3", "train-4", "train-5"}.isdisjoint(fold["val"])


# What is refused: one line each, and nothing is written


def refused(error, *words, out, **options):
    with pytest.raises(error) as told:
        export_set(*words, **options)
    assert "\n" not in str(told.value) and ";" in str(told.value)
    assert not out.exists() and not list(out.parent.glob(".*partial"))
    return str(told.value)


def test_an_unfinished_set_is_refused(painted, tmp_path):
    shutil.copytree(painted, tmp_path / "set")
    (tmp_path / "set" / "summary.json").unlink()
    out = tmp_path / "out"
    assert "must be finished" in refused(DataError, tmp_path / "set", out, "coco", out=out)
    assert "nothing does not exist" in refused(DataError, tmp_path / "nothing", out, "coco", out=out)


def test_an_unknown_format_folds_without_cases_and_numbers_of_no_use_are_refused(painted, odd, tmp_path):
    out = tmp_path / "out"
    assert "one of nnunet, monai, coco" in refused(ConfigError, painted, out, "cocoa", out=out)
    assert "nearest: nnunet" in refused(ConfigError, painted, out, "nnU-Net", out=out)
    assert "is a synthetic set; name that one" in refused(DataError, painted, out, "monai", painted, out=out)
    assert "--with DATA" in refused(ConfigError, painted, out, "monai", out=out, folds=3)
    assert "--with DATA" in refused(ConfigError, painted, out, "monai", out=out, ratio=2.0)
    assert "it is 1" in refused(ConfigError, painted, out, "monai", odd, out=out, folds=1)
    assert "6 folds of 5 groups" in refused(DataError, painted, out, "monai", odd, out=out, folds=6)
    assert "it is -1" in refused(ConfigError, painted, out, "monai", odd, out=out, ratio=-1)


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(painted, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other files"):
        export_set(painted, out, "coco")
    with pytest.raises(ConfigError, match="holds other files"):
        export_set(painted, out / "thesis.tex", "coco")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.tex"]


def test_a_set_that_saw_other_images_or_has_other_classes_is_refused(painted, odd, eyes, tmp_path):
    out = tmp_path / "out"
    assert "same classes" in refused(DataError, painted, out, "coco", eyes, out=out)
    shutil.copytree(odd, tmp_path / "data")
    table = (tmp_path / "data" / "cases.csv").read_text()
    moved = table.replace("masks/train-0.png,train-0,train", "masks/train-0.png,train-0,test")
    (tmp_path / "data" / "cases.csv").write_text(moved)
    assert "in split test" in refused(StudyError, painted, out, "coco", tmp_path / "data", out=out)
    divided = table.replace("masks/val-0.png,val-0,val", "masks/val-0.png,patient 1,val")
    (tmp_path / "data" / "cases.csv").write_text(divided)
    assert "stays in one split" in refused(DataError, painted, out, "coco", tmp_path / "data", out=out)


def test_a_painted_file_that_was_changed_is_refused(painted, tmp_path):
    shutil.copytree(painted, tmp_path / "set")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(tmp_path / "set/shards/00000/masks/synth-00002.png")
    assert "was changed since" in refused(DataError, tmp_path / "set", tmp_path / "out", "coco", out=tmp_path / "out")


def test_a_manifest_that_does_not_fit_its_table_or_keeps_nothing_is_refused(painted, tmp_path):
    shutil.copytree(painted, tmp_path / "set")
    rows = [replace(row, decision="rejected") for row in read_manifest(painted)]
    write_rows(tmp_path / "set" / "manifest.jsonl", rows)
    out = tmp_path / "out"
    assert "one list of cases" in refused(DataError, tmp_path / "set", out, "coco", out=out)


def test_ids_that_differ_in_capitals_alone_are_refused(painted, odd, tmp_path):
    shutil.copytree(odd, tmp_path / "data")
    path = tmp_path / "data" / "cases.csv"
    path.write_text(
        path.read_text().replace("val-1,images/val-1", "Synth-00001,images/val-1").replace(",val-1,val,", ",v,val,")
    )
    out = tmp_path / "out"
    assert "'Synth-00001' and 'synth-00001'" in refused(DataError, painted, out, "coco", tmp_path / "data", out=out)


def test_a_broken_image_leaves_nothing_behind(painted, odd, tmp_path):
    shutil.copytree(odd, tmp_path / "data")
    (tmp_path / "data/masks/test-1.png").write_bytes(b"no image")
    for layout in FORMATS:
        told = refused(DataError, painted, tmp_path / "out", layout, tmp_path / "data", out=tmp_path / "out")
        assert "test-1" in told


def test_the_names_of_an_export_are_json_and_not_escaped(painted, odd, tmp_path):
    export_set(painted, tmp_path / "dätä", "monai", odd)
    assert json.loads((tmp_path / "dätä" / "datalist.json").read_text(encoding="utf-8"))["numTraining"] == 11
