import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffaug.data.funnel import Counts, funnel
from diffaug.data.manifest import (
    Row,
    SyntheticSet,
    accepted,
    kept,
    lesions,
    negatives,
    painted,
    read_manifest,
    read_rows,
    write_rows,
)
from diffaug.data.request import Check, MaskTransform, RemovedRegion, Request, Scores
from diffaug.errors import DataError

REQUEST = Request(
    3, "synth-00003", 2**62, "a", "b", 0, "removed", MaskTransform(0.9, 12.5, True, 0.01, 7), 4, -2, "a polyp", "small",
    findings=("pale",), unknown_words=("glossy",), example="c",
)  # fmt: skip
ROW = Row(
    REQUEST, "kept", "agrees", 2, (Check(1, 500, 0.5, 0.25), Check(2, 0, 0.75, 0.5)), (1, 2, 64), "m", "v", "c",
    removed=(RemovedRegion((0, 1, 32), 5, 0.9, 0.1),), image="i.png", mask="m.png", preview="p.png",
    scores=Scores(0.5, 1.0, True, (0.1, -0.2)),
)  # fmt: skip


def _row(decision: str, *, negative: bool = False, image: str = "i.png", size: str = "small") -> Row:
    return replace(
        ROW,
        request=replace(REQUEST, negative=negative, size_bin=size),
        decision=decision,
        image=image,  # type: ignore[arg-type]
    )


ROWS = (
    _row("kept"), _row("surplus", size="large"), _row("rejected"), _row("stopped", image=""),
    _row("kept", negative=True), _row("rejected", negative=True),
)  # fmt: skip


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [ROW, *ROWS])
    assert read_rows(tmp_path / "rows.jsonl") == (ROW, *ROWS)


def test_every_row_says_its_schema_and_holds_plain_values(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [ROW])
    values = json.loads((tmp_path / "rows.jsonl").read_text())
    assert values["schema"] == 2
    assert values["request"]["transform"]["angle"] == 12.5
    assert values["checks"][0] == {"step": 1, "t": 500, "score": 0.5, "threshold": 0.25}


@pytest.mark.parametrize("values", [{"id": "synth-00000", "decision": "kept"}, {"schema": 1}, {"schema": 99}])
def test_a_manifest_of_another_version_is_one_clear_line(tmp_path: Path, values: object) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(values) + "\n")
    with pytest.raises(DataError, match=r"schema 2: .* line 1 .*generate the set again"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("values", [[], 3, None, "row"])
def test_a_line_that_is_no_row_is_one_clear_line(tmp_path: Path, values: object) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(values) + "\n")
    with pytest.raises(DataError, match="line 1 must be a JSON object"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("place", "value"), [("decision", "maybe"), ("steps", "many"), ("checks", 3), ("request", {})])
def test_a_value_of_another_type_is_named(tmp_path: Path, place: str, value: object) -> None:
    write_rows(tmp_path / "rows.jsonl", [ROW])
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {place: value}) + "\n")
    with pytest.raises(DataError, match=rf"line 1 has {place}"):
        read_rows(path)


def test_the_filters_partition_the_rows() -> None:
    assert len(lesions(ROWS)) + sum(row.request.negative for row in ROWS) == len(ROWS)
    assert accepted(ROWS) == [ROWS[0], ROWS[1]]
    assert painted(ROWS) == [ROWS[0], ROWS[1], ROWS[2]]
    assert negatives(ROWS) == [ROWS[4]]
    assert kept(ROWS) == [ROWS[0], ROWS[4]]


def test_a_funnel_counts_every_request_once() -> None:
    found = funnel(ROWS)
    assert found.lesions == Counts(requested=4, kept=1, stopped=1, rejected=1, surplus=1)
    assert found.lesions.accepted == len(accepted(ROWS))
    assert found.negatives.requested == 2
    assert sum(counts.requested for counts in found.by_size.values()) == found.lesions.requested
    assert sum(found.stopped_after_step.values()) == found.lesions.stopped


def test_a_sample_that_was_turned_down_says_after_which_step() -> None:
    stopped = replace(ROW, checks=(Check(1, 500, 0.1, 0.25), Check(2, 0, 0.75, 0.5)))
    assert stopped.stopped_after == 1
    assert ROW.stopped_after == ROW.steps


@pytest.mark.parametrize("lacking", ["manifest.jsonl", "summary.json"])
def test_an_unfinished_set_is_refused(tmp_path: Path, lacking: str) -> None:
    write_rows(tmp_path / "manifest.jsonl", [ROW])
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / lacking).unlink()
    with pytest.raises(DataError, match=f"has no {lacking}; run `diffaug generate` again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("file", "told"), [("", "does not exist"), ("cases.csv", "is a data set"), ("study.json", "is a study")]
)
def test_another_folder_than_a_set_is_named_for_what_it_is(tmp_path: Path, file: str, told: str) -> None:
    if file:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / file).touch()
    with pytest.raises(DataError, match=rf"other {told}; check the path"):
        read_manifest(tmp_path / "other")


def test_a_set_gives_its_rows_as_cases_and_as_flat_records(tmp_path: Path) -> None:
    other = replace(ROW, request=replace(REQUEST, id="synth-00004"), lesion_free=True)
    write_rows(tmp_path / "manifest.jsonl", [ROW, other])
    (tmp_path / "summary.json").write_text("{}")
    found = read_manifest(tmp_path)
    case = found.case(found.rows[0])
    assert (case.id, case.image, case.mask, case.group) == ("synth-00003", tmp_path / "i.png", tmp_path / "m.png", "a")
    assert not case.negative
    assert found.case(found.rows[1], group="patient").negative
    assert found.case(found.rows[1], group="patient").group == "patient"
    assert len(found) == 2 and list(found) == list(found.rows) and found[1] == found.rows[1]
    assert found["synth-00003"] == found.rows[0]
    assert repr(found) == f"SyntheticSet({tmp_path}: 2 requests, 2 kept)"
    with pytest.raises(DataError, match="'synth-00009' is not"):
        found["synth-00009"]


def test_a_table_has_the_same_plain_columns_in_every_record(tmp_path: Path) -> None:
    bare = replace(ROW, checks=(), scores=None, removed=())
    first, second = SyntheticSet(tmp_path, (ROW, bare)).table()
    assert list(first) == list(second)
    assert all(isinstance(value, str | int | float | bool | None) for value in (*first.values(), *second.values()))
    assert (first["scale"], first["score"], first["novelty"], first["findings"]) == (0.9, 0.75, 1.0, "pale")
    assert (first["window_side"], first["removed_regions"]) == (64, 1)
    assert (second["score"], second["threshold"], second["novelty"]) == (None, None, None)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("image", "../../secret.png"), ("mask", "/etc/passwd"), ("region", "evil.sh"), ("preview", "a\\b.png"),
        ("preview_mask", "C:/x.png"), ("shown_in", "../x"), ("request.id", "../../../project/run"),
        ("request.id", "a\u202eb"), ("request.background", "a/b"), ("request.mask_case", "nul"),
        ("request.example", "x" * 201),
    ],
)  # fmt: skip
def test_names_and_paths_of_a_row_are_not_trusted(tmp_path: Path, place: str, value: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [ROW])
    values = json.loads(path.read_text())
    (values["request"] if "." in place else values)[place.rpartition(".")[2]] = value
    path.write_text(json.dumps(values) + "\n")
    with pytest.raises(DataError, match=rf"line 1 has {place}"):
        read_rows(path)


def _written(folder: Path, *rows: Row) -> Path:
    write_rows(folder / "manifest.jsonl", rows)
    (folder / "summary.json").write_text("{}")
    return folder


def test_a_picture_of_a_set_is_no_link_to_a_file_outside(tmp_path: Path) -> None:
    (tmp_path / "i.png").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"holds no link that leads out of it: .*i\.png"):
        read_manifest(_written(tmp_path, ROW))


def test_ids_of_a_set_differ_by_more_than_capitals(tmp_path: Path) -> None:
    other = replace(ROW, request=replace(REQUEST, id="SYNTH-00003"))
    with pytest.raises(DataError, match="differ by more than capitals"):
        read_manifest(_written(tmp_path, ROW, other))


@pytest.mark.parametrize("values", [[], {"images": []}, {"cases": {"a": 3}}])
def test_a_provenance_of_other_types_is_one_clear_line(tmp_path: Path, values: object) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"only diffaug writes .*provenance.json.*generate the set again"):
        read_manifest(_written(tmp_path, ROW))
