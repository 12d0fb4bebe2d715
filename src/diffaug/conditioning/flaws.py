"""Flaws of training lesions as examples: cut by the frame, written on, overexposed, measured by calipers, or bent."""

from collections.abc import Callable, Mapping

import numpy as np

from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.placement import PlacementMap, highlights
from diffaug.conditioning.rays import star_share
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.rules import FrameRules
from diffaug.conditioning.writing import longest_line, marks_on
from diffaug.data.images import Pixels, is_grey

STARLIKE = 0.94  # area of a lesion over that of the shape that its rays span; with less it is bent, and moves badly
CUT_SHORT = 0.1  # share of a lesion's outline that may lie near the frame's edge, its border or an overlay
OVEREXPOSED = 0.08  # share of a lesion on highlights; with more, little of it is seen
CLIPPED, WHITE = 245, 0.2  # of 255, and share of a lesion two of whose channels are no darker: its colour is lost
MARKED = 0.18  # marks on a grey lesion, px over its diameter; calipers that are no long line leave more
MEASURED = 0.53  # of a grey lesion's diameter; a longer line across it was drawn by who measured it


class Flaws(Remembered[tuple[str, int], bool]):
    """Whether a lesion, by its case and number, is no good example: cut, written on, measured or overexposed.

    Attributes:
        bent: Whether the largest lesion of a case is bent or branched, so that it cannot be moved onto another mask.
    """

    def __init__(
        self,
        bank: MaskBank,
        images: Mapping[str, Pixels],
        maps: Callable[[str], PlacementMap] | None,
        rules: FrameRules,
    ) -> None:
        """Take what is known of the cases.

        Args:
            bank: Their lesions.
            images: Their images by id.
            maps: The placement map of a case, which tells of text and of the border; None where that is not known.
            rules: What in their frames is no tissue.
        """
        super().__init__(self._is_flawed)
        self.bent: Remembered[str, bool] = Remembered(
            lambda name: star_share(bank.entry(name, 0).draft.shape) < STARLIKE
        )
        self._bank, self._images, self._maps, self._rules = bank, images, maps, rules

    def _is_flawed(self, key: tuple[str, int]) -> bool:
        name, lesion = key[0], self._bank.entry(*key)
        if self._maps is not None:
            places, mask = self._maps(name), lesion.draft.in_frame()
            if places.share_cut(mask) > CUT_SHORT or places.is_written_on(mask):
                return True
        shown = self._images[name][lesion.slices]
        if is_grey(shown):
            return marks_on(shown, lesion.crop) > MARKED or longest_line(shown, lesion.crop) > MEASURED
        if self._rules.glare is None:
            return False
        clipped = float((np.median(shown, axis=2) >= CLIPPED)[lesion.crop].mean())
        return clipped > WHITE or float(highlights(lab_from_rgb(shown))[lesion.crop].mean()) > OVEREXPOSED
