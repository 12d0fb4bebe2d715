import csv
import shutil

import pytest
from study_folders import make_dataset

from diffaug.artifacts import read_json, write_csv
from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.errors import ConfigError, DataError
from diffaug.report.page import write_report
from diffaug.report.wording import fraction, points
from diffaug.study.leaks import HONEST, WAYS, divide, leak_study
from diffaug.study.study import run_study

CONFIG = StudyConfig(
    arms=("real",), size=64, network="unet", widths=(8,) * 5, iterations=2, batch_size=2, workers=1, bootstrap=20
)


def read_csv(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def sequences(tmp_path):
    """A data set of three sequences of four frames each."""
    folder = make_dataset(tmp_path / "data", train=12, test=0)
    text = (folder / "cases.csv").read_text(encoding="utf-8")
    for index in range(12):
        text = text.replace(f"\ntrain-{index},", f"\nTRAIN-{index},").replace(f",train-{index},", f",s{index % 3},")
        text = text.replace(f"train-{index}\n", f"s{index % 3}\n")
    (folder / "cases.csv").write_text(text.replace("TRAIN", "train"), encoding="utf-8")
    return folder


def test_an_honest_division_cuts_no_group_and_a_careless_one_does(sequences):
    cases = read_dataset(sequences).split("train")
    assert len({case.group for case in cases}) == 3
    sides = {}
    for grouped in (True, False):
        fold_of = divide(cases, [], 3, 0, grouped=grouped, duplicates=False)
        sides[grouped] = [len({fold_of[case.id] for case in cases if case.group == f"s{group}"}) for group in range(3)]
    assert sides[True] == [1, 1, 1]
    assert max(sides[False]) > 1


def test_repeated_frames_take_part_once_or_wherever_they_fall(sequences):
    cases = read_dataset(sequences).split("train")
    pairs = [("train-0", "train-1"), ("train-1", "train-5")]
    without = divide(cases, pairs, 3, 0, grouped=True, duplicates=False)
    assert set(without) == {case.id for case in cases} - {"train-1", "train-5"}
    assert set(divide(cases, pairs, 3, 0, grouped=True, duplicates=True)) == {case.id for case in cases}


def test_every_way_is_compared_with_the_honest_one_on_the_same_cases(sequences, tmp_path):
    summary = leak_study(sequences, tmp_path / "leaks", CONFIG, folds=2)
    assert set(summary["ways"]) == set(WAYS)
    assert summary["ways"][HONEST]["flattered"]["mean"] == 0
    assert summary["groups"] == 3
    assert summary["n"] + len({name for _, name in summary["repeated"]}) == summary["cases"] == 12
    assert read_json(tmp_path / "leaks" / "leaks.json") == summary
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "leaks" / "leaks" / "runs").glob("*.jsonl")}
    assert leak_study(sequences, tmp_path / "leaks", CONFIG, folds=2) == summary
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(ConfigError, match="was made with folds = "):
        leak_study(sequences, tmp_path / "leaks", CONFIG, folds=3)
    shutil.copy(sequences / "masks" / "train-0.png", sequences / "masks" / "train-2.png")
    with pytest.raises(ConfigError, match="was made with cases = "):
        leak_study(sequences, tmp_path / "leaks", CONFIG, folds=2)


def test_a_leak_study_in_the_folder_of_a_study_reaches_its_report(sequences, tmp_path):
    rows = read_csv(sequences / "cases.csv")
    write_csv(
        sequences / "cases.csv",
        [row | ({"split": "test"} if row["group"] == "s0" else {}) for row in rows],
        list(rows[0]),
    )
    run_study(sequences, tmp_path / "out", [], CONFIG)
    assert 'id="leaks"' not in write_report(tmp_path / "out").read_text(encoding="utf-8")
    summary = leak_study(sequences, tmp_path / "out", CONFIG, folds=2)
    assert not (tmp_path / "out" / "report.html").exists()  # it showed no leaks
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    for way, one in summary["ways"].items():
        assert f'<th scope="row">{way}</th><td data-label="n">{summary["n"]}</td>' in page
        assert fraction(one["dice"]) in page and points(one["flattered"]) in page
    assert "8 cases in 2 groups" in page
    leak_study(sequences, tmp_path / "out", CONFIG, folds=2)
    assert (tmp_path / "out" / "report.html").exists()  # it shows these


def test_more_folds_than_groups_are_refused(sequences, tmp_path):
    with pytest.raises(DataError, match="4 folds of 3 groups"):
        leak_study(sequences, tmp_path / "leaks", CONFIG, folds=4)
