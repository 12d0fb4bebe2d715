"""What is computed on the surroundings of a mask is what the whole frame gives."""

import numpy as np
import pytest
from scipy import ndimage

from diffaug.conditioning.attributes import box_around, near
from diffaug.conditioning.masks import DRAFT, ELASTIC, MaskEntry, draw_transform, rendered
from diffaug.conditioning.placement import _eroded
from diffaug.data.images import Mask
from diffaug.painting.compose import blending_weight, without_border
from diffaug.painting.window import Window


def blobs(seed: int, frame: tuple[int, int] = (60, 47), share: float = 0.85) -> Mask:
    """Return a mask of some blobs, perhaps cut by the frame."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(frame), 4)
    return np.asarray(noise > np.quantile(noise, share))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distance", [0.0, 2.0, 5.3, 90.0])
def test_what_is_near_a_mask_is_what_the_distance_says(seed: int, distance: float) -> None:
    mask = blobs(seed)
    np.testing.assert_array_equal(near(mask, distance), ndimage.distance_transform_edt(~mask) <= distance)


def test_nothing_is_near_an_empty_mask() -> None:
    assert not near(np.zeros((9, 7), dtype=bool), 100.0).any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.0, 2.0, 3.9, 5.0])
def test_erosion_by_shifts_is_erosion_by_distance(seed: int, radius: float) -> None:
    mask = ~blobs(seed, share=0.95)
    np.testing.assert_array_equal(_eroded(mask, radius), ndimage.distance_transform_edt(mask) > radius)


@pytest.mark.parametrize("seed", range(6))
def test_the_blending_weight_is_that_of_the_whole_frame(seed: int) -> None:
    region = blobs(seed)
    depth = np.clip(ndimage.distance_transform_edt(region) / 3.0, 0.0, 1.0)
    np.testing.assert_array_equal(blending_weight(region, 3.0), (depth**2 * (3 - 2 * depth)).astype(np.float32))


@pytest.mark.parametrize("seed", range(6))
def test_a_border_is_filled_within_a_window_alone_and_with_tissue_of_the_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(1, 255, (60, 47, 3), dtype=np.uint8)
    field, reach, window = ~blobs(seed + 10), blobs(seed), Window(12, -5, 30)
    made, box = without_border(frame, field, reach, window), window.inside(frame.shape)
    np.testing.assert_array_equal(made[box], without_border(frame[box], field[box], reach[box]))
    outside = np.ones(field.shape, dtype=bool)
    outside[box] = False
    np.testing.assert_array_equal(made[outside], frame[outside])
    np.testing.assert_array_equal(made[field], frame[field])


@pytest.mark.parametrize("window", [Window(0, 0, 20), Window(-7, 40, 30), Window(50, -3, 90), Window(10, 10, 10)])
def test_a_window_shows_the_rows_and_columns_that_it_says(window: Window) -> None:
    frame = np.arange(60 * 47, dtype=np.int64).reshape(60, 47)
    rows, columns = window.inside(frame.shape)
    inside = frame[rows, columns]
    crop = window.crop(frame)
    assert crop.shape == (window.side, window.side)
    top, left = rows.start - window.top, columns.start - window.left
    np.testing.assert_array_equal(crop[top : top + inside.shape[0], left : left + inside.shape[1]], inside)


@pytest.mark.parametrize("seed", range(6))
def test_a_shape_is_rendered_from_its_kept_distance_as_from_a_new_one(seed: int) -> None:
    box = box_around(blobs(seed, (120, 90), 0.7), 0)
    crop = blobs(seed, (120, 90), 0.7)[box]
    transform = draw_transform(np.random.default_rng(seed))
    assert transform.elastic <= ELASTIC
    small, large = (MaskEntry(crop, 3, 4, (side, side), "a", 0) for side in (DRAFT, DRAFT + 1))  # the larger keeps none
    shapes = [rendered(entry, transform, entry.frame)[0] for entry in (small, large)]
    np.testing.assert_array_equal(*shapes)
