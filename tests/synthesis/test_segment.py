import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffaug.artifacts import make_folder, read_json, write_json
from diffaug.cli.main import main
from diffaug.data.folder import read_dataset
from diffaug.data.images import read_image, write_png
from diffaug.data.segmented import images_of
from diffaug.errors import ConfigError, DataError, ModelError, StorageError
from diffaug.models.checkpoints import seal
from diffaug.painting.painter import Painter, painter_digest
from diffaug.synthesis.segment import label_of, lesion_probabilities, segment_images


@pytest.fixture
def pictures(phantoms, tmp_path):
    """Frames of three shapes."""
    folder = make_folder(tmp_path / "bilder")
    frames = [case.read_image() for case in read_dataset(phantoms).split("train")[:3]]
    for name, frame in (("square", frames[0]), ("wide", frames[1][20:100]), ("high", frames[2][:, 30:])):
        write_png(folder / f"{name}.png", np.ascontiguousarray(frame))
    return folder


def test_every_image_gets_a_mask_and_an_overlay_of_its_own_size(fitted, pictures, tmp_path):
    summary = segment_images(fitted, pictures, tmp_path / "out")
    assert summary.segmented == 3 and summary.failed == ()
    assert read_json(tmp_path / "out" / "summary.json") == summary.as_dict()
    for path in pictures.iterdir():
        mask = read_image(tmp_path / "out" / "masks" / path.name)
        assert mask.shape == read_image(path).shape == read_image(tmp_path / "out" / "overlays" / path.name).shape
        assert set(np.unique(mask)) <= {0, 255}
        assert summary.found[path.name] == pytest.approx((mask[..., 0] > 0).mean(), abs=1e-4)


def test_a_probability_is_that_of_the_pixel_it_lies_on(fitted, pictures):
    painter, frame = Painter.load(fitted), read_image(pictures / "square.png")
    whole = lesion_probabilities(painter, frame)
    assert whole.shape == (1, *frame.shape[:2]) and ((whole > 0) & (whole < 1)).all()
    mirrored = lesion_probabilities(painter, np.ascontiguousarray(frame[16:112]))
    assert mirrored.shape == (1, 96, 128)


def test_an_undecodable_image_is_listed_and_the_others_are_segmented(fitted, pictures, tmp_path, capsys):
    (pictures / "broken.png").write_bytes((pictures / "wide.png").read_bytes()[:200])
    (pictures / "notes.txt").write_text("no image")
    with pytest.raises(SystemExit) as end:
        main(["segment", str(fitted), str(pictures), str(tmp_path / "out")])
    err = capsys.readouterr().err
    assert end.value.code == 1 and err.count("\n") == 1
    assert "broken.png" in err and "other 3" in err and "notes" not in err
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == ["broken.png"]


def test_a_full_disk_is_one_line(fitted, pictures, tmp_path, full_disk):
    with full_disk(), pytest.raises(StorageError, match=r"overlays/.*free some space"):
        segment_images(fitted, pictures, tmp_path / "out")


def test_what_a_file_manager_leaves_is_no_image(fitted, pictures, tmp_path):
    (pictures / "._square.png").write_bytes(b"no image")
    assert segment_images(fitted, pictures, tmp_path / "out").segmented == 3


def test_the_mask_of_an_image_that_is_gone_is_gone_too(fitted, pictures, tmp_path):
    out = tmp_path / "out"
    segment_images(fitted, pictures, out)
    (pictures / "wide.png").unlink()
    (pictures / "high.png").write_bytes(b"no image any more")
    with pytest.raises(DataError, match=r"high\.png did not.*not an image"):
        segment_images(fitted, pictures, out)
    for kind in ("masks", "overlays"):
        assert [path.name for path in (out / kind).iterdir()] == ["square.png"]


def test_images_that_would_share_a_mask_are_refused(fitted, pictures, tmp_path):
    (pictures / "folder.png").mkdir()  # is no image
    shutil.copyfile(pictures / "wide.png", pictures / "wide.bmp")
    with pytest.raises(DataError, match=r"wide\.bmp, wide\.png") as error:
        segment_images(fitted, pictures, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_the_same_command_segments_again_and_other_images_need_another_folder(fitted, pictures, tmp_path):
    first = segment_images(fitted, pictures, tmp_path / "out")
    assert segment_images(fitted, pictures, tmp_path / "out") == first
    with pytest.raises(ConfigError, match="made with images = "):
        segment_images(fitted, Path(shutil.copytree(pictures, tmp_path / "other")), tmp_path / "out")


def test_a_folder_without_images_is_one_line_of_error(fitted, tmp_path):
    with pytest.raises(DataError, match="holds none") as error:
        segment_images(fitted, make_folder(tmp_path / "empty"), tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_images_in_subfolders_keep_them_and_nothing_is_left_out(fitted, pictures, tmp_path):
    photos = make_folder(tmp_path / "photos")
    shutil.copyfile(pictures / "wide.png", photos / "wide.png")
    shutil.copytree(pictures, photos / "P01")
    shutil.copytree(pictures, photos / "P02" / "day 1")
    (photos / "P02" / "day 1" / "high.png").write_bytes(b"no image")
    (photos / "P03").symlink_to(pictures)  # many people arrange their images by links
    (photos / "P03" / "again").symlink_to(photos)  # leads back
    with pytest.raises(DataError, match=r"P02/day 1/high\.png did not, the other 9"):
        segment_images(fitted, photos, tmp_path / "out")
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["failed"] == ["P02/day 1/high.png"]
    wanted = {"wide.png", "P02/day 1/square.png", "P02/day 1/wide.png"}
    wanted |= {f"{folder}/{path.name}" for folder in ("P01", "P03") for path in pictures.glob("*.png")}
    assert set(summary["found"]) == wanted
    for kind in ("masks", "overlays"):
        made = {
            path.relative_to(tmp_path / "out" / kind).as_posix() for path in (tmp_path / "out" / kind).rglob("*.png")
        }
        assert made == wanted
    shutil.rmtree(photos / "P02")
    assert segment_images(fitted, photos, tmp_path / "out").segmented == 7
    assert not (tmp_path / "out" / "masks" / "P02").exists()


def test_masks_beside_their_images_are_left_out_and_counted(tmp_path, caplog):
    place = tmp_path / "own"
    for name in ("P1/us_1", "P1/us_1_seg", "P1/us_2", "P1/US_2_mask_1", "P2/us_1_seg", "mask_3", "4", "4_b"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(place / f"{name}.png")
    found = images_of(place, tmp_path / "out")
    names = {found.name_of(path) for path in found.paths}
    assert names == {"P1/us_1.png", "P1/us_2.png", "P2/us_1_seg.png", "mask_3.png", "4.png", "4_b.png"}
    assert "masks beside their images are left out: 2, such as P1/" in caplog.text


def test_folders_of_masks_and_results_among_the_images_are_refused(pictures, tmp_path):
    whole = make_folder(tmp_path / "whole")
    for name in ("images", "masks"):
        shutil.copytree(pictures, whole / name)
    with pytest.raises(DataError, match=r"not masks: .* has the folder masks; name .*whole/images$"):
        images_of(whole, tmp_path / "out")
    assert len(images_of(whole / "images", tmp_path / "out").paths) == 3
    with pytest.raises(ConfigError, match="name another folder"):
        images_of(pictures, pictures / "results")
    with pytest.raises(DataError, match="is no folder and no file; check the path"):
        images_of(tmp_path / "nowhere", tmp_path / "out")
    (whole / "images" / "wide.PNG").mkdir()
    shutil.copyfile(pictures / "wide.png", whole / "images" / "wide.PNG" / "a.png")
    assert len(images_of(whole / "images", tmp_path / "out").paths) == 4
    shutil.move(whole / "images" / "wide.PNG", whole / "images" / "high.png.png")
    shutil.move(whole / "images" / "high.png", whole / "images" / "high.png.jpg")
    with pytest.raises(DataError, match=r"each image needs a name of its own.*high\.png\.jpg"):
        images_of(whole / "images", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"validator": "0" * 16}, "validators"), ({"painter": "0" * 16}, "painter"), ({"classes": 3}, "classes")],
)
def test_validators_of_another_model_or_other_classes_are_refused(fitted, pictures, tmp_path, change, said):
    model = shutil.copytree(fitted, tmp_path / "model")
    write_json(model / "calibration.json", read_json(model / "calibration.json") | change)
    seal(model)
    with pytest.raises(ModelError, match=said) as error:
        segment_images(model, pictures, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    assert painter_digest(model) == read_json(fitted / "calibration.json")["painter"]


@pytest.mark.parametrize(
    "part", ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
             "pytorch_lora_weights.safetensors", "base.json"],
)  # fmt: skip
def test_validators_belong_to_all_that_paints_and_to_nothing_else(tmp_path, part):
    (tmp_path / part).parent.mkdir(exist_ok=True)
    (tmp_path / part).write_bytes(b"one")
    before = painter_digest(tmp_path)
    (tmp_path / "fit.json").write_bytes(b"{}")
    assert painter_digest(tmp_path) == before
    (tmp_path / part).write_bytes(b"other")
    assert painter_digest(tmp_path) != before


def test_the_innermost_class_is_written_where_several_hold_a_pixel():
    masks = np.zeros((2, 2, 3), dtype=bool)
    masks[0, 0], masks[1, 0, 1] = True, True
    assert label_of(masks).tolist() == [[1, 2, 1], [0, 0, 0]]
    assert label_of(masks[:1]).tolist() == [[255] * 3, [0] * 3]
