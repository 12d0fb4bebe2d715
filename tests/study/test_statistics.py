import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffaug.errors import StudyError
from diffaug.study.statistics import (
    Comparison,
    compared,
    differences,
    groups_of,
    holm,
    interval,
    paired,
    resampled_means,
    summarise,
    tidy,
    values_of,
)
from diffaug.study.strata import STRATA

M = {"mean", "low", "high", "n", "groups"}


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
    found = {"mean": 0.25, "low": 0.25, "high": 0.25, "n": 5, "groups": 5}
    assert interval(np.full((3, 5), 0.25), 100, 0) == found


def test_cases_without_a_value_are_not_counted_nor_are_their_groups():
    values, groups = np.array([[0.2, np.nan, 0.4, np.nan]]), ["a", "b", "a", "c"]
    assert [interval(values, 100, 0, groups)[name] for name in ("n", "groups")] == [2, 1]
    other = np.array([[0.1, 0.3, np.nan, np.nan]])
    assert [paired(values, other, 100, 0, groups)[name] for name in ("n", "groups")] == [1, 1]
    assert [interval(other * np.nan, 100, 0, groups)[name] for name in ("n", "groups")] == [0, 0]


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
    assert interval(np.full((2, 3), np.nan), 10, 0) == {"mean": None, "low": None, "high": None, "n": 0, "groups": 0}


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
    assert set(difference["dice"]) == M | {"p", "relative", "relative_low", "relative_high"}
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


def test_cases_of_one_group_are_drawn_together_so_their_interval_is_wider():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(0.5, 0.2, (1, 8)), 10, axis=1)  # ten frames of each of eight patients, all alike
    groups = [f"patient-{index // 10}" for index in range(80)]
    alone, together = interval(values, 800, 0), interval(values, 800, 0, groups)
    assert alone["mean"] == together["mean"]
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


def test_a_group_of_its_own_for_each_case_is_no_group():
    values = np.random.default_rng(0).uniform(size=(2, 9))
    assert interval(values, 100, 0) == interval(values, 100, 0, [f"{index:02d}" for index in range(9)])


def test_several_seeds_of_a_draw_are_one_value_and_draws_are_what_is_resampled():
    records = [
        {"case": case, "dice": dice + draw / 10, "draw": draw, "seed": seed, "strata": [], "arm": "real"}
        for draw in (0, 1)
        for seed, dice in ((0, 0.2), (1, 0.4))
        for case in ("a", "b")
    ]
    assert np.allclose(values_of(records, "dice"), [[0.3, 0.3], [0.4, 0.4]])


def test_seeds_of_a_single_draw_stand_in_for_draws():
    records = [
        {"case": case, "dice": dice, "draw": 0, "seed": seed, "strata": [], "arm": "real"}
        for seed, dice in enumerate((0.2, 0.5, 0.8))
        for case in "abcd"
    ]
    arm = summarise(records, 400)["arms"]["real"]
    bounds = {"mean": pytest.approx(0.5), "low": pytest.approx(0.2), "high": pytest.approx(0.8)}
    assert arm["dice"] == {**bounds, "n": 4, "groups": 4}
    assert (arm["draws"], arm["seeds"]) == (1, 3)
    several = summarise(records + [{**row, "draw": 1, "seed": row["seed"] + 1000} for row in records], 10)
    assert (several["arms"]["real"]["draws"], several["arms"]["real"]["seeds"]) == (2, 3)


def test_folds_of_different_cases_become_one_row_of_a_draw():
    records = [
        {"case": f"c{index}", "dice": 0.1 * index, "draw": 0, "fold": index % 2, "seed": 0, "strata": []}
        for index in range(4)
    ]
    assert np.allclose(values_of(records, "dice"), [[0.0, 0.1, 0.2, 0.3]])


def test_groups_come_in_the_order_of_the_values():
    records = [{"case": case, "group": group} for case, group in (("b", "y"), ("a", "x"), ("c", ""))]
    assert groups_of(records) == ["x", "y", "c"]


def test_a_change_is_given_relative_to_the_other_arm_too():
    other = np.random.default_rng(0).uniform(0.4, 0.6, (3, 50))
    found = paired(0.7 * other, other, 400, 0)
    assert found["relative"] == pytest.approx(-0.3)
    assert found["relative_low"] == pytest.approx(-0.3) and found["relative_high"] == pytest.approx(-0.3)
    assert paired(other, np.zeros_like(other), 50, 0)["relative"] is None


def test_a_relative_change_of_hardly_any_events_is_left_out():
    rare = np.zeros((1, 40))
    rare[0, 0] = 1.0  # one missed lesion of forty: a third of the resamples hold none
    assert paired(np.zeros_like(rare), rare, 400, 0)["relative"] is None
    assert paired(np.zeros_like(rare), rare, 400, 0)["mean"] == pytest.approx(-1 / 40)


def test_a_p_value_is_small_for_a_sure_gain_and_large_for_none():
    rng = np.random.default_rng(0)
    base, noise = rng.uniform(size=(3, 60)), rng.normal(0, 0.05, (3, 60))
    assert paired(base + 0.1 + noise, base, 999, 0)["p"] == pytest.approx(2 / 1000)
    assert paired(base + noise - noise.mean(), base, 999, 0)["p"] > 0.5
    assert paired(base, base, 99, 0)["p"] == 1.0


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=6))
@settings(max_examples=50)
def test_holm_never_lowers_a_p_value_keeps_their_order_and_is_bounded_by_bonferroni(found):
    values = {str(place): value for place, value in enumerate(found)}
    adjusted = holm(values)
    known = {name: value for name, value in values.items() if value is not None}
    assert set(adjusted) == set(values)
    for name, value in known.items():
        assert value <= adjusted[name] <= min(1.0, value * len(known)) + 1e-12
    ordered = sorted(known, key=lambda name: known[name])
    assert [adjusted[name] for name in ordered] == sorted(adjusted[name] for name in ordered)


def test_one_case_of_one_draw_has_no_p_value():
    one, other = np.array([[0.0, np.nan]]), np.array([[1.0, 1.0]])
    assert paired(one, other, 100, 0)["p"] is None
    assert paired(np.zeros((1, 2)), np.ones((1, 2)), 100, 0, ["patient", "patient"])["p"] is None
    assert paired(np.zeros((1, 2)), np.ones((1, 2)), 100, 0)["p"] is not None
    assert paired(np.zeros((2, 1)), np.ones((2, 1)), 100, 0)["p"] is not None


def test_arms_that_were_tested_on_different_cases_are_not_paired():
    real, other = make_records("real"), make_records("copy-paste")
    renamed = [{**record, "case": record["case"].replace("0", "x")} for record in other]
    with pytest.raises(StudyError, match=r"same cases of the same draws: of copy-paste and real"):
        summarise(real + renamed, 50)
    with pytest.raises(StudyError, match="same cases"):
        summarise(real + [record for record in other if record["seed"]], 50)


def test_an_image_that_lacks_one_of_two_classes_is_not_free_of_lesions():
    records = [{**record, "false_alarm": 0.0, "area": 0.1 * index} for index, record in enumerate(make_records("real"))]
    assert summarise(records, 50)["arms"]["real"]["n_lesion_free"] == 1


def test_holms_own_example():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_the_gap_to_the_oracle_is_closed_by_what_was_gained():
    arms = [*make_records("real"), *make_records("selected", shift=0.05), *make_records("oracle", shift=0.1)]
    gap = summarise(arms, 200)["differences"]["selected - real"]["gap_closed"]
    assert gap["mean"] == pytest.approx(0.5) and gap["low"] == pytest.approx(0.5)


def test_every_arm_is_compared_with_real_and_the_headline_arm_with_every_other():
    pairs = compared(["real", "copy-paste", "selected", "selected@2", "oracle"])
    assert [(pair.arm, pair.against) for pair in pairs] == [
        ("copy-paste", "real"), ("selected", "real"), ("selected@2", "real"), ("oracle", "real"),
        ("selected", "copy-paste"),
    ]  # fmt: skip
    assert compared(["selected"]) == []


def test_a_summary_as_a_table_holds_each_of_its_intervals_once():
    summary = summarise(make_records("real") + make_records("validated", shift=0.1), 50)
    rows = tidy(summary)
    keys = [(row["arm"], row["against"], row["stratum"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    found = dict(zip(keys, rows, strict=True))
    gain = found["validated", "real", "medium", "dice"]
    assert gain["mean"] == summary["differences"]["validated - real"]["strata"]["medium"]["dice"]["mean"]
    assert gain["p_holm"] >= gain["p"]
    assert found["real", "", "small", "dice"]["n"] == 0 and found["real", "", "small", "dice"]["mean"] is None


def test_false_alarms_on_negatives_are_counted_per_negative():
    shares = [[0.5, 0.0, 0.05, 0.2], [0.0, 0.0, 0.0, 0.3]]
    alarms = [{"arm": "real", "seed": seed, "negatives": negatives} for seed, negatives in enumerate(shares)]
    negatives = summarise(make_records("real"), 50, alarms=alarms)["arms"]["real"]["negatives"]
    assert (negatives["n"], negatives["mean"]) == (4, 3 / 8)
    assert summarise(make_records("real"), 50)["arms"]["real"]["negatives"] == {
        "n": 0,
        "mean": None,
        "low": None,
        "high": None,
    }


def test_negatives_of_different_draws_are_different_negatives_and_need_not_be_as_many():
    records = [{**row, "draw": draw} for draw in (0, 1) for row in make_records("real", seeds=1)]
    runs = [
        {"arm": "real", "draw": draw, "seed": seed, "negatives": negatives}
        for draw, negatives in ((0, [0.5, 0.0, 0.0]), (1, [0.5, 0.5]))
        for seed in (1000 * draw, 1000 * draw + 1)
    ]
    negatives = summarise(records, 400, alarms=runs)["arms"]["real"]["negatives"]
    assert (negatives["n"], negatives["mean"]) == (5, pytest.approx(3 / 5))
    assert negatives["low"] < 0.4 and negatives["high"] == 1


def test_a_comparison_is_found_by_its_name():
    pair = Comparison("selected@2+pseudo-label", "no-negatives")
    assert Comparison.parse(pair.name) == pair
    summary = {"differences": {pair.name: 1, "selected - real": 2}}
    assert differences(summary) == {pair: 1, Comparison("selected", "real"): 2}
    assert differences(summary, "real") == {Comparison("selected", "real"): 2}
