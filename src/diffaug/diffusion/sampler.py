"""Samplers on the x0 contract: one short function each, a timestep per row."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser, Step
from diffaug.diffusion.schedule import Schedule, eps_from_x0, v_from_x0, x_t_from_x0

Solver = Literal["ab2", "ddim"]
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


def angle_step(
    x_t: Tensor, v: Tensor, t: Tensor, t_next: Tensor, past_v: Tensor, past_t: Tensor, schedule: Schedule
) -> Tensor:
    """Move each row along the angle phi = arccos(sqrt(alpha_bar)), by the Adams-Bashforth rule of second order.

    On that scale the probability flow is dx/dphi = v, which is smooth and finite from pure noise to clean latents, so

    x_next = x_t + (phi(t_next) - phi(t)) (v + h / (2 h_past) (v - past_v)), h = phi(t) - phi(t_next)

    holds at every step, the last one included; a row without a past makes an Euler step. Unlike DDIM it does not return
    the clean latents of an oracle exactly, but with an error that falls at least with the square of the steps.

    Args:
        x_t: Noised latents, (B, Z, h, w).
        v: Velocity at t that the estimate implies, same shape.
        t: Timestep of each row, (B,).
        t_next: The timestep it moves to, (B,); -1 is clean.
        past_v: The velocity of the step before, same shape as v.
        past_t: The timestep of the step before, (B,); NO_PAST where there was none.
        schedule: Signal power by timestep.

    Source: Salimans & Ho 2022 (arXiv:2202.00512), Sec. 4 and App. D, for the angle; the rule is Bashforth & Adams 1883.
    """

    def angle(when: Tensor) -> Tensor:
        return schedule.at(when).sqrt().clamp(0, 1).arccos()

    now = angle(t)
    h, h_past = now - angle(t_next), angle(past_t) - now
    fresh = past_t == NO_PAST
    share = torch.where(fresh, 0.0, h / (2 * torch.where(fresh, 1.0, h_past)))
    h, share = (value.to(x_t.dtype).view(-1, 1, 1, 1) for value in (h, share))
    change = torch.where(
        fresh.view(-1, 1, 1, 1), torch.zeros_like(v), v - past_v
    )  # a past that is not finite stays out
    return x_t - h * (v + share * change)


def solver_step(
    solver: Solver,
    x_t: Tensor,
    x0_hat: Tensor,
    t: Tensor,
    t_next: Tensor,
    past: Tensor,
    past_t: Tensor,
    schedule: Schedule,
) -> tuple[Tensor, Tensor]:
    """Move each row from t to t_next.

    Args:
        solver: Which step is made.
        x_t: Noised latents, (B, Z, h, w).
        x0_hat: Direct estimate of the clean latents, same shape.
        t: Timestep of each row, (B,).
        t_next: The timestep it moves to, (B,); -1 is clean.
        past: What the step before returned to be remembered.
        past_t: Its timestep, (B,); NO_PAST where there was none.
        schedule: Signal power by timestep.

    Returns:
        The moved latents, and what the next step needs of this one: a velocity for ab2, else x0_hat.
    """
    if solver == "ab2":
        alpha_bar = schedule.at(t)
        v = v_from_x0(x0_hat, eps_from_x0(x_t, x0_hat, alpha_bar), alpha_bar)
        return angle_step(x_t, v, t, t_next, past, past_t, schedule), v
    return ddim_step(x_t, x0_hat, t, t_next, schedule), x0_hat


def finished(x_next: Tensor, x0_hat: Tensor, region: Tensor) -> Tensor:
    """Return finished samples: the last step's result inside the region, what the painter knows outside it."""
    return torch.where(region > 0, x_next, x0_hat)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    conditioning: Conditioning,
    schedule: Schedule,
    steps: int,
    solver: Solver = "ab2",
    strength: float = 1.0,
) -> Iterator[Step]:
    """Denoise a batch, yielding every step with its direct estimate.

    Args:
        denoiser: Any model behind the contract.
        noise: Where sampling starts, (B, Z, h, w): unit normal, or latents noised to the first timestep.
        conditioning: One row per window.
        schedule: Signal power by timestep.
        steps: Evaluations of the denoiser.
        solver: First order (ddim) or second (ab2).
        strength: Share of the timesteps that the steps span; 1 starts from noise alone.

    Example:
        >>> import torch
        >>> from diffaug.diffusion.schedule import Schedule
        >>> schedule = Schedule(torch.linspace(0.999, 0.01, 1000, dtype=torch.float64), "sample")
        >>> ones = torch.ones(2, 1, 8, 8)
        >>> conditioning = diffaug.Conditioning(ones, ones, ones, torch.zeros(2, 2), torch.zeros(2, 4, 8))
        >>> oracle = lambda x_t, t, conditioning: ones
        >>> steps = diffaug.sample(oracle, torch.randn(2, 1, 8, 8), conditioning, schedule, steps=4)
        >>> [step.index for step in steps]
        [1, 2, 3, 4]
    """
    timesteps = schedule.timesteps(steps, strength).tolist()
    x_t, rows = noise, torch.ones(noise.shape[0], dtype=torch.long)
    past, past_t = torch.zeros_like(noise), rows * NO_PAST
    for index, (now, after) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True), start=1):
        t, t_next = rows * now, rows * after
        x0_hat = denoiser(x_t, t, conditioning)
        x_next, past = solver_step(solver, x_t, x0_hat, t, t_next, past, past_t, schedule)
        x_next = finished(x_next, x0_hat, conditioning.region) if after < 0 else x_next
        yield Step(index, t, x_t, x0_hat, x_next)
        x_t, past_t = x_next, t
