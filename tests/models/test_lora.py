import shutil

import pytest
import torch
from checkpoints import KINDS, write_checkpoint
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from peft import LoraConfig

from diffaug.errors import ModelError
from diffaug.models.loading import load_model
from diffaug.models.lora import ATTENTION, Adapters, Tuning

# Stable Diffusion: attention alone, in files of diffusers' own format


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("base") / request.param, request.param)


def adapted(base, masks):
    """A model whose adapters, and columns of masks and scale, were moved as training would; and these."""
    model = load_model(base)
    if masks:
        model.add_masks(1)
    tuning = Tuning(model.unet, 4, model.plain_channels)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.adopt(tuning.finish())
    return model


@torch.no_grad()
def predicted(unet, text_encoder, further=0):
    """What the networks make of nine channels of noise, further ones of nothing, and a prompt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(2, 9, 8, 8, generator=generator), torch.zeros(2, further, 8, 8)], dim=1)
    text = text_encoder(torch.tensor([[0, 300, 310, 1], [0, 280, 1, 1]])).last_hidden_state
    return unet(x, torch.tensor([10, 900]), text).sample


def pipeline_of(base):
    """The checkpoint in diffusers' own pipeline."""
    model = load_model(base)
    parts = {"unet": model.unet, "vae": model.codec, "text_encoder": model.text_encoder, "tokenizer": model.tokenizer}
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionInpaintPipeline(**parts, scheduler=model.scheduler, **without)


def test_low_rank_updates_load_in_the_pipeline_of_diffusers_with_equal_outputs(base, tmp_path):
    model, pipeline = adapted(base, masks=False), pipeline_of(base)
    before = predicted(pipeline.unet, pipeline.text_encoder)
    model.adapters.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors"}
    pipeline.load_lora_weights(tmp_path)
    theirs = predicted(pipeline.unet, pipeline.text_encoder)
    torch.testing.assert_close(predicted(model.unet, model.text_encoder), theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(theirs, before, atol=1e-2)


def test_with_soft_masks_they_are_what_a_model_does_that_is_told_no_mask(base, tmp_path):
    model, pipeline = adapted(base, masks=True), pipeline_of(base)
    model.adapters.save(tmp_path)
    pipeline.load_lora_weights(tmp_path)
    theirs = predicted(pipeline.unet, pipeline.text_encoder)
    torch.testing.assert_close(predicted(model.unet, model.text_encoder, further=3), theirs, atol=1e-4, rtol=1e-4)


def test_only_attention_and_the_columns_of_masks_and_scale_are_trained(base):
    model = load_model(base)
    model.add_masks(2)
    before = predicted(model.unet, model.text_encoder, further=4)
    Tuning(model.unet, 4, model.plain_channels)
    trainable = {name: value for name, value in model.unet.named_parameters() if value.requires_grad}
    (columns,) = (value for name, value in trainable.items() if "lora_" not in name)
    assert columns.shape == (32, 4, 3, 3)
    layers = {name.split(".lora_")[0].split(".", 1)[1] for name in trainable if "lora_" in name}
    assert all(layer.endswith(ATTENTION) for layer in layers)
    assert torch.equal(predicted(model.unet, model.text_encoder, further=4), before)


def test_a_network_that_holds_adapters_is_never_saved(base, tmp_path):
    model = load_model(base)
    model.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    with pytest.raises(ModelError, match="unet holds adapters; merge them first") as error:
        model.save(tmp_path / "model")
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_adapted_weights_that_diffusers_saved_under_other_names_are_never_made_up(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    model = load_model(folder)
    model.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    shutil.rmtree(folder / "unet")
    model.unet.save_pretrained(folder / "unet")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")  # the trap: no error, and no weights, or random ones
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    made_up = unet.state_dict()[key]
    assert made_up.is_meta or not torch.equal(made_up, load_model(base).unet.state_dict()[key])
    with pytest.raises(ModelError, match=r"unet lacks .*to_q\.weight and .* adapters must be merged") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_updates_of_another_base_are_one_line_of_error(base, tmp_path):
    model, small = (
        adapted(base, masks=False),
        UNet2DConditionModel.from_config({**load_model(base).unet.config}),
    )
    small.mid_block = None
    with pytest.raises(ModelError, match="use the base of the fit"):
        model.adapters.merge(small, 9)
    name = next(key for key in model.adapters.lora if "lora_A" in key).removesuffix(".lora_A.weight")
    huge = {f"{name}.lora_A.weight": torch.zeros(1, 10**6), f"{name}.lora_B.weight": torch.zeros(10**6, 1)}
    with pytest.raises(ModelError, match="use the base of the fit"):
        Adapters(huge, None).merge(model.unet, 9)
    with pytest.raises(ModelError, match=r"mask_channels\.safetensors has \(1, 2\) values"):
        Adapters({}, torch.zeros(1, 2)).merge(model.unet, 9)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="fit it again") as error:
        Adapters.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_same_seed_makes_the_same_updates_and_another_seed_others(base):
    def first(seed):
        model = load_model(base)
        Tuning(model.unet, 2, model.plain_channels, seed)
        return next(value for name, value in model.unet.named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
