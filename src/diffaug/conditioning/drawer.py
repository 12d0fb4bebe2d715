"""Draws requests: what to paint, on which background, where, and from which seed.

Request i is a pure function of the cases, the seed, the config and i: neither the number of requests nor the order in
which they are drawn matters. Masks come from annotated training cases.

Backgrounds take turns, and so do examples, so that all are used alike. Masks and examples are of frames of the
background's kind. The size of a lesion follows the data: a size class is drawn, and a background on which no mask of it
fits makes way for the next. So does the number of lesions: in a mix as many requests add a lesion to a frame as frames
hold more than one; the others replace a lesion by one of about its size, or lie anywhere in a frame whose lesions are
painted away first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from diffaug.conditioning.attributes import shape_of
from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.budget import LOW, Budget, check_aim
from diffaug.conditioning.cups import ASPECTS_OF_DISC, DECIDED, cup_class, describe_disc, draw_ratio
from diffaug.conditioning.domain import Domain, domain_of
from diffaug.conditioning.examples import Examples
from diffaug.conditioning.findings import GENERIC, Library, library_of
from diffaug.conditioning.grammar import NOUN, KnownWords, draw_prompt, with_known_words
from diffaug.conditioning.kinds import Kinds
from diffaug.conditioning.masks import MaskBank, MaskEntry, draw_transform
from diffaug.conditioning.placer import Placer
from diffaug.conditioning.prompts import ASPECTS, describe_words, shape_word
from diffaug.conditioning.request import Placed, RequestMasks, masks_of_request, seed_of_request
from diffaug.conditioning.turns import in_turn
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, masks_from_label
from diffaug.data.lesions import LARGE, SMALL, size_class
from diffaug.data.manifest import MaskTransform, Placement, Request
from diffaug.errors import PlacementError

SIZED, ANY = 12, 40  # backgrounds that are tried for a mask of the drawn size, and then for one of any size
CHOOSY = 20  # masks that are drawn at most until one is of an outline that some example fits
REMOVED_SHARE = 0.4  # of the requests of a mix that do not add a lesion; the rest of them replace one
INSIDE = 1.06  # a mask drawn for a size class keeps this factor from its limits, since rendering changes its area
BOUNDS = {"small": (0.0, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, 1.0)}
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
    drawer = RequestDrawer(cases, seed, config, others)
    for index in range(count):
        yield drawer.draw(index)


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
        """
        self.seed, self.config, self.budget = seed, config, budget
        self.known_words = known_words or KnownWords()
        self.library = None if is_generic(config) else library_of(config.domain, config.findings)
        self.bank = MaskBank.from_cases(cases)
        self.cases = {case.id: case for case in sorted(cases, key=lambda case: case.id)}
        self.classes = next(iter(self.cases.values())).classes
        self.domain = domain_of([each.name for each in self.classes])
        self.domain.check_place(config.place)
        self.backgrounds = Backgrounds(self.cases, others, self.bank)
        self.examples = Examples(self.cases, self.bank, folds, budget, self.backgrounds.placement_map)
        self.kinds = Kinds(self.backgrounds, self.bank.names)
        self._placer = Placer(self.backgrounds, self.bank, config.place == "mixed")
        self._names = [name for name in self.backgrounds.names if self._can_be_painted(name)]
        self._lesions_before = [0]  # how many of the first requests ask for a lesion
        self._adding = float(np.mean([len(self.bank.components(case)) > 1 for case in self.cases]))
        ratios = ratios_of(self.bank, self.cases, self.domain)
        self._cups = CupDrawer(self, ratios) if ratios else None

    def draw(self, index: int) -> Request:
        """Return request `index`.

        Raises:
            PlacementError: No mask fits on any of the backgrounds that were tried.
        """
        seed = seed_of_request(self.seed, index)
        if self._cups:
            return self._cups.draw(index, seed)
        negative = self._draw_negative(index, seed)
        if negative:
            return negative
        rng = np.random.default_rng(seed)
        placement, turn = self._draw_placement(rng), self._turn(index)
        aim = self.budget.stratum_of(index // self.config.shard_size) if self.budget else ""
        names = in_turn(self._names, self.seed, turn)
        wanted = aim.split(maxsplit=1)[0] if aim else self._draw_size(names[0], rng) if names else ""
        for size, tried in ((wanted, ANY if aim else SIZED), ("", 0 if aim else ANY)):
            for name in names[:tried]:
                placed = self._placed_on(name, placement, aim, size, rng)
                if placed is None:
                    continue
                request = self._describe(placed, index, seed, aim, rng)
                if not aim or size == request.size_bin:
                    return request
        raise PlacementError(
            f"a mask must fit on some background: none of those drawn fitted one of {len(self.backgrounds.names)} "
            f"backgrounds for request {index}; add images with more tissue, or set place: mixed"
        )

    def reworded(self, request: Request, words: dict[str, str]) -> Request:
        """Return a request for the same mask and place with other words, and an example that looks like them.

        Args:
            request: One of this drawer.
            words: The word of each aspect; a missing aspect says nothing.
        """
        new, rng = self.masks(request).new, np.random.default_rng((request.seed, 3))
        around, area = self.backgrounds.surroundings(request.background, new), int(np.count_nonzero(new))
        options = self._options(request.background, request.index)
        example = self.examples.draw(request.mask_case, request.aim, around, new, area, rng, words, options)
        return replace(request, prompt=describe_words(words), example=example)

    def masks(self, request: Request) -> RequestMasks:
        """Return the masks of a request of this drawer."""
        case = self.backgrounds.case(request.background)
        lesion = case.read_label() if self.classes and case.mask else self.backgrounds.lesion(case.id)
        return masks_of_request(request, self.bank, lesion, self.classes)

    def words_of_cases(self) -> dict[str, dict[str, str]]:
        """Return the measured words of every annotated case; it takes a while."""
        return {name: self.examples.words[name] for name in self.examples.names}

    def _is_negative(self, index: int) -> bool:
        share = self.config.negatives / (1 + self.config.negatives)
        return share > 0 and np.random.default_rng((seed_of_request(self.seed, index), 2)).random() < share

    def _turn(self, index: int) -> int:
        """Return how many requests before this one ask for a lesion."""
        while len(self._lesions_before) <= index:
            last = len(self._lesions_before) - 1
            self._lesions_before.append(self._lesions_before[last] + (not self._is_negative(last)))
        return self._lesions_before[index]

    def _draw_negative(self, index: int, seed: int) -> Request | None:
        """Return a negative, where this request is to be one and a mask fits on lesion-free tissue."""
        if not self._is_negative(index):
            return None
        rng = np.random.default_rng((seed, 2))
        for name in in_turn(self.backgrounds.names, self.seed, index - self._turn(index))[:ANY]:
            draw = partial(self._draw_mask, "", name, rng)
            placed = self._placer.on_tissue(name, "free", draw, lambda _: True, rng)
            if placed is not None:
                mask = placed.draft_mask(self.backgrounds.draft(placed.background).size)
                prompt, size = self.domain.normal_prompt, size_class(float(mask.mean()))
                return placed.request(index, seed, prompt, size, negative=True)
        return None

    def _can_be_painted(self, name: str) -> bool:
        """Tell whether a background can take the placement that is asked for."""
        if self.config.place == "removed":
            return name in self.backgrounds.removable
        return self.config.place != "replace" or bool(self.backgrounds.lesions_of(name))

    def _placed_on(
        self, name: str, placement: Placement, aim: str, size: str, rng: np.random.Generator
    ) -> Placed | None:
        """Seek a place for a mask of a size class, or of any, on one background."""
        draw = partial(self._draw_mask, aim, name, rng)
        return self._placer.place(name, placement, draw, lambda share: size in (size_class(share), ""), rng)

    def _draw_mask(self, aim: str, name: str, rng: np.random.Generator) -> tuple[MaskEntry, MaskTransform]:
        """Draw a training mask for a background, of the size that is aimed at."""
        if not aim:
            weights = self.kinds.weights(name)
            drawn = (self.bank.draw(rng, weights) for _ in range(CHOOSY))
            return next((mask for mask in drawn if self.examples.fit(mask[0])), None) or self.bank.draw(rng, weights)
        parts = self.bank.components(self.examples.draw_leading(aim, rng))
        entry, transform = parts[int(rng.integers(len(parts)))], draw_transform(rng)
        low, high = BOUNDS[aim.split(maxsplit=1)[0]]
        area = float(np.clip(entry.relative_area * transform.scale**2, low * INSIDE, high / INSIDE))
        return entry, replace(transform, scale=round(float(np.sqrt(area / entry.relative_area)), 4))

    def _draw_size(self, name: str, rng: np.random.Generator) -> str:
        """Draw a size class as often as masks for a background have it."""
        entry, transform = self._draw_mask("", name, rng)
        return size_class(entry.relative_area * transform.scale**2)

    def _draw_placement(self, rng: np.random.Generator) -> Placement:
        adds, removes = rng.random() < self._adding, rng.random() < REMOVED_SHARE
        if self.config.place != "mixed":
            return self.config.place
        return "free" if adds else "removed" if removes else "replace"

    def _options(self, background: str, index: int) -> list[str]:
        """Return the cases of a background's kind in the order of their turns."""
        return in_turn(list(self.kinds.alike(background)), self.seed, self._turn(index))

    def _describe(self, placed: Placed, index: int, seed: int, aim: str, rng: np.random.Generator) -> Request:
        """Return the request: size and shape are those of the new mask itself, the other words a training case's."""
        place = self.backgrounds.draft(placed.background)
        mask = placed.draft_mask(place.size)
        share = float(mask.mean())
        area, size = round(share * place.frame[0] * place.frame[1]), size_class(share)
        measured = {"size": size, "shape": shape_word(*shape_of(mask))}
        mask_case = placed.entry.case
        if prompt := self.cases[mask_case].prompt:
            return placed.request(index, seed, prompt, size, aim=aim, example=mask_case)
        around, options = (
            self.backgrounds.surroundings(placed.background, mask),
            self._options(placed.background, index),
        )
        if self.library is None:
            example = self.examples.draw(mask_case, aim, around, mask, area, rng, options=options)
            prompt = describe_words(self.examples.words_at(example, around) | measured)
            return placed.request(index, seed, prompt, size, aim=aim, example=example)
        given = measured | {"contrast": LOW if LOW in aim else ""}
        draft = draw_prompt(self.library, rng, given, settings=False)
        prompt, unknown = with_known_words(draft, self.known_words)
        example = self.examples.draw(mask_case, aim, around, mask, area, rng, draft.words, options)
        more = {"findings": draft.findings, "unknown_words": unknown}
        return placed.request(index, seed, prompt, size, aim=aim, example=example, **more)


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
