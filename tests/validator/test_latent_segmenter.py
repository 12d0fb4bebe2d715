import os

import pytest
import torch
from diffusers import UNet2DModel

from diffaug.config import ValidatorConfig
from diffaug.errors import ModelError
from diffaug.validator.latent_segmenter import UPSCALE, load_segmenter, segment, segmentation_loss, segmenter_of


def network(classes=1):
    torch.manual_seed(0)
    return segmenter_of(ValidatorConfig(widths=(16, 32)), 4, 8, classes).eval()


@pytest.mark.parametrize("classes", [1, 2])
def test_latents_become_probabilities_at_four_times_their_side(classes):
    found = segment(network(classes), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999]))
    assert found.shape == (3, classes, 8 * UPSCALE, 8 * UPSCALE)
    assert found.dtype == torch.float32
    assert ((found > 0) & (found < 1)).all()


def test_the_timestep_matters():
    latents = torch.randn(1, 4, 8, 8)
    first, second = (segment(network(), latents, torch.tensor([t])) for t in (0, 900))
    assert not torch.allclose(first, second, atol=1e-4)


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


def test_a_network_survives_its_folder_and_loads_with_its_librarys_own_from_pretrained(tmp_path):
    network().save_pretrained(tmp_path / "0")
    latents, t = torch.randn(1, 4, 8, 8), torch.tensor([10])
    ours, theirs = load_segmenter(tmp_path / "0"), UNet2DModel.from_pretrained(tmp_path / "0").eval()
    assert torch.equal(segment(ours, latents, t), segment(network(), latents, t))
    assert torch.equal(segment(theirs, latents, t), segment(network(), latents, t))
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize("damage", ["folder", "weights", "truncated", "config"])
def test_a_missing_or_damaged_network_is_one_line_of_error(tmp_path, damage):
    network().save_pretrained(tmp_path / "0")
    weights = tmp_path / "0" / "diffusion_pytorch_model.safetensors"
    if damage == "folder":
        (tmp_path / "0").rename(tmp_path / "1")
    elif damage == "weights":
        weights.unlink()
    elif damage == "truncated":
        os.truncate(weights, 1000)
    else:
        (tmp_path / "0" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="needs its validators") as error:
        load_segmenter(tmp_path / "0")
    assert "\n" not in str(error.value)
