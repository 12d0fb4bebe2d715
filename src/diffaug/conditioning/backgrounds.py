"""The images that can be painted on, and what is known of each.

Annotated training cases are backgrounds, and other images beside them: lesion-free ones, ones with lesions that a
baseline found, and ones of which nothing is known. Each image is read and analysed when it is first asked for, and only
once: places are sought on a draft, the image scaled down to at most DRAFT px, which costs the same for frames of every
size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffaug.conditioning.attributes import Surroundings, band_width, near, surroundings_of
from diffaug.conditioning.masks import MaskBank, MaskEntry, check_train, draft_size, drafted, entries_of
from diffaug.conditioning.patches import best_patch, is_covered
from diffaug.conditioning.placement import BAND, PlacementMap, lost_from_view, placement_map_of
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.conditioning.writing import SAMPLE, printed_on, unwritten
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels
from diffaug.errors import PlacementError

REMOVABLE = 0.12  # share of the frame; larger lesions are seldom covered by tissue of their frame


DRAFTS = 256  # kept in memory


@dataclass(frozen=True)
class Draft:
    """A background scaled down to at most DRAFT px.

    Attributes:
        frame: Height and width of the background itself, px.
        image: Pixels, (h, w, 3).
        lesion: Every pixel that a lesion of the background touches, (h, w).
    """

    frame: tuple[int, int]
    image: Pixels
    lesion: Mask

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the draft, px."""
        return int(self.lesion.shape[0]), int(self.lesion.shape[1])


class Backgrounds:
    """What is known of each background.

    Attributes:
        names: The ids of all backgrounds, annotated ones first.
        lesions: Every lesion that can be replaced.
        removable: The ids of those whose lesions are small enough to be painted away, see `can_be_cleared`.
        rules: What in these frames is no tissue.
    """

    def __init__(
        self, cases: Mapping[str, Case], others: Sequence[Case], bank: MaskBank, rules: FrameRules = ENDOSCOPIC
    ) -> None:
        """Take annotated cases by id, their masks, and other images; those with a mask have lesions that were found.

        The rules say what in these frames is no tissue.
        """
        self.rules = rules
        self._cases = {**{check_train(case).id: case for case in sorted(others, key=lambda case: case.id)}, **cases}
        self._bank = bank
        self._many_groups = len({case.group for case in self._cases.values()}) > 1
        labelled = [case for case in self._cases.values() if case.id not in cases and case.mask]
        self._found = MaskBank(tuple(entry for case in labelled for entry in entries_of(case, case.read_mask())))
        self.names = (*cases, *(name for name in self._cases if name not in cases))
        self.lesions = (*bank.entries, *self._found.entries)
        self.removable = tuple(
            name
            for name in (*(name for name in cases if bank.components(name)), *(case.id for case in labelled))
            if sum(entry.relative_area for entry in self.lesions_of(name)) <= REMOVABLE
        )
        self._drafts = Remembered(self._drafted, limit=DRAFTS)
        self._maps = Remembered(self._placement_map)
        self._clearable = Remembered(self._can_be_cleared)
        self._coverable = Remembered(self._can_be_covered)
        self._written_on = Remembered(self._is_written_on)
        self._unwritten = Remembered(self._unwritten_of, limit=DRAFTS)
        self._printed = Remembered(self._printed_on)

    def case(self, name: str) -> Case:
        """Return a background by its id."""
        return self._cases[name]

    def are_apart(self, name: str, case: str) -> bool:
        """Tell whether a lesion is new to a background: its case is of another group or, if all are one, another image.

        A group, such as a patient or a sequence of frames, shows its own lesion already.
        """
        if not name or not self._many_groups:
            return name != case
        return self.case(name).group != self.case(case).group

    def is_known(self, name: str) -> bool:
        """Tell whether it is known where an image shows lesions: it has a mask, or is declared to be lesion-free."""
        case = self.case(name)
        return case.mask is not None or case.negative

    def image(self, name: str) -> Pixels:
        """Return the pixels of a background, (H, W, 3)."""
        return self.case(name).read_image()

    def lesion(self, name: str) -> Mask:
        """Return the mask of a background, (H, W); it is empty for a lesion-free image."""
        case = self.case(name)
        return case.read_mask() if case.mask else np.zeros(case.read_image().shape[:2], dtype=bool)

    def lesions_of(self, name: str) -> Sequence[MaskEntry]:
        """Return the lesions of a background, annotated or found, the largest first."""
        return self._bank.components(name) or self._found.components(name)

    def draft(self, name: str) -> Draft:
        """Return a background scaled down, with its lesions."""
        return self._drafts[name]

    def field(self, name: str, with_text: bool = True) -> Mask:
        """Return where a background shows tissue, (H, W), with or without the tissue that is written on."""
        frame, places = self.draft(name).frame, self.placement_map(name)
        field = places.field if with_text else places.bare
        if field.shape == frame:
            return field
        return np.asarray(Image.fromarray(field).resize(frame[::-1], Image.Resampling.NEAREST))

    def placement_map(self, name: str, removed: bool = False) -> PlacementMap:
        """Return where a mask may lie in a background's draft, with its lesions or as if they were removed."""
        return self._maps[name].without_lesion if removed else self._maps[name]

    def paintable(self) -> list[str]:
        """Return the backgrounds that show enough tissue to be painted on."""
        return [name for name in self.names if self.placement_map(name).is_paintable]

    def check_paintable(self) -> None:
        """Refuse frames none of which shows tissue.

        Raises:
            PlacementError: By the rules in force no frame can be painted on.
        """
        if not self.paintable():
            raise PlacementError(
                f"a frame is painted on where it shows tissue: by the rules in force ({self.rules.described()}) none "
                f"of {len(self.names)} does, such as {self.names[0]}; fit a model on these cases, which learns their "
                "rules"
            )

    def can_be_cleared(self, name: str) -> bool:
        """Tell whether the lesions of a background can be painted away.

        They are small, none is hidden by a border or by text, and tissue of the frame covers them.
        """
        return name in self.removable and self._clearable[name]

    def can_be_covered(self, lesion: MaskEntry) -> bool:
        """Tell whether tissue of its frame covers a lesion of a background and a band around it."""
        return lesion.case in self.removable and self._coverable[lesion.case, lesion.component]

    def is_written_on(self, lesion: MaskEntry) -> bool:
        """Tell whether text lies on a lesion of a background."""
        return self._written_on[lesion.case, lesion.component]

    def surroundings(self, name: str, new: Mask) -> Surroundings:
        """Measure the tissue around a new lesion, without the lesions that it replaces or that stay there.

        Args:
            name: The background.
            new: The lesion in the background's frame, or in its draft.
        """
        draft = self.draft(name)
        new = drafted(new, draft.size)
        lesion = draft.lesion & ~new
        gone = np.uint8(0)  # black is no tissue, where a border is one
        if self.rules.border is None and not lesion.all():
            gone = np.median(draft.image[~lesion], axis=0).astype(np.uint8)
        place = surroundings_of(np.where(lesion[..., None], gone, draft.image), new, self.rules)
        return place if place.lit else surroundings_of(draft.image, new, self.rules)

    def _drafted(self, name: str) -> Draft:
        image, lesion = self.image(name), self.lesion(name)
        frame = int(lesion.shape[0]), int(lesion.shape[1])
        size = draft_size(frame)
        if size == frame:
            return Draft(frame, image, lesion)
        small = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX))
        return Draft(frame, small, drafted(lesion, size, covered=0.0) if lesion.any() else np.zeros(size, dtype=bool))

    def _placement_map(self, name: str) -> PlacementMap:
        draft = self.draft(name)
        return placement_map_of(draft.image, draft.lesion, self._printed[draft.size], self.rules)

    def _can_be_cleared(self, name: str) -> bool:
        draft, places = self.draft(name), self.placement_map(name)
        hidden = lost_from_view(draft.lesion, places.field).any() or places.is_written_on(draft.lesion)
        return not hidden and is_covered(draft.image, draft.lesion, places.field, self.rules)

    def _is_written_on(self, key: tuple[str, int]) -> bool:
        name, number = key
        return self.placement_map(name).is_written_on(self.lesions_of(name)[number].draft.in_frame())

    def _can_be_covered(self, key: tuple[str, int]) -> bool:
        name, number = key
        draft, field = self.draft(name), self.placement_map(name).bare
        lesion = self.lesions_of(name)[number].draft.in_frame()
        gone = near(lesion, band_width(lesion, BAND)) & field
        known = self._unwritten[name] & ~gone & ~draft.lesion
        return best_patch(draft.image, gone, known) is not None

    def _unwritten_of(self, name: str) -> Mask:
        return unwritten(self.draft(name).image, self.placement_map(name).bare, self.rules)

    def _printed_on(self, size: tuple[int, int]) -> Mask | None:
        """Return where annotated frames of one size carry text, from every nth of them."""
        names = [each.case for each in self._bank.entries if each.component == 0 and draft_size(each.frame) == size]
        sample = names[:: -(-len(names) // SAMPLE)] if names else []
        return printed_on((self.draft(name).image for name in sample), self.rules)
