"""Train the latent inpainting model: the prior on unannotated windows, or the painter on a user's lesions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffaug.config import DenoiserConfig
from diffaug.diffusion.schedule import Schedule, x_t_from_x0
from diffaug.diffusion.train import generator_of, optimise
from diffaug.models.latent_inpainter import LatentInpainter
from diffaug.models.lora import add_lora
from diffaug.training.windows import Windows

SNR_CAP = 5.0
TIMES = 4  # noised versions of each held-out window


def stratified_timesteps(rows: int, total: int, generator: torch.Generator) -> Tensor:
    """Return one timestep for each of `rows` equal strata of 0..total-1, shuffled: (rows,)."""
    shifts = torch.rand(rows, generator=generator)
    t = ((torch.arange(rows) + shifts) / rows * total).long()
    return t[torch.randperm(rows, generator=generator)]


def x0_weight(alpha_bar: Tensor) -> Tensor:
    """Return the loss weight of an x0 error, (B,): min(SNR, 5) + 1, SNR = alpha_bar / (1 - alpha_bar).

    The velocity's own weight is SNR + 1; the cap keeps nearly clean rows from ruling the gradient. The 1 keeps the last
    timestep, where SNR is zero.

    Source: Hang et al. 2023 (arXiv:2303.09556), Sec. 3.4, for the cap.
    """
    snr = alpha_bar / (1 - alpha_bar).clamp_min(1e-6)
    return snr.clamp_max(SNR_CAP) + 1.0


def painting_loss(x0_hat: Tensor, x0: Tensor, region: Tensor, alpha_bar: Tensor, region_weight: float) -> Tensor:
    """Return the weighted squared error of x0_hat, a scalar.

    Args:
        x0_hat: Estimate, (B, Z, h, w).
        x0: Clean latents.
        region: (B, 1, h, w), 0 or 1; cells of the region count `region_weight` times.
        alpha_bar: (B,).
        region_weight: At least 1.
    """
    weight = 1.0 + (region_weight - 1.0) * region
    error = (weight * (x0_hat - x0) ** 2).mean((1, 2, 3)) / weight.mean((1, 2, 3))
    return (x0_weight(alpha_bar).float() * error).mean()


@torch.no_grad()
def held_out_loss(model: LatentInpainter, windows: Windows, region_weight: float, batch: int = 32) -> float:
    """Return the painting loss on windows at `TIMES` timesteps each, with noise that is always the same."""
    total, losses = len(model.schedule.alpha_bar), []
    for number, rows in enumerate(torch.split(torch.arange(len(windows)).repeat(TIMES), batch)):
        generator = generator_of(number, 17)
        part, t = windows.rows(rows), stratified_timesteps(len(rows), total, generator)
        alpha_bar = model.schedule.at(t)
        eps = torch.randn(part.x0.shape, generator=generator)
        told = part.conditioning(model.embed_tokens(part.tokens))
        x0_hat = model(x_t_from_x0(part.x0, eps, alpha_bar), t, told)
        losses.append(painting_loss(x0_hat, part.x0, part.region, alpha_bar, region_weight) * len(rows))
    return float(torch.stack(losses).sum()) / (TIMES * len(windows))


def train_painter(
    model: LatentInpainter,
    sources: Sequence[tuple[Windows, float]],
    config: DenoiserConfig,
    folder: Path,
    seed: int = 0,
    name: str = "painter",
    monitor: Windows | None = None,
) -> None:
    """Train U-Net and text encoder in place; with `config.lora_rank` low-rank updates of the U-Net alone.

    Args:
        model: Its codec stays as it is.
        sources: Encoded windows and the share of a batch that is drawn from each.
        config: Schedule and weights.
        folder: Where checkpoint and log are kept.
        seed: Seeds every iteration.
        name: Names checkpoint and log.
        monitor: Windows of cases outside `sources`; the averaged weights that paint these best are kept, not the last.
    """
    schedule: Schedule = model.schedule
    total = len(schedule.alpha_bar)
    shares = torch.tensor([share for _, share in sources]).cumsum(0)
    nothing = model.tokens([""])
    trained = {"unet": model.unet} if config.lora_rank else {"unet": model.unet, "text_encoder": model.text_encoder}
    for part in trained.values():
        part.requires_grad_(True)
    lora = add_lora(model.unet, config.lora_rank, seed) if config.lora_rank else None

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        size = config.batch_size
        chosen = torch.searchsorted(shares, torch.rand(size, generator=generator)).clamp_max(len(sources) - 1)
        parts = []
        for index, (windows, _share) in enumerate(sources):
            count = int((chosen == index).sum())
            if count:
                parts.append(windows.rows(torch.randint(0, len(windows), (count,), generator=generator)))
        batch = Windows(**{key: torch.cat([getattr(part, key) for part in parts]) for key in Windows.__annotations__})
        silent = torch.rand(size, 1, generator=generator) < config.text_dropout
        text = model.embed_tokens(torch.where(silent, nothing, batch.tokens))
        t = stratified_timesteps(size, total, generator)
        alpha_bar = schedule.at(t)
        eps = torch.randn(batch.x0.shape, generator=generator)
        x0_hat = model(x_t_from_x0(batch.x0, eps, alpha_bar), t, batch.conditioning(text))
        return {"loss": painting_loss(x0_hat, batch.x0, batch.region, alpha_bar, config.region_weight)}

    optimise(
        name, trained, loss, folder,
        iterations=config.iterations, learning_rate=config.learning_rate, seed=seed,
        score=None if monitor is None else lambda: held_out_loss(model, monitor, config.region_weight),
    )  # fmt: skip
    if lora is not None:
        lora.merge_and_unload()
    for part in trained.values():
        part.requires_grad_(False)
