import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffaug.data.fundus import DISC_AND_CUP
from diffaug.errors import StudyError
from diffaug.study.evaluate import METRICS, class_columns, score, score_classes, write_prediction

masks = arrays(np.bool_, (5, 7))


@given(masks, masks)
def test_dice_follows_from_iou_and_both_are_symmetric(reference, prediction):
    scores = score(reference, prediction)
    assert scores.dice == pytest.approx(2 * scores.iou / (1 + scores.iou))
    assert score(prediction, reference).dice == scores.dice


@given(masks, masks)
def test_dice_is_the_harmonic_mean_of_sensitivity_and_precision(reference, prediction):
    scores = score(reference, prediction)
    if scores.sensitivity and scores.precision:
        harmonic = 2 / (1 / scores.sensitivity + 1 / scores.precision)
        assert scores.dice == pytest.approx(harmonic)


@given(masks)
def test_a_mask_agrees_with_itself_and_not_with_its_complement(mask):
    assert score(mask, mask).dice == 1
    assert score(mask, ~mask).dice == 0


@given(masks, masks)
def test_sensitivity_and_false_negative_rate_add_to_one(reference, prediction):
    scores = score(reference, prediction)
    if reference.any():
        assert scores.sensitivity + scores.false_negative_rate == pytest.approx(1)
        assert scores.missed == (scores.iou < 0.1)


def test_empty_masks_follow_the_stated_rules():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    both = score(empty, empty)
    assert (both.dice, both.iou, both.sensitivity, both.precision, both.missed) == (1, 1, None, None, None)
    false_alarm = score(empty, full)
    assert (false_alarm.dice, false_alarm.sensitivity, false_alarm.precision, false_alarm.missed) == (0, None, 0, None)
    miss = score(full, empty)
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
        assert found[metric] == pytest.approx((found[f"disc_{metric}"] + found[f"cup_{metric}"]) / 2)
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
