import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffaug.painting.example import (
    GAIN,
    LIGHTER,
    LIGHTEST,
    RAYS,
    centre_of,
    light_gain,
    mirrored_tissue,
    moved_example,
    ray_lengths,
    source_points,
    window_points,
)
from diffaug.painting.window import Window

SIDE = 96


def ellipse(row=48.0, column=48.0, height=20.0, width=20.0, side=SIDE):
    rows, columns = np.mgrid[:side, :side]
    return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1


sizes = st.floats(8.0, 30.0)
places = st.floats(36.0, 60.0)


@given(places, places, sizes, sizes)
def test_a_mask_moved_onto_itself_stays_where_it_is(row, column, height, width):
    mask = ellipse(row, column, height, width)
    points = np.mgrid[:SIDE, :SIDE].astype(float)
    np.testing.assert_allclose(source_points(points, [(mask, mask)]), points, atol=1e-6)


@given(places, places, sizes, sizes)
def test_outlines_and_directions_are_kept(row, column, height, width):
    source, target = ellipse(40, 50, 15, 25), ellipse(row, column, height, width)
    origin, centre = centre_of(source), centre_of(target)
    angle = np.arange(RAYS) / RAYS * 2 * np.pi
    away = np.stack([np.sin(angle), np.cos(angle)])
    edge = source_points(centre[:, None] + ray_lengths(target, centre) * away, [(source, target)]) - origin[:, None]
    np.testing.assert_allclose(np.hypot(*edge), ray_lengths(source, origin), rtol=1e-6)
    np.testing.assert_allclose(edge / np.hypot(*edge), away, atol=1e-6)


def test_a_nested_outline_goes_to_its_own():
    disc, cup, larger = ellipse(48, 48, 40, 36), ellipse(48, 48, 12, 10), ellipse(48, 48, 28, 24)
    outlines = [(cup, larger), (disc, disc)]
    centre, angle = centre_of(larger), np.linspace(0, 6, 50)
    away = np.stack([np.sin(angle), np.cos(angle)])

    def distance(lengths):
        ray = np.interp(angle / (2 * np.pi) * RAYS, np.arange(RAYS), lengths, period=RAYS)
        return np.hypot(*(source_points(centre[:, None] + ray * away, outlines) - centre[:, None]))

    for theirs, ours in outlines:
        np.testing.assert_allclose(
            distance(ray_lengths(ours, centre)),
            np.interp(angle / (2 * np.pi) * RAYS, np.arange(RAYS), ray_lengths(theirs, centre), period=RAYS),
            rtol=1e-6,
        )


def test_beyond_the_outline_distances_grow_with_the_size():
    small, large = ellipse(height=10, width=10), ellipse(height=20, width=20)
    found = source_points(np.array([[48.0], [48.0 + 30.0]]), [(small, large)])
    assert found[1, 0] - 48 == pytest.approx(10 + 10 / 2, abs=1.0)


def test_window_points_are_those_of_the_crop():
    window = Window(-10, 20, 64)
    rows, columns = window_points(window, 32)
    assert rows[:, 0].tolist() == [-10 + 0.5 + 2 * i for i in range(32)]
    assert columns[0, 0] == 20.5 and columns.shape == (32, 32)


@pytest.fixture(scope="module")
def moved():
    """A lesion 1.4 times as light as its tissue, moved onto a background 1.2 times as light, beside an old lesion."""
    rng = np.random.default_rng(0)
    source, target, old = ellipse(40, 40, 16, 22), ellipse(50, 44, 20, 14), ellipse(50, 70, 12, 14)
    frame = np.where(source, 140, 100) + rng.integers(-2, 3, (SIDE, SIDE))
    frame = np.repeat(frame[..., None], 3, 2).astype(np.uint8)
    background = np.repeat(np.where(old, 220, 120)[..., None], 3, 2).astype(np.uint8)
    outlines, window = [(source, target)], Window(0, 0, SIDE)
    made = moved_example(frame, mirrored_tissue(frame, source), ~source, outlines, window, background, target, old, 4.0)
    return made[..., 0].astype(float), target, old


def test_a_moved_lesion_keeps_its_contrast_in_the_light_of_the_place(moved):
    made, target, _ = moved
    assert made[target].mean() == pytest.approx(168, abs=3)


def test_the_old_lesion_is_gone_and_nothing_else_is_touched(moved):
    made = moved[0]
    away = ~ellipse(50, 44, 26, 20)
    np.testing.assert_allclose(made[away], 120, atol=1e-4)


def test_no_tissue_from_between_the_arms_of_a_bent_lesion_gets_into_the_new_one():
    ring = ellipse(48, 48, 30, 30) & ~ellipse(48, 62, 18, 22)  # a crescent, whose rays cross tissue
    frame = np.repeat(np.where(ring, 60, 200)[..., None], 3, 2).astype(np.uint8)
    target, nothing = ellipse(48, 48, 20, 20), np.zeros((SIDE, SIDE), dtype=bool)
    background = np.full((SIDE, SIDE, 3), 200, np.uint8)
    body, outlines = mirrored_tissue(frame, ring), [(ring, target)]
    made = moved_example(frame, body, ~ring, outlines, Window(0, 0, SIDE), background, target, nothing, 4.0)
    assert made[ellipse(48, 48, 18, 18)].max() < 100


def test_an_old_lesion_that_the_new_one_covers_in_part_shows_nowhere_beside_it():
    old, target, source = ellipse(48, 48, 26, 26), ellipse(48, 44, 22, 18), ellipse(48, 48, 20, 20)
    frame = np.repeat(np.where(source, 60, 120)[..., None], 3, 2).astype(np.uint8)
    background = np.repeat(np.where(old, 230, 120)[..., None], 3, 2).astype(np.uint8)
    body, outlines = mirrored_tissue(frame, source), [(source, target)]
    made = moved_example(frame, body, ~source, outlines, Window(0, 0, SIDE), background, target, old, 4.0)
    assert made.max() < 130


def test_light_is_scaled_within_bounds():
    white, grey = np.full((9, 3), 200.0), np.full((9, 3), 100.0)
    assert light_gain(grey, grey, grey).tolist() == [1, 1, 1] == light_gain(grey[:0], grey, grey).tolist()
    np.testing.assert_allclose(light_gain(white, grey, grey), 1 / GAIN)
    np.testing.assert_allclose(light_gain(grey, white, grey), GAIN)


def test_a_pale_lesion_is_not_lit_until_it_is_white():
    dark, light = np.full((40, 3), 80.0), np.full((40, 3), 120.0)
    pale, red = np.random.default_rng(0).uniform((190, 160, 150), (230, 200, 190), (400, 3)), np.full((9, 3), 90.0)
    np.testing.assert_allclose(light_gain(dark, light, red), 1.5)
    lit = pale * light_gain(dark, light, pale)
    assert 1 < lit.mean() / pale.mean() < 1.3
    assert np.quantile(lit, LIGHTER, axis=0).mean() == pytest.approx(LIGHTEST)
    white = np.full((9, 3), 240.0)  # as overexposed in its own frame
    np.testing.assert_allclose(white * light_gain(dark, light, white), white, rtol=1e-5)
    assert light_gain(light, dark, white) == pytest.approx([2 / 3] * 3)


def test_a_lesion_does_not_turn_blue_on_tissue_that_is_less_red():
    red, pink, cream = (
        np.full((40, 3), (200, 90, 60)),
        np.full((40, 3), (190, 110, 90)),
        np.full((9, 3), (160, 150, 130)),
    )
    lit = cream * light_gain(red, pink, cream)
    assert lit[0] == pytest.approx([152, 152, 152])
    dull = np.full((9, 3), (120, 60, 40))
    np.testing.assert_allclose(light_gain(red, pink, dull), np.divide([190, 110, 90], [200, 90, 60]), rtol=1e-5)


def test_unknown_tissue_is_mirrored_at_the_nearest_border():
    frame = np.repeat(np.arange(20, dtype=np.uint8)[None, :, None], 20, 0) * np.ones(3, np.uint8)
    known = np.ones((20, 20), bool)
    known[:, 14:] = False
    made = mirrored_tissue(frame, known)
    assert made[5, :, 0].tolist() == [*range(14), 12, 11, 10, 9, 8, 7]
    np.testing.assert_array_equal(mirrored_tissue(frame, ~np.ones((20, 20), bool)), frame)


def test_a_shape_that_a_ray_crosses_twice_is_measured_to_its_far_side():
    mask = ellipse(48, 30, 10, 10) | ellipse(48, 70, 10, 10)
    lengths = ray_lengths(mask, centre_of(mask))
    assert lengths[0] == pytest.approx(30.5, abs=1.5) and (lengths >= 1).all()
