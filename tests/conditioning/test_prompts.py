from dataclasses import replace

import numpy as np
import pytest

from diffaug.conditioning import prompts
from diffaug.conditioning.attributes import Attributes, measure_attributes
from diffaug.conditioning.prompts import (
    ASPECTS,
    WORDS,
    all_prompts,
    describe,
    describe_region,
    words_of,
)
from diffaug.data.lesions import size_class
from diffaug.errors import FindingsError

MIDDLE = Attributes(0.1, 100.0, 0.7, 0.97, 8.0, 3.0, 15.0, 9.0, 1.0)
MEANING = {  # word: whether it is true; written out again, so that a slip in words_of shows
    "small": lambda a: a.relative_area < 0.05,
    "medium": lambda a: 0.05 <= a.relative_area <= 0.15,
    "large": lambda a: a.relative_area > 0.15,
    "irregular": lambda a: a.solidity < prompts.IRREGULAR,
    "round": lambda a: a.solidity >= prompts.IRREGULAR and a.eccentricity < prompts.ROUND,
    "oval": lambda a: a.solidity >= prompts.IRREGULAR and prompts.ROUND <= a.eccentricity <= prompts.ELONGATED,
    "elongated": lambda a: a.solidity >= prompts.IRREGULAR and a.eccentricity > prompts.ELONGATED,
    "reddish": lambda a: a.redness_contrast >= prompts.REDDISH,
    "pale": lambda a: a.redness_contrast < prompts.REDDISH and a.lightness_contrast > prompts.PALE,
    "dark": lambda a: a.redness_contrast < prompts.REDDISH and a.lightness_contrast < prompts.DARK,
    "low-contrast": lambda a: a.colour_contrast < prompts.LOW_CONTRAST,
    "high-contrast": lambda a: a.colour_contrast > prompts.HIGH_CONTRAST,
    "indistinct": lambda a: a.edge_sharpness < prompts.INDISTINCT,
    "sharp": lambda a: a.edge_sharpness > prompts.SHARP,
    "smooth": lambda a: a.texture < prompts.SMOOTH,
    "textured": lambda a: a.texture > prompts.TEXTURED,
}


def random_attributes(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        lightness, redness, blueness = rng.normal(5, 12), rng.normal(4, 8), rng.normal(0, 4)
        contrast = float(np.sqrt(lightness**2 + redness**2 + blueness**2))  # as measured, the norm of the difference
        yield Attributes(
            rng.uniform(0, 0.4), 50.0, rng.uniform(0, 1), rng.uniform(0.8, 1), lightness, redness, contrast,
            rng.uniform(0, 20), rng.uniform(0.3, 2),
        )  # fmt: skip


def test_a_word_is_said_exactly_when_its_threshold_is_passed():
    assert set(MEANING) == {word for words in WORDS.values() for word in words}
    for attributes in random_attributes(2000):
        said = set(describe(attributes).split())
        assert {word for word, holds in MEANING.items() if holds(attributes)} == said & set(MEANING)


def test_no_description_contradicts_itself():
    pairs = [(a, b) for words in WORDS.values() for a in words for b in words if a != b]
    pairs += [("low-contrast", word) for word in ("pale", "reddish", "dark")]
    for attributes in random_attributes(2000):
        said = set(describe(attributes).split())
        assert not [pair for pair in pairs if set(pair) <= said]


def test_middling_attributes_are_not_mentioned():
    assert describe(MIDDLE) == "a medium oval lesion"


def test_a_description_reads_as_english():
    vivid = replace(MIDDLE, relative_area=0.02, eccentricity=0.3, lightness_contrast=20, colour_contrast=20.0)
    faint = replace(vivid, edge_sharpness=2.0, texture=0.5)
    assert describe(faint) == "a small round pale lesion with indistinct borders and a smooth surface"
    assert describe(replace(MIDDLE, solidity=0.8), keep={"shape"}) == "an irregular lesion"
    assert describe(MIDDLE, keep=()) == "a lesion"


def test_a_region_is_an_area_without_a_size():
    assert describe_region(replace(MIDDLE, edge_sharpness=20.0)) == "an oval area with sharp borders"
    assert describe_region(MIDDLE, keep={"size"}) == "a medium area"


def test_dropping_aspects_only_removes_words():
    for attributes in random_attributes(100):
        kept = set(describe(attributes, keep={"size", "border"}).split())
        assert kept <= set(describe(attributes).split()) | {"a", "an"}


def test_the_corpus_holds_every_description():
    corpus = set(all_prompts())
    for attributes in random_attributes(300):
        assert {describe(attributes), describe_region(attributes), describe(attributes, keep={"colour"})} <= corpus
    assert prompts.NORMAL_PROMPT in corpus


def test_the_corpus_is_within_the_77_tokens_of_clip():
    assert max(len(prompt.split()) for prompt in all_prompts()) < 30


def test_a_brighter_lesion_is_called_pale_and_an_invisible_one_low_contrast(ellipse_in):
    mask = ellipse_in((128, 128), (64, 64), (20, 20))
    bright = np.where(mask[..., None], (225, 165, 150), (160, 90, 80)).astype(np.uint8)
    assert words_of(measure_attributes(bright, mask))["colour"] == "pale"
    same = np.full((128, 128, 3), (160, 90, 80), np.uint8)
    words = words_of(measure_attributes(same, mask))
    assert (words["contrast"], words["colour"], words["border"]) == ("low-contrast", "", "indistinct")


@pytest.mark.parametrize(("area", "name"), [(0.049, "small"), (0.05, "medium"), (0.15, "medium"), (0.151, "large")])
def test_size_bins_are_the_strata_of_the_study(area, name):
    assert size_class(area) == name


def test_words_come_in_the_order_of_the_aspects():
    assert tuple(words_of(MIDDLE)) == ASPECTS == tuple(WORDS)


def test_an_unknown_aspect_is_refused_with_the_known_ones():
    with pytest.raises(FindingsError, match=r"one of size, contrast, .*: 'color' is not"):
        describe(MIDDLE, keep=("size", "color"))
