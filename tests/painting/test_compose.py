import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffaug.conditioning.attributes import band_width
from diffaug.painting.compose import (
    blending_weight,
    compose,
    harmonised,
    light_difference,
    missing_grain,
    reach_of,
    region_of,
    without_border,
)
from diffaug.painting.window import Window, window_around, window_image


def disc(shape, centre, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def tissue(shape=(90, 110), seed=0):
    noise = np.random.default_rng(seed).normal(0, 6, (*shape, 3))
    return np.clip(np.array([180, 110, 90]) + noise, 0, 255).astype(np.uint8)


def painted(seed=0, side=32):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2.4 - 1.2  # overshoots


MASK = disc((90, 110), (45, 60), 12)
NOTHING = np.zeros((90, 110), dtype=bool)


@given(st.integers(0, 89), st.integers(0, 109), st.integers(1, 30), st.floats(2, 15), st.integers(0, 50))
@settings(max_examples=40)
def test_pixels_outside_the_region_are_byte_identical_wherever_the_window_lies(row, column, radius, band, seed):
    background = tissue()
    mask = disc(background.shape[:2], (row, column), radius)
    region = region_of(mask, NOTHING, band)
    window = window_around(mask, 1.3)  # may cut the region, and reach beyond the frame
    before = background.copy()
    frame = compose(background, painted(seed), window, region, band, seed)
    assert (frame[~region] == before[~region]).all()
    assert (background == before).all()
    assert frame.dtype == np.uint8 and frame.shape == background.shape


@pytest.mark.parametrize("window", [Window(-30, -40, 200), Window(-5, -5, 60), Window(60, 80, 64), Window(30, 45, 32)])
def test_a_window_that_reaches_beyond_the_frame_paints_in_its_own_place(window):
    region = region_of(MASK, NOTHING, 3.0)
    region[:8, :8] = region[-8:, -8:] = True
    frame = compose(tissue(), painted(), window, region, 3.0, 0)
    rows, columns = np.nonzero((frame != tissue()).any(axis=2))
    inside = region.copy()
    inside[:] = False
    inside[max(0, window.top) : window.top + window.side, max(0, window.left) : window.left + window.side] = True
    assert inside[rows, columns].all() and region[rows, columns].all()
    assert len(rows) > 0.9 * (region & inside).sum() * 0.8


def test_inside_the_mask_the_paint_shows():
    band = band_width(MASK, 0.08)
    region, window = region_of(MASK, NOTHING, band), window_around(MASK, 2.0)
    stripes = torch.ones(1, 3, 32, 32)
    stripes[:, :, ::2] = -1  # dark and bright, the same mean: light is corrected, stripes are not
    frame = compose(tissue(), stripes, window, region, band, 0).astype(float)
    assert np.abs(np.diff(frame.mean(axis=2), axis=0))[MASK[1:]].mean() > 20
    assert np.abs(np.diff(tissue().astype(float).mean(axis=2), axis=0))[MASK[1:]].mean() < 10


def test_the_background_painted_on_itself_is_almost_unchanged():
    background = tissue()
    window = Window(20, 30, 64)
    region = region_of(MASK, NOTHING, 4.0)
    frame = compose(background, window_image(background, window, 64), window, region, 4.0, 0)
    difference = np.abs(frame.astype(float) - background)
    assert difference.mean() < 0.3 and difference.max() < 25  # only grain is added, and hardly any


def ridges(side=96, every=24):
    """A window of broad ridges with grain of one pixel on them."""
    rows, columns = np.mgrid[:side, :side]
    grey = 120 + 40 * np.sin(2 * np.pi * columns / every) + 12 * (-1.0) ** (rows + columns)
    return np.repeat(grey[..., None], 3, 2).round().astype(np.uint8)


def test_a_start_that_is_painted_as_it_was_stays_as_it_was():
    start = ridges()
    passed = window_image(start, Window(0, 0, 96), 32)
    np.testing.assert_allclose(harmonised(passed, start, passed, 96), start, atol=0.5)


def test_of_what_is_painted_the_light_shows_and_the_fine_structure_is_the_starts():
    start = ridges(every=6)
    passed = window_image(start, Window(0, 0, 96), 32)
    fall = torch.linspace(-0.4, 0.4, 32).view(1, 1, 1, 32).expand_as(passed)
    stripes = 0.3 * (-1.0) ** torch.arange(32).view(1, 1, 32, 1)
    made = harmonised(passed + fall + stripes, start, passed, 96) - start
    rows, columns = made[..., 0].mean(axis=1), made[..., 0].mean(axis=0)
    assert np.ptp(rows[24:-24]) < 3 and columns[-20] - columns[20] > 50


def test_a_start_of_the_frame_is_shown_in_the_frame_inside_the_region_alone():
    background, window, region = tissue(), Window(20, 30, 64), region_of(MASK, NOTHING, 4.0)
    start = ridges(64, 8)
    passed = window_image(start, Window(0, 0, 64), 32)
    frame = compose(background, passed, window, region, 4.0, 0, start=(start, passed))
    assert (frame[~region] == background[~region]).all()
    inner = disc(MASK.shape, (45, 60), 6)
    ours = frame[20:84, 30:94].astype(float).mean(axis=2)[inner[20:84, 30:94]]
    theirs = start.astype(float).mean(axis=2)[inner[20:84, 30:94]]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9


def test_the_same_seed_composes_the_same_bytes_and_another_seed_other_grain():
    region, window = region_of(MASK, NOTHING, 3.0), window_around(MASK, 2.0)
    smooth = torch.zeros(1, 3, 32, 32)
    first, again, other = (compose(tissue(), smooth, window, region, 3.0, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


# Region and band


def test_a_region_contains_both_masks_and_the_band_around_them():
    old = disc(MASK.shape, (20, 20), 8)
    region = region_of(MASK, old, 5.0)
    assert region[MASK | old].all()
    assert (region == region_of(old, MASK, 5.0)).all()
    assert region[45, 60 + 12 + 5] and not region[45, 60 + 12 + 6]
    assert (region_of(MASK, NOTHING, 0.0) == MASK).all()


def test_a_band_is_a_share_of_the_longer_side_and_at_least_two_pixels():
    mask = np.zeros((50, 120), dtype=bool)
    mask[10:20, 10:110] = True
    assert band_width(mask, 0.08) == 8.0
    assert band_width(mask.T, 0.08) == 8.0
    assert band_width(mask, 0.0) == 2.0


@given(st.integers(0, 89), st.integers(0, 109), st.integers(0, 30), st.floats(0, 20))
def test_the_weight_is_zero_outside_the_region_and_one_on_the_mask(row, column, radius, band):
    mask = disc((90, 110), (row, column), radius)
    region = region_of(mask, NOTHING, band)
    weight = blending_weight(region, band)
    assert (weight[~region] == 0).all()
    assert (weight[mask] == 1).all()
    assert ((weight > 0) & (weight <= 1))[region].all()


def test_the_weight_rises_smoothly_across_the_band():
    weight = blending_weight(region_of(MASK, NOTHING, 10.0), 10.0)
    line = weight[45, 60:85]
    assert (np.diff(line) <= 0).all()
    assert np.abs(np.diff(line)).max() < 0.2


def test_a_region_that_fills_the_frame_is_painted_everywhere():
    assert (blending_weight(np.ones((20, 30), dtype=bool), 4.0) == 1).all()


# Light and grain


@given(st.floats(-60, 60))
@settings(max_examples=20)
def test_a_constant_offset_of_light_is_removed(offset):
    real = tissue((64, 64)).astype(np.float32)
    inside = disc((64, 64), (32, 32), 16)
    difference = light_difference(real, real + np.float32(offset), inside)
    np.testing.assert_allclose(difference, -offset, atol=0.02 * abs(offset) + 1e-3)


def test_what_is_painted_inside_does_not_change_the_light():
    real = tissue((64, 64)).astype(np.float32)
    inside = disc((64, 64), (32, 32), 16)
    patch, other = real + 10, real + 10
    other[inside] = 0
    np.testing.assert_array_equal(light_difference(real, patch, inside), light_difference(real, other, inside))


def test_where_nothing_is_known_the_light_stays():
    real = tissue((64, 64)).astype(np.float32)
    everywhere = np.ones((64, 64), dtype=bool)
    assert not light_difference(real, real + 9, everywhere).any()
    assert not missing_grain(real, real * 0, everywhere, np.random.default_rng(0)).any()


def test_grain_lifts_a_smooth_patch_to_the_noise_of_its_background_and_no_further():
    rng = np.random.default_rng(0)
    real = (120 + np.repeat(rng.normal(0, 5, (128, 128, 1)), 3, axis=2)).astype(np.float32)
    inside = disc((128, 128), (64, 64), 40)
    grain = missing_grain(real, np.full_like(real, 120), inside, rng)

    def strength(values):
        grey = values.mean(axis=2)

        return np.std((grey - ndimage.gaussian_filter(grey, 1.0))[8:-8, 8:-8])

    assert strength(grain) == pytest.approx(strength(real), rel=0.15)
    assert not missing_grain(real, real, inside, rng).max() > 2
    assert not missing_grain(real * 0, real, inside, rng).any()  # noise is never taken away


def test_what_lies_outside_the_field_of_view_tells_nothing_of_light_and_grain():
    field = np.ones((96, 96), bool)
    field[:, 60:] = False
    region = disc((96, 96), (48, 40), 16)
    painted = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = []
    for value in (0, 90):
        background = tissue((96, 96))
        background[~field] = value
        made.append(compose(background, painted, Window(0, 0, 96), region, 3.0, 0, field))
    np.testing.assert_array_equal(made[0][field], made[1][field])


def test_the_painter_sees_neither_border_nor_the_old_lesion_beside_it():
    frame, field = tissue((96, 96)), np.ones((96, 96), bool)
    field[:, 60:] = False
    frame[~field] = 0
    region = disc((96, 96), (48, 50), 16) & field
    frame[region] = (255, 0, 255)
    reach = reach_of(region, field, 5.0)
    assert reach[region].all() and reach[48, 62] and not reach[48, 70]
    np.testing.assert_array_equal(reach & field, region)
    filled = without_border(frame, field, reach)
    np.testing.assert_array_equal(filled[field], frame[field])
    assert filled[~field].min() > 40 and not (filled[~field] == (255, 0, 255)).all(axis=1).any()
    assert without_border(frame, np.ones_like(field), region) is frame
