"""Samplers on the x0 contract: one short function each, a timestep per row."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser, Step
from diffaug.diffusion.schedule import Schedule, eps_from_x0, x_t_from_x0

Solver = Literal["ddim", "dpm++"]
NO_PAST = -1  # timestep of a row that has made no step yet


def ddim_step(x_t: Tensor, x0_hat: Tensor, t: Tensor, t_next: Tensor, schedule: Schedule) -> Tensor:
    """Move each row from timestep t to t_next, deterministically (eta = 0).

    Args:
        x_t: Noised latents, (B, Z, h, w).
        x0_hat: Direct estimate of the clean latents, same shape.
        t: Timestep of each row, (B,).
        t_next: The timestep it moves to, (B,); -1 is clean and returns x0_hat.
        schedule: Signal power by timestep.

    Source: Song et al. 2021 (arXiv:2010.02502), Eq. 12 with sigma 0.
    """
    eps = eps_from_x0(x_t, x0_hat, schedule.at(t))
    moved = x_t_from_x0(x0_hat, eps, schedule.at(t_next))
    return torch.where((t_next < 0).view(-1, 1, 1, 1), x0_hat, moved)


def extrapolated(
    x0_hat: Tensor, t: Tensor, t_next: Tensor, past_x0: Tensor, past_t: Tensor, schedule: Schedule
) -> Tensor:
    """Return the estimate that makes `ddim_step` a second-order step: DPM-Solver++(2M), a row at a time.

    D = x0_hat + h / (2 h_past) (x0_hat - past_x0), with h = lambda(t_next) - lambda(t), h_past = lambda(t) -
    lambda(past_t) and lambda = log(alpha_bar / (1 - alpha_bar)) / 2. A row without a past, one whose past was pure
    noise (lambda minus infinity) and the step to clean latents stay at first order.

    Args:
        x0_hat: Direct estimate at t, (B, Z, h, w).
        t: Timestep of each row, (B,).
        t_next: The timestep it moves to, (B,); -1 is clean.
        past_x0: The estimate of the step before, same shape as x0_hat.
        past_t: The timestep of the step before, (B,); NO_PAST where there was none.
        schedule: Signal power by timestep.

    Source: Lu et al. 2022 (arXiv:2211.01095), Algorithm 2; with D for x0_hat, its update is DDIM's.
    """

    def log_snr(when: Tensor) -> Tensor:
        alpha_bar = schedule.at(when)
        return (alpha_bar.log() - (1 - alpha_bar).log()) / 2

    now = log_snr(t)
    share = (log_snr(t_next) - now) / (2 * (now - log_snr(past_t)))
    first = ((past_t == NO_PAST) | (t_next < 0)).view(-1, 1, 1, 1)
    share = share.to(x0_hat.dtype).view(-1, 1, 1, 1)
    return torch.where(first, x0_hat, x0_hat + share * (x0_hat - past_x0))  # a past that is not finite stays out of it


def solver_step(
    solver: Solver,
    x_t: Tensor,
    x0_hat: Tensor,
    t: Tensor,
    t_next: Tensor,
    past_x0: Tensor,
    past_t: Tensor,
    schedule: Schedule,
) -> Tensor:
    """Move each row from t to t_next; arguments as in `ddim_step` and `extrapolated`."""
    if solver == "ddim":
        return ddim_step(x_t, x0_hat, t, t_next, schedule)
    return ddim_step(x_t, extrapolated(x0_hat, t, t_next, past_x0, past_t, schedule), t, t_next, schedule)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    conditioning: Conditioning,
    schedule: Schedule,
    steps: int,
    solver: Solver = "ddim",
) -> Iterator[Step]:
    """Denoise a batch from pure noise, yielding every step with its direct estimate.

    Args:
        denoiser: Any model behind the contract.
        noise: Unit normal latents, (B, Z, h, w).
        conditioning: One row per window.
        schedule: Signal power by timestep.
        steps: Evaluations of the denoiser.
        solver: First order (ddim) or second (dpm++).
    """
    timesteps = schedule.timesteps(steps).tolist()
    x_t, rows = noise, torch.ones(noise.shape[0], dtype=torch.long)
    past_x0, past_t = torch.zeros_like(noise), rows * NO_PAST
    for index, (now, after) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True), start=1):
        t, t_next = rows * now, rows * after
        x0_hat = denoiser(x_t, t, conditioning)
        x_next = solver_step(solver, x_t, x0_hat, t, t_next, past_x0, past_t, schedule)
        yield Step(index, t, x_t, x0_hat, x_next)
        x_t, past_x0, past_t = x_next, x0_hat, t
