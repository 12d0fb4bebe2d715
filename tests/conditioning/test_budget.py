import shutil
from dataclasses import replace

import pytest

from diffaug.artifacts import read_json, write_json, write_jsonl
from diffaug.conditioning.budget import check_aim, make_budget, read_needs, stratum
from diffaug.data.case import digest_of_case
from diffaug.errors import ConfigError, StudyError
from diffaug.runfolder import FORMAT

WORDS = {
    "train-0": {"size": "small", "contrast": "low-contrast"},
    "train-1": {"size": "small", "contrast": ""},
    "train-2": {"size": "medium", "contrast": ""},
    "train-3": {"size": "medium", "contrast": "high-contrast"},
    "train-4": {"size": "large", "contrast": ""},
    "train-5": {"size": "large", "contrast": ""},
}


def test_quotas_add_up_and_follow_what_was_missed():
    needs = {"train-0": 0.9, "train-1": 0.5, "train-2": 0.1, "train-3": 0.0, "train-4": 0.0, "train-5": 0.0}
    budget = make_budget("missed", WORDS, 30, needs)
    assert dict(zip(budget.strata, budget.quotas, strict=True)) == {
        "small": 10, "small low-contrast": 18, "medium": 2,
    }  # fmt: skip
    assert sum(budget.quotas) == 30
    assert set(budget.as_dict()["weights"]) == {"train-0", "train-1", "train-2", "train-3"}
    assert budget.training == (0.1667, 0.1667, 0.3333)
    assert [budget.stratum_of(shard) for shard in range(4)] == [*budget.strata, budget.strata[0]]
    assert "small low-contrast      18  ( 60%;  17% of the training cases)" in budget.table()


def test_a_size_or_low_contrast_can_be_aimed_at():
    assert make_budget("large", WORDS, 9).strata == ("large",)
    assert make_budget("small", WORDS, 9).quotas == (5, 4)
    assert make_budget("low-contrast", WORDS, 9).strata == ("small low-contrast",)
    assert stratum({"size": "large"}) == "large"


def test_an_aim_without_cases_and_an_unknown_one_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no training case is low-contrast"):
        make_budget("low-contrast", {"train-2": WORDS["train-2"]}, 5)
    with pytest.raises(ConfigError, match="the baseline missed nothing"):
        make_budget("missed", WORDS, 5, dict.fromkeys(WORDS, 0.0))
    with pytest.raises(ConfigError, match="'mised' is not; nearest: missed"):
        check_aim("mised", None)
    for aim, baseline in (("missed", None), ("small", tmp_path)):
        with pytest.raises(ConfigError, match="belong together"):
            check_aim(aim, baseline)
    check_aim("missed", tmp_path)


@pytest.fixture
def study(cases, tmp_path):
    """The records that a study of two folds leaves, of three cases with two seeds."""
    folder = tmp_path / "study"
    (folder / "runs").mkdir(parents=True)
    tested = {case.id: digest_of_case(case) for case in cases[:3]}
    write_json(folder / "study.json", {"format": FORMAT, "identity": {"folds": 2}, "tested": tested})
    write_json(folder / "summary.json", {})
    for seed, missed in ((0, 0.2), (1, 0.6)):
        rows = [{"case": case.id, "false_negative_rate": missed} for case in cases[:3]]
        write_jsonl(folder / "runs" / f"real-{seed}-fold0.jsonl", rows[:1])
        write_jsonl(folder / "runs" / f"real-{seed}-fold1.jsonl", rows[1:])
    return folder


def test_needs_are_the_missed_shares_over_seeds(study, cases):
    assert read_needs(study, cases[:3], ()) == pytest.approx({case.id: 0.4 for case in cases[:3]})


def test_results_on_other_cases_or_without_folds_are_refused(study, cases, tmp_path):
    held_out = replace(cases[2], id="test-9", split="test")
    with pytest.raises(StudyError, match=r"train-2 of .* is test-9 of test"):
        read_needs(study, cases[:2], [held_out])
    for train in (cases[:2], cases[:4], [*cases[:2], replace(cases[3], id="train-2")]):
        with pytest.raises(StudyError, match="must be the out-of-fold results of these training cases"):
            read_needs(study, train, ())
    plain = shutil.copytree(study, tmp_path / "plain")
    write_json(plain / "study.json", read_json(study / "study.json") | {"identity": {"test": "test"}})
    with pytest.raises(StudyError, match="it has no folds"):
        read_needs(plain, cases[:3], ())
    (study / "summary.json").unlink()
    with pytest.raises(StudyError, match="must be a finished study"):
        read_needs(study, cases[:3], ())
