"""Real studies of seconds; everything that imports MONAI is here."""

import json
import math
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from study_folders import make_dataset, make_painted_eyes, make_synthetic, row_of

from diffaug.artifacts import digest_of_file, read_json, read_jsonl, write_json, write_jsonl
from diffaug.conditioning.attributes import FEATURES
from diffaug.conditioning.budget import read_needs
from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.funnel import funnel
from diffaug.data.lesions import SIZES
from diffaug.data.manifest import accepted, lesions, read_rows, write_rows
from diffaug.errors import ConfigError, DataError, DiffaugError, StorageError, StudyError
from diffaug.report.page import write_report
from diffaug.runfolder import held
from diffaug.study import choose, derive
from diffaug.study import network as segmenter
from diffaug.study.architectures import CELL
from diffaug.study.arms import Arm
from diffaug.study.batches import Batches
from diffaug.study.derive import Baseline
from diffaug.study.inputs import read_inputs, read_set
from diffaug.study.leaks import leak_study
from diffaug.study.network import build_network, dice_loss, segmentation_loss, train
from diffaug.study.sets import Labelling, pseudo_label_set, read_baseline, select_set
from diffaug.study.strata import STRATA
from diffaug.study.study import run_study

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
CONFIG = StudyConfig(
    arms=("real", "copy-paste", "validated", "selected"), seeds=2, size=64, network="unet", widths=(8, 8, 16, 16, 16),
    iterations=6, batch_size=4, learning_rate=5e-3, ema=0.5, synthetic_per_real=0.5, bootstrap=50, workers=1,
)  # fmt: skip

LABELLING = CONFIG.model_copy(
    update={"arms": ("real", "pseudo-label"), "seeds": 1, "pseudo_confidence": 0.0, "iterations": 25}
)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".log." not in path.name
    }


def records_of(study):
    return [row for path in sorted(study.glob("runs/*-[0-9].jsonl")) for row in read_jsonl(path)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A data set and a synthetic set that no test changes."""
    root = tmp_path_factory.mktemp("inputs with späces")
    return make_dataset(root / "data"), make_synthetic(root / "synthetic", negatives=4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, inputs):
    """A finished study that no test changes."""
    dataset, synthetic = inputs
    out = tmp_path_factory.mktemp("finished") / "out"
    run_study(dataset, out, [synthetic], CONFIG)
    return out


@pytest.fixture
def study(tmp_path, finished):
    return shutil.copytree(finished, tmp_path / "study")


def test_a_seed_gives_the_same_initial_weights_and_another_seed_others():
    one, two, other = (build_network(CONFIG, seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_network_returns_one_logit_a_pixel():
    assert build_network(StudyConfig(), 0)(torch.rand(2, 3, 128, 128)).shape == (2, 1, 128, 128)


def test_a_new_network_draws_no_checkerboard():
    logits = build_network(CONFIG, 0)(torch.rand(2, 3, 64, 64))
    cells = torch.nn.functional.pixel_unshuffle(logits, CELL)
    assert torch.allclose(cells, cells[:, :1].expand_as(cells))
    assert logits.std() > 0


def test_the_loss_is_smallest_for_the_reference_itself():
    masks = (torch.rand(2, 1, 16, 16) > 0.5).float()
    right, wrong = (segmentation_loss(logits, masks) for logits in (40 * masks - 20, 20 - 40 * masks))
    assert 0 <= right < 0.01 < wrong


def test_the_loss_is_the_formula_of_its_docstring():
    logits, masks = torch.randn(3, 2, 16, 16).double(), (torch.rand(3, 2, 16, 16) > 0.7).double()
    p = torch.sigmoid(logits)
    overlap = (2 * (p * masks).sum((2, 3)) + 1) / (p.sum((2, 3)) + masks.sum((2, 3)) + 1)
    entropy = -(masks * p.log() + (1 - masks) * (1 - p).log()).mean()
    assert segmentation_loss(logits, masks).item() == pytest.approx((1 - overlap.mean() + entropy).item(), abs=1e-12)


def test_the_dice_loss_and_its_gradient_are_those_of_monai_bit_by_bit():
    from monai.losses import DiceLoss

    masks = (torch.rand(3, 2, 32, 32) > 0.7).float()
    ours, theirs = (torch.randn(masks.shape, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    losses = (
        dice_loss(ours.requires_grad_().sigmoid(), masks),
        DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(theirs.requires_grad_(), masks),
    )
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses) and torch.equal(ours.grad, theirs.grad)


def test_training_learns_lesions_it_has_not_seen(tmp_path, dataset):
    config = CONFIG.model_copy(update={"iterations": 120, "arms": ("real",), "seeds": 1})
    summary = run_study(dataset, tmp_path / "out", [], config)
    assert summary["arms"]["real"]["dice"]["mean"] > 0.5


def test_a_study_writes_what_it_ran_and_a_record_for_every_case(finished, inputs):
    dataset, study = inputs[0], finished
    summary = read_json(study / "summary.json")
    assert set(summary["arms"]) == set(CONFIG.arms)
    others = {f"{arm} - real" for arm in CONFIG.arms[1:]}
    assert set(summary["differences"]) == {*others, "selected - copy-paste", "selected - validated"}
    assert summary["arms"]["validated"]["cases"] == {
        "real": 6, "pool": 3 + 2, "trained_negatives": 2, "wanted_negatives": 2
    }  # fmt: skip  # of four fills one is held out
    assert summary["arms"]["real"]["negatives"]["n"] == 1
    for arm in summary["arms"].values():
        assert (arm["n"], arm["seeds"]) == (5, 2)
        assert sum(arm["strata"][name]["n"] for name in SIZES) == 5
        assert set(arm["strata"]) == set(STRATA)
    rows = records_of(study)
    assert len(rows) == 4 * 2 * 5
    assert len((study / "cases.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(rows)
    assert {row["case"] for row in rows} == {case.id for case in read_dataset(dataset).split("test")}
    plan = read_json(study / "study.json")
    assert plan["cases"] == {"train": 6, "unannotated": 0, "test": 5, "synthetic": [4], "full": 0}
    assert plan["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]  # the build may be left out
    assert not list(study.glob("runs/*.checkpoint"))


def test_predictions_of_the_first_seed_are_kept_and_score_as_recorded(finished, inputs):
    cases = {case.id: case for case in read_dataset(inputs[0]).cases}
    rows, study = records_of(finished), finished
    assert {bool(row["prediction"]) for row in rows if row["seed"] == 0} == {True}
    assert {bool(row["prediction"]) for row in rows if row["seed"] == 1} == {False}
    for row in rows:
        if row["prediction"]:
            prediction = np.asarray(Image.open(study / row["prediction"])) > 0
            reference = cases[row["case"]].read_mask()
            both = (prediction & reference).sum()
            assert row["dice"] == pytest.approx(2 * both / (prediction.sum() + reference.sum()))


def test_a_killed_study_resumed_equals_an_unbroken_one(tmp_path, inputs, finished, monkeypatch):
    dataset, synthetic = inputs
    monkeypatch.setattr("diffaug.training.loop.CHECKPOINT_SECONDS", -1.0)
    broken = tmp_path / "broken"
    calls = iter([9, 7, 19])  # iterations that live until each kill

    def kill_after(left):
        real_check = segmenter.check_finite

        def check(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real_check(*arguments)

        return check

    for left in calls:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(segmenter, "check_finite", kill_after(left))
            run_study(dataset, broken, [synthetic], CONFIG)
        assert not (broken / "summary.json").exists()
    run_study(dataset, broken, [synthetic], CONFIG)
    assert files_of(broken) == files_of(finished)


def test_checkpoints_that_a_study_left_when_it_was_killed_at_the_end_of_a_run_are_removed(tmp_path, inputs, finished):
    dataset, synthetic = inputs
    study = Path(shutil.copytree(finished, tmp_path / "study"))
    (study / "runs" / "real-0.checkpoint").write_bytes(b"of the last iteration")
    (study / "summary.json").unlink()
    run_study(dataset, study, [synthetic], CONFIG)
    assert files_of(study) == files_of(finished)
    assert not list(study.rglob("*.checkpoint"))


@pytest.mark.parametrize("torn", [b"", b"half"])
def test_a_torn_prediction_is_made_again(tmp_path, inputs, finished, torn):
    dataset, synthetic = inputs
    study = Path(shutil.copytree(finished, tmp_path / "study"))
    next((study / "predictions").glob("real-0/*.png")).write_bytes(torn)
    run_study(dataset, study, [synthetic], CONFIG)
    assert files_of(study) == files_of(finished)


def test_torn_weights_of_a_finished_run_are_one_line_that_names_the_file(tmp_path, inputs, finished):
    dataset, synthetic = inputs
    study = Path(shutil.copytree(finished, tmp_path / "study"))
    weights = study / "runs" / "real-0.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(DiffaugError, match=r"real-0\.safetensors"):
        run_study(dataset, study, [synthetic], CONFIG)


@pytest.mark.slow  # two processes import torch; tests/compute/test_pool.py tests order and threads of a pool by default
@pytest.mark.parametrize("pool", ["processes", "ray"])
def test_two_workers_write_what_one_writes(tmp_path, inputs, finished, pool, request):
    dataset, synthetic = inputs
    two, ray = tmp_path / "two", {}
    if pool == "ray":
        request.getfixturevalue("ray_cluster")
        ray = {"ray": "auto"}
    run_study(dataset, two, [synthetic], CONFIG.model_copy(update={"workers": 2, **ray}))
    ours, theirs = files_of(finished), files_of(two)
    del ours["study.json"], theirs["study.json"]  # says how many workers
    assert ours == theirs


def test_a_finished_study_is_not_trained_again_and_may_grow(study, inputs, caplog):
    dataset, synthetic = inputs
    before = {path: path.stat().st_mtime_ns for path in study.glob("runs/*.jsonl")}
    report = study / "report.html"
    report.write_text("of two seeds")
    run_study(dataset, study, [synthetic], CONFIG)
    assert report.is_file()  # the summary is the same
    run_study(dataset, study, [synthetic], CONFIG.model_copy(update={"seeds": 3}))
    assert not report.exists() and "showed older results and is removed" in caplog.text
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (study / "runs" / "real-2.jsonl").exists()
    assert read_json(study / "summary.json")["arms"]["real"]["seeds"] == 3


def test_a_finished_study_is_only_summed_up_by_several_workers(study, inputs):
    dataset, synthetic = inputs
    before = read_json(study / "summary.json")
    assert run_study(dataset, study, [synthetic], CONFIG.model_copy(update={"workers": 2})) == before


@pytest.mark.parametrize("change", [{"iterations": 7}, {"learning_rate": 1e-3}, {"size": 96}])
def test_another_config_in_the_same_folder_is_refused_by_name(study, inputs, change):
    dataset, synthetic = inputs
    with pytest.raises(ConfigError, match=f"made with {next(iter(change))} = .*choose another folder"):
        run_study(dataset, study, [synthetic], CONFIG.model_copy(update=change))


def test_other_images_in_the_same_folder_are_refused(tmp_path, study, inputs):
    dataset, synthetic = shutil.copytree(inputs[0], tmp_path / "data"), inputs[1]
    shutil.copy(dataset / "masks" / "test-0.png", dataset / "masks" / "test-3.png")
    with pytest.raises(ConfigError, match="made with data = "):
        run_study(dataset, study, [synthetic], CONFIG)


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_cases(tmp_path, dataset):
    cases = read_dataset(dataset).split("train")
    batches = Batches(Arm("real", cases), CONFIG, 0)
    network = build_network(CONFIG, 0)
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(StudyError, match=r"real-0 reached nan at iteration 1 on train-\d, train-\d") as caught:
        train(network, batches, CONFIG, name="real-0", files=tmp_path / "real-0")
    assert "\n" not in str(caught.value)
    assert len(read_jsonl(tmp_path / "real-0.log.jsonl")[0]["cases"]) == 4


def test_a_folder_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path, inputs):
    dataset, _ = inputs
    for folder in inputs:
        before = files_of(folder)
        with pytest.raises(ConfigError, match=r"a new or empty folder, or its own: .* no study\.json") as caught:
            run_study(dataset, folder, [], CONFIG.model_copy(update={"arms": ("real",)}))
        assert files_of(folder) == before and "\n" not in str(caught.value)


def test_a_study_that_was_killed_while_it_wrote_its_first_file_goes_on(tmp_path, inputs):
    (tmp_path / ".lock").touch()
    (tmp_path / ".duplicates.json.77.partial").write_text("{")
    run_study(inputs[0], tmp_path, [], CONFIG.model_copy(update={"arms": ("real",), "seeds": 1}))


def test_an_arm_that_fails_leaves_a_finished_study_as_it_was(tmp_path):
    dataset = partly_annotated(tmp_path / "data")
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1, "pseudo_confidence": 1.0})
    run_study(dataset, tmp_path / "out", [], config)
    before = (tmp_path / "out" / "summary.json").read_bytes()
    with pytest.raises(StudyError, match="is left for pseudo-label"):
        run_study(dataset, tmp_path / "out", [], config.model_copy(update={"arms": ("real", "pseudo-label")}))
    assert (tmp_path / "out" / "summary.json").read_bytes() == before
    write_report(tmp_path / "out")


def test_a_mask_of_another_size_is_refused_and_its_mended_case_studied(tmp_path, dataset):
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1})
    for name in ("train-0", "test-1"):
        mask = dataset / "masks" / f"{name}.png"
        before = mask.read_bytes()
        Image.open(mask).resize((20, 24)).save(mask)
        with pytest.raises(DataError, match=f"the size of its image: case {name} .* has 20 x 24 for"):
            run_study(dataset, tmp_path / "out", [], config)
        mask.write_bytes(before)
    run_study(dataset, tmp_path / "out", [], config)


def test_a_painted_mask_of_another_size_is_refused(tmp_path, inputs):
    dataset, synthetic = inputs[0], shutil.copytree(inputs[1], tmp_path / "synthetic")
    first = read_dataset(synthetic).cases[0]
    Image.open(first.mask).resize((20, 24)).save(first.mask)
    first_row, *rows = read_rows(synthetic / "manifest.jsonl")
    told = replace(first_row, mask_digest=digest_of_file(first.mask))  # or the changed file itself would be refused
    write_rows(synthetic / "manifest.jsonl", [told, *rows])
    with pytest.raises(DataError, match="the size of its image"):
        run_study(dataset, tmp_path / "out", [synthetic], CONFIG.model_copy(update={"arms": ("real", "validated")}))


@pytest.fixture(scope="module")
def labelling(tmp_path_factory):
    """A partly annotated data set, and a study of `real` and `pseudo-label` that has learned to label it."""
    folder = tmp_path_factory.mktemp("labelling")
    run_study(partly_annotated(folder / "data"), folder / "out", [], LABELLING)
    return folder


def copied(labelling, to):
    """Return a data set and its study that a test may change; nothing is trained again."""
    dataset, out = (shutil.copytree(labelling / name, to / name) for name in ("data", "out"))
    run_study(dataset, out, [], LABELLING)  # which notes where the data set lies
    return dataset, out


def told_by(benchmark, words, monkeypatch, capsys):
    """Return what a benchmark prints. It runs in this process, which has imported what it needs."""
    capsys.readouterr()
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [benchmark, *map(str, words)])
    runpy.run_path(str(BENCHMARKS / benchmark), run_name="__main__")
    return capsys.readouterr().out


def test_labels_and_studies_belong_to_the_images_that_are_there(labelling, tmp_path):
    config, (dataset, _) = LABELLING, copied(labelling, tmp_path)
    gone = read_jsonl(tmp_path / "out" / "pseudo" / "masks.jsonl")[0]["id"]
    table = dataset / "cases.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(line for line in lines if not line.startswith(f"{gone},")) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="made with unannotated = "):
        run_study(dataset, tmp_path / "out", [], config)
    left = [row["id"] for row in read_jsonl(tmp_path / "out" / "pseudo" / "masks.jsonl") if row["id"] != gone]
    shutil.copyfile(dataset / "images" / "train-0.png", dataset / "images" / f"{left[0]}.png")
    before = read_jsonl(tmp_path / "out" / "pseudo" / "masks.jsonl")
    assert pseudo_label_set(tmp_path / "out", tmp_path / "labelled").unannotated == len(left)
    after = read_jsonl(tmp_path / "out" / "pseudo" / "masks.jsonl")
    assert [row["id"] for row in after] == left and after[1] == {**before[2], "mask": after[1]["mask"]}
    assert after[0]["image"] == digest_of_file(dataset / "images" / "train-0.png") != before[1]["image"]
    run_study(dataset, tmp_path / "out", [], config.model_copy(update={"arms": ("real",)}))  # which labels nothing
    with pytest.raises(ConfigError, match="made with unannotated = "):
        run_study(dataset, tmp_path / "out", [], config)


@pytest.mark.parametrize("name", ["real-0.safetensors", "real-0.jsonl"])
def test_a_run_whose_file_was_cut_off_is_one_line_of_error(study, inputs, name):
    dataset, synthetic = inputs
    path = study / "runs" / name
    path.write_bytes(path.read_bytes()[:90])
    if name.endswith(".safetensors"):
        path.with_suffix(".jsonl").unlink()
    with pytest.raises(StudyError, match=r"real-0\..*remove") as caught:
        run_study(dataset, study, [synthetic], CONFIG)
    assert "\n" not in str(caught.value)
    path.unlink()
    run_study(dataset, study, [synthetic], CONFIG)


@pytest.mark.parametrize("damage", [b"", bytes(40), b'{"iteration": 1, "loss": 0.5, "ms": 3.0}\n'])
def test_a_damaged_log_of_a_run_is_one_line_and_its_remedy_trains_the_run_again(study, finished, inputs, damage):
    log = study / "runs" / "real-0.log.jsonl"
    log.write_bytes(damage)
    with pytest.raises(StudyError, match=r"real-0\.log\.jsonl is damaged; remove it .* real-0\.\*") as caught:
        run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert "\n" not in str(caught.value)
    for path in log.parent.glob("real-0.*"):
        path.unlink()
    run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert read_jsonl(log)[-1]["iteration"] == CONFIG.iterations
    assert files_of(study) == files_of(finished)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_files_that_a_study_keeps_are_made_again(study, finished, inputs, share):
    kept = ("profiles.json", "duplicates.json", "base_seen.json", "scores.jsonl", "runs/selected-1.pool.json")
    for name in (*kept, "summary.json", "cases.csv"):
        data = (study / name).read_bytes()
        (study / name).write_bytes(data[: int(share * len(data))])
    (study / "runs" / "selected-1.jsonl").unlink()  # the scores are asked for
    run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert files_of(study) == files_of(finished)


@pytest.mark.parametrize("share", [None, 0.0, 0.5])
def test_damaged_scores_of_a_finished_study_are_made_again(study, finished, inputs, share):
    scores = study / "scores.jsonl"
    data = scores.read_bytes()
    scores.write_bytes(bytes(len(data)) if share is None else data[: int(share * len(data))])
    run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert files_of(study) == files_of(finished)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", {"a": 1}), ("dice", "0.5"), ("strata", 3), ("case", "another"), ("area", None), ("prediction", None)],
)
def test_a_record_of_other_values_is_one_line_and_its_remedy_tests_the_run_again(study, finished, inputs, name, value):
    records = study / "runs" / "real-0.jsonl"
    rows = read_jsonl(records)
    write_jsonl(records, [{**rows[0], name: value}, *rows[1:]])
    with pytest.raises(StudyError, match=r"record 1 of .*real-0\.jsonl does not; remove it"):
        run_study(inputs[0], study, [inputs[1]], CONFIG)
    records.unlink()
    run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert files_of(study) == files_of(finished)


def test_a_score_with_fewer_features_is_made_again(study, finished, inputs):
    scores = study / "scores.jsonl"
    first, *others = read_jsonl(scores)
    write_jsonl(scores, [{**first, "features": first["features"][1:]}, *others])
    run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert files_of(study) == files_of(finished)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"data": 3}', b"[" * 3000, b"\xff\xfe", b"9" * 5000])
def test_a_file_of_a_study_of_other_types_is_made_again(study, finished, inputs, damage):
    for name in ("profiles.json", "duplicates.json", "base_seen.json", "runs/real-0.pool.json"):
        (study / name).write_bytes(damage)
    run_study(inputs[0], study, [inputs[1]], CONFIG)
    assert files_of(study) == files_of(finished)


def test_a_damaged_checkpoint_of_a_study_starts_its_run_again(tmp_path, inputs, finished, monkeypatch):
    monkeypatch.setattr("diffaug.training.loop.CHECKPOINT_SECONDS", -1.0)
    out, config = tmp_path / "out", CONFIG.model_copy(update={"arms": ("real",), "seeds": 1})
    real_check, done = segmenter.check_finite, iter(range(100))

    def stop(*arguments):
        if next(done) == 3:
            raise KeyboardInterrupt
        real_check(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(segmenter, "check_finite", stop)
        run_study(inputs[0], out, [], config)
    checkpoint = out / "runs" / "real-0.checkpoint"
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))  # opens, and is half zeros
    run_study(inputs[0], out, [], config)
    weights = [(folder / "runs" / "real-0.safetensors").read_bytes() for folder in (out, finished)]
    assert weights[0] == weights[1]


def test_a_full_disk_is_one_line_in_a_study_and_its_report(tmp_path, study, inputs, full_disk):
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1})
    with full_disk(), pytest.raises(StorageError, match=r"free some space") as error:
        run_study(inputs[0], tmp_path / "out", [], config)
    assert "\n" not in str(error.value)
    with full_disk(), pytest.raises(StorageError, match=r"report.html: File too large"):
        write_report(study)
    assert not list(study.rglob("*.partial"))


def test_a_study_that_tests_on_nothing_is_refused(tmp_path, inputs):
    with pytest.raises(StudyError, match="--test is empty; name val"):
        run_study(inputs[0], tmp_path / "out", [], CONFIG, test=())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [0, -5])
def test_a_selection_of_nothing_is_refused(tmp_path, inputs, finished, count):
    with pytest.raises(ConfigError, match=f"--count is {count}"):
        select_set(inputs[1], tmp_path / "s", finished, CONFIG.select, count)
    assert not (tmp_path / "s").exists()


def test_a_study_that_another_process_works_on_is_refused_and_stays_as_it_is(study, inputs):
    dataset, synthetic = inputs
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    with held(study), pytest.raises(ConfigError, match="in use; wait for the other"):
        run_study(dataset, study, [synthetic], CONFIG)
    assert {path: path.read_bytes() for path in before} == before


def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path, dataset):
    for start in (lambda out: run_study(dataset, out, [], CONFIG, device="cuda:77"),
                  lambda out: leak_study(dataset, out, CONFIG, device="cuda:77")):  # fmt: skip
        with pytest.raises(ConfigError, match="not cuda:77; use cpu"):
            start(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recorded_passes_train_the_network_that_launched_ones_do(tmp_path, dataset, monkeypatch):
    losses = []
    for record in (segmenter.record_passes, lambda network, images: None):
        monkeypatch.setattr(segmenter, "record_passes", record)
        batches = Batches(Arm("real", read_dataset(dataset).split("train")), CONFIG, 0, "cuda")
        files, network = tmp_path / str(len(losses)), build_network(CONFIG, 0)
        train(network, batches, CONFIG, name="real-0", files=files, device="cuda")
        losses.append(read_jsonl(Path(f"{files}.log.jsonl"))[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_failure_in_a_worker_stops_the_study_with_its_one_line(tmp_path, dataset):
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1})
    out = tmp_path / "out"
    run_study(dataset, out, [], config)  # measures the lesions, so that the next study reads images in workers only
    (dataset / "images" / "train-0.png").write_bytes(b"no image")
    profiles = json.loads((out / "profiles.json").read_text())
    shutil.rmtree(out)
    out.mkdir()
    profiles["data"] = read_inputs(dataset, [], ["test"]).data_digest
    (out / "profiles.json").write_text(json.dumps(profiles))
    with pytest.raises(DataError, match="train-0"):
        run_study(dataset, out, [], config.model_copy(update={"seeds": 2, "workers": 2}))
    assert not (out / "summary.json").exists()


def test_an_unknown_arm_is_refused_before_anything_is_written(tmp_path, dataset):
    with pytest.raises(ConfigError):
        run_study(dataset, tmp_path / "out", [], CONFIG.model_copy(update={"arms": ("real", "magic")}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [32, 100])
def test_an_input_that_the_network_cannot_halve_is_refused(size):
    with pytest.raises(ConfigError, match="size"):
        StudyConfig(size=size)


@pytest.mark.parametrize("size", [64, 96])
def test_every_allowed_input_comes_back_at_its_size(size):
    assert build_network(CONFIG, 0).eval()(torch.rand(1, 3, size, size)).shape == (1, 1, size, size)


def test_a_case_whose_pixels_are_not_finite_is_named_alone(tmp_path):
    logits = torch.zeros(3, 1, 4, 4)
    logits[1, 0, 2, 2] = math.nan
    with pytest.raises(StudyError, match=r"reached nan at iteration 5 on second; check"):
        segmenter.check_finite(logits.mean(), logits, "real-0", 4, ("first", "second", "third"), tmp_path / "log.jsonl")


def partly_annotated(folder):
    """Six annotated cases and three images without annotation."""
    dataset = make_dataset(folder, train=9)
    text = (dataset / "cases.csv").read_text(encoding="utf-8")
    for name in ("train-6", "train-7", "train-8"):
        text = text.replace(f"masks/{name}.png,{name},train", f",{name},unannotated").replace(
            f"masks/{name}.png,train,{name}", f",unannotated,{name}"
        )
    (dataset / "cases.csv").write_text(text, encoding="utf-8")
    return dataset


def test_pseudo_labels_come_from_the_studys_own_baseline_and_only_the_confident_are_kept(tmp_path):
    dataset = partly_annotated(tmp_path / "data")
    update = {"arms": ("real", "pseudo-label"), "seeds": 1, "pseudo_confidence": 0.5}
    config = CONFIG.model_copy(update=update | {"iterations": 60})
    summary = run_study(dataset, tmp_path / "out", [], config)
    rows = read_jsonl(tmp_path / "out" / "pseudo" / "masks.jsonl")
    assert [row["id"] for row in rows] == ["train-6", "train-7", "train-8"]
    kept = [row for row in rows if row["confidence"] >= 0.5 and row["area"] >= 0.001]
    assert summary["arms"]["pseudo-label"]["cases"] == {
        "real": 6, "pool": len(kept), "trained_negatives": 0, "wanted_negatives": 0
    }  # fmt: skip
    assert kept
    found = pseudo_label_set(tmp_path / "out", tmp_path / "labelled")
    assert found == Labelling(unannotated=3, labelled=len(kept))
    labelled = read_dataset(tmp_path / "labelled").split("train")
    assert [case.id for case in labelled] == [row["id"] for row in kept]
    for case, row in zip(labelled, kept, strict=True):
        assert case.read_mask().mean() == pytest.approx(row["area"])
    told = read_json(tmp_path / "labelled" / "provenance.json")["cases"]
    assert set(told) == {f"train-{index}" for index in range(6)}
    with pytest.raises(StudyError, match="none of 3 images is left for pseudo-label"):
        pseudo_label_set(tmp_path / "out", tmp_path / "sure", confidence=1.0)
    assert not (tmp_path / "sure").exists()
    mask = dataset / "masks" / "train-0.png"
    before = mask.read_bytes()
    shutil.copyfile(dataset / "masks" / "train-2.png", mask)
    with pytest.raises(StudyError, match="was changed since"):
        pseudo_label_set(tmp_path / "out", tmp_path / "changed")
    mask.write_bytes(before)
    with pytest.raises(
        StudyError, match=r"none of 3 images is left for pseudo-label, .* 0\.1% or more, with study\.pseudo_c"
    ):
        run_study(
            dataset, tmp_path / "strict", [], config.model_copy(update={"pseudo_confidence": 1.0, "iterations": 2})
        )


def test_an_image_that_is_declared_to_be_lesion_free_gets_an_empty_label(tmp_path):
    dataset = partly_annotated(tmp_path / "data")
    head, *lines = (dataset / "cases.csv").read_text(encoding="utf-8").splitlines()
    lines = [f"{line},{'1' if line.startswith('train-7,') else ''}" for line in lines]
    (dataset / "cases.csv").write_text("\n".join([f"{head},negative", *lines]), encoding="utf-8")
    config = CONFIG.model_copy(update={"arms": ("real", "pseudo-label"), "seeds": 1, "pseudo_confidence": 1.0})
    summary = run_study(dataset, tmp_path / "out", [], config)
    assert summary["arms"]["pseudo-label"]["cases"]["pool"] == 1
    found = pseudo_label_set(tmp_path / "out", tmp_path / "labelled", confidence=1.0)
    assert found == Labelling(unannotated=3, labelled=1)
    (case,) = read_dataset(tmp_path / "labelled").split("train")
    assert case.id == "train-7" and case.negative and not case.read_mask().any()


def test_without_unannotated_images_there_is_nothing_to_label(tmp_path):
    config = CONFIG.model_copy(update={"arms": ("real",), "seeds": 1})
    run_study(make_dataset(tmp_path / "data"), tmp_path / "out", [], config)
    with pytest.raises(StudyError, match="data has none; import the images with some in a folder unannotated/"):
        pseudo_label_set(tmp_path / "out", tmp_path / "labelled")


def test_painted_arms_with_labels_also_train_on_the_images_of_pseudo_label(labelling, tmp_path):
    dataset, _ = copied(labelling, tmp_path)
    synthetic = make_synthetic(tmp_path / "synthetic", negatives=4, data=dataset)
    taught = ("selected+pseudo-label", "validated@0.4+pseudo-label")
    arms = (*taught, "selected", "pseudo-label", "real")
    summary = run_study(dataset, tmp_path / "out", [synthetic], LABELLING.model_copy(update={"arms": arms}))
    count = summary["arms"]["pseudo-label"]["cases"]["pool"]
    assert count > 0 and not any("labelled" in summary["arms"][arm]["cases"] for arm in arms[2:])
    for arm, painted, negatives in zip(taught, (3, 2), (2, 1), strict=True):
        cases = summary["arms"][arm]["cases"]
        assert cases["pool"] == painted + negatives + count
        assert (cases["labelled"], cases["trained_negatives"]) == (count, negatives)
    told = read_json(tmp_path / "out" / "study.json")["arms"]["selected+pseudo-label"]
    assert told == "the same as selected, and the unannotated images of pseudo-label"
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert f"6 + 3 + 2 + {count} labelled" in page
    assert "selected+pseudo-label - selected" in summary["differences"]
    assert "selected - pseudo-label" in summary["differences"]


def test_an_arm_with_a_teacher_trains_on_unannotated_images_and_resumes_where_it_was_killed(tmp_path, monkeypatch):
    dataset = partly_annotated(tmp_path / "data")
    synthetic = make_synthetic(tmp_path / "synthetic", negatives=4, data=dataset)
    arms = ("real", "mean-teacher", "validated+mean-teacher")
    config = CONFIG.model_copy(update={"arms": arms, "seeds": 1, "teacher_confidence": 0.5})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = run_study(dataset, whole, [synthetic], config)
    weights = [load_file(whole / "runs" / f"{arm}-0.safetensors") for arm in arms]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert summary["arms"]["mean-teacher"]["cases"] == {
        "real": 6, "pool": 0, "trained_negatives": 0, "wanted_negatives": 0, "taught": 3
    }  # fmt: skip
    assert summary["arms"]["validated+mean-teacher"]["cases"]["taught"] == 3

    monkeypatch.setattr("diffaug.training.loop.CHECKPOINT_SECONDS", -1.0)
    left, real_check = iter(range(6 + 4)), segmenter.check_finite  # `real`, and 4 of 6 iterations of mean-teacher

    def check(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        real_check(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(segmenter, "check_finite", check)
        run_study(dataset, killed, [synthetic], config)
    run_study(dataset, killed, [synthetic], config)
    assert files_of(killed) == files_of(whole)
    assert "3 taught" in write_report(whole).read_text(encoding="utf-8")


@pytest.mark.parametrize("arm", ["validated+pseudo-label", "selected", "pseudo-label"])
def test_a_derived_arm_without_the_baseline_is_refused(arm, tmp_path):
    dataset = partly_annotated(tmp_path / "data")
    synthetic = make_synthetic(tmp_path / "synthetic", negatives=4, data=dataset)
    with pytest.raises(StudyError, match=re.escape(f"the arm {arm} is derived from the arm real, which is not there")):
        run_study(dataset, tmp_path / "out", [synthetic], CONFIG.model_copy(update={"arms": (arm,)}))


def test_a_baseline_that_is_sure_of_no_image_is_refused(tmp_path):
    dataset = partly_annotated(tmp_path / "data")
    synthetic = make_synthetic(tmp_path / "synthetic", data=dataset)
    arms = ("real", "validated", "validated+pseudo-label")
    config = CONFIG.model_copy(update={"arms": arms, "seeds": 1, "iterations": 2, "pseudo_confidence": 1.0})
    with pytest.raises(StudyError, match=r"none of 3 images is left for pseudo-label, of which the baseline must find"):
        run_study(dataset, tmp_path / "out", [synthetic], config)


def test_the_label_benchmark_tells_how_well_a_trained_arm_labels_what_was_withheld(
    labelling, tmp_path, monkeypatch, capsys
):
    full = make_dataset(tmp_path / "full", train=9)
    told = told_by("labels.py", [full, labelling / "out"], monkeypatch, capsys).splitlines()
    assert told[0] == "real: 1 networks, 3 images" and told[-1].startswith("  sure of ")
    lost = [float(re.search(r"not found ([0-9.]+) %", line)[1]) for line in told[1:-1]]
    assert len(lost) == 7 and lost == sorted(lost)  # the higher the threshold, the fewer pixels


def test_the_screening_benchmark_compares_sets_from_the_weights_of_real(tmp_path, monkeypatch, capsys):
    full, dataset = make_dataset(tmp_path / "full", train=9), partly_annotated(tmp_path / "data")
    synthetic = make_synthetic(tmp_path / "synthetic", negatives=4, data=dataset)
    run_study(dataset, tmp_path / "out", [], CONFIG.model_copy(update={"arms": ("real",), "seeds": 1}))
    before = digest_of_file(tmp_path / "out" / "runs" / "real-0.safetensors")
    words = [full, tmp_path / "out", "--iterations", 15, "--synthetic", synthetic]
    told = told_by("screen.py", words, monkeypatch, capsys)
    assert [line.split(":")[0] for line in told.splitlines()] == [
        "real", "copy-paste", f"{synthetic}", f"{synthetic} and negatives"
    ]  # fmt: skip
    assert told.splitlines()[0].endswith("; +0.0 points +- 0.0")
    assert len({re.search("Dice.*;", line)[0] for line in told.splitlines()}) == 4  # each was trained on other cases
    assert digest_of_file(tmp_path / "out" / "runs" / "real-0.safetensors") == before


def test_labels_need_unannotated_images(tmp_path):
    whole = make_dataset(tmp_path / "whole")
    synthetic = make_synthetic(tmp_path / "synthetic", data=whole)
    config = CONFIG.model_copy(update={"arms": ("real", "validated", "validated+pseudo-label")})
    with pytest.raises(
        StudyError, match=r"arm validated\+pseudo-label needs unannotated images; the data set has none"
    ):
        run_study(whole, tmp_path / "out", [synthetic], config)


def test_a_run_whose_weights_are_kept_is_tested_again_without_training(study, inputs):
    dataset, synthetic = inputs
    before, log = records_of(study), (study / "runs" / "selected-1.log.jsonl").stat().st_mtime_ns
    (study / "runs" / "selected-1.jsonl").unlink()
    run_study(dataset, study, [synthetic], CONFIG)
    assert records_of(study) == before
    assert (study / "runs" / "selected-1.log.jsonl").stat().st_mtime_ns == log


def test_the_selected_arm_is_a_pure_function_of_the_scores(finished, inputs):
    scores = derive.read_scores(Baseline(finished, 0, CONFIG, ()))
    rows = read_rows(inputs[1] / "manifest.jsonl")
    chosen = choose.select(rows, scores, CONFIG.select, 3)
    assert len(chosen) == 3
    assert {row.id for row in chosen} <= {row.id for row in accepted(rows)}
    for row in scores.values():
        assert 0 <= row.loss <= 1 and row.novelty >= 0 and len(row.features) == len(FEATURES)


def test_negatives_that_are_painted_after_real_is_trained_are_counted_as_those_before(tmp_path, inputs, finished):
    out, config = tmp_path / "out", CONFIG.model_copy(update={"seeds": 1})
    early = run_study(inputs[0], out, [], config.model_copy(update={"arms": ("real",)}))
    assert early["arms"]["real"]["negatives"]["n"] == 0
    trained = digest_of_file(out / "runs" / "real-0.safetensors")
    late = run_study(inputs[0], out, [inputs[1]], config)
    assert digest_of_file(out / "runs" / "real-0.safetensors") == trained
    pools = [read_json(folder / "runs" / "real-0.pool.json") for folder in (out, finished)]
    assert pools[0]["negatives"] == pools[1]["negatives"] and late["arms"]["real"]["negatives"]["n"] == 1


def test_one_study_tells_the_gain_with_negatives_and_without_and_that_they_were_few(tmp_path, inputs):
    arms = ("real", "selected", "no-negatives")
    config = CONFIG.model_copy(update={"arms": arms, "seeds": 1, "iterations": 2, "negatives": 2.0})
    summary = run_study(inputs[0], tmp_path / "out", [inputs[1]], config)
    found = {arm: summary["arms"][arm]["cases"] for arm in arms[1:]}
    assert found["selected"] == {"real": 6, "pool": 3 + 3, "trained_negatives": 3, "wanted_negatives": 6}
    assert found["no-negatives"] == {"real": 6, "pool": 3, "trained_negatives": 0, "wanted_negatives": 0}
    assert "selected - no-negatives" in summary["differences"]
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "selected was trained on 3 painted lesion cases and 3 negatives" in page and "6 + 3 + 3" in page
    assert "6 negatives were wanted" in page
    assert "no-negatives was trained" not in page and "(n = 1)" in page


def test_a_selected_set_is_a_synthetic_set_of_its_own(tmp_path, finished, inputs):
    dataset, synthetic = inputs
    found = select_set(synthetic, tmp_path / "selected", finished, CONFIG.select.model_copy(), 2)
    assert (found.accepted, found.kept, found.negatives) == (4, 2, 1)
    assert all(row.scores for row in lesions(read_rows(tmp_path / "selected" / "manifest.jsonl")))
    again = select_set(synthetic, tmp_path / "selected", finished, CONFIG.select.model_copy(), 2)
    assert again == found
    one = read_set(tmp_path / "selected")
    assert [case.id for case in read_dataset(tmp_path / "selected").cases] == [row.id for row in one]
    read_inputs(dataset, [tmp_path / "selected"], ["test"])


def test_a_selected_case_lies_in_the_group_of_its_background(tmp_path):
    dataset, out = make_dataset(tmp_path / "data"), tmp_path / "selected"
    table = dataset / "cases.csv"
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    place = head.split(",").index("group")
    cells = [line.split(",") for line in lines]
    for row in cells:
        row[place] = f"patient-{row[0]}"
    table.write_text("\n".join([head, *(",".join(row) for row in cells)]) + "\n", encoding="utf-8")
    synthetic = make_synthetic(tmp_path / "synthetic", data=dataset)
    run_study(dataset, tmp_path / "study", [synthetic], CONFIG.model_copy(update={"arms": ("real",), "seeds": 1}))
    select_set(synthetic, out, tmp_path / "study", CONFIG.select)
    background = {row.id: row.request.background for row in read_set(out)}
    assert {case.group for case in read_dataset(out)} == {f"patient-{name}" for name in background.values()}


def test_a_selected_picture_keeps_every_request_that_it_shows(tmp_path, finished, inputs):
    path, summary = (inputs[1] / name for name in ("manifest.jsonl", "summary.json"))
    before, counts = path.read_bytes(), summary.read_bytes()
    rows = read_rows(path)
    joined = [
        replace(row_of(90 + n, ("train-4", "train-5")), decision="joined", shown_in=row.id)
        for n, row in enumerate(rows)
    ]
    try:
        write_rows(path, [*rows, *joined])
        write_json(summary, funnel([*rows, *joined]).as_dict())
        select_set(inputs[1], tmp_path / "selected", finished, CONFIG.select, 2)
    finally:
        path.write_bytes(before)
        summary.write_bytes(counts)
    found = read_set(tmp_path / "selected")
    pictures = [row for row in found if not row.shown_in]
    assert [row.shown_in for row in found if row.shown_in] == sorted(row.id for row in pictures)
    assert {case.id for case in read_dataset(tmp_path / "selected")} == {row.id for row in pictures}
    read_inputs(inputs[0], [tmp_path / "selected"], ["test"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("id", "../../../project/run"), ("region", "evil.sh"), ("region", "/etc/passwd"), ("image", "../x.png")],
)
def test_a_set_from_a_stranger_writes_and_copies_nothing(tmp_path, finished, inputs, name, value):
    synthetic = shutil.copytree(inputs[1], tmp_path / "set")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "run.sh").write_text("mine")
    (synthetic / "evil.sh").write_text("theirs")
    rows = read_jsonl(synthetic / "manifest.jsonl")
    (rows[-1]["request"] if name == "id" else rows[-1])[name] = value
    write_jsonl(synthetic / "manifest.jsonl", rows)
    for use in (lambda: read_set(synthetic), lambda: write_report(finished, synthetic, tmp_path / "page.html")):
        with pytest.raises(DataError, match=rf"has (request\.)?{name}: "):
            use()
    assert (tmp_path / "project" / "run.sh").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project", "set"]


def test_painted_cases_are_scored_again_where_they_are_others(tmp_path, study, inputs):
    """A set that was generated again in its place keeps its path and the ids of its cases."""
    synthetic = inputs[1]
    before = read_jsonl(study / "scores.jsonl")
    old = [row | {"image_digest": "0" * 16, "loss": 0.0} if row is before[0] else row for row in before]
    write_jsonl(study / "scores.jsonl", old)
    select_set(synthetic, tmp_path / "selected", study, CONFIG.select)
    assert read_jsonl(study / "scores.jsonl") == before
    stamp = (study / "scores.jsonl").stat().st_mtime_ns
    select_set(synthetic, tmp_path / "again", study, CONFIG.select)
    assert (study / "scores.jsonl").stat().st_mtime_ns == stamp


def test_baselines_are_the_first_seeds_of_a_study_by_number(study):
    plan = read_json(study / "study.json")
    write_json(study / "study.json", plan | {"identity": plan["identity"] | {"seed": 9}})
    runs = study / "runs"
    for old, new in ((0, 9), (1, 10)):
        (runs / f"real-{old}.safetensors").rename(runs / f"real-{new}.safetensors")
    assert read_baseline(study)[2].name == "real-9"
    (runs / "real-9.safetensors").unlink()
    with pytest.raises(StudyError, match=r"lacks real-9; run its study with real"):
        read_baseline(study)


def test_a_study_notices_other_groups_and_other_labels(tmp_path, study, inputs):
    data, synthetic = (shutil.copytree(one, tmp_path / one.name) for one in inputs)
    table = data / "cases.csv"
    before = table.read_text(encoding="utf-8")
    table.write_text(before.replace("masks/train-1.png,train-1,", "masks/train-1.png,train-0,"), encoding="utf-8")
    assert table.read_text(encoding="utf-8") != before
    with pytest.raises(ConfigError, match="made with data = "):
        run_study(data, study, [synthetic], CONFIG)
    table.write_text(before, encoding="utf-8")
    first, *rows = read_rows(synthetic / "manifest.jsonl")
    Image.fromarray(~np.asarray(Image.open(synthetic / first.mask))).save(synthetic / first.mask)
    other = replace(first, mask_digest=digest_of_file(synthetic / first.mask))  # as another painting would have written
    write_rows(synthetic / "manifest.jsonl", [other, *rows])
    with pytest.raises(ConfigError, match="made with synthetic = "):
        run_study(data, study, [synthetic], CONFIG)


def test_a_selection_needs_a_study_of_its_own_set(tmp_path, finished):
    other = make_synthetic(tmp_path / "other")
    with pytest.raises(StudyError, match="study of its set"):
        select_set(other, tmp_path / "selected", finished, CONFIG.select)
    assert not (tmp_path / "selected").exists()


def test_folds_test_every_training_case_by_a_network_that_has_not_seen_it(tmp_path, inputs, monkeypatch):
    config, seen = CONFIG.model_copy(update={"seeds": 1}), {}
    real_train = segmenter.train

    def noting(network, batches, *arguments, **options):
        seen[options["name"]] = set(batches.real.ids)
        return real_train(network, batches, *arguments, **options)

    monkeypatch.setattr(segmenter, "train", noting)
    summary = run_study(inputs[0], tmp_path / "out", [], config, folds=3)
    train = {case.id for case in read_dataset(inputs[0]).split("train")}
    assert summary["arms"]["real"]["n"] == len(train) and set(summary["arms"]) == {"real"}
    tested = []
    for name, ids in seen.items():
        rows = read_jsonl(tmp_path / "out" / "runs" / f"{name}.jsonl")
        assert {row["case"] for row in rows} == train - ids and len(rows) == 2
        tested += [row["case"] for row in rows]
    assert sorted(tested) == sorted(train) and set(seen) == {f"real-0-fold{fold}" for fold in range(3)}
    plan = read_json(tmp_path / "out" / "study.json")
    assert set(plan["tested"]) == train and plan["identity"]["folds"] == 3
    needs = read_needs(tmp_path / "out", read_dataset(inputs[0]).split("train"), ())
    assert needs.keys() == train and all(0 <= need <= 1 for need in needs.values())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()}
    run_study(inputs[0], tmp_path / "out", [], config, folds=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()} == before


def test_folds_take_no_synthetic_set_and_mix_with_no_other_study(tmp_path, inputs, study):
    with pytest.raises(StudyError, match="a synthetic set or an oracle has seen every fold"):
        run_study(inputs[0], tmp_path / "out", [inputs[1]], CONFIG, folds=2)
    with pytest.raises(ConfigError, match="a folder holds one study"):
        run_study(inputs[0], study, [], CONFIG, folds=2)
    with pytest.raises(DataError, match="use fewer"):
        run_study(inputs[0], tmp_path / "out", [], CONFIG, folds=7)
    assert not (tmp_path / "out").exists()


def test_a_study_of_the_test_split_steers_no_painting(inputs, finished):
    dataset = read_dataset(inputs[0])
    with pytest.raises(StudyError, match="results on val or test cases may not steer what is painted"):
        read_needs(finished, dataset.split("train"), dataset.split("test"))


# Several classes


@pytest.fixture(scope="module")
def of_eyes(tmp_path_factory, eyes):
    """A finished study of disc and cup."""
    root = tmp_path_factory.mktemp("of-eyes")
    config = CONFIG.model_copy(update={"seeds": 1, "arms": ("real", "copy-paste", "selected")})
    run_study(eyes, root / "study", [make_painted_eyes(root / "synthetic", eyes)], config)
    return root / "study"


def test_a_study_of_two_classes_has_the_metrics_of_each_and_the_error_of_the_ratio(of_eyes, eyes):
    records, summary = records_of(of_eyes), read_json(of_eyes / "summary.json")
    assert len(records) == 3 * 3
    for record in records:
        assert record["dice"] == pytest.approx((record["disc_dice"] + record["cup_dice"]) / 2)
        assert 0 <= record["vcdr_error"] <= 1
        assert record["strata"][-1] in ("smaller-cup", "very-large-cup")
    for arm, own in summary["arms"].items():
        mine = [record for record in records if record["arm"] == arm]
        assert own["classes"]["cup"]["dice"]["mean"] == pytest.approx(np.mean([one["cup_dice"] for one in mine]))
        assert own["vcdr_error"]["mean"] == pytest.approx(np.mean([one["vcdr_error"] for one in mine]))
        assert own["strata"]["smaller-cup"]["n"] + own["strata"]["very-large-cup"]["n"] == own["n"] == 3
    for difference in summary["differences"].values():
        assert set(difference["classes"]) == {"disc", "cup"} and "vcdr_error" in difference
    header = (of_eyes / "cases.csv").read_text().splitlines()[0].split(",")
    assert "cup_iou" in header and header.index("vcdr_error") < header.index("area")
    assert {path.suffix for path in (of_eyes / "predictions").rglob("*.png")} == {".png"}


def test_an_eye_without_a_cup_is_no_confident_label_and_a_frame_without_one_of_two_lesions_may_be(
    of_eyes, eyes, tmp_path, monkeypatch
):
    """The baseline finds the first class everywhere, surely, and the second one nowhere."""
    found = torch.tensor([0.98, 0.02]).reshape(1, 2, 1, 1)
    monkeypatch.setattr(derive, "mirrored", lambda network, images: found.expand(len(images), 2, *images.shape[2:]))
    cases = read_dataset(eyes).split("train")
    config = CONFIG.model_copy(update={"seeds": 1})
    for names, confidence in ((("disc", "cup"), 0.0), (("polyp", "instrument"), 0.98)):
        classes = tuple(replace(one, name=name) for one, name in zip(cases[0].classes, names, strict=True))
        train = tuple(replace(case, classes=classes) for case in cases)
        baseline = Baseline(of_eyes, 0, config, train)
        baseline.labels_table.unlink(missing_ok=True)
        derive.make_labels(baseline, train[:2])
        rows = read_jsonl(baseline.labels_table)
        assert [row["confidence"] for row in rows] == pytest.approx([confidence] * 2)


def test_a_network_of_two_classes_starts_without_a_checkerboard_in_either():
    logits = build_network(CONFIG, 0, 2)(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 2, 64, 64)
    for channel in logits.split(1, dim=1):
        cells = torch.nn.functional.pixel_unshuffle(channel, CELL)
        assert torch.allclose(cells, cells[:, :1].expand_as(cells))


def test_a_synthetic_set_of_other_classes_is_refused(eyes, tmp_path):
    synthetic = make_painted_eyes(tmp_path / "synthetic", eyes)
    (synthetic / "classes.json").write_text('{"disc": [1], "cup": [2]}')
    with pytest.raises(StudyError, match="need the same classes") as error:
        run_study(eyes, tmp_path / "study", [synthetic], CONFIG)
    assert "\n" not in str(error.value) and not (tmp_path / "study").exists()


def test_of_one_class_nothing_is_told_by_class(finished):
    summary = read_json(finished / "summary.json")
    assert all(not {"classes", "vcdr_error"} & one.keys() for one in summary["arms"].values())
    assert "classes" not in read_json(finished / "study.json")
    assert all(set(one) == {"area", "contrast"} for one in read_json(finished / "profiles.json")["profiles"].values())
