"""A grammar over findings: prompts that never contradict themselves, and what a model knows of them.

A prompt is a head with words of its aspects, up to `TRAITS` traits and up to `SETTINGS` settings: "a small pale flat
lesion with indistinct borders and a cap of mucus on a fold". Prompt i is a pure function of library, seed and i.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from diffaug.conditioning.findings import Finding, Library, Role
from diffaug.conditioning.prompts import ASPECTS, EMPTY_PROMPT, GREY_COLOURS, WORDS, phrase, words_allowed
from diffaug.errors import ConfigError

TRAITS, SETTINGS = 2, 1  # the most in one prompt; CLIP does not read longer ones
CHANCE = 0.5  # that a prompt mentions a group or an aspect
CLIP_TOKENS = 77
PIECE = 3  # letters; in 60,000 prompts, CLIP never had more tokens than a prompt has pieces of so many letters
NOUN = "lesion"  # replaces a head that the model does not know
CLASHES = [("low-contrast", word) for word in ("pale", "bright", "dark", "reddish", "sharp")]
PAIRS = [pair for words in (*WORDS.values(), GREY_COLOURS) for pair in combinations(words, 2)]
CONTRADICTIONS = CLASHES + PAIRS

Words = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Draft:
    """A prompt in parts.

    Attributes:
        words: The word of each aspect; a missing aspect says nothing.
        head: What is described, without an article.
        traits: What it comes with.
        settings: Where and how it is seen.
        findings: Names of the findings it is made of.
        references: Where these are published, as text.
    """

    words: dict[str, str]
    head: str
    traits: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the prompt."""
        return " ".join([phrase(self.words, ASPECTS, self.head, self.traits), *self.settings])


def draw_prompts(library: Library, count: int, seed: int) -> Iterator[Draft]:
    """Yield prompts that are made of the findings of a library.

    Args:
        library: The findings; see `library_of`.
        count: How many prompts.
        seed: Chooses them; more prompts of one seed begin with the same ones.

    Raises:
        ConfigError: The count or the seed is negative.

    Example:
        >>> for draft in diffaug.draw_prompts(diffaug.library_of("endoscopy"), count=1, seed=0):
        ...     print(draft.text())
        a large round semipedunculated polyp with sharp borders, a textured surface and the look of an adenoma
    """
    if count < 0 or seed < 0:
        raise ConfigError(f"count and seed are 0 or more: they are {count} and {seed}")
    for index in range(count):
        yield draw_prompt(library, np.random.default_rng((seed, index)))


def draw_prompt(
    library: Library,
    rng: np.random.Generator,
    given: Mapping[str, str] | None = None,
    settings: bool = True,
    decided: Mapping[str, str] | None = None,
    grey: bool = False,
    known: "KnownWords | None" = None,
) -> Draft:
    """Draw one prompt.

    Args:
        library: The findings.
        rng: Drawn from.
        given: Words of aspects that are known, such as size and shape of a mask. Only findings that agree with them are
            drawn; if no head agrees, the head is a plain lesion.
        settings: Whether to say where it is seen; False for a real background, since nobody has said where it was seen.
        decided: Group to the finding that a mask shows, "" for none. The prompt has that finding by its standard term,
            no other of the group, and nothing that contradicts it.
        grey: Whether the images are grey, so that no word of colour is said.
        known: What the model knows. A finding whose terms it does not know acts through its attributes: their words are
            always said. None is a model that knows every word.
    """
    decided = decided or {}
    given = {aspect: word for aspect, word in (given or {}).items() if word}
    allowed: Words = words_allowed(grey or library.grey) | {aspect: (word,) for aspect, word in given.items()}
    chosen = {name: library.findings[name] for name in decided.values() if name}
    room = {"head": 1, "trait": TRAITS - len(chosen), "setting": SETTINGS if settings else 0}
    for group in _in_random_order(library.groups, rng):
        role = library.groups[group]
        if group in decided or room[role] == 0 or (role != "head" and rng.random() > CHANCE):
            continue
        fitting = {name: each for name, each in library.spoken(group).items() if _fits(name, each, chosen, allowed)}
        if fitting:
            name = list(fitting)[int(rng.integers(len(fitting)))]
            chosen[name] = fitting[name]
            allowed = _narrowed(allowed, fitting[name])
            room[role] -= 1
    unknown = [each for each in chosen.values() if known and not all(map(known.has, (each.term, *each.synonyms)))]
    implied = {aspect for each in unknown for aspect, words in each.attributes.items() if words}
    words = _draw_words(_mentionable(allowed, chosen.values()), given, rng, implied)
    terms = {name: each.term if name in decided.values() else _term(each, rng) for name, each in chosen.items()}
    return _within_clip(library, words, terms)


def _within_clip(library: Library, words: dict[str, str], terms: Mapping[str, str]) -> Draft:
    """Put a draft together. A prompt that is too long for CLIP loses its last findings."""
    order = list(library.groups)
    names = sorted(terms, key=lambda name: order.index(library.findings[name].group))
    while True:
        roles = {name: library.groups[library.findings[name].group] for name in names}
        said = {role: tuple(terms[name] for name in names if roles[name] == role) for role in ("trait", "setting")}
        head = next((terms[name] for name in names if roles[name] == "head"), NOUN)
        draft = Draft(words, head, said["trait"], said["setting"], tuple(names), library.cited(names))
        if reads_clip(draft.text()) or not any(said.values()):
            return draft
        names.pop()


def _in_random_order(groups: Mapping[str, Role], rng: np.random.Generator) -> list[str]:
    """Return the head's group, then the others in random order: each finds room in a prompt as often."""
    head = [group for group, role in groups.items() if role == "head"]
    others = [group for group, role in groups.items() if role != "head"]
    return head + [others[int(index)] for index in rng.permutation(len(others))]


def _fits(name: str, finding: Finding, chosen: Mapping[str, Finding], allowed: Words) -> bool:
    """Tell whether a finding contradicts neither the chosen ones nor the words that are left."""
    if any(name in other.excludes or key in finding.excludes for key, other in chosen.items()):
        return False
    return all(set(words) & set(allowed[aspect]) for aspect, words in finding.attributes.items() if words)


def _narrowed(allowed: Words, finding: Finding) -> Words:
    kept = {
        aspect: tuple(word for word in allowed[aspect] if word in words)
        for aspect, words in finding.attributes.items()
        if words
    }
    return {**allowed, **kept}


def _mentionable(allowed: Words, chosen: Collection[Finding]) -> Words:
    """Return the words left of each aspect that no chosen finding excludes from the prompt."""
    silenced = {aspect for finding in chosen for aspect, words in finding.attributes.items() if not words}
    return {aspect: words for aspect, words in allowed.items() if aspect not in silenced}


def _draw_words(
    allowed: Words, given: Mapping[str, str], rng: np.random.Generator, implied: Collection[str] = ()
) -> dict[str, str]:
    said = {aspect: word for aspect, word in given.items() if aspect in allowed}
    open_aspects = [aspect for aspect in ASPECTS if aspect in allowed and aspect not in said]
    for aspect in sorted(open_aspects, key=lambda aspect: aspect not in implied):  # what is implied comes first
        options = [word for word in allowed[aspect] if not contradictions([word, *said.values()])]
        if options and (aspect in implied or rng.random() < CHANCE):
            said[aspect] = options[int(rng.integers(len(options)))]
    return {aspect: said[aspect] for aspect in ASPECTS if aspect in said}


def contradictions(words: Collection[str]) -> list[tuple[str, str]]:
    """Return the pairs of words of aspects that cannot both be true of one lesion."""
    return [pair for pair in CONTRADICTIONS if pair[0] in words and pair[1] in words]


def _term(finding: Finding, rng: np.random.Generator) -> str:
    terms = (finding.term, *finding.synonyms)
    return terms[int(rng.integers(len(terms)))]


# What a model knows


def words_in(text: str) -> frozenset[str]:
    """Return the words of a text, lower case; a hyphenated word counts by its parts."""
    return frozenset(re.findall(r"[^\W_]+", text.lower()))


def clip_tokens(text: str) -> int:
    """Return an upper bound of CLIP's tokens of a prompt, start and end included, without its vocabulary."""
    return 2 + sum(-(-len(part) // PIECE) for part in re.findall(r"[^\W\d_]+|\d|[^\w\s]", text))


def reads_clip(text: str) -> bool:
    """Tell whether a prompt is within CLIP's 77 tokens."""
    return clip_tokens(text) <= CLIP_TOKENS


@dataclass(frozen=True)
class KnownWords:
    """What a model knows of prompts.

    Attributes:
        words: Words of its training prompts, as `words_in` gives them; None for a model that knows every word.
        reads: Whether a text is short enough to be read whole.
    """

    words: frozenset[str] | None = None
    reads: Callable[[str], bool] = reads_clip

    def has(self, text: str) -> bool:
        """Tell whether the model knows every word of a text."""
        return self.words is None or words_in(text) <= self.words


def with_known_words(draft: Draft, known: KnownWords, noun: str = NOUN) -> tuple[str, tuple[str, ...]]:
    """Return the part of a prompt that a model knows, and what was left out.

    A word of an aspect, a trait or a setting stays whole or is left out; a head with unknown words becomes a plain
    lesion. A prompt that is too long loses its settings, then its traits, the last ones first.

    Args:
        draft: The prompt.
        known: What the model knows.
        noun: What a head with unknown words becomes.

    Returns:
        The prompt, "" if the model does not even know the noun; and what was left out, in the prompt's order.
    """
    if not known.has(draft.head) and not known.has(noun):
        return EMPTY_PROMPT, tuple(_parts(draft))
    said = replace(
        draft,
        words={aspect: word for aspect, word in draft.words.items() if known.has(_spoken(aspect, word))},
        head=draft.head if known.has(draft.head) else noun,
        traits=tuple(trait for trait in draft.traits if known.has(f"with and {trait}")),
        settings=tuple(setting for setting in draft.settings if known.has(setting)),
    )
    while not known.reads(said.text()) and (said.settings or said.traits):
        said = replace(said, settings=said.settings[:-1]) if said.settings else replace(said, traits=said.traits[:-1])
    kept, text = list(_parts(said)), said.text()
    if text.startswith("an ") and not known.has("an"):
        text = f"a {text.removeprefix('an ')}"
    return text, tuple(part for part in _parts(draft) if part not in kept)


def _spoken(aspect: str, word: str) -> str:
    """Return the words that a prompt needs to mention a word of an aspect."""
    return {"border": f"with and {word} borders", "surface": f"with and a {word} surface"}.get(aspect, word)


def _parts(draft: Draft) -> Iterator[str]:
    yield from draft.words.values()
    yield draft.head
    yield from draft.traits
    yield from draft.settings
