import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffaug.diffusion.schedule import (
    Schedule,
    eps_from_x0,
    v_from_x0,
    x0_from_eps,
    x0_from_v,
    x_t_from_x0,
)
from diffaug.errors import ModelError, ShapeError
from diffaug.models.compact import scheduler_of

ALPHA_BARS = st.floats(0.0, 1.0)


def noised(alpha_bar, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    power = torch.full((3,), alpha_bar, dtype=torch.float64)
    return x0, eps, power, x_t_from_x0(x0, eps, power)


@given(ALPHA_BARS)
def test_clean_latents_come_back_from_the_velocity_at_every_signal_power(alpha_bar):
    x0, eps, power, x_t = noised(alpha_bar)
    torch.testing.assert_close(x0_from_v(x_t, v_from_x0(x0, eps, power), power), x0, atol=1e-12, rtol=0)


@given(st.floats(1e-6, 1.0))
def test_clean_latents_come_back_from_the_noise_where_there_is_signal(alpha_bar):
    x0, eps, power, x_t = noised(alpha_bar)
    torch.testing.assert_close(x0_from_eps(x_t, eps, power), x0, atol=1e-11, rtol=0)


@given(st.floats(0.0, 1.0 - 1e-6))
def test_the_noise_comes_back_from_clean_latents_where_there_is_noise(alpha_bar):
    x0, eps, power, x_t = noised(alpha_bar)
    torch.testing.assert_close(eps_from_x0(x_t, x0, power), eps, atol=1e-9, rtol=0)


@given(ALPHA_BARS)
def test_noising_keeps_the_power_of_unit_latents(alpha_bar):
    x0, eps, power, x_t = noised(alpha_bar)
    v = v_from_x0(x0, eps, power)
    torch.testing.assert_close(x_t**2 + v**2, x0**2 + eps**2)  # a rotation of (x0, eps)


def test_each_row_has_its_own_signal_power():
    x0, eps, _, _ = noised(0.5)
    power = torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64)
    x_t = x_t_from_x0(x0, eps, power)
    torch.testing.assert_close(x_t[0], x0[0])
    torch.testing.assert_close(x_t[1], eps[1])
    torch.testing.assert_close(x_t[2], 0.5 * x0[2] + 0.75**0.5 * eps[2])


@pytest.mark.parametrize("convert", [x_t_from_x0, v_from_x0, x0_from_v, x0_from_eps, eps_from_x0])
def test_one_signal_power_a_row_is_needed(convert):
    x0, eps, _, _ = noised(0.5)
    for power in (torch.rand(2), torch.rand(()), torch.rand(3, 1)):
        with pytest.raises(ShapeError, match="one entry per row"):
            convert(x0, eps, power)


def test_signal_power_falls_with_t_and_ends_at_zero():
    alpha_bar = Schedule.of(scheduler_of()).alpha_bar
    assert alpha_bar.dtype == torch.float64
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[0] > 0.999 and alpha_bar[-1] == 0


def test_a_scheduler_that_predicts_something_else_is_refused():
    scheduler = DDIMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ModelError, match="flow"):
        Schedule.of(scheduler)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_kind_of_prediction_becomes_the_same_clean_latents(prediction):
    schedule = Schedule.of(DDIMScheduler(prediction_type=prediction))
    x0, eps, _, _ = noised(0.5)
    t = torch.tensor([0, 500, 999])
    power = schedule.at(t)
    said = {"epsilon": eps, "v_prediction": v_from_x0(x0, eps, power), "sample": x0}[prediction]
    torch.testing.assert_close(schedule.x0_from_prediction(x_t_from_x0(x0, eps, power), said, t), x0)


def test_a_timestep_of_minus_one_is_clean():
    schedule = Schedule.of(scheduler_of())
    assert schedule.at(torch.tensor([-1, 999, 0])).tolist() == [1.0, 0.0, schedule.alpha_bar[0].item()]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50, 1000])
def test_timesteps_start_at_the_last_and_fall_evenly_without_reaching_clean(steps):
    timesteps = Schedule.of(scheduler_of()).timesteps(steps)
    assert len(timesteps) == steps
    assert timesteps[0] == 999 and timesteps[-1] >= 0
    gaps = -timesteps.diff()
    assert (gaps > 0).all()
    if steps > 1:
        assert gaps.max() - gaps.min() <= 1
    scheduler = scheduler_of()
    scheduler.set_timesteps(steps)
    assert timesteps.tolist() == scheduler.timesteps.tolist()  # what diffusers calls "trailing"


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.62, 1.0])
def test_a_strength_is_the_share_of_the_timesteps_that_are_walked(steps, strength):
    timesteps = Schedule.of(scheduler_of()).timesteps(steps, strength)
    assert timesteps[0] == max(steps, round(1000 * strength)) - 1 and timesteps[-1] >= 0
    assert len(timesteps) == steps and (timesteps.diff() < 0).all()
