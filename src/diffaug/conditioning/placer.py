"""Seeks a place for a mask on one background, by the rules of placement.py and where real lesions lie, see sites.py.

Works on drafts of frames, see backgrounds.py; what it finds is in pixels of the background itself.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from diffaug.conditioning.attributes import bounding_box, near
from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.edges import cut_lesion, place_at_edge, to_border
from diffaug.conditioning.masks import SCALES, MaskBank, MaskEntry, draw_transform, paste, render
from diffaug.conditioning.placement import BAND, Covering, PlacementMap, covers, place_free
from diffaug.conditioning.request import Placed
from diffaug.conditioning.sites import Sites
from diffaug.data.images import Mask
from diffaug.data.lesions import size_class
from diffaug.data.request import MaskTransform, Placement

TRIES = 4  # masks for each background and placement
DRAWS = 40  # masks that are drawn to find those of the wanted size
SHRINK = 0.85  # a mask that is too large for `free` is tried once more at this scale
SIMILAR = (0.95, 1.5)  # area of a replacing mask over that of the old lesion, so that most of what is painted is lesion
OWN, OWN_TURN = 3, 0.3  # tries with the outline of the old lesion itself, and how much less it is turned than others
REST = 0.1  # of the area of a new lesion; so much of an old one is hidden well enough by mirrored tissue
REPLACE_MARGIN = 0.3  # share of the band; a replacing mask may be nearer to the border, as real lesions are

Drawn = Callable[[], tuple[MaskEntry, MaskTransform]]  # draws a mask


class Placer:
    """Seeks a place for a mask on a background."""

    def __init__(self, backgrounds: Backgrounds, bank: MaskBank, mixed: bool, several: bool = False) -> None:
        """Take what is known of the backgrounds.

        Args:
            backgrounds: Where masks may lie.
            bank: The annotated lesions; masks lie where these do.
            mixed: Whether another placement is sought where the drawn one is impossible.
            several: Whether a frame gets several new lesions: a mix then paints none of its old ones away.
        """
        self._backgrounds, self._mixed, self._several = backgrounds, mixed, several
        self._sites, self._bank = Sites(backgrounds, bank.entries), bank

    def place(
        self,
        name: str,
        placement: Placement,
        draw: Drawn,
        size: str,
        rng: np.random.Generator,
        taken: Mask | None = None,
        own: bool = True,
    ) -> Placed | None:
        """Seek a place on a background for the drawn placement; in a mix also for those that keep the lesions' number.

        Args:
            name: The background.
            placement: As drawn. On a frame without lesions a mix places freely.
            draw: Draws a mask that suits the background.
            size: The size class of masks; empty for any. One that replaces a lesion has about the size of that.
            rng: Decides where.
            taken: Where other new lesions lie in the draft of the background; None for nowhere.
            own: Whether a lesion may be replaced by one of its own outline, where no drawn mask covers it.
        """
        for kind in self._kinds(name, placement):
            placed = None
            if kind == "replace":
                placed = self._replace(name, draw, rng, taken, OWN if own else 0)
            elif kind == "free" or self._backgrounds.can_be_cleared(name):
                placed = self.on_tissue(name, kind, draw, size, rng, taken)
            if placed is not None:
                return placed
        return None

    def at_edge(
        self,
        name: str,
        placement: Placement,
        lesion: MaskEntry,
        transform: MaskTransform,
        rng: np.random.Generator,
        taken: Mask | None = None,
    ) -> Placed | None:
        """Seek a place for a lesion that an edge cuts, for the placements that `place` tries.

        Args:
            name: The background.
            placement: As drawn.
            lesion: Of the bank.
            transform: Its scale, as far as it need not suit an old lesion; it is neither turned nor bent.
            rng: Decides where.
            taken: Where other new lesions lie in the draft of the background; None for nowhere.
        """
        for kind in self._kinds(name, placement):
            if kind == "removed" and not self._backgrounds.can_be_cleared(name):
                continue
            old = self._old(name, rng, taken) if kind == "replace" else None
            scale = transform.scale if old is None else _scale_on(old, lesion, transform)
            if (kind == "replace" and old is None) or not SCALES[0] <= scale <= SCALES[1]:
                continue
            for flip in (transform.flip, not transform.flip):
                form = MaskTransform(scale, flip=flip, at_edge=True)
                placed = self._cut(name, kind, lesion, form, rng, taken, old)
                if placed is not None:
                    return placed
        return None

    def _cut(
        self,
        name: str,
        kind: Placement,
        entry: MaskEntry,
        form: MaskTransform,
        rng: np.random.Generator,
        taken: Mask | None,
        old: MaskEntry | None,
    ) -> Placed | None:
        """Seek a place at an edge for a lesion as it is transformed, where it covers an old one if there is one."""
        places = self._backgrounds.placement_map(name, kind == "removed").without(taken)
        moved = cut_lesion(entry.cut.draft, self._backgrounds.placement_map(entry.case), form, places)
        gone = None if old is None else old.draft.in_frame()
        corner = place_at_edge(places, moved, rng, gone)
        if corner is None:
            return None
        mask = to_border(paste(moved.shape, *corner, places.frame), places.bare)
        if old is not None and (not covers(old.draft.in_frame(), mask) or self._leaves_much(old, mask, (0, 0))):
            return None
        top, left, bottom, right = bounding_box(mask)
        placed = self._placed(name, kind, entry, form, mask[top:bottom, left:right], corner)
        return placed and replace(placed, in_draft=(top, left))  # what an edge cuts off counts for its corner alone

    def on_tissue(
        self,
        name: str,
        kind: Placement,
        draw: Drawn,
        size: str,
        rng: np.random.Generator,
        taken: Mask | None = None,
    ) -> Placed | None:
        """Seek tissue without a lesion, or, for `removed`, tissue of a frame whose lesions are painted away first."""
        places, tries = self._backgrounds.placement_map(name, kind == "removed").without(taken), 0
        for _ in range(DRAWS):
            entry, transform = draw()
            if not _is_of(size, entry, transform):
                continue
            smaller = replace(transform, scale=round(transform.scale * SHRINK, 4))
            for form in (transform, smaller) if kind == "free" else (transform,):
                if _is_of(size, entry, form):
                    placed = self._at(name, kind, entry, form, rng, places)
                    if placed is not None:
                        return placed
            tries += 1
            if tries == TRIES:
                break
        return None

    def _kinds(self, name: str, placement: Placement) -> tuple[Placement, ...]:
        """Return the placements that are tried on a background, in this order."""
        if not self._mixed:
            return (placement,)
        if not self._backgrounds.lesions_of(name):
            return ("free",)
        others: tuple[Placement, ...] = ("replace", "free") if self._several else ("replace", "removed")
        return tuple(dict.fromkeys((placement, *others)))

    def _at(
        self,
        name: str,
        kind: Placement,
        entry: MaskEntry,
        transform: MaskTransform,
        rng: np.random.Generator,
        places: PlacementMap,
    ) -> Placed | None:
        share = entry.relative_area * transform.scale**2
        if share > places.room:
            return None
        shape = render(entry.draft, transform, places.frame)
        density = partial(self._sites.density, name, kind == "removed", share, entry)
        place = place_free(places, shape, rng, self._margin(shape), density)
        return self._placed(name, kind, entry, transform, shape, place)

    def _replace(
        self, name: str, draw: Drawn, rng: np.random.Generator, taken: Mask | None, own: int = OWN
    ) -> Placed | None:
        """Cover one of the lesions of a background with a mask of about its size, which it is scaled to if need be."""
        places, tries = self._backgrounds.placement_map(name).without(taken), 0
        old = self._old(name, rng, taken)
        if old is None:
            return None
        covering = Covering(places, old.draft.in_frame())
        own = own if self._bank.components(name) else 0  # a lesion that a network found gives no mask
        for number in range(DRAWS + own):
            entry, transform = draw() if number < DRAWS and tries < 2 * TRIES else self._own(old, rng)
            scale = _scale_on(old, entry, transform)
            if not SCALES[0] <= scale <= SCALES[1]:
                continue
            form = replace(transform, scale=scale)
            shape = render(entry.draft, form, old.draft.frame)
            margin = REPLACE_MARGIN * self._margin(shape)
            place = covering.place(shape, margin)
            if place is not None and not self._leaves_much(old, shape, place):
                return self._placed(name, "replace", entry, form, shape, place)
            tries += 1
            if tries == 2 * TRIES + own:
                break
        return None

    def _old(self, name: str, rng: np.random.Generator, taken: Mask | None) -> MaskEntry | None:
        """Draw a lesion of a background that may be replaced: no text lies on it, and no new lesion."""
        lesions = [old for old in self._backgrounds.lesions_of(name) if not self._backgrounds.is_written_on(old)]
        if taken is not None:
            lesions = [lesion for lesion in lesions if not taken[lesion.draft.slices][lesion.draft.crop].any()]
        return lesions[int(rng.integers(len(lesions)))] if lesions else None

    def _leaves_much(self, old: MaskEntry, shape: Mask, place: tuple[int, int]) -> bool:
        """Tell whether a new lesion leaves much of an old one that tissue of its frame does not cover."""
        if self._backgrounds.can_be_covered(old):
            return False
        new = paste(shape, *place, old.draft.frame)
        gone = near(old.draft.in_frame(), self._margin(shape))
        return bool(np.count_nonzero(gone & ~new) > REST * np.count_nonzero(new))

    def _own(self, old: MaskEntry, rng: np.random.Generator) -> tuple[MaskEntry, MaskTransform]:
        """Return the outline of the lesion that is replaced, changed a little: it covers what few others cover."""
        transform = draw_transform(rng, self._bank.turn)
        return old, replace(transform, angle=round(OWN_TURN * transform.angle, 2), flip=False)

    def _placed(
        self,
        name: str,
        kind: Placement,
        entry: MaskEntry,
        transform: MaskTransform,
        shape: Mask,
        place: tuple[int, int] | None,
    ) -> Placed | None:
        """Return a mask at its place in a background, from its place in the draft."""
        if place is None:
            return None
        draft = self._backgrounds.draft(name)
        top, left = (round(at * side / small) for at, side, small in zip(place, draft.frame, draft.size, strict=True))
        return Placed(entry, transform, name, kind, top, left, shape, place)

    def band_of(self, placed: Placed) -> Mask:
        """Return a placed mask and the tissue that its band takes, twice, in the draft of its background."""
        mask = placed.draft_mask(self._backgrounds.draft(placed.background).size)
        return near(mask, 2 * self._margin(placed.shape))

    def _margin(self, shape: Mask) -> float:
        """Return the px of tissue that the blending band takes."""
        return max(2.0, BAND * float(max(shape.shape)))


def _scale_on(old: MaskEntry, entry: MaskEntry, transform: MaskTransform) -> float:
    """Return the scale at which a mask is about as large as an old lesion."""
    share = float(entry.relative_area / old.relative_area)
    ratio = float(np.clip(share * transform.scale**2, *SIMILAR))
    return round(float(np.sqrt(ratio / share)), 4)


def _is_of(size: str, entry: MaskEntry, transform: MaskTransform) -> bool:
    """Tell whether a mask is of a size class; every mask is of the empty one."""
    return size in (size_class(entry.relative_area * transform.scale**2), "")
