"""No fold trains on a painted case that shows something of its validation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import DataError
from diffaug.export.folds import Fold, divided, held_out

NAMES = [f"case-{index}" for index in range(12)]


@st.composite
def worlds(draw):
    """Real cases in groups, unannotated ones beside them, and painted cases made of any of them."""
    groups = {name: f"group-{draw(st.integers(0, 5))}" for name in NAMES}
    real = {name: groups[name] for name in NAMES[:8]}
    painted = {
        f"synth-{index}": tuple(draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))) for index in range(6)
    }
    return real, painted, groups


@given(worlds(), st.integers(0, 3))
def test_no_fold_validates_on_a_painted_case_or_trains_on_one_made_of_its_validation(world, seed):
    real, painted, groups = world
    count = min(5, len(set(real.values())))
    if count < 2:
        return
    folds = divided(real, painted, groups, count, seed)
    assert sorted(name for fold in folds for name in fold.val) == sorted(real)
    for fold in folds:
        unseen = {groups[name] for name in fold.val}
        assert not set(fold.val) & set(fold.train)
        assert set(fold.val) <= set(real)
        for name in fold.train:
            assert (
                groups[name] not in unseen if name in real else unseen.isdisjoint(groups[one] for one in painted[name])
            )


@given(worlds())
def test_every_painted_case_that_shows_nothing_of_the_validation_is_trained_on(world):
    real, painted, groups = world
    if len(set(real.values())) < 2:
        return
    for fold in divided(real, painted, groups, 2, 0):
        unseen = {groups[name] for name in fold.val}
        apart = {name for name, sources in painted.items() if unseen.isdisjoint(groups[one] for one in sources)}
        assert {name for name in fold.train if name not in real} == apart


def test_the_folds_depend_on_names_and_seed_alone():
    real = {name: name for name in NAMES}
    painted = {"synth-0": ("case-0", "case-1")}
    assert divided(real, painted, real, 3, 0) == divided(real, painted, real, 3, 0)
    assert divided(real, painted, real, 3, 0) != divided(real, painted, real, 3, 1)


def test_a_given_validation_is_one_fold():
    painted = {"synth-0": ("a",), "synth-1": ("a", "u")}
    fold = held_out({"a": "p", "b": "q"}, {"v": "r"}, painted, {"a": "p", "b": "q", "v": "r", "u": "r"})
    assert fold == Fold(("a", "b", "synth-0"), ("v",))


def test_a_case_stays_on_one_side_with_its_group_and_too_many_folds_are_refused():
    real = {"a": "p", "b": "p", "c": "q"}
    sides = [set(fold.val) for fold in divided(real, {}, real, 2, 0)]
    assert {"a", "b"} in sides and {"c"} in sides
    with pytest.raises(DataError, match="3 folds of 2 groups"):
        divided(real, {}, real, 3, 0)
