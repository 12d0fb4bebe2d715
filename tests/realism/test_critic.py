"""The critic that tells real lesions from painted ones."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import ModelError
from diffaug.realism.critic import (
    LEAST_ACCEPTED,
    Seen,
    area_under_curve,
    fit_critic,
    load_critic,
    measured_on,
    pairs_of,
    regression,
    regression_for,
    upper_threshold,
)
from diffaug.realism.features import LENGTH, SIDE, lesion_features, weights_of

FOLDS = {f"case-{number}": number % 4 for number in range(40)}


def lesions(shift: float, seed: int, count: int = 40, sources: int = 1) -> list[Seen]:
    """Return lesions whose first features are shifted, each made of one case or of two."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        features = rng.normal(size=(2, LENGTH))
        features[:, :20] += shift
        made.append(Seen(features, tuple(f"case-{(number + each * (number // 4)) % 40}" for each in range(sources))))
    return made


@pytest.fixture(scope="module")
def critic():
    return fit_critic(lesions(-0.5, 0), lesions(0.5, 1, sources=2), FOLDS, 0.1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.01, 0.5))
def test_real_lesions_exceed_their_threshold_as_seldom_as_stated(scores, alpha):
    threshold = upper_threshold(scores, alpha)
    assert sum(score > threshold for score in scores) <= alpha * (len(scores) + 1)
    assert threshold == 1.0 or threshold in scores


def test_too_few_real_lesions_turn_nothing_down():
    assert upper_threshold([0.2] * 18, 0.05) == 1.0 and upper_threshold([0.2] * 19, 0.05) == 0.2


def test_a_regression_finds_the_direction_that_tells_and_weighs_both_kinds_alike():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 10 == 0
    rows = rng.normal(size=(400, 5)) * [1, 10, 1, 1, 1] + 3
    rows[:, 1] += 40 * labels
    weights, bias = regression(rows, labels)
    chances = 1 / (1 + np.exp(-(rows @ weights + bias)))
    assert np.abs(weights * rows.std(0)).argmax() == 1
    assert chances[labels].mean() > 0.7 and chances[~labels].mean() < 0.3


@given(st.lists(st.integers(0, 39), min_size=1, max_size=2))
def test_a_lesion_is_looked_at_by_a_regression_that_knows_none_of_its_sources(numbers):
    names = [f"case-{number}" for number in numbers]
    pair = pairs_of(4)[regression_for(names, FOLDS)]
    assert {FOLDS[name] for name in names} <= set(pair)


def test_where_no_source_is_annotated_all_regressions_are_asked(critic):
    features = lesions(0, 5)[0].views[0]
    assert regression_for(["elsewhere"], FOLDS) is None
    each = [1 / (1 + np.exp(-(w @ features + b))) for w, b in zip(critic.weights, critic.bias, strict=True)]
    assert critic.looks_painted(features) == pytest.approx(np.mean(each), abs=1e-5)


def test_a_regression_does_not_change_with_the_lesions_that_it_must_not_know(critic):
    def changed(lesion):
        is_hidden = any(FOLDS[name] in (1, 2) for name in lesion.sources)
        return replace(lesion, views=lesion.views[:, ::-1].copy()) if is_hidden else lesion

    given = [lesions(-0.5, 0), lesions(0.5, 1, sources=2)]
    other = fit_critic(*([changed(one) for one in some] for some in given), FOLDS, 0.1)
    same = pairs_of(4).index((1, 2))
    assert np.array_equal(other.weights[same], critic.weights[same])
    assert not any(np.allclose(other.weights[n], critic.weights[n]) for n in range(6) if n != same)


def test_a_critic_tells_what_can_be_told_and_turns_down_few_real_lesions(critic):
    assert critic.measured.auc > 0.75 and critic.measured.real == critic.measured.painted == 40
    fresh = [critic.looks_painted(one.views[0], one.sources) for one in lesions(-0.5, 7, count=300)]
    assert np.mean([score > critic.threshold for score in fresh]) < 0.2
    fresh = [critic.looks_painted(one.views[0]) for one in lesions(3.0, 8)]
    assert min(fresh) > critic.threshold


def test_a_critic_that_would_turn_down_nearly_all_keeps_the_best_and_says_so():
    real, painted = np.linspace(0.0, 0.1, 40), np.linspace(0.5, 1.0, 50)
    measured = measured_on(real, painted, 0.05)
    assert (
        measured.conformal <= 0.1
        and LEAST_ACCEPTED <= measured.accepted < LEAST_ACCEPTED + 0.02
        and measured.auc == 1.0
    )
    critic = replace(fit_critic(lesions(-0.5, 0), lesions(0.5, 1), FOLDS, 0.1), measured=measured)
    (line,) = critic.notices()
    assert "the best 25 %" in line and f"{measured.threshold:.2f}" in line


def test_a_critic_without_notices_is_one_that_both_asks_and_accepts(critic):
    assert critic.notices() == [] and critic.measured.accepted >= LEAST_ACCEPTED


def test_too_few_lesions_make_no_critic():
    assert fit_critic(lesions(0, 0, count=3), lesions(0, 1), FOLDS, 0.05) is None


def test_the_area_under_the_curve_counts_ties_half():
    low, high = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.4])
    pairs = [(b > a) + 0.5 * (a == b) for b in high for a in low]
    assert area_under_curve(low, high) == pytest.approx(np.mean(pairs))


def test_a_saved_critic_says_the_same(critic, tmp_path):
    assert load_critic(tmp_path) is None
    critic.save(tmp_path)
    again, features = load_critic(tmp_path), lesions(0, 5)[0].views[0]
    assert again.measured == critic.measured and again.folds == critic.folds
    assert again.looks_painted(features, ["case-2"]) == critic.looks_painted(features, ["case-2"])


@pytest.mark.parametrize("folds", [{"case-1": 10**9}, {"case-1": -1, "case-2": 3}, {}, {**FOLDS, "case-1": 4}], ids=str)
def test_folds_that_are_not_those_of_the_regressions_are_refused_at_once(critic, tmp_path, folds):
    replace(critic, folds=folds).save(tmp_path)
    with pytest.raises(ModelError, match=r"is damaged; fit the model again"):
        load_critic(tmp_path)


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_a_chance_that_is_none_is_refused(critic, tmp_path, alpha):
    replace(critic, measured=replace(critic.measured, alpha=alpha)).save(tmp_path)
    with pytest.raises(ModelError, match=r"is damaged; fit the model again"):
        load_critic(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "encoder"])
def test_a_damaged_critic_or_another_encoder_is_one_line_of_error(critic, tmp_path, damage):
    made = replace(critic, measured=replace(critic.measured, encoder="another")) if damage == "encoder" else critic
    made.save(tmp_path)
    path = tmp_path / "realism" / "critic.safetensors"
    if damage == "cut":
        os.truncate(path, 100)
    elif damage == "gone":
        path.unlink()
    with pytest.raises(ModelError, match=r"fit the model again") as error:
        load_critic(tmp_path)
    assert "\n" not in str(error.value)


def test_the_places_of_a_lesion_cover_its_window():
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 40:90, 30:100] = 1
    inside, rim, around = weights_of(mask)
    assert float((inside + rim + around - 1).abs().max()) < 0.01
    assert float(inside[..., 64, 64]) > 0.99 and float(rim[..., 40, 64]) > 0.99 and float(around[..., 5, 5]) > 0.99


@pytest.mark.parametrize("area", ["nothing", "one pixel", "everything"])
def test_features_are_finite_wherever_a_lesion_lies(area):
    mask = torch.full((1, 1, SIDE, SIDE), 1.0 if area == "everything" else 0.0)
    mask[..., 0, 0] = area != "nothing"
    found = lesion_features(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), mask)
    assert found.shape == (LENGTH,) and np.isfinite(found).all()
