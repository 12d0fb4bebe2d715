import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from diffaug.painting.light import (
    BRIGHTER,
    LIGHTER,
    LIGHTEST,
    SHARPER,
    SOFTER,
    brightness,
    in_detail_of,
    light_quotient,
    membrane,
    relit,
    tinted,
    unclipped,
)

SIDE = 40


def disc(radius, side=SIDE):
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(rows, columns) <= radius


def flat(*colour):
    return np.full((SIDE, SIDE, 3), colour, dtype=np.float32)


RING, BODY = disc(16) & ~disc(12), disc(12)


def with_body(colour, tissue):
    return np.where(BODY[..., None], np.float32(colour), np.float32(tissue))


@given(st.integers(0, 99))
def test_a_membrane_keeps_what_is_known_and_stays_between(seed):
    values = np.random.default_rng(seed).standard_normal((12, 17, 2)).astype(np.float32)
    known = np.random.default_rng(seed).random((12, 17)) < 0.3
    known[0, 0] = True
    found = membrane(values, known)
    np.testing.assert_allclose(found[known], values[known], atol=1e-5)
    low, high = values[known].min(axis=0), values[known].max(axis=0)
    assert (found >= low - 1e-4).all() and (found <= high + 1e-4).all()


def test_a_membrane_is_linear_between_two_sides():
    values, known = np.zeros((9, 9, 1), dtype=np.float32), np.zeros((9, 9), dtype=bool)
    values[:, 8], known[:, [0, 8]] = 8.0, True
    np.testing.assert_allclose(membrane(values, known)[4, :, 0], np.arange(9), atol=1e-4)


@given(st.floats(60, 140), st.floats(60, 140))
def test_what_is_moved_takes_on_the_light_of_the_place(here, there):
    patch = with_body((40, 40, 40), (here,) * 3)
    made = relit(patch, flat(there, there, there), RING, BODY)
    ratio = np.clip((there + 6) / (here + 6), np.exp(-BRIGHTER), np.exp(BRIGHTER))
    np.testing.assert_allclose(made[BODY], 40 * ratio, rtol=0.02)


def test_in_its_own_light_nothing_changes():
    patch = np.random.default_rng(0).uniform(30, 120, (SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(relit(patch, patch, RING, BODY), patch, rtol=1e-4)


def test_light_that_falls_off_falls_off_inside():
    place = flat(1, 1, 1) * np.linspace(80, 120, SIDE, dtype=np.float32)[None, :, None]
    made = relit(flat(100, 100, 100), place, RING, BODY)
    assert made[SIDE // 2, 12, 0] < 96 < 104 < made[SIDE // 2, 28, 0]


def test_without_tissue_around_the_light_stays():
    assert (light_quotient(flat(10, 10, 10), flat(90, 90, 90), np.zeros((SIDE, SIDE), bool)) == 1).all()


def test_a_pale_lesion_is_not_lit_until_it_is_white():
    pale = np.random.default_rng(0).uniform((190, 160, 150), (230, 200, 190), (SIDE, SIDE, 3))
    patch = np.where(BODY[..., None], pale, 80.0)
    lit = relit(patch, flat(120, 120, 120), RING, BODY)[BODY]
    assert np.median(np.quantile(lit, LIGHTER, axis=0)) == pytest.approx(LIGHTEST, rel=0.05)


def test_a_highlight_stays_as_light_as_it_was():
    patch = with_body((250, 250, 250), (140, 90, 80))
    assert relit(patch, flat(70, 45, 40), RING, BODY)[BODY].min() > 220


def test_a_highlight_stays_white_on_tissue_of_another_colour():
    patch = with_body((150, 100, 90), (140, 90, 80))
    shiny = np.zeros((SIDE, SIDE), bool)
    shiny[SIDE // 2 - 2 : SIDE // 2 + 2, SIDE // 2 - 2 : SIDE // 2 + 2] = True
    patch[shiny] = 250
    lit = relit(patch, flat(110, 95, 90), RING, BODY)
    assert np.ptp(lit[shiny], axis=1).max() <= 2
    assert np.ptp(lit[BODY & ~shiny], axis=1).max() > 10


def test_in_a_grey_image_nothing_is_a_highlight():
    patch = with_body((200, 200, 200), (100, 100, 100))
    np.testing.assert_allclose(relit(patch, flat(80, 80, 80), RING, BODY)[BODY], 200 * 86 / 106, rtol=0.02)


def test_a_lesion_does_not_turn_blue_on_tissue_that_is_less_red():
    red, pink, cream = (200, 90, 60), (190, 110, 90), (160, 150, 130)
    lit = relit(with_body(cream, red), flat(*pink), RING, BODY)[BODY].mean(axis=0)
    assert lit[0] >= lit[1] - 0.5 and lit[1] >= lit[2] - 0.5


colours = st.tuples(*[st.integers(20, 220)] * 3)


@given(colours, colours, colours)
def test_a_tint_changes_no_brightness(own, here, there):
    patch = with_body(own, here)
    made = tinted(patch, flat(*there), RING)
    assert (brightness(made) >= brightness(patch) - 0.01).all()  # no channel falls below 0
    same = made.min(axis=2) > 0
    np.testing.assert_allclose(brightness(made)[same], brightness(patch)[same], rtol=1e-4)


@given(colours, st.integers(40, 250))
def test_white_stays_white_and_equal_tissue_changes_nothing(here, white):
    patch = with_body((white,) * 3, here)
    np.testing.assert_allclose(tinted(patch, flat(180, 90, 60), RING)[BODY], white, rtol=0.02)
    np.testing.assert_allclose(tinted(patch, flat(*here), RING), patch, rtol=1e-3)


def test_tissue_around_takes_on_the_colour_of_the_place_up_to_a_share():
    here, there = (200, 90, 60), (170, 110, 80)
    made = tinted(flat(*here), flat(*there), RING)[0, 0] / brightness(flat(*here))[0, 0]
    own, other = (np.array(c) / (np.array(c) @ [0.299, 0.587, 0.114]) for c in (here, there))
    assert np.abs(made - other).max() < 0.35 * np.abs(own - other).max()


def textured(sigma, strength, seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), sigma)
    return (100 + strength * noise / noise.std())[..., None] * np.ones(3)


def fine_structure(values):
    return float((values - ndimage.gaussian_filter(values, (1, 1, 0))).std())


@pytest.mark.parametrize("there", [2.0, 4.0, 5.0])
def test_what_is_moved_is_as_sharp_as_the_place(there):
    patch, place = textured(0.7, 4.0, 0), textured(0.7, there, 1)
    made = in_detail_of(patch, place, RING | BODY)
    assert fine_structure(made) == pytest.approx(fine_structure(place), rel=0.2)


def test_sharpness_changes_within_limits_and_coarse_structure_does_not():
    patch, place = textured(0.7, 8.0, 0), textured(0.7, 0.1, 1)
    assert fine_structure(in_detail_of(patch, place, RING)) >= 0.9 * SOFTER * fine_structure(patch)
    assert fine_structure(in_detail_of(place, patch, RING)) <= 1.1 * SHARPER * fine_structure(place)
    coarse = np.repeat(np.linspace(50, 150, SIDE)[None, :, None], SIDE, 0) * np.ones(3)
    np.testing.assert_allclose(in_detail_of(coarse, place, RING)[8:-8, 8:-8], coarse[8:-8, 8:-8], atol=0.5)


def test_too_little_tissue_says_nothing_of_sharpness():
    patch = textured(0.7, 4.0, 0)
    np.testing.assert_allclose(in_detail_of(patch, patch * 0, np.eye(SIDE, dtype=bool)), patch, rtol=1e-6)


def shaded(*colour):
    """Return a ball of a colour, darker at its border, as bright as no camera could show it."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    shade = 1 - 0.7 * np.clip(np.hypot(rows, columns) / (SIDE / 2), 0, 1) ** 2
    return np.float32(colour) * shade[..., None].astype(np.float32)


def test_red_that_a_camera_has_clipped_is_estimated_and_stays_red_when_it_is_darkened():
    true = shaded(330, 190, 130)
    seen = np.minimum(true, 255)
    clipped = true[..., 0] > 260
    assert clipped.sum() > 100
    found, before = (values[clipped, 0] / values[clipped, 1] for values in (unclipped(seen), seen))
    wanted = true[clipped, 0] / true[clipped, 1]
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(before - wanted).mean()


@given(st.integers(0, 99))
def test_what_is_estimated_is_never_less_and_unclipped_colours_stay(seed):
    patch = np.random.default_rng(seed).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    assert (unclipped(patch) >= patch).all()
    exposed = np.minimum(patch, 230)
    np.testing.assert_array_equal(unclipped(exposed), exposed)


def test_a_groove_between_clipped_pixels_keeps_its_colour_beside_them():
    seen = np.where(BODY[..., None], np.float32((255, 200, 140)), np.float32((160, 90, 60)))
    groove = BODY & (np.indices(BODY.shape)[1] % 8 == 0)
    seen[groove] = (215, 170, 120)
    found = unclipped(seen)
    inside = disc(8)
    raised = (found / seen)[..., 0]
    assert raised[inside].min() > 1.1 and raised[groove & inside].mean() == pytest.approx(
        raised[inside].mean(), rel=0.05
    )


def test_in_a_grey_image_no_channel_is_estimated():
    grey = np.repeat(np.random.default_rng(0).uniform(0, 255, (SIDE, SIDE, 1)), 3, axis=2).astype(np.float32)
    np.testing.assert_array_equal(unclipped(grey), grey)
