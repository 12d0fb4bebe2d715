from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffaug.compute.seeds import generator_of
from diffaug.config import CodecConfig
from diffaug.errors import ConfigError
from diffaug.models.compact import codec_of, encode_raw, reconstruct
from diffaug.training.codec import (
    gradient_loss,
    measure_codec,
    psnr,
    random_window,
    sample_windows,
    start_from_components,
    train_codec,
)


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.codec.model_copy(update={"latent_channels": 8})


def test_a_random_window_is_a_turned_square_of_the_frame():
    frame = np.zeros((50, 90, 3), np.uint8)
    frame[:] = (200, 100, 0)
    for seed in range(10):
        window = random_window(frame, 32, generator_of(seed))
        assert window.shape == (1, 3, 32, 32)
        torch.testing.assert_close(window.mean((0, 2, 3)), torch.tensor([200, 100, 0]) / 127.5 - 1, atol=1e-4, rtol=0)
    frame = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    assert torch.equal(random_window(frame, 32, generator_of(3)), random_window(frame, 32, generator_of(3)))
    assert not torch.equal(random_window(frame, 32, generator_of(3)), random_window(frame, 32, generator_of(4)))


@pytest.mark.parametrize("shape", [(16, 16, 3), (9, 40, 3), (64, 20, 3)])
def test_a_random_window_of_a_small_frame_is_mirrored_where_it_ends(shape):
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert random_window(frame, 32, generator_of(1)).shape == (1, 3, 32, 32)


def test_sampled_windows_hold_one_of_each_frame_at_least(frames):
    assert sample_windows(frames, 32, 0, count=3).shape == (len(frames), 3, 32, 32)
    assert sample_windows(frames, 32, 0, count=20).shape == (20, 3, 32, 32)


def test_differences_of_equal_images_are_zero_and_do_not_see_brightness():
    image = torch.rand(2, 3, 16, 16)
    assert gradient_loss(image, image) == 0
    assert gradient_loss(image + 0.3, image).item() == pytest.approx(0.0, abs=1e-6)
    assert gradient_loss(image.flip(3), image) > 0.1


def test_psnr_is_that_of_its_formula():
    image = torch.zeros(2, 3, 8, 8)
    assert psnr(image + 0.2, image).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_a_codec_starts_as_the_principal_components_of_the_cells(frames, config):
    torch.manual_seed(0)
    codec = codec_of(config)
    windows = sample_windows(frames, 64, 0)
    start_from_components(codec, windows)
    with torch.no_grad():
        passed = reconstruct(codec, windows)
        cells = torch.nn.functional.pixel_unshuffle(windows, 8).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = cells.mean(0)
        _, _, basis = torch.linalg.svd(cells - mean, full_matrices=False)
        best = ((cells - mean) - (cells - mean) @ basis[:8].T @ basis[:8]).pow(2).mean()
    assert ((passed - windows) ** 2).mean().item() < 1.25 * best.item()


def test_more_latent_channels_keep_more(frames, config):
    found = []
    for channels in (2, 4, 8, 16):
        codec = codec_of(config.model_copy(update={"latent_channels": channels}))
        start_from_components(codec, sample_windows(frames, 64, 0))
        found.append(measure_codec(partial(reconstruct, codec), frames, 64).psnr_db)
    assert found == sorted(found)
    assert found[-1] > found[0] + 3


def test_a_trained_codec_encodes_each_cell_on_its_own(frames, config, tmp_path):
    codec = train_codec(frames, config, tmp_path)
    image = sample_windows(frames, 64, 0, count=1)[:1]
    other = image.clone()
    other[:, :, 24:32, 40:48] = 1.0
    with torch.no_grad():
        moved = (encode_raw(codec, image) - encode_raw(codec, other)).abs().amax((0, 1)) > 1e-5
    assert moved.nonzero().tolist() == [[3, 5]]


def test_training_improves_the_decoder_and_leaves_latents_where_they_were(frames, config, tmp_path):
    torch.manual_seed(0)
    start = codec_of(config)
    start_from_components(start, sample_windows(frames, config.window, 0))
    before = measure_codec(partial(reconstruct, start), frames, 64)
    trained = train_codec(frames, config.model_copy(update={"iterations": 60}), tmp_path)
    assert measure_codec(partial(reconstruct, trained), frames, 64).psnr_db > before.psnr_db
    image = sample_windows(frames, 64, 0)
    with torch.no_grad():
        assert torch.equal(encode_raw(trained, image), encode_raw(start, image))
    assert not any(p.requires_grad for p in trained.parameters()) and not trained.training


def test_latents_of_a_trained_codec_have_about_unit_variance(frames, config, tmp_path):
    codec = train_codec(frames, config, tmp_path)
    latents = encode_raw(codec, sample_windows(frames, 64, 1)) * codec.config.scaling_factor
    assert latents.std().item() == pytest.approx(1.0, rel=0.1)


def test_training_goes_on_from_a_codec_without_moving_its_latents(frames, config, tmp_path):
    first = train_codec(frames, config, tmp_path / "first")
    image = sample_windows(frames, 64, 0)
    before, scale, decoded = encode_raw(first, image), first.config.scaling_factor, reconstruct(first, image)
    second = train_codec(frames[:2], config, tmp_path / "second", codec=first)
    assert torch.equal(encode_raw(second, image), before) and second.config.scaling_factor == scale
    assert not torch.equal(reconstruct(second, image), decoded)


def test_a_checkpoint_holds_the_decoder_alone(frames, config, tmp_path):
    train_codec(frames, config, tmp_path)
    names = load_file(tmp_path / "codec.checkpoint")
    assert names and all("/decoder." in name for name in names)


def test_a_codec_config_leaves_room_for_the_components():
    with pytest.raises(ConfigError, match="it is 12, width is 16"):
        CodecConfig(width=16, latent_channels=12)
