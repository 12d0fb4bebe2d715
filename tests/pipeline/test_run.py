"""Whole pipelines as a user runs them; those that fit a painter take a minute or more."""

import csv
import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layouts import refuge_stems, write_clinicdb, write_drishti, write_refuge
from pipeline_scripts import run_script
from study_folders import make_dataset, make_synthetic

from diffaug.artifacts import digest_of_file, read_json, read_jsonl, without_times
from diffaug.conditioning.findings import FOLDER
from diffaug.config import PRESETS, Config, StudyConfig, config_from_values
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_rows
from diffaug.data.phantom import make_phantoms
from diffaug.data.split import folds_by_group
from diffaug.errors import ConfigError, DataError, DiffaugError, StudyError
from diffaug.pipeline.estimate import _minutes, estimate, within_budget
from diffaug.pipeline.jobs import import_data, imported, jobs_of
from diffaug.pipeline.machine import Facts, Look, facts_of, free_gigabytes
from diffaug.pipeline.run import _label_backgrounds, run_pipeline
from diffaug.study.lines import STORED
from diffaug.study.records import Records
from diffaug.study.statistics import METRICS
from diffaug.study.study import run_study

ROOT = Path(__file__).parents[2]


def _lines(caplog: pytest.LogCaptureFixture) -> str:
    """Return what was logged since the last call."""
    text = "\n".join(caplog.messages)
    caplog.clear()
    return text


def test_every_preset_has_an_estimate_and_the_demo_fits_into_eight_minutes() -> None:
    for name, preset in PRESETS.items():
        assert estimate(preset).minutes > 0, name
    assert estimate(PRESETS["demo"]).minutes < 8


def test_an_estimate_follows_from_the_data_and_the_machine() -> None:
    few, many = Facts(20, lesions=1.0), Facts(200, lesions=12.0)
    fit, paint, study = (getattr(PRESETS["default"], stage) for stage in ("fit", "generate", "study"))
    for config in (fit, paint):
        assert estimate(config, Look(many)).minutes > estimate(config, Look(few)).minutes
        slow, fast = (estimate(config, Look(few, painter=ms)).minutes for ms in (80.0, 8.0))
        assert slow > 5 * fast
    assert estimate(paint, Look(Facts(megabytes=2.0))).megabytes > 4 * estimate(paint, Look()).megabytes
    assert estimate(study, Look(segmenter=60.0)).minutes > 1.9 * estimate(study, Look(segmenter=30.0)).minutes


def test_a_look_at_a_data_set_measures_it(tmp_path: Path) -> None:
    data = make_phantoms(tmp_path / "data", 5, 0, 3, 2, size=96)
    found = facts_of(data.folder)
    assert (found.train, found.unannotated, found.tested, found.width, found.height) == (5, 2, 3, 96, 96)
    assert 1 <= found.lesions <= 2 and 0.005 < found.megabytes < 0.03 and found.known
    assert not facts_of(None).known
    assert free_gigabytes(tmp_path / "not" / "yet") > 0


@pytest.mark.parametrize(("share", "draws"), [(None, 3), (2.0, 3), (0.7, 2), (0.1, 1)])
def test_an_estimate_tells_how_many_draws_a_budget_leaves(share: float | None, draws: int) -> None:
    whole = estimate(PRESETS["default"])
    budget = None if share is None else share * whole.minutes
    told = estimate(PRESETS["default"].model_copy(update={"budget": budget}))
    assert told.draws == draws
    assert told.minutes == pytest.approx(whole.minutes * draws / 3, abs=0.1)


REAL: dict[str, Any] = {
    "data": {"source": "phantom", "phantoms": (12, 0, 4, 0), "phantom_size": 96, "annotated": (6,), "draws": (0, 1)},
    "study": {
        "arms": ("real",),
        "network": "unet",
        "size": 64,
        "widths": (8, 8, 8, 8, 8),
        "iterations": 2,
        "batch_size": 4,
        "workers": 1,
    },
}


FIT = {  # less than the preset smoke
    "codec": {"iterations": 5},
    "denoiser": {"iterations": 2, "batch_size": 4},
    "validator": {"iterations": 2, "windows_per_case": 3},
}
STUDY = {"size": 64, "iterations": 2, "batch_size": 4, "pseudo_confidence": 0.0}


def real_alone(out: Path, **data: Any) -> Config:
    """A run of the arm real, which needs no fit: seconds."""
    return config_from_values({**REAL, "out": out, "data": REAL["data"] | data}, "smoke")


def test_what_was_allowed_in_any_fold_is_said_from_records_alone(tmp_path: Path) -> None:
    """An unannotated image that repeats a training case is a leak in the fold that tests on that case."""
    data = make_dataset(tmp_path / "data", train=10)
    text = (data / "cases.csv").read_text(encoding="utf-8")
    text = text.replace("masks/train-9.png,train-9,train", ",train-9,unannotated")
    (data / "cases.csv").write_text(text, encoding="utf-8")
    told, train = [], read_dataset(data).split("train")
    fold_of = folds_by_group({case.id: case.group for case in train}, 2, 0)
    of_each = [next(name for name, own in fold_of.items() if own == fold) for fold in range(2)]
    for case in of_each:
        shutil.copy(data / "images" / f"{case}.png", data / "images" / "train-9.png")
        config = real_alone(tmp_path / case, folds=2, annotated=("all",), draws=(0,), allow_duplicates=True)
        for _ in range(2 if case == of_each[0] else 1):  # the second time from records alone
            (report,) = run_pipeline(config, data)
            told.append(read_json(report.parent / "study.json")["duplicates"])
            assert "Not a clean test" in report.read_text(encoding="utf-8")
            shutil.rmtree(tmp_path / case / "nall-draw0-fold0", ignore_errors=True)
            shutil.rmtree(tmp_path / case / "nall-draw0-fold1", ignore_errors=True)
    assert told == [[[case, "train-9"]] for case in (of_each[0], *of_each)]


def test_cases_of_a_test_folder_carry_its_name_so_another_name_is_another_run(tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "alpha")
    for name in ("alpha", "zeta"):
        config = real_alone(tmp_path / f"out-{name}", test=(str(other.rename(tmp_path / name)),), draws=(0,))
        run_pipeline(config.model_copy(update={"records": tmp_path / "records.jsonl"}))
        other = tmp_path / name
    lines = [line for line in read_jsonl(tmp_path / "records.jsonl") if "run" in line]
    assert len({line["run"] for line in lines}) == 2 and len({line["on"] for line in lines}) == 2


def test_draws_are_pooled_and_what_is_recorded_is_not_run_again(tmp_path: Path) -> None:
    (report,) = run_pipeline(real_alone(tmp_path))
    summary = json.loads((report.parent / "summary.json").read_text())
    assert (summary["arms"]["real"]["draws"], summary["arms"]["real"]["n"]) == (2, 4)
    rows = list(csv.DictReader((report.parent / "cases.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["draw"], row["annotated"]) for row in rows] == [("0", "6")] * 4 + [("1", "6")] * 4
    before = digest_of_file(report.parent / "summary.json")
    for draw in (0, 1):
        shutil.rmtree(tmp_path / f"n6-draw{draw}")
    assert "whose predictions are not kept" not in report.read_text(encoding="utf-8")
    run_pipeline(real_alone(tmp_path))
    assert digest_of_file(report.parent / "summary.json") == before
    assert not list(tmp_path.glob("n6-draw*"))  # nothing was made again
    assert "whose predictions are not kept" in report.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_draws_that_actors_train_are_those_of_one_process(tmp_path: Path) -> None:
    alone, actors = (real_alone(tmp_path / name) for name in ("alone", "actors"))
    run_pipeline(alone)
    run_pipeline(actors.model_copy(update={"study": actors.study.model_copy(update={"workers": 2, "ray": "auto"})}))
    for draw in (0, 1):
        one, other = (tmp_path / name / f"n6-draw{draw}" / "study" / "runs" for name in ("alone", "actors"))
        weights, same = sorted(one.glob("*.safetensors")), sorted(other.glob("*.safetensors"))
        assert weights and [digest_of_file(path) for path in weights] == [digest_of_file(path) for path in same]
    one, other = results_of(tmp_path / "alone"), results_of(tmp_path / "actors")
    settings = {name for name in one if name.endswith("study.json")}  # which say how many workers there are
    assert len(settings) >= 2 and one.keys() == other.keys()
    assert all(one[name] == other[name] for name in one if name not in settings)


def test_a_damaged_file_of_a_finished_job_is_made_again_or_named(tmp_path: Path) -> None:
    config = real_alone(tmp_path, draws=(0,))
    run_pipeline(config)
    job, before, records = tmp_path / "n6-draw0", results_of(tmp_path), (tmp_path / "records.jsonl").read_bytes()
    made_again = ("study/predictions/real-0/00000.png", "study/profiles.json", "study/summary.json")
    digests = {name: digest_of_file(job / name) for name in made_again}
    for name in made_again:
        (job / name).write_bytes((job / name).read_bytes()[:-9])
    run_pipeline(config)
    assert {name: digest_of_file(job / name) for name in made_again} == digests
    for path in (
        job / "study" / "runs" / "real-0.log.jsonl",
        job / "data" / "cases.csv",
        tmp_path / "data" / "cases.csv",
    ):
        data = path.read_bytes()
        path.write_bytes(bytes(len(data)))
        for _ in range(2):
            with pytest.raises(DiffaugError, match=re.escape(str(path))) as told:
                run_pipeline(config)
            assert "remove" in str(told.value)
        path.write_bytes(data)
    (tmp_path / "duplicates.json").write_bytes(b"")
    run_pipeline(config)
    assert results_of(tmp_path) == before
    assert (tmp_path / "records.jsonl").read_bytes() == records


def test_a_file_that_is_removed_from_a_finished_job_is_not_missed(tmp_path: Path) -> None:
    """Whoever needs the space may remove weights, or data: the results are recorded."""
    config = real_alone(tmp_path, draws=(0,))
    run_pipeline(config)
    shutil.rmtree(tmp_path / "n6-draw0" / "data")
    (tmp_path / "n6-draw0" / "study" / "runs" / "real-0.safetensors").unlink()
    run_pipeline(config)
    assert not (tmp_path / "n6-draw0" / "data").exists()
    (tmp_path / "n6-draw0" / "files.json").rename(tmp_path / "files.json")  # older versions wrote none
    for damaged in ("[]", "3", '{"identity": {}, "config": {}, "tests": 3}'):
        (tmp_path / "n6-draw0" / "study" / "study.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(DataError, match=r"study\.json"):
            run_pipeline(config)
    shutil.rmtree(tmp_path / "n6-draw0" / "study")
    (tmp_path / "files.json").rename(tmp_path / "n6-draw0" / "files.json")
    (tmp_path / "n6-draw0" / "data.json").write_text("{}")
    with pytest.raises(DataError, match=r"n6-draw0/data.json was altered; .* remove it"):
        run_pipeline(config)


def results_of(out: Path) -> dict[str, Any]:
    """Return what every table and JSON file of a run says, apart from times and from paths on this machine."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.suffix not in (".json", ".jsonl", ".csv") or path.name in ("places.json", "seconds.json"):
            continue
        value: Any = path.read_text(encoding="utf-8").splitlines()
        if path.name in ("files.json", "digests.json"):
            value = sorted(read_json(path))  # digests, also of logs that hold times
        elif path.suffix == ".csv":
            value = list(csv.DictReader(value))
        else:
            value = read_json(path) if path.suffix == ".json" else [json.loads(line) for line in value]
        found[path.relative_to(out).as_posix()] = without_times(value)
    return found


def test_what_was_recorded_on_a_gpu_is_reported_where_there_is_none(tmp_path: Path) -> None:
    one_draw = real_alone(tmp_path, draws=(0,))
    here, there = (one_draw.model_copy(update={"device": device}) for device in ("cpu", "cuda:77"))
    (report,) = run_pipeline(here)
    numbers, dataset = read_json(report.parent / "summary.json"), read_dataset(tmp_path / "data")
    keys = [[key for job in jobs_of(one, dataset) for key in job.keys().values()] for one in (here, there)]
    records = (tmp_path / "records.jsonl").read_text(encoding="utf-8")
    for own, other in zip(*keys, strict=True):
        records = records.replace(own, other)
    (tmp_path / "records.jsonl").write_text(records, encoding="utf-8")
    run_pipeline(there)
    assert read_json(report.parent / "summary.json") == numbers
    with pytest.raises(ConfigError, match="not cuda:77; use cpu"):
        run_pipeline(there.model_copy(update={"data": there.data.model_copy(update={"draws": (0, 1)})}))


def test_a_further_draw_and_number_runs_only_what_is_new(tmp_path: Path) -> None:
    run_pipeline(real_alone(tmp_path, draws=(0,)))
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8")
    six, all_ = run_pipeline(real_alone(tmp_path, draws=(0, 1), annotated=(6, "all")))
    assert (tmp_path / "records.jsonl").read_text(encoding="utf-8").startswith(lines)
    assert json.loads((six.parent / "summary.json").read_text())["arms"]["real"]["draws"] == 2
    curve = list(csv.DictReader((all_.parent / "curve.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["annotated"] for row in curve] == ["6", "12"]


def test_a_curve_to_all_cases_has_the_oracle_beside_the_arms_of_each_number(tmp_path: Path) -> None:
    config = real_alone(tmp_path, annotated=(6, "all"), draws=(0,))
    arms = config.study.model_copy(update={"arms": ("real", "oracle")})
    for report in run_pipeline(config.model_copy(update={"study": arms})):
        curve = csv.DictReader((report.parent / "curve.csv").read_text(encoding="utf-8").splitlines())
        assert [(row["arm"], row["annotated"]) for row in curve] == [
            ("real", "6"), ("oracle", "6"), ("real", "12"), ("oracle", "12")
        ]  # fmt: skip
    (line,) = [line for line in read_jsonl(tmp_path / "records.jsonl") if line.get("arm") == "oracle" and "run" in line]
    assert line["annotated"] == 6
    cuts = [read_json(tmp_path / name / "summary.json")["contrast_cut"] for name in ("n6", "nall")]
    assert cuts[0] != cuts[1]  # low contrast goes by the annotated cases, for the oracle too
    assert not list((tmp_path / "nall-draw0" / "study" / "runs").glob("oracle*"))  # trained once, beside the first


def test_data_that_are_given_are_read_and_never_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nosuch does not exist"):
        run_pipeline(real_alone(tmp_path / "out"), tmp_path / "nosuch")
    assert not (tmp_path / "nosuch").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"phantoms": (13, 0, 4, 0)}, "phantoms = .*12.*13"),
        ({"seed": 1}, "seed = 0, not 1"),
        ({"folds": 2}, "folds = 3, not 2"),
    ],
)
def test_what_was_derived_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    config = real_alone(tmp_path, folds=3, annotated=("all",))
    jobs_of(config, imported(config))
    data = {"folds": 3, "annotated": ("all",)} | {name: value for name, value in change.items() if name != "seed"}
    with pytest.raises(ConfigError, match=told):
        run_pipeline(real_alone(tmp_path, **data).model_copy(update={"seed": change.get("seed", 0)}))


def test_a_data_set_of_the_folder_format_is_read_where_it_lies(tmp_path: Path) -> None:
    config = real_alone(tmp_path / "out", draws=(0,))
    import_data(config, tmp_path / "data")
    (report,) = run_pipeline(real_alone(tmp_path / "out", source="folder", path=tmp_path / "data", draws=(0,)))
    assert json.loads((report.parent / "study.json").read_text())["data"] == "data"
    assert json.loads((report.parent / "places.json").read_text())["data"] == str(tmp_path / "data")
    assert not (tmp_path / "out" / "data").exists()


def test_a_subset_of_other_cases_is_not_taken_for_the_subset_of_these(tmp_path: Path) -> None:
    config, data = real_alone(tmp_path / "out", draws=(0,)), tmp_path / "data"
    import_data(config, data)
    run_pipeline(config, data)
    table = (data / "cases.csv").read_text(encoding="utf-8").splitlines()
    (data / "cases.csv").write_text("\n".join(table[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="n6-draw0/data was made with data = "):
        run_pipeline(config, data)


def test_an_imported_source_whose_files_changed_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "images and masks"
    import_data(real_alone(tmp_path), source)
    (source / "cases.csv").unlink()  # so that it is a source, not a data set
    config = real_alone(tmp_path / "out", source="folder", path=source)
    before = imported(config)
    assert imported(config).cases == before.cases
    next((source / "images").glob("train-*")).unlink()
    with pytest.raises(ConfigError, match="was made with files = "):
        imported(config)
    shutil.rmtree(source)
    assert imported(config).cases == before.cases


def test_an_arm_is_added_to_a_run_that_had_painted_ones(tmp_path: Path) -> None:
    config, data, job = (
        real_alone(tmp_path, draws=(0,)),
        make_dataset(tmp_path / "cases", train=8),
        tmp_path / "n6-draw0",
    )
    run_pipeline(config, data)
    shutil.rmtree(job / "study")  # as if the arms were chosen together from the start
    (job / "files.json").unlink()
    subset = read_dataset(job / "data")
    make_synthetic(job / "synthetic", sources=(subset.split("train")[0].id,), data=job / "data")
    painted = config.study.model_copy(update={"arms": ("real", "validated"), "synthetic_per_real": 0.5})
    run_study(job / "data", job / "study", [job / "synthetic"], painted, oracle=data)
    study = config.study.model_copy(update={"arms": ("real", "copy-paste"), "synthetic_per_real": 0.5})
    (report,) = run_pipeline(config.model_copy(update={"study": study}), data)
    assert set(json.loads((report.parent / "summary.json").read_text())["arms"]) == {"real", "copy-paste"}
    plan = read_json(report.parent / "study.json")
    assert (plan["synthetic"], plan["synthetic_of"], plan["cases"]["synthetic"]) == (["n6-draw0/synthetic"], [], [4])
    assert "what became of the 5 requests of <strong>n6-draw0/synthetic</strong>" in report.read_text(encoding="utf-8")


def test_a_budget_leaves_out_the_last_draws_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "diffaug")
    config, records = real_alone(tmp_path, draws=(0, 1, 2, 3)), Records(tmp_path / "records.jsonl")
    costly = config.model_copy(update={"study": StudyConfig(arms=("real",))})
    full, minutes = import_data(config, tmp_path / "data"), estimate(costly.study).minutes

    def draws(budget: float) -> list[int]:
        jobs = jobs_of(costly.model_copy(update={"budget": budget}), full)
        return [job.draw for job in within_budget(jobs, records)]

    assert draws(2.5 * minutes) == [0, 1]
    assert "budget: 2 of 4 draws, about" in _lines(caplog)
    assert draws(0.1 * minutes) == [0]  # one draw at least
    assert "one draw is made even so" in _lines(caplog)
    assert draws(4.1 * minutes) == [0, 1, 2, 3]
    assert "budget: 4 of 4 draws, about" in _lines(caplog)


def test_a_budget_goes_by_what_was_measured(tmp_path: Path) -> None:
    config, path = painted(real_alone(tmp_path, draws=(0, 1)), "real", "validated"), tmp_path / "records.jsonl"
    full = import_data(config, tmp_path / "data")
    first, second = jobs_of(config, full)
    assert (first.label, second.label, replace(first, fold=3).label) == ("draw 0", "draw 1", "draw 0, fold 3")
    guess = _minutes(second, Records(path))
    assert _minutes(first, Records(path)) == guess > 1
    records, told = Records(path), {"annotated": 6, "fit_seconds": 60.0, "generate_seconds": 90.0}
    records.note_cost(first.painted_key, {"alike": first.alike(), **told})
    row = {"case": "a", "group": "a", "area": 0.1, "contrast": 5.0, "strata": [], **dict.fromkeys((*METRICS, *STORED))}
    for arm in ("real", "validated"):
        line = {"arm": arm, "annotated": 6, "draw": 0, "fold": None, "seed": 0, "cases": {}, "negatives": []}
        records.add(first.keys()[arm, 0], {**line, "alike": first.alike(arm), "seconds": 30.0}, [row], None)
    assert _minutes(first, Records(path)) == 0
    workers = config.generate.workers  # of the study there is one
    assert _minutes(second, Records(path)) == pytest.approx(1 + 1.5 / workers + 2 * 0.5)
    make_synthetic(second.out / "synthetic")
    assert _minutes(second, Records(path)) == pytest.approx(2 * 0.5)


def test_what_other_runs_cost_is_left_out_and_the_training_of_each_arm_is_told(tmp_path: Path) -> None:
    config = real_alone(tmp_path, draws=(0,))
    (job,) = jobs_of(config, import_data(config, tmp_path / "data"))
    records = Records(tmp_path / "records.jsonl")
    records.note_cost(job.painted_key, {"annotated": 6, "draw": 0})
    records.note_cost("another", {"annotated": 6, "draw": 1})
    (report,) = run_pipeline(config)
    costs, training = (
        list(csv.DictReader((report.parent / f"{name}.csv").read_text(encoding="utf-8").splitlines()))
        for name in ("costs", "training")
    )
    assert [row["draw"] for row in costs] == ["0"]
    assert [(row["arm"], float(row["minutes"]) > 0) for row in training] == [("real", True)]
    assert "training.csv" in report.read_text(encoding="utf-8")


def test_every_fold_is_tested_once_and_is_no_part_of_its_training(tmp_path: Path) -> None:
    config = real_alone(tmp_path, folds=3, annotated=("all",), draws=(0,))
    full = import_data(config, tmp_path / "data")
    tested: list[str] = []
    for job in jobs_of(config, full):
        fold = read_dataset(job.full)
        names = {split: {case.id for case in fold.split(split)} for split in ("train", "val", "test")}
        assert not names["val"]
        assert not names["train"] & names["test"]
        assert names["train"] | names["test"] == {case.id for case in full.split("train")}
        assert job.count == len(names["train"])
        tested += names["test"]
    assert sorted(tested) == sorted(case.id for case in full.split("train"))


@pytest.mark.parametrize(
    ("arms", "batch_size", "annotated", "rule"),
    [
        (["real"], 2, 9, "it is 9, .* without fold 0 has 5; ask for fewer"),
        (["real"], 8, "all", "real has 5, study.batch_size is 8"),
        (["real", "unfiltered"], 2, 3, "a fit needs 6 annotated training cases: .* without fold 0 has 3"),
    ],
)
def test_folds_that_are_too_small_are_refused_before_a_folder_is_made(
    tmp_path: Path, arms: list[str], batch_size: int, annotated: int | str, rule: str
) -> None:
    data = make_dataset(tmp_path / "data", train=10)
    config = real_alone(tmp_path / "out", folds=2, annotated=(annotated,), draws=(0,))
    study = config.study.model_copy(update={"arms": tuple(arms), "batch_size": batch_size})
    with pytest.raises(DiffaugError, match=rule):
        run_pipeline(config.model_copy(update={"study": study}), data)
    assert not (tmp_path / "out").exists()


def painted(config: Config, *arms: str, **generate: Any) -> Config:
    """The same run with other arms, and another way of painting."""
    study = config.study.model_copy(update={"arms": arms, "synthetic_per_real": 2.0})
    return config.model_copy(update={"study": study, "generate": config.generate.model_copy(update=generate)})


def test_one_set_is_painted_to_the_end_whichever_arms_choose_among_it(tmp_path: Path) -> None:
    config = real_alone(tmp_path, painted_per_real=2.5)
    full = import_data(config, tmp_path / "data")
    few, many = ("real", "validated"), ("real", "validated", "unfiltered", "selected@1")
    first, second = (jobs_of(painted(config, *arms), full)[0] for arms in (few, many))
    assert first.generate == second.generate
    assert (first.generate.count, first.generate.paint_all) == (15, True)
    assert not jobs_of(painted(config, *few, gate="off"), full)[0].generate.paint_all
    assert {key: second.keys()[key] for key in first.keys()} == first.keys()  # noqa: SIM118 - a method


def test_the_key_of_a_painted_run_follows_content_and_not_places(tmp_path: Path) -> None:
    config = painted(real_alone(tmp_path, draws=(0,)), "validated")
    full, findings = import_data(config, tmp_path / "data"), tmp_path / "mine.yaml"
    published = (FOLDER / "endoscopy.yaml").read_text(encoding="utf-8")

    def key(text: str, **generate: Any) -> str:
        findings.write_text(text, encoding="utf-8")
        (job,) = jobs_of(painted(config, "validated", findings=findings, **generate), full)
        return job.keys()["validated", 0]

    before = key(published)
    assert key(published.replace("domain: endoscopy", "domain: kolon", 1)) != before
    findings = tmp_path / "moved.yaml"
    assert key(published, workers=7, count=9) == before
    baseline = make_dataset(tmp_path / "baseline")
    first = key(published, baseline=baseline)
    assert key(published, baseline=baseline.rename(tmp_path / "elsewhere")) == first != before


def test_an_arm_that_takes_more_than_is_painted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"selected@6 takes 6 for each real case, data\.painted_per_real is 3"):
        run_pipeline(painted(real_alone(tmp_path), "real", "validated", "selected@6"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("study", "data", "told"),
    [
        ({"batch_size": 7}, {"annotated": ("all", 6)}, "batch has rows: real has 6"),
        ({"arms": ("selected",)}, {}, "selected is derived from the arm real"),
        ({"arms": ("real", "pseudo-label")}, {"annotated": ("all",)}, "pseudo-label needs unannotated images"),
        ({"arms": ("real", "validated")}, {"annotated": (6, 5)}, "a fit needs 6 .* has 5"),
        ({}, {"annotated": (6, 13)}, "it is 13, .* has 12"),
        ({}, {"test": "val"}, "annotated cases in the split val"),
    ],
)
def test_what_a_later_job_would_stop_at_is_refused_before_the_first_one_starts(
    tmp_path: Path, study: dict[str, Any], data: dict[str, Any], told: str
) -> None:
    config = real_alone(tmp_path, **data)
    with pytest.raises(DiffaugError, match=told):
        run_pipeline(config.model_copy(update={"study": config.study.model_copy(update=study)}))
    assert not list(tmp_path.glob("n*"))


def test_a_score_is_needed_for_a_fixed_threshold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generate\.gate is off"):
        run_pipeline(painted(real_alone(tmp_path), "real", "fixed-threshold", gate="off"))


def test_a_test_image_in_training_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    data, out = make_dataset(tmp_path / "cases", train=8), tmp_path / "out"
    for kind in ("images", "masks"):
        shutil.copyfile(data / kind / "train-3.png", data / kind / "test-1.png")
    with pytest.raises(StudyError, match="test-1 = train-3"):
        run_pipeline(real_alone(out), data)
    assert not list(out.glob("n*"))
    (report,) = run_pipeline(real_alone(out, allow_duplicates=True), data)
    assert json.loads((report.parent / "study.json").read_text())["duplicates"] == [["test-1", "train-3"]]


def test_pseudo_labels_are_left_out_where_no_image_is_unannotated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diffaug")
    config = painted(real_alone(tmp_path, annotated=("all", 6)), "real", "pseudo-label")
    every, six, *_ = (job.config.study.arms for job in jobs_of(config, import_data(config, tmp_path / "data"))[::2])
    assert (every, six) == (("real",), ("real", "pseudo-label"))
    assert _lines(caplog).count("pseudo-label: left out with all annotated cases") == 1


def test_labelled_backgrounds_need_unannotated_images_and_are_the_runs_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diffaug")
    config = painted(real_alone(tmp_path, annotated=("all", 6), backgrounds="pseudo-labelled"), "real", "unfiltered")
    every, six, *_ = (
        job.config.data.backgrounds for job in jobs_of(config, import_data(config, tmp_path / "data"))[::2]
    )
    assert (every, six) == ("annotated", "pseudo-labelled")
    assert _lines(caplog).count("all annotated cases leave no others") == 1
    own = config.generate.model_copy(update={"backgrounds": tmp_path})
    with pytest.raises(ConfigError, match=r"set data\.backgrounds: pseudo-labelled"):
        run_pipeline(config.model_copy(update={"generate": own}))


def test_a_baseline_that_is_sure_of_no_image_leaves_annotated_frames_to_paint_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diffaug")
    config = real_alone(tmp_path, draws=(0,))
    unsure = config.study.model_copy(update={"pseudo_confidence": 1.0})
    run_pipeline(config := config.model_copy(update={"study": unsure}))
    (job,) = jobs_of(config, imported(config))
    caplog.clear()
    assert _label_backgrounds(job) is None
    assert "annotated images alone: an arm needs cases: none of 6 images" in _lines(caplog)


def test_draws_share_no_seed(tmp_path: Path) -> None:
    config = real_alone(tmp_path)
    config = config.model_copy(update={"study": config.study.model_copy(update={"seeds": 3})})
    first, second = jobs_of(config, import_data(config, tmp_path / "data"))
    assert not {seed for _, seed in first.keys()} & {seed for _, seed in second.keys()}  # noqa: SIM118 - a method


@pytest.mark.parametrize(("name", "jobs"), [("kvasir_study", 6), ("drishti_study", 10)])
def test_a_study_script_plans_its_whole_table(name: str, jobs: int, tmp_path: Path) -> None:
    source = tmp_path / "published set"
    write_drishti(source, 10, side=64)
    plan = json.loads(run_script(f"{name}.sh", str(tmp_path / "out"), str(source), "--dry-run", "--json"))["config"]
    data = plan["data"]
    assert len(data["annotated"]) * len(data["draws"]) * max(1, data["folds"]) == jobs
    assert Path(plan["records"]).resolve() == ROOT / "docs" / "results" / f"{name}.jsonl"
    if data["folds"]:
        splits = {case.split for case in read_dataset(Path(data["path"])).cases}
        assert splits == {"train"}  # each case is tested in its fold


@pytest.mark.slow
def test_the_smoke_script_runs_every_stage_on_phantoms_and_ends_with_a_report(tmp_path: Path) -> None:
    last = run_script("smoke.sh", str(tmp_path / "mit Leerzeichen")).strip().splitlines()[-1]
    page = Path(last).read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") or page.startswith("<!doctype html>")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clinicdb", "refuge2", "drishti"])
def test_the_whole_study_runs_on_a_tiny_tree_of_the_published_layout(name: str, tmp_path: Path) -> None:
    source, out = tmp_path / "published set", str(tmp_path / "out")
    if name == "clinicdb":
        write_clinicdb(source, (72, 96), ".png")
    elif name == "refuge2":
        write_refuge(source, refuge_stems(24, 3, 6), side=256, vessels=True)
    else:
        write_drishti(source, 30, side=128)
    words = (out, str(source)) if name == "drishti" else (str(source), out)
    smoke = {"PRESET": "smoke", "ANNOTATED": "80" if name == "clinicdb" else "12", "GENERATE": "--gate off"}
    page = Path(run_script(f"{name}.sh", *words, **smoke).strip().splitlines()[-1])
    assert "<html" in page.read_text(encoding="utf-8")
    names = ("lesion",) if name == "clinicdb" else ("disc", "cup")
    for made in ("data", "synthetic"):
        assert read_dataset(tmp_path / "out" / made).class_names == names
    arms = json.loads((tmp_path / "out" / "study" / "summary.json").read_text())["arms"]
    assert all(set(arm.get("classes", ())) == ({"disc", "cup"} if len(names) == 2 else set()) for arm in arms.values())


@pytest.mark.slow
def test_a_run_from_one_config_resumes_to_the_same_summary(tmp_path: Path) -> None:
    arms = ["real", "copy-paste", "pseudo-label", "unfiltered", "validated", "selected", "selected@1"]
    arms.append("selected+pseudo-label")
    values = {"out": tmp_path, "fit": FIT, "generate": {"gate": "off", "negatives": 0.5}}
    values |= {"data": {"backgrounds": "pseudo-labelled"}, "study": {**STUDY, "arms": arms}}
    config = config_from_values(values, "smoke")
    (report,) = run_pipeline(config)
    summary = report.parent / "summary.json"
    before = digest_of_file(summary)
    found = json.loads(summary.read_text())["arms"]
    assert set(found) == set(arms)
    # `real` was trained before negatives were painted
    assert found["selected"]["negatives"]["n"] == found["real"]["negatives"]["n"] > 0
    rows = read_rows(tmp_path / "n12-draw0" / "synthetic" / "manifest.jsonl")
    train = {case.id for case in read_dataset(tmp_path / "n12-draw0" / "data").split("train")}
    assert {row.request.background for row in rows} - train  # frames that `real` labelled
    study = tmp_path / "n12-draw0" / "study"
    for name in ("selected-0.jsonl", "selected-0.safetensors", "selected+pseudo-label-0.jsonl"):
        (study / "runs" / name).unlink()  # as if killed before the last runs had finished
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"arm": "selected' not in line]  # of every ratio, with labels and without
    (tmp_path / "records.jsonl").write_text("".join(kept), encoding="utf-8")
    run_pipeline(config)
    assert digest_of_file(summary) == before


@pytest.mark.slow
def test_two_runs_that_fit_and_paint_give_the_same_study_table(tmp_path: Path) -> None:
    results = []
    for name in ("one", "other"):
        arms = ["real", "copy-paste", "mean-teacher", "selected", "selected+pseudo-label"]
        config = {"out": tmp_path / name, "fit": FIT, "generate": {"gate": "off", "negatives": 0.5}}
        run_pipeline(config_from_values({**config, "study": {**STUDY, "arms": arms}}, "smoke"))
        results.append(results_of(tmp_path / name))
    pooled = {f"n12/{name}" for name in ("study.json", "summary.json", "cases.csv", "training.csv")}
    assert results[0].keys() > {*pooled, "records.jsonl", "n12-draw0/synthetic/manifest.jsonl"}
    assert results[0] == results[1]
    assert all("minutes" not in row for row in results[0]["n12/training.csv"])


@pytest.mark.slow
def test_folds_fit_paint_and_test_every_training_case_once(tmp_path: Path) -> None:
    data = {"folds": 2, "annotated": ["all"]}
    values = {"out": tmp_path, "data": data, "fit": FIT, "generate": {"gate": "off"}, "study": STUDY}
    (report,) = run_pipeline(config_from_values(values, "smoke"))
    summary = json.loads((report.parent / "summary.json").read_text())
    train = read_dataset(tmp_path / "data").split("train")
    assert {one["n"] for one in summary["arms"].values()} == {len(train)}
    assert "selected" in summary["arms"]
    assert read_json(report.parent / "study.json")["synthetic_of"] == ["fold 0", "fold 1"]
    text = report.read_text(encoding="utf-8")
    assert f"study of {len(train)} annotated cases in 2 folds" in text and "2 synthetic sets together" in text
