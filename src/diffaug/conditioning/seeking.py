"""Seeks a place for a lesion whose example looks as if it lay there.

On some backgrounds masks are tried that suit the tissue around the lesion of the background. The first that looks as
if it lay there is taken, or else the one that suits its place best: on its background if that is fair, so that every
background gets its turn, or on any. Where no example without a flaw fits, any does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.chances import Masks, Placements
from diffaug.conditioning.examples import FAR, Examples
from diffaug.conditioning.placer import Placer
from diffaug.conditioning.request import Placed
from diffaug.conditioning.rules import FrameRules
from diffaug.conditioning.wording import Look, Wording
from diffaug.data.images import Mask
from diffaug.data.lesions import size_class
from diffaug.data.request import Placement

AGAIN = 3  # masks that are tried on a background until one suits it
SUITED = 4  # backgrounds that are tried for that, for a mask of the drawn size and for one of any, before any will do
FAIR = 3.5  # mismatch up to which the best place on a background is taken, before another background is tried
UNLIKE = 5.0  # worst mismatch of an example at a place that is taken for want of a better; `examples.FAR` is good
SIZED, ANY = 12, 40  # backgrounds that are tried for a mask of the drawn size, and then for one of any size

Options = Callable[[str], Sequence[str]]  # the cases that examples come from, for a background, in order of their turns


@dataclass(frozen=True)
class Seeker:
    """Seeks places on backgrounds.

    Attributes:
        backgrounds: What is known of each background.
        examples: What is known of each training lesion.
        wording: Measures a placed mask.
        masks: Draws masks.
        placements: Draws how lesions lie.
        placer: Seeks a place for a mask on one background.
        mixed: Whether a lesion may be added where none can be replaced.
        rules: What in the frames is no tissue.
    """

    backgrounds: Backgrounds
    examples: Examples
    wording: Wording
    masks: Masks
    placements: Placements
    placer: Placer
    mixed: bool
    rules: FrameRules

    def seek(
        self,
        names: Sequence[str],
        index: int,
        aim: str,
        rng: np.random.Generator,
        options: Options,
        taken: Mask | None = None,
    ) -> tuple[Placed, Look] | None:
        """Return a mask at a place on one of some backgrounds, or None if no mask fits on any.

        Args:
            names: The backgrounds, in the order in which they are tried.
            index: Of the request.
            aim: The stratum that it is drawn for; empty for none.
            rng: Draws masks and places.
            options: The cases that examples come from.
            taken: Where other new lesions lie in the draft of the background, with their bands; None for nowhere.
        """
        drawn = self.placements.draw(rng)
        size = aim.split(maxsplit=1)[0] if aim else self.masks.draw_size(names[0], rng) if names else ""
        places = partial(self._places, names, index, drawn, aim, rng, options, taken)
        best, least = None, UNLIKE
        for tried in (size, SUITED, False), ("", 0 if aim else SUITED, False):
            for placed, look in places(*tried, suits=True):
                if best is not None and least <= FAIR and placed.background != best[0].background:
                    return best
                unlike = self._unlike(placed, look)
                if unlike <= FAR:
                    return placed, look
                if unlike < least:
                    best, least = (placed, look), unlike
            if best is not None:
                return best
        passes = [(size, ANY if aim else SIZED, False), ("", 0 if aim else ANY, False)]
        if self.mixed and not aim:
            passes.append(("", ANY, True))  # better one lesion more in a frame than no case
        return next((found for tried in passes for found in places(*tried)), None)

    def _places(
        self,
        names: Sequence[str],
        index: int,
        drawn: Placement,
        aim: str,
        rng: np.random.Generator,
        options: Options,
        taken: Mask | None,
        size: str,
        number: int,
        adds: bool,
        suits: bool = False,
    ) -> Iterator[tuple[Placed, Look]]:
        """Yield masks at places on some backgrounds, each sought when it is asked for.

        Args:
            names: As in `seek`, like the next ones.
            index: Likewise.
            drawn: The placement that was drawn for the request.
            aim: As in `seek`, like the next ones.
            rng: Likewise.
            options: Likewise.
            taken: Likewise.
            size: Size class of the masks; empty for any.
            number: Backgrounds that are tried.
            adds: Whether a lesion is added, whatever placement was drawn.
            suits: Whether masks are tried that suit a background, AGAIN on each.
        """
        for name in names[:number]:
            placement = "free" if adds else self.placements.on(name, index, drawn)
            draw = partial(self.masks.draw, aim, name, rng, options(name))
            if suits:
                draw = partial(next, self.masks.suited(aim, name, rng, options(name)))
            for _ in range(AGAIN if suits else 1):
                placed = self.placer.place(name, placement, draw, size, rng, taken, own=not aim and not suits)
                if placed is None:
                    break
                look = self.wording.look(placed)
                if not aim or size == size_class(look.share):
                    yield placed, look

    def _unlike(self, placed: Placed, look: Look) -> float:
        """Return how badly an example suits the place of a mask; infinite if it is flawed, or lit from another side."""
        if not self.rules.grey and not placed.keeps_light(self.backgrounds.draft(placed.background).size):
            return math.inf
        place = look.around, look.mask, look.area, placed.background, placed.transform.flip
        return self.examples.unlike(placed.entry, *place)
