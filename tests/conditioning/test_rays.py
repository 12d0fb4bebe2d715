import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from diffaug.conditioning.rays import TURNS, Alignment, aligned, centre_of, ray_lengths, star_share

SIDE = 96


def blob(seed, side=SIDE):
    """Return a smooth shape that no turn and no mirroring maps onto itself."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), 9)
    rows, columns = np.mgrid[:side, :side] - side / 2 + 0.5
    field = 1 - np.hypot(rows / 26, columns / 17) + 0.25 * noise / noise.std()
    labels, _ = ndimage.label(field > 0)
    return ndimage.binary_fill_holes(labels == labels[side // 2, side // 2])


def rays(mask):
    return ray_lengths(mask, centre_of(mask))


def test_a_shape_that_a_ray_crosses_twice_is_measured_to_its_far_side():
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask = (np.hypot(rows - 48, columns - 30) <= 10) | (np.hypot(rows - 48, columns - 70) <= 10)
    lengths = rays(mask)
    assert lengths[0] == pytest.approx(30.5, abs=1.5) and (lengths >= 1).all()


@given(st.integers(0, 20))
def test_a_shape_fits_itself_upright_without_being_stretched(seed):
    assert aligned(rays(blob(seed)), rays(blob(seed))) == Alignment()


@given(st.integers(0, 20), st.floats(0.5, 3.0))
def test_size_is_no_stretch(seed, scale):
    lengths = rays(blob(seed))
    assert aligned(lengths, scale * lengths).stretch == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("angle", [turn for turn in TURNS if turn % 12 == 0])
@pytest.mark.parametrize("flip", [False, True])
def test_a_mirrored_and_turned_shape_is_found_again(angle, flip):
    source = blob(3)
    target = source[:, ::-1] if flip else source
    target = ndimage.rotate(target.astype(float), -angle, reshape=False, order=1) > 0.5  # from columns towards rows
    found = aligned(rays(source), rays(target))
    assert (found.flip, abs(found.angle - angle) <= 6) == (flip, True)
    assert found.stretch < 0.06 < aligned(rays(source), rays(target), turns=(90.0,)).stretch


def test_a_convex_shape_fills_what_its_rays_span_and_a_bent_one_does_not():
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    oval = np.hypot(rows / 30, columns / 18) <= 1
    crescent = (np.hypot(rows, columns) <= 30) & (np.hypot(rows, columns - 16) > 22)
    assert star_share(oval) > 0.93 > 0.85 > star_share(crescent)
