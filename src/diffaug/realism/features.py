"""Features of a lesion in its surroundings: what the encoder sees inside it, along its rim and around it.

A window shows the lesion with a margin, so that the seam and the light beside it are seen. Of three feature maps
(strides 4, 8 and 16) mean and deviation of each channel are taken over the three places.
Knows windows as tensors alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from diffaug.compute.devices import one_thread
from diffaug.encoder import CHANNELS, fixed_encoder

Features = NDArray[np.float64]
SIDE = 128  # px of a window
CONTEXT = 1.5  # window side over the lesion's longer side
LEVELS = (1, 2, 3)  # of the encoder's five maps
PLACES = 3  # inside, rim, around
LENGTH = 2 * PLACES * sum(CHANNELS[level] for level in LEVELS)
RIM = SIDE // 16  # px, half the width of the rim


@torch.no_grad()
def lesion_features(window: Tensor, mask: Tensor) -> Features:
    """Return the features of one lesion, (LENGTH,): (1, 3, SIDE, SIDE) in [0, 1], (1, 1, SIDE, SIDE) covered share.

    One window at a time, so that the features do not depend on what else is looked at, and on one thread, which is as
    fast for so little work.
    """
    with one_thread():
        maps = fixed_encoder().maps(window, max(LEVELS) + 1)
    places = weights_of(mask)
    rows = [pooled(maps[level], place) for level in LEVELS for place in places]
    features: Features = torch.cat(rows, dim=1)[0].double().numpy()
    return features


def weights_of(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where a lesion, its rim and its surroundings lie: (1, 1, S, S) each, in [0, 1], nowhere empty."""
    grown, inner = _highest(mask), -_highest(-mask)
    return inner + 1e-3 * mask + 1e-6, (grown - inner).clamp_min(0) + 1e-6, 1 - grown + 1e-6


def _highest(values: Tensor) -> Tensor:
    """Return the highest value of each square of 2 RIM + 1 px: along columns, then along rows, which is faster."""
    width = 2 * RIM + 1
    return F.max_pool2d(F.max_pool2d(values, (width, 1), 1, (RIM, 0)), (1, width), 1, (0, RIM))


def pooled(found: Tensor, place: Tensor) -> Tensor:
    """Return mean and deviation of each channel in a place: (B, C, h, w), (B, 1, S, S) weights => (B, 2 C)."""
    weight = F.adaptive_avg_pool2d(place, (found.shape[2], found.shape[3]))
    weight = weight / weight.sum((2, 3), keepdim=True)
    mean = (found * weight).sum((2, 3))
    power = ((found - mean[:, :, None, None]) ** 2 * weight).sum((2, 3))
    return torch.cat([mean, power.clamp_min(1e-12).sqrt()], dim=1)
