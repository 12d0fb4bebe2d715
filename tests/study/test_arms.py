import csv
import json
import shutil

import pytest
from study_folders import make_dataset, make_synthetic

from diffaug.artifacts import read_jsonl, write_jsonl
from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.errors import ConfigError, StudyError
from diffaug.study.arms import ARMS, build_arms, check_arms, check_provenance, read_synthetic
from diffaug.study.run import read_inputs, run_study


def test_an_unknown_arm_is_refused_with_the_valid_names():
    with pytest.raises(ConfigError, match=r"real, copy-paste, validated, oracle; got 'magic'"):
        check_arms(["real", "magic"])


@pytest.mark.parametrize("names", [(), ("real", "real")])
def test_arms_are_named_once_and_at_least_one(names):
    with pytest.raises(ConfigError):
        check_arms(names)


def test_every_arm_trains_on_the_same_real_cases_except_the_oracle(dataset, synthetic):
    train = read_dataset(dataset).split("train")
    sets = [read_synthetic(synthetic)]
    arms = {arm.name: arm for arm in build_arms(tuple(ARMS), train, sets, train[:3])}
    assert arms["real"].real == arms["copy-paste"].real == arms["validated"].real == train
    assert [case.id for case in arms["validated"].pool] == [f"synth-{index:05d}" for index in range(4)]
    assert arms["oracle"].real == train[:3]
    assert not arms["real"].pool
    assert not arms["copy-paste"].pool


@pytest.mark.parametrize(("arm", "fix"), [("validated", "--synthetic"), ("oracle", "--oracle")])
def test_an_arm_without_its_inputs_says_what_to_give(dataset, arm, fix):
    with pytest.raises(StudyError, match=fix):
        build_arms(("real", arm), read_dataset(dataset).split("train"), [])


@pytest.mark.parametrize(("source", "where"), [("test-1", "in split test"), ("elsewhere-3", "not in the data set")])
def test_a_synthetic_set_that_saw_other_than_training_cases_is_refused_by_name(tmp_path, dataset, source, where):
    folder = make_synthetic(tmp_path / "leak", sources=("train-0", source))
    with pytest.raises(StudyError, match=rf"synth-00000 of .*leak uses case {source}, which is {where}"):
        check_provenance(read_synthetic(folder), read_dataset(dataset))


def test_an_unannotated_source_is_refused(tmp_path, dataset, synthetic):
    text = (dataset / "cases.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    rows[2][2], rows[2][4] = "", "unannotated"
    assert rows[2][0] == "train-1"
    (dataset / "cases.csv").write_text("\n".join(",".join(row) for row in rows) + "\n", encoding="utf-8")
    with pytest.raises(StudyError, match="train-1, which is in split unannotated"):
        read_inputs(dataset, [synthetic], "test")


def test_a_rejected_row_is_checked_too(dataset, synthetic):
    rows = read_jsonl(synthetic / "manifest.jsonl")
    rows[-1]["sources"] = ["test-0"]
    write_jsonl(synthetic / "manifest.jsonl", rows)
    with pytest.raises(StudyError, match="test-0"):
        read_inputs(dataset, [synthetic], "test")


def test_a_test_image_that_is_also_trained_on_is_refused_by_name(dataset):
    shutil.copy(dataset / "images" / "train-3.png", dataset / "images" / "test-2.png")
    with pytest.raises(StudyError, match="test-2 of the test split and case train-3"):
        read_inputs(dataset, [], "test")


@pytest.mark.parametrize("name", ["manifest.jsonl", "summary.json"])
def test_an_unfinished_synthetic_set_is_refused(synthetic, name):
    (synthetic / name).unlink()
    with pytest.raises(StudyError, match="must be finished"):
        read_synthetic(synthetic)


def test_a_split_without_cases_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "data", test=0)
    with pytest.raises(StudyError, match="split test"):
        read_inputs(folder, [], "test")


def test_a_refused_study_leaves_no_folder(tmp_path, dataset):
    leak = make_synthetic(tmp_path / "leak", sources=("test-0",))
    with pytest.raises(StudyError):
        run_study(dataset, tmp_path / "out", [leak], StudyConfig())
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_json_lines_is_read_row_by_row(synthetic):
    rows = read_synthetic(synthetic).rows
    assert len(rows) == len((synthetic / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    assert json.dumps(rows[0])
