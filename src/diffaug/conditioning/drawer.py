"""Draws requests: what to paint, on which background, where, and from which seed.

Request i is a pure function of the cases, the seed, the config and i: neither the number of requests nor the order in
which they are drawn matters. Masks come from annotated training cases.

Backgrounds take turns, and so do examples, so that all are used alike. Masks and examples are of frames of the
background's kind. The size of a lesion follows the data: a size class is drawn, and a background on which no mask of it
fits makes way for the next. So does the number of lesions: in a mix as many requests add a lesion to a frame as frames
hold more than one; the others replace a lesion by one of about its size, or lie anywhere in a frame whose lesions are
painted away first. Where frames hold many lesions, a case gets several new ones at once: each is a request of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.budget import Budget, check_aim
from diffaug.conditioning.chances import Masks, Placements, usual_number
from diffaug.conditioning.cups import ASPECTS_OF_DISC, DECIDED, cup_class, describe_disc, draw_ratio
from diffaug.conditioning.domain import Domain, domain_of
from diffaug.conditioning.examples import Examples
from diffaug.conditioning.findings import GENERIC, Library, library_of
from diffaug.conditioning.grammar import NOUN, KnownWords, draw_prompt, with_known_words
from diffaug.conditioning.kinds import Kinds
from diffaug.conditioning.masks import TURN, MaskBank
from diffaug.conditioning.placer import Placer
from diffaug.conditioning.prompts import ASPECTS
from diffaug.conditioning.remembered import Remembered
from diffaug.conditioning.request import Placed, RequestMasks, masks_of_request, seed_of_request
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.conditioning.seeking import ANY, Seeker, Sought
from diffaug.conditioning.turns import Turns, in_turn, in_turn_with_substitutes
from diffaug.conditioning.wording import Wording
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, masks_from_label
from diffaug.data.images import Mask
from diffaug.data.lesions import size_class
from diffaug.data.request import MaskTransform, Request
from diffaug.errors import PlacementError

APART = 7919  # between the seeds of the turns of lesions and of backgrounds, so that no lesion meets its own frame
NEAREST = 0.12  # a cup is painted in one of this share of the discs, those whose own ratio is nearest


def draw_requests(
    cases: Sequence[Case], count: int, seed: int, config: GenerateConfig, others: Sequence[Case] = ()
) -> Iterator[Request]:
    """Yield requests: which lesion to paint, where, on which background.

    Args:
        cases: Annotated training cases; their lesions are painted, on their images and on those of `others`.
        count: How many requests.
        seed: Chooses them; more requests of one seed begin with the same ones.
        config: How masks are placed, what lesions are aimed at, which findings the prompts are made of.
        others: Cases without lesions to paint on.

    Raises:
        DataError: A case is of val or test, or an annotated case has no mask.
        PlacementError: There is no usable mask, or no mask fits on any background.

    Example:
        >>> cases = diffaug.read_dataset("data/mine").split("train")
        >>> [request] = diffaug.draw_requests(cases, 1, 0, diffaug.GenerateConfig())
        >>> request.id, request.placement
        ('synth-00000', 'free')
    """
    yield from RequestDrawer(cases, seed, config, others).draw_some(count)


def is_generic(config: GenerateConfig) -> bool:
    """Tell whether prompts are made of measured words alone, without findings."""
    return config.domain == GENERIC and config.findings is None


def check_config(config: GenerateConfig) -> Library:
    """Refuse what cannot be asked for, before anything is read or made; return the findings.

    Raises:
        ConfigError: An unknown aim, or a baseline that does not belong to it.
        FindingsError: The domain is unknown, or its file breaks a rule.
    """
    check_aim(config.aim, config.baseline)
    return library_of(config.domain, config.findings)


class RequestDrawer:
    """Draws requests by index.

    Attributes:
        cases: The annotated cases by id.
        classes: Those of their labels.
        domain: What the classes mean.
        bank: Their masks.
        backgrounds: What is known of each background.
        examples: What is known of each training lesion.
        per_case: How many new lesions a case gets; each is a request of its own.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        seed: int,
        config: GenerateConfig,
        others: Sequence[Case] = (),
        known_words: KnownWords | None = None,
        budget: Budget | None = None,
        folds: Mapping[str, int] | None = None,
        rules: FrameRules = ENDOSCOPIC,
        unconvincing: frozenset[str] = frozenset(),
    ) -> None:
        """Take what requests are made of.

        Args:
            cases: Annotated training cases: masks, examples and backgrounds.
            seed: Base seed.
            config: The knobs. With findings, prompts are drawn from these.
            others: Backgrounds alone, lesion-free where they have no mask.
            known_words: Of the model; None for a model that knows every word.
            budget: Quotas of strata; each shard is drawn for one of them.
            folds: The validators' fold of each case. The example of a request is of the fold of its mask.
            rules: What in these frames is no tissue.
            unconvincing: Cases whose lesions convince least at other places; they are examples where no other is.
        """
        self.seed, self.config, self.budget = seed, config, budget
        self.known_words = known_words or KnownWords()
        self.library = None if is_generic(config) else library_of(config.domain, config.findings)
        self.bank = MaskBank.from_cases(cases, 0.0 if rules.is_upright else TURN)
        self.cases = {case.id: case for case in sorted(cases, key=lambda case: case.id)}
        self.classes = next(iter(self.cases.values())).classes
        self.domain = domain_of([each.name for each in self.classes], rules)
        self.domain.check_place(config.place)
        self.backgrounds = Backgrounds(self.cases, others, self.bank, rules)
        self.examples = Examples(
            self.cases, self.bank, folds, budget, self.backgrounds.placement_map, rules, self.backgrounds.are_apart,
            unconvincing,
        )  # fmt: skip
        self.kinds = Kinds(self.backgrounds, self.bank.names)
        self._wording = Wording(
            self.cases, self.bank, self.backgrounds, self.examples, self.library, self.known_words, rules.grey
        )
        self.per_case = 1 if self.domain.stays_in_place else config.lesions_per_case or usual_number(self.bank)
        self._turns = Turns(config.negatives, lambda number: seed_of_request(seed, number * self.per_case))
        self._drawn: Remembered[int, tuple[Request, ...]] = Remembered(self._draw_case, limit=8)
        self._placer = Placer(self.backgrounds, self.bank, config.place == "mixed", self.per_case > 1)
        counts = [len(self.bank.components(case)) for case in self.cases]
        self._masks = Masks(self.bank, self.kinds, self.examples)
        self._placements = Placements(config.place, self.backgrounds, counts, self.per_case, seed)
        self._seeker = Seeker(
            self.backgrounds, self.examples, self._wording, self._masks, self._placements, self._placer,
            mixed=config.place == "mixed", rules=rules,
        )  # fmt: skip
        self._names = [name for name in self.backgrounds.names if self._placements.can_be(name)]
        ratios = ratios_of(self.bank, self.cases, self.domain)
        self._cups = CupDrawer(self, ratios) if ratios else None

    def draw(self, index: int) -> Request:
        """Return request `index`. A case that has fewer requests than `per_case` repeats its last one.

        Raises:
            PlacementError: No mask fits on any of the backgrounds that were tried.
        """
        requests = self._drawn[index // self.per_case]
        return next((request for request in requests if request.index == index), requests[-1])

    def draw_some(self, count: int) -> Iterator[Request]:
        """Yield the requests with the indices 0 to `count` - 1, each once: a case may have fewer than `per_case`.

        Raises:
            PlacementError: No mask fits on any of the backgrounds that were tried.
        """
        return (request for index in range(count) if (request := self.draw(index)).index == index)

    def draw_case(self, number: int) -> tuple[Request, ...]:
        """Return the requests of one case: lesions apart from each other on one background, or one negative.

        Raises:
            PlacementError: No mask fits on any of the backgrounds that were tried.
        """
        return self._drawn[number]

    def _draw_case(self, number: int) -> tuple[Request, ...]:
        first = number * self.per_case
        seed = seed_of_request(self.seed, first)
        if self._cups:
            return (self._cups.draw(first, seed),)
        negative = self._draw_negative(number, first, seed)
        if negative:
            return (negative,)
        requests: list[Request] = []
        names, taken = in_turn_with_substitutes(self._names, self.seed, self._turns.of(number)), None
        for index in range(first, first + self.per_case):
            found = self._draw_lesion(names, index, taken)
            if found is None:
                continue
            placed, request = found
            requests.append(request)
            if self.per_case > 1:
                names, around = [placed.background], self._placer.band_of(placed)
                taken = around if taken is None else taken | around
        if not requests:
            self.backgrounds.check_paintable()
            raise PlacementError(
                f"a mask must fit on some background: none of those drawn fitted one of {len(self.backgrounds.names)} "
                f"backgrounds for request {first}; add images with more tissue, or set place: mixed"
            )
        return tuple(requests)

    def _draw_lesion(self, names: Sequence[str], index: int, taken: Mask | None) -> tuple[Placed, Request] | None:
        """Seek a place for a lesion on the first of some backgrounds that has one.

        Args:
            names: The backgrounds.
            index: Of the request.
            taken: Where other new lesions lie in the draft of the background, with their bands; None for nowhere.
        """
        seed = seed_of_request(self.seed, index)
        rng = np.random.default_rng(seed)
        aim = self.budget.stratum_of(index // self.per_case // self.config.shard_size) if self.budget else ""
        options = partial(self._options, index=index)
        cases = in_turn_with_substitutes(self.examples.names, self.seed + APART, self._turn_of(index))
        found = self._seeker.seek(Sought(index, names, cases, options, aim, rng, taken))
        if found is None:
            return None
        placed, look = found
        return placed, self._wording.request(placed, look, index, seed, aim, rng, options(placed.background))

    def reworded(self, request: Request, words: dict[str, str]) -> Request:
        """Return a request for the same mask and place with other words, and an example that looks like them.

        Args:
            request: One of this drawer.
            words: The word of each aspect; a missing aspect says nothing.
        """
        options = self._options(request.background, request.index)
        return self._wording.reworded(request, self.masks(request).new, words, options)

    def masks(self, request: Request) -> RequestMasks:
        """Return the masks of a request of this drawer."""
        case = self.backgrounds.case(request.background)
        lesion = case.read_label() if self.classes and case.mask else self.backgrounds.lesion(case.id)
        view = self.backgrounds.field(case.id, with_text=False) if request.transform.at_edge else None
        return masks_of_request(request, self.bank, lesion, self.classes, view)

    def words_of_cases(self) -> dict[str, dict[str, str]]:
        """Return the measured words of every annotated case; it takes a while."""
        return {name: self.examples.words[name] for name in self.examples.names}

    def _draw_negative(self, number: int, index: int, seed: int) -> Request | None:
        """Return a negative, where this case is to be one and a mask fits on lesion-free tissue."""
        if not self._turns.is_negative(number):
            return None
        rng = np.random.default_rng((seed, 2))
        known = [name for name in self.backgrounds.names if self.backgrounds.is_known(name)]
        for name in in_turn(known, self.seed, self._turns.of(number))[:ANY]:
            draw = partial(self._masks.draw, "", name, rng)
            placed = self._placer.on_tissue(name, "free", draw, "", rng)
            if placed is not None:
                mask = placed.draft_mask(self.backgrounds.draft(placed.background).size)
                prompt, size = self.domain.normal_prompt, size_class(float(mask.mean()))
                return placed.request(index, seed, prompt, size, negative=True)
        return None

    def _options(self, background: str, index: int) -> list[str]:
        """Return the cases of a background's kind in the order of their turns."""
        return in_turn(list(self.kinds.alike(background)), self.seed, self._turn_of(index))

    def _turn_of(self, index: int) -> int:
        """Return how many lesions are drawn before that of a request."""
        number, member = divmod(index, self.per_case)
        return self._turns.of(number) * self.per_case + member


def ratios_of(bank: MaskBank, cases: Mapping[str, Case], domain: Domain) -> dict[str, float]:
    """Return the vertical cup-to-disc ratio of each case whose largest lesion is a disc; none of other lesions."""
    ratios = {}
    for name, case in cases.items():
        for entry in bank.components(name)[:1]:
            ratio = domain.ratio(masks_from_label(entry.values, case.classes))
            if ratio is not None:
                ratios[name] = ratio
    return ratios


class CupDrawer:
    """Draws requests for another cup in the disc of a training case, which stays where it is."""

    def __init__(self, drawer: RequestDrawer, ratios: Mapping[str, float]) -> None:
        """Take what requests are made of, and the vertical cup-to-disc ratio of each case."""
        self._drawer, self._ratios = drawer, ratios

    def draw(self, index: int, seed: int) -> Request:
        """Draw a cup.

        The disc is one of the eighth whose own ratio is nearest, since a cup that is stretched far looks like what it
        was. Size, shape and contrast are the disc's own; the words of the cup are those of its new ratio.
        """
        rng, drawer = np.random.default_rng(seed), self._drawer
        ratio = draw_ratio(tuple(self._ratios.values()), rng)
        names = sorted(self._ratios, key=lambda name: abs(self._ratios[name] - ratio))
        name = names[int(rng.integers(math.ceil(NEAREST * len(names))))]
        entry = drawer.bank.components(name)[0]
        size = size_class(entry.relative_area)
        words = {**drawer.examples.words[name], "size": size}
        shape, corner = entry.draft.crop, (entry.draft.top, entry.draft.left)
        placed = Placed(entry, MaskTransform(), name, "replace", entry.top, entry.left, shape, corner)
        prompt = drawer.cases[name].prompt
        if prompt or drawer.library is None:
            prompt = prompt or describe_disc(words, ASPECTS, ratio)
            return placed.request(index, seed, prompt, size, cup_ratio=ratio, example=name)
        prompt, findings, unknown = self._prompt(drawer.library, words, ratio, rng)
        more = {"findings": findings, "unknown_words": unknown}
        return placed.request(index, seed, prompt, size, cup_ratio=ratio, example=name, **more)

    def _prompt(
        self, library: Library, words: Mapping[str, str], ratio: float, rng: np.random.Generator
    ) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Draw findings that agree with a cup; return the prompt, its findings, and the words left out of it."""
        decided = {group: "" for group in DECIDED if group in library.groups}
        if cup_class(ratio) in library.findings:
            decided["cup"] = cup_class(ratio)
        said = {aspect: word for aspect, word in words.items() if aspect in ASPECTS_OF_DISC and word}
        draft = draw_prompt(library, rng, {"shape": words["shape"]}, settings=False, decided=decided)
        noun = self._drawer.domain.noun
        draft = replace(draft, words=said, head=noun if draft.head == NOUN else draft.head)
        prompt, unknown = with_known_words(draft, self._drawer.known_words, noun)
        return prompt, draft.findings, unknown
