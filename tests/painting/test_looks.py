"""Looks of the critic at lesions in their frames."""

import numpy as np
import pytest

from diffaug.data.phantom import phantom_of_index
from diffaug.encoder import encoder_digest
from diffaug.painting.looks import features_in, look_at, reason_of
from diffaug.realism.critic import Critic, Measured
from diffaug.realism.features import LENGTH


def critic_of(threshold: float) -> Critic:
    """Return a critic that gives every lesion the score one half."""
    return Critic(np.zeros(LENGTH), 0.5, Measured("endoscopy", 20, 0.5, {"all": threshold}, 1.0, encoder_digest()))


@pytest.fixture(scope="module")
def scene():
    return phantom_of_index("train", 0, 128)


@pytest.mark.parametrize(("threshold", "accepted", "words"), [(0.4, True, "within 0.60"), (0.6, False, "over 0.40")])
def test_a_look_accepts_what_reaches_the_threshold_and_says_so(scene, threshold, accepted, words):
    look = look_at(critic_of(threshold), scene.image, scene.mask > 0, "small", step=4)
    assert look.accepted == accepted and look.step == 4
    assert reason_of(look) == f"looks painted: 0.50 {words}"


def test_a_look_sees_the_lesion_its_rim_and_what_is_around_it(scene):
    """A change in each of the three places changes the features."""
    lesion = scene.mask > 0
    rows, columns = np.nonzero(lesion)
    plain = features_in(scene.image, lesion)
    for y, x in ((rows.mean(), columns.mean()), (rows.min(), columns.mean()), (rows.min() - 9, columns.min())):
        changed = scene.image.copy()
        top, left = max(0, int(y) - 2), max(0, int(x) - 2)
        changed[top : top + 5, left : left + 5] = 255 - changed[top : top + 5, left : left + 5]
        assert not np.allclose(features_in(changed, lesion), plain)
