import re
from itertools import combinations

import numpy as np
import pytest

from diffaug.conditioning.findings import DOMAINS, library_of
from diffaug.conditioning.grammar import (
    Draft,
    KnownWords,
    clip_tokens,
    contradictions,
    draw_prompt,
    draw_prompts,
    reads_clip,
    with_known_words,
    words_in,
)
from diffaug.conditioning.prompts import all_prompts, words_allowed
from diffaug.errors import ConfigError

# What cannot be said together, written out again in plain words, so that a slip in a library shows: if a prompt matches
# the first pattern, it must not match the second.
SURFACES = r"smooth surface", r"textured surface"
RULES = {
    "endoscopy": [
        # words of aspects
        (r"low-contrast", r"\b(pale (?!pits)|dark|reddish)|sharp borders"),
        SURFACES,
        # form
        (r"stalk|pedunculated", r"\bflat\b|spreading|depressed|sunken|elevated|indistinct"),
        (r"completely flat|^an? [\w -]*(?<!slightly )\bflat lesion", r"high-contrast|sharp|textured|from the side"),
        (r"depressed lesion|sunken", r"mucus|hyperplastic polyp|serrated|NICE type 1|Kudo type II? "),
        (r"spreading", r"\bsmall (?!round|uniform)"),
        (r"granular spreading|(?<!non-)granular laterally|nodul", r"smooth surface|hyperplastic polyp|serrated"),
        (r"non-granular|smooth spreading|pseudodepressed", r"textured surface|granular spreading|nodul"),
        # surface and vessels
        (r"uniform spots|NICE type 1", r"reddish|\bdark\b|textured|adenoma|cancer|mucus|from a distance"),
        (r"brown vessels|NICE type 2", r"\bpale (?!pits)|hyperplastic|serrated|cancer|mucus|from a distance"),
        (r"disrupted vessels|NICE type 3", r"\bpale\b|surface|hyperplastic|serrated|adenoma|mucus|from a distance"),
        (r"star-shaped|Kudo type II ", r"reddish|\bdark\b|adenoma|cancer|mucus|depressed lesion|from a distance"),
        (r"\bpits\b|Kudo", r"mucus|seen from a distance"),
        (r"tubular pits|Kudo type IIIL", r"hyperplastic|serrated|cancer|slightly depressed|shallow depressed"),
        (r"branched pits|Kudo type IV", r"smooth surface|hyperplastic|serrated|cancer|completely flat"),
        (r"irregular or missing pits|Kudo type V", r"hyperplastic|serrated|adenoma|regular pits|surface"),
        (r"crowded small|Kudo type IIIs", r"stalk|pedunculated|broad-based|sessile polyp|granular spreading"),
        # what it resembles
        (r"hyperplastic polyp", r"\b(large|medium|reddish|dark)\b|textured|adenoma|cancer|serrated"),
        (r"sessile serrated", r"sharp borders|\b(dark|reddish)\b|adenoma|cancer|stalk|pedunculated"),
        (r"look of an adenoma", r"\bpale (?!pits)|mucus|cancer|serrated"),
        (r"invasive cancer", r"\bsmall (?!round)|\bpale (?!pits)|smooth surface|\bround (?!pits)|mucus"),
        # around it, and how it is seen
        (r"debris or bubbles", r"on clean mucosa"),
        (r"contour of a fold", r"behind a fold|between two folds"),
        (r"behind a fold", r"\ba large\b|close up"),
        (r"from a distance", r"close up|\ba large\b|surface|mucosal vessels"),
    ],
    "fundus": [
        (r"low-contrast", r"\b(pale (?!pits)|dark|reddish)|sharp borders"),
        (r"normal|healthy", r"a large cup|very large|little rim|thin|notch|haemorrhage|beta|whitish|glaucoma|pushed"),
        (r"glaucoma", r"small cup|average|medium-sized|no visible cup|broadest below|ISNT"),
        (r"no visible cup|a small cup", r"notch|thin|pushed|large cup"),
        (r"no visible cup", r"broadest below|ISNT"),
        (r"very large cup|little rim", r"broadest below|ISNT"),
        (r"broadest below|ISNT", r"notch|thin"),
        (r"average size|medium-sized cup", r"thin all around|diffusely"),
        (r"right eye", r"left eye"),
        (r"optic", r"\b(dark|reddish|elongated|irregular)\b|low-contrast"),
        (r"centred on the macula", r"^an? (medium|large)"),
    ],
    "generic": [(r"low-contrast", r"\b(pale (?!pits)|dark|reddish)|sharp borders"), SURFACES],
    "ultrasound": [
        (r"low-contrast", r"sharp borders|\b(bright|dark) (mass|nodule|oval|ellipsoid|irregular|cyst|fluid)"),
        SURFACES,
        (r"^an? [\w -]*\b(cyst|fluid-filled mass)\b", r"spiculated|angular|shadow|malignant|specks"),
        (r"the look of a benign", r"spiculated|angular|irregular mass|markedly low"),
    ],
    "microscopy": [
        (r"low-contrast", r"\b(pale|dark|reddish) |sharp borders"),
        SURFACES,
        (r"dense nucleus|pyknotic", r"nucleolus|coarse"),
    ],
    "dermoscopy": [
        (r"low-contrast", r"\b(pale|dark|reddish) |sharp borders"),
        SURFACES,
        (r"look of a naevus", r"asymmetric|streaks|veil|melanoma"),
        (r"without pigment|nonpigmented", r"network|globules|clods|veil"),
    ],
    "x-ray": [
        (r"low-contrast", r"sharp borders"),
        SURFACES,
        (r"ground-glass", r"well-defined|cavity"),
        (r"well-defined", r"poorly defined"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=DOMAINS)
def drawn(request):
    library = library_of(request.param)
    return request.param, library, list(draw_prompts(library, 5000 if request.param == "endoscopy" else 2000, 0))


def test_no_prompt_contradicts_itself(drawn):
    domain, _, drafts = drawn
    for text in (draft.text() for draft in drafts):
        broken = [rule for rule in RULES[domain] if re.search(rule[0], text) and re.search(rule[1], text)]
        assert not broken, (text, broken)


def test_a_prompt_says_one_word_of_an_aspect_and_one_finding_of_a_group(drawn):
    _, library, drafts = drawn
    for draft in drafts:
        assert not contradictions(draft.words.values())
        assert all(word in words_allowed(library.grey)[aspect] for aspect, word in draft.words.items())
        groups = [library.findings[name].group for name in draft.findings]
        assert len(set(groups)) == len(groups) and library.groups[groups[0]] == "head"


def test_findings_of_a_prompt_allow_its_words_and_each_other(drawn):
    _, library, drafts = drawn
    for draft in drafts:
        found = {name: library.findings[name] for name in draft.findings}
        for aspect, word in draft.words.items():
            assert all(word in one.attributes.get(aspect, (word,)) for one in found.values())
        for first, second in combinations(found, 2):
            assert first not in found[second].excludes and second not in found[first].excludes


def test_every_prompt_cites_what_it_is_made_of(drawn):
    _, library, drafts = drawn
    for draft in drafts:
        assert draft.references == library.cited(draft.findings) != ()


def test_every_prompt_is_within_the_77_tokens_of_clip(drawn):
    assert max(clip_tokens(draft.text()) for draft in drawn[2]) <= 77


def test_prompts_are_many(drawn):
    domain, _, drafts = drawn
    least = {"endoscopy": 3000, "fundus": 1500}.get(domain, 400)
    assert len({draft.text() for draft in drafts}) >= least


def test_every_verified_finding_and_every_way_to_say_it_comes_up(drawn):
    _, library, drafts = drawn
    said = " ".join(draft.text() for draft in drafts)
    for group in library.groups:
        for finding in library.spoken(group).values():
            assert all(term in said for term in (finding.term, *finding.synonyms))


def test_a_prompt_depends_on_its_seed_and_index_alone():
    library = library_of("fundus")
    assert list(draw_prompts(library, 5, 3)) == list(draw_prompts(library, 50, 3))[:5]
    assert list(draw_prompts(library, 50, 3)) != list(draw_prompts(library, 50, 4))


def test_generic_prompts_are_those_of_measured_attributes():
    known = set(all_prompts())
    assert all(draft.text() in known for draft in draw_prompts(library_of("generic"), 300, 0))


def test_negative_counts_and_seeds_are_refused():
    for count, seed in ((-1, 0), (1, -1)):
        with pytest.raises(ConfigError, match="0 or more"):
            list(draw_prompts(library_of("generic"), count, seed))


# Words that are given


@pytest.mark.parametrize("given", [{"size": "small", "shape": "round"}, {"size": "large", "shape": "irregular"}])
@pytest.mark.parametrize("domain", DOMAINS)
def test_given_words_are_kept_and_only_fitting_findings_drawn(domain, given):
    library = library_of(domain)
    for index in range(300):
        draft = draw_prompt(library, np.random.default_rng(index), given, settings=False)
        assert not draft.settings
        assert all(draft.words.get(aspect, word) == word for aspect, word in given.items())
        for name in draft.findings:
            allowed = library.findings[name].attributes
            assert all(word in (allowed.get(aspect) or (word,)) for aspect, word in given.items())


def test_where_no_head_fits_a_lesion_is_described():
    library = library_of("fundus")
    draft = draw_prompt(library, np.random.default_rng(0), {"shape": "irregular"}, settings=False)
    assert draft.head == "lesion" and draft.words["shape"] == "irregular"


# What a model can hear

DRAFT = Draft(
    {"size": "small", "colour": "pale", "border": "indistinct"}, "flat lesion", ("a cap of mucus",), ("on a fold",)
)
MEASURED = frozenset().union(*(words_in(text) for text in all_prompts()))


def test_a_model_that_knows_every_word_hears_the_whole_prompt():
    assert with_known_words(DRAFT, KnownWords()) == (DRAFT.text(), ())
    assert DRAFT.text() == "a small pale flat lesion with indistinct borders and a cap of mucus on a fold"
    assert with_known_words(DRAFT, KnownWords(words_in(DRAFT.text()))) == (DRAFT.text(), ())


def test_unknown_words_are_left_out_and_told():
    assert with_known_words(DRAFT, KnownWords(MEASURED)) == (
        "a small pale lesion with indistinct borders",
        ("flat lesion", "a cap of mucus", "on a fold"),
    )
    assert with_known_words(DRAFT, KnownWords(frozenset({"small", "lesion", "on", "fold", "a"}))) == (
        "a small lesion on a fold",
        ("pale", "indistinct", "flat lesion", "a cap of mucus"),
    )


def test_a_model_that_does_not_know_what_a_lesion_is_hears_nothing():
    assert with_known_words(DRAFT, KnownWords(frozenset({"small"}))) == (
        "",
        ("small", "pale", "indistinct", "flat lesion", "a cap of mucus", "on a fold"),
    )


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_is_heard_holds_known_words_only_and_nothing_is_lost_silently(domain):
    rng = np.random.default_rng(0)
    for draft in draw_prompts(library_of(domain), 300, 1):
        words = sorted(words_in(draft.text()) | {"lesion"})
        known = {word for word in words if rng.random() < 0.8} | {"a", "an"}
        text, unsaid = with_known_words(draft, KnownWords(frozenset(known)))
        assert words_in(text) <= known
        small = {"a", "an", "and", "with", "borders", "surface"}
        assert words_in(draft.text()) <= words_in(text) | words_in(" ".join(unsaid)) | small


def test_a_prompt_too_long_for_a_model_loses_its_last_parts_and_says_so():
    def reads(text):
        return len(text.split()) <= 12

    assert with_known_words(DRAFT, KnownWords(reads=reads)) == (
        "a small pale flat lesion with indistinct borders",
        ("a cap of mucus", "on a fold"),
    )
    assert (
        with_known_words(DRAFT, KnownWords(reads=lambda text: False))[0]
        == "a small pale flat lesion with indistinct borders"
    )


def test_a_hyphenated_word_counts_by_its_parts():
    assert words_in("A low-contrast  Ödem, x_y") == {"a", "low", "contrast", "ödem", "x", "y"}


def test_every_prompt_of_measured_attributes_is_within_clip():
    assert all(reads_clip(text) for text in all_prompts())


def test_an_article_that_a_model_does_not_know_is_the_other_one():
    draft = Draft({"shape": "oval"}, "lesion", (), ())
    assert with_known_words(draft, KnownWords(frozenset({"a", "an", "oval", "lesion"})))[0] == "an oval lesion"
    assert with_known_words(draft, KnownWords(frozenset({"a", "oval", "lesion"})))[0] == "a oval lesion"
