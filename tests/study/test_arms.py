import json
import re
from dataclasses import replace

import pytest
from study_folders import make_dataset, make_synthetic

from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_rows, write_rows
from diffaug.errors import ConfigError, StudyError
from diffaug.study.arms import ARMS, build_arms, check_arms, check_size, default_arms, read_synthetic
from diffaug.study.run import read_inputs, run_study

CONFIG = StudyConfig(synthetic_per_real=0.5, batch_size=4)


@pytest.mark.parametrize(
    "name", ["magic", "real@2", "selected@0", "selected@much", "oracle+pseudo-label", "pseudo-label+pseudo-label"]
)
def test_an_unknown_arm_is_refused_with_the_valid_names(name):
    with pytest.raises(ConfigError, match=rf"real, copy-paste, pseudo-label, .*, oracle.*; got '{re.escape(name)}'"):
        check_arms(["real", name])


@pytest.mark.parametrize("names", [(), ("real", "real")])
def test_arms_are_named_once_and_at_least_one(names):
    with pytest.raises(ConfigError):
        check_arms(names)


def test_every_arm_trains_on_the_same_real_cases_except_the_oracle(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_synthetic(make_synthetic(tmp_path / "all", paint_all=True))]
    built = build_arms(tuple(ARMS), train, sets, CONFIG, full=train[:3], unannotated=train[3:])
    arms = {arm.name: arm for arm in built}
    assert list(arms) == list(ARMS)
    assert all(arm.real == train for name, arm in arms.items() if name != "oracle")
    assert arms["oracle"].real == train[:3]
    assert not arms["real"].pool and not arms["copy-paste"].pool and arms["copy-paste"].paste
    assert arms["pseudo-label"].pool == train[3:]  # to choose from


def test_painted_arms_take_as_many_cases_as_their_ratio_says(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_synthetic(make_synthetic(tmp_path / "all", kept=9, paint_all=True))]
    names = ("unfiltered@0.5", "unfiltered@1", "validated@1.5", "random-kept@0.5", "fixed-threshold@0.5")
    sizes = {arm.name: len(arm.pool) for arm in build_arms(names, train, sets, CONFIG)}
    assert sizes == dict(zip(names, (3, 6, 9, 3, 3), strict=True))


def test_one_set_serves_every_painted_arm(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_synthetic(make_synthetic(tmp_path / "all", kept=4, paint_all=True))]  # the fifth row is turned down
    config = CONFIG.model_copy(update={"synthetic_per_real": 1.0, "fixed_threshold": 0.5})
    arms = build_arms(("unfiltered", "validated", "fixed-threshold"), train, sets, config)
    unfiltered, validated, fixed = ([case.id for case in arm.pool] for arm in arms)
    assert unfiltered == [f"synth-{index:05d}" for index in range(5)]
    assert validated == fixed == unfiltered[:4]


def test_fills_join_painted_lesions_and_some_are_held_out(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_synthetic(make_synthetic(tmp_path / "all", kept=4, fills=8))]
    for share, expected in ((0.0, 0), (0.5, 2), (1.5, 6), (9.0, 6)):  # of 8 fills 2 are held out
        config = CONFIG.model_copy(update={"synthetic_per_real": 1.0, "fills": share})
        (arm,) = build_arms(("validated",), train, sets, config)
        assert len(arm.pool) == 4 + expected


def test_without_names_a_study_has_the_arms_that_its_inputs_allow(tmp_path):
    stopped = read_synthetic(make_synthetic(tmp_path / "stopped"))
    painted = read_synthetic(make_synthetic(tmp_path / "painted", paint_all=True))
    assert default_arms([]) == ("real", "copy-paste")
    assert default_arms([stopped]) == ("real", "copy-paste", "selected")
    assert default_arms([painted]) == ("real", "copy-paste", "unfiltered", "selected")


@pytest.mark.parametrize(
    ("arm", "fix"),
    [
        ("validated", "--synthetic"),
        ("oracle", "--oracle"),
        ("pseudo-label", "unannotated images"),
    ],
)
def test_an_arm_without_its_inputs_says_what_to_give(dataset, arm, fix):
    with pytest.raises(StudyError, match=fix):
        build_arms(("real", arm), read_dataset(dataset).split("train"), [], CONFIG)


def test_an_arm_that_chooses_among_what_the_gate_stopped_is_refused_without_it(dataset, synthetic):
    train = read_dataset(dataset).split("train")
    with pytest.raises(StudyError, match=r"1 of .*synthetic were stopped by the gate; .*--paint-all"):
        build_arms(("unfiltered",), train, [read_synthetic(synthetic)], CONFIG)


def test_a_fill_that_was_turned_down_is_no_lesion_that_was_stopped(tmp_path, dataset):
    folder = make_synthetic(tmp_path / "all", fills=2, paint_all=True)
    *rows, last = read_rows(folder / "manifest.jsonl")
    write_rows(folder / "manifest.jsonl", [*rows, replace(last, decision="rejected", image="", mask="")])
    train = read_dataset(dataset).split("train")
    (arm,) = build_arms(("unfiltered",), train, [read_synthetic(folder)], CONFIG)
    assert len(arm.pool) == 3 + 1


def test_an_arm_that_needs_the_baseline_needs_the_arm_real(dataset, synthetic):
    with pytest.raises(StudyError, match="add real"):
        build_arms(("selected",), read_dataset(dataset).split("train"), [read_synthetic(synthetic)], CONFIG)


def test_an_arm_with_fewer_cases_than_a_batch_is_refused_by_name(dataset):
    train = read_dataset(dataset).split("train")
    (arm,) = build_arms(("real",), train, [], CONFIG)
    check_size(arm, 6)
    with pytest.raises(StudyError, match=r"real has 6, study\.batch_size is 7; lower"):
        check_size(arm, 7)


def test_arms_take_from_every_set_in_proportion_to_its_size(tmp_path, dataset):
    first, second = make_synthetic(tmp_path / "a", kept=6), make_synthetic(tmp_path / "b", kept=12, fills=4)
    sets = (read_synthetic(first, 0), read_synthetic(second, 1))
    config = StudyConfig(synthetic_per_real=1.0)
    train = read_dataset(dataset).split("train")
    (arm,) = build_arms(("validated",), train, sets, config)
    lesions = [case.id for case in arm.pool[: len(train)]]
    assert sum(case.startswith("2:") for case in lesions) == 4 and len(lesions) == 6
    (alone,) = build_arms(("validated",), train, sets[:1], config)
    assert [case.id for case in alone.pool] == [row["id"] for row in sets[0].rows[:6]]  # one set keeps its order


def test_sets_may_repeat_ids(tmp_path, dataset):
    sets = [read_synthetic(make_synthetic(tmp_path / name), number) for number, name in enumerate(("one", "two"))]
    config = CONFIG.model_copy(update={"synthetic_per_real": 2.0})
    (arm,) = build_arms(("validated",), read_dataset(dataset).split("train"), sets, config)
    assert len({case.id for case in arm.pool}) == len({case.image for case in arm.pool}) == 8


@pytest.mark.parametrize("name", ["manifest.jsonl", "summary.json"])
def test_an_unfinished_synthetic_set_is_refused(synthetic, name):
    (synthetic / name).unlink()
    with pytest.raises(StudyError, match="must be finished"):
        read_synthetic(synthetic)


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_painted_file_that_was_changed_is_refused_before_anything_is_trained(tmp_path, dataset, synthetic, kind):
    row = read_rows(synthetic / "manifest.jsonl")[0]
    path = synthetic / getattr(row, kind)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StudyError, match=f"{row.id}.png is not the file that manifest.jsonl tells of"):
        run_study(dataset, tmp_path / "study", [synthetic], StudyConfig())
    assert not (tmp_path / "study").exists()


def test_a_split_without_cases_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "data", test=0)
    with pytest.raises(StudyError, match="split test"):
        read_inputs(folder, [], ["test"])


def test_the_training_cases_are_never_tested_on(dataset):
    with pytest.raises(StudyError, match="does not train on"):
        read_inputs(dataset, [], ["train"])


def test_another_data_set_is_tested_on_under_its_own_name(tmp_path, dataset):
    other = make_dataset(tmp_path / "other", train=2, test=3, seed=9)
    inputs = read_inputs(dataset, [], ["test", str(other)])
    assert [case.id for case in inputs.test][-3:] == ["other:test-0", "other:test-1", "other:test-2"]
    assert len(inputs.test) == 5 + 3


def test_test_folders_of_one_name_keep_their_cases_apart(tmp_path, dataset):
    folders = [str(make_dataset(tmp_path / one / "data", train=2, test=3, seed=9)) for one in "xy"]
    tested = read_inputs(dataset, [], folders).test
    assert [case.id for case in tested] == [f"{one}/data:test-{index}" for one in "xy" for index in range(3)]
    assert len({case.group for case in tested}) == 6
    with pytest.raises(StudyError, match="names one twice"):
        read_inputs(dataset, [], [folders[0], str(tmp_path / "x" / ".." / "x" / "data")])
    with pytest.raises(StudyError, match="names one twice"):
        read_inputs(dataset, [], ["test", "test"])


def test_a_refused_study_leaves_no_folder(tmp_path, dataset):
    leak = make_synthetic(tmp_path / "leak", sources=("test-0",))
    with pytest.raises(StudyError):
        run_study(dataset, tmp_path / "out", [leak], CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_json_lines_is_read_row_by_row(synthetic):
    rows = read_synthetic(synthetic).rows
    assert len(rows) == len((synthetic / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    assert json.dumps(rows[0])
