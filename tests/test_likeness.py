"""The benchmark of how easily painted lesions are told from real ones."""

import json

import numpy as np
import pytest
from benchmark_runs import BENCHMARKS, run_benchmark

from diffaug.config import GenerateConfig
from diffaug.synthesis.generate import generate


@pytest.fixture
def likeness(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import likeness

    return likeness


def lesions(likeness, shift, names, seed):
    rng = np.random.default_rng(seed)
    return [
        likeness.Seen(rng.normal(size=30) + shift, background, frozenset({background, example}))
        for background, example in names
    ]


def test_what_cannot_be_told_has_half_of_the_area_and_what_can_nearly_all(likeness):
    cases = [f"case-{number}" for number in range(40)]
    real = lesions(likeness, 0.0, [(name, name) for name in cases], 0)
    pairs = [(cases[n % 40], cases[(7 * n + n // 40) % 40]) for n in range(80)]
    same, shifted = (likeness.auc(real, lesions(likeness, shift, pairs, 1)) for shift in (0.0, 1.0))
    assert same["low"] < 0.5 < same["high"] and shifted["low"] > 0.9
    assert all(found["low"] <= found["value"] <= found["high"] for found in (same, shifted))


def test_a_regression_finds_the_direction_that_tells_and_weighs_both_kinds_alike(likeness):
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 10 == 0
    rows = rng.normal(size=(400, 5)) * [1, 10, 1, 1, 1] + 3
    rows[:, 1] += 40 * labels
    weights, bias = likeness.regression(rows, labels)
    chances = 1 / (1 + np.exp(-(rows @ weights + bias)))
    assert np.abs(weights * rows.std(0)).argmax() == 1
    assert chances[labels].mean() > 0.7 and chances[~labels].mean() < 0.3


def test_the_area_under_the_curve_counts_ties_half(likeness):
    low, high = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.4])
    pairs = [(b > a) + 0.5 * (a == b) for b in high for a in low]
    assert likeness.area_under_curve(low, high) == pytest.approx(np.mean(pairs))


def test_a_copy_of_a_real_lesion_is_not_recognised_by_its_own_case(likeness):
    """Painted lesions that are the real ones themselves cannot be told from these, in either direction."""
    cases = [f"case-{number}" for number in range(60)]
    real = lesions(likeness, 0.0, [(name, name) for name in cases], 0)
    copies = [likeness.Seen(one.features, one.group, one.sources) for one in real]
    low, high = likeness.scores_of(real, copies)
    assert np.array_equal(low, high)


@pytest.mark.slow  # the tests above state what it measures, by default
def test_the_likeness_benchmark_names_its_encoder_and_measures_painted_and_pasted_lesions(tmp_path, phantoms, fitted):
    config = GenerateConfig(count=24, shard_size=12, gate="off", negatives=0.0, place="replace")
    generate(fitted, phantoms, tmp_path / "made", config)
    out = tmp_path / "likeness.json"
    run_benchmark("likeness", phantoms, tmp_path / "made", "--out", out)
    measured = json.loads(out.read_text())
    assert measured["encoder"] == "efficientnet-lite0" and measured["encoder_digest"]
    assert 0 <= measured["auc"]["low"] <= measured["auc"]["value"] <= measured["auc"]["high"] <= 1
    assert measured["painted"] == 24 and {"value", "low", "high"} == set(measured["kid_pasted"])
