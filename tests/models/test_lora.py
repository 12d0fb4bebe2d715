import copy

import pytest
import torch

from diffaug.models.latent_inpainter import LatentInpainter
from diffaug.models.lora import WHOLE, add_lora


@pytest.fixture
def model(untrained):
    return copy.deepcopy(untrained)


@torch.no_grad()
def output(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, model.unet.config.in_channels, 8, 8, generator=generator)
    width = model.unet.config.cross_attention_dim
    return model.unet(x, torch.tensor([10, 900]), torch.randn(2, 5, width, generator=generator)).sample


def moved(model, rank=4):
    """Adapters whose every trainable number was moved, as training would."""
    lora = add_lora(model.unet, rank)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return lora


def test_a_unet_does_what_it_did_until_its_adapters_are_trained(model):
    before = output(model)
    add_lora(model.unet, 4)
    assert torch.equal(output(model), before)


def test_only_adapters_and_the_outer_convolutions_are_trained(model):
    add_lora(model.unet, 2)
    trained = {name for name, value in model.unet.named_parameters() if value.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {f"{n}.{p}" for n in WHOLE for p in ("weight", "bias")}
    assert any("attn" in name for name in trained) and any("resnets" in name and "conv1" in name for name in trained)


def test_merged_weights_do_what_the_adapters_did(model):
    before = output(model)
    names = set(model.unet.state_dict())
    lora = moved(model)
    adapted = output(model)
    lora.merge_and_unload()
    assert not torch.allclose(adapted, before, atol=1e-2)
    torch.testing.assert_close(output(model), adapted, atol=1e-4, rtol=1e-4)
    assert set(model.unet.state_dict()) == names


def test_a_merged_model_is_saved_and_loaded_without_a_change(model, tmp_path):
    moved(model).merge_and_unload()
    model.save(tmp_path)
    assert torch.equal(output(LatentInpainter.load(tmp_path)), output(model))


def test_the_same_seed_makes_the_same_adapters_and_another_seed_others(untrained):
    def first(seed):
        unet = copy.deepcopy(untrained.unet)
        add_lora(unet, 2, seed)
        return next(value.clone() for name, value in unet.named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
