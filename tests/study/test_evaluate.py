import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffaug.errors import StudyError
from diffaug.study.evaluate import score, write_prediction

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
