"""The training lesions that sampling may start from: what each looks like, and which suits a place and a prompt.

Each case is measured when it is first asked for.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from diffaug.conditioning.attributes import (
    Attributes,
    Surroundings,
    equivalent_diameter,
    measure_attributes,
    surroundings_of,
    texture_of,
)
from diffaug.conditioning.budget import Budget, stratum
from diffaug.conditioning.flaws import Flaws
from diffaug.conditioning.masks import MaskBank, MaskEntry
from diffaug.conditioning.placement import PlacementMap
from diffaug.conditioning.prompts import SMOOTH, TEXTURED, words_of
from diffaug.conditioning.rays import TURNS, UPRIGHT, Values, aligned, centre_of, ray_lengths
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels

OF_LOOK = ("contrast", "colour", "border", "surface")  # aspects that an example keeps on any mask that it is moved onto
NEARLY = 0.05  # examples whose differences are this close count as equal; in the logarithm of a texture
ALIKE = 0.5  # the example is one of those whose mismatch is this close to the least
FAR = 2.4  # largest mismatch at which an example looks as if it lay in its place
OWN = 1.0  # by so much worse a mask's own lesion may suit a place than another that is stretched onto the mask
IN_TURN, LEAST_IN_TURN = 0.2, 4  # share and least number of the training lesions whose turn it is
# Differences that count as much as a lesion that is larger than its place by the factor e: of the tissue in L*, a* and
# b*, since light is made up for and colour only in part, and of L* on the same sides of both (shadows, folds, lumen).
DELTA_LAB, DELTA_SIDE = np.array([20.0, 7.0, 7.0]), 10.0
ENLARGED = (
    2.0  # by so much more an enlarged lesion, which is soft, differs from its place than one that is made smaller
)
CUT = 2.0  # mismatch of an example none of whose surroundings are lit tissue
STRETCH = 0.02  # a stretch of an outline (`rays.Alignment`) that counts as much as a size that differs by a tenth
FITS = 0.09  # largest stretch at which an example still looks like itself
IMAGES = 4  # kept in memory


def first_in_turn(names: Sequence[str]) -> Sequence[str]:
    """Return those cases of an order of turns whose turn it is."""
    return names[: max(LEAST_IN_TURN, math.ceil(IN_TURN * len(names)))]


class Examples:
    """The annotated cases with a lesion, and their measurements.

    Attributes:
        names: Their ids.
        attributes: What is measured of a case, by id.
        words: The word of each aspect of a case, by id.
        turns: Degrees that a lesion may be turned by on another mask than its own.
        flaws: Why a lesion, by its case and number, is not shown elsewhere; empty where it may be.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        bank: MaskBank,
        folds: Mapping[str, int] | None = None,
        budget: Budget | None = None,
        maps: Callable[[str], PlacementMap] | None = None,
        rules: FrameRules = ENDOSCOPIC,
        are_apart: Callable[[str, str], bool] = operator.ne,
        unconvincing: frozenset[str] = frozenset(),
    ) -> None:
        """Take the annotated cases by id.

        Args:
            cases: The cases.
            bank: Their masks.
            folds: The validators' fold of each case. An example is of the fold of its request's mask.
            budget: Weights of the cases that lead towards an aim.
            maps: The placement map of a case, which tells of text and of the border; None where that is not known.
            rules: What is known of their frames.
            are_apart: Tells whether the lesion of a case is new to a background: by default to every other image.
            unconvincing: Cases whose lesions convince least at other places.
        """
        self._cases, self._bank, self._folds = cases, bank, folds or {}
        self._are_apart = are_apart
        self._rules, self.turns = rules, UPRIGHT if rules.is_upright else TURNS
        self._weights = dict(budget.weights) if budget else {}
        self.names = tuple(name for name in cases if bank.components(name))
        self.attributes: Remembered[str, Attributes] = Remembered(
            lambda name: measure_attributes(self._images[name], cases[name].read_mask(), rules)
        )
        self.words: Remembered[str, dict[str, str]] = Remembered(lambda n: words_of(self.attributes[n], rules.grey))
        self._images: Remembered[str, Pixels] = Remembered(lambda name: cases[name].read_image(), limit=IMAGES)
        self._surroundings: Remembered[tuple[str, int], Surroundings] = Remembered(self._measured_surroundings)
        self.flaws = Flaws(bank, self._images, maps, rules, unconvincing)
        self._rays = Remembered(self._measured_rays)
        self._nearest = Remembered(self._least_stretch)

    def leading(self, aim: str) -> list[str]:
        """Return the training cases of a stratum that the budget gives weight to."""
        return [name for name in self._weights if stratum(self.words[name]) == aim]

    def draw_leading(self, aim: str, rng: np.random.Generator) -> str:
        """Draw a training case of a stratum, by its weight in the budget."""
        names = self.leading(aim)
        sums = np.cumsum([self._weights[name] for name in names])
        return names[int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))]

    def leading_in_turn(self, aim: str, rng: np.random.Generator) -> list[str]:
        """Return the training cases of a stratum in a random order, those with more weight in the budget earlier."""
        names = [name for name in self.leading(aim) if self._weights[name] > 0]
        return sorted(names, key=lambda name: float(rng.exponential() / self._weights[name]))

    def draw(
        self,
        mask: MaskEntry,
        aim: str,
        place: Surroundings,
        new: Mask,
        area: int,
        rng: np.random.Generator,
        asked: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        besides: str = "",
        flip: bool = False,
    ) -> str:
        """Return the mask's own lesion if it looks as asked and suits the place; else draw another.

        A lesion on its own mask keeps its outline to the pixel. Of the others, one of those is drawn that look most as
        asked and suit the place best.

        Args:
            mask: The request's; the example is of the same fold.
            aim: The stratum that the example must be of; empty for any.
            place: What lies around the new lesion.
            new: Its mask, in a frame of any size.
            area: The number of its pixels in its own frame.
            rng: Decides among those that suit the place and the mask.
            asked: The word of each aspect; a missing aspect asks for nothing.
            options: The cases to choose among, in the order of their turns; empty for all. Only the first of them that
                look as asked, and the mask's own, are compared, so that none is used much more often than others.
            besides: The background: cases that are not apart from it are left out if there are others.
            flip: Whether the mask is flipped.
        """
        names = self._of_fold(mask.case, besides)
        if aim:
            leading = self.leading(aim)
            names = [name for name in names if name in leading] or [self.draw_leading(aim, rng)]
        names = [name for name in names if name == mask.case or self._moves_well(name)] or names
        wanted = {aspect: word for aspect, word in (asked or {}).items() if word and aspect in OF_LOOK}
        if wanted:
            differences = [self._difference(name, wanted, place) for name in names]
            least = min(differences) + NEARLY
            names = [name for name, difference in zip(names, differences, strict=True) if difference <= least]
        diameter = equivalent_diameter(float(area))
        good = mask.case in names and not self.flaws[mask.case, mask.component]
        own = self.unlike(mask, place, diameter, flip) if good else math.inf
        if own <= FAR:
            return mask.case
        names = [name for name in names if name != mask.case or self._moves_well(name)] or names
        left = set(names)
        turns = first_in_turn([name for name in options if name in left])
        chosen = [name for name in names if name in turns] if turns else names
        rays = ray_lengths(new, centre_of(new))
        mismatch: Remembered[str, float] = Remembered(lambda name: self._mismatch(name, place, rays, diameter))
        least = min(mismatch[name] for name in chosen)
        if least > FAR:  # whose turn it is counts less than that the lesion looks as if it lay there
            chosen, least = names, min(mismatch[name] for name in names)
        if own < math.inf and own <= least + OWN:
            return mask.case
        suited = sorted((name for name in chosen if mismatch[name] <= least + ALIKE), key=lambda name: mismatch[name])
        return suited[int(rng.integers(len(suited)))]

    def fit(self, entry: MaskEntry) -> bool:
        """Tell whether a mask's own lesion has no flaw, or another without one fits it without being stretched much."""
        key = entry.case, entry.component
        return not self.flaws[key] or self._nearest[key] <= FITS

    def is_whole(self, mask: MaskEntry) -> bool:
        """Tell whether the lesion of a mask has no flaw."""
        return not self.flaws[mask.case, mask.component]

    def lies_at_edge(self, mask: MaskEntry) -> bool:
        """Tell whether the lesion of a mask has no flaw but that an edge cuts it, so that it suits another edge."""
        return self.flaws.at_edge[mask.case, mask.component]

    def unlike(self, mask: MaskEntry, place: Surroundings, diameter: float, flip: bool) -> float:
        """Return how badly the lesion of a mask suits a place; up to FAR it looks as if it lay there.

        What lies around it counts, its light and its size.

        Args:
            mask: Of the lesion.
            place: What lies around it there.
            diameter: Of the mask there, px.
            flip: Whether it is flipped.
        """
        around = self._surroundings[mask.case, mask.component]
        distance = float(np.linalg.norm((around.colour - place.colour) / DELTA_LAB))
        larger = math.log(diameter / equivalent_diameter(float(mask.area)))
        size = max(-larger, ENLARGED * larger)
        unseen = 0.0 if self.lies_at_edge(mask) else 1 - around.lit
        return distance + size + around.differ(place, flip) / DELTA_SIDE + CUT * unseen

    def unlike_frame(self, mask: MaskEntry, background: str) -> float:
        """Return how badly a lesion suits where the largest lesion of a background lies; 0 if that is not annotated."""
        if background not in self._cases or not self._bank.components(background):
            return 0.0
        diameter = equivalent_diameter(float(mask.area))
        return self.unlike(mask, self._surroundings[background, 0], diameter, False)

    def words_at(self, name: str, place: Surroundings) -> dict[str, str]:
        """Return the words of a case's lesion in another place: its surface is compared with the tissue there."""
        texture = texture_of(self._surroundings[name, 0].inside, place.around)
        there = words_of(replace(self.attributes[name], texture=texture), self._rules.grey)
        return {**self.words[name], "surface": there["surface"]}

    def _difference(self, name: str, wanted: Mapping[str, str], place: Surroundings) -> float:
        """Return how many aspects of a lesion differ in a place; for a surface, also how far off it is."""
        words = self.words_at(name, place)
        wrong = [aspect for aspect, word in wanted.items() if words[aspect] != word]
        if "surface" not in wrong:
            return len(wrong)
        limit = SMOOTH if wanted["surface"] == "smooth" else TEXTURED
        texture = texture_of(self._surroundings[name, 0].inside, place.around)
        return len(wrong) + min(0.9, abs(math.log(max(texture, 1e-3) / limit)))

    def _mismatch(self, name: str, place: Surroundings, rays: Values, diameter: float) -> float:
        """Return how badly a lesion suits a mask: by the tissue around it, its light, its size and its outline.

        It is infinite where the lesion would be stretched so much that it no longer looked like itself.
        """
        way = aligned(self._rays[name], rays, self.turns)
        if way.stretch > FITS:
            return math.inf
        unlike = self.unlike(self._bank.components(name)[0], place, diameter, way.flip)
        return unlike + 0.1 * way.stretch / STRETCH

    def _least_stretch(self, key: tuple[str, int]) -> float:
        lesion = self._bank.entry(*key).draft.shape
        rays = ray_lengths(lesion, centre_of(lesion))
        names = (name for name in self._of_fold(key[0], "") if self._moves_well(name))
        return min((aligned(self._rays[name], rays, self.turns).stretch for name in names), default=math.inf)

    def _of_fold(self, case: str, besides: str) -> list[str]:
        """Return the cases of the validators' fold of a case, or all where it has none; apart from one if it can."""
        fold = self._folds.get(case)
        names = [name for name in self.names if self._folds.get(name) == fold] or list(self.names)
        return [name for name in names if self._are_apart(besides, name)] or names

    def _moves_well(self, name: str) -> bool:
        """Tell whether the largest lesion of a case can be moved onto another mask."""
        return not self.flaws[name, 0] and not self.flaws.bent[name]

    def _measured_rays(self, name: str) -> Values:
        lesion = self._bank.components(name)[0].draft.shape
        return ray_lengths(lesion, centre_of(lesion))

    def _measured_surroundings(self, key: tuple[str, int]) -> Surroundings:
        return surroundings_of(self._images[key[0]], self._bank.entry(*key).in_frame(), self._rules)
