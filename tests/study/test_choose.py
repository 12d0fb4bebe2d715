from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_folders import row_of

from diffaug.config import SelectConfig
from diffaug.data.manifest import Row, accepted, painted
from diffaug.data.request import Check, Scores
from diffaug.study.choose import held_out_negatives, over_threshold, random_like, select, training_negatives

SIZES = ("small", "medium", "large")


def row(index, decision="kept", size="medium", score=0.6, image=True, negative=False):
    request = replace(row_of(index, ("a",), negative=negative).request, size_bin=size)
    checks = (Check(4, 500, 0.3, 0.1), Check(8, 0, score, 0.5))
    name = f"images/{request.id}.png" if image else ""
    return Row(request, decision, "", 8, checks, (0, 0, 40), "m", "v", "c", image=name)


def made(count=30, seed=0):
    """Rows of all sizes, a third of them turned down but painted, and scores of the accepted ones."""
    rng = np.random.default_rng(seed)
    rows = [
        row(index, "kept" if index % 3 else "rejected", SIZES[index % 5 % 3], float(rng.uniform()))
        for index in range(count)
    ]
    scores = {
        one.id: Scores(
            loss=float(rng.uniform()),
            novelty=float(rng.uniform(0.5, 2)),
            low_contrast=bool(rng.random() < 0.3),
            features=tuple(rng.normal(size=3)),
        )
        for one in accepted(rows)
    }
    return rows, scores


def test_accepted_rows_are_painted_and_hold_a_lesion():
    rows = [*made()[0], row(90, "stopped", image=False), row(91, negative=True), row(92, "surplus")]
    assert {one.id for one in accepted(rows)} < {one.id for one in painted(rows)}
    assert all(one.image and not one.request.negative for one in painted(rows))
    assert rows[-1] in accepted(rows)


@given(st.floats(0, 1))
@settings(max_examples=30)
def test_a_fixed_threshold_looks_at_the_last_score_alone(threshold):
    rows, _ = made()
    assert over_threshold(rows, threshold) == [one for one in rows if one.score >= threshold]


def test_random_cases_have_the_number_and_sizes_of_the_validated_ones():
    rows, _ = made(60)
    model = accepted(rows)[:20]
    drawn = random_like(rows, model, 0)
    count = {size: sum(one.request.size_bin == size for one in model) for size in SIZES}
    assert {size: sum(one.request.size_bin == size for one in drawn) for size in SIZES} == count
    assert drawn == random_like(rows, model, 0) != random_like(rows, model, 1)
    assert any(one.decision == "rejected" for one in drawn)


def test_every_fourth_negative_is_held_out_and_none_is_in_both():
    rows = [row(index, negative=True) for index in range(11)] + [row(20, "rejected", negative=True), row(21)]
    training, held_out = training_negatives(rows), held_out_negatives(rows)
    assert [one.request.index for one in held_out] == [3, 7]
    assert sorted(one.request.index for one in (*training, *held_out)) == list(range(11))


def test_what_is_too_hard_for_its_size_is_never_selected():
    rows, scores = made(60)
    config = SelectConfig(hard_cut=0.7)
    chosen = {one.id for one in select(rows, scores, config, 60)}
    for size in SIZES:
        of_size = [one.id for one in accepted(rows) if one.request.size_bin == size]
        values = sorted(scores[name].loss for name in of_size)
        limit = np.quantile(values, 0.7, method="higher")
        assert {name for name in of_size if scores[name].loss <= limit} == chosen & set(of_size)
    everything = select(rows, scores, SelectConfig(hard_cut=1.0), 60)
    assert len(everything) == len(accepted(rows))


def test_the_first_of_a_choice_are_the_choice_of_fewer_and_the_order_of_rows_does_not_matter():
    rows, scores = made(60)
    chosen = select(rows, scores, SelectConfig(), 15)
    assert select(rows, scores, SelectConfig(), 6) == chosen[:6]
    assert select(rows[::-1], scores, SelectConfig(), 15) == chosen
    assert len({one.id for one in chosen}) == 15


def test_strata_take_turns_so_that_a_rare_one_is_not_drowned():
    rows = [row(index, size="small" if index < 3 else "large") for index in range(30)]
    scores = made(30)[1] | {one.id: replace(made(31)[1]["synth-00001"], low_contrast=False) for one in rows}
    chosen = select(rows, scores, SelectConfig(hard_cut=1.0), 6)
    assert sum(one.request.size_bin == "small" for one in chosen) == 3


def test_harder_cases_come_first_and_copies_of_what_is_chosen_last():
    rows = [row(index) for index in range(4)]
    hard = {"synth-00000": 0.9, "synth-00001": 0.8, "synth-00002": 0.5, "synth-00003": 0.1}
    place = {"synth-00000": 0.0, "synth-00001": 0.0, "synth-00002": 5.0, "synth-00003": -5.0}  # 1 is a copy of 0
    scores = {name: Scores(loss=hard[name], low_contrast=False, novelty=1.0, features=(place[name],)) for name in hard}

    def order(novelty):
        chosen = select(rows, scores, SelectConfig(hard_cut=1.0, novelty=novelty), 4)
        return [one.request.index for one in chosen]

    assert order(0.0) == [0, 1, 2, 3]
    assert order(2.0) == [0, 2, 3, 1]


def test_nothing_to_select_gives_nothing():
    assert select([], {}, SelectConfig(), 5) == []
    assert select([row(0, "rejected")], {}, SelectConfig(), 5) == []


def chosen_plainly(rows, scores, config, count):
    """Return what `select` chooses, one comparison after the other."""
    of_size = {}
    for row in rows:
        of_size.setdefault(row.request.size_bin, []).append(scores[row.id].loss)
    cuts = {size: float(np.quantile(some, config.hard_cut, method="higher")) for size, some in of_size.items()}
    left = [row for row in rows if scores[row.id].loss <= cuts[row.request.size_bin]]
    distance = {row.id: scores[row.id].novelty for row in left}
    typical = float(np.median(list(distance.values()))) or 1.0
    order = np.argsort([scores[row.id].loss for row in left], kind="stable")
    rank = {left[int(index)].id: place / max(1, len(left) - 1) for place, index in enumerate(order)}
    waiting, chosen = {}, []
    for row in left:
        waiting.setdefault((row.request.size_bin, scores[row.id].low_contrast), []).append(row)
    while any(waiting.values()) and len(chosen) < count:
        for stratum in sorted(name for name, some in waiting.items() if some)[: count - len(chosen)]:
            best = max(
                waiting[stratum],
                key=lambda row: (
                    rank[row.id] + config.novelty * min(1.0, distance[row.id] / typical),
                    -row.request.index,
                ),
            )
            waiting[stratum].remove(best)
            chosen.append(best)
            for row in left:
                apart = np.array(scores[row.id].features) - np.array(scores[best.id].features)
                distance[row.id] = min(distance[row.id], float(np.linalg.norm(apart)))
    return [row.id for row in chosen]


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_in_arrays_is_that_of_one_comparison_after_the_other(seed):
    rng = np.random.default_rng(seed)
    rows, scores = [], {}
    for number in range(60):
        row = row_of(number, ("train-0",), image="a.png")
        row = replace(row, request=replace(row.request, size_bin=str(rng.choice(["small", "medium", "large"]))))
        coarse = seed % 2  # ties
        values = (round(float(value), 1 if coarse else 4) for value in rng.random(9))
        loss, novelty, *features = values
        scores[row.id] = Scores(loss, novelty, bool(rng.random() < 0.3), tuple(features))
        rows.append(row)
    for count in (1, 7, 100):
        found = [row.id for row in select(rows, scores, SelectConfig(), count)]
        assert found == chosen_plainly(rows, scores, SelectConfig(), count)
