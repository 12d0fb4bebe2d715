import json
from dataclasses import asdict
from pathlib import Path

import pytest

from diffaug.artifacts import write_jsonl
from diffaug.config import SelectConfig, StudyConfig
from diffaug.data.lesions import size_class
from diffaug.errors import DataError
from diffaug.study.lines import STORED, CasesLine, RunLine
from diffaug.study.records import Records, alarms_key, key_of_run
from diffaug.study.statistics import METRICS

TOLD = {
    "arm": "real",
    "annotated": 25,
    "draw": 1,
    "fold": None,
    "seed": 3,
    "cases": {"real": 25, "pool": 0},
    "negatives": [],
}


def rows_of(dices):
    rows = []
    for index, dice in enumerate(dices):
        free = dice is None
        rows.append(
            {
                "case": f"case-{index}", "group": f"patient-{index // 2}", "area": 0.0 if free else 0.02 + 0.1 * index,
                "contrast": None if free else 4.0 + index, "dice": 1.0 if free else dice,
                "iou": 1.0 if free else dice / (2 - dice), "sensitivity": None if free else dice, "precision": None,
                "hd95": None if free else 12.34, "lesion_recall": None if free else 1.0,
                "missed": None if free else float(dice / (2 - dice) < 0.1),
                "false_negative_rate": None if free else 1 - dice,
                "false_alarm": 0.0 if free else None, "false_area": 0.000123 if free else None,
                "strata": [] if free else [size_class(0.02 + 0.1 * index)],
            }
        )  # fmt: skip
    return rows


def test_what_is_recorded_comes_back_to_the_digits_that_are_kept(tmp_path):
    rows = rows_of([0.71234, 0.05, None, 0.9])
    Records(tmp_path / "records.jsonl").add("key", TOLD, rows, 6.5)
    found = Records(tmp_path / "records.jsonl")
    back = found.records_of(found.run("key"))
    assert [row["case"] for row in back] == [row["case"] for row in rows]
    for old, new in zip(rows, back, strict=True):
        for metric in METRICS:
            unit = 0.05 if metric == "hd95" else 1e-4
            assert new[metric] == (None if old[metric] is None else pytest.approx(old[metric], abs=unit))
    assert [row["strata"] for row in back] == [["small", "low-contrast"], ["medium", "low-contrast"], [], ["large"]]
    assert all(row["draw"] == 1 and row["annotated"] == 25 and row["seed"] == 3 for row in back)


def test_test_cases_are_described_once_and_a_run_takes_few_bytes(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    rows = rows_of([0.5] * 300)
    records.add("one", TOLD, rows, None)
    first = (tmp_path / "records.jsonl").stat().st_size
    records.add("two", {**TOLD, "seed": 4}, rows, None)
    assert (tmp_path / "records.jsonl").stat().st_size - first < 12_000
    assert sum(isinstance(line, CasesLine) for line in records.lines) == 1
    assert records.run("three") is None


def test_alarms_on_negatives_that_are_noted_later_belong_to_their_run(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    for key in ("one", "two"):
        records.add(key, {**TOLD, "negatives": []}, rows_of([0.5]), None)
    records.note_alarms(alarms_key("one", ""), [0.25])
    found = Records(tmp_path / "records.jsonl")
    assert [found.run(key).negatives for key in ("one", "two")] == [[0.25], []]


def test_alarms_are_those_on_the_negatives_of_one_painting(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    records.add("one", {**TOLD, "negatives": [0.5], "painted": "old"}, rows_of([0.5]), None)
    assert records.run("one", "old").negatives == [0.5] and records.run("one", "new").negatives == []
    records.note_alarms(alarms_key("one", "new"), [0.25, 0.0])
    found = Records(tmp_path / "records.jsonl")
    assert [found.run("one", painted).negatives for painted in ("old", "new")] == [[0.5], [0.25, 0.0]]


def test_a_line_cut_off_by_a_kill_is_run_again(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path).add("one", TOLD, rows_of([0.5]), None)
    path.write_bytes(path.read_bytes()[:-20])
    records = Records(path)
    assert records.run("one") is None
    records.add("one", TOLD, rows_of([0.5]), None)
    assert Records(path).run("one")


def test_arms_of_real_cases_do_not_depend_on_mixing_and_only_painted_ones_on_the_painter():
    where, config = {"draw": 0}, StudyConfig()
    mixed = config.model_copy(update={"synthetic_per_real": 3.0, "select": SelectConfig(hard_cut=0.5)})
    other = {"fit": {"steps": 9}}

    def key(arm, config=config, painting=None, where=where):
        return key_of_run(arm, config, painting or {"fit": {"steps": 8}}, where)

    assert key("real") == key("real", mixed, other)
    assert key("copy-paste") == key("copy-paste", painting=other) != key("copy-paste", mixed)
    unsure = config.model_copy(update={"teacher_confidence": 0.7})
    assert key("real") == key("real", unsure) and key("selected") == key("selected", unsure)
    assert key("mean-teacher") == key("mean-teacher", painting=other) != key("mean-teacher", unsure)
    assert key("selected+mean-teacher") != key("selected+mean-teacher", unsure)
    assert len({key("selected"), key("selected", mixed), key("selected", painting=other), key("real")}) == 4
    assert key("real") != key("real", where={"draw": 1})
    assert key("real") != key("real", config.model_copy(update={"iterations": 9}))
    assert key("real") == key("real", config.model_copy(update={"workers": 7, "arms": ("real",), "bootstrap": 3}))


def test_of_several_classes_every_metric_is_kept_as_it_is(tmp_path):
    rows = [
        one | {f"cup_{metric}": None for metric in METRICS} | {"cup_dice": 0.25, "cup_hd95": 7.2, "vcdr_error": 0.031}
        for one in rows_of([0.5, 0.8])
    ]
    rows[1] |= {"false_alarm": 0.5}  # of two classes, one is absent and found
    rows[0] |= {"iou": 0.9, "strata": ["large", "low-contrast", "smaller-cup"]}  # a mean over classes, of no formula
    records = Records(tmp_path / "records.jsonl")
    records.add("key", TOLD, rows, 3.0)
    first, second = records.records_of(records.run("key"))
    assert (first["iou"], first["cup_dice"], first["cup_hd95"], first["vcdr_error"]) == (0.9, 0.25, 7.2, 0.031)
    assert second["false_alarm"] == 0.5
    assert first["strata"] == ["large", "smaller-cup"] and second["strata"] == ["medium"]


COMMITTED = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.jsonl"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_records_are_read_whole_and_stay_as_they_are(tmp_path, path):
    before = path.read_bytes()
    copy = tmp_path / "records.jsonl"
    copy.write_bytes(before[:-1])  # as if the last line had been cut off behind its end
    records = Records(copy)
    assert copy.read_bytes() == before
    lines = [json.loads(line) for line in before.splitlines()]
    assert len(records.lines) == len(lines)
    for line, values in zip(records.lines, lines, strict=True):
        kept = {name: value for name, value in asdict(line).items() if name in values}
        assert kept == values  # nothing is passed over or changed
    runs = [line for line in records.lines if isinstance(line, RunLine)]
    assert runs and all(records.records_of(line) for line in runs)


RUN = {**TOLD, "run": "r", "on": "t", "cut": None, "units": STORED, "values": {"dice": [5000, 6000]}}
CASES = {"test": "t", "case": ["a", "b"], "group": ["a", "b"], "area": [0.1, 0.2], "contrast": [5.0, None],
         "strata": [["small"], []]}  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"nothing": 1}], "line 1 is none"),
        ([RUN], "is of test cases that the file describes: .* line 1 names t"),
        ([CASES, {**RUN, "values": {"dice": [5000]}}], "dice of .* line 2 has 1, not 2"),
        ([CASES, {**RUN, "values": {"iou": [5000, 6000]}}], "iou of .* line 2 has none"),
        ([CASES, {**RUN, "units": {"dice": 0.0001}}], "line 2 has none for sensitivity"),
        ([CASES, {**RUN, "units": {**STORED, "iou": 0.1}}], "line 2 has none for false_negative_rate"),
        ([CASES, {**RUN, "values": {"dice": ["much", 6000]}}], "line 2: values.dice.0: "),
        ([{**CASES, "strata": [["small"]]}], "strata of .* line 1 has 1, not 2"),
        ([{name: value for name, value in CASES.items() if name != "group"}], "line 1: group: Field required"),
        ([CASES, {**RUN, "seed": None}], "line 2: seed: "),
        ([{"alarms": "x", "negatives": 3}], "line 1: negatives: "),
        ([{"cost": "x", "fit_seconds": "long"}], "line 1: fit_seconds: "),
    ],
)
def test_a_line_that_breaks_a_rule_is_told_in_one_line(tmp_path, lines, told):
    write_jsonl(tmp_path / "records.jsonl", lines)
    with pytest.raises(DataError, match=told) as error:
        Records(tmp_path / "records.jsonl")
    assert "\n" not in str(error.value)


def test_what_was_not_written_by_an_older_version_has_a_default(tmp_path):
    bare = {name: value for name, value in RUN.items() if name != "negatives"}
    write_jsonl(tmp_path / "records.jsonl", [CASES, bare, {**bare, "run": "other", "later": [1]}])
    records = Records(tmp_path / "records.jsonl")
    line = records.run("r")
    assert (line.negatives, line.painted, line.seconds, line.duplicates) == (None, None, None, [])
    assert [row["dice"] for row in records.records_of(records.run("other"))] == [0.5, 0.6]
