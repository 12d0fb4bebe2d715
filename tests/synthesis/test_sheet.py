"""The words on the contact sheet of a synthetic set, and those of its table of reasons."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont
from study_folders import row_of

from diffaug.data.images import write_png
from diffaug.data.pictures import GAP, LINE
from diffaug.data.request import Check
from diffaug.synthesis.sheet import (
    COLUMNS,
    LEGEND_FONT,
    LEGEND_LINE,
    NARROWEST,
    SIDE,
    legend_of,
    reason_of,
    reasons_of,
    refused_lines,
    scores_of,
    wrapped,
    write_sheet,
)

KEPT = row_of(0, ("train-0",))
REFUSED = replace(KEPT, decision="rejected", reason="score 0.20 under 0.50", checks=(Check(10, 0, 0.2, 0.5),))


def test_a_caption_says_the_agreement_and_its_limit():
    assert scores_of(KEPT) == ["agreement 0.80 (limit 0.50)"]


def test_a_request_that_was_turned_down_says_why():
    assert refused_lines(replace(REFUSED, reason="agreement with the requested mask 0.200 is under 0.500")) == [
        f"rejected: {KEPT.id}", "agreement with the requested mask", "0.200 is under 0.500",
    ]  # fmt: skip
    look = Check(10, 0, 0.07, 0.2)
    assert refused_lines(replace(REFUSED, look=look, reason="looks painted: 0.93 over 0.80")) == [
        f"rejected: {KEPT.id}", "agreement 0.20 (limit 0.50)", "looks painted: 0.93 over 0.80",
    ]  # fmt: skip
    long = replace(REFUSED, checks=(), reason="the lesion that was to go could not be covered with tissue of " * 3)
    scores, *lines = refused_lines(long)[1:]
    assert scores == "no gate" and len(lines) == 3 and " ".join(lines) == long.reason.strip()


def test_wrapped_lines_fit_and_hold_all_words():
    text = " ".join(legend_of([replace(KEPT, look=Check(10, 0, 0.9, 0.2)), REFUSED]))
    for width in (250, 480, 1456):
        lines = wrapped(text, width, LEGEND_FONT)
        font = ImageFont.load_default(LEGEND_FONT)
        assert " ".join(lines) == text and all(font.getlength(line) <= width for line in lines)
    assert wrapped("", 100, LEGEND_FONT) == []


@pytest.mark.parametrize(("width", "height"), [(400, 100), (100, 400), (300, 300)])
@pytest.mark.parametrize("cases", [0, 1, 4])
def test_a_sheet_is_as_large_as_its_legend_its_pictures_and_its_captions(tmp_path, width, height, cases):
    """No bands and no gaps where images are wide or tall: every row is as tall as its pictures with their lines."""
    write_png(tmp_path / "a.png", np.full((height, width, 3), 128, np.uint8))
    write_png(tmp_path / "b.png", np.zeros((height, width), np.uint8))
    rows = [replace(row_of(number, ("train-0",)), image="a.png", mask="b.png") for number in range(cases)]
    refused = replace(REFUSED, preview="a.png", preview_mask="b.png")
    with Image.open(write_sheet(tmp_path, [*rows, refused])) as image:
        page = np.asarray(image.convert("RGB"))
    across, down = (SIDE, SIDE * height // width) if width > height else (SIDE * width // height, SIDE)
    columns = max(2, min(COLUMNS, 2 * cases))
    assert page.shape[1] == columns * (max(across, NARROWEST) + GAP)
    legend = sum(len(wrapped(text, page.shape[1] - 8, LEGEND_FONT)) for text in legend_of([*rows, refused]))
    kept = -(-2 * cases // columns)
    below = kept * (down + 2 * LINE + 2 * GAP) + down + LINE * len(refused_lines(refused)) + 2 * GAP
    assert page.shape[0] == legend * LEGEND_LINE + 2 * GAP + below
    grey = (page == 128).all(axis=2)
    assert grey.sum() >= (2 * cases + 1) * across * down


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


def test_the_head_of_a_sheet_says_what_it_shows_and_explains_only_that():
    many = [replace(row_of(number, ("train-0",)), image="a.png") for number in range(30)]
    first, *_, last = legend_of(many)
    assert first == "24 of 30 kept cases with a lesion, plain and with the requested mask outlined."
    assert "looks painted" not in last
    refused = [replace(REFUSED, preview="a.png", look=Check(10, 0, 0.07, 0.2)) for _ in range(13)]
    first, *_, last = legend_of([*many, *refused])
    assert first.endswith("; below them 12 of 13 lesions that were turned down, and why.") and "looks painted" in last
