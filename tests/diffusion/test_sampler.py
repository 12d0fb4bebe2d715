import math
from itertools import pairwise

import pytest
import torch

from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.sampler import NO_PAST, angle_step, ddim_step, finished, sample, solver_step
from diffaug.diffusion.schedule import Schedule, x_t_from_x0
from diffaug.models.compact import scheduler_of

SCHEDULE = Schedule.of(scheduler_of())


def nothing(rows):
    zeros = torch.zeros
    return Conditioning(
        torch.ones(rows, 1, 4, 4), zeros(rows, 1, 4, 4), zeros(rows, 2, 4, 4), zeros(rows, 2), zeros(rows, 3, 8)
    )


def latents(rows, seed):
    return torch.randn(rows, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(x_t, t, told, mean=0.7, deviation=0.4):
    """The best estimate where clean latents are normal: E[x0 | x_t]."""
    a = SCHEDULE.at(t).view(-1, 1, 1, 1)
    return mean + deviation**2 * a.sqrt() * (x_t - a.sqrt() * mean) / (a * deviation**2 + 1 - a)


def error_on_gaussian(solver, steps):
    """Distance from the exact solution of the probability flow, which keeps (x_t - mean_t) / deviation_t."""
    noise = latents(3, 1)
    *_, last = sample(gaussian, noise, nothing(3), SCHEDULE, steps, solver)
    return float((last.x_next - (0.7 + 0.4 * noise)).abs().max())


def test_the_second_order_solver_is_nearer_to_the_exact_solution():
    for steps, share in ((5, 1.0), (10, 0.7), (20, 0.5), (40, 0.4)):
        assert error_on_gaussian("ab2", steps) < share * error_on_gaussian("ddim", steps)


def test_the_error_falls_with_the_steps_at_first_order_and_at_second():
    def order(solver):
        return math.log(error_on_gaussian(solver, 10) / error_on_gaussian(solver, 160)) / math.log(16)

    assert 0.9 < order("ddim") < 1.1
    assert 1.8 < order("ab2") < 2.5


@pytest.mark.parametrize("solver", ["ab2", "ddim"])
def test_each_row_keeps_its_own_past(solver):
    x_t, x0_hat, past_x0 = latents(3, 0), latents(3, 1), latents(3, 2)
    t, t_next, past_t = torch.tensor([899, 500, 99]), torch.tensor([799, 499, -1]), torch.tensor([949, NO_PAST, 199])
    together = solver_step(solver, x_t, x0_hat, t, t_next, past_x0, past_t, SCHEDULE)
    for row in range(3):
        parts = (value[row : row + 1] for value in (x_t, x0_hat, t, t_next, past_x0, past_t))
        for whole, alone in zip(together, solver_step(solver, *parts, SCHEDULE), strict=True):
            assert torch.equal(whole[row : row + 1], alone)


def test_an_angle_step_without_a_past_is_one_of_euler_and_takes_nothing_of_it():
    x_t, v, t = latents(2, 0), latents(2, 1), torch.tensor([999, 500])
    past, none = torch.full_like(v, float("nan")), torch.tensor([NO_PAST, NO_PAST])
    moved = angle_step(x_t, v, t, torch.tensor([499, -1]), past, none, SCHEDULE)
    angles = [SCHEDULE.at(when).sqrt().arccos() for when in (t, torch.tensor([499, -1]))]
    torch.testing.assert_close(moved, x_t - (angles[0] - angles[1]).view(-1, 1, 1, 1) * v)


def test_a_velocity_that_never_changes_is_followed_exactly():
    v, x_t, past_t = latents(1, 1), latents(1, 0), torch.tensor([NO_PAST])
    start, moments = x_t, [999, 600, 599, 250, 3, -1]
    for now, after in pairwise(moments):
        t = torch.tensor([now])
        x_t, past_t = angle_step(x_t, v, t, torch.tensor([after]), v, past_t, SCHEDULE), t
    torch.testing.assert_close(x_t, start - math.pi / 2 * v)  # the angle of pure noise is a right one


def test_an_oracle_is_met_with_an_error_that_falls_at_least_with_the_square_of_the_steps():
    x0, noise = latents(3, 0), latents(3, 1)

    def error(steps):
        *_, last = sample(lambda x_t, t, told: x0, noise, nothing(3), SCHEDULE, steps, "ab2")
        return float((last.x_next - x0).abs().max())

    assert error(8) < 0.01
    assert math.log(error(10) / error(160)) / math.log(16) > 1.9


def test_outside_the_region_a_finished_sample_is_what_the_painter_knows():
    x_next, x0_hat, region = latents(1, 0), latents(1, 1), torch.zeros(1, 1, 4, 4)
    region[..., :2] = 1
    done = finished(x_next, x0_hat, region)
    assert torch.equal(done[..., :2], x_next[..., :2]) and torch.equal(done[..., 2:], x0_hat[..., 2:])


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_an_oracle_that_knows_the_clean_latents_makes_the_sampler_return_them(steps):
    x0 = latents(3, 0)
    *_, last = sample(lambda x_t, t, told: x0, latents(3, 1), nothing(3), SCHEDULE, steps, "ddim")
    assert last.index == steps
    assert torch.equal(last.x_next, x0)


def test_an_oracle_that_knows_the_noise_keeps_it_on_the_way():
    x0, eps = latents(3, 0), latents(3, 1)
    for step in sample(lambda x_t, t, told: x0, eps, nothing(3), SCHEDULE, 10, "ddim"):
        torch.testing.assert_close(step.x_t, x_t_from_x0(x0, eps, SCHEDULE.at(step.t)))


def test_steps_are_handed_out_in_order_with_their_timestep_and_estimate():
    seen = []

    def denoiser(x_t, t, told):
        seen.append((x_t, t))
        return 0.5 * x_t

    steps = list(sample(denoiser, latents(2, 0), nothing(2), SCHEDULE, 4))
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert [step.t.tolist() for step in steps] == [[t, t] for t in SCHEDULE.timesteps(4).tolist()]
    for step, (x_t, t) in zip(steps, seen, strict=True):
        assert step.x_t is x_t and step.t is t
        assert torch.equal(step.x0_hat, 0.5 * x_t)


def test_the_last_step_returns_the_estimate_itself():
    x_t, x0_hat = latents(2, 0), latents(2, 1)
    moved = ddim_step(x_t, x0_hat, torch.tensor([99, 0]), torch.tensor([-1, -1]), SCHEDULE)
    assert torch.equal(moved, x0_hat)


def test_a_step_to_the_same_timestep_changes_nothing():
    x_t, t = latents(2, 0), torch.tensor([700, 40])
    torch.testing.assert_close(ddim_step(x_t, latents(2, 1), t, t, SCHEDULE), x_t)


def test_each_row_moves_by_its_own_timesteps():
    x_t, x0_hat = latents(3, 0), latents(3, 1)
    t, t_next = torch.tensor([999, 500, 99]), torch.tensor([899, 499, -1])
    together = ddim_step(x_t, x0_hat, t, t_next, SCHEDULE)
    for row in range(3):
        alone = ddim_step(*(value[row : row + 1] for value in (x_t, x0_hat, t, t_next)), SCHEDULE)
        assert torch.equal(together[row : row + 1], alone)


def test_a_step_is_that_of_diffusers():
    scheduler = scheduler_of()
    scheduler.set_timesteps(10)
    x_t, v = latents(1, 0), latents(1, 1)
    for now, after in ((999, 899), (499, 399)):
        t, t_next = torch.tensor([now]), torch.tensor([after])
        ours = ddim_step(x_t, SCHEDULE.x0_from_prediction(x_t, v, t), t, t_next, SCHEDULE)
        torch.testing.assert_close(ours, scheduler.step(v, now, x_t).prev_sample, atol=1e-6, rtol=1e-5)
