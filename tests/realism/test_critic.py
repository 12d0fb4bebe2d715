"""The critic that readers have taught."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.encoder import encoder_digest
from diffaug.errors import ModelError
from diffaug.realism.critic import (
    EVEN,
    FEWEST,
    LEAST_ACCEPTED,
    Critic,
    Measured,
    critic_for,
    load_critic,
    taught,
    why_no_critic,
)
from diffaug.realism.features import LENGTH, SIDE, lesion_features, weights_of

MEASURED = Measured("endoscopy", 40, 0.45, {"all": 0.42, "large": 0.3}, 0.5, encoder_digest())


def critic_of(scores: list[float], size: str = "small", examples: list[str] | None = None) -> Critic:
    """Return the critic of endoscopy for a painter whose lesions have some scores."""
    names = examples or [f"case-{number}" for number in range(len(scores))]
    return critic_for("endoscopy", with_scores(scores), [size] * len(scores), names)


def with_scores(scores: list[float]) -> list[np.ndarray]:
    """Return features to which the critic of endoscopy gives some scores."""
    weights, bias = taught()["endoscopy"]
    return [(score - bias) * weights / (weights @ weights) for score in scores]


@pytest.fixture(scope="module")
def critic() -> Critic:
    weights = np.random.default_rng(0).normal(size=LENGTH) / LENGTH
    return Critic(weights, 0.5, MEASURED, {"case-1": -0.3, "case-2": 0.1, "case-3": 0.0})


def test_readers_have_taught_two_domains_and_a_lesion_is_scored_between_zero_and_one() -> None:
    assert set(taught()) == {"endoscopy", "ultrasound"}
    for weights, bias in taught().values():
        assert weights.shape == (LENGTH,) and np.isfinite(weights).all() and np.isfinite(bias)


@given(st.lists(st.floats(0.02, 0.98), min_size=FEWEST, max_size=60))
def test_at_least_half_of_what_is_painted_passes_and_no_lesion_that_readers_cannot_tell_is_turned_down(scores) -> None:
    found = critic_of(scores)
    accepted = [found.score(features) >= found.threshold("small") for features in with_scores(scores)]
    assert np.mean(accepted) >= LEAST_ACCEPTED and found.threshold("small") <= EVEN
    assert np.mean(accepted) == pytest.approx(found.measured.accepted, abs=1e-4)
    assert found.measured.mean == pytest.approx(np.mean(scores), abs=2e-3)


def test_where_most_lesions_convince_those_that_do_not_are_turned_down_and_nothing_is_said() -> None:
    found = critic_of([0.2, 0.3] + [0.7] * 8)
    assert found.threshold("small") == EVEN and found.measured.accepted == 0.8
    assert found.unconvincing == {"case-0", "case-1"} and len(found.notices()) == 1


def test_each_size_class_has_a_threshold_of_its_own_so_that_none_is_turned_down_more_often() -> None:
    scores, sizes = [0.4] * 5 + [0.45] * 5 + [0.1] * 5 + [0.2] * 5 + [0.3], ["small"] * 10 + ["large"] * 10 + ["medium"]
    found = critic_for("endoscopy", with_scores(scores), sizes, sizes)
    assert found.threshold("small") == pytest.approx(0.45, abs=1e-3)
    assert found.threshold("large") == pytest.approx(0.2, abs=1e-3)
    assert found.threshold("medium") == found.threshold("all") == pytest.approx(0.3, abs=1e-3)
    assert "(threshold 0.20 to 0.45 by size)" in found.notices()[-1]


def test_where_few_lesions_convince_the_better_half_is_kept_and_a_notice_says_so() -> None:
    found = critic_of([0.1] * 5 + [0.3] * 5)
    line = found.notices()[-1]
    assert (
        found.threshold("small") == pytest.approx(0.3, abs=1e-3)
        and "a mean score of 0.20" in line
        and "best 50 %" in line
    )


def test_of_the_examples_that_convince_least_a_third_at_most_is_left_out_and_none_over_the_threshold() -> None:
    names = [f"case-{number % 10}" for number in range(20)]
    found = critic_of([0.1 * (number % 10) for number in range(20)], examples=names)
    assert found.unconvincing == {"case-0", "case-1", "case-2"} and found.examples["case-4"] == pytest.approx(
        -0.1, abs=1e-3
    )
    assert "3 of 10 annotated lesions" in found.notices()[0]
    assert critic_of([0.6] * 19 + [0.2], examples=[*names[:19], "case-11"]).unconvincing == {"case-11"}
    assert critic_of([0.2] * 20).unconvincing == frozenset()  # each is as good as the others


def test_a_domain_that_no_reader_has_scored_and_too_few_lesions_have_no_critic_and_the_reason_is_told() -> None:
    some, names = with_scores([0.5] * FEWEST), ["one"] * FEWEST
    assert critic_for("fundus", some, names, names) is None
    assert critic_for("endoscopy", some[1:], names[1:], names[1:]) is None
    assert why_no_critic("fundus", 40).endswith("of endoscopy and ultrasound, and these images show fundus")
    assert "3 lesions were painted" in why_no_critic("ultrasound", 3)


def test_a_score_has_the_regression_of_the_features_and_stays_between_zero_and_one(critic) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=LENGTH)
    assert critic.score(features) == pytest.approx(critic.weights @ features + 0.5, abs=1e-5)
    assert critic.score(1e6 * critic.weights) == 1.0 and critic.score(-1e6 * critic.weights) == 0.0


def test_a_saved_critic_says_the_same(critic, tmp_path) -> None:
    assert load_critic(tmp_path) is None
    critic.save(tmp_path)
    again, features = load_critic(tmp_path), np.ones(LENGTH)
    assert again.measured == critic.measured and again.score(features) == critic.score(features)
    assert again.examples == critic.examples and again.unconvincing == {"case-1"}


@pytest.mark.parametrize("damage", ["cut", "gone", "encoder", "shape"])
def test_a_damaged_critic_or_another_encoder_is_one_line_of_error(critic, tmp_path, damage) -> None:
    made = {
        "encoder": replace(critic, measured=replace(MEASURED, encoder="another")),
        "shape": replace(critic, weights=critic.weights[:-1]),
    }.get(damage, critic)
    made.save(tmp_path)
    path = tmp_path / "realism" / "critic.safetensors"
    if damage == "cut":
        os.truncate(path, 100)
    elif damage == "gone":
        path.unlink()
    with pytest.raises(ModelError, match=r"fit the model again") as error:
        load_critic(tmp_path)
    assert "\n" not in str(error.value)


def test_the_places_of_a_lesion_cover_its_window() -> None:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 40:90, 30:100] = 1
    inside, rim, around = weights_of(mask)
    assert float((inside + rim + around - 1).abs().max()) < 0.01
    assert float(inside[..., 64, 64]) > 0.99 and float(rim[..., 40, 64]) > 0.99 and float(around[..., 5, 5]) > 0.99


@pytest.mark.parametrize("area", ["nothing", "one pixel", "everything"])
def test_features_are_finite_wherever_a_lesion_lies(area) -> None:
    mask = torch.full((1, 1, SIDE, SIDE), 1.0 if area == "everything" else 0.0)
    mask[..., 0, 0] = area != "nothing"
    found = lesion_features(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), mask)
    assert found.shape == (LENGTH,) and np.isfinite(found).all()
