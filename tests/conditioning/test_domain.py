import numpy as np
import pytest
from layouts import ellipse

from diffaug.conditioning.domain import CUP, Domain, OpticDisc, domain_of, strata_of_ratio
from diffaug.conditioning.prompts import ASPECTS, describe_words
from diffaug.data.case import Case
from diffaug.errors import ConfigError

WORDS = {"size": "large", "shape": "round", "colour": "pale"}
DISC = ellipse((60, 60), (30, 30), (20, 20))


def stack(radius: int) -> np.ndarray:
    """Return the masks of a disc and of a cup with a radius, (2, H, W)."""
    return np.stack([DISC, ellipse((60, 60), (30, 30), (radius, radius)) & DISC])


def test_the_names_of_the_classes_decide_the_domain():
    for names in ((), ("lesion",), ("polyp", "tool"), ("cup",), ("disc",)):
        assert type(domain_of(names)) is Domain
    for names in (("disc", "cup"), ("cup", "disc"), ("disc", "cup", "vessel")):
        assert type(domain_of(names)) is OpticDisc


def test_lesions_have_nothing_beside_what_every_lesion_has():
    domain, masks = domain_of(("adenoma", "serrated")), stack(8)
    assert not domain.stays_in_place and domain.noun == "lesion"
    assert domain.aspects == domain.columns == domain.strata == ()
    assert domain.describe(WORDS, ASPECTS, masks) == describe_words(WORDS)
    assert domain.ratio(masks) is None and domain.scores(masks, masks) == {}
    for place in ("mixed", "free", "replace", "removed"):
        domain.check_place(place)


def test_a_disc_is_described_with_its_cup_where_that_is_to_be_mentioned():
    domain = domain_of(("disc", "cup"))
    assert domain.describe(WORDS, ASPECTS, stack(8)) == "a large round optic disc"
    assert domain.describe(WORDS, {*ASPECTS, CUP}, stack(4)) == "a large round optic disc with a small cup"
    assert domain.describe(WORDS, {CUP}, stack(19)) == "an optic disc with a very large cup"


def test_the_order_of_the_classes_changes_no_answer():
    masks, others = stack(8), stack(12)
    one, other = domain_of(("disc", "cup")), domain_of(("cup", "disc"))
    assert one.ratio(masks) == other.ratio(masks[::-1])
    assert one.scores(masks, others) == other.scores(masks[::-1], others[::-1])


def test_scores_have_the_columns_that_are_announced():
    domain, none = domain_of(("disc", "cup")), np.zeros((2, 60, 60), bool)
    for references, predictions in ((stack(8), stack(12)), (stack(8), none), (none, stack(8))):
        assert tuple(domain.scores(references, predictions)) == domain.columns
    assert domain.scores(stack(8), stack(8))["vcdr_error"] == 0
    assert domain.scores(stack(8), none) == {"vcdr": None, "vcdr_error": domain.ratio(stack(8))}
    assert domain.scores(none, stack(8))["vcdr_error"] is None
    assert set(domain.summary) <= set(domain.columns)


def test_every_ratio_is_of_one_stratum():
    assert domain_of(("disc", "cup")).strata == ("smaller-cup", "very-large-cup")
    assert [strata_of_ratio(ratio) for ratio in (None, 0.0, 0.69, 0.7, 1.0)] == [
        (), ("smaller-cup",), ("smaller-cup",), ("very-large-cup",), ("very-large-cup",)
    ]  # fmt: skip


def test_a_cup_moves_to_the_cup_where_both_discs_have_one(eyes):
    from diffaug.data.folder import read_dataset

    case: Case = read_dataset(eyes).split("train")[0]
    disc, cup = case.read_masks()
    domain = domain_of(case.class_names)
    ((source, target),) = domain.nested(case, disc, stack(8))
    np.testing.assert_array_equal(source, cup & disc)
    np.testing.assert_array_equal(target, stack(8)[1])
    assert domain.nested(case, disc, stack(8) & False) == []
    assert domain_of(("lesion",)).nested(case, disc, DISC[None]) == []


def test_a_second_disc_in_a_frame_is_refused():
    with pytest.raises(ConfigError, match="place is free; set it to replace"):
        domain_of(("disc", "cup")).check_place("free")
    for place in ("mixed", "replace", "removed"):
        domain_of(("disc", "cup")).check_place(place)
