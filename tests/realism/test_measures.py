"""Laws of the distances between sets of features, and of recognising a lesion."""

import numpy as np
import pytest

from diffaug.realism.measures import density_coverage, kid, precision_recall, resampler
from diffaug.realism.recognition import nearest, shifted, structure_of, turned


def points(count, seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (count, 6))


def test_a_set_against_itself_has_every_score_at_its_best():
    same = points(40, 0)
    assert precision_recall(same, same) == {"precision": 1.0, "recall": 1.0}
    found = density_coverage(same, same)
    assert found["coverage"] == 1.0 and found["density"] >= 1.0
    assert kid(same, same)["value"] == pytest.approx(0, abs=1e-6) or kid(same, same)["value"] < 0


def test_a_set_far_away_has_every_score_at_its_worst():
    far = precision_recall(points(40, 0, 90.0), points(40, 1)) | density_coverage(points(40, 0, 90.0), points(40, 1))
    assert set(far.values()) == {0.0}
    assert kid(points(40, 0, 90.0), points(40, 1))["low"] > 1000


def test_one_repeated_point_is_precise_and_has_no_recall():
    real = points(60, 0)
    found = precision_recall(np.repeat(real[:1], 30, axis=0), real)
    assert found["precision"] == 1.0 and found["recall"] <= 1 / 30


def test_order_does_not_matter():
    made, real = points(30, 0), points(40, 1)
    found = precision_recall(made[::-1], real[::-1]) | density_coverage(made[::-1], real[::-1])
    assert found == precision_recall(made, real) | density_coverage(made, real)


def test_whole_groups_are_drawn():
    drawn = resampler(["a", "b", "a", "c"])(np.random.default_rng(0))
    assert list(drawn).count(0) == list(drawn).count(2)


def lesion(seed):
    rng, image = np.random.default_rng(seed), np.full((90, 90, 3), 120, np.uint8)
    rows, columns = np.mgrid[:90, :90]
    mask = ((rows - 44) / 22) ** 2 + ((columns - 46) / 18) ** 2 <= 1
    coarse = np.kron(rng.integers(60, 200, (18, 18)), np.ones((5, 5)))
    image[mask] = coarse[mask][:, None]
    return image, mask


def test_a_lesion_is_recognised_however_it_is_turned_and_others_are_not():
    known = [turned(*lesion(seed)) for seed in range(5)]
    image, mask = lesion(3)
    for view in (lambda x: x, lambda x: x[:, ::-1], np.rot90, lambda x: np.rot90(x[::-1], 3)):
        found = nearest(shifted(view(image), view(mask)), known)
        assert found.place == 3 and found.correlation > 0.9
    assert nearest(shifted(*lesion(9)), known).correlation < 0.75
    assert nearest(shifted(image, mask), known, [True, True, True, False, True]).place != 3


def test_a_flat_lesion_is_like_nothing():
    image, mask = lesion(0)
    image[:] = 150
    assert not structure_of(image, mask).any() and nearest(shifted(image, mask), [turned(image, mask)]).correlation == 0
