"""Lesions and outlines give back the mask that they came from, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffaug.data.lesions import CORNERS, connected_parts, lesion_masks
from diffaug.data.sources.polygons import Shape, draw
from diffaug.export.shapes import lesions_of, outline_of

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 17)))


def parts(mask):
    labels, count = connected_parts(mask)
    return [labels == number for number in range(1, count + 1)]


def drawn(ring, shape):
    return draw(Shape("lesion", (tuple(ring.ravel()),), "test"), *shape)


@settings(max_examples=300)
@given(masks)
def test_an_outline_drawn_by_pycocotools_is_the_part_with_its_holes(mask):
    for part in parts(mask):
        ring, holes = outline_of(part)
        assert np.array_equal(drawn(ring, mask.shape), part)
        assert holes == connected_parts_of_background(part)


def connected_parts_of_background(part):
    from scipy.ndimage import label

    return label(np.pad(~part, 1, constant_values=True))[1] - 1


@settings(max_examples=100)
@given(masks)
def test_an_outline_cut_down_to_whole_pixels_stays_on_the_part(mask):
    """As OpenCV draws it, with the pixels of the line itself."""
    for part in parts(mask):
        corners = outline_of(part)[0].astype(int)
        assert all(part[y, x] for x, y in corners)


@pytest.mark.parametrize("size", [(40, 48), (1080, 1920), (2848, 4288)])
def test_an_outline_survives_six_decimals_of_the_frame(size):
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows - height / 2) / (height / 3)) ** 2 + ((columns - width / 2) / (width / 4)) ** 2 <= 1
    mask &= ((rows - height / 2) / (height / 9)) ** 2 + ((columns - width / 2) / (width / 9)) ** 2 > 1
    ring, holes = outline_of(mask)
    scaled = np.round(ring / (width, height), 6) * (width, height)
    assert holes == 1 and np.array_equal(drawn(scaled, size), mask)


@given(masks)
def test_the_lesions_of_a_mask_are_disjoint_and_together_the_mask(mask):
    found = lesions_of(mask)
    total = np.sum(found, axis=0) if found else np.zeros(mask.shape, int)
    assert np.array_equal(total, mask.astype(int))


def test_a_lesion_takes_the_specks_near_it_and_as_many_are_found_as_everywhere_else():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 10:20] = mask[60:80, 60:80] = True
    mask[22, 12] = mask[58, 58] = mask[90, 90] = True
    found = lesions_of(mask)
    assert len(found) == len(lesion_masks(mask)) == 2
    assert found[0].sum() == 402 and found[1].sum() == 101
    assert found[1][22, 12] and found[0][58, 58] and found[0][90, 90]


def test_pixels_that_touch_at_a_corner_are_one_lesion():
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = mask[8:14, 8:14] = True
    (only,) = lesions_of(mask)
    ring, holes = outline_of(only)
    assert holes == 0 and np.array_equal(drawn(ring, mask.shape), mask)
    assert CORNERS.all()
