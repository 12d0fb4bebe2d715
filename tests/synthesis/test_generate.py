import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from synthetic_sets import CONFIG, tables_and_pictures, with_sampler, with_thresholds

from diffaug.artifacts import digest_of_file, read_json, read_jsonl, write_json, write_jsonl
from diffaug.conditioning.budget import make_budget
from diffaug.conditioning.findings import FOLDER
from diffaug.conditioning.grammar import words_in
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.placer import Placer
from diffaug.conditioning.rules import read_rules
from diffaug.config import GenerateConfig, StudyConfig
from diffaug.data.case import digest_of_case
from diffaug.data.folder import check_dataset, read_dataset
from diffaug.data.fundus import vertical_diameter
from diffaug.data.funnel import funnel
from diffaug.data.images import read_image, read_label, read_mask, write_png
from diffaug.data.lesions import SIZES, size_class
from diffaug.data.manifest import read_manifest, read_rows
from diffaug.data.phantom import make_phantoms
from diffaug.diffusion.schedule import x_t_from_x0
from diffaug.errors import ConfigError, DataError, DiffaugError, FindingsError, ModelError, PlacementError, StorageError
from diffaug.models.checkpoints import read_words, seal
from diffaug.painting.clearing import Remover
from diffaug.painting.window import image_of, resized
from diffaug.runfolder import held
from diffaug.study.study import run_study
from diffaug.synthesis import generate as generate_module
from diffaug.synthesis import places as places_module
from diffaug.synthesis import plan as plan_module
from diffaug.synthesis.generate import generate, generate_cases
from diffaug.synthesis.places import place_of
from diffaug.synthesis.plan import make_plan, notices_of_fit
from diffaug.synthesis.shards import PREVIEWS, generate_shard, shard_folder, workshop_of


@pytest.mark.parametrize(("iterations", "told"), [(8, 1), (99, 1), (100, 0), (600, 0)])
def test_a_model_that_was_hardly_trained_is_told(iterations, told, tmp_path):
    write_json(tmp_path / "fit.json", {"identity": {"config": {"validator": {"iterations": iterations, "folds": 2}}}})
    lines = notices_of_fit(tmp_path)
    assert len(lines) == told and all(f"trained for {iterations} iterations" in line for line in lines)
    assert notices_of_fit(tmp_path / "without") == []


# Killed, shared and repeated work


def test_a_run_that_met_a_full_disk_and_was_killed_goes_on_and_equals_an_unbroken_one(
    strict, phantoms, unbroken, tmp_path, full_disk
):
    out = tmp_path / "synthetic"
    with full_disk(), pytest.raises(StorageError, match=r"File too large; free some space") as error:
        generate(strict, phantoms, out, CONFIG)
    assert "\n" not in str(error.value) and not (out / "summary.json").exists()
    process = get_context("fork").Process(target=generate, args=(strict, phantoms, out, CONFIG))  # torch is imported
    process.start()
    try:
        while not (shard_folder(out, 0) / "rows.jsonl").exists():
            assert process.is_alive()
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()
    first = shard_folder(out, 0) / "rows.jsonl"
    before = first.stat().st_mtime_ns
    assert not (out / "manifest.jsonl").exists()
    generate(strict, phantoms, out, CONFIG)
    assert first.stat().st_mtime_ns == before  # what was complete is not made again
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)


def test_cases_are_those_of_the_set_that_is_written_and_a_stop_is_continued(strict, phantoms, unbroken, tmp_path):
    out = tmp_path / "synthetic"
    begun = generate_cases(strict, phantoms, out, CONFIG)
    first = next(begun)
    assert np.asarray(first.show()).shape == first.read_image().shape  # it lies on the disk already
    assert not (out / "manifest.jsonl").exists()
    with pytest.raises(ConfigError, match="in use"):
        generate(strict, phantoms, out, CONFIG)
    begun.close()

    cases = list(generate_cases(strict, phantoms, out, CONFIG))
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)
    assert cases == list(read_dataset(out)) and cases[0] == first
    assert sum(case.kind == "lesion" for case in cases) == CONFIG.count


def test_what_is_wrong_is_told_before_the_first_case(strict, phantoms, unbroken, tmp_path):
    with pytest.raises(ConfigError, match="a folder holds one synthetic set"):
        generate_cases(strict, phantoms, unbroken, CONFIG, seed=1)
    with pytest.raises(ConfigError, match="both are given"):
        generate_cases(strict, phantoms, tmp_path / "synthetic", CONFIG, preset="demo")
    with pytest.raises(ConfigError, match="a preset must be one of default, demo"):
        generate(strict, phantoms, tmp_path / "synthetic", preset="dmeo")
    with pytest.raises(DiffaugError):
        generate_cases(tmp_path, phantoms, tmp_path / "synthetic", CONFIG)
    assert not (tmp_path / "synthetic").exists()


@pytest.mark.slow  # two processes import torch; tests/compute/test_pool.py tests order and threads of a pool by default
def test_two_workers_write_what_one_writes(strict, phantoms, unbroken, tmp_path):
    summary = generate(strict, phantoms, tmp_path / "synthetic", CONFIG, workers=2)
    assert tables_and_pictures(tmp_path / "synthetic") == tables_and_pictures(unbroken)
    assert {**summary.as_dict(), "seconds": 0, "seconds_per_kept": 0} == {
        **read_json(unbroken / "summary.json"),
        "seconds": 0,
        "seconds_per_kept": 0,
    }


def test_what_a_killed_run_left_of_a_shard_is_made_again(strict, phantoms, unbroken, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "synthetic")
    (shard_folder(out, 1) / "rows.jsonl").unlink()
    (shard_folder(out, 1) / "images" / "half.png").write_bytes(b"half a picture")
    (out / "manifest.jsonl").unlink()
    (out / ".cases.csv.7.partial").write_text("half a table")
    generate(strict, phantoms, out, CONFIG)
    assert not (out / ".cases.csv.7.partial").exists()
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)


@pytest.fixture(scope="module")
def painted_all(strict, phantoms, tmp_path_factory):
    """The set `unbroken` again, its samples painted to the end, and its summary."""
    out = tmp_path_factory.mktemp("painted-all") / "synthetic"
    return out, generate(strict, phantoms, out, CONFIG.model_copy(update={"paint_all": True}))


def test_the_funnel_tells_the_look_that_stopped_a_sample_even_if_it_was_painted_to_the_end(painted_all, unbroken):
    out, summary = painted_all
    rows = [row for row in read_rows(out / "manifest.jsonl") if row.decision == "stopped"]
    assert rows and all(row.steps == 4 for row in rows)
    assert summary.funnel.stopped_after_step == {"2": len(rows)}
    assert read_json(unbroken / "summary.json")["stopped_after_step"].keys() == {"2"}


def test_shards_of_a_finished_set_that_lost_a_picture_or_rows_are_made_again(strict, phantoms, unbroken, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "synthetic")
    picture = sorted((out / "shards").glob("*/images/*.png"))[0]
    picture.unlink()
    rows = next(path for path in sorted((out / "shards").glob("*/rows.jsonl")) if path.parent != picture.parents[1])
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:1]))  # cut off at the end of a line
    generate(strict, phantoms, out, CONFIG)
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)


TORN = (
    ("images/*.png", 0.5),
    ("masks/*.png", 0.0),
    ("turned-down/*.png", 0.5),
    ("rows.jsonl", 0.0),
    ("rows.jsonl", 0.5),
    ("digests.json", 0.5),
)


def test_shards_with_a_torn_file_are_made_again(strict, phantoms, unbroken, tmp_path):
    """One file of a shard is torn, and in one run as many kinds as there are shards for."""
    waiting = list(TORN)
    while waiting:
        out = shutil.copytree(unbroken, tmp_path / f"{len(waiting)}-waiting")  # fails if the last round tore none
        (out / "summary.json").unlink()
        for shard in sorted((out / "shards").iterdir()):
            for kind, share in waiting:
                if found := sorted(shard.glob(kind)):
                    data = found[0].read_bytes()
                    found[0].write_bytes(data[: int(share * len(data))])
                    waiting.remove((kind, share))
                    break
        generate(strict, phantoms, out, CONFIG)
        assert tables_and_pictures(out) == tables_and_pictures(unbroken)


def test_a_manifest_that_lost_a_row_is_refused(unbroken, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "synthetic")
    manifest = out / "manifest.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="has the rows that its summary counts"):
        read_manifest(out)


def test_two_processes_do_not_paint_into_one_folder(strict, phantoms, unbroken, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "synthetic")
    before = tables_and_pictures(out)
    with held(out), pytest.raises(ConfigError, match="one process works in a folder at a time"):
        generate(strict, phantoms, out, CONFIG)
    assert tables_and_pictures(out) == before


def test_one_worker_leaves_the_number_of_threads_as_it_was(strict, phantoms, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        generate(strict, phantoms, tmp_path / "synthetic", CONFIG.model_copy(update={"count": 1}))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_finished_set_is_not_made_again(strict, phantoms, unbroken, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "synthetic")
    pictures = {path: path.stat().st_mtime_ns for path in (out / "shards").rglob("*")}
    generate(strict, phantoms, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in (out / "shards").rglob("*")} == pictures
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)


def test_a_shard_is_the_same_in_any_order_and_place(strict, phantoms, unbroken, tmp_path):
    plan = make_plan(strict, phantoms, CONFIG, 0)
    for shard in (1, 0):
        generate_shard(plan, tmp_path, shard)
        made, expected = shard_folder(tmp_path, shard), shard_folder(unbroken, shard)
        assert tables_and_pictures(made) == tables_and_pictures(expected)


def test_a_shard_made_ahead_and_not_needed_is_removed(strict, phantoms, unbroken, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "synthetic")
    shutil.copytree(shard_folder(out, 0), shard_folder(out, 99))
    generate(strict, phantoms, out, CONFIG)
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)


def test_the_place_of_the_folders_and_a_run_killed_while_it_wrote_its_settings_leave_no_trace(
    strict, phantoms, unbroken, tmp_path, monkeypatch
):
    shutil.copytree(strict, tmp_path / "modèle")
    shutil.copytree(phantoms, tmp_path / "data set")
    left = tmp_path / "synthetic set" / ".config.json.7.partial"
    left.parent.mkdir()
    left.write_text("{")
    monkeypatch.chdir(tmp_path)
    generate(Path("modèle"), Path("data set"), Path("synthetic set"), CONFIG)
    assert not left.exists()
    assert tables_and_pictures(tmp_path / "synthetic set") == tables_and_pictures(unbroken)


# What is made


@pytest.mark.parametrize("made", ["ungated", "unbroken"])
def test_a_synthetic_set_reads_as_a_data_set_of_exactly_the_wanted_count(made, request, phantoms):
    out = request.getfixturevalue(made)
    dataset, real = read_dataset(out), read_dataset(phantoms)
    assert len(dataset.cases) == CONFIG.count
    assert check_dataset(dataset).notices == ()
    rows = {row.id: row for row in read_rows(out / "manifest.jsonl")}
    for case in dataset.split("train"):
        background = real[rows[case.id].request.background]
        assert case.read_image().shape == background.read_image().shape
        assert case.read_mask().shape == case.read_image().shape[:2]
        assert (case.group, case.prompt) == (background.group, rows[case.id].request.prompt)


def test_without_a_gate_everything_is_kept_and_what_is_too_many_is_marked(ungated):
    rows = read_rows(ungated / "manifest.jsonl")
    assert [row.decision for row in rows] == ["kept"] * 3 + ["surplus"]
    assert all(row.checks == () for row in rows)


def test_the_manifest_holds_every_request_in_order_the_turned_down_too(unbroken):
    rows = read_rows(unbroken / "manifest.jsonl")
    assert [row.request.index for row in rows] == list(range(len(rows)))
    assert len(rows) % CONFIG.shard_size == 0
    found = {row.decision for row in rows}
    assert {"kept", "stopped", "rejected"} <= found <= {"kept", "stopped", "rejected", "surplus"}
    for row in (row for row in rows if row.checks):  # without: an old lesion that could not be painted away
        last = row.checks[-1]
        accepted = last.score >= last.threshold
        assert accepted == (row.decision in ("kept", "surplus"))
        assert (row.steps == 4) == (row.decision != "stopped")
        assert bool(row.image) == accepted


def test_the_gate_changes_which_samples_are_kept_and_not_how_they_look(ungated, unbroken):
    free = {row.id: row for row in read_rows(ungated / "manifest.jsonl")}
    shared = [row for row in read_rows(unbroken / "manifest.jsonl") if row.image and row.id in free]
    assert shared
    for row in shared:
        first = read_image(unbroken / row.image).astype(int)
        second = read_image(ungated / free[row.id].image).astype(int)
        assert np.abs(first - second).mean() < 1  # in other slots: additions in another order
        assert row.mask_digest == free[row.id].mask_digest


def test_a_row_carries_all_it_takes_to_make_the_case_again(unbroken, workshop):
    model = read_json(unbroken / "config.json")["identity"]["model"]
    for row in read_rows(unbroken / "manifest.jsonl"):
        assert row.request == workshop.maker.drawer.draw(row.request.index)
        layout = workshop.maker.layout(row.request)
        assert row.window == (layout.window.top, layout.window.left, layout.window.side)
        assert row.model == model and len(row.validator) == len(row.config) == 16
        assert list(row.request.sources) == sorted({row.request.background, row.request.mask_case, row.request.example})
        for name in ("image", "mask"):
            if getattr(row, name):
                assert digest_of_file(unbroken / getattr(row, name)) == getattr(row, f"{name}_digest")


def test_pixels_outside_the_region_are_those_of_the_background(unbroken, workshop):
    rows = [row for row in read_rows(unbroken / "manifest.jsonl") if row.image]
    for row in rows:
        layout, made = workshop.maker.layout(row.request), read_image(unbroken / row.image)
        background = workshop.maker.drawer.backgrounds.case(row.request.background).read_image()
        assert bool(row.removed) == (row.request.placement == "removed")
        gone = (layout.background != background).any(axis=2)
        assert gone.any() == (row.request.placement == "removed") and not (gone & ~layout.field).any()
        background = layout.background
        assert (made[~layout.region] == background[~layout.region]).all()
        assert (made[layout.region] != background[layout.region]).any()
        assert layout.region[(layout.masks.new | layout.masks.old) & layout.field].all()
        assert not (layout.region & ~field_of_view(background)).any() and layout.field[layout.masks.new].all()


def test_a_label_is_the_old_lesions_that_stay_and_the_new_one(unbroken, workshop):
    made = {case.id: case.read_mask() for case in read_dataset(unbroken).cases}
    for row in read_rows(unbroken / "manifest.jsonl"):
        layout = workshop.maker.layout(row.request)
        assert row.request.size_bin == size_class(layout.masks.new.mean())
        if row.decision == "kept":
            assert (made[row.id] == layout.masks.label).all()


def test_a_window_holds_the_whole_region_of_its_request(workshop):
    for index in range(12):
        layout = workshop.maker.layout(workshop.maker.drawer.draw(index))
        assert layout.window.crop(layout.region.astype(int)).sum() >= layout.region.sum()
        rows, columns = np.nonzero(layout.region)
        window = layout.window
        assert window.top <= rows.min() and rows.max() < window.top + window.side
        assert window.left <= columns.min() and columns.max() < window.left + window.side


def test_the_gate_asks_the_validator_that_has_not_seen_the_case_of_the_mask(workshop):
    for index in range(6):
        layout = workshop.maker.layout(workshop.maker.drawer.draw(index))
        (prepared,) = workshop.painter.prepare([layout], workshop.painter.embed([layout.prompt]))
        target, request = prepared.target, workshop.maker.drawer.draw(index)
        assert target.fold == workshop.painter.calibration.folds[request.mask_case]
        assert target.mask.shape == target.region.shape == (1, 32, 32)
        assert (target.region[target.mask > 0.5] == 1).all()


def test_a_mask_that_fits_nowhere_is_told_before_anything_is_written(fitted, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(Placer, "place", lambda *_, **__: None)
    monkeypatch.setattr(Placer, "on_tissue", lambda *_: None)
    monkeypatch.setattr(Placer, "at_edge", lambda *_: None)
    with pytest.raises(PlacementError, match="for request 0"):
        generate(fitted, phantoms, tmp_path / "synthetic", CONFIG)
    assert not (tmp_path / "synthetic").exists()


def test_what_is_painted_on_a_lesion_that_is_still_found_is_turned_down(strict, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(Remover, "found", lambda *_: 0.75)
    config = CONFIG.model_copy(update={"place": "removed", "shard_size": 4})
    plan = make_plan(strict, phantoms, config, 0)
    assert generate_shard(plan, tmp_path, 0) == 0
    rows = read_rows(shard_folder(tmp_path, 0) / "rows.jsonl")
    assert all(row.decision == "rejected" and row.checks == () and not row.image for row in rows)
    uncovered = "the lesion that was to go could not be covered with tissue of its image"
    still_found = [row.reason for row in rows if row.reason != uncovered]
    assert set(still_found) == {"0.750 of a lesion was still found after its removal, more than 0.5"}


def test_turned_down_requests_leave_a_few_pictures_and_no_case(unbroken):
    for shard in (unbroken / "shards").iterdir():
        rows = read_rows(shard / "rows.jsonl")
        for decision in ("stopped", "rejected"):
            found = [row for row in rows if row.decision == decision and row.checks]
            shown = [row for row in found if row.preview]
            assert len(shown) == min(PREVIEWS, len(found))
            for row in shown:
                picture = read_image(unbroken / row.preview)
                assert picture.shape[:2] == (row.window[2],) * 2
                assert (unbroken / row.preview_mask).is_file()


def test_the_summary_is_the_funnel_of_the_manifest_by_size(unbroken):
    rows, summary = read_rows(unbroken / "manifest.jsonl"), read_json(unbroken / "summary.json")
    found = funnel(rows).as_dict()
    assert {name: summary[name] for name in found} == found
    lesions = summary["lesions"]
    assert lesions["requested"] == len(rows) == sum(lesions.values()) / 2
    for name, count in lesions.items():
        assert sum(size[name] for size in summary["by_size"].values()) == count
    assert summary["seconds"] > 0 and summary["seconds_per_kept"] > 0


def test_a_set_and_its_model_name_no_folder_of_this_machine(unbroken, strict, phantoms):
    texts = [
        path
        for folder in (unbroken, strict)
        for path in folder.rglob("*")
        if path.suffix in (".json", ".jsonl", ".csv")
    ]
    assert {path.name for path in texts} >= {"summary.json", "config.json", "manifest.jsonl", "fit.json"}
    for path in texts:
        found = path.read_text(encoding="utf-8")
        assert not [place for place in (unbroken, strict, phantoms) if str(place) in found], path


def test_the_config_says_what_was_asked_and_of_which_model(unbroken, strict, phantoms):
    config = read_json(unbroken / "config.json")
    assert config["identity"]["generate.count"] == CONFIG.count and config["identity"]["seed"] == 0
    assert config["fit_cases"] == sorted(case.id for case in read_dataset(phantoms).split("train"))
    assert "torch" in config["versions"]


def test_another_seed_paints_other_cases(strict, phantoms, unbroken, tmp_path):
    generate_shard(make_plan(strict, phantoms, CONFIG, 1), tmp_path, 0)
    made, other = read_rows(unbroken / "manifest.jsonl"), read_rows(shard_folder(tmp_path, 0) / "rows.jsonl")
    assert other and not {row.request.seed for row in made} & {row.request.seed for row in other}


# What is aimed at


@pytest.fixture(scope="session")
def baseline(phantoms, tmp_path_factory):
    """A study of two folds of the phantoms whose network finds nothing of small lesions."""
    out = tmp_path_factory.mktemp("baseline") / "study"
    config = StudyConfig(
        seeds=1, size=64, network="unet", widths=(8, 8, 16, 16, 16), iterations=2, batch_size=4, bootstrap=5, workers=1
    )
    run_study(phantoms, out, [], config, folds=2)
    small = {
        case.id for case in read_dataset(phantoms).split("train") if size_class(case.read_mask().mean()) == "small"
    }
    assert 0 < len(small) < 8
    for path in (out / "runs").glob("*-fold*[0-9].jsonl"):
        rows = read_jsonl(path)
        write_jsonl(path, [row | {"false_negative_rate": float(row["case"] in small)} for row in rows])
    return out


def test_what_is_kept_shifts_to_the_missed_strata_though_the_gate_keeps_less_of_them(
    fitted, phantoms, baseline, tmp_path, caplog
):
    always = dict.fromkeys(("2", "4"), 0.0)
    lenient = with_thresholds(fitted, tmp_path / "lenient", always)
    generate(lenient, phantoms, tmp_path / "match", CONFIG)
    small = make_plan(lenient, phantoms, CONFIG.model_copy(update={"aim": "small", "place": "replace"}), 0)
    generate_shard(small, tmp_path / "small", 0)
    scores = [row.checks[-1].score for row in read_rows(shard_folder(tmp_path / "small", 0) / "rows.jsonl")]
    model = shutil.copytree(fitted, tmp_path / "model")
    hard = {"2": 0.0, "4": float(np.quantile(scores, 0.5))}
    thresholds = {"small": hard, "medium": always, "large": always}
    write_json(model / "calibration.json", read_json(model / "calibration.json") | {"thresholds": thresholds})
    seal(model)
    config = CONFIG.model_copy(update={"aim": "missed", "baseline": baseline, "negatives": 0.5})
    summary = generate(model, phantoms, tmp_path / "missed", config)

    plan = read_json(tmp_path / "missed" / "config.json")["identity"]["budget"]
    assert plan["strata"] and all(name.startswith("small") for name in plan["strata"])
    assert sum(plan["quotas"]) == CONFIG.count
    printed = caplog.text
    assert printed.index("aim missed: kept cases by stratum") < printed.index(plan["strata"][0])
    kept = {}
    for name in ("match", "missed"):
        rows = read_rows(tmp_path / name / "manifest.jsonl")
        lesions = [row for row in rows if row.decision == "kept" and not row.request.negative]
        assert len(lesions) == CONFIG.count
        kept[name] = [row.request.size_bin for row in lesions]
    assert kept["missed"] == ["small"] * CONFIG.count and kept["match"].count("small") < CONFIG.count
    turned_down = [row for row in read_rows(tmp_path / "missed" / "manifest.jsonl") if row.decision == "rejected"]
    assert turned_down  # the gate did keep less of them
    for name, quota in zip(plan["strata"], plan["quotas"], strict=True):
        assert summary.budget[name].quota == quota <= summary.budget[name].counts.kept


def test_shards_of_a_full_stratum_are_left_out(fitted, phantoms, tmp_path, monkeypatch):
    words = {"train-1": {"size": "small"}, "train-2": {"size": "small"}, "train-3": {"size": "large"}}
    needs = {"train-1": 3.0, "train-2": 2.0, "train-3": 1.0}
    monkeypatch.setattr(plan_module, "budget_of", lambda *_: make_budget("missed", words, 6, needs))
    made: list[int] = []

    def make(plan, out, shard):
        (shard_folder(out, shard)).mkdir(parents=True)
        (shard_folder(out, shard) / "rows.jsonl").touch()
        made.append(shard)
        return 1

    monkeypatch.setattr(places_module, "generate_shard", make)
    plan = make_plan(fitted, phantoms, CONFIG, 0)
    assert plan.budget.strata == ("small", "large") and plan.budget.quotas == (5, 1)
    run = generate_module._Run(plan, place_of(tmp_path), 1, "", (), read_rules(fitted))
    assert [int(folder.name) for folder in generate_module._complete(run)] == made == [0, 1, 2, 4, 6, 8]


# Ways to decide and to label


def test_a_fixed_gate_asks_the_same_of_every_size(strict, phantoms, tmp_path):
    plan = make_plan(strict, phantoms, CONFIG.model_copy(update={"gate": "fixed", "threshold": 0.3}), 0)
    generate_shard(plan, tmp_path, 0)
    rows = [row for row in read_rows(shard_folder(tmp_path, 0) / "rows.jsonl") if row.checks]
    assert rows
    for row in rows:
        last = row.checks[-1]
        assert (row.decision == "kept") == (row.steps == 4 and last.score >= 0.3)
        assert row.steps < 4 or last.threshold == 0.3
        assert f"{last.score:.3f}" in row.reason and f"{last.threshold:.3f}" in row.reason


def test_sampling_starts_from_the_example_as_far_as_the_strength_says(fitted, phantoms):
    workshop = workshop_of(make_plan(fitted, phantoms, CONFIG, 0))
    painter, layout = workshop.painter, workshop.maker.layout(workshop.maker.drawer.draw(0))
    texts, noise = painter.embed([layout.prompt]), painter.model.noise([layout.seed])
    assert (layout.start != resized(layout.tissue, len(layout.start))).any()
    shown = painter.model.encode(image_of(layout.start, painter.model.window))
    first = painter.model.schedule.timesteps(painter.sampler.steps, painter.sampler.strength)[:1]
    started = x_t_from_x0(shown, noise, painter.model.schedule.at(first))
    torch.testing.assert_close(painter.prepare([layout], texts)[0].noise, started, atol=1e-3, rtol=0)
    torch.testing.assert_close(painter.prepare([replace(layout, start=None)], texts)[0].noise, noise)


def test_a_negative_starts_from_the_tissue_that_is_there(fitted, phantoms):
    workshop = workshop_of(make_plan(fitted, phantoms, CONFIG.model_copy(update={"negatives": 10.0}), 0))
    request = next(r for r in map(workshop.maker.drawer.draw, range(20)) if r.negative)
    layout = workshop.maker.layout(request)
    np.testing.assert_array_equal(layout.start, resized(layout.tissue, len(layout.start)))
    beside = np.asarray(layout.window.crop(layout.field), dtype=bool)
    np.testing.assert_array_equal(layout.tissue[beside], layout.window.crop(layout.background)[beside])


# Findings


def test_prompts_of_findings_use_the_words_the_model_has_read_and_the_set_tells_what_was_left_out(
    strict, phantoms, unbroken, tmp_path, caplog
):
    out, known = tmp_path / "synthetic", read_words(strict)
    summary = generate(strict, phantoms, out, CONFIG.model_copy(update={"domain": "colonoscopy", "gate": "off"}))
    rows = read_rows(out / "manifest.jsonl")
    assert "findings in prompts: " in caplog.text and "through the attributes that they imply" in caplog.text
    assert (
        "rules in force, which keep paint off: " in caplog.text
        and summary.rules in caplog.text
        and summary.painted_on > 0
    )
    asked = Counter(name for row in rows if not row.request.negative for name in row.request.findings)
    counts = {name: one.by_name + one.by_attributes + one.without_effect for name, one in summary.findings.items()}
    assert counts == dict(asked)
    assert all(words_in(row.request.prompt) <= known and row.request.findings for row in rows)
    left_out = summary.left_out_of_prompts
    assert left_out and sum(left_out.values()) == sum(len(row.request.unknown_words) for row in rows)
    assert not any(words_in(part) <= known for part in left_out)
    assert read_json(out / "summary.json") == summary.as_dict()
    assert len(read_dataset(out).cases) == CONFIG.count == summary.funnel.lesions.kept == sum(summary.sizes.values())
    painted = [row.request for row in rows if row.decision == "kept" and not row.request.negative]
    assert summary.sizes == {size: sum(one.size_bin == size for one in painted) for size in SIZES}
    assert summary.shown == len({(one.example, one.example == one.mask_case and one.component) for one in painted})
    assert sum(summary.annotated.values()) >= len(read_dataset(phantoms).annotated("train"))
    for row, other in zip(rows, read_rows(unbroken / "manifest.jsonl"), strict=False):
        assert row.request.seed == other.request.seed and row.request.background == other.request.background


def test_the_content_of_the_findings_is_part_of_the_settings_and_their_place_is_not(strict, phantoms, tmp_path):
    own = shutil.copy(FOLDER / "fundus.yaml", tmp_path / "own.yaml")
    plans = [make_plan(strict, phantoms, GenerateConfig(domain="fundus"), 0)]
    plans += [make_plan(strict, phantoms, GenerateConfig(findings=own), 0)]
    own.write_text(own.read_text(encoding="utf-8").replace("a small cup", "a tiny cup"), encoding="utf-8")
    plans += [make_plan(strict, phantoms, GenerateConfig(findings=own), 0)]
    digests = [plan.digest() for plan in plans]
    assert digests[0] == digests[1] != digests[2]


# What is refused


def test_an_unknown_domain_is_refused_and_nothing_written(strict, phantoms, tmp_path):
    with pytest.raises(FindingsError, match="nearest: colonoscopy"):
        generate(strict, phantoms, tmp_path / "synthetic", CONFIG.model_copy(update={"domain": "colonoscpy"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"slots": 3}, {"count": 6}, {"gate": "off"}, {"shard_size": 5}])
def test_another_config_in_the_same_folder_is_refused(strict, phantoms, unbroken, change):
    before = tables_and_pictures(unbroken)
    with pytest.raises(ConfigError, match=f"made with generate.{next(iter(change))} = ") as error:
        generate(strict, phantoms, unbroken, CONFIG.model_copy(update=change))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="made with seed = 0, not 1"):
        generate(strict, phantoms, unbroken, CONFIG, seed=1)
    assert tables_and_pictures(unbroken) == before


def test_another_number_of_workers_is_no_other_config(strict, phantoms, unbroken):
    before = tables_and_pictures(unbroken)
    generate(strict, phantoms, unbroken, CONFIG.model_copy(update={"workers": 1}))
    assert tables_and_pictures(unbroken) == before


def test_another_model_in_the_same_folder_is_refused(fitted, phantoms, unbroken):
    with pytest.raises(ConfigError, match="made with model = "):
        generate(fitted, phantoms, unbroken, CONFIG)


def test_a_folder_of_other_files_is_refused(strict, phantoms, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds notes"):
        generate(strict, phantoms, tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["unet/config.json", "validator/1/model.safetensors", "fit.json"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_model_is_refused_before_anything_is_written(strict, phantoms, tmp_path, name, damage):
    model = shutil.copytree(strict, tmp_path / "model")
    if damage == "missing":
        (model / name).unlink()
    else:
        (model / name).write_bytes((model / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match=damage) as error:
        generate(model, phantoms, tmp_path / "synthetic", CONFIG)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "synthetic").exists()


def test_a_model_fitted_on_cases_of_other_names_is_refused(strict, phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    (data / "cases.csv").write_text((data / "cases.csv").read_text().replace("train-3,", "train-33,", 1))
    with pytest.raises(ModelError, match="train-33"):
        generate(strict, data, tmp_path / "synthetic", CONFIG)
    assert not (tmp_path / "synthetic").exists()


def test_a_model_fitted_on_other_cases_of_the_same_names_is_refused(strict, tmp_path):
    make_phantoms(tmp_path / "data", train=6, val=0, test=0, unannotated=0, size=128, seed=1)
    with pytest.raises(ModelError, match="is another one") as error:
        generate(strict, tmp_path / "data", tmp_path / "synthetic", CONFIG)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "synthetic").exists()


def test_a_mask_that_was_changed_after_the_fit_is_refused(strict, phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    case = read_dataset(data).split("train")[2]
    write_png(case.mask, 255 * case.read_mask()[::-1].astype("uint8"))
    with pytest.raises(ModelError, match=case.id):
        generate(strict, data, tmp_path / "synthetic", CONFIG)


def test_a_model_that_keeps_nothing_gives_up_and_leaves_no_set(fitted, phantoms, tmp_path):
    model = with_thresholds(fitted, tmp_path / "model", {"2": 2.0, "4": 2.0})
    config = CONFIG.model_copy(update={"count": 1})
    with pytest.raises(ModelError, match="0 of 20 were kept") as error:
        generate(model, phantoms, tmp_path / "synthetic", config)
    assert "\n" not in str(error.value)
    left = {path.name for path in (tmp_path / "synthetic").iterdir()}
    assert left == {".lock", "config.json", "shards"}
    rows = read_rows(shard_folder(tmp_path / "synthetic", 4) / "rows.jsonl")
    assert {row.decision for row in rows if row.checks} == {"stopped"}
    assert not any(row.decision == "kept" for row in rows)


def test_the_sealed_sampler_shapes_what_is_painted(ungated, fitted, phantoms, tmp_path):
    def painted(name, **change):
        model = with_sampler(fitted, tmp_path / f"model-{name}", **change)
        generate_shard(make_plan(model, phantoms, CONFIG.model_copy(update={"gate": "off"}), 0), tmp_path / name, 0)
        return pixels_of(tmp_path / name)

    def pixels_of(folder):
        rows = read_rows(shard_folder(folder, 0) / "rows.jsonl")
        return {row.id: read_image(folder / row.image).tobytes() for row in rows if row.image}

    plain = pixels_of(ungated)
    noise = painted("noise", strength=1.0)
    assert noise.keys() == plain.keys() and all(noise[key] != plain[key] for key in plain)
    for name, change in (("solver", {"solver": "ab2"}), ("guidance", {"guidance": (2.0, 1.5)})):
        other = painted(name, strength=1.0, **change)
        assert other.keys() == plain.keys() and all(other[key] != noise[key] for key in plain)


def without_numbers(reason):
    return re.sub(r"\d\.\d+", "", reason)


def test_painting_everything_decides_as_the_gate_does_and_keeps_the_same_pictures(painted_all, unbroken):
    out, summary = painted_all
    whole = {row.id: row for row in read_rows(out / "manifest.jsonl")}
    gated = read_rows(unbroken / "manifest.jsonl")
    assert {row.decision for row in gated} > {"kept"}
    for row in gated:
        same = whole[row.id]
        assert (row.decision, without_numbers(row.reason)) == (same.decision, without_numbers(same.reason))
        for ours, theirs in zip(row.checks, same.checks, strict=False):  # neighbours in other slots change the rounding
            assert replace(ours, score=0) == replace(theirs, score=0) and abs(ours.score - theirs.score) < 1e-3
        assert same.image and same.checks[-1].step == same.steps == 4
        if row.image:  # the same numbers in slots of other neighbours differ by rounding
            one, other = (read_image(folder / row.image).astype(int) for folder in (unbroken, out))
            assert abs(one - other).max() <= 2
    before = read_json(unbroken / "summary.json")
    assert {name: summary.as_dict()[name] for name in ("lesions", "by_size")} == {
        name: before[name] for name in ("lesions", "by_size")
    }
    kept = [row.id for row in gated if row.decision == "kept"]
    assert [case.id for case in read_dataset(out).cases] == kept


@pytest.fixture(scope="module")
def filled(fitted, phantoms, tmp_path_factory):
    """A set with about as many negatives as lesions."""
    out = tmp_path_factory.mktemp("filled") / "synthetic"
    generate(fitted, phantoms, out, CONFIG.model_copy(update={"gate": "off", "negatives": 1.0}))
    return out


def test_negatives_come_on_top_of_the_cases_that_were_asked_for(filled):
    rows = read_rows(filled / "manifest.jsonl")
    negatives = [row for row in rows if row.request.negative]
    kept = [row for row in negatives if row.decision == "kept"]
    assert negatives
    assert sum(row.decision == "kept" and not row.request.negative for row in rows) == CONFIG.count
    assert len(read_dataset(filled).cases) == CONFIG.count + len(kept)
    assert read_json(filled / "summary.json")["negatives"]["requested"] == len(negatives)
    assert read_json(filled / "summary.json")["lesions"]["requested"] == len(rows) - len(negatives)


def test_a_negative_paints_tissue_off_the_lesions_and_its_label_is_the_backgrounds(filled, phantoms):
    dataset = read_dataset(phantoms)
    for row in read_rows(filled / "manifest.jsonl"):
        if not row.request.negative:
            continue
        assert row.request.prompt == "normal mucosa" and row.request.placement == "free"
        assert row.decision == "kept" and 0 <= row.found <= 1  # there is no gate
        if row.image:
            background = dataset[row.request.background]
            region, label = (read_mask(filled / getattr(row, name)) for name in ("region", "mask"))
            assert np.array_equal(label, background.read_mask())
            assert not (region & label).any()
            changed = (read_image(filled / row.image) != background.read_image()).any(axis=2)
            assert changed.any() and not (changed & ~region).any()


def test_a_request_has_the_same_seed_whether_or_not_others_are_negatives(filled, ungated):
    plain = {row.request.index: row for row in read_rows(ungated / "manifest.jsonl")}
    shared = [row for row in read_rows(filled / "manifest.jsonl") if row.request.index in plain]
    assert shared and all(row.request.seed == plain[row.request.index].request.seed for row in shared)


def test_a_set_says_which_images_and_annotations_its_model_was_fitted_on(ungated, phantoms):
    dataset = read_dataset(phantoms)
    seen = {case.id: digest_of_file(case.image) for case in (*dataset.split("train"), *dataset.split("unannotated"))}
    cases = {case.id: digest_of_case(case) for case in dataset.split("train")}
    assert read_json(ungated / "provenance.json") == {"images": seen, "cases": cases}


# Several classes


@pytest.fixture(scope="session")
def painted_eyes(fitted_eyes, eyes, tmp_path_factory):
    """A synthetic set of discs with new cups, all kept."""
    out = tmp_path_factory.mktemp("painted-eyes") / "synthetic"
    generate(fitted_eyes, eyes, out, CONFIG.model_copy(update={"gate": "off"}))
    return out


def test_the_start_of_a_cup_shows_the_eye_itself_outside_its_disc(fitted_eyes, eyes):
    workshop = workshop_of(make_plan(fitted_eyes, eyes, CONFIG, 0))
    layout = workshop.maker.layout(workshop.maker.drawer.draw(0))
    disc = np.asarray(layout.window.crop(layout.masks.new | layout.masks.old), dtype=bool)
    shown = resized(layout.tissue, len(layout.start))
    side = len(shown)
    beyond = ndimage.zoom(ndimage.distance_transform_edt(~disc), side / len(disc), order=1) > 0.6 * layout.band
    np.testing.assert_array_equal(layout.start[beyond[:side, :side]], shown[beyond[:side, :side]])


def test_a_synthetic_set_holds_labels_in_the_values_and_classes_of_its_data_set(painted_eyes, eyes):
    dataset, real = read_dataset(painted_eyes), read_dataset(eyes)
    assert (painted_eyes / "classes.json").read_bytes() == (eyes / "classes.json").read_bytes()
    assert check_dataset(dataset).notices == () and len(dataset.cases) == CONFIG.count
    for case, row in zip(dataset.cases, read_rows(painted_eyes / "manifest.jsonl"), strict=False):
        disc, cup = case.read_masks()
        assert np.array_equal(disc, real[row.request.background].read_mask()) and not (cup & ~disc).any()
        assert abs(vertical_diameter(cup) - row.request.cup_ratio * vertical_diameter(disc)) <= 1


def test_a_painted_label_lies_inside_its_region_and_pixels_outside_are_the_backgrounds(painted_eyes, fitted_eyes, eyes):
    workshop = workshop_of(make_plan(fitted_eyes, eyes, CONFIG, 0))
    for case in read_dataset(painted_eyes).cases:
        row = next(row for row in read_rows(painted_eyes / "manifest.jsonl") if row.id == case.id)
        layout = workshop.maker.layout(row.request)
        assert layout.region[case.read_label() > 0].all()
        background = workshop.maker.drawer.backgrounds.case(row.request.background).read_image()
        assert (case.read_image()[~layout.region] == background[~layout.region]).all()
        (prepared,) = workshop.painter.prepare([layout], workshop.painter.embed([layout.prompt]))
        assert prepared.target.mask.shape == (2, 32, 32) and prepared.target.region.shape == (1, 32, 32)
        assert prepared.conditioning.mask.shape == (1, 2, 8, 8)
        assert (prepared.conditioning.mask[:, 1] <= prepared.conditioning.mask[:, 0] + 1e-6).all()


def test_a_gate_of_two_classes_judges_by_the_worse_and_shows_what_it_refused_in_the_labels_values(
    fitted_eyes, eyes, tmp_path
):
    generate(fitted_eyes, eyes, tmp_path / "all", CONFIG.model_copy(update={"count": 1}))
    scores = [row.checks[-1].score for row in read_rows(tmp_path / "all" / "manifest.jsonl")]
    assert all(0 <= score <= 1 for score in scores)
    middle = float(np.median(scores))
    strict = with_thresholds(fitted_eyes, tmp_path / "model", {"2": 0.0, "4": middle})
    generate(strict, eyes, tmp_path / "some", CONFIG.model_copy(update={"count": 1}))
    refused = [row for row in read_rows(tmp_path / "some" / "manifest.jsonl") if row.preview]
    assert refused
    assert set(np.unique(read_label(tmp_path / "some" / refused[0].preview_mask))) == {0, 1, 2}


def test_a_second_disc_in_an_eye_is_refused_before_anything_is_written(fitted_eyes, eyes, tmp_path):
    with pytest.raises(ConfigError, match="an eye has one disc"):
        generate(fitted_eyes, eyes, tmp_path / "synthetic", CONFIG.model_copy(update={"place": "free"}))
    assert list(tmp_path.iterdir()) == []


def test_other_classes_are_moved_together_onto_other_places(fitted_eyes, eyes, tmp_path):
    data, model = shutil.copytree(eyes, tmp_path / "data"), shutil.copytree(fitted_eyes, tmp_path / "model")
    (data / "classes.json").write_text('{"polyp": [1, 2], "ulcer": [2]}')
    fitted = read_json(model / "fit.json")
    fitted["cases"] = {case.id: digest_of_case(case) for case in read_dataset(data).split("train")}
    write_json(model / "fit.json", fitted)
    seal(model)
    generate(model, data, tmp_path / "synthetic", CONFIG.model_copy(update={"gate": "off", "place": "replace"}))
    for case in read_dataset(tmp_path / "synthetic").cases:
        polyp, ulcer = case.read_masks()
        assert case.class_names == ("polyp", "ulcer") and not (ulcer & ~polyp).any() and polyp.any()
    assert not any(row.request.cup_ratio for row in read_rows(tmp_path / "synthetic" / "manifest.jsonl"))
