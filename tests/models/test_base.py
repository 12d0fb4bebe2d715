import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel

from diffaug.artifacts import read_json
from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.sampler import sample
from diffaug.errors import ModelError, ShapeError
from diffaug.models.base import scale_of
from diffaug.models.checkpoints import STEMS, read_words, seal, verify, write_words
from diffaug.models.compact import Compact, codec_of, scheduler_of, with_scale
from diffaug.models.loading import PARTS, load_model
from diffaug.models.stable_diffusion import StableDiffusion

PARTS_IN_MEMORY = ("codec", "unet", "text_encoder", "tokenizer", "scheduler")
PROMPT = "a small round lesion"


def window(rows=1):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(rows, 3, 64, 64, generator=generator) * 2 - 1
    region = torch.zeros(rows, 1, 64, 64)
    region[:, :, 16:48, 16:48] = 1
    mask = torch.zeros(rows, 1, 64, 64)
    mask[:, :, 20:40, 20:44] = 1
    return image, region, mask


def told(model, rows=1):
    image, region, mask = window(rows)
    with torch.no_grad():
        return model.condition(image, region, mask, torch.zeros(rows, 2), model.embed([PROMPT] * rows))


@torch.no_grad()
def estimate(model):
    return model(model.noise([1, 2]), torch.tensor([999, 300]), told(model, 2))


@pytest.fixture(scope="module")
def saved(untrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    untrained.save(folder)
    return folder


@pytest.fixture
def copy(untrained, tmp_path):
    untrained.save(tmp_path / "model")
    return tmp_path / "model"


def codec_of_stable_diffusion():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 16, 32),
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=0.5,
    ).eval()


@pytest.fixture(scope="module")
def nine_channels(untrained):
    """A model in the layout of Stable Diffusion inpainting: 4 latent channels, a U-Net of 9."""
    torch.manual_seed(0)
    codec = codec_of_stable_diffusion()
    unet = UNet2DConditionModel.from_config({**untrained.unet.config, "in_channels": 9}).eval()
    return StableDiffusion(codec, unet, untrained.text_encoder, untrained.tokenizer, scheduler_of())


@pytest.fixture(scope="module")
def pipeline(nine_channels):
    model = nine_channels
    made = StableDiffusionInpaintPipeline(
        vae=model.codec,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=scheduler_of(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


# On disk


@pytest.mark.parametrize("name", PARTS)
def test_every_part_of_a_saved_model_loads_with_its_librarys_own_from_pretrained(saved, untrained, name):
    library, kind = read_json(saved / "model_index.json")[name]
    part = getattr({"diffusers": diffusers, "transformers": transformers}[library], kind)
    loaded = part.from_pretrained(saved / name, local_files_only=True)
    if name in STEMS:
        ours = {"vae": untrained.codec}.get(name) or getattr(untrained, name)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in ours.state_dict().items())
    elif name == "tokenizer":
        assert loaded(PROMPT).input_ids == untrained.tokenizer(PROMPT).input_ids
    else:
        assert torch.equal(loaded.alphas_cumprod, untrained.scheduler.alphas_cumprod)


def test_a_saved_model_holds_safetensors_and_json_only(saved):
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".txt"}


def test_a_saved_and_loaded_model_says_the_same(saved, untrained):
    loaded = load_model(saved)
    assert torch.equal(estimate(loaded), estimate(untrained))
    image = window()[0]
    assert torch.equal(loaded.encode(image), untrained.encode(image))
    assert (loaded.window, loaded.cell, loaded.latent_side, loaded.classes) == (64, 8, 8, 1)
    assert not any(p.requires_grad for part in (loaded.unet, loaded.codec) for p in part.parameters())


def test_a_model_saved_twice_has_the_same_bytes(saved, copy):
    for path in saved.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (copy / path.relative_to(saved)).read_bytes()


def test_a_model_saved_as_float16_is_half_as_large_and_says_almost_the_same(saved, untrained, tmp_path):
    before = estimate(untrained)
    half = pickle.loads(pickle.dumps(untrained))  # noqa: S301 - a copy
    for network in half.networks.values():
        network.half()
    half.save(tmp_path)
    for name in STEMS:
        (weights,) = (tmp_path / name).glob("*.safetensors")
        assert weights.stat().st_size < 0.6 * (saved / name / weights.name).stat().st_size
    loaded = load_model(tmp_path)
    assert loaded.unet.dtype == loaded.codec.dtype == loaded.text_encoder.dtype == torch.float32
    torch.testing.assert_close(estimate(loaded), before, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_one_line_of_error(copy, name):
    (copy / name).rename(copy / "elsewhere")
    with pytest.raises(ModelError, match=f"no {name}/") as error:
        load_model(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise"])
def test_damaged_weights_are_one_line_of_error(copy, name, damage):
    (weights,) = (copy / name).glob("*.safetensors")
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        weights.write_bytes(b"no tensors at all")
    with pytest.raises(ModelError, match=name) as error:
        load_model(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_config_is_one_line_of_error(copy, name):
    for path in (copy / name).glob("*.json"):
        path.write_text("{")
    with pytest.raises(ModelError, match=name) as error:
        load_model(copy)
    assert "\n" not in str(error.value)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", STEMS)
def test_a_pickle_is_never_opened(copy, name, tmp_path):
    (weights,) = (copy / name).glob("*.safetensors")
    stem = "pytorch_model" if name == "text_encoder" else "diffusion_pytorch_model"
    (copy / name / f"{stem}.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    load_model(copy)  # beside safetensors it is ignored
    weights.unlink()
    with pytest.raises(ModelError, match=name):
        load_model(copy)
    assert not (tmp_path / "sprung").exists()


def test_a_sealed_model_is_verified_and_its_digest_is_that_of_its_bytes(copy):
    digest = seal(copy)
    assert verify(copy) == digest == seal(copy)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("tokenizer/tokenizer_config.json", "model_max_length", {}),
        ("vae/config.json", "shift_factor", [256]),
        ("vae/config.json", "scaling_factor", None),
        ("unet/config.json", "sample_size", [16, 16]),
    ],
)
def test_a_configuration_without_a_number_where_one_is_needed_is_told(copy, file, name, value):
    changed = copy / file
    changed.write_text(json.dumps({**json.loads(changed.read_text()), name: value}))
    with pytest.raises(ModelError, match=f"{name} = .*restore its files"):
        load_model(copy)


@pytest.mark.parametrize("settings", ['{"rows": []}', '{"model_max_length": 4000}'])
def test_a_tokenizer_that_cuts_no_prompt_to_the_text_encoder_is_refused(copy, settings):
    (copy / "tokenizer" / "tokenizer_config.json").write_text(settings)
    with pytest.raises(ModelError, match="cuts prompts to what the text encoder reads"):
        load_model(copy)


@pytest.mark.parametrize("name", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "model_index.json"])
def test_a_missing_or_altered_file_is_found(copy, name):
    digest, path = seal(copy), copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match="was altered") as error:
        verify(copy)
    assert path.name in str(error.value)
    path.unlink()
    with pytest.raises(ModelError, match="is missing"):
        verify(copy)
    path.write_bytes(data)
    assert verify(copy) == digest


def test_logs_and_what_a_killed_run_left_do_not_count(copy):
    digest = seal(copy)
    (copy / "training").mkdir()
    (copy / "training" / "log.jsonl").write_text("{}\n")
    (copy / ".fit.json.123.partial").write_text("{")
    assert verify(copy) == seal(copy) == digest


@pytest.mark.parametrize("content", [None, "{", "{}", "[1, 2]", '"text"'])
def test_an_unfinished_model_is_one_line_of_error(copy, content):
    if content is not None:
        (copy / "digests.json").write_text(content)
    for folder in (copy, copy / "nowhere"):
        with pytest.raises(ModelError) as error:
            verify(folder)
        assert "\n" not in str(error.value)


# As a function


@pytest.mark.parametrize("channels", [4, 8, 10, 11])
def test_a_unet_that_cannot_inpaint_is_refused(untrained, channels):
    unet = UNet2DConditionModel.from_config({**untrained.unet.config, "in_channels": channels})
    with pytest.raises(ModelError, match=f"takes {channels};"):
        Compact(untrained.codec, unet, untrained.text_encoder, untrained.tokenizer, untrained.scheduler)


def test_the_layout_of_stable_diffusion_has_no_mask_channels(nine_channels, untrained):
    assert (nine_channels.classes, untrained.classes) == (0, 1)
    assert estimate(nine_channels).shape == (2, 4, 8, 8)


def test_a_nine_channel_model_runs_in_the_inpainting_pipeline_of_diffusers(pipeline):
    image, region, _ = window()
    made = pipeline(
        PROMPT,
        image=(image + 1) / 2,
        mask_image=region,
        height=64,
        width=64,
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert made.shape == (1, 64, 64, 3)
    assert made.std() > 0


def test_the_pipeline_of_diffusers_and_our_sampler_make_the_same_latents(pipeline, nine_channels):
    image, region, _ = window()
    parts, noise = told(nine_channels), nine_channels.noise([3])
    theirs = pipeline(
        PROMPT,
        image=(image + 1) / 2,
        mask_image=region,
        masked_image_latents=parts.masked_image_latents,
        latents=noise,
        guidance_scale=1.0,
        height=64,
        width=64,
        num_inference_steps=4,
        output_type="latent",
    ).images
    *_, last = sample(nine_channels, noise, parts, nine_channels.schedule, 4, "ddim")
    torch.testing.assert_close(last.x_next, theirs, atol=0.06, rtol=0.0)  # ours runs in bfloat16 where that is faster
    assert theirs.std() > 0.3


def test_a_nine_channel_model_travels_between_our_folder_and_the_pipelines(pipeline, nine_channels, tmp_path):
    before = estimate(nine_channels)
    nine_channels.save(tmp_path / "ours")
    without = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    theirs = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "ours", requires_safety_checker=False, **without)
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(estimate(load_model(tmp_path / "theirs")), before)


def test_a_model_of_one_class_says_the_same_when_it_gets_a_mask_for_each_of_several(untrained):
    model = Compact(**{name: getattr(untrained, name) for name in PARTS_IN_MEMORY})
    model.unet = pickle.loads(pickle.dumps(untrained.unet))  # noqa: S301 - a copy
    model.add_masks(3)
    assert model.classes == 3 and model.unet.config.in_channels == untrained.unet.config.in_channels + 2
    image, region, mask = window(2)
    several = torch.cat([mask, mask.flip(3), torch.rand_like(mask)], dim=1)
    with torch.no_grad():
        one, three = (
            m.condition(image, region, masks, torch.ones(2, 2), m.embed([PROMPT] * 2))
            for m, masks in ((untrained, mask), (model, several))
        )
        noise, t = model.noise([1, 2]), torch.tensor([999, 300])
        torch.testing.assert_close(model(noise, t, three), untrained(noise, t, one), atol=1e-3, rtol=1e-3)


def test_a_model_without_masks_says_the_same_when_it_gets_masks_and_scale(nine_channels):
    model = pickle.loads(pickle.dumps(nine_channels))  # noqa: S301 - a copy
    before = estimate(model)
    model.add_masks(1)
    assert model.classes == 1
    torch.testing.assert_close(estimate(model), before, atol=1e-3, rtol=1e-3)


def test_an_estimate_of_a_row_does_not_depend_on_the_other_rows(untrained):
    parts, noise, t = told(untrained, 3), untrained.noise([1, 2, 3]), torch.tensor([999, 500, 0])
    with torch.no_grad():
        together = untrained(noise, t, parts)
        for row in range(3):
            alone = untrained(noise[row : row + 1], t[row : row + 1], parts.rows(slice(row, row + 1)))
            torch.testing.assert_close(alone[0], together[row], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("part", ["region", "mask", "masked_image_latents", "scale", "text"])
def test_everything_a_painter_is_told_matters(untrained, part):
    parts, noise, t = told(untrained), untrained.noise([1]), torch.tensor([500])
    changed = Conditioning(**{**vars(parts), part: getattr(parts, part) + 1.0})
    with torch.no_grad():
        assert not torch.allclose(untrained(noise, t, parts), untrained(noise, t, changed), atol=1e-4)


def test_what_lies_inside_the_region_is_hidden_from_the_painter(untrained):
    image, region, mask = window()
    other = torch.where(region > 0, -image, image)
    scale, text = torch.zeros(1, 2), torch.zeros(1, 32, 32)
    with torch.no_grad():
        first, second = (untrained.condition(pixels, region, mask, scale, text) for pixels in (image, other))
    assert torch.equal(first.masked_image_latents, second.masked_image_latents)


def test_a_mask_becomes_covered_shares_and_a_region_covers_every_cell_it_touches(untrained):
    image, region, mask = window()
    region[:, :, 15, 16:48] = 1  # one row of pixels in the next row of cells
    with torch.no_grad():
        parts = untrained.condition(image, region, mask, torch.zeros(1, 2), torch.zeros(1, 32, 32))
    assert parts.mask.sum().item() * 64 == mask.sum().item()
    assert parts.region.sum() == 5 * 4 and set(parts.region.unique().tolist()) == {0.0, 1.0}
    with pytest.raises(ShapeError, match="one size"):
        untrained.condition(image, region[..., :32], mask, torch.zeros(1, 2), torch.zeros(1, 32, 32))


def test_outside_the_region_the_estimate_is_what_is_known_there(untrained):
    parts = told(untrained)
    with torch.no_grad():
        x0_hat = untrained(untrained.noise([1]), torch.tensor([999]), parts)
    outside = (parts.region == 0).expand_as(x0_hat)
    assert torch.equal(x0_hat[outside], parts.masked_image_latents[outside])
    assert not torch.allclose(x0_hat[~outside], parts.masked_image_latents[~outside], atol=0.1)


def test_noise_of_a_request_is_a_pure_function_of_its_seed(untrained):
    rows = untrained.noise([7, 2**62, 7])
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])
    assert torch.equal(rows[1:2], untrained.noise([2**62]))


def test_prompts_are_padded_to_one_length_and_an_empty_one_asks_for_nothing(untrained):
    tokens = untrained.tokens(["", PROMPT, "lesion " * 99])
    assert tokens.shape == (3, 32)
    special = {untrained.tokenizer.bos_token_id, untrained.tokenizer.eos_token_id}
    assert set(tokens[0].tolist()) == special
    with torch.no_grad():
        assert untrained.embed([PROMPT]).shape == (1, 32, 32)


# Codec


def test_latents_have_unit_variance_over_the_images_their_scale_was_taken_from(untrained, tiny):
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    model = replace(untrained, codec=with_scale(codec_of(tiny.codec).eval(), images))
    with torch.no_grad():
        latents = model.encode(images)
        assert latents.std().item() == pytest.approx(1.0, abs=1e-3)
        torch.testing.assert_close(model.decode(latents), model.decode_raw(model.encode_raw(images)), atol=1e-4, rtol=0)


def test_a_codec_of_stable_diffusion_is_normalised_by_its_scaling_factor(nine_channels):
    codec = codec_of_stable_diffusion()
    model = replace(nine_channels, codec=codec)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model.encode(image), 0.5 * codec.encode(image).latent_dist.mean)
        codec.register_to_config(shift_factor=0.25)
        torch.testing.assert_close(model.encode(image), 0.5 * (codec.encode(image).latent_dist.mean - 0.25))


def test_scale_is_zero_for_a_window_as_wide_as_the_frame_with_8_px_a_cell():
    assert scale_of(128, (128, 128), 16) == (0.0, 0.0)
    assert scale_of(64, (128, 128), 16) == (-1.0, -1.0)
    assert scale_of(64, (64, 256), 4) == (-1.0, 1.0)


def test_a_saved_model_does_not_tell_where_it_was_loaded_from(untrained, tmp_path):
    untrained.save(tmp_path / "here")
    load_model(tmp_path / "here").save(tmp_path / "there")
    for name in ("vae", "unet", "text_encoder"):
        assert "here" not in (tmp_path / "there" / name / "config.json").read_text(encoding="utf-8")


def test_a_model_knows_the_words_it_was_trained_on_and_without_a_list_those_of_measured_attributes(untrained, tmp_path):
    untrained.save(tmp_path / "model")
    assert {"lesion", "low", "contrast", "normal", "mucosa"} <= read_words(tmp_path / "model")
    write_words(tmp_path / "model", {"polyp", "ödem"})
    assert read_words(tmp_path / "model") == {"polyp", "ödem"}
    seal(tmp_path / "model")
    load_model(tmp_path / "model")
    write_words(tmp_path / "model", {"polyp"})
    with pytest.raises(ModelError, match="was altered"):
        verify(tmp_path / "model")
