"""Looks of the critic at lesions in their frames, real or painted, after these were blended in."""

import torch

from diffaug.data.images import Mask, Pixels
from diffaug.data.request import Check, Request
from diffaug.painting.window import window_around, window_image, window_mask
from diffaug.realism.critic import Critic
from diffaug.realism.features import CONTEXT, SIDE, Features, lesion_features


def features_in(frame: Pixels, lesion: Mask) -> Features:
    """Return the features of a lesion, (H, W), in its frame, (H, W, 3)."""
    window = window_around(lesion, CONTEXT)
    return lesion_features((window_image(frame, window, SIDE) + 1) / 2, window_mask(lesion, window, SIDE))


@torch.no_grad()
def look_at(critic: Critic, frame: Pixels, lesion: Mask, size: str, step: int) -> Check:
    """Return what a critic says of a lesion: how well it convinces, from 0 to 1, and the least accepted score.

    Args:
        critic: Has its threshold.
        frame: The finished frame, (H, W, 3).
        lesion: The painted lesion, (H, W).
        size: Its size class.
        step: Steps that were done.
    """
    return Check(step, 0, critic.score(features_in(frame, lesion)), round(critic.threshold(size), 5))


def origins_of(request: Request) -> tuple[str, str]:
    """Return the cases whose pixels a painted lesion shows: its background, and the example that it was made from."""
    return request.background, request.example or request.mask_case


def reason_of(look: Check) -> str:
    """Return in words what a look saw, such as "looks painted: 0.93 over 0.80"."""
    verb = "within" if look.accepted else "over"
    return f"looks painted: {1 - look.score:.2f} {verb} {1 - look.threshold:.2f}"
