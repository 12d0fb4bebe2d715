import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from diffaug.data.fundus import DISC_AND_CUP
from diffaug.errors import StudyError
from diffaug.study.evaluate import (
    METRICS,
    class_columns,
    hausdorff95,
    labelled,
    lesion_recall,
    score,
    score_classes,
    write_prediction,
)

masks = arrays(np.bool_, (5, 7))
few = settings(max_examples=40)


@given(masks, masks)
@few
def test_dice_follows_from_iou_and_both_are_symmetric(reference, prediction):
    scores = score(reference, prediction)
    assert scores.dice == pytest.approx(2 * scores.iou / (1 + scores.iou))
    assert score(prediction, reference).dice == scores.dice


@given(masks, masks)
@few
def test_dice_is_the_harmonic_mean_of_sensitivity_and_precision(reference, prediction):
    scores = score(reference, prediction)
    if scores.sensitivity and scores.precision:
        harmonic = 2 / (1 / scores.sensitivity + 1 / scores.precision)
        assert scores.dice == pytest.approx(harmonic)


@given(masks)
@few
def test_a_mask_agrees_with_itself_and_not_with_its_complement(mask):
    assert score(mask, mask).dice == 1
    assert score(mask, ~mask).dice == 0


@given(masks, masks)
@few
def test_sensitivity_and_false_negative_rate_add_to_one(reference, prediction):
    scores = score(reference, prediction)
    if reference.any():
        assert scores.sensitivity + scores.false_negative_rate == pytest.approx(1)
        assert scores.missed == (scores.iou < 0.1)


def test_empty_masks_follow_the_stated_rules():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    both = score(empty, empty)
    assert (both.dice, both.iou, both.sensitivity, both.precision, both.missed) == (1, 1, None, None, None)
    assert (both.hd95, both.lesion_recall, both.false_alarm, both.false_area) == (None, None, 0, 0)
    false_alarm = score(empty, full)
    assert (false_alarm.dice, false_alarm.sensitivity, false_alarm.precision, false_alarm.missed) == (0, None, 0, None)
    assert (false_alarm.hd95, false_alarm.lesion_recall) == (None, None)
    assert (false_alarm.false_alarm, false_alarm.false_area) == (1, 1)
    miss = score(full, empty)
    assert (miss.hd95, miss.lesion_recall, miss.false_alarm) == (pytest.approx(32**0.5), 0, None)
    assert (miss.dice, miss.sensitivity, miss.precision, miss.missed) == (0, 0, None, 1)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(StudyError, match="one size"):
        score(np.zeros((4, 4), bool), np.zeros((4, 5), bool))


def test_a_saved_prediction_keeps_its_shape_and_its_two_values(tmp_path):
    mask = np.zeros((200, 400), bool)
    mask[50:150, 100:300] = True
    write_prediction(tmp_path / "p.png", mask, 100)
    saved = np.asarray(Image.open(tmp_path / "p.png"))
    assert saved.shape == (50, 100)
    assert set(np.unique(saved)) == {0, 255}
    assert (saved > 0).mean() == pytest.approx(mask.mean(), abs=0.02)


def disc(centre, radius, side=96):
    rows, columns = np.mgrid[:side, :side]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_hd95_is_the_shift_of_a_shifted_square_and_symmetric():
    one, other = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    one[20:40, 20:40], other[20:40, 27:47] = True, True
    assert hausdorff95(one, other) == hausdorff95(other, one) == 7
    assert hausdorff95(one, one) == 0


def test_hd95_agrees_with_the_distances_of_all_pairs_of_outline_pixels():
    one, other = disc((40, 40), 18), disc((50, 46), 11) | disc((20, 70), 5)
    outlines = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (one, other)]
    pairs = np.linalg.norm(outlines[0][:, None] - outlines[1][None], axis=2)
    expected = max(np.quantile(pairs.min(1), 0.95), np.quantile(pairs.min(0), 0.95))
    assert hausdorff95(one, other) == pytest.approx(expected)


def test_each_lesion_of_a_frame_is_found_or_missed_for_itself():
    reference = disc((20, 20), 8) | disc((70, 70), 8)
    assert lesion_recall(reference, reference) == 1
    assert lesion_recall(reference, disc((20, 20), 6)) == 0.5
    assert lesion_recall(reference, disc((20, 20), 1)) == 0  # IoU under 0.1
    assert lesion_recall(reference, np.ones_like(reference)) == 0  # one answer for everything finds nothing
    assert lesion_recall(np.zeros_like(reference), reference) is None


def test_specks_of_compression_are_no_lesions_and_no_alarms():
    speck, empty = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    speck[3, 3] = True
    assert lesion_recall(disc((50, 50), 9) | speck, disc((50, 50), 9)) == 1
    assert lesion_recall(speck, speck) is None  # of one pixel, it is no lesion either where it is all there is
    assert score(empty, speck).false_alarm == 0
    speck[3:6, 3:6] = True
    assert lesion_recall(speck, speck) == 1
    assert score(empty, disc((50, 50), 9)).false_alarm == 1


# Several classes


def discs(disc: slice, cup: slice) -> np.ndarray:
    masks = np.zeros((2, 20, 20), bool)
    masks[0, disc, 2:12], masks[1, cup, 4:8] = True, True
    return masks


def test_each_class_has_its_own_metrics_and_the_others_are_their_means():
    references, predictions = discs(slice(0, 16), slice(4, 12)), discs(slice(0, 16), slice(4, 8))
    found = score_classes(references, predictions, ("disc", "cup"))
    assert (found["disc_dice"], found["cup_dice"]) == (1.0, pytest.approx(2 / 3))
    assert found["cup_sensitivity"] == 0.5 and found["cup_precision"] == 1.0
    for metric in METRICS:
        both = found[f"disc_{metric}"], found[f"cup_{metric}"]
        assert found[metric] == (None if None in both else pytest.approx(sum(both) / 2))
    assert (found["vcdr"], found["vcdr_error"]) == (0.25, 0.25)
    assert set(found) == {*METRICS, *class_columns(("disc", "cup"))}


def test_a_single_class_has_no_columns_of_its_own():
    masks = discs(slice(0, 9), slice(2, 4))[:1]
    assert score_classes(masks, masks, ("lesion",)) == {name: getattr(score(*masks, *masks), name) for name in METRICS}
    assert class_columns(("lesion",)) == ()
    assert "vcdr" not in class_columns(("polyp", "tool"))


def test_an_absent_class_follows_the_stated_rules():
    whole, empty = discs(slice(0, 16), slice(4, 12)), discs(slice(0, 16), slice(0, 0))
    nothing = np.zeros_like(whole)
    missed = score_classes(whole, empty, ("disc", "cup"))
    assert (missed["cup_dice"], missed["vcdr"], missed["vcdr_error"]) == (0.0, 0.0, 0.5)
    invented = score_classes(empty, whole, ("disc", "cup"))
    assert (invented["cup_dice"], invented["cup_sensitivity"], invented["vcdr_error"]) == (0.0, None, 0.5)
    assert invented["sensitivity"] == 1.0  # of the disc: the cup has none
    assert score_classes(empty, empty, ("disc", "cup"))["cup_dice"] == 1.0
    assert score_classes(whole, nothing, ("disc", "cup"))["vcdr_error"] == 0.5
    assert score_classes(nothing, whole, ("disc", "cup"))["vcdr_error"] is None


def test_a_saved_label_keeps_its_values(tmp_path):
    label = np.zeros((200, 400), np.uint8)
    label[50:150, 100:300], label[80:120, 150:250] = 1, 2
    write_prediction(tmp_path / "p.png", label, 100, DISC_AND_CUP)
    saved = np.asarray(Image.open(tmp_path / "p.png"))
    assert saved.shape == (50, 100) and set(np.unique(saved)) == {0, 1, 2}
    assert (saved == 2).mean() == pytest.approx((label == 2).mean(), abs=0.02)


@given(arrays(np.float32, (1, 5, 7), elements=st.floats(0, 1, width=32)), st.floats(0, 1), st.floats(0, 1))
@few
def test_a_lower_decision_threshold_never_finds_fewer_pixels(probability, one, other):
    low, high = (labelled(probability, (), threshold) > 0 for threshold in sorted((one, other)))
    assert (low | high == low).all()
