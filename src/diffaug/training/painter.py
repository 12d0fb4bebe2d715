"""Train the latent inpainting model: the prior on unannotated windows, or the painter on a user's lesions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffaug.artifacts import read_jsonl
from diffaug.compute.devices import Process, this_process
from diffaug.compute.seeds import generator_of
from diffaug.config import DenoiserConfig
from diffaug.diffusion.schedule import Prediction, x_t_from_x0
from diffaug.errors import ConfigError
from diffaug.models.base import LatentInpainter
from diffaug.training.loop import optimise, recipe_of
from diffaug.training.windows import Windows

SNR_CAP = 5.0
REGION_WEIGHT = 3.0  # of the region over what else is estimated
TEXT_DROPOUT = 0.1  # share of prompts that are emptied, so that text can guide
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
    x0_hat: Tensor, x0: Tensor, region: Tensor, alpha_bar: Tensor, prediction: Prediction = "v_prediction"
) -> Tensor:
    """Return the weighted squared error of x0_hat, a scalar.

    Args:
        x0_hat: Estimate, (B, Z, h, w).
        x0: Clean latents.
        region: (B, 1, h, w), 0 or 1; cells of the region count `REGION_WEIGHT` times.
        alpha_bar: (B,).
        prediction: What the network predicts.
    """
    weight = 1.0 + (REGION_WEIGHT - 1.0) * region
    error = (weight * (x0_hat - x0) ** 2).mean((1, 2, 3)) / weight.mean((1, 2, 3))
    return (x0_weight(alpha_bar, prediction).float() * error).mean()


def noised(model: LatentInpainter, windows: Windows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise windows at stratified timesteps; return these, (N,), their alpha_bar, and x_t, (N, Z, h, w)."""
    t = stratified_timesteps(len(windows), len(model.schedule.alpha_bar), generator)
    alpha_bar = model.schedule.at(t)
    eps = torch.randn(windows.x0.shape, generator=generator)
    return t, alpha_bar, x_t_from_x0(windows.x0, eps, alpha_bar)


@torch.no_grad()
def held_out_loss(model: LatentInpainter, windows: Windows) -> float:
    """Return the painting loss on windows at `TIMES` timesteps each, with noise that is always the same."""
    losses = []
    for number, rows in enumerate(torch.split(torch.arange(len(windows)).repeat(TIMES), model.rows)):
        part = windows.rows(rows)
        t, alpha_bar, x_t = noised(model, part, generator_of(number, 17))
        x0_hat = model(x_t, t, part.conditioning(model.embed_tokens(part.tokens)))
        losses.append(painting_loss(x0_hat, part.x0, part.region, alpha_bar, model.schedule.prediction) * len(rows))
    return float(torch.stack(losses).sum()) / (TIMES * len(windows))


@torch.no_grad()
def cached_text(model: LatentInpainter, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """Embed every different row of tokens (N, L) once; return what looks rows up: (B, L) => (B, L, D)."""
    rows = torch.unique(tokens, dim=0)
    embedded = torch.cat([model.embed_tokens(part) for part in torch.split(rows, 32)])
    place = {tuple(row): number for number, row in enumerate(rows.tolist())}
    return lambda asked: embedded[[place[tuple(row)] for row in asked.tolist()]]


@dataclass(frozen=True)
class ChosenCheckpoint:
    """The weights that a monitored training kept: after how many iterations, their score, and that of the last ones."""

    iteration: int
    score: float
    last_score: float


def check_batch(size: int, process: Process) -> None:
    """Refuse a batch with fewer rows than there are processes.

    Raises:
        ConfigError: It has.
    """
    if process.count > size:
        raise ConfigError(
            f"every process needs a row of a batch: denoiser.batch_size is {size}, for {process.count} processes; "
            "raise it"
        )


def parts_of(size: int, most: int | None, process: Process) -> list[slice]:
    """Divide the rows of a batch among processes, and those of each process into parts that are computed in turn.

    Args:
        size: Rows of the batch.
        most: Rows that are computed together; None is all of a process.
        process: Which process this is.

    Raises:
        ConfigError: There are more processes than rows.
    """
    check_batch(size, process)
    needed = 1 if most is None else -(-size // (most * process.count))
    parts = max(1, min(needed, size // process.count))
    count = parts * process.count
    bounds = [round(number * size / count) for number in range(count + 1)]
    return [slice(bounds[part], bounds[part + 1]) for part in range(process.index * parts, (process.index + 1) * parts)]


def train_painter(
    model: LatentInpainter,
    sources: Sequence[tuple[Windows, float]],
    config: DenoiserConfig,
    folder: Path,
    seed: int = 0,
    name: str = "painter",
    monitor: Windows | None = None,
) -> None:
    """Train a painter in place: whole networks, or with `config.lora_rank` low-rank updates (`LatentInpainter.tuned`).

    Args:
        model: Its codec stays as it is.
        sources: Encoded windows and the share of a batch that is drawn from each.
        config: Schedule and rank.
        folder: Where checkpoint and log are kept.
        seed: Seeds every iteration.
        name: Names checkpoint and log.
        monitor: Windows of cases outside `sources`; the averaged weights that paint these best are kept, not the last.

    Raises:
        ConfigError: The batch has fewer rows than there are processes.
    """
    size, process = config.batch_size, this_process()
    parts = parts_of(size, model.rows_in_training, process)
    shares = torch.tensor([share for _, share in sources]).cumsum(0)
    nothing = model.tokens([""])

    def draw(generator: torch.Generator) -> Windows:
        """Return the whole batch, so that it is the same however it is divided."""
        chosen = torch.searchsorted(shares, torch.rand(size, generator=generator)).clamp_max(len(sources) - 1)
        drawn = []
        for index, (windows, _share) in enumerate(sources):
            count = int((chosen == index).sum())
            if count:
                drawn.append(windows.rows(torch.randint(0, len(windows), (count,), generator=generator)))
        batch = Windows.stack(drawn)
        is_silent = torch.rand(size, 1, generator=generator) < TEXT_DROPOUT
        return replace(batch, tokens=torch.where(is_silent, nothing, batch.tokens))

    with model.tuned(config.lora_rank, seed) as trained:
        embed: Callable[[Tensor], Tensor] = model.embed_tokens
        if "text_encoder" not in trained:
            embed = cached_text(model, torch.cat([nothing, *(windows.tokens for windows, _ in sources)]))
        if config.checkpointing:
            model.unet.enable_gradient_checkpointing()

        def loss(_: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
            batch = draw(generator)
            t, alpha_bar, x_t = noised(model, batch, generator)
            for rows in parts:
                part = batch.rows(rows)
                x0_hat = model(x_t[rows], t[rows], part.conditioning(embed(part.tokens)))
                value = painting_loss(x0_hat, part.x0, part.region, alpha_bar[rows], model.schedule.prediction)
                yield {"loss": len(part) * process.count / size * value}

        score = None if monitor is None else lambda: held_out_loss(model, monitor)
        optimise(trained, loss, recipe_of(config), folder / name, seed=seed, score=score, process=process)
        if config.checkpointing:
            model.unet.disable_gradient_checkpointing()


def chosen_checkpoint(log: Path) -> ChosenCheckpoint | None:
    """Read from the log of a training which weights were kept; None if none were scored."""
    scored = [row for row in read_jsonl(log) if "score" in row]
    if not scored:
        return None
    best = min(scored, key=lambda row: row["score"])
    return ChosenCheckpoint(best["iteration"], best["score"], scored[-1]["score"])
