"""Several new lesions in one case."""

import numpy as np
import pytest
from scipy import ndimage

from diffaug.conditioning.chances import MOST, usual_number
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.masks import MaskBank
from diffaug.config import GenerateConfig
from diffaug.data.phantom import make_phantoms


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    data = make_phantoms(tmp_path_factory.mktemp("cells") / "data", 5, 1, 1, 0, kind="cells", size=160, seed=3)
    return data.split("train")


def test_the_number_of_new_lesions_follows_the_data(cases, cells):
    assert usual_number(MaskBank.from_cases(cases)) == 1
    assert usual_number(MaskBank.from_cases(cells)) == MOST


@pytest.mark.parametrize("place", ["mixed", "free", "removed"])
def test_lesions_of_one_case_lie_apart_on_one_background(cases, place):
    drawer = RequestDrawer(cases, 0, GenerateConfig(negatives=0.0, lesions_per_case=3, place=place))
    several = 0
    for number in range(6):
        requests = drawer.draw_case(number)
        assert len({request.background for request in requests}) == 1
        assert len({request.seed for request in requests}) == len(requests)
        assert all(request.index // 3 == number for request in requests)
        masks = [drawer.masks(request) for request in requests]
        together = np.sum([ndimage.binary_dilation(each.new, iterations=2) for each in masks], axis=0)
        assert together.max() == 1
        olds = np.sum([each.old for each in masks], axis=0)
        assert olds.max() <= 1
        several += len(requests) > 1
    assert several >= 4


def test_a_case_of_several_lesions_depends_on_its_number_alone(cases):
    config = GenerateConfig(negatives=0.5, lesions_per_case=2)
    first, again = RequestDrawer(cases, 0, config), RequestDrawer(cases, 0, config)
    assert [first.draw_case(number) for number in range(4)] == [again.draw_case(n) for n in (3, 2, 1, 0)][::-1]
    for number in range(4):
        for request in first.draw_case(number):
            assert first.draw(request.index) == request


def test_one_lesion_a_case_is_drawn_as_it_was_without_the_knob(cases):
    plain, asked = (RequestDrawer(cases, 0, GenerateConfig(lesions_per_case=number)) for number in (0, 1))
    assert [plain.draw(index) for index in range(6)] == [asked.draw(index) for index in range(6)]
    assert [asked.draw_case(index) for index in range(6)] == [(asked.draw(index),) for index in range(6)]
