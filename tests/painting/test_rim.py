"""Whether a moved lesion's surroundings meet those of its place."""

import dataclasses
import math

import numpy as np
import pytest

from diffaug.conditioning.backgrounds import Backgrounds
from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.request import RequestMasks
from diffaug.data.folder import read_dataset
from diffaug.painting.judging import is_hopeless
from diffaug.painting.layout import RIM, layout_of
from diffaug.painting.rim import rim_difference, usual_variation

SIDE, HALO = 96, 10.0
ROWS, COLUMNS = np.indices((SIDE, SIDE))
NEW = (ROWS - 48) ** 2 + (COLUMNS - 48) ** 2 <= 20**2
AWAY = np.hypot(ROWS - 48, COLUMNS - 48) - 20


@pytest.fixture(scope="module")
def tissue():
    rng = np.random.default_rng(0)
    return (np.array([170.0, 110.0, 90.0]) + rng.normal(0, 3, (SIDE, SIDE, 3))).astype(np.float32)


def with_edge(image, dark=0.5):
    """Darken what lies right of the lesion's middle, as lumen behind a fold is."""
    return np.where(COLUMNS[..., None] > 48, image * np.float32(dark), image)


def test_the_same_tissue_does_not_differ(tissue):
    assert rim_difference(tissue, tissue, NEW, HALO) == 0.0


def test_an_edge_that_one_of_both_shows_differs_and_more_if_it_is_stronger(tissue):
    weak, strong = (rim_difference(tissue, with_edge(tissue, dark), NEW, HALO) for dark in (0.8, 0.5))
    assert 5 < weak < strong
    assert rim_difference(with_edge(tissue, 0.5), tissue, NEW, HALO) == pytest.approx(strong)
    assert rim_difference(with_edge(tissue), with_edge(tissue), NEW, HALO) == 0.0


def test_texture_differs_little(tissue):
    other = tissue[::-1, ::-1]
    assert rim_difference(tissue, other, NEW, HALO) < 1.5


@pytest.mark.parametrize("where", [AWAY < -6, AWAY > HALO + 6])
def test_what_lies_deep_in_the_lesion_or_beyond_its_halo_does_not_count(tissue, where):
    changed = np.where(where[..., None], np.float32(20), tissue)
    assert rim_difference(tissue, changed, NEW, HALO) == pytest.approx(0.0, abs=0.5)


def test_a_lesion_that_brings_no_tissue_along_does_not_differ(tissue):
    assert rim_difference(tissue, with_edge(tissue), NEW, 0.0) == 0.0


def test_it_is_the_same_at_twice_the_size(tissue):
    twice = np.ones((2, 2, 1), dtype=np.float32)
    small = rim_difference(tissue, with_edge(tissue), NEW, HALO)
    large = rim_difference(
        np.kron(tissue, twice), np.kron(with_edge(tissue), twice), np.kron(NEW, twice[..., 0]) > 0, 20
    )
    assert large == pytest.approx(small, rel=0.1)


def test_usual_variation_is_that_of_the_annotated_lesions(phantoms):
    cases = {case.id: case for case in read_dataset(phantoms).split("train")}
    bank = MaskBank.from_cases(list(cases.values()))
    backgrounds = Backgrounds(cases, (), bank)
    usual = usual_variation(backgrounds, bank.entries, 0.4)
    each = [usual_variation(backgrounds, [entry], 0.4) for entry in bank.entries]
    known = [value for value in each if math.isfinite(value)]
    assert usual == pytest.approx(np.median(known)) and 0 < usual < 20
    assert usual_variation(backgrounds, [], 0.4) == math.inf


def test_a_layout_whose_rim_does_not_meet_its_place_is_hopeless():
    masks = RequestMasks(NEW, np.zeros_like(NEW), NEW, NEW.astype(np.uint8))
    frame = np.full((SIDE, SIDE, 3), 120, dtype=np.uint8)
    laid = layout_of(frame, masks, NEW[None], np.ones_like(NEW), prompt="a lesion", seed=0)
    for rim in (0.0, RIM):
        assert not is_hopeless(dataclasses.replace(laid, rim=rim))
    assert is_hopeless(dataclasses.replace(laid, rim=RIM + 0.1))
