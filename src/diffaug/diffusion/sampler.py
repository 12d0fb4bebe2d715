"""Samplers on the x0 contract: one short function each, a timestep per row."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser, Step
from diffaug.diffusion.schedule import Schedule, eps_from_x0, x_t_from_x0


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


@torch.no_grad()
def sample(
    denoiser: Denoiser, noise: Tensor, conditioning: Conditioning, schedule: Schedule, steps: int
) -> Iterator[Step]:
    """Denoise a batch from pure noise, yielding every step with its direct estimate.

    Args:
        denoiser: Any model behind the contract.
        noise: Unit normal latents, (B, Z, h, w).
        conditioning: One row per window.
        schedule: Signal power by timestep.
        steps: Evaluations of the denoiser.
    """
    timesteps = schedule.timesteps(steps).tolist()
    x_t, rows = noise, torch.ones(noise.shape[0], dtype=torch.long)
    for index, (now, after) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True), start=1):
        t, t_next = rows * now, rows * after
        x0_hat = denoiser(x_t, t, conditioning)
        x_next = ddim_step(x_t, x0_hat, t, t_next, schedule)
        yield Step(index, t, x_t, x0_hat, x_next)
        x_t = x_next
