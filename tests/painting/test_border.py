"""Laws of the end of a halo: the path costs least, closes, turns with the picture, and goes where two tissues agree."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from diffaug.painting.border import LEVELS, closed_path, ends_of_halo

SIDE, HALO = 96, 20.0
COSTS = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 3)), elements=st.floats(0, 9))


def cost_of(path, cost, step):
    bends = np.abs(np.array(path) - np.roll(path, 1)).sum()
    return sum(cost[number, level] for number, level in enumerate(path)) + step * bends


@settings(deadline=None)
@given(COSTS, st.floats(0, 5))
def test_no_closed_path_costs_less(cost, step):
    least = min(cost_of(path, cost, step) for path in product(range(cost.shape[1]), repeat=cost.shape[0]))
    assert cost_of(closed_path(cost, step), cost, step) == pytest.approx(least)


@pytest.fixture(scope="module")
def lesion():
    """A round lesion in the middle, distances from it in halos, and the directions of all pixels."""
    rows, columns = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    new = np.hypot(rows, columns) < 16
    return new, ndimage.distance_transform_edt(~new) / HALO, np.arctan2(rows, columns)


@pytest.mark.parametrize("agree", [0.2, 0.4, 0.7])
def test_the_halo_ends_where_the_two_tissues_agree(lesion, agree):
    new, away, _ = lesion
    ends = ends_of_halo(50 * np.abs(away - agree), away, new, np.ones_like(new))
    assert np.abs(ends - agree).max() < 0.06


def test_it_ends_before_what_is_on_one_side_alone_and_not_on_the_other_side(lesion):
    new, away, direction = lesion
    difference = np.where((np.abs(direction) < 0.6) & (away > 0.3), 60.0, 5.0) + 5 * np.abs(away - 0.6)
    ends = ends_of_halo(difference, away, new, np.ones_like(new))
    assert ends[np.abs(direction) < 0.4].max() < 0.3 < 0.5 < ends[np.abs(direction) > 1.5].min()


def test_it_turns_with_the_picture_and_lies_between_the_levels_whatever_is_known(lesion):
    new, away, direction = lesion
    agree = 0.4 + 0.15 * np.sin(2 * direction)
    difference = 60 * np.abs(away - agree)
    ends = ends_of_halo(difference, away, new, np.ones_like(new))
    turned = ends_of_halo(np.rot90(difference), np.rot90(away), np.rot90(new), np.ones_like(new))
    assert np.abs(np.rot90(ends) - turned)[~new].max() < 0.06 > np.abs(ends - agree)[~new].max()
    for known in (np.zeros_like(new), np.ones_like(new), direction > 0):
        found = ends_of_halo(difference, away, new, known)
        assert found.shape == new.shape and LEVELS[0] <= found.min() <= found.max() <= LEVELS[-1]
