import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import fundus, imported, refuge_seed, refuge_stems, write_refuge, write_refuge_mirror
from PIL import Image

from diffaug.data.folder import Dataset, check_dataset
from diffaug.data.sources.refuge2 import read_refuge2
from diffaug.errors import DataError

STEMS = refuge_stems()


def splits_of(data: Dataset) -> dict[str, int]:
    return Counter(case.split for case in data.cases)


def labels_of(data: Dataset) -> dict[str, float | None]:
    return {case.id: case.attributes.get("glaucoma") for case in data.cases}


def test_the_published_layout_comes_in_with_its_splits_codes_and_labels(tmp_path: Path) -> None:
    data, notices = imported("refuge2", write_refuge(tmp_path / "source"), tmp_path / "data")
    assert splits_of(data) == {"train": 5, "val": 2, "test": 3}
    assert data.class_names == ("disc", "cup")
    for split, stems in STEMS.items():
        for stem in stems:
            case = data[f"{split}-{stem}"]
            assert np.array_equal(case.read_label(), fundus(refuge_seed(stem))[1])
            assert case.image.suffix == ".jpg" and case.group == case.id
    labels = labels_of(data)
    assert [labels[f"train-{stem}"] for stem in STEMS["train"]] == [1, 1, 0, 0, 0]
    assert [labels[f"test-{stem}"] for stem in STEMS["test"]] == [1, 0, 1]
    assert [labels[f"val-{stem}"] for stem in STEMS["val"]] == [None, None]
    assert "2 images are without a glaucoma label" in notices
    assert "train has 5 of the 400 published images" in notices
    assert check_dataset(data).notices == ()


@pytest.mark.parametrize(
    ("inside", "options"),
    [
        ("REFUGE2", {}),
        ("", {"suffix": ".png"}),
        ("REFUGE", {"images": "Images", "masks": "Masks", "suffix": ".png", "codes": np.arange(3, dtype=np.uint8)}),
    ],
    ids=["codes in BMP", "codes in PNG", "class numbers"],
)
def test_the_layouts_of_mirrors_give_the_same_labels(tmp_path: Path, inside: str, options: dict[str, object]) -> None:
    write_refuge_mirror(tmp_path / "source" / inside, **options)  # type: ignore[arg-type]
    data, _ = imported("refuge2", tmp_path / "source", tmp_path / "data")
    assert splits_of(data) == {"train": 5, "val": 2, "test": 3}
    for split, stems in STEMS.items():
        for stem in stems:
            assert np.array_equal(data[f"{split}-{stem}"].read_label(), fundus(refuge_seed(stem))[1])


def test_class_numbers_in_palette_colours_are_the_numbers(tmp_path: Path) -> None:
    write_refuge_mirror(tmp_path / "source", suffix=".png", codes=np.arange(3, dtype=np.uint8))
    for path in (tmp_path / "source").rglob("mask*/*.png"):
        coloured = Image.fromarray(np.asarray(Image.open(path))).convert("P")
        coloured.putdata(np.asarray(Image.open(path)).ravel().tolist())
        coloured.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        coloured.save(path)
    data, _ = imported("refuge2", tmp_path / "source", tmp_path / "data")
    for split, stems in STEMS.items():
        for stem in stems:
            assert np.array_equal(data[f"{split}-{stem}"].read_label(), fundus(refuge_seed(stem))[1])


def test_a_mask_without_background_is_refused(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source", suffix=".png")
    path = next(iter(sorted((source / "train").rglob("mask*/*.png"))))
    Image.fromarray(np.minimum(np.asarray(Image.open(path)), 128)).save(path)
    with pytest.raises(DataError, match=r"has no 255; restore the file"):
        imported("refuge2", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_index_tells_glaucoma_where_names_do_not(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    index = {"0": {"ImgName": "V0001.jpg", "Label": 1}, "1": {"ImgName": "V0002.jpg", "Label": 0}}
    (source / "val/index.json").write_text(json.dumps(index))
    (source / "test/index.json").write_text(json.dumps({"0": {"ImgName": "T0001.jpg"}}))
    labels = {case.id: case.attributes.get("glaucoma") for case in read_refuge2(source).records}
    assert (labels["val-V0001"], labels["val-V0002"], labels["test-T0001"]) == (1.0, 0.0, None)


def test_a_set_may_lack_a_split(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    shutil.rmtree(source / "val")
    assert splits_of(imported("refuge2", source, tmp_path / "data")[0]) == {"train": 5, "test": 3}


def test_images_are_copied_byte_by_byte(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    data, _ = imported("refuge2", source, tmp_path / "data")
    assert data["train-g0001"].image.read_bytes() == (source / "train/images/g0001.jpg").read_bytes()


def test_crops_hold_the_disc_and_masks_never_choose_them(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    data, notices = imported("refuge2-crops", source, tmp_path / "data")
    assert len(data) == 10 and not any("crops" in notice for notice in notices)
    for case in data.cases:
        label = fundus(refuge_seed(case.id.split("-")[1]))[1]
        assert (case.read_label() > 0).sum() == (label > 0).sum()
        assert case.read_image().shape[:2] == case.read_label().shape < (60, 60)
    mask = source / "test/mask/T0001.bmp"
    Image.fromarray(np.roll(np.asarray(Image.open(mask)), 12, axis=0)).save(mask)
    moved, _ = imported("refuge2-crops", source, tmp_path / "moved")
    assert moved["test-T0001"].image.read_bytes() == data["test-T0001"].image.read_bytes()
    assert not np.array_equal(moved["test-T0001"].read_label(), data["test-T0001"].read_label())


def test_crops_that_cut_or_miss_the_disc_are_said(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    for stem, columns in (("n0003", 20), ("n0004", 48)):
        mask = source / f"train/mask/{stem}.bmp"
        Image.fromarray(np.roll(np.asarray(Image.open(mask)), columns, axis=1)).save(mask)
    data, notices = imported("refuge2-crops", source, tmp_path / "data")
    assert "crops that cut the disc: 1, such as train-n0003" in notices
    assert "crops that missed the disc and were left out: 1, such as train-n0004" in notices
    assert len(data) == 9
    assert not (data.folder / "images/train-n0004.png").exists()


def strange_code(source: Path) -> None:
    mask = np.array(Image.open(source / "val/mask/V0001.bmp"))
    mask[3, 3] = 77
    Image.fromarray(mask).save(source / "val/mask/V0001.bmp")


def other_size(source: Path) -> None:
    Image.open(source / "val/mask/V0001.bmp").resize((40, 40), Image.Resampling.NEAREST).save(
        source / "val/mask/V0001.bmp"
    )


def empty(source: Path) -> None:
    Image.fromarray(np.full((96, 96), 255, np.uint8)).save(source / "val/mask/V0001.bmp")


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (strange_code, r"val-V0001 .* has 77, nearest is 128"),
        (other_size, r"the size of its image: case val-V0001"),
        (lambda s: (s / "val/mask/V0001.bmp").write_bytes(b"BM"), "every file must decode: case val-V0001"),
        (lambda s: (s / "val/images/V0001.jpg").write_bytes(b"no image"), "every file must decode: case val-V0001"),
        (lambda s: (s / "val/mask/V0001.bmp").unlink(), "every image needs a mask of the same stem: case V0001"),
        (lambda s: (s / "val/images/V0001.jpg").unlink(), "every mask needs an image of the same stem: case V0001"),
        (lambda s: shutil.rmtree(s / "val/mask"), "images need their masks: val"),
        (lambda s: (s / "val/index.json").write_text("[1]"), "index.json lists ImgName and Label"),
        (lambda s: [shutil.rmtree(s / split) for split in STEMS], "holds no file"),
        (shutil.rmtree, "the images to import must lie in a folder"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    tmp_path: Path, crop: bool, spoil: Callable[[Path], object], part: str
) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    spoil(source)
    with pytest.raises(DataError, match=part) as error:
        imported("refuge2-crops" if crop else "refuge2", source, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if path != source] == []


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    source = write_refuge_mirror(tmp_path / "source")
    empty(source)
    with pytest.raises(DataError, match="must hold a lesion: case val-V0001"):
        imported("refuge2", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()
