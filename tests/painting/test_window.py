import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffaug.painting.window import (
    Window,
    pixels_from_tensor,
    resize,
    resize_mask,
    tensor_from_mask,
    tensor_from_pixels,
    window_around,
    window_image,
    window_mask,
)


def frame(height=30, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(shape, top, left, height, width):
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_a_window_inside_the_frame_holds_its_pixels():
    assert (Window(3, 5, 20).crop(frame()) == frame()[3:23, 5:25]).all()


@pytest.mark.parametrize("top", [-12, -3, 0, 8, 25])
@pytest.mark.parametrize("left", [-25, 0, 30])
def test_beyond_the_frame_it_is_mirrored(top, left):
    wide = np.pad(frame(), ((40, 40), (40, 40), (0, 0)), mode="reflect")
    assert (Window(top, left, 20).crop(frame()) == wide[top + 40 : top + 60, left + 40 : left + 60]).all()


def test_a_large_window_is_resampled_a_channel_at_a_time_and_looks_the_same(monkeypatch):
    whole = window_image(frame(60, 60), Window(0, 0, 60), 16)
    monkeypatch.setattr("diffaug.painting.window.LARGE", 32)
    assert torch.allclose(window_image(frame(60, 60), Window(0, 0, 60), 16), whole, atol=1e-6)


def test_a_window_larger_than_the_frame_is_mirrored_as_often_as_it_takes():
    wide = np.pad(frame(8, 5), ((30, 30), (30, 30), (0, 0)), mode="reflect")
    assert (Window(-20, -25, 50).crop(frame(8, 5)) == wide[10:60, 5:55]).all()
    assert (Window(-2, -2, 5).crop(frame(1, 1)) == frame(1, 1)[0, 0]).all()


BOXES = st.tuples(*[st.integers(20, 90)] * 2).flatmap(
    lambda shape: st.tuples(
        st.just(shape),
        st.integers(0, shape[0] - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(1, shape[0] - a))),
        st.integers(0, shape[1] - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(1, shape[1] - a))),
    )
)


@given(BOXES, st.floats(1.0, 4.0), st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 40))
def test_a_window_contains_its_mask_and_lies_in_the_frame_where_it_fits(boxes, context, down, right, least):
    shape, (top, height), (left, width) = boxes
    window = window_around(box(shape, top, left, height, width), context, (down, right), least)
    assert window.side >= max(least, height + 2, width + 2)
    assert window.top <= top and top + height <= window.top + window.side
    assert window.left <= left and left + width <= window.left + window.side
    for start, size in ((window.top, shape[0]), (window.left, shape[1])):
        if window.side <= size:
            assert 0 <= start <= size - window.side
        else:
            assert start <= 0 and start + window.side >= size


def test_a_window_is_as_wide_as_its_context_and_centred():
    assert window_around(box((200, 200), 90, 80, 20, 40), 2.0) == Window(60, 60, 80)
    assert window_around(box((200, 300), 0, 0, 150, 10), 9.0).side == 300  # cut to the longer side of the frame
    assert window_around(box((200, 200), 100, 100, 2, 2), 2.0, least=50).side == 50


def test_a_shift_moves_the_window_by_its_free_margin():
    mask = box((200, 200), 90, 80, 20, 40)
    assert window_around(mask, 2.0, (-1.0, -1.0)) == Window(30, 40, 80)
    assert window_around(mask, 2.0, (1.0, 1.0)) == Window(90, 80, 80)


SIDES = st.sampled_from([(64, 16), (60, 16), (48, 48), (40, 64), (33, 32), (20, 64)])


@given(SIDES, st.floats(-1, 1))
def test_resampling_keeps_a_constant(sides, value):
    old, new = sides
    constant = torch.full((1, 3, old, old), value)
    torch.testing.assert_close(resize(constant, new), torch.full((1, 3, new, new), value), atol=1e-5, rtol=0)
    share = (constant + 1) / 2
    torch.testing.assert_close(resize_mask(share, new), torch.full((1, 3, new, new), (value + 1) / 2))


@given(SIDES, st.integers(0, 99))
def test_resampling_keeps_the_mean_of_what_lies_inside(sides, seed):
    old, new = sides
    image = torch.zeros(1, 1, old, old)
    inner = slice(old // 4, old - old // 4)
    image[:, :, inner, inner] = torch.rand(
        old - 2 * (old // 4), old - 2 * (old // 4), generator=torch.Generator().manual_seed(seed)
    )
    for resampled in (resize(image, new), resize_mask(image, new)):
        assert resampled.shape == (1, 1, new, new)
        assert resampled.mean().item() == pytest.approx(image.mean().item(), rel=0.02)


@given(SIDES, st.integers(0, 99))
def test_a_resampled_mask_is_a_share_of_each_pixel(sides, seed):
    old, new = sides
    mask = (torch.rand(1, 1, old, old, generator=torch.Generator().manual_seed(seed)) > 0.5).float()
    share = resize_mask(mask, new)
    assert share.min() >= 0 and share.max() <= 1


def test_a_window_at_its_own_side_is_not_resampled():
    pixels = frame(32, 32)
    assert (pixels_from_tensor(window_image(pixels, Window(0, 0, 32), 32)[0]) == pixels).all()
    mask = pixels[..., 0] > 100
    assert (window_mask(mask, Window(0, 0, 32), 32)[0, 0].numpy() == mask).all()


def test_pixels_survive_the_model_range():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([values, values.T, values[::-1]], axis=-1)
    tensor = tensor_from_pixels(pixels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    assert (pixels_from_tensor(tensor[0]) == pixels).all()
    assert tensor_from_mask(values > 7).unique().tolist() == [0.0, 1.0]


def test_values_beyond_the_range_are_clipped():
    assert pixels_from_tensor(torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1)).tolist() == [[[0, 128, 255]]]
    image = window_image(frame(40, 40), Window(0, 0, 40), 64)  # bicubic overshoots
    assert image.min() >= -1 and image.max() <= 1
