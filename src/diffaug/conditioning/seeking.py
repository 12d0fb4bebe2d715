"""Seeks a place for a lesion where it looks as if it lay there.

Lesions take turns, and so do backgrounds. The first lesion in turn is tried on the first background in turn, where a
fair place is enough, so that all are used alike; then on others, until it looks as if it lay there. Else the best of
the places that were tried is taken, if that is fair, or the next lesion is tried. Where no lesion without a flaw fits,
any mask of the drawn size does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np

from diffaug.conditioning.attributes import equivalent_diameter
from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.chances import Masks, Placements
from diffaug.conditioning.examples import FAR, Examples
from diffaug.conditioning.masks import MaskEntry
from diffaug.conditioning.placer import Drawn, Placer
from diffaug.conditioning.request import Placed
from diffaug.conditioning.rules import FrameRules
from diffaug.conditioning.wording import Look, Wording
from diffaug.data.images import Mask
from diffaug.data.lesions import size_class
from diffaug.data.request import Placement

LESIONS, PLACES = 6, 6  # lesions in turn that are tried, and backgrounds that each is tried on
AGAIN = 3  # times that a lesion is tried on the first background in turn
FAIR = 3.5  # mismatch up to which a place is fair; `examples.FAR` is good
UNLIKE = 5.0  # worst mismatch of a lesion at a place that is taken for want of a better
SIZED, ANY = 12, 40  # backgrounds that are tried for a mask of the drawn size, and then for one of any size

Options = Callable[[str], Sequence[str]]  # the cases that examples come from, for a background, in order of their turns


@dataclass(frozen=True)
class Sought:
    """What a place is sought for.

    Attributes:
        index: Of the request.
        names: The backgrounds, in the order in which they are tried.
        cases: The cases that lesions come from, in the order of their turns.
        options: Those of a background's kind, in the order of their turns.
        aim: The stratum that the request is drawn for; empty for none.
        rng: Draws masks and places.
        taken: Where other new lesions lie in the draft of the background, with their bands; None for nowhere.
    """

    index: int
    names: Sequence[str]
    cases: Sequence[str]
    options: Options
    aim: str
    rng: np.random.Generator = field(repr=False)
    taken: Mask | None = field(default=None, repr=False)


Found = tuple[Placed, Look]


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

    def seek(self, sought: Sought) -> Found | None:
        """Return a mask at a place on one of the backgrounds, or None if no mask fits on any."""
        drawn = self.placements.draw(sought.rng)
        best, least = None, UNLIKE
        for lesion in islice(self._lesions(sought), LESIONS):
            for name in islice(self._backgrounds_of(lesion, sought), PLACES):
                found = self._place_of(lesion, name, sought, drawn)
                unlike = math.inf if found is None else self._unlike(*found)
                if unlike <= (FAIR if name == sought.names[0] else FAR):
                    return found
                if unlike < least:
                    best, least = found, unlike
            if least <= FAIR:
                break
        return best or self._any_place(sought, drawn)

    def _lesions(self, sought: Sought) -> Iterator[MaskEntry]:
        """Yield lesions without a flaw, and those that an edge cuts, in the order of their turns."""
        cases = self.examples.leading_in_turn(sought.aim, sought.rng) if sought.aim else sought.cases
        for case in cases:
            lesions = [
                lesion
                for lesion in self.masks.of(case)
                if self.examples.is_whole(lesion) or self.examples.lies_at_edge(lesion)
            ]
            if lesions:
                yield lesions[int(sought.rng.integers(len(lesions)))]

    def _backgrounds_of(self, lesion: MaskEntry, sought: Sought) -> Iterator[str]:
        """Yield backgrounds of other groups, in turn, of a lesion's kind and with lesions in tissue like its own.

        The first in turn comes AGAIN times, since another turn and flip may suit it.
        """
        names = list(sought.names)
        for name in names[:1] * AGAIN + names[1:]:
            may_lie = self.backgrounds.are_apart(name, lesion.case) and self.masks.may_lie_on(lesion, name)
            if may_lie and self.examples.unlike_frame(lesion, name) <= FAIR:
                yield name

    def _place_of(self, lesion: MaskEntry, name: str, sought: Sought, drawn: Placement) -> Found | None:
        """Seek a place for a lesion on a background."""
        draw = partial(self.masks.moved, lesion, sought.aim, sought.rng)
        if self.examples.lies_at_edge(lesion):
            found = self._at_edge(name, sought, drawn, draw)
        else:
            found = self._at(name, sought, drawn, draw, own=False)
        return found if found and (not sought.aim or _size_of(sought.aim) == size_class(found[1].share)) else None

    def _any_place(self, sought: Sought, drawn: Placement) -> Found | None:
        """Return the first place for any mask of a size that is drawn, else for any mask; see SIZED and ANY."""
        names, aim = sought.names, sought.aim
        if not names:
            return None
        size = _size_of(aim) if aim else self.masks.draw_size(names[0], sought.rng)
        passes: list[tuple[str, int, Placement]] = [(size, ANY if aim else SIZED, drawn)]
        if not aim:
            passes.append(("", ANY, drawn))
            if self.mixed:
                passes.append(("", ANY, "free"))  # better one lesion more in a frame than no case
        for wanted, number, placement in passes:
            for name in names[:number]:
                draw = partial(self.masks.draw, aim, name, sought.rng, sought.options(name))
                found = self._at(name, sought, placement, draw, wanted, own=not aim)
                if found is not None and (not aim or wanted == size_class(found[1].share)):
                    return found
        return None

    def _at(
        self, name: str, sought: Sought, drawn: Placement, draw: Drawn, size: str = "", *, own: bool
    ) -> Found | None:
        """Seek a place on one background; `own` as for `Placer.place`."""
        placement = self.placements.on(name, sought.index, drawn)
        placed = self.placer.place(name, placement, draw, size, sought.rng, sought.taken, own=own)
        return None if placed is None else (placed, self.wording.look(placed))

    def _at_edge(self, name: str, sought: Sought, drawn: Placement, draw: Drawn) -> Found | None:
        """Seek a place for a lesion that an edge cuts."""
        placement = self.placements.on(name, sought.index, drawn)
        placed = self.placer.at_edge(name, placement, *draw(), sought.rng, sought.taken)
        return None if placed is None else (placed, self.wording.look(placed))

    def _unlike(self, placed: Placed, look: Look) -> float:
        """Return how badly a lesion suits its place; infinite if it is lit from another side."""
        if not self.rules.grey and not placed.keeps_light(self.backgrounds.draft(placed.background).size):
            return math.inf
        diameter = equivalent_diameter(float(look.area))
        return self.examples.unlike(placed.entry, look.around, diameter, placed.transform.flip)


def _size_of(aim: str) -> str:
    return aim.split(maxsplit=1)[0]
