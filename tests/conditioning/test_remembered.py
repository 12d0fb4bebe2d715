import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffaug.conditioning.remembered import Remembered


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 30))
def test_what_is_kept_weighs_no_more_than_the_limit_and_the_last_value_is_always_kept(keys, limit):
    kept = Remembered(np.zeros, limit, len)
    for key in keys:
        assert len(kept[key]) == key
        assert sum(kept) <= max(limit, key) and key in kept


@given(st.lists(st.integers(0, 9), max_size=40))
def test_without_a_limit_each_value_is_computed_once(keys):
    asked = []
    kept = Remembered(lambda key: asked.append(key) or key)
    assert [kept[key] for key in keys] == keys
    assert asked == list(dict.fromkeys(keys))


def test_the_oldest_make_way_first():
    kept = Remembered(str, 2)
    assert [kept[key] for key in (1, 2, 3)] == ["1", "2", "3"] and list(kept) == [2, 3]
