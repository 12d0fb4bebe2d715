"""The ImageNet encoder that the package ships."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from skimage import data
from torch.nn import functional as F

from diffaug.encoder import (
    CHANNELS,
    HEAD,
    STRIDES,
    WEIGHTS,
    Encoder,
    SameConv,
    classify,
    encoder_digest,
    fixed_encoder,
    load_encoder,
    load_trunk,
)

CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
ESPRESSO = 967


def picture(name: str) -> torch.Tensor:
    """Return the middle square of a picture of scikit-image at 224 px, (1, 3, 224, 224) in [0, 1]."""
    image = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None].float() / 255
    side = min(image.shape[2:])
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    square = image[:, :, top : top + side, left : left + side]
    return F.interpolate(square, (224, 224), mode="bilinear", antialias=True)


def test_the_weights_are_small_safetensors_of_half_precision_under_a_stated_licence() -> None:
    values = load_file(WEIGHTS)
    assert WEIGHTS.stat().st_size < 10_000_000
    assert {value.dtype for value in values.values() if value.is_floating_point()} == {torch.float16}
    for text in (WEIGHTS.parent / "README.md", Path(WEIGHTS.parents[4] / "NOTICE")):
        assert "Apache License" in text.read_text(encoding="utf-8")


def test_the_encoder_names_what_a_picture_shows() -> None:
    assert set(classify(picture("chelsea"))[0].topk(3).indices.tolist()) == CATS
    assert int(classify(picture("coffee"))[0].argmax()) == ESPRESSO


@pytest.mark.parametrize("side", [64, 97, 128])
def test_every_stage_hands_out_a_map_of_its_stride(side: int) -> None:
    maps = fixed_encoder().maps(torch.rand(2, 3, side, side + 32))
    assert [found.shape[1] for found in maps] == list(CHANNELS)
    for found, stride in zip(maps, STRIDES, strict=True):
        assert found.shape[2:] == (-(-side // stride), -(-(side + 32) // stride))
    assert fixed_encoder().pooled(maps[-1]).shape == (2, HEAD)


def test_the_first_maps_do_not_depend_on_whether_the_others_are_computed() -> None:
    images = torch.rand(1, 3, 64, 96)
    every = fixed_encoder().maps(images)
    for count in range(1, len(every) + 1):
        some = fixed_encoder().maps(images, count)
        assert len(some) == count and all(torch.equal(one, other) for one, other in zip(some, every, strict=False))


def test_an_untrained_encoder_has_no_weight_that_the_shipped_one_lacks() -> None:
    assert set(Encoder().state_dict()) == set(load_file(WEIGHTS))


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 1, 7), (5, 1, 4), (3, 2, 8), (3, 2, 9), (5, 2, 6), (5, 2, 11)]
)
def test_the_gradients_of_a_convolution_of_each_channel_are_those_of_torch(kernel: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    layer = SameConv(6, 6, kernel, stride, groups=6).double()
    image = torch.rand(2, 6, side, side + 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, x), (image, layer.weight)
    )
    with torch.no_grad():
        expected = layer(image)
    assert torch.allclose(layer(image), expected, atol=1e-12)


def test_the_stages_alone_have_the_maps_of_the_whole_encoder() -> None:
    images = torch.rand(1, 3, 64, 64)
    for one, other in zip(load_trunk().maps(images), load_encoder().maps(images), strict=True):
        assert torch.equal(one, other)


def test_an_encoder_that_is_trained_on_is_not_the_one_that_looks() -> None:
    trained = load_encoder()
    assert all(parameter.requires_grad for parameter in trained.parameters())
    with torch.no_grad():
        trained.stem[0].weight.zero_()
    assert float(fixed_encoder().stem[0].weight.abs().sum()) > 0 and len(encoder_digest()) >= 12


def test_looking_through_the_encoder_for_the_first_time_leaves_the_random_numbers_of_the_caller():
    fixed_encoder.cache_clear()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fixed_encoder()
    assert torch.equal(torch.get_rng_state(), before)
