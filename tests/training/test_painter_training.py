import numpy as np
import pytest
import torch

from diffaug.compute.seeds import generator_of
from diffaug.diffusion.schedule import Schedule
from diffaug.models.compact import scheduler_of
from diffaug.models.loading import load_model
from diffaug.training.painter import (
    REGION_WEIGHT,
    held_out_loss,
    painting_loss,
    stratified_timesteps,
    train_painter,
    x0_weight,
)
from diffaug.training.windows import encode_windows, lesion_window


def latents(seed):
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


REGION = torch.zeros(4, 1, 6, 6)
REGION[:, :, 1:4, 2:5] = 1
POWER = torch.tensor([0.0, 0.3, 0.6, 0.9])


@pytest.mark.parametrize("rows", [1, 8, 50])
def test_timesteps_of_a_batch_hold_one_of_each_stratum(rows):
    for seed in range(20):
        t = stratified_timesteps(rows, 1000, generator_of(seed))
        assert sorted((t * rows // 1000).tolist()) == list(range(rows))
    shuffled = torch.stack([stratified_timesteps(8, 1000, generator_of(seed)) for seed in range(200)]).double()
    assert shuffled.mean(0).std() < 60  # no row has timesteps of its own


def test_the_weight_is_signal_to_noise_plus_one_and_capped():
    assert x0_weight(torch.tensor([0.0, 0.5, 0.9, 1.0])).tolist() == pytest.approx([1.0, 2.0, 6.0, 6.0])
    weight = x0_weight(Schedule.of(scheduler_of()).alpha_bar)
    assert torch.isfinite(weight).all() and (weight.diff() <= 0).all()


def test_a_right_estimate_costs_nothing_and_a_wrong_one_more_the_wronger_it_is():
    x0, other = latents(0), latents(1)
    assert painting_loss(x0, x0, REGION, POWER) == 0
    losses = [painting_loss(x0 + share * other, x0, REGION, POWER).item() for share in (0.1, 0.5, 1.0)]
    assert losses == sorted(losses)
    assert losses[2] == pytest.approx(100 * losses[0], rel=1e-4)


def test_an_error_inside_the_region_counts_more():
    x0 = latents(0)
    inside, outside = x0.clone(), x0.clone()
    inside[:, :, 2, 3] += 1
    outside[:, :, 0, 0] += 1
    ratio = painting_loss(inside, x0, REGION, POWER) / painting_loss(outside, x0, REGION, POWER)
    assert ratio.item() == pytest.approx(REGION_WEIGHT, rel=1e-5)
    everywhere, nowhere = torch.ones_like(REGION), torch.zeros_like(REGION)
    assert painting_loss(inside, x0, everywhere, POWER) == pytest.approx(
        painting_loss(inside, x0, nowhere, POWER).item(), rel=1e-5
    )


@pytest.fixture
def model(fitted):
    return load_model(fitted)


@pytest.fixture(scope="module")
def windows(annotated, fitted):
    sketches = [lesion_window(annotated[n % 8], 64, 8, (1.3, 2.2), np.random.default_rng(n)) for n in range(16)]
    return encode_windows(load_model(fitted), sketches)


def test_training_moves_the_unet_and_the_text_encoder_and_leaves_the_codec(model, windows, tiny, tmp_path):
    before = {
        name: p.clone() for name in ("codec", "unet", "text_encoder") for p in [next(getattr(model, name).parameters())]
    }
    train_painter(model, [(windows, 1.0)], tiny.denoiser, tmp_path)
    assert torch.equal(next(model.codec.parameters()), before["codec"])
    assert not torch.equal(next(model.unet.parameters()), before["unet"])
    assert not torch.equal(next(model.text_encoder.parameters()), before["text_encoder"])
    assert not any(p.requires_grad for part in (model.unet, model.text_encoder) for p in part.parameters())
    assert not model.unet.training


def test_a_painter_learns_the_windows_it_is_shown(model, windows, tiny, tmp_path):
    t, noise = torch.full((16,), 900), model.noise(range(16))

    @torch.no_grad()
    def error():
        told = windows.conditioning(model.embed_tokens(windows.tokens))
        return ((model(noise, t, told) - windows.x0) ** 2)[windows.region.expand_as(windows.x0) > 0].mean().item()

    before = error()
    config = tiny.denoiser.model_copy(update={"iterations": 60, "learning_rate": 5e-3, "batch_size": 16})
    train_painter(model, [(windows, 1.0)], config, tmp_path)
    assert error() < 0.8 * before


def test_shares_of_zero_draw_nothing_from_a_source(model, windows, tiny, tmp_path):
    poison = windows.rows(torch.arange(2))
    poison.x0.fill_(torch.nan)
    train_painter(model, [(windows, 1.0), (poison, 0.0)], tiny.denoiser, tmp_path)
    train_painter(model, [(poison, 0.0), (windows, 1.0)], tiny.denoiser, tmp_path / "turned")


def test_the_held_out_loss_is_always_the_same_and_leaves_torch_as_it_was(model, annotated):
    windows = encode_windows(
        model,
        (
            lesion_window(case, model.window, model.latent_side, (1.3, 2.2), np.random.default_rng(i))
            for i, case in enumerate(annotated)
        ),
    )
    torch.manual_seed(1)
    first = held_out_loss(model, windows)
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), drawn)
    assert held_out_loss(model, windows) == first > 0
