import pytest
import torch

from diffaug.conditioning.prompts import all_prompts
from diffaug.config import CodecConfig, DenoiserConfig
from diffaug.models.compact import TEXT_LENGTH, codec_of, denoiser_of, scheduler_of, text_encoder_of, tokenizer_of


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(all_prompts())


def test_words_of_the_corpus_are_single_tokens_or_few(tokenizer):
    words = sorted({word for prompt in all_prompts() for word in prompt.replace(",", " ").replace("-", " ").split()})
    assert len(words) > 20
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)


def test_every_prompt_fits_into_the_text_encoder(tokenizer):
    assert max(len(tokenizer(prompt).input_ids) for prompt in all_prompts()) <= TEXT_LENGTH


@pytest.mark.parametrize("words", ["sessile", "ödem", "zungenförmig", "日本", "kudo-iiil", "x#y"])
def test_words_outside_the_corpus_are_spelt_out(tokenizer, words):
    ids = tokenizer(words).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == words


def test_different_words_have_different_tokens(tokenizer):
    assert tokenizer("a small lesion").input_ids != tokenizer("a large lesion").input_ids
    assert tokenizer("Small").input_ids == tokenizer("small").input_ids


def test_a_tokenizer_does_not_depend_on_chance(tokenizer):
    again = tokenizer_of(all_prompts())
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again("a flat lesion, xyz").input_ids == tokenizer("a flat lesion, xyz").input_ids


def test_a_long_prompt_is_cut(tokenizer):
    assert len(tokenizer("lesion " * 99, truncation=True).input_ids) == TEXT_LENGTH


@pytest.mark.parametrize(("cell", "blocks"), [(8, (1, 1)), (4, (1, 2)), (16, (2, 1))])
def test_a_codec_has_one_latent_for_each_cell_of_pixels(cell, blocks):
    codec = codec_of(CodecConfig(window=64, cell=cell, width=16, blocks=blocks, latent_channels=4))
    channels, side = 3 * cell**2, 64 // cell
    with torch.no_grad():
        latents = codec.encode(torch.zeros(1, channels, side, side)).latents
        assert latents.shape == (1, 4, side, side)
        assert codec.decode(latents).sample.shape == (1, channels, side, side)


@pytest.mark.parametrize("widths", [(16,), (16, 32), (32, 208), (16, 32, 320)])
@pytest.mark.parametrize("classes", [1, 2])
def test_a_denoiser_of_any_width_takes_latents_region_masks_and_scale(tokenizer, widths, classes):
    config = DenoiserConfig(widths=widths, text_width=64, text_layers=1)
    unet = denoiser_of(config, latent_channels=4, latent_side=8, classes=classes)
    with torch.no_grad():
        text = text_encoder_of(config, tokenizer)(torch.zeros(1, TEXT_LENGTH, dtype=torch.long)).last_hidden_state
        assert text.shape == (1, TEXT_LENGTH, 64)
        x = torch.zeros(1, 4 + 1 + 4 + classes + 2, 8, 8)
        assert unet(x, torch.tensor([3]), text).sample.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("width", [8, 24, 40])
def test_groups_of_channels_need_widths_divisible_by_16(width):
    with pytest.raises(ValueError, match="divisible"):
        denoiser_of(DenoiserConfig.model_construct(widths=(16, width), text_width=32), 4, 8)


def test_the_scheduler_samples_from_the_last_timestep_and_is_made_for_v():
    scheduler = scheduler_of()
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999
    assert scheduler.alphas_cumprod[-1] == 0
    assert scheduler.config.prediction_type == "v_prediction"
