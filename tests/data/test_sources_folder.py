import io
import shutil
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import imported, write_pair
from PIL import Image

from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.importing import import_dataset
from diffaug.data.table import SPLITS
from diffaug.errors import ConfigError, DataError, DiffaugError

Make = Callable[..., Path]


def png_bomb() -> bytes:
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def refused(source: Path, to: Path, kind: type[DiffaugError] = DataError) -> str:
    """Import, expect one line, and expect that nothing was written."""
    before = sorted(to.parent.rglob("*"))
    with pytest.raises(kind) as error:
        imported("folder", source, to)
    assert sorted(to.parent.rglob("*")) == before
    message = str(error.value)
    assert "\n" not in message
    assert ";" in message  # the fix stands behind it
    return message


def empty_mask(source: Path) -> None:
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(source / "masks/c3.png")


def other_size(source: Path) -> None:
    Image.fromarray(np.full((20, 48), 255, np.uint8)).save(source / "masks/c3.png")


def truncated(source: Path) -> None:
    data = (source / "images/c3.png").read_bytes()
    (source / "images/c3.png").write_bytes(data[: len(data) // 2])


def truncated_mask(source: Path) -> None:
    (source / "masks/c3.png").write_bytes((source / "masks/c3.png").read_bytes()[:60])


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda source: (source / "masks/c3.png").unlink(), "every image needs a mask of the same stem: case c3"),
        (lambda source: (source / "images/c3.png").unlink(), "every mask needs an image of the same stem: case c3"),
        (lambda source: shutil.rmtree(source / "masks"), "every image needs a mask"),
        (lambda source: shutil.rmtree(source / "images"), "a source needs images/"),
        (lambda source: [path.unlink() for path in (source / "images").iterdir()], "a source needs images/"),
        (other_size, "the size of its image: case c3"),
        (empty_mask, "must hold a lesion: case c3"),
        (truncated, "every file must decode: case c3"),
        (truncated_mask, "every file must decode: case c3"),
        (lambda source: (source / "images/c3.png").write_bytes(b"no image"), "every file must decode: case c3"),
        (lambda source: (source / "images/c3.png").write_bytes(png_bomb()), "pixels at most: case c3"),
        (lambda source: shutil.copy(source / "images/c3.png", source / "images/c3.TIF"), "stems must be unique"),
        (lambda source: shutil.copytree(source / "images", source / "train/images"), "or split folders"),
        (lambda source: (source / "groups.csv").write_text("id,patient\nc0,p\n"), "needs the columns id,group"),
        (lambda source: (source / "groups.csv").write_text("id,group\nc0\n"), "a cell for each column"),
        (lambda source: (source / "groups.csv").write_bytes(b"id,group\n\xff\n"), "must be a CSV file in UTF-8"),
        (lambda source: (source / "groups.csv").write_text("id,group\nc0,p\n"), "the group of every case"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    make_source: Make, tmp_path: Path, spoil: Callable[[Path], object], rule: str
) -> None:
    source = make_source(5)
    spoil(source)
    assert rule in refused(source, tmp_path / "data")


def test_a_missing_source_is_one_line(tmp_path: Path) -> None:
    assert "must lie in a folder" in refused(tmp_path / "none", tmp_path / "data")


@pytest.mark.parametrize("split", SPLITS[:3])
def test_images_of_a_split_beside_those_of_none_are_not_overlooked(
    make_source: Make, tmp_path: Path, split: str
) -> None:
    source = make_source()
    (source / split).mkdir()
    shutil.copy(next((source / "images").iterdir()), source / split / "more.png")
    assert f"has images/c0.png and {split}/more.png; move one" in refused(source, tmp_path / "data")


def test_unannotated_images_need_no_folder_of_their_own(make_source: Make, tmp_path: Path) -> None:
    source = make_source()
    (source / "unannotated").mkdir()
    write_pair(tmp_path, "more", 50)
    shutil.copy(tmp_path / "images/more.png", source / "unannotated")
    data, _ = imported("folder", source, tmp_path / "data")
    assert [case.id for case in data.split("unannotated")] == ["unannotated-more"]


def test_the_first_bad_case_in_order_is_the_one_that_is_named(make_source: Make, tmp_path: Path) -> None:
    source = make_source(8)
    for stem in ("c6", "c2"):
        (source / f"images/{stem}.png").write_bytes(b"no image")
    assert "case c2" in refused(source, tmp_path / "data")


def test_files_are_copied_byte_by_byte(make_source: Make, tmp_path: Path) -> None:
    source = make_source(6)
    data, _ = imported("folder", source, tmp_path / "data")
    assert data == read_dataset(tmp_path / "data")
    for case in data.cases:
        assert case.image.read_bytes() == (source / "images" / f"{case.id}.png").read_bytes()
        assert case.mask is not None
        assert case.mask.read_bytes() == (source / "masks" / f"{case.id}.png").read_bytes()


def test_a_source_without_splits_is_divided_by_the_shares_and_the_seed(make_source: Make, tmp_path: Path) -> None:
    source = make_source(40)
    data, _ = imported("folder", source, tmp_path / "a")
    assert Counter(case.split for case in data.cases) == {"train": 28, "val": 4, "test": 8}
    assert (tmp_path / "a/cases.csv").read_bytes() == (
        imported("folder", source, tmp_path / "b")[0].folder / "cases.csv"
    ).read_bytes()
    other, _ = imported("folder", source, tmp_path / "c", seed=1)
    assert [case.split for case in other.cases] != [case.split for case in data.cases]


def test_split_folders_are_kept_and_ids_are_unique_over_them(make_source: Make, tmp_path: Path) -> None:
    make_source(4, "source/train")
    make_source(3, "source/val", first=10)
    make_source(2, "source/test", first=20)
    for split, old in (("val", 10), ("test", 20)):
        for kind in ("images", "masks"):
            path = tmp_path / "source" / split / kind / f"c{old}.png"
            path.rename(path.with_name("c0.png"))
    make_source(2, "source/unannotated", first=30)
    shutil.rmtree(tmp_path / "source/unannotated/masks")
    data, _ = imported("folder", tmp_path / "source", tmp_path / "data")
    assert [len(data.split(split)) for split in SPLITS] == [4, 3, 2, 2]
    assert len({case.id for case in data.cases}) == 11
    assert {"train-c0", "val-c0", "test-c0", "unannotated-c30"} <= {case.id for case in data.cases}
    assert all(case.id.startswith(f"{case.split}-") for case in data.cases)


def test_a_source_may_hold_one_split_only(make_source: Make, tmp_path: Path) -> None:
    data, _ = imported("folder", make_source(3, "source/test").parent, tmp_path / "data")
    assert {case.split for case in data.cases} == {"test"}


def test_spaces_and_other_alphabets_just_work(make_source: Make, tmp_path: Path) -> None:
    source = make_source(4, "Bilder é 内視鏡 data")
    for kind, form in (("images", "NFC"), ("masks", "NFD")):  # one name, written as two systems write it
        (source / kind / "c0.png").rename(source / kind / f"{unicodedata.normalize(form, 'Läsion 1 ポリープ')}.png")
    data, _ = imported("folder", source, tmp_path / "à b" / "données")
    case = data["Läsion 1 ポリープ"]
    assert case.read_image().shape == (40, 48, 3)
    assert case.read_mask().any()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG", ".jpeg", ".tif", ".tiff", ".TIFF", ".bmp"])
def test_every_format_is_read_whatever_its_letters(make_source: Make, tmp_path: Path, suffix: str) -> None:
    data, _ = imported("folder", make_source(3, suffix=suffix), tmp_path / "data")
    assert all(case.image.suffix == suffix.lower() for case in data.cases)
    assert all(0 < case.read_mask().mean() < 0.5 for case in data.cases)


def test_image_and_mask_may_differ_in_format_and_other_files_do_not_matter(make_source: Make, tmp_path: Path) -> None:
    source = make_source(3)
    Image.open(source / "images/c1.png").save(source / "images/c1.jpg")
    (source / "images/c1.png").unlink()
    for name in (".DS_Store", "Thumbs.db", "._c1.png"):
        (source / "images" / name).write_bytes(b"left by a file manager")
    data, _ = imported("folder", source, tmp_path / "data")
    assert data["c1"].image.suffix == ".jpg"
    assert len(data.cases) == 3


def recompress(path: Path, to: Path) -> None:
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "JPEG", quality=60)
    to.write_bytes(buffer.getvalue())


def test_repeated_frames_share_a_group_and_a_split(make_source: Make, tmp_path: Path) -> None:
    source = make_source(30)
    for stem in ("c1", "c5", "c9", "c20"):
        recompress(source / f"images/{stem}.png", source / f"images/again-{stem}.jpg")
        shutil.copy(source / f"masks/{stem}.png", source / f"masks/again-{stem}.png")
    for seed in range(3):
        data, notices = imported("folder", source, tmp_path / str(seed), seed=seed)
        for stem in ("c1", "c5", "c9", "c20"):
            first, second = data[stem], data[f"again-{stem}"]
            assert (first.group, first.split) == (second.group, second.split)
        assert len({case.group for case in data.cases}) == 30
        assert "4 frames are shown twice and were grouped" in notices


def test_named_groups_are_kept_together(make_source: Make, tmp_path: Path) -> None:
    source = make_source(24)
    lines = [f"c{index},patient {index % 6}" for index in range(24)]
    (source / "groups.csv").write_text("\n".join(["id,group", *lines]), encoding="utf-8-sig")
    data, _ = imported("folder", source, tmp_path / "data")
    splits: dict[str, set[str]] = {}
    for case in data.cases:
        splits.setdefault(case.group, set()).add(case.split)
    assert set(splits) == {f"patient {index}" for index in range(6)}
    assert all(len(found) == 1 for found in splits.values())
    assert len({case.split for case in data.cases}) == 3


def test_a_named_group_that_the_split_folders_divide_is_refused(make_source: Make, tmp_path: Path) -> None:
    make_source(2, "source/train")
    source = make_source(2, "source/test", first=5).parent
    (source / "groups.csv").write_text("id,group\ntrain-c0,a\ntrain-c1,b\ntest-c5,b\ntest-c6,c\n")
    message = refused(source, tmp_path / "data")
    assert "b is in train (train-c1) and test (test-c5)" in message


def test_frames_that_the_split_folders_repeat_are_said(make_source: Make, tmp_path: Path) -> None:
    make_source(3, "source/train")
    source = make_source(2, "source/test", first=2).parent
    data, notices = imported("folder", source, tmp_path / "data")
    assert len(data.cases) == 5
    assert data["train-c2"].group != data["test-c2"].group
    assert any("train-c2 and test-c2" in notice for notice in notices)


def test_unannotated_images_that_repeat_test_are_left_out(make_source: Make, tmp_path: Path) -> None:
    make_source(3, "source/train")
    make_source(2, "source/test", first=10)
    source = make_source(4, "source/unannotated", first=9).parent  # c10 and c11 are in test
    data, notices = imported("folder", source, tmp_path / "data")
    assert [case.id for case in data.split("unannotated")] == ["unannotated-c9", "unannotated-c12"]
    assert "2 images of unannotated are from groups of val or test and were left out" in notices


def test_the_same_import_again_changes_nothing(make_source: Make, tmp_path: Path) -> None:
    source = make_source(5)
    first, _ = imported("folder", source, tmp_path / "data")
    (tmp_path / "data/contact-sheet.png").write_bytes(b"made later")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert imported("folder", source, tmp_path / "data")[0] == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_another_import_into_a_data_set_is_refused(make_source: Make, tmp_path: Path) -> None:
    imported("folder", make_source(5), tmp_path / "data")
    assert "never replaces another" in refused(make_source(6, "other"), tmp_path / "data", ConfigError)


def test_a_target_with_other_files_or_that_is_a_file_is_refused(make_source: Make, tmp_path: Path) -> None:
    source = make_source(5)
    (tmp_path / "file").write_text("mine")
    assert "new or empty folder" in refused(source, source, ConfigError)
    assert "new or empty folder" in refused(source, tmp_path / "file", ConfigError)
    assert "must be creatable" in refused(source, tmp_path / "file" / "data", ConfigError)


def test_an_empty_folder_is_a_fine_target(make_source: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data: Dataset = imported("folder", make_source(5), tmp_path / "data")[0]
    assert len(data.cases) == 5


def test_conversions_are_said_once(make_source: Make, tmp_path: Path) -> None:
    source = make_source(4, suffix=".jpg")
    for stem in ("c0", "c1"):
        Image.open(source / f"images/{stem}.jpg").convert("L").save(source / f"images/{stem}.jpg")
    _, notices = imported("folder", source, tmp_path / "data")
    assert notices == ["2 images are grey and were read as RGB", "4 masks are JPEG and were cut at 127"]


def test_another_layout_is_one_line_that_names_them_all(make_source: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be one of folder, .*kvasir-seg, .*; got 'kvasir'"):
        import_dataset("kvasir", make_source(3), tmp_path / "data")


def test_paths_may_be_words(make_source: Make, tmp_path: Path) -> None:
    assert len(import_dataset("folder", str(make_source(5)), str(tmp_path / "data")).dataset) == 5
