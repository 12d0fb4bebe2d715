"""The training lesions that sampling may start from: what each looks like, and which suits a place and a prompt.

Each case is measured when it is first asked for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from diffaug.conditioning.attributes import (
    Attributes,
    Surroundings,
    equivalent_diameter,
    lab_from_rgb,
    measure_attributes,
    surroundings_of,
    texture_of,
)
from diffaug.conditioning.budget import Budget, stratum
from diffaug.conditioning.masks import MaskBank, MaskEntry
from diffaug.conditioning.placement import PlacementMap, highlights
from diffaug.conditioning.prompts import SMOOTH, TEXTURED, words_of
from diffaug.conditioning.rays import Values, aligned, centre_of, ray_lengths, star_share
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.case import Case
from diffaug.data.images import Mask, is_grey

OF_LOOK = ("contrast", "colour", "border", "surface")  # aspects that an example keeps on any mask that it is moved onto
NEARLY = 0.05  # examples whose differences are this close count as equal; in the logarithm of a texture
ALIKE = 0.5  # the example is one of those whose mismatch is this close to the least
FAR = 0.9  # mismatch from which on an example whose turn it is makes way for the one that suits best
IN_TURN, LEAST_IN_TURN = 0.2, 4  # share and least number of the training lesions whose turn it is
DELTA_E = 10.0  # a CIELAB distance of the tissue that counts as much as a diameter that differs by the factor e
CUT = 2.0  # mismatch of an example none of whose surroundings are lit tissue
STRETCH = 0.02  # a stretch of an outline (`rays.Alignment`) that counts as much as a size that differs by a tenth
FITS = 0.09  # largest stretch at which an example still looks like itself
STARLIKE = 0.94  # area of a lesion over that of the shape that its rays span; with less it is bent, and moves badly
CUT_SHORT = 0.06  # share of a lesion's outline that may lie at the frame's edge, its border or an overlay
OVEREXPOSED = 0.05  # share of a lesion on highlights; with more, little of it is seen


class Examples:
    """The annotated cases with a lesion, and their measurements.

    Attributes:
        names: Their ids.
        attributes: What is measured of a case, by id.
        words: The word of each aspect of a case, by id.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        bank: MaskBank,
        folds: Mapping[str, int] | None = None,
        budget: Budget | None = None,
        maps: Callable[[str], PlacementMap] | None = None,
        rules: FrameRules = ENDOSCOPIC,
    ) -> None:
        """Take the annotated cases by id.

        Args:
            cases: The cases.
            bank: Their masks.
            folds: The validators' fold of each case. An example is of the fold of its request's mask, so that one
                validator has seen neither.
            budget: Weights of the cases that lead towards an aim.
            maps: The placement map of a case, which tells of text and of the border; None where that is not known.
            rules: What in their frames is no tissue.
        """
        self._cases, self._bank, self._folds = cases, bank, folds or {}
        self._rules = rules
        self._weights = dict(budget.weights) if budget else {}
        self.names = tuple(name for name in cases if bank.components(name))
        self.attributes: Remembered[str, Attributes] = Remembered(lambda name: self._measures[name][0])
        self.words: Remembered[str, dict[str, str]] = Remembered(
            lambda name: words_of(self.attributes[name], rules.grey)
        )
        self._surroundings: Remembered[str, tuple[Surroundings, float]] = Remembered(
            lambda name: self._measures[name][1:3]
        )
        self._measures = Remembered(self._measured)
        self._maps = maps
        self._rays = Remembered(self._measured_rays)
        self._nearest = Remembered(self._least_stretch)
        self._flawed = Remembered(self._is_flawed)

    def leading(self, aim: str) -> list[str]:
        """Return the training cases of a stratum that the budget gives weight to."""
        return [name for name in self._weights if stratum(self.words[name]) == aim]

    def draw_leading(self, aim: str, rng: np.random.Generator) -> str:
        """Draw a training case of a stratum, by its weight in the budget."""
        names = self.leading(aim)
        sums = np.cumsum([self._weights[name] for name in names])
        return names[int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))]

    def draw(
        self,
        mask_case: str,
        aim: str,
        place: Surroundings,
        new: Mask,
        area: int,
        rng: np.random.Generator,
        asked: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> str:
        """Draw a case that looks most as asked; of these, one of those that suit the place best.

        Args:
            mask_case: The request's; the example is of the same fold.
            aim: The stratum that the example must be of; empty for any.
            place: What lies around the new lesion.
            new: Its mask, in a frame of any size.
            area: The number of its pixels in its own frame.
            rng: Decides among those that suit the place and the mask.
            asked: The word of each aspect; a missing aspect asks for nothing.
            options: The cases to choose among, in the order of their turns; empty for all. Only the first of them that
                look as asked, and the mask's own, are compared, so that none is used much more often than others.
        """
        names = self._of_fold(mask_case)
        if aim:
            leading = self.leading(aim)
            names = [name for name in names if name in leading] or [self.draw_leading(aim, rng)]
        names = [name for name in names if not self._flawed[name]] or names
        wanted = {aspect: word for aspect, word in (asked or {}).items() if word and aspect in OF_LOOK}
        if wanted:
            differences = [self._difference(name, wanted, place) for name in names]
            least = min(differences) + NEARLY
            names = [name for name, difference in zip(names, differences, strict=True) if difference <= least]
        left = set(names)
        turns = [name for name in options if name in left]
        turns = turns[: max(LEAST_IN_TURN, math.ceil(IN_TURN * len(turns)))]
        chosen = [name for name in names if name in turns or name == mask_case] if turns else names
        rays, diameter = ray_lengths(new, centre_of(new)), equivalent_diameter(float(area))
        mismatch: Remembered[str, float] = Remembered(lambda name: self._mismatch(name, place, rays, diameter))
        least = min(mismatch[name] for name in chosen)
        if least > FAR:  # whose turn it is counts less than that the lesion looks as if it lay there
            chosen, least = names, min(mismatch[name] for name in names)
        suited = sorted((name for name in chosen if mismatch[name] <= least + ALIKE), key=lambda name: mismatch[name])
        return suited[int(rng.integers(len(suited)))]

    def fit(self, entry: MaskEntry) -> bool:
        """Tell whether some example that is without a flaw fits a mask without being stretched much."""
        return self._nearest[entry.case, entry.component] <= FITS

    def words_at(self, name: str, place: Surroundings) -> dict[str, str]:
        """Return the words of a case's lesion in another place: its surface is compared with the tissue there."""
        texture = texture_of(self._surroundings[name][0].inside, place.around)
        there = words_of(replace(self.attributes[name], texture=texture), self._rules.grey)
        return {**self.words[name], "surface": there["surface"]}

    def _difference(self, name: str, wanted: Mapping[str, str], place: Surroundings) -> float:
        """Return how many aspects of a lesion differ in a place; for a surface, also how far off it is."""
        words = self.words_at(name, place)
        wrong = [aspect for aspect, word in wanted.items() if words[aspect] != word]
        if "surface" not in wrong:
            return len(wrong)
        limit = SMOOTH if wanted["surface"] == "smooth" else TEXTURED
        texture = texture_of(self._surroundings[name][0].inside, place.around)
        return len(wrong) + min(0.9, abs(math.log(max(texture, 1e-3) / limit)))

    def _mismatch(self, name: str, place: Surroundings, rays: Values, diameter: float) -> float:
        """Return how badly a lesion suits a mask: by the tissue around it, its light, its size and its outline."""
        around, size = self._surroundings[name]
        distance = float(np.linalg.norm(around.colour - place.colour)) / DELTA_E
        stretch = aligned(self._rays[name], rays).stretch
        return distance + abs(math.log(size / diameter)) + CUT * (1 - around.lit) + 0.1 * stretch / STRETCH

    def _least_stretch(self, key: tuple[str, int]) -> float:
        lesion = self._bank.entry(*key).draft.shape
        rays = ray_lengths(lesion, centre_of(lesion))
        names = (name for name in self._of_fold(key[0]) if not self._flawed[name])
        return min((aligned(self._rays[name], rays).stretch for name in names), default=math.inf)

    def _of_fold(self, case: str) -> list[str]:
        """Return the cases of the validators' fold of a case, or all where it has none."""
        fold = self._folds.get(case)
        return [name for name in self.names if self._folds.get(name) == fold] or list(self.names)

    def _measured_rays(self, name: str) -> Values:
        lesion = self._bank.components(name)[0].draft.shape
        return ray_lengths(lesion, centre_of(lesion))

    def _is_flawed(self, name: str) -> bool:
        """Tell whether a lesion is no good example: bent, cut by the frame, written on, or overexposed."""
        if star_share(self._bank.components(name)[0].draft.shape) < STARLIKE:
            return True
        if self._maps is not None:
            places, mask = self._maps(name), self._bank.components(name)[0].draft.in_frame()
            if places.share_cut(mask) > CUT_SHORT or places.is_written_on(mask):
                return True
        return self._measures[name][3] > OVEREXPOSED

    def _measured(self, name: str) -> tuple[Attributes, Surroundings, float, float]:
        """Return what one look at a case shows.

        These are its attributes, and of its largest lesion what is around it, its diameter in px, and the share of it
        that lies on highlights.
        """
        image, lesion = self._cases[name].read_image(), self._bank.components(name)[0]
        attributes = measure_attributes(image, self._cases[name].read_mask(), self._rules)
        around = surroundings_of(image, lesion.in_frame(), self._rules)
        shown, shiny = image[lesion.slices], 0.0
        if self._rules.glare is not None and not is_grey(shown):  # grey does not tell highlights from bright tissue
            shiny = float(highlights(lab_from_rgb(shown))[lesion.crop].mean())
        return attributes, around, equivalent_diameter(float(lesion.area)), shiny
