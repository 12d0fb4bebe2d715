"""Flaws of training lesions as examples: cut off, written on, overexposed, measured, bent, or of little conviction."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from diffaug.compute.progress import tracked
from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.placement import PlacementMap, highlights
from diffaug.conditioning.rays import star_share
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.rules import FrameRules
from diffaug.conditioning.writing import longest_line, marks_on
from diffaug.data.case import Case
from diffaug.data.images import Pixels, is_grey

MOST_CUT = 0.6  # share of the outline of a lesion that an edge cuts; with more, little of it is left to place it by
STARLIKE = 0.94  # area of a lesion over that of the shape that its rays span; with less it is bent, and moves badly
CUT_SHORT = 0.1  # share of a lesion's outline that may lie near the frame's edge, its border or an overlay
OVEREXPOSED = 0.08  # share of a lesion on highlights; with more, little of it is seen
CLIPPED, WHITE = 245, 0.2  # of 255, and share of a lesion two of whose channels are no darker: its colour is lost
MARKED = 0.18  # marks on a grey lesion, px over its diameter; calipers that are no long line leave more
MEASURED = 0.53  # of a grey lesion's diameter; a longer line across it was drawn by who measured it


LOOKED_AT = 200  # cases whose lesions are counted, at most
Flaw = Literal["", "cut", "written on", "measured", "overexposed", "unconvincing"]
TOLD: dict[Flaw, str] = {
    "cut": "cut off by the edge of the image, a border or an overlay",
    "written on": "written on",
    "measured": "marked by calipers or other measurements",
    "overexposed": "overexposed",
    "unconvincing": "unconvincing at other places, as the critic of realism found",
}


class Flaws(Remembered[tuple[str, int], Flaw]):
    """Why a lesion, by its case and number, is no good example; empty where it is one.

    Attributes:
        bent: Whether the largest lesion of a case is bent or branched, so that it cannot be moved onto another mask.
        at_edge: Whether a lesion has no flaw but that an edge cuts it.
    """

    def __init__(
        self,
        bank: MaskBank,
        images: Mapping[str, Pixels],
        maps: Callable[[str], PlacementMap] | None,
        rules: FrameRules,
        unconvincing: frozenset[str] = frozenset(),
    ) -> None:
        """Take what is known of the cases.

        Args:
            bank: Their lesions.
            images: Their images by id.
            maps: The placement map of a case, which tells of text and of the border; None where that is not known.
            rules: What in their frames is no tissue.
            unconvincing: Cases whose lesions convince least at other places.
        """
        super().__init__(self._flaw_of)
        self.bent: Remembered[str, bool] = Remembered(
            lambda name: star_share(bank.entry(name, 0).draft.shape) < STARLIKE
        )
        self.at_edge: Remembered[tuple[str, int], bool] = Remembered(self._lies_at_edge)
        self._shares_cut: Remembered[tuple[str, int], float] = Remembered(self._share_cut)
        self._bank, self._images, self._maps, self._rules = bank, images, maps, rules
        self._unconvincing = unconvincing

    def line(self, names: Sequence[str]) -> str:
        """Return one line for people: how many lesions of some cases are examples, and why the others are not.

        Args:
            names: Ids of cases with a lesion.
        """
        counts = Counter(self[name, number] for name in names for number in range(len(self._bank.components(name))))
        edge = sum(self.at_edge[name, number] for name in names for number in range(len(self._bank.components(name))))
        counts["cut"] -= edge
        lost = [f"{counts[flaw]} {told}" for flaw, told in TOLD.items() if counts[flaw]]
        without = f"; not the others: {', '.join(lost)}" if lost else ""
        like_own = f", {edge} of them at an edge that cuts them as their own does" if edge else ""
        whole = counts[""] + edge
        return f"lesions that may be shown at other places: {whole} of {counts.total() + edge}{like_own}{without}"

    def _flaw_of(self, key: tuple[str, int]) -> Flaw:
        return "cut" if self._shares_cut[key] > CUT_SHORT else self._other_flaw(key)

    def _lies_at_edge(self, key: tuple[str, int]) -> bool:
        return CUT_SHORT < self._shares_cut[key] <= MOST_CUT and not self._other_flaw(key)

    def _share_cut(self, key: tuple[str, int]) -> float:
        return self._maps(key[0]).share_cut(self._bank.entry(*key).draft.in_frame()) if self._maps else 0.0

    def _other_flaw(self, key: tuple[str, int]) -> Flaw:
        name, lesion = key[0], self._bank.entry(*key)
        if name in self._unconvincing:
            return "unconvincing"
        if self._maps is not None and self._maps(name).is_written_on(lesion.draft.in_frame()):
            return "written on"
        shown = self._images[name][lesion.slices]
        if is_grey(shown):
            marked = marks_on(shown, lesion.crop) > MARKED or longest_line(shown, lesion.crop) > MEASURED
            return "measured" if marked else ""
        if self._rules.glare is None:
            return ""
        clipped = float((np.median(shown, axis=2) >= CLIPPED)[lesion.crop].mean())
        bright = clipped > WHITE or float(highlights(lab_from_rgb(shown))[lesion.crop].mean()) > OVEREXPOSED
        return "overexposed" if bright else ""


def line_of_examples(cases: Sequence[Case], rules: FrameRules, progress: str = "") -> str:
    """Return one line for people: how many annotated lesions may be shown at other places, and why others may not.

    Args:
        cases: Annotated training cases, of which at least one has a lesion.
        rules: What in their frames is no tissue.
        progress: What to call the work in a progress bar on stderr; empty for none.
    """
    by_id, bank = {case.id: case for case in sorted(cases, key=lambda case: case.id)}, MaskBank.from_cases(cases)
    looked = list(by_id)[:: -(-len(by_id) // LOOKED_AT)]
    backgrounds = Backgrounds(by_id, (), bank, rules)
    images: Remembered[str, Pixels] = Remembered(lambda name: by_id[name].read_image(), limit=1)
    flaws = Flaws(bank, images, backgrounds.placement_map, rules)
    for name in tracked(looked, len(looked), progress):
        for number in range(len(bank.components(name))):
            flaws[name, number]
    return flaws.line(looked)
