"""Kinds of frames: how alike two frames of a data set are in brightness, colour and size.

A mask or an example of a dark fluorescence frame does not suit a bright brightfield frame. Four numbers describe a
frame, each in units in which 1 is a clear difference: its median L*, the L* that 1 in 10 pixels exceeds, its median
chroma, and the logarithm of its longer side. Kinds are compared, not named: a weight falls with the distance.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.backgrounds import Backgrounds, Draft
from diffaug.conditioning.remembered import Remembered

UNITS = np.array([18.0, 22.0, 15.0, 0.9])  # L*, L*, chroma, logarithm of px
FAR = 2.0  # frames further apart are of another kind
LEAST = 3  # frames, the nearest ones, that count as of one kind however far they are
STRIDE = 4  # px; every fourth pixel of a draft, in both directions, is looked at


def kind_of(draft: Draft) -> NDArray[np.float64]:
    """Return the four numbers of a frame."""
    lab = lab_from_rgb(np.ascontiguousarray(draft.image[::STRIDE, ::STRIDE]))
    middle, bright = np.percentile(lab[..., 0], (50, 90))
    chroma = np.median(np.hypot(lab[..., 1], lab[..., 2]))
    return np.asarray([middle, bright, chroma, np.log(max(draft.frame))] / UNITS)


class Kinds:
    """Compares the frames of masks and examples with backgrounds."""

    def __init__(self, backgrounds: Backgrounds, names: Sequence[str]) -> None:
        """Take the backgrounds, and the ids of the cases that masks and examples come from."""
        self.names = tuple(names)
        self._kinds: Remembered[str, NDArray[np.float64]] = Remembered(lambda name: kind_of(backgrounds.draft(name)))
        self._weights = Remembered(self._weighed)

    def weights(self, background: str) -> NDArray[np.float64]:
        """Return the weight of each case on a background, in the order of `names`: 1 for its own, 0 if of another kind.

        The weight is exp(-d^2 / 2), d the distance of the two kinds.
        """
        return self._weights[background]

    def alike(self, background: str) -> dict[str, float]:
        """Return the cases of a background's kind, with their weights."""
        return {
            name: float(weight) for name, weight in zip(self.names, self.weights(background), strict=True) if weight
        }

    def _weighed(self, background: str) -> NDArray[np.float64]:
        distances = np.linalg.norm([self._kinds[name] - self._kinds[background] for name in self.names], axis=1)
        far = max(FAR, float(np.sort(distances)[min(LEAST, len(distances)) - 1]))
        nearer = np.minimum(distances, FAR)  # where all are far, the nearest count alike
        return np.where(distances <= far, np.exp(-(nearer**2) / 2), 0.0)
