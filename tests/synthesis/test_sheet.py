"""The words on the contact sheet of a synthetic set, and those of its table of reasons."""

from dataclasses import replace

from study_folders import row_of

from diffaug.data.request import Check
from diffaug.synthesis.sheet import reason_of, reasons_of, scores_of

KEPT = row_of(0, ("train-0",))
REFUSED = replace(KEPT, decision="rejected", reason="score 0.20 under 0.50", checks=(Check(10, 0, 0.2, 0.5),))


def test_a_caption_says_the_agreement_and_its_limit():
    assert scores_of(KEPT) == ["agreement 0.80 (limit 0.50)"]
    assert scores_of(KEPT, short=True) == scores_of(KEPT), "without a critic there is room for the limit"


def test_the_caption_of_a_gate_without_a_threshold_says_that_there_is_no_limit():
    assert scores_of(replace(KEPT, checks=(Check(10, 0, 0.8, 0.0),))) == ["agreement 0.80 (no limit)"]


def test_the_caption_of_what_no_gate_saw_says_so():
    assert scores_of(replace(KEPT, checks=())) == ["no gate"]


def test_reasons_that_differ_by_their_numbers_count_as_one_with_the_range_and_kept_ones_come_first():
    found = [replace(REFUSED, reason=f"score {score} under 0.50") for score in ("0.31", "0.08", "0.20")]
    assert reason_of(replace(KEPT, decision="joined")) == "kept in the picture of another lesion"
    negative = row_of(1, ("train-0",), negative=True)
    assert reasons_of([*found, KEPT, negative]) == {
        "kept": 1, "kept, lesion-free tissue": 1, "score 0.08 to 0.31 under 0.50": 3
    }  # fmt: skip
    assert reasons_of([REFUSED]) == {"score 0.20 under 0.50": 1}
