import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.study.statistics import interval, resampled_means, summarise, values_of
from diffaug.study.strata import STRATA

M = {"mean", "low", "high"}


def make_records(arm, seeds=3, cases=12, shift=0.0, strata=("medium",)):
    rng = np.random.default_rng(3)
    rows = []
    for seed in range(seeds):
        for case in range(cases):
            dice = float(np.clip(rng.uniform(0.2, 0.8) + shift, 0, 1))
            row = {"arm": arm, "seed": seed, "case": f"c{case}", "dice": dice, "iou": dice / (2 - dice)}
            row |= {"sensitivity": dice, "precision": None, "false_negative_rate": 1 - dice}
            rows.append(row | {"missed": float(dice < 0.3), "strata": list(strata)})
    return rows


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_an_interval_contains_its_mean_and_lies_inside_the_values(rows, seed):
    values = np.array(rows)
    found = interval(values, 200, seed)
    assert found["low"] <= found["mean"] <= found["high"]
    assert values.min() - 1e-12 <= found["low"]
    assert found["high"] <= values.max() + 1e-12


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).uniform(size=(3, 40))
    assert interval(values, 500, 1) == interval(values, 500, 1)
    assert interval(values, 500, 1) != interval(values, 500, 2)


def test_equal_values_have_an_interval_of_no_width():
    assert interval(np.full((3, 5), 0.25), 100, 0) == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_weighted_resamples_are_the_means_of_explicitly_drawn_seeds_and_cases():
    values = np.random.default_rng(0).uniform(size=(3, 5))
    rng = np.random.default_rng(9)
    rows = rng.multinomial(3, np.full(3, 1 / 3), size=20)
    columns = rng.multinomial(5, np.full(5, 1 / 5), size=20)
    drawn = [np.repeat(np.repeat(values, r, axis=0), c, axis=1).mean() for r, c in zip(rows, columns, strict=True)]
    assert np.allclose(resampled_means(values, 20, 9), drawn)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0.5, 0.1, size=(1, 60)), 400, trial) for trial in range(200)]
    covered = np.mean([one["low"] <= 0.5 <= one["high"] for one in found])
    assert 0.88 <= covered <= 1.0


def test_missing_values_take_part_in_nothing():
    values = np.random.default_rng(0).uniform(size=(2, 6))
    holes = np.concatenate([values, np.full((2, 3), np.nan)], axis=1)
    assert interval(values, 300, 0) == interval(holes, 300, 0)


def test_no_values_give_nothing_and_not_zero():
    assert interval(np.full((2, 3), np.nan), 10, 0) == {"mean": None, "low": None, "high": None}


def test_a_summary_has_the_agreed_keys_and_an_empty_stratum_has_no_values():
    summary = summarise(make_records("real") + make_records("validated", shift=0.1), 50)
    assert set(summary) == {"arms", "differences"}
    arm = summary["arms"]["validated"]
    assert (arm["n"], arm["seeds"]) == (12, 3)
    assert all(set(arm[name]) == M for name in ("dice", "iou", "sensitivity"))
    assert set(arm["strata"]) == set(STRATA)
    assert arm["strata"]["medium"]["n"] == 12
    assert set(arm["strata"]["medium"]) >= {"n", "dice", "missed"}
    assert arm["strata"]["small"]["n"] == 0
    assert arm["strata"]["small"]["dice"]["mean"] is None
    difference = summary["differences"]["validated - real"]
    assert set(difference["dice"]) == M
    assert difference["missed_small"]["mean"] is None


def test_differences_are_paired_so_a_constant_gain_has_no_width():
    gain = summarise(make_records("real") + make_records("validated", shift=0.1), 200)["differences"]
    dice = gain["validated - real"]["dice"]
    assert dice["mean"] == pytest.approx(0.1)
    assert dice["high"] - dice["low"] < 1e-9


def test_values_are_sorted_by_seed_and_case_whatever_the_order_of_records():
    records = make_records("real")
    assert np.array_equal(values_of(records, "dice"), values_of(records[::-1], "dice"))


def test_without_the_arm_real_there_are_no_differences():
    assert summarise(make_records("validated"), 10)["differences"] == {}
