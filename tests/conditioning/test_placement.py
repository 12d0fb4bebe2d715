import numpy as np
import pytest
from scipy import ndimage

from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.masks import paste
from diffaug.conditioning.placement import (
    field_of_view,
    highlights,
    overlays,
    place_free,
    place_replace,
    placement_map_of,
)
from diffaug.conditioning.writing import writing


def test_the_field_of_view_leaves_out_black_corners_and_the_overlay_box(frame_of):
    for seed in range(6):
        image, _ = frame_of(seed)
        view = field_of_view(image)
        assert not view[0, 0] and not view[5, 80] and not view[128, 32]
        assert not (view & (image.max(axis=2) < 20)).any()
        assert view[80, 80] and view.mean() > 0.6


def test_a_dark_lumen_inside_belongs_to_the_field_of_view(ellipse_in):
    image = np.full((120, 120, 3), (180, 100, 90), np.uint8)
    lumen = ellipse_in((120, 120), (60, 60), (20, 20))
    image[lumen] = 5
    assert field_of_view(image).all()


def test_a_black_frame_has_no_field_of_view():
    black = np.zeros((90, 90, 3), np.uint8)
    assert not field_of_view(black).any()
    places = placement_map_of(black, np.zeros((90, 90), bool))
    assert place_free(places, np.ones((4, 4), bool), np.random.default_rng(0)) is None


def test_plain_tissue_is_all_field_of_view():
    assert field_of_view(np.full((64, 90, 3), (170, 90, 80), np.uint8)).all()


def test_light_text_on_black_is_no_tissue():
    image = np.zeros((200, 260, 3), np.uint8)
    image[:, 80:] = (170, 90, 80)
    image[20:26, 10:60:4] = 230
    assert not field_of_view(image)[:, :78].any()


def test_an_overlay_is_a_filled_rectangle_of_a_colour_that_tissue_has_not(ellipse_in):
    image = np.full((200, 200, 3), (180, 100, 90), np.uint8)
    image[140:180, 20:70] = (10, 40, 200)
    found = overlays(image)
    assert found[140:180, 20:70].all() and found.mean() < 0.1
    assert not overlays(np.full((50, 50, 3), 128, np.uint8)).any()


def test_a_flat_grey_box_is_an_overlay_and_overexposed_tissue_is_none(ellipse_in):
    image = np.random.default_rng(0).normal((180, 100, 90), 6, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    image[ellipse_in((200, 200), (50, 60), (30, 30))] = 255
    assert not overlays(image).any()
    image[140:180, 20:70] = 96
    found = overlays(image)
    assert found[141:179, 21:69].all() and found.mean() < 0.1


def with_text(rng, top, left):
    """Return tissue with a line of ten different glyphs, each 7 px high."""
    image = rng.normal((150, 80, 70), 4, (352, 352, 3)).clip(0, 255).astype(np.uint8)
    for glyph in range(10):
        image[top : top + 7, left + 6 * glyph : left + 6 * glyph + 4][rng.random((7, 4)) < 0.7] = 225
    return image


def test_a_line_of_text_is_found_and_no_mask_lies_on_it(ellipse_in):
    image = with_text(np.random.default_rng(0), 100, 20)
    found = writing(image, lab_from_rgb(image))
    assert found[101:106, 22:76].all() and not found[:90].any() and not found[:, 100:].any()
    places = placement_map_of(image, np.zeros((352, 352), bool))
    shape = ellipse_in((61, 61), (30, 30), (30, 30))
    for seed in range(20):
        assert not (paste(shape, *place_free(places, shape, np.random.default_rng(seed)), (352, 352)) & found).any()
    old = ellipse_in((352, 352), (104, 48), (35, 35))
    place = place_replace(placement_map_of(image, old), old, shape)
    assert place is None or np.count_nonzero(paste(shape, *place, (352, 352)) & found) <= 0.005 * shape.sum()


def test_a_large_mask_needs_more_light_than_a_small_one(ellipse_in):
    image = np.full((128, 128, 3), (108, 70, 64), np.uint8)
    assert 33 < lab_from_rgb(image)[0, 0, 0] < 36
    places = placement_map_of(image, np.zeros((128, 128), bool))
    small, large = (ellipse_in((2 * r + 1, 2 * r + 1), (r, r), (r, r)) for r in (4, 30))
    assert place_free(places, small, np.random.default_rng(0)) is not None
    assert place_free(places, large, np.random.default_rng(0)) is None


def test_highlights_are_bright_without_colour(frame_of):
    image, _ = frame_of(0)
    image[70:76, 80:86] = 255
    assert highlights(lab_from_rgb(image))[70:76, 80:86].all()
    assert highlights(lab_from_rgb(image)).mean() < 0.05


@pytest.mark.parametrize("radius", [5, 9, 16])
def test_a_free_mask_lies_in_the_field_of_view_and_off_the_lesions(frame_of, ellipse_in, radius):
    shape = ellipse_in((2 * radius + 1, 2 * radius + 1), (radius, radius), (radius, 0.7 * radius))
    placed = 0
    for seed in range(40):
        image, lesion = frame_of(seed)
        places, view = placement_map_of(image, lesion), field_of_view(image)
        rng = np.random.default_rng(seed)
        for _ in range(3):
            place = place_free(places, shape, rng, margin=3.0)
            if place is not None:
                placed += 1
                new = paste(shape, *place, places.frame)
                assert np.count_nonzero(new) == np.count_nonzero(shape)
                near = ndimage.distance_transform_edt(~new) < 3.0
                assert view[near].all() and not lesion[near].any()
    assert placed > 60


def test_free_positions_cover_the_tissue(ellipse_in):
    image = np.full((128, 128, 3), (170, 90, 80), np.uint8)
    places = placement_map_of(image, np.zeros((128, 128), bool))
    rng = np.random.default_rng(0)
    shape = ellipse_in((11, 11), (5, 5), (5, 5))
    found = np.array([place_free(places, shape, rng) for _ in range(200)])
    assert found.min() < 12 and found.max() > 104
    assert np.abs(found.mean(axis=0) - 58.5).max() < 10


def test_highlights_and_deep_shadow_are_avoided(ellipse_in):
    image = np.full((128, 128, 3), (170, 90, 80), np.uint8)
    image[:, :60] = (40, 20, 20)
    image[:60, 60:] = 255
    places = placement_map_of(image, np.zeros((128, 128), bool))
    shape = ellipse_in((21, 21), (10, 10), (10, 10))
    for seed in range(20):
        place = place_free(places, shape, np.random.default_rng(seed))
        assert place is not None and place[0] > 55 and place[1] > 55


def test_a_mask_larger_than_the_free_tissue_is_not_placed(frame_of):
    image, lesion = frame_of(1)
    assert place_free(placement_map_of(image, lesion), np.ones((120, 120), bool), np.random.default_rng(0)) is None
    assert place_free(placement_map_of(image, lesion), np.ones((300, 4), bool), np.random.default_rng(0)) is None


def test_a_replacing_mask_covers_most_of_the_old_lesion_and_touches_no_other(frame_of, ellipse_in):
    placed = 0
    for seed in range(30):
        image, lesion = frame_of(seed)
        labels, count = ndimage.label(lesion, structure=np.ones((3, 3)))
        places, view = placement_map_of(image, lesion), field_of_view(image)
        for index in range(1, count + 1):
            old = labels == index
            radius = max(3, int(np.sqrt(np.count_nonzero(old) / np.pi)))
            shape = ellipse_in((2 * radius + 1, 2 * radius + 1), (radius, radius), (radius, radius))
            place = place_replace(places, old, shape)
            if place is not None:
                placed += 1
                new = paste(shape, *place, places.frame)
                assert view[new].all()
                assert not (new & lesion & ~ndimage.binary_dilation(old, np.ones((3, 3)), iterations=4)).any()
                assert np.count_nonzero(new & old) >= 0.65 * min(np.count_nonzero(old), np.count_nonzero(new))
    assert placed > 20


def test_frames_that_are_no_multiple_of_a_cell_are_handled(ellipse_in):
    image = np.full((301, 443, 3), (170, 90, 80), np.uint8)
    lesion = ellipse_in((301, 443), (150, 100), (40, 50))
    places = placement_map_of(image, lesion)
    shape = ellipse_in((61, 61), (30, 30), (30, 30))
    for seed in range(30):
        place = place_free(places, shape, np.random.default_rng(seed), margin=5.0)
        assert place is not None
        new = paste(shape, *place, (301, 443))
        assert np.count_nonzero(new) == np.count_nonzero(shape) and not (new & lesion).any()
