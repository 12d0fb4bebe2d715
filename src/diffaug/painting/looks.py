"""Looks of the critic at lesions in their frames, real or painted, after these were blended in."""

from collections.abc import Sequence

import numpy as np
import torch

from diffaug.data.images import Mask, Pixels
from diffaug.data.request import Check, Request
from diffaug.painting.window import window_around, window_image, window_mask
from diffaug.realism.critic import Critic
from diffaug.realism.features import CONTEXT, SIDE, Features, lesion_features


def features_in(frame: Pixels, lesion: Mask, mirrored: bool = False) -> Features:
    """Return the features of a lesion, (H, W), in its frame, (H, W, 3)."""
    window = window_around(lesion, CONTEXT)
    image, mask = (window_image(frame, window, SIDE) + 1) / 2, window_mask(lesion, window, SIDE)
    return lesion_features(image.flip(3), mask.flip(3)) if mirrored else lesion_features(image, mask)


def views_in(frame: Pixels, lesion: Mask) -> Features:
    """Return the features of a lesion as it is and mirrored, a row each, for a critic to learn from."""
    return np.stack([features_in(frame, lesion, mirrored) for mirrored in (False, True)])


@torch.no_grad()
def look_at(critic: Critic, frame: Pixels, lesion: Mask, sources: Sequence[str], step: int) -> Check:
    """Return what a critic says of a lesion: the chance that it is real, and the least accepted one.

    Args:
        critic: Has its threshold.
        frame: The finished frame, (H, W, 3).
        lesion: The painted lesion, (H, W).
        sources: The cases of its background and its example; without any, all regressions are asked.
        step: Steps that were done.
    """
    chance = critic.looks_painted(features_in(frame, lesion), sources)
    return Check(step, 0, round(1 - chance, 5), round(1 - critic.threshold, 5))


def origins_of(request: Request) -> tuple[str, str]:
    """Return the cases whose pixels a painted lesion shows: its background, and the example that it was made from."""
    return request.background, request.example or request.mask_case


def reason_of(look: Check) -> str:
    """Return in words what a look saw, such as "looks painted: 0.93 over 0.80"."""
    verb = "within" if look.accepted else "over"
    return f"looks painted: {1 - look.score:.2f} {verb} {1 - look.threshold:.2f}"
