"""`diffaug predict`: what a study has trained segments images of any size, and what cannot work is one line."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from study_folders import make_dataset

from diffaug.artifacts import make_folder, read_json, write_json
from diffaug.cli.main import main
from diffaug.config import LITE, StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.images import read_image, write_png
from diffaug.errors import ConfigError, DataError, StudyError
from diffaug.runfolder import FORMAT
from diffaug.study.architectures import digest_of_network
from diffaug.study.batches import load_images
from diffaug.study.evaluate import enlarged, probabilities
from diffaug.study.network import load_network
from diffaug.study.predict import predict_images
from diffaug.study.study import run_study

CONFIG = StudyConfig(
    arms=("real", "copy-paste"), seeds=2, size=64, network="unet", widths=(8,) * 5, iterations=12, batch_size=4,
    learning_rate=2e-2, ema=0.5, bootstrap=20, workers=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two arms and two seeds; its data set is removed, as that of a trained model may be."""
    folder = tmp_path_factory.mktemp("predict")
    run_study(make_dataset(folder / "data"), folder / "study", [], CONFIG, seed=3)
    shutil.rmtree(folder / "data")
    return folder / "study"


@pytest.fixture
def pictures(tmp_path):
    """Images of three sizes, one of them grey."""
    folder, rng = make_folder(tmp_path / "pictures"), np.random.default_rng(0)
    for name, shape in (("tiny", (9, 7, 3)), ("wide", (40, 333, 3)), ("grey", (70, 64))):
        write_png(folder / f"{name}.png", rng.integers(0, 256, shape, dtype=np.uint8))
    return folder


def probability(folder, name):
    return np.asarray(Image.open(folder / "probabilities" / f"{name}.png"), np.float64) / 65535


def test_every_image_gets_mask_overlay_and_probabilities_of_its_own_size(study, pictures, tmp_path):
    summary = predict_images(study, pictures, tmp_path / "out", arm="real")
    assert summary.segmented == 3 and read_json(tmp_path / "out" / "summary.json") == summary.as_dict()
    for path in pictures.iterdir():
        size = read_image(path).shape[:2]
        mask, found = (
            read_image(tmp_path / "out" / "masks" / path.name)[..., 0],
            probability(tmp_path / "out", path.stem),
        )
        assert mask.shape == found.shape == size == read_image(tmp_path / "out" / "overlays" / path.name).shape[:2]
        assert np.array_equal(mask, 255 * (found > 0.5)) and 0 <= found.min() < found.max() <= 1
        assert summary.found[path.name] == pytest.approx((mask > 0).mean(), abs=1e-4)


def test_the_runs_of_an_arm_are_averaged_and_one_can_be_chosen(study, pictures, tmp_path):
    maps = {}
    for seed in (None, 3, 4):
        predict_images(study, pictures, tmp_path / str(seed), arm="real", seed=seed)
        maps[seed] = probability(tmp_path / str(seed), "wide")
    assert np.abs(maps[3] - maps[4]).max() > 1e-3
    assert np.allclose(maps[None], (maps[3] + maps[4]) / 2, atol=2e-5)
    assert set(read_json(tmp_path / "None" / "config.json")["identity"]["weights"]) == {"real-3", "real-4"}
    with pytest.raises(ConfigError, match="was made with arm = real, not copy-paste, and"):
        predict_images(study, pictures, tmp_path / "None", arm="copy-paste")
    with pytest.raises(ConfigError, match=r"was made with seeds = \[3, 4\], not \[4\], and"):
        predict_images(study, pictures, tmp_path / "None", arm="real", seed=4)
    predict_images(study, pictures, tmp_path / "pasted", arm="copy-paste", seed=3)
    assert np.abs(probability(tmp_path / "pasted", "wide") - maps[3]).max() > 1e-3


def test_a_tested_case_gets_the_probabilities_that_the_study_tested(tmp_path):
    data = make_dataset(tmp_path / "data")
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1})
    run_study(data, tmp_path / "study", [], config)
    cases = read_dataset(data).split("test")
    network = load_network(config, tmp_path / "study" / "runs" / "real-0.safetensors")
    predict_images(tmp_path / "study", data / "images", tmp_path / "out")
    for case, maps in zip(cases, probabilities(network, load_images(cases, 64)), strict=True):
        wanted = enlarged(maps, case.read_image().shape[:2])[0]
        assert np.allclose(probability(tmp_path / "out", case.id), wanted, atol=1e-4)


def test_of_several_classes_the_mask_holds_the_values_of_the_labels(eyes, tmp_path):
    run_study(eyes, tmp_path / "study", [], CONFIG.model_copy(update={"arms": ("real",), "seeds": 1}))
    predict_images(tmp_path / "study", eyes / "images", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "probabilities").iterdir()) == ["cup", "disc"]
    for path in (tmp_path / "out" / "masks").iterdir():
        assert set(np.unique(np.asarray(Image.open(path)))) <= {0, 1, 2}


def test_masks_overlays_and_probabilities_keep_the_subfolders_of_the_images(study, pictures, tmp_path):
    photos = make_folder(tmp_path / "photos")
    for patient in ("P01", "P02"):
        shutil.copytree(pictures, photos / patient / "day")
    assert predict_images(study, photos, tmp_path / "out", arm="real").segmented == 6
    for kind in ("masks", "overlays", "probabilities"):
        made = {
            path.relative_to(tmp_path / "out" / kind).as_posix() for path in (tmp_path / "out" / kind).rglob("*.png")
        }
        assert made == {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}


def test_a_single_image_is_enough(study, pictures, tmp_path):
    assert predict_images(study, pictures / "wide.png", tmp_path / "out", arm="real").segmented == 1


def test_the_default_network_predicts_too(pictures, tmp_path):
    config = StudyConfig(arms=("real",), size=64, iterations=1, batch_size=4, bootstrap=20, workers=1)
    assert config.network == LITE
    run_study(make_dataset(tmp_path / "data"), tmp_path / "study", [], config)
    assert predict_images(tmp_path / "study", pictures, tmp_path / "out").segmented == 3


def test_what_cannot_work_is_refused_before_anything_is_written(study, pictures, tmp_path):
    bare = shutil.copytree(study, tmp_path / "bare")
    for path in (bare / "runs").glob("real-*.safetensors"):
        path.unlink()
    empty, holder = make_folder(tmp_path / "empty"), tmp_path / "holder"
    for name in ("images", "masks"):
        shutil.copytree(pictures, holder / name)
    run, leaks = tmp_path / "run", make_folder(tmp_path / "leaks")
    shutil.copytree(study, run / "n6-draw0" / "study")
    write_json(make_folder(run / "n6") / "study.json", {"draws": [0]})
    folds = tmp_path / "folds"
    write_json(make_folder(folds / "nall-draw0-fold0" / "study") / "study.json", {})
    write_json(leaks / "study.json", {"format": FORMAT, "kind": "leak study", "identity": {}})
    wrong = [
        (run / "n6", pictures, {}, StudyError, "name .*n6-draw0.study"),
        (run / "n6-draw0", pictures, {}, StudyError, "name .*n6-draw0.study$"),
        (run, pictures, {}, StudyError, "name .*n6-draw0.study$"),
        (folds, pictures, {}, StudyError, "name .*nall-draw0-fold0.study, whose networks .* without one fold"),
        (tmp_path / "nowhere", pictures, {}, StudyError, "nowhere does not exist; check the path"),
        (leaks, pictures, {}, StudyError, "holds a leak study"),
        (study, pictures, {}, ConfigError, "real, copy-paste; name one of them"),
        (study, pictures, {"arm": "selected"}, ConfigError, "real, copy-paste, not 'selected'"),
        (study, pictures, {"arm": "real", "seed": 0}, ConfigError, "seeds 3, 4, not 0"),
        (bare, pictures, {"arm": "real"}, StudyError, "--arms real, which trains what is missing"),
        (study, empty, {"arm": "real"}, DataError, "holds none"),
        (study, holder, {"arm": "real"}, DataError, "name .*images"),
        (study, tmp_path, {"arm": "real"}, ConfigError, "must not lie among the images"),
        (empty, pictures, {"arm": "real"}, DataError, "study.json says what a folder holds"),
        (study, pictures, {"arm": "real", "device": "cuda:9"}, ConfigError, "cuda"),
    ]
    for folder, images, options, error, told in wrong:
        with pytest.raises(error, match=told) as found:
            predict_images(folder, images, tmp_path / "out", **options)
        assert "\n" not in str(found.value) and not (tmp_path / "out").exists()


def test_some_weights_are_enough_and_others_are_said_to_be_missing(study, pictures, tmp_path, caplog):
    part = shutil.copytree(study, tmp_path / "part")
    (part / "runs" / "real-4.safetensors").unlink()
    predict_images(part, pictures, tmp_path / "out", arm="real")
    assert "1 of 2 runs have no weights" in caplog.text
    with pytest.raises(StudyError, match=r"lacks real-4\.safetensors"):
        predict_images(part, pictures, tmp_path / "more", arm="real", seed=4)


def test_an_arm_that_the_last_call_of_the_study_did_not_name_predicts_too(tmp_path, pictures):
    data, config = make_dataset(tmp_path / "data"), CONFIG.model_copy(update={"seeds": 1})
    run_study(data, tmp_path / "study", [], config)
    run_study(data, tmp_path / "study", [], config.model_copy(update={"arms": ("real",)}))
    assert predict_images(tmp_path / "study", pictures, tmp_path / "out", arm="copy-paste").segmented == 3


def test_damaged_weights_and_weights_of_another_network_are_refused(study, pictures, tmp_path):
    other = shutil.copytree(study, tmp_path / "other")
    path = other / "runs" / "real-3.safetensors"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 a pickle"):
        path.write_bytes(content)
        with pytest.raises(StudyError, match="weights of a run must be whole"):
            predict_images(other, pictures, tmp_path / "out", arm="real", seed=3)
    assert not (tmp_path / "out").exists()


def test_a_study_by_folds_keeps_no_weights(pictures, tmp_path):
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1, "batch_size": 2})
    run_study(make_dataset(tmp_path / "data"), tmp_path / "study", [], config, folds=2)
    with pytest.raises(StudyError, match="by folds keeps no weights"):
        predict_images(tmp_path / "study", pictures, tmp_path / "out")


def test_code_that_a_study_names_runs_only_if_the_user_names_it_too(study, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from_a_stranger.py").write_text("open('ran', 'w').close()\ndef build(classes): ...\n")
    other = shutil.copytree(study, tmp_path / "other")
    plan = read_json(other / "study.json")
    plan["config"] |= {"network": "from_a_stranger:build", "widths": StudyConfig().widths}
    write_json(other / "study.json", plan)
    digest_of_network.cache_clear()
    with pytest.raises(ConfigError, match="add --network from_a_stranger:build"):
        predict_images(other, pictures, tmp_path / "out", arm="real")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_the_command_prints_what_it_found_and_names_what_it_could_not_read(study, pictures, tmp_path, capsys):
    main(["predict", str(study), str(pictures), str(tmp_path / "out"), "--arm", "real", "--seed", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["segmented"] == 3
    (pictures / "broken.png").write_bytes((pictures / "wide.png").read_bytes()[:99])
    with pytest.raises(SystemExit) as end:
        main(["predict", str(study), str(pictures), str(tmp_path / "more"), "--arm", "real"])
    err = capsys.readouterr().err
    assert end.value.code == 1 and "broken.png" in err.splitlines()[-1] and "other 3" in err
    with pytest.raises(SystemExit):
        main(["predict", str(study), str(pictures), str(tmp_path / "more"), "--arm", "copy-paste"])
    assert "made with arm = real, not copy-paste" in capsys.readouterr().err
