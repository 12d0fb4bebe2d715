"""The domain that is proposed, and the words that it sets."""

from dataclasses import replace

import numpy as np
import pytest

from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.findings import DOMAINS, library_of
from diffaug.conditioning.grammar import KnownWords, contradictions, draw_prompt, words_in
from diffaug.conditioning.prompts import NORMAL, all_prompts, words_of
from diffaug.conditioning.proposal import Look, check_domain, learn_frames, proposed
from diffaug.conditioning.rules import ENDOSCOPIC
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import write_png
from diffaug.errors import ConfigError

SIDE = 96


@pytest.fixture
def cases_of(tmp_path):
    """Write frames of one ground colour and noise, each with one disc of another."""

    def made(ground, lesion, noise=4, count=6):
        rng, found = np.random.default_rng(0), []
        y, x = np.ogrid[:SIDE, :SIDE]
        for index in range(count):
            mask = (y - 48) ** 2 + (x - 30 - 5 * index) ** 2 <= 100
            grain = rng.normal(0, noise, (SIDE, SIDE, 1))
            image = np.clip(np.where(mask[..., None], lesion, ground) + grain, 0, 255).astype(np.uint8)
            case = Case(f"{index}", tmp_path / f"{index}.png", tmp_path / f"{index}m.png", "g", "train")
            write_png(case.image, image)
            write_png(case.mask, mask.astype(np.uint8) * 255)
            found.append(case)
        return found

    return made


@pytest.mark.parametrize(
    ("ground", "lesion", "noise", "domain", "word"),
    [
        ((170, 100, 90), (190, 80, 70), 4, "endoscopy", "red tissue"),
        ((2, 2, 2), (180, 180, 180), 1, "microscopy", "dark ground"),
        ((245, 240, 248), (120, 80, 160), 1, "microscopy", "white ground"),
        ((110, 110, 110), (40, 40, 40), 25, "ultrasound", "speckle"),
        ((110, 110, 110), (170, 170, 170), 1, "x-ray", "little grain"),
        ((225, 185, 165), (110, 70, 60), 2, "dermoscopy", "light tissue"),
    ],
)
def test_a_domain_is_proposed_with_its_reason(cases_of, ground, lesion, noise, domain, word):
    learned = learn_frames(cases_of(ground, lesion, noise))
    assert learned.rules.domain == domain and word in learned.domain_line()
    assert learned.rules.grey == (len(set(ground)) == 1)


def test_classes_of_disc_and_cup_are_fundus_and_a_chosen_domain_wins(cases_of):
    assert proposed(Look(100.0, 40.0, 40.0, 20.0, 0.01, 1.0), ["disc", "cup"])[0] == "fundus"
    learned = learn_frames(cases_of((170, 100, 90), (190, 80, 70)), "dermoscopy")
    assert learned.rules.domain == "dermoscopy" and "as chosen" in learned.domain_line()
    assert check_domain("colonoscopy") == "endoscopy"
    with pytest.raises(ConfigError, match="nearest: endoscopy"):
        check_domain("endoskopy")


def test_uneven_light_is_no_rule_of_scans_and_the_line_says_why(cases_of):
    cases = cases_of((110, 110, 110), (40, 40, 40), 4)
    assert learn_frames(cases, "x-ray").rules.uneven is not None
    learned = learn_frames(cases, "ultrasound")
    assert learned.rules.uneven is None and "uneven light (light is uneven" in learned.line()


def test_each_domain_names_lesion_free_tissue_and_mucosa_is_a_word_of_one():
    assert set(NORMAL) == set(DOMAINS)
    assert [domain for domain, words in NORMAL.items() if "mucosa" in words] == ["endoscopy"]
    for domain in DOMAINS:
        assert domain_of(["lesion"], replace(ENDOSCOPIC, domain=domain)).normal_prompt == NORMAL[domain]
    assert domain_of(["disc", "cup"]).normal_prompt == "normal retina"


def test_no_word_of_colour_is_said_of_grey_images(cases_of):
    cases = cases_of((90, 90, 90), (220, 220, 220))
    learned = learn_frames(cases)
    drawer = RequestDrawer(cases, 0, GenerateConfig(negatives=0.0), rules=learned.rules)
    requests = [drawer.draw(index) for index in range(12)]
    words = frozenset().union(*(words_in(request.prompt) for request in requests))
    assert "bright" in words and not words & {"pale", "reddish"}
    negatives = RequestDrawer(cases, 0, GenerateConfig(negatives=10.0), rules=learned.rules)
    said = {request.prompt for request in map(negatives.draw, range(12)) if request.negative}
    assert said == {NORMAL[learned.rules.domain]}
    assert words_of(drawer.examples.attributes[cases[0].id])["colour"] == "pale"


def test_a_finding_with_an_unknown_name_always_says_what_it_implies():
    known = KnownWords(frozenset().union(*(words_in(text) for text in all_prompts())) | {"bright"})
    for domain in DOMAINS:
        library = library_of(domain)
        for index in range(60):
            draft = draw_prompt(library, np.random.default_rng((1, index)), settings=False, known=known)
            silent = {
                aspect
                for name in draft.findings
                for aspect, words in library.findings[name].attributes.items()
                if not words
            }
            for name in draft.findings:
                finding = library.findings[name]
                if known.has(finding.term):
                    continue
                for aspect, words in finding.attributes.items():
                    if words and aspect not in silent and aspect not in draft.words:
                        assert all(contradictions([word, *draft.words.values()]) for word in words), (name, aspect)
                    elif words and aspect not in silent:
                        assert draft.words[aspect] in words, (domain, name, aspect)
