from dataclasses import astuple

import numpy as np
import pytest

from diffaug.conditioning.attributes import lab_from_rgb, measure_attributes, surroundings_of
from diffaug.errors import DataError, ShapeError


def flat_frame(mask, inside, outside):
    return np.where(mask[..., None], inside, outside).astype(np.uint8)


@pytest.fixture
def disc(ellipse_in):
    return ellipse_in((128, 128), (60, 66), (22, 22))


def test_lab_agrees_with_scikit_image():
    from skimage.color import rgb2lab

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(lab_from_rgb(image), rgb2lab(image), atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_flips_and_quarter_turns_change_no_attribute(frame_of, seed):
    image, mask = frame_of(seed)
    expected = astuple(measure_attributes(image, mask))
    for turns in range(4):
        for flip in (False, True):
            turned = np.rot90(image, turns), np.rot90(mask, turns)
            turned = tuple(np.ascontiguousarray(part[:, ::-1] if flip else part) for part in turned)
            assert astuple(measure_attributes(*turned)) == pytest.approx(expected, rel=0.05, abs=0.15)


def test_a_lesion_measures_the_same_in_a_frame_of_twice_the_size(frame_of):
    image, mask = frame_of(2)
    small = measure_attributes(image, mask)
    large = measure_attributes(np.kron(image, np.ones((4, 4, 1), np.uint8)), np.kron(mask, np.ones((4, 4), bool)))
    assert large.relative_area == small.relative_area
    assert large.equivalent_diameter == pytest.approx(4 * small.equivalent_diameter)
    assert large.colour_contrast == pytest.approx(small.colour_contrast, abs=1.0)
    assert large.solidity == pytest.approx(small.solidity, abs=0.03)


def test_a_brighter_lesion_has_positive_lightness_contrast_and_a_darker_one_negative(disc):
    assert measure_attributes(flat_frame(disc, (220, 150, 130), (180, 100, 90)), disc).lightness_contrast > 10
    assert measure_attributes(flat_frame(disc, (130, 60, 50), (180, 100, 90)), disc).lightness_contrast < -10


def test_a_redder_lesion_has_positive_redness_contrast(disc):
    assert measure_attributes(flat_frame(disc, (200, 80, 70), (190, 130, 110)), disc).redness_contrast > 10


def test_equal_colour_has_no_contrast_and_no_edge(disc):
    measured = measure_attributes(flat_frame(disc, (180, 100, 90), (180, 100, 90)), disc)
    assert measured.colour_contrast == measured.lightness_contrast == measured.edge_sharpness == 0.0
    assert measured.texture == pytest.approx(1.0)


def test_a_blurred_border_is_less_sharp(disc):
    from scipy.ndimage import gaussian_filter

    sharp = flat_frame(disc, (230, 160, 140), (170, 90, 80))
    soft = gaussian_filter(sharp.astype(float), (6, 6, 0)).astype(np.uint8)
    assert measure_attributes(soft, disc).edge_sharpness < 0.7 * measure_attributes(sharp, disc).edge_sharpness


def test_a_grainy_lesion_on_smooth_tissue_is_textured(disc):
    image = flat_frame(disc, (180, 100, 90), (180, 100, 90)).astype(float)
    grain = np.random.default_rng(0).normal(0, 10, disc.shape)[..., None] * disc[..., None]
    assert measure_attributes(np.clip(image + grain, 0, 255).astype(np.uint8), disc).texture > 2


def test_highlights_and_the_black_border_do_not_change_contrasts(disc):
    image = flat_frame(disc, (200, 120, 100), (170, 90, 80))
    marked = image.copy()
    marked[58:64, 60:72] = 255
    marked[:, 88:] = 0  # the border cuts into the ring
    clean, dirty = measure_attributes(image, disc), measure_attributes(marked, disc)
    assert dirty.colour_contrast == pytest.approx(clean.colour_contrast, abs=0.5)


def speckled(image, inside, count, seed=0):
    """Return the image with small blurred highlights, as light on a wet surface."""
    from scipy.ndimage import gaussian_filter

    rows, columns = np.nonzero(inside)
    spots = np.zeros(inside.shape)
    for chosen in np.random.default_rng(seed).choice(len(rows), count):
        spots[rows[chosen] - 1 : rows[chosen] + 2, columns[chosen] - 1 : columns[chosen] + 2] = 1
    share = gaussian_filter(spots, 0.7)[..., None]
    return (image * (1 - share) + 255 * share).astype(np.uint8)


@pytest.fixture
def soft_lesion(disc):
    """A lesion with a soft border and a little grain, inside and out."""
    from scipy.ndimage import gaussian_filter

    flat = gaussian_filter(flat_frame(disc, (205, 120, 105), (175, 95, 85)).astype(float), (3, 3, 0))
    grain = gaussian_filter(np.random.default_rng(0).normal(0, 6, flat.shape), (1, 1, 0))
    return np.clip(flat + grain, 0, 255).astype(np.uint8)


def test_highlights_leave_contrasts_and_edge_as_they_are(disc, soft_lesion):
    clean = measure_attributes(soft_lesion, disc)
    for count in (3, 8, 15):
        dirty = measure_attributes(speckled(soft_lesion, disc, count), disc)
        for name in ("lightness_contrast", "redness_contrast", "colour_contrast", "edge_sharpness"):
            assert getattr(dirty, name) == pytest.approx(getattr(clean, name), abs=0.8), name


def test_a_black_border_that_cuts_the_lesion_makes_no_edge(disc, soft_lesion):
    clean = measure_attributes(soft_lesion, disc)
    cut, mask = soft_lesion.copy(), disc.copy()
    cut[:, 72:], mask[:, 72:] = 0, False
    dirty = measure_attributes(cut, mask)
    assert dirty.colour_contrast == pytest.approx(clean.colour_contrast, abs=1.0)
    assert dirty.edge_sharpness < 1.1 * clean.edge_sharpness


def test_highlights_leave_the_texture_as_it_is(disc, soft_lesion):
    dirty = measure_attributes(speckled(soft_lesion, disc, 8), disc)
    assert dirty.texture == pytest.approx(measure_attributes(soft_lesion, disc).texture, abs=0.3)


def test_a_disc_is_round_and_a_bar_is_elongated_and_a_star_is_not_solid(ellipse_in):
    image = np.full((128, 128, 3), 120, np.uint8)
    disc = measure_attributes(image, ellipse_in((128, 128), (64, 64), (30, 30)))
    bar = measure_attributes(image, ellipse_in((128, 128), (64, 64), (10, 50)))
    cross = ellipse_in((128, 128), (64, 64), (6, 50)) | ellipse_in((128, 128), (64, 64), (50, 6))
    assert disc.eccentricity < 0.2
    assert bar.eccentricity == pytest.approx(np.sqrt(1 - 0.2**2), abs=0.02)
    assert disc.solidity > 0.97
    assert measure_attributes(image, cross).solidity < 0.6


def odd_masks():
    full = np.ones((40, 50), bool)
    dot, line, corner = np.zeros_like(full), np.zeros_like(full), np.zeros_like(full)
    dot[20, 20] = line[3] = corner[:15, :15] = True
    rest = full.copy()
    rest[0, 0] = False
    return {"full": full, "dot": dot, "line": line, "corner": corner, "all but one": rest, "empty": ~full}


@pytest.mark.parametrize("name", list(odd_masks()))
def test_every_attribute_is_finite_whatever_the_mask(name):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for picture in (image, np.zeros_like(image), np.full_like(image, 255)):
        assert np.isfinite(astuple(measure_attributes(picture, odd_masks()[name]))).all()


def test_an_image_and_a_mask_that_do_not_fit_are_refused(frame_of):
    image, mask = frame_of(1)
    for measure in (measure_attributes, surroundings_of):
        with pytest.raises(ShapeError, match=r"the shape of its image, \(100, 160\): this one has \(160, 160\)"):
            measure(image[:100], mask)
        with pytest.raises(ShapeError, match=r"an image has the shape \(H, W, 3\): this one has \(160, 160\)"):
            measure(image[..., 0], mask)
        with pytest.raises(ShapeError, match=r"\(160, 160, 4\)"):
            measure(np.concatenate([image, image[..., :1]], axis=2), mask)
        with pytest.raises(DataError, match=r"a mask is boolean.*holds uint8; pass mask > 0"):
            measure(image, mask.astype(np.uint8))
        with pytest.raises(DataError, match=r"an image holds bytes.*float64"):
            measure(image / 255, mask)
    with pytest.raises(DataError, match="the mask is empty"):
        surroundings_of(image, np.zeros_like(mask))


def test_sides_of_a_flipped_lesion_are_those_of_the_flipped_image(frame_of):
    image, mask = frame_of(2)
    lit = np.clip(image * np.linspace(0.7, 1.2, image.shape[1])[None, :, None], 0, 255).astype(np.uint8)
    here = surroundings_of(lit, mask)
    there = surroundings_of(np.ascontiguousarray(lit[:, ::-1]), np.ascontiguousarray(mask[:, ::-1]))
    assert here.differ(here) == 0.0 and there.differ(here) == pytest.approx(here.differ(there))
    assert here.differ(there, flip=True) < 0.6 < here.differ(there)


def test_light_of_another_brightness_has_the_same_sides(frame_of):
    image, mask = frame_of(2)
    darker = (image * 0.8).astype(np.uint8)
    assert surroundings_of(image, mask).differ(surroundings_of(darker, mask)) < 0.6
