import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from diffaug.conditioning.rays import RAYS, Alignment, centre_of, ray_lengths
from diffaug.painting.example import (
    Example,
    in_two_scales,
    mirrored_tissue,
    moved_example,
    scale_of_outline,
    source_points,
    window_points,
)
from diffaug.painting.light import LEVEL
from diffaug.painting.window import Window

SIDE = 96


def ellipse(row=48.0, column=48.0, height=20.0, width=20.0, side=SIDE):
    rows, columns = np.mgrid[:side, :side]
    return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1


sizes = st.floats(8.0, 30.0)
places = st.floats(36.0, 60.0)


def tinted(values, tint):
    """Return grey levels (H, W) as a picture of one hue, (H, W, 3)."""
    return np.rint(values[..., None] * np.array(tint)).astype(np.uint8)


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


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, 2).astype(np.uint8)


def moved_onto(background, source, target, frame, halo=4.0, way=None, field=None, depth=0.0):
    example, everything = Example.of(frame, np.ones_like(source) if field is None else field, source), target | True
    window = Window(0, 0, SIDE)
    points = source_points(window_points(window, SIDE), [(source, target)], way or Alignment())
    step = scale_of_outline(source, target)
    return moved_example(example, points, step, background, target, everything, halo, depth=depth)


@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.7, 0.6)])
def test_a_part_of_the_frame_around_a_lesion_is_enough(tint):
    source, target = ellipse(30, 36, 8, 11), ellipse(50, 44, 10, 7)
    grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 30, (2, SIDE, SIDE)), (0, 2, 2))
    frame, place = tinted(np.where(source, 140, 100) + grain[0], tint), tinted(120 + grain[1], tint)
    part, everything = np.s_[8:52, 12:60], np.ones_like(source)
    examples = [
        Example.of(frame, everything, source),
        Example.of(frame[part], everything[part], source[part], (8, 12)),
    ]
    np.testing.assert_array_equal(examples[1].part_of(source), source[part])
    window, step = Window(0, 0, SIDE), scale_of_outline(source, target)
    made = [
        moved_example(
            example, source_points(window_points(window, SIDE), [(example.lesion, target)]), step, place, target,
            everything, 4.0,
        ).astype(int)
        for example in examples
    ]  # fmt: skip
    assert np.abs(made[0] - made[1]).max() <= 8 and np.abs(made[0] - made[1]).mean() < 0.1
    assert np.abs(made[0] - place).max() > 25


@pytest.fixture(scope="module")
def moved():
    """A lesion 1.4 times as light as its tissue, moved onto a background 1.2 times as light."""
    rng = np.random.default_rng(0)
    source, target = ellipse(40, 40, 16, 22), ellipse(50, 44, 20, 14)
    frame = grey(np.where(source, 140, 100) + rng.integers(-2, 3, (SIDE, SIDE)))
    place = grey(120 + rng.integers(-2, 3, (SIDE, SIDE)))
    return moved_onto(place, source, target, frame)[..., 0].astype(float), target, place[..., 0]


def test_a_moved_lesion_keeps_its_contrast_in_the_light_of_the_place(moved):
    made, target, _ = moved
    assert made[target].mean() == pytest.approx(140 * (120 + LEVEL) / (100 + LEVEL), abs=3)


def test_nothing_beyond_the_halo_is_touched(moved):
    beyond = ~ellipse(50, 44, 26, 20)
    np.testing.assert_array_equal(moved[0][beyond], moved[2][beyond])


def test_no_tissue_from_between_the_arms_of_a_bent_lesion_gets_into_the_new_one():
    ring = ellipse(48, 48, 30, 30) & ~ellipse(48, 62, 18, 22)  # a crescent, whose rays cross tissue
    background = np.full((SIDE, SIDE, 3), 200, np.uint8)
    made = moved_onto(background, ring, ellipse(48, 48, 20, 20), grey(np.where(ring, 60, 200)))
    assert made[ellipse(48, 48, 15, 15)].max() < 100


def test_no_lesion_gets_beside_the_new_one():
    bar = ellipse(48, 48, 30, 8) | ellipse(48, 48, 8, 30)  # a cross, whose arms reach beyond a round mask
    background = np.full((SIDE, SIDE, 3), 200, np.uint8)
    target = ellipse(48, 48, 18, 18)
    made = moved_onto(background, bar, target, grey(np.where(bar, 60, 200)))
    assert made[~ellipse(48, 48, 22, 22)].min() > 180


def test_an_aligned_lesion_is_turned_with_its_mask():
    source, target = ellipse(48, 48, 12, 28), ellipse(48, 48, 12, 28)
    columns = np.arange(SIDE)[None] + np.zeros((SIDE, 1))
    frame = grey(np.where(source, np.where(columns > 48, 160, 60), 110))
    way = Alignment(flip=True)
    made = moved_onto(np.full((SIDE, SIDE, 3), 110, np.uint8), source, target, frame, way=way)[..., 0]
    inner = ellipse(48, 48, 8, 20)
    assert made[inner & (columns < 44)].min() > 130 > 90 > made[inner & (columns > 52)].max()


@pytest.mark.parametrize(
    ("tint", "darkest"), [((1, 1, 1), 85), ((1, 0.7, 0.6), 108)]
)  # in colour images no more than a shadow
def test_a_contact_shadow_comes_along_and_the_lesion_keeps_its_contrast_to_tissue_beyond_it(tint, darkest):
    source, target = ellipse(48, 48, 16, 16), ellipse(44, 50, 16, 16)
    near, close = ellipse(48, 48, 19, 19) & ~source, ellipse(44, 50, 18, 18) & ~ellipse(44, 50, 17, 17)
    frame = tinted(np.where(source, 140, np.where(near, 60, 100)), tint)
    made = moved_onto(tinted(np.full((SIDE, SIDE), 120), tint), source, target, frame, halo=10.0)[..., 0]
    assert np.median(made[close]) < darkest
    assert np.median(made[target]) == pytest.approx(140 * (120 + LEVEL) / (100 + LEVEL), abs=4)


def test_a_lumen_beside_an_example_does_not_light_its_lesion():
    source, target, tint = ellipse(48, 48, 16, 16), ellipse(44, 50, 16, 16), (1, 0.7, 0.6)
    rows = np.arange(SIDE)[:, None] + np.zeros((1, SIDE))
    frame = tinted(np.where(source, 140, np.where(rows < 44, 15, 100)), tint)  # beside three eighths of its outline
    made = moved_onto(tinted(np.full((SIDE, SIDE), 120), tint), source, target, frame, halo=10.0)[..., 0]
    assert np.median(made[target]) == pytest.approx(140 * (120 + LEVEL) / (100 + LEVEL), abs=4)


def test_what_is_as_dark_as_the_lesion_comes_along_beyond_its_outline():
    source, target, tint = ellipse(48, 48, 16, 16), ellipse(44, 50, 16, 16), (1, 0.7, 0.6)
    frame = tinted(np.where(ellipse(48, 48, 17, 17), 40, 100), tint)  # a mole, larger than its mask
    made = moved_onto(tinted(np.full((SIDE, SIDE), 100), tint), source, target, frame, halo=10.0)[..., 0]
    assert made[target].max() < 55 and np.median(made[ellipse(44, 50, 17, 17) & ~target]) < 62


@pytest.mark.parametrize("loose", [0, 2])  # px by which the outline lies in the lumen
def test_of_a_lumen_beside_an_example_no_more_than_a_shadow_comes_along(loose):
    source, target, tint = ellipse(48, 48, 16, 16), ellipse(44, 50, 16, 16), (1, 0.7, 0.6)
    rows = np.arange(SIDE)[:, None] + np.zeros((1, SIDE))
    behind = np.where(rows < 44, 12, 100)
    frame = tinted(np.where(ellipse(48, 48, 16 - loose, 16 - loose), 140, behind), tint)
    place = tinted(np.full((SIDE, SIDE), 120), tint)
    made = moved_onto(place, source, target, frame, halo=10.0)
    around = ~ellipse(44, 50, 16, 16)
    assert made[around].min() >= 0.65 * place.min()
    assert (made[~ellipse(44, 50, 23, 23)] >= 0.95 * place[0, 0]).all()
    assert made[target].min() >= 0.65 * place.min()


@pytest.mark.parametrize(("tint", "comes"), [((1, 1, 1), True), ((1, 0.7, 0.6), False)])
def test_lighter_tissue_around_a_lesion_comes_along_in_grey_images_alone(tint, comes):
    source, target = ellipse(48, 48, 16, 16), ellipse(44, 50, 16, 16)
    around = ellipse(48, 48, 22, 22) & ~source
    frame = tinted(np.where(source, 60, np.where(around, 140, 100)), tint)
    made = moved_onto(tinted(np.full((SIDE, SIDE), 100), tint), source, target, frame, halo=10.0)[..., 0]
    ring = ellipse(44, 50, 20, 20) & ~ellipse(44, 50, 18.5, 18.5)
    assert (np.median(made[ring]) > 115) == comes


def test_a_halo_brings_along_what_is_tissue_of_the_example_alone():
    source = target = ellipse(48, 48, 14, 14)
    other = ellipse(48, 48, 40, 40) & ~ellipse(48, 48, 15, 15)  # others all around it, which no end of the halo avoids
    frame, place = grey(np.where(source | other, 40, 100)), grey(np.full((SIDE, SIDE), 100))
    shown = moved_onto(place, source, target, frame, halo=12.0, field=~other)
    hidden = moved_onto(place, source, target, frame, halo=12.0)
    beside = ellipse(48, 48, 16, 16) & other
    assert shown[beside].min() > 90 > hidden[beside].min()


def test_a_halo_ends_before_what_lies_on_one_side_of_the_example_alone():
    source = target = ellipse(48, 48, 14, 14)
    frame = grey(np.where(source | ellipse(48, 74, 10, 9), 40, 100))  # something dark beside it
    made = moved_onto(grey(np.full((SIDE, SIDE), 100)), source, target, frame, halo=12.0)
    assert made[ellipse(48, 68, 3, 2)].min() > 90


@given(st.floats(0, 1))
def test_what_is_blended_in_two_scales_is_one_of_both_where_the_weights_are_0_or_1(weight):
    rng = np.random.default_rng(0)
    place, patch = rng.uniform(0, 255, (2, 12, 12, 3))
    nothing, everything = np.zeros((12, 12)), np.ones((12, 12))
    np.testing.assert_allclose(in_two_scales(place, patch, nothing, nothing, 2.0), place)
    np.testing.assert_allclose(in_two_scales(place, patch, everything, everything, 2.0), patch)
    mixed = in_two_scales(place, patch, everything * weight, everything * weight, 2.0)
    np.testing.assert_allclose(mixed, place + weight * (patch - place), atol=1e-9)


def test_unknown_tissue_is_mirrored_at_the_nearest_border():
    frame = np.repeat(np.arange(20, dtype=np.uint8)[None, :, None], 20, 0) * np.ones(3, np.uint8)
    known = np.ones((20, 20), bool)
    known[:, 14:] = False
    made = mirrored_tissue(frame, known)
    assert made[5, :, 0].tolist() == [*range(14), 12, 11, 10, 9, 8, 7]
    np.testing.assert_array_equal(mirrored_tissue(frame, ~np.ones((20, 20), bool)), frame)


def test_a_bent_lesion_on_its_own_outline_shows_its_own_pixels_alone():
    rng = np.random.default_rng(0)
    crescent = ellipse(40, 40, 24, 24) & ~ellipse(40, 52, 14, 18)
    frame = grey(np.where(crescent, 60, 120) + rng.integers(-2, 3, (SIDE, SIDE)))
    shift = np.array([12.0, 14.0])[:, None, None]
    points = window_points(Window(0, 0, SIDE), SIDE) - shift
    new = np.roll(crescent, (12, 14), (0, 1))
    example, everything = Example.of(frame, np.ones_like(new), crescent), np.ones_like(new)
    place = grey(120 + rng.integers(-2, 3, (SIDE, SIDE)))
    made = moved_example(example, points, 1.0, place, new, everything, 4.0, own=True)[..., 0].astype(int)
    expected = np.roll(frame[..., 0].astype(int), (12, 14), (0, 1))
    error = np.abs(made - expected)[new]
    assert np.median(error) <= 3 and error.max() <= 15  # a quarter of its contrast, at an edge as sharp as the place
