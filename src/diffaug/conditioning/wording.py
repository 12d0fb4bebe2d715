"""What is said of a lesion that has found its place: a prompt, and an example that looks as the prompt says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from diffaug.conditioning.attributes import Surroundings, shape_of
from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.budget import LOW
from diffaug.conditioning.examples import OF_LOOK, Examples
from diffaug.conditioning.findings import Library
from diffaug.conditioning.grammar import KnownWords, draw_prompt, with_known_words
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.prompts import describe_words, shape_word
from diffaug.conditioning.request import Placed
from diffaug.data.case import Case
from diffaug.data.images import Mask
from diffaug.data.lesions import size_class
from diffaug.data.request import Request


@dataclass(frozen=True, eq=False)
class Look:
    """A mask at its place.

    Attributes:
        backgrounds: What is known of each background.
        background: The one that it lies on.
        mask: In the background's draft, (h, w).
    """

    backgrounds: Backgrounds
    background: str
    mask: Mask

    @cached_property
    def share(self) -> float:
        """The share of the frame that it covers."""
        return float(self.mask.mean())

    @property
    def area(self) -> int:
        """Its area, px of the frame."""
        height, width = self.backgrounds.draft(self.background).frame
        return round(self.share * height * width)

    @cached_property
    def around(self) -> Surroundings:
        """The tissue around it."""
        return self.backgrounds.surroundings(self.background, self.mask)


@dataclass(frozen=True)
class Wording:
    """Makes requests of placed masks.

    Attributes:
        cases: The annotated cases by id.
        bank: Their masks.
        backgrounds: What is known of each background.
        examples: What is known of each training lesion.
        library: The findings that prompts are drawn from; None for measured words alone.
        known: Words of the model.
        grey: Whether no word of colour is said.
    """

    cases: Mapping[str, Case]
    bank: MaskBank
    backgrounds: Backgrounds
    examples: Examples
    library: Library | None
    known: KnownWords
    grey: bool

    def look(self, placed: Placed) -> Look:
        """Return a mask at its place; what lies around it is measured when it is first asked for."""
        size = self.backgrounds.draft(placed.background).size
        return Look(self.backgrounds, placed.background, placed.draft_mask(size))

    def request(
        self,
        placed: Placed,
        look: Look,
        index: int,
        seed: int,
        aim: str,
        rng: np.random.Generator,
        options: Sequence[str],
    ) -> Request:
        """Return the request: size and shape are those of the new mask itself, the other words a training case's.

        Args:
            placed: The mask at its place.
            look: What `look` returns of it.
            index: Of the request.
            seed: Of the request.
            aim: The stratum that it is drawn for; empty for none.
            rng: Draws the prompt and the example.
            options: The cases that its example is drawn from, in the order of their turns.
        """
        size = size_class(look.share)
        measured = {"size": size, "shape": shape_word(*shape_of(look.mask))}
        mask_case = placed.entry.case
        if prompt := self.cases[mask_case].prompt:
            return placed.request(index, seed, prompt, size, aim=aim, example=mask_case)
        around = look.around
        if self.library is None:
            example = self._example(placed, aim, look, rng, None, options)
            prompt = describe_words(self.examples.words_at(example, around) | measured)
            return placed.request(index, seed, prompt, size, aim=aim, example=example)
        given = measured | {"contrast": LOW if LOW in aim else ""}
        if placed.transform.at_edge:  # the example is decided
            words = self.examples.words_at(mask_case, around)
            given = {aspect: words[aspect] for aspect in OF_LOOK} | measured
        draft = draw_prompt(self.library, rng, given, settings=False, grey=self.grey, known=self.known)
        prompt, unknown = with_known_words(draft, self.known)
        example = self._example(placed, aim, look, rng, draft.words, options)
        more = {"findings": draft.findings, "unknown_words": unknown}
        return placed.request(index, seed, prompt, size, aim=aim, example=example, **more)

    def _example(
        self,
        placed: Placed,
        aim: str,
        look: Look,
        rng: np.random.Generator,
        asked: Mapping[str, str] | None,
        options: Sequence[str],
    ) -> str:
        """Draw an example; a lesion that an edge cuts is its own, since no other is cut like it."""
        entry, transform = placed.entry, placed.transform
        if transform.at_edge:
            return entry.case
        place = options, placed.background, transform.flip
        return self.examples.draw(entry, aim, look.around, look.mask, look.area, rng, asked, *place)

    def reworded(self, request: Request, new: Mask, words: Mapping[str, str], options: Sequence[str]) -> Request:
        """Return a request for the same mask and place with other words, and an example that looks like them.

        Args:
            request: What was asked for.
            new: Its mask, (H, W).
            words: The word of each aspect; a missing aspect says nothing.
            options: The cases that its example is drawn from, in the order of their turns.
        """
        around, area = self.backgrounds.surroundings(request.background, new), int(np.count_nonzero(new))
        mask, rng = self.bank.entry(request.mask_case, request.component), np.random.default_rng((request.seed, 3))
        if request.transform.at_edge:
            return replace(request, prompt=describe_words(words))  # no other lesion is cut like it
        place = options, request.background, request.transform.flip
        example = self.examples.draw(mask, request.aim, around, new, area, rng, words, *place)
        return replace(request, prompt=describe_words(words), example=example)
