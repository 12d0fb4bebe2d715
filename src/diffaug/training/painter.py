"""Train the latent inpainting model: the prior on unannotated windows, or the painter on a user's lesions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffaug.compute.devices import Process, this_process
from diffaug.compute.seeds import generator_of
from diffaug.config import DenoiserConfig
from diffaug.diffusion.schedule import Prediction, Schedule, x_t_from_x0
from diffaug.errors import ConfigError
from diffaug.models.latent_inpainter import LatentInpainter
from diffaug.models.lora import Tuning, add_lora
from diffaug.training.loop import optimise, recipe_of
from diffaug.training.windows import Windows

SNR_CAP = 5.0
TIMES = 4  # noised versions of each held-out window


def stratified_timesteps(rows: int, total: int, generator: torch.Generator) -> Tensor:
    """Return one timestep for each of `rows` equal strata of 0..total-1, shuffled: (rows,)."""
    shifts = torch.rand(rows, generator=generator)
    t = ((torch.arange(rows) + shifts) / rows * total).long()
    return t[torch.randperm(rows, generator=generator)]


def x0_weight(alpha_bar: Tensor, prediction: Prediction = "v_prediction") -> Tensor:
    """Return the loss weight of an x0 error, (B,): min(SNR, 5) + 1, SNR = alpha_bar / (1 - alpha_bar).

    The velocity's own weight is SNR + 1; the cap keeps nearly clean rows from ruling the gradient. The 1 keeps the last
    timestep, where SNR is zero. Where noise is predicted it is left out: the noise's own weight is SNR, so the 1 would
    give the last timesteps hundreds of times their weight.

    Source: Hang et al. 2023 (arXiv:2303.09556), Sec. 3.4, for the cap.
    """
    snr = alpha_bar / (1 - alpha_bar).clamp_min(1e-6)
    return snr.clamp_max(SNR_CAP) + (0.0 if prediction == "epsilon" else 1.0)


def painting_loss(
    x0_hat: Tensor,
    x0: Tensor,
    region: Tensor,
    alpha_bar: Tensor,
    region_weight: float,
    prediction: Prediction = "v_prediction",
) -> Tensor:
    """Return the weighted squared error of x0_hat, a scalar.

    Args:
        x0_hat: Estimate, (B, Z, h, w).
        x0: Clean latents.
        region: (B, 1, h, w), 0 or 1; cells of the region count `region_weight` times.
        alpha_bar: (B,).
        region_weight: At least 1.
        prediction: What the network predicts.
    """
    weight = 1.0 + (region_weight - 1.0) * region
    error = (weight * (x0_hat - x0) ** 2).mean((1, 2, 3)) / weight.mean((1, 2, 3))
    return (x0_weight(alpha_bar, prediction).float() * error).mean()


@torch.no_grad()
def held_out_loss(model: LatentInpainter, windows: Windows, region_weight: float) -> float:
    """Return the painting loss on windows at `TIMES` timesteps each, with noise that is always the same."""
    total, losses, predicts = len(model.schedule.alpha_bar), [], model.schedule.prediction
    for number, rows in enumerate(torch.split(torch.arange(len(windows)).repeat(TIMES), model.rows)):
        generator = generator_of(number, 17)
        part, t = windows.rows(rows), stratified_timesteps(len(rows), total, generator)
        alpha_bar = model.schedule.at(t)
        eps = torch.randn(part.x0.shape, generator=generator)
        told = part.conditioning(model.embed_tokens(part.tokens))
        x0_hat = model(x_t_from_x0(part.x0, eps, alpha_bar), t, told)
        losses.append(painting_loss(x0_hat, part.x0, part.region, alpha_bar, region_weight, predicts) * len(rows))
    return float(torch.stack(losses).sum()) / (TIMES * len(windows))


@torch.no_grad()
def cached_text(model: LatentInpainter, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """Embed every different row of tokens (N, L) once; return what looks rows up: (B, L) => (B, L, D)."""
    rows = torch.unique(tokens, dim=0)
    embedded = torch.cat([model.embed_tokens(part) for part in torch.split(rows, 32)])
    place = {tuple(row): number for number, row in enumerate(rows.tolist())}
    return lambda asked: embedded[[place[tuple(row)] for row in asked.tolist()]]


def parts_of(size: int, parts: int, process: Process) -> list[slice]:
    """Divide the rows of a batch among processes, and those of each process into parts that are computed in turn.

    Raises:
        ConfigError: There are more parts than rows.
    """
    count = parts * process.count
    if count > size:
        raise ConfigError(
            f"every part of a batch needs a row: denoiser.batch_size is {size}, for {process.count} processes of "
            f"{parts} parts each; raise it"
        )
    bounds = [round(number * size / count) for number in range(count + 1)]
    own = range(process.index * parts, (process.index + 1) * parts)
    return [slice(bounds[number], bounds[number + 1]) for number in own]


def train_painter(
    model: LatentInpainter,
    sources: Sequence[tuple[Windows, float]],
    config: DenoiserConfig,
    folder: Path,
    seed: int = 0,
    name: str = "painter",
    monitor: Windows | None = None,
) -> None:
    """Train a painter in place: U-Net and text encoder, or with `config.lora_rank` low-rank updates alone.

    Of a compact model every layer of the U-Net is updated. Stable Diffusion is updated in its attention, and in the
    channels of masks and scale; the model remembers what was added (`LatentInpainter.adapters`).

    Args:
        model: Its codec stays as it is.
        sources: Encoded windows and the share of a batch that is drawn from each.
        config: Schedule and weights.
        folder: Where checkpoint and log are kept.
        seed: Seeds every iteration.
        name: Names checkpoint and log.
        monitor: Windows of cases outside `sources`; the averaged weights that paint these best are kept, not the last.

    Raises:
        ConfigError: The batch has fewer rows than parts.
    """
    schedule: Schedule = model.schedule
    total, size = len(schedule.alpha_bar), config.batch_size
    shares = torch.tensor([share for _, share in sources]).cumsum(0)
    nothing = model.tokens([""])
    process = this_process()
    fewest = 1 if model.is_compact else -(-size // (model.rows * process.count))
    parts = parts_of(size, config.accumulation or max(1, min(fewest, size // process.count)), process)

    trained = {"unet": model.unet}
    if config.lora_rank == 0 or (config.lora_text and not model.is_compact):
        trained["text_encoder"] = model.text_encoder
    for part in trained.values():
        part.requires_grad_(True)
    lora = tuning = None
    embed: Callable[[Tensor], Tensor] = model.embed_tokens
    if not model.is_compact:
        tuning = Tuning(trained, config.lora_rank, model.plain_channels, seed)
        if "text_encoder" not in trained:
            embed = cached_text(model, torch.cat([nothing, *(windows.tokens for windows, _ in sources)]))
    elif config.lora_rank:
        lora = add_lora(model.unet, config.lora_rank, seed)
    if config.checkpointing:
        model.unet.enable_gradient_checkpointing()
    model.precision = config.precision

    def loss(_: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        # The whole batch is drawn, so that it is the same however it is divided.
        chosen = torch.searchsorted(shares, torch.rand(size, generator=generator)).clamp_max(len(sources) - 1)
        drawn = []
        for index, (windows, _share) in enumerate(sources):
            count = int((chosen == index).sum())
            if count:
                drawn.append(windows.rows(torch.randint(0, len(windows), (count,), generator=generator)))
        batch = Windows(**{key: torch.cat([getattr(part, key) for part in drawn]) for key in Windows.__annotations__})
        silent = torch.rand(size, 1, generator=generator) < config.text_dropout
        tokens = torch.where(silent, nothing, batch.tokens)
        t = stratified_timesteps(size, total, generator)
        alpha_bar = schedule.at(t)
        eps = torch.randn(batch.x0.shape, generator=generator)
        x_t = x_t_from_x0(batch.x0, eps, alpha_bar)
        for rows in parts:
            part = batch.rows(rows)
            x0_hat = model(x_t[rows], t[rows], part.conditioning(embed(tokens[rows])))
            share = len(part) * process.count / size
            value = painting_loss(
                x0_hat, part.x0, part.region, alpha_bar[rows], config.region_weight, schedule.prediction
            )
            yield {"loss": share * value}

    optimise(
        trained, loss, recipe_of(config), folder / name, seed=seed, process=process,
        score=None if monitor is None else lambda: held_out_loss(model, monitor, config.region_weight),
    )  # fmt: skip
    model.precision = "auto"
    if config.checkpointing:
        model.unet.disable_gradient_checkpointing()
    if lora is not None:
        lora.merge_and_unload()
    if tuning is not None:
        model.adopt(tuning.finish())
    for part in trained.values():
        part.requires_grad_(False)
