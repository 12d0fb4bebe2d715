import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.conditioning.patches import best_patch
from diffaug.painting.tissue import filled

HEIGHT, WIDTH = 90, 120


def disc(row, column, radius):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(rows - row, columns - column) <= radius


def waves(period=15.0):
    """Return tissue that repeats itself along both axes, (H, W, 3)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    light = 120 + 40 * np.sin(2 * np.pi * rows / period) + 30 * np.cos(2 * np.pi * columns / period)
    return np.repeat(np.rint(light)[..., None], 3, 2).astype(np.uint8)


@settings(deadline=None, max_examples=15)
@given(st.integers(25, 65), st.integers(25, 95), st.integers(4, 9))
def test_a_hole_in_tissue_that_repeats_itself_is_filled_with_what_was_there(row, column, radius):
    frame, hole = waves(), disc(row, column, radius)
    spoiled = np.where(hole[..., None], np.uint8(255), frame)
    made = filled(spoiled, hole, np.ones_like(hole))
    assert np.abs(made.astype(int) - frame)[hole].mean() < 8


def test_what_lies_away_from_the_hole_stays_byte_for_byte():
    frame, hole = waves(), disc(40, 60, 10)
    made = filled(frame, hole, np.ones_like(hole))
    away = ~disc(40, 60, 10 + 10)
    np.testing.assert_array_equal(made[away], frame[away])


def test_nothing_of_what_is_no_tissue_is_shown_again():
    frame, hole, lesion = waves(), disc(40, 60, 8), disc(40, 20, 14)
    marked = np.where((lesion | hole)[..., None], np.array([0, 255, 0], np.uint8), frame)
    made = filled(marked, hole, ~lesion)
    assert np.ptp(made[disc(40, 60, 18)].astype(int), axis=1).max() < 12  # grey, as all of the tissue


def test_a_hole_that_no_patch_covers_is_not_filled():
    frame, hole = waves(), disc(45, 60, 38)
    assert filled(frame, hole, np.ones_like(hole)) is None
    assert filled(frame, disc(45, 60, 8), np.zeros_like(hole)) is None


def test_a_dark_patch_does_not_fill_a_hole_in_light_tissue():
    """The rest of a frame may be the lumen: it covers any hole, and is seen at a glance."""
    hole = disc(30, 30, 9)
    for light, suits in ((185, True), (15, False)):
        frame = np.where(disc(30, 30, 18)[..., None], np.uint8(190), np.full((HEIGHT, WIDTH, 3), light, np.uint8))
        assert (best_patch(frame, hole, ~hole) is not None) == suits


def test_an_empty_hole_leaves_the_frame_as_it_is():
    frame = waves()
    assert filled(frame, np.zeros((HEIGHT, WIDTH), bool), np.ones((HEIGHT, WIDTH), bool)) is frame


def test_a_patch_lies_wholly_in_tissue_mirrored_or_not():
    hole, known = disc(30, 30, 9), disc(30, 30, 18) | disc(60, 90, 24)
    patch = best_patch(waves(), hole, known & ~hole)
    assert patch is not None
    rows, columns = np.nonzero(hole)
    rows, columns = rows + patch.down, columns + patch.right
    rows = HEIGHT - 1 - rows if patch.mirrored[0] else rows
    columns = WIDTH - 1 - columns if patch.mirrored[1] else columns
    assert (known & ~hole)[rows, columns].all()


def test_the_light_of_the_place_is_kept():
    fall = np.linspace(0.6, 1.2, WIDTH)[None, :, None]
    frame = np.clip(waves() * fall, 0, 255).astype(np.uint8)
    hole = disc(45, 30, 9)
    made = filled(frame, hole, disc(45, 90, 25) | disc(45, 30, 25))
    assert made[hole].mean() == pytest.approx(frame[hole].mean(), rel=0.12)
