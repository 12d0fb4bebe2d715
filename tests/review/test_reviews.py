"""Who honours a review: laws of the record, of selections, exports, studies and training code."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_folders import row_of, write_set

from diffaug.artifacts import append_jsonl
from diffaug.augment.datasets import SyntheticDataset
from diffaug.cli.texts import selection_text
from diffaug.data.manifest import MANIFEST, read_manifest, read_rows, write_rows
from diffaug.data.reviews import FILE, Review, in_force, read_reviews, rejected_pictures
from diffaug.errors import DataError
from diffaug.export.export import export_set
from diffaug.study.inputs import digest_of_set, read_set
from diffaug.study.sets import Selection

WHEN = "2026-11-29T10:00:00Z"


def line(name, decision, image=""):
    return Review(name, decision, "Anna", WHEN, "", image)


def reject(folder, *names, decision="reject"):
    rows = {row.id: row for row in read_rows(folder / MANIFEST)}
    append_jsonl(folder / FILE, *(asdict(line(name, decision, rows[name].image_digest)) for name in names))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["accept", "reject", "undo"]))))
def test_an_undo_takes_back_the_last_decision_about_its_row_alone(steps):
    made = {"a": [], "b": []}
    for name, decision in steps:
        made[name] = made[name][:-1] if decision == "undo" else [*made[name], decision]
    found = in_force([line(*step) for step in steps])
    assert {name: review.decision for name, review in found.items()} == {n: d[-1] for n, d in made.items() if d}


def test_what_was_rejected_is_left_out_everywhere_and_what_was_taken_back_is_not(own_set, review_data, tmp_path):
    before = {row.id for row in read_set(own_set)}
    reject(own_set, "synth-00001", "synth-00002", "synth-00004")
    reject(own_set, "synth-00002", decision="undo")
    reject(own_set, "synth-00004", decision="accept")
    assert rejected_pictures(read_manifest(own_set)) == {"synth-00001"}
    assert before - {row.id for row in read_set(own_set)} == {"synth-00001"}
    assert len(SyntheticDataset(own_set)) == 8
    found = export_set(own_set, tmp_path / "out", "folder", review_data, allow_duplicates=True)
    assert any("pictures that a review rejected are left out: 1" in notice for notice in found.notices)
    assert not list((tmp_path / "out").rglob("synth-00001*")) and list((tmp_path / "out").rglob("synth-00002*"))
    assert "1 picture that a review rejected left out" in selection_text(Selection(8, 8, 0, {}, 0, 1), tmp_path)


def test_an_empty_review_changes_nothing(own_set):
    before = digest_of_set(read_set(own_set))
    (own_set / FILE).write_text("")
    assert digest_of_set(read_set(own_set)) == before == digest_of_set(read_manifest(own_set))


def test_a_rejected_lesion_takes_the_picture_that_shows_it_along(own_set):
    rows = list(read_rows(own_set / MANIFEST))
    joined = replace(row_of(len(rows), ("train-0",)), decision="joined", shown_in="synth-00003")
    write_set(own_set, [*rows, joined])
    append_jsonl(own_set / FILE, asdict(line(joined.id, "reject")))
    assert rejected_pictures(read_manifest(own_set)) == {"synth-00003"}
    gone = {row.id for row in read_manifest(own_set)} - {row.id for row in read_set(own_set)}
    assert gone == {"synth-00003", joined.id}


def test_a_review_of_another_set_is_refused(own_set):
    reject(own_set, "synth-00001")
    rows = list(read_rows(own_set / MANIFEST))
    write_rows(own_set / MANIFEST, [replace(row, image_digest="0" * 16 if row.image else "") for row in rows])
    with pytest.raises(DataError, match="decides about another picture of synth-00001"):
        rejected_pictures(read_manifest(own_set))


@pytest.mark.parametrize(
    "change",
    [{"id": "../x"}, {"who": "a/b"}, {"when": "yesterday"}, {"decision": "burn"}, {"why": "x" * 501}, {"image": 3}],
    ids=str,
)
def test_a_line_that_breaks_a_rule_is_named(own_set, change):
    append_jsonl(own_set / FILE, {**asdict(line("synth-00001", "reject")), **change}, {})
    with pytest.raises(DataError, match=r"review.jsonl line 1: .*restore the file, or remove the line"):
        read_reviews(own_set)


def test_a_line_that_a_kill_cut_off_is_passed_over(own_set):
    reject(own_set, "synth-00001")
    with (own_set / FILE).open("a") as file:
        file.write('{"id": "synth-00002", "deci')
    assert [review.id for review in read_reviews(own_set)] == ["synth-00001"]


def test_an_audit_takes_a_study_from_before_and_after_a_review(own_set, review_data, tmp_path, monkeypatch):
    from diffaug.audit import audit

    class Read:
        plan = {"identity": {"synthetic": [digest_of_set(read_set(own_set))]}}  # noqa: RUF012

    monkeypatch.setattr(audit, "read_study", lambda folder: Read)
    reject(own_set, "synth-00001")
    assert audit._study_of(tmp_path, read_manifest(own_set)) is Read
    Read.plan["identity"]["synthetic"] = [digest_of_set(read_set(own_set))]
    assert audit._study_of(tmp_path, read_manifest(own_set)) is Read
