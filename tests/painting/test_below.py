import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.painting.below import contrast_to_sides, share_below, with_effect_below

SIDE = 80
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
LESION = ((ROWS - 26) / 8) ** 2 + ((COLUMNS - 40) / 14) ** 2 <= 1
BELOW = (ROWS > 36) & (ROWS < 44) & (np.abs(COLUMNS - 40) < 8)
BESIDE = np.abs(COLUMNS - 40) > 20
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def grey(values):
    return np.repeat((np.asarray(values, np.float32) + np.zeros((SIDE, SIDE), np.float32))[..., None], 3, 2)


@given(st.floats(6, 40))
def test_the_effect_begins_below_a_lesion_and_ends_at_its_depth(depth):
    share = share_below(LESION, depth)
    assert share.min() >= 0 and share.max() <= 1 + 1e-6
    assert share[: LESION.any(axis=1).argmax()].max() < 1e-6
    bottom = np.flatnonzero(LESION.any(axis=1))[-1]
    assert share[min(SIDE - 1, bottom + round(depth) + 1) :].max() < 1e-6
    assert share[bottom + 1, 40] > 0.9


def test_a_shadow_below_an_example_darkens_the_place_below_and_nothing_else():
    shadowed = grey(np.where((ROWS > 26) & (np.abs(COLUMNS - 40) < 14), 50, 100))
    made = with_effect_below(grey(90), EVERYWHERE, shadowed, EVERYWHERE, LESION, 24.0)
    assert np.median(made[BELOW]) < 60
    np.testing.assert_allclose(made[BESIDE], 90)


def test_bright_tissue_below_an_example_brightens_the_place_within_limits():
    bright = grey(np.where((ROWS > 26) & (np.abs(COLUMNS - 40) < 14), 150, 75))
    made = with_effect_below(grey(80), EVERYWHERE, bright, EVERYWHERE, LESION, 24.0)
    assert np.median(made[BELOW]) > 110
    light = with_effect_below(grey(220), EVERYWHERE, bright, EVERYWHERE, LESION, 24.0)
    np.testing.assert_allclose(light, 220, rtol=1e-5)


def test_an_example_on_its_own_place_changes_nothing():
    image = grey(np.random.default_rng(0).uniform(40, 140, (SIDE, SIDE)))
    np.testing.assert_allclose(with_effect_below(image, EVERYWHERE, image, EVERYWHERE, LESION, 24.0), image, rtol=1e-5)


def test_where_nothing_is_seen_nothing_is_measured():
    image = grey(np.where(np.abs(COLUMNS - 40) < 14, 50, 100))
    assert (contrast_to_sides(image, ~EVERYWHERE, LESION) == 0).all()
    assert contrast_to_sides(image, EVERYWHERE, LESION)[BELOW].mean() == pytest.approx(np.log(56 / 106), abs=0.1)
