import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.errors import ModelError
from diffaug.validator.calibration import (
    BINS,
    Calibration,
    Trajectory,
    agreement,
    bin_groups,
    calibrate,
    check_steps,
    class_ious,
    conformal_threshold,
    soft_iou,
    stop_thresholds,
)

EVERYWHERE = torch.ones(1, 1, 6, 6)
ALPHAS = st.floats(0.01, 0.49)


def maps(seed, rows=3, classes=2):
    return torch.rand(rows, classes, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def calibration(**values):
    made = {
        "alpha": 0.1,
        "steps": 4,
        "checks": (2, 4),
        "folds": {"train-0": 0, "train-1": 1},
        "groups": {name: (name,) for name in BINS},
        "counts": dict.fromkeys(BINS, 9),
        "thresholds": {name: {"2": 0.1, "4": 0.5} for name in BINS},
        "validator": "0123456789abcdef",
    }
    return Calibration(**{**made, **values})


# Agreement


def test_agreement_of_equal_maps_is_one_and_of_disjoint_ones_zero():
    first = maps(0)
    torch.testing.assert_close(soft_iou(first, first, EVERYWHERE), torch.ones(3, dtype=torch.float64))
    half = (first > 0.5).double()
    torch.testing.assert_close(soft_iou(half, 1 - half, EVERYWHERE), torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_agreement_is_symmetric_and_lies_between_zero_and_one():
    first, second = maps(0), maps(1)
    scores = soft_iou(first, second, EVERYWHERE)
    torch.testing.assert_close(scores, soft_iou(second, first, EVERYWHERE))
    assert ((scores > 0) & (scores < 1)).all()


def test_agreement_of_hard_masks_is_intersection_over_union():
    first, second = maps(0, classes=1) > 0.5, maps(1, classes=1) > 0.4
    iou = (first & second).sum((1, 2, 3)) / (first | second).sum((1, 2, 3))
    torch.testing.assert_close(soft_iou(first.double(), second.double(), EVERYWHERE), iou.double(), atol=1e-5, rtol=0)


def test_two_empty_maps_agree_and_one_empty_map_does_not():
    empty, full = torch.zeros(1, 1, 6, 6), torch.ones(1, 1, 6, 6)
    assert soft_iou(empty, empty, EVERYWHERE).item() == 1.0
    assert soft_iou(empty, full, EVERYWHERE).item() < 1e-6
    assert soft_iou(full, full, torch.zeros(1, 1, 6, 6)).item() == 1.0


def test_what_lies_outside_the_region_does_not_count():
    region = torch.zeros(3, 1, 6, 6)
    region[:, :, 1:4, 1:4] = 1
    first, second = maps(0), maps(1)
    changed = torch.where(region > 0, first, 1 - first)
    assert torch.equal(soft_iou(first, second, region), soft_iou(changed, second, region))


def test_agreement_of_several_classes_is_that_of_the_worst():
    mask = torch.zeros(2, 2, 6, 6)
    mask[:, 0, :, :4], mask[:, 1, :2, :2] = 1, 1
    found = mask.clone()
    found[0, 1, :2, :1] = 0  # half of the small class is not found
    found[1, 0, :, :1] = 0  # a quarter of the large one
    torch.testing.assert_close(soft_iou(found, mask, EVERYWHERE), torch.tensor([0.5, 0.75]), atol=1e-4, rtol=0)
    torch.testing.assert_close(class_ious(found, mask, EVERYWHERE)[0], torch.tensor([1.0, 0.5]), atol=1e-4, rtol=0)
    for k in range(2):
        alone = soft_iou(found[:, k : k + 1], mask[:, k : k + 1], EVERYWHERE)
        assert (soft_iou(found, mask, EVERYWHERE) <= alone).all()


def test_a_class_that_is_not_asked_for_counts_by_how_little_of_it_is_found():
    mask = torch.zeros(1, 2, 6, 6)
    mask[:, 0, :, :4] = 1
    found = mask.clone()
    assert soft_iou(found, mask, EVERYWHERE).item() == pytest.approx(1.0)
    found[:, 1] = 0.01
    assert soft_iou(found, mask, EVERYWHERE).item() == pytest.approx(0.99, abs=1e-4)
    found[:, 1, :, :3] = 1.0
    assert soft_iou(found, mask, EVERYWHERE).item() < 0.5


@given(st.floats(0.02, 1.0), st.integers(0, 20))
def test_a_lesion_seen_faintly_in_its_place_counts_as_one_seen_well(factor, seed):
    probability, mask = maps(seed).clamp(0.1, 1), maps(seed + 1)
    torch.testing.assert_close(
        agreement(probability * factor, mask, EVERYWHERE), agreement(probability, mask, EVERYWHERE)
    )


def test_the_score_of_a_gate_falls_as_a_mask_moves_off_grows_or_shrinks():
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def bump(row, radius):
        return torch.sigmoid(3 * radius - 3 * ((rows - row) ** 2 + (columns - 16) ** 2).sqrt())[None, None].double()

    region, found = torch.ones(1, 1, 32, 32), 0.3 * bump(16, 6)
    for masks in (
        [bump(16 + d, 6) > 0.5 for d in (0, 2, 4, 8)],
        [bump(16, r) > 0.5 for r in (6, 8, 10, 14)],
        [bump(16, r) > 0.5 for r in (6, 4, 3, 2)],
    ):
        scores = [agreement(found, mask.double(), region).item() for mask in masks]
        assert scores == sorted(scores, reverse=True) and scores[0] > 0.7 and scores[-1] < 0.4
    assert agreement((bump(16, 6) > 0.5).double(), (bump(16, 6) > 0.5).double(), region).item() == pytest.approx(1.0)


# Thresholds


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.05), (30, 0.1), (57, 0.3)])
def test_a_fresh_score_as_good_falls_under_the_threshold_with_at_most_the_stated_chance(count, alpha):
    rng = np.random.default_rng(0)
    rejected = 0.0
    for _ in range(4000):
        threshold = conformal_threshold(rng.random(count), alpha)
        rejected += threshold  # the chance that a uniform score is under it
    expected = math.floor(alpha * (count + 1)) / (count + 1)
    assert rejected / 4000 == pytest.approx(expected, abs=0.004)
    assert rejected / 4000 <= alpha + 0.004


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), ALPHAS)
def test_the_threshold_rejects_at_most_that_share_of_the_scores_it_was_made_of(scores, alpha):
    threshold = conformal_threshold(scores, alpha)
    assert sum(score < threshold for score in scores) <= alpha * (len(scores) + 1)


def test_too_few_scores_reject_nothing():
    assert conformal_threshold([0.9] * 18, 0.05) == 0.0
    assert conformal_threshold([0.9] * 19, 0.05) == 0.9
    assert conformal_threshold([], 0.05) == 0.0


@given(ALPHAS)
def test_a_bin_that_stands_alone_has_enough_lesions_for_a_threshold(alpha):
    for count in range(1, 120):
        if bin_groups({"small": count, "medium": 1, "large": 1}, alpha)["small"] == ("small",):
            assert conformal_threshold([0.5] * count, alpha) == 0.5
            break
    else:
        pytest.fail("no count is enough")


def test_a_bin_with_few_lesions_takes_in_its_neighbours_nearest_and_smaller_first():
    alone = {name: (name,) for name in BINS}
    assert bin_groups(dict.fromkeys(BINS, 19), 0.05) == alone
    assert bin_groups({"small": 19, "medium": 18, "large": 19}, 0.05) == {**alone, "medium": ("small", "medium")}
    assert bin_groups({"small": 3, "medium": 10, "large": 30}, 0.05) == {
        "small": BINS,
        "medium": BINS,
        "large": ("large",),
    }
    assert bin_groups({"small": 12, "medium": 12, "large": 2}, 0.05)["large"] == BINS
    assert bin_groups({"small": 19, "medium": 15, "large": 4}, 0.05)["large"] == ("medium", "large")
    assert bin_groups({}, 0.05) == dict.fromkeys(BINS, BINS)


def test_a_threshold_is_that_of_the_scores_of_its_group():
    scores = {"small": {2: [0.1] * 5, 4: [0.2] * 5}, "large": {2: [0.6] * 30, 4: [0.8] * 30}}
    groups, thresholds = calibrate(scores, 0.05)
    assert groups == {"small": BINS, "medium": BINS, "large": ("large",)}
    assert thresholds["large"] == {"2": 0.6, "4": 0.8}
    pooled = {step: conformal_threshold(scores["small"][step] + scores["large"][step], 0.05) for step in (2, 4)}
    assert thresholds["small"] == thresholds["medium"] == {"2": pooled[2], "4": pooled[4]}


@given(st.lists(st.floats(0, 1), max_size=5), st.integers(1, 1000))
def test_checked_steps_rise_and_end_with_the_last(shares, steps):
    checks = check_steps(shares, steps)
    assert checks[-1] == steps
    assert checks[0] >= 1
    assert list(checks) == sorted(set(checks))


def test_checked_steps_are_shares_of_the_steps():
    assert check_steps((0.5, 0.8, 1.0), 10) == (5, 8, 10)
    assert check_steps((), 10) == (10,)
    assert check_steps((0.0, 0.01), 4) == (1, 4)


# On the way


def painted(count, seed=0, size_bin="medium"):
    """Trajectories whose score half-way tells something of that at the end."""
    rng = np.random.default_rng(seed)
    ends = rng.random(count)
    halves = np.clip(ends + rng.normal(0, 0.1, count), 0, 1)
    return [Trajectory(size_bin, (float(a), float(b))) for a, b in zip(halves, ends, strict=True)]


def test_what_would_be_accepted_is_stopped_with_at_most_the_stated_chance():
    accept, stopped, caught = dict.fromkeys(BINS, 0.4), [], []
    for seed in range(300):
        _, stops = stop_thresholds(painted(180, seed), accept, (2, 4), 0.05)
        fresh = painted(400, 1000 + seed)
        fails = np.array([item.scores[0] < stops["medium"]["2"] for item in fresh])
        good = np.array([item.scores[1] >= 0.4 for item in fresh])
        stopped.append(fails[good].mean())
        caught.append(fails[~good].mean())
    assert np.mean(stopped) <= 0.05 + 0.004
    assert np.mean(stopped) > 0.03  # no more careful than it must be
    assert np.mean(caught) > 0.5


def test_several_looks_share_the_chance():
    items = [Trajectory("small", (float(a), float(a), 0.9)) for a in np.linspace(0, 1, 199)]
    _, stops = stop_thresholds(items, dict.fromkeys(BINS, 0.5), (1, 2, 3), 0.02)
    assert stops["small"] == {"1": items[1].scores[0], "2": items[1].scores[0]}  # the second of 199, one in a hundred


def test_trajectories_that_are_not_accepted_set_no_threshold():
    good = [Trajectory("large", (0.5, 0.9))] * 60
    bad = [Trajectory("large", (0.1, 0.2))] * 500
    assert stop_thresholds(good + bad, dict.fromkeys(BINS, 0.5), (2, 4), 0.02)[1]["large"]["2"] == 0.5


def test_too_few_trajectories_stop_nothing_and_the_calibration_says_so():
    few = calibration(delta=0.02).with_trajectories(painted(40))
    assert few.stop_groups == {}
    assert all(few.threshold(name, 2) == 0.0 and few.threshold(name, 4) == 0.5 for name in BINS)
    assert any("40 samples are too few to set limits" in line for line in few.notices())
    one = calibration(delta=0.02).with_trajectories(painted(1))
    assert any("1 sample is too few to set limits" in line for line in one.notices())


def test_one_threshold_for_every_size_moves_the_looks_before_it():
    made = calibration(delta=0.05).with_trajectories(painted(300))
    for threshold in (0.2, 0.6):
        fixed = made.fixed(threshold)
        assert all(fixed.threshold(name, 4) == threshold for name in BINS)
        assert fixed.fixed(0.5) == made.fixed(0.5)
    assert made.fixed(0.2).threshold("small", 2) < made.fixed(0.6).threshold("small", 2)
    assert made.accepting(dict.fromkeys(BINS, 0.5)) == made


def test_without_stops_only_the_end_decides():
    made = calibration(delta=0.05).with_trajectories(painted(300))
    assert made.threshold("small", 2) > 0
    bare = made.without_stops()
    assert all(bare.threshold(name, 2) == 0.0 for name in BINS)
    assert all(bare.threshold(name, 4) == made.threshold(name, 4) for name in BINS)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (
            (6, 3, 2),
            "small and medium ones share one, "
            "large ones have one that comes from small, medium and large ones together",
        ),
        (
            (7, 8, 5),
            "small and medium ones share one, large ones have one that comes from medium and large ones together",
        ),
        ((3, 9, 9), "small ones have one that comes from small and medium ones together"),
        ((9, 9, 0), "large ones have one that comes from medium and large ones together"),
        ((4, 4, 9), "small and medium ones have one that comes from small, medium and large ones together"),
        ((2, 3, 5), "small, medium and large ones share one"),
    ],
)
def test_one_notice_says_which_sizes_share_a_threshold(counts, told):
    assert calibration().notices() == []
    found = dict(zip(BINS, counts, strict=True))
    groups = bin_groups(found, 0.1)
    (notice,) = calibration(groups=groups, counts=found).notices()
    small, medium, large = counts
    assert notice == (
        f"too few lesions for a threshold of each size ({small} small, {medium} medium, {large} large; 9 of each are "
        f"needed): {told}"
    )


def test_one_notice_says_which_sizes_share_the_limits_of_early_stops():
    groups = {"small": ("small", "medium"), "medium": ("small", "medium"), "large": ("large",)}
    (notice,) = replace(calibration(), stop_groups=groups).notices()
    assert notice.startswith("too few painted samples for a limit of each size under which a sample is stopped early: ")
    assert notice.endswith(": small and medium ones share one")


def test_a_gate_that_hardly_chooses_says_so():
    low = calibration(thresholds={**calibration().thresholds, "small": {"2": 0.0, "4": 0.03}})
    (notice,) = low.notices()
    assert "rejects little" in notice and "0.03 for small lesions" in notice and "medium" not in notice


def test_a_gate_with_too_few_lesions_in_all_says_that_nothing_is_rejected():
    few = calibration(counts={"small": 3, "medium": 2, "large": 0})
    assert few.notices()[0].startswith(
        "only 5 lesions are annotated (9 are needed for alpha 0.1): the gate rejects nothing"
    )
    assert len(few.notices()) == 1


def test_the_floor_holds_where_real_lesions_ask_for_less_and_the_summary_says_so():
    found = calibration(
        floor=0.45, thresholds={name: {"2": 0.0, "4": 0.12 if name == "small" else 0.5} for name in BINS}
    )
    made = replace(found, real=found.thresholds).over_floor()
    assert made.threshold("small", 4) == 0.45 and made.threshold("large", 4) == 0.5
    assert made.real["small"]["4"] == 0.12  # what real lesions ask for is kept
    (notice,) = made.notices()
    assert "the floor of 0.45 holds" in notice and "0.12 for small lesions" in notice and "large" not in notice
    assert not made.fixed(0.6).held_by_floor()  # a threshold that a user chose is not the floor


def test_with_too_few_lesions_the_floor_decides_alone():
    few = calibration(
        floor=0.3,
        counts={"small": 3, "medium": 2, "large": 0},
        thresholds={name: {"2": 0.0, "4": 0.0} for name in BINS},
    )
    made = replace(few, real=few.thresholds).over_floor()
    assert "the gate asks for an agreement of 0.3 alone" in made.notices()[0]


# On disk


def test_a_calibration_survives_its_file(tmp_path):
    made = calibration().with_trajectories(painted(300))
    made.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == made
    assert calibration().threshold("small", 4) == 0.5


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"checks": 3}', '{"checks": [1], "groups": []}'])
def test_a_missing_or_malformed_calibration_is_one_line_of_error(tmp_path, content):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match="fit it again") as error:
        Calibration.load(path)
    assert "\n" not in str(error.value)
