"""What is drawn for a request before a place is sought: a mask, its size, how it lies, and how many a case gets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.examples import Examples
from diffaug.conditioning.kinds import Kinds
from diffaug.conditioning.masks import MaskBank, MaskEntry, draw_transform
from diffaug.data.lesions import LARGE, SMALL, size_class
from diffaug.data.request import MaskTransform, Placement

Place = Literal["mixed", "free", "replace", "removed"]  # what is asked for

CHOOSY = 20  # masks that are drawn at most until one is of an outline that some example fits
LATER = 0.4  # weight of the masks of a case, over that of the case whose turn comes before
REMOVED_SHARE = 0.2  # of the requests of a mix that do not add a lesion; the rest of them replace one
INSIDE = 1.06  # a mask drawn for a size class keeps this factor from its limits, since rendering changes its area
BOUNDS = {"small": (0.0, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, 1.0)}
SEVERAL, MOST = 3, 16  # lesions of a frame from which on a case gets several new ones; new ones of a case, at most


class Masks:
    """Draws the masks of training lesions for a background."""

    def __init__(self, bank: MaskBank, kinds: Kinds, examples: Examples) -> None:
        """Take the masks, the kinds of their frames, and what is known of the lesions."""
        self._bank, self._kinds, self._examples = bank, kinds, examples

    def draw(
        self, aim: str, name: str, rng: np.random.Generator, turns: Sequence[str] = ()
    ) -> tuple[MaskEntry, MaskTransform]:
        """Draw a training mask for a background, of the size that is aimed at.

        Each case in the order of `turns` is LATER times as likely as the one before it.
        """
        if not aim:
            weights = self._weights(name, turns)
            drawn = (self._bank.draw(rng, weights) for _ in range(CHOOSY))
            return next((mask for mask in drawn if self._examples.fit(mask[0])), None) or self._bank.draw(rng, weights)
        parts = self._bank.components(self._examples.draw_leading(aim, rng))
        return self.moved(parts[int(rng.integers(len(parts)))], aim, rng)

    def of(self, case: str) -> tuple[MaskEntry, ...]:
        """Return the lesions of a case, the largest first."""
        return self._bank.components(case)

    def may_lie_on(self, lesion: MaskEntry, name: str) -> bool:
        """Tell whether a background is of the kind of a lesion's frame."""
        return lesion.case in self._kinds.alike(name)

    def moved(self, lesion: MaskEntry, aim: str, rng: np.random.Generator) -> tuple[MaskEntry, MaskTransform]:
        """Return a lesion and a transform that is drawn for it; under an aim it keeps to the aim's size class."""
        transform = draw_transform(rng, self._bank.turn)
        if not aim:
            return lesion, transform
        low, high = BOUNDS[aim.split(maxsplit=1)[0]]
        area = float(np.clip(lesion.relative_area * transform.scale**2, low * INSIDE, high / INSIDE))
        return lesion, replace(transform, scale=round(float(np.sqrt(area / lesion.relative_area)), 4))

    def _weights(self, name: str, turns: Sequence[str]) -> NDArray[np.float64]:
        """Return the weights of the cases on a background, in the order of the bank's names."""
        weights = self._kinds.weights(name)
        if turns:
            later = {case: LATER**place for place, case in enumerate(turns)}
            weights = weights * [later.get(case, 0.0) for case in self._bank.names]
        return weights

    def draw_size(self, name: str, rng: np.random.Generator) -> str:
        """Draw a size class as often as masks for a background have it."""
        entry, transform = self.draw("", name, rng)
        return size_class(entry.relative_area * transform.scale**2)


class Placements:
    """Draws how lesions lie on their backgrounds."""

    def __init__(self, place: Place, backgrounds: Backgrounds, counts: Sequence[int], per_case: int, seed: int) -> None:
        """Take what is asked for, the number of lesions of each annotated case, and how many new ones a case gets."""
        self._place, self._backgrounds, self._per_case, self._seed = place, backgrounds, per_case, seed
        self._adding = float(np.mean([count > 1 for count in counts]))
        self._counts = [count for count in counts if count]

    def can_be(self, name: str) -> bool:
        """Tell whether a background can take the placement that is asked for."""
        if self._place == "removed":
            return name in self._backgrounds.removable
        return self._place != "replace" or bool(self._backgrounds.lesions_of(name))

    def draw(self, rng: np.random.Generator) -> Placement:
        """Draw a placement: a mix adds a lesion as often as frames have more than one."""
        adds, removes = rng.random() < self._adding, rng.random() < REMOVED_SHARE
        if self._place != "mixed":
            return self._place
        return "free" if adds else "removed" if removes else "replace"

    def on(self, name: str, index: int, drawn: Placement) -> Placement:
        """Return how a lesion lies on a background.

        Of several new lesions in one case as many are added as bring the frame to a number that an annotated frame has;
        the others replace one.
        """
        if self._per_case == 1 or self._place != "mixed":
            return drawn
        number, member = divmod(index, self._per_case)
        like = int(np.random.default_rng((self._seed, 5, number)).integers(len(self._counts)))
        missing = self._counts[like] - len(self._backgrounds.lesions_of(name))
        return "free" if member >= self._per_case - missing else "replace"


def usual_number(bank: MaskBank) -> int:
    """Return how many new lesions make a case differ from its background as two real ones do, MOST at most.

    Two frames of many lesions share none, so it is the median number of lesions of a frame that has one. Frames of
    fewer than SEVERAL differ enough by one.
    """
    median = float(np.median([len(bank.components(name)) for name in bank.names]))
    return 1 if median < SEVERAL else min(MOST, round(median))
