import os

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from diffaug.compute.seeds import seeded
from diffaug.config import FRAME_CELLS
from diffaug.encoder import Trunk, load_trunk
from diffaug.errors import ModelError
from diffaug.validator.latent_segmenter import (
    UPSCALE,
    LatentSegmenter,
    frame_side,
    image_map,
    load_segmenter,
    save_segmenter,
    segment,
    segmentation_loss,
    segmenter_of,
)


def network(classes=1):
    with seeded(0):
        return LatentSegmenter(Trunk(), 4, classes).eval()


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("cells", [8, 10])
def test_latents_become_probabilities_at_four_times_their_side(classes, cells):
    found = segment(network(classes), torch.randn(3, 4, cells, cells), torch.tensor([0, 500, 999]))
    assert found.shape == (3, classes, cells * UPSCALE, cells * UPSCALE)
    assert found.dtype == torch.float32
    assert ((found > 0) & (found < 1)).all()


def test_the_timestep_matters_once_it_was_learned():
    latents, learned = torch.randn(1, 4, 8, 8), network()
    torch.nn.init.normal_(learned.time.weight)
    first, second = (segment(learned, latents, torch.tensor([t])) for t in (0, 900))
    assert not torch.allclose(first, second, atol=1e-4)


def pictures(count=6, cells=8):
    """Smooth random images (N, 3, s, s), and latents (N, 12, h, w) that are the means of each quarter of a cell."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 2 * cells, 2 * cells, generator=generator)
    images = F.interpolate(coarse, scale_factor=UPSCALE // 2, mode="nearest")
    return images, F.pixel_unshuffle(coarse, 2)


def test_latents_that_hold_an_image_are_shown_as_that_image():
    images, latents = pictures()
    weight, bias = image_map(latents, images)
    shown = F.pixel_shuffle(F.conv2d(latents, weight, bias, padding=1), UPSCALE)
    assert torch.allclose(shown, images, atol=1e-3)


def test_no_other_linear_map_shows_latents_better():
    images, latents = pictures()
    latents = latents[:, :4]  # what is left tells a part of the image

    def error(weight, bias):
        return float((F.pixel_shuffle(F.conv2d(latents, weight, bias, padding=1), UPSCALE) - images).square().mean())

    weight, bias = image_map(latents, images)
    generator = torch.Generator().manual_seed(4)
    for _ in range(10):
        moved = weight + 0.01 * torch.randn(weight.shape, generator=generator)
        assert error(weight, bias) < error(moved, bias)
    assert error(weight, bias) < error(torch.zeros_like(weight), images.mean() * torch.ones_like(bias))


def test_a_network_starts_with_the_eyes_of_imagenet():
    images, latents = pictures()
    made, trunk = segmenter_of(latents, images, classes=2), load_trunk()
    assert all(torch.equal(a, b) for a, b in zip(made.network.encoder.parameters(), trunk.parameters(), strict=True))
    assert torch.equal(segment(made.eval(), latents, torch.zeros(6)), segment(made, latents, torch.full((6,), 900)))


@pytest.mark.parametrize(("cell", "cells", "side"), [(8, 16, 8 * FRAME_CELLS), (8, 64, 512), (4, 16, 4 * FRAME_CELLS)])
def test_a_frame_has_as_many_cells_as_a_window_or_more(cell, cells, side):
    assert frame_side(cell, cells) == side


def test_the_loss_is_least_for_the_label_itself():
    label = torch.zeros(2, 1, 8, 8)
    label[:, :, 2:5, 2:5] = 1
    trust = torch.ones(2)
    right = segmentation_loss(40 * (label - 0.5), label, trust)
    assert right.item() == pytest.approx(0.0, abs=1e-3)
    for wrong in (torch.zeros_like(label), 40 * (0.5 - label), torch.full_like(label, -20.0)):
        assert segmentation_loss(wrong, label, trust) > right + 0.1


def test_nothing_found_where_nothing_is_costs_nothing():
    empty = torch.zeros(2, 1, 8, 8)
    assert segmentation_loss(empty - 20, empty, torch.ones(2)).item() == pytest.approx(0.0, abs=1e-3)


def test_a_small_class_weighs_as_much_as_a_large_one():
    label = torch.zeros(1, 2, 16, 16)
    label[:, 0, :12], label[:, 1, :2, :2] = 1, 1
    logits = 40 * (label - 0.5)
    lost = [torch.where(torch.arange(2).view(1, 2, 1, 1) == k, -logits.abs(), logits) for k in (0, 1)]
    losses = [segmentation_loss(one, label, torch.ones(1)).item() for one in lost]
    right = segmentation_loss(logits, label, torch.ones(1)).item()
    assert losses[1] - right > 0.15  # half of the Dice term, though 4 px of 512 are lost
    assert losses[0] > losses[1]


def test_a_label_without_trust_does_not_count():
    logits, label = torch.randn(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    other = label.clone()
    other[1] = 0
    trust = torch.tensor([1.0, 0.0])
    assert torch.equal(segmentation_loss(logits, label, trust), segmentation_loss(logits, other, trust))


def test_a_network_survives_its_folder(tmp_path):
    made = network(2)
    save_segmenter(made, tmp_path / "0")
    latents, t = torch.randn(1, 4, 8, 8), torch.tensor([10])
    before = torch.get_rng_state()
    loaded = load_segmenter(tmp_path / "0")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(segment(loaded, latents, t), segment(made, latents, t), atol=1e-6)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("damage", ["folder", "weights", "truncated", "another network"])
def test_a_missing_or_damaged_network_is_one_line_of_error(tmp_path, damage):
    save_segmenter(network(), tmp_path / "0")
    weights = tmp_path / "0" / "model.safetensors"
    if damage == "folder":
        (tmp_path / "0").rename(tmp_path / "1")
    elif damage == "weights":
        weights.unlink()
    elif damage == "truncated":
        os.truncate(weights, 1000)
    else:
        save_file({"image.weight": torch.zeros(48, 4, 3, 3)}, weights)
    with pytest.raises(ModelError, match="needs its validators") as error:
        load_segmenter(tmp_path / "0")
    assert "\n" not in str(error.value)
