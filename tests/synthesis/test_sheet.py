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


def test_the_caption_of_what_no_gate_saw_says_so():
    assert scores_of(replace(KEPT, checks=())) == ["no gate"]


def test_reasons_are_counted_without_their_numbers_and_kept_ones_come_first():
    other = replace(REFUSED, reason="score 0.31 under 0.50")
    assert reason_of(REFUSED) == reason_of(other) == "score … under …"
    assert reason_of(replace(KEPT, decision="joined")) == "kept in the picture of another lesion"
    negative = row_of(1, ("train-0",), negative=True)
    assert reasons_of([REFUSED, other, KEPT, negative]) == {
        "kept": 1, "kept, lesion-free tissue": 1, "score … under …": 2
    }  # fmt: skip
