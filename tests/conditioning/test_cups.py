import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from layouts import ellipse

from diffaug.conditioning.cups import CUPS, cup_class, cup_of_ratio, describe_disc, draw_ratio, terms
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.findings import library_of
from diffaug.conditioning.grammar import KnownWords
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.conditioning.request import masks_of_request
from diffaug.config import GenerateConfig
from diffaug.data.case import masks_from_label
from diffaug.data.folder import read_dataset
from diffaug.data.fundus import DISC_AND_CUP, vertical_diameter, vertical_ratio
from diffaug.errors import ConfigError, DataError, ShapeError

FRAME = (120, 110)
DISC = ellipse(FRAME, (60, 55), (50, 44))
CUPS_OF_EYES = {
    "central": ellipse(FRAME, (60, 55), (22, 20)),
    "lateral": ellipse(FRAME, (52, 66), (24, 18), 0.6),
    "notched": ellipse(FRAME, (58, 55), (20, 20)) | ellipse(FRAME, (84, 60), (18, 9)),
    "none": np.zeros(FRAME, dtype=bool),
}
RATIOS = (0.05, 0.2, 0.33, 0.5, 0.66, 0.8, 0.95)


@pytest.mark.parametrize("name", CUPS_OF_EYES)
def test_a_cup_has_the_requested_ratio_within_a_pixel_inside_its_disc_and_grows_with_it(name):
    found = [cup_of_ratio(DISC, CUPS_OF_EYES[name] & DISC, ratio) for ratio in RATIOS]
    for ratio, cup in zip(RATIOS, found, strict=True):
        assert abs(vertical_diameter(cup) - ratio * vertical_diameter(DISC)) <= 1
        assert not (cup & ~DISC).any()
    for smaller, larger in pairwise(found):
        assert not (smaller & ~larger).any() and larger.sum() > smaller.sum()


def test_a_cup_at_its_own_ratio_is_nearly_itself_and_without_a_ratio_there_is_none():
    for name in ("central", "lateral"):
        cup = CUPS_OF_EYES[name]
        again = cup_of_ratio(DISC, cup, vertical_ratio(DISC, cup))
        assert (again ^ cup).sum() < 0.05 * cup.sum()
    assert not cup_of_ratio(DISC, CUPS_OF_EYES["central"], 0.0).any()


def test_the_classes_of_cups_are_those_that_the_findings_describe():
    library = library_of("fundus")
    assert list(library.spoken("cup")) == list(CUPS)
    low = 0.0
    for name, limit in CUPS.items():
        numbers = [float(one) for one in re.findall(r"0\.\d", library.findings[name].description)][:2]
        assert set(numbers) == {one for one in (low, limit) if 0 < one < 1}
        assert cup_class((low + limit) / 2) == cup_class(low) == name
        assert terms()[name] == library.findings[name].term
        low = limit
    assert cup_class(1.0) == "very-large-cup"


def test_a_disc_is_described_by_what_is_measured():
    words = {"size": "large", "shape": "round", "contrast": "", "colour": "reddish", "border": "sharp"}
    assert describe_disc(words, set(words), 0.34) == "a large round optic disc with a cup of average size"
    assert describe_disc(words, {"shape"}, 0.05) == "a round optic disc with no visible cup"
    assert describe_disc(words, set(), None) == "an optic disc"


def test_ratios_are_drawn_from_every_class_that_was_seen_and_not_beyond():
    seen = [0.36, 0.41, 0.44, 0.62, 0.74, 0.75, 0.8]
    rng = np.random.default_rng(0)
    drawn = [draw_ratio(seen, rng) for _ in range(600)]
    assert min(drawn) >= 0.36 and max(drawn) <= 0.8
    shares = [np.mean([cup_class(ratio) == name for ratio in drawn]) for name in CUPS]
    assert shares == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3], abs=0.07)
    assert draw_ratio([0.5], rng) == 0.5


# Requests


@pytest.fixture(scope="module")
def trained(eyes):
    return read_dataset(eyes).split("train")


@pytest.mark.parametrize("domain", ["generic", "fundus"])
def test_a_request_paints_another_cup_into_the_disc_that_is_there_and_says_so(trained, domain):
    drawer = RequestDrawer(trained, 0, GenerateConfig(domain=domain))
    for index in range(16):
        request = drawer.draw(index)
        masks = drawer.masks(request)
        before = drawer.cases[request.background].read_label()
        disc, cup = masks.new_classes(drawer.classes)
        assert request.placement == "replace" and request.mask_case == request.background
        assert (disc == (before > 0)).all() and (masks.new == masks.old).all() and (masks.label == masks.new).all()
        assert not (cup & ~disc).any()
        assert abs(vertical_diameter(cup) - request.cup_ratio * vertical_diameter(disc)) <= 1
        assert terms()[cup_class(request.cup_ratio)] in request.prompt
        others = [term for name, term in terms().items() if name in CUPS and name != cup_class(request.cup_ratio)]
        assert not any(term in request.prompt for term in others)
        assert set(np.unique(masks.values)) <= {0, 1, 2}


def test_findings_of_a_disc_agree_with_its_cup_and_never_speak_of_a_rim(trained):
    drawer = RequestDrawer(trained, 0, GenerateConfig(domain="fundus"))
    findings = drawer.library.findings
    drawn = [drawer.draw(index) for index in range(60)]
    for request in drawn:
        said = [findings[name] for name in request.findings]
        assert cup_class(request.cup_ratio) in request.findings
        assert "rim" not in {one.group for one in said}
        assert not any(other in one.excludes for one in said for other in request.findings)
    assert len({request.findings for request in drawn}) > 10
    known = KnownWords(frozenset({"a", "large", "optic", "disc", "with"}))
    deaf = RequestDrawer(trained, 0, GenerateConfig(domain="fundus"), known_words=known)
    for request in (deaf.draw(index) for index in range(20)):
        assert "optic disc" in request.prompt and "lesion" not in request.prompt


def test_the_masks_of_a_request_for_a_cup_follow_from_the_request_alone(trained):
    drawer = RequestDrawer(trained, 3, GenerateConfig())
    request = drawer.draw(5)
    assert request.cup_ratio is not None
    label = drawer.cases[request.background].read_label()
    masks = masks_of_request(request, drawer.bank, label, classes=DISC_AND_CUP)
    assert (masks.values == drawer.masks(request).values).all()
    assert drawer.draw(5) == request != drawer.draw(6)


def test_a_users_own_prompt_of_a_disc_is_kept(trained):
    cases = [replace(case, prompt="tilted disc") for case in trained]
    assert RequestDrawer(cases, 0, GenerateConfig()).draw(0).prompt == "tilted disc"


def test_a_second_disc_in_an_eye_is_refused(trained):
    with pytest.raises(ConfigError, match="an eye has one disc") as error:
        RequestDrawer(trained, 0, GenerateConfig(place="free"))
    assert "\n" not in str(error.value)


def test_other_labels_are_written_in_their_own_values_and_what_stays_is_kept(trained):
    case = trained[0]
    drawer = RequestDrawer(trained, 0, GenerateConfig())
    label = np.array(case.read_label())
    label[:4, :4] = 1  # a second component that no request touches
    masks = masks_of_request(replace(drawer.draw(0), background=case.id), drawer.bank, label, classes=DISC_AND_CUP)
    if not masks.new[:4, :4].any():
        assert (masks.values[:4, :4] == 1).all() and masks.label[:4, :4].all()
    disc, cup = masks_from_label(masks.values, DISC_AND_CUP)
    assert (disc == masks.label).all() and not (cup & ~disc).any()


def test_lesion_free_tissue_is_called_by_its_name():
    assert domain_of(("disc", "cup")).normal_prompt == "normal retina"
    assert domain_of(("lesion",)).normal_prompt == domain_of(("polyp", "tool")).normal_prompt == NORMAL_PROMPT


def test_a_cup_without_a_disc_or_beyond_it_is_refused():
    disc = np.ones((9, 9), bool)
    for mask, ratio in ((~disc, 0.5), (disc, 1.2), (disc, -0.1)):
        with pytest.raises(DataError, match="its ratio is 0 to 1"):
            cup_of_ratio(mask, ~disc, ratio)
    with pytest.raises(ShapeError):
        cup_of_ratio(disc, disc[1:], 0.5)
