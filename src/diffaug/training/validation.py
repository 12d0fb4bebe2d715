"""Train the fold validators and calibrate the gate on the lesions that each has not seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffaug.conditioning.prompts import size_bin
from diffaug.config import FitConfig, ValidatorConfig
from diffaug.diffusion.schedule import x_t_from_x0
from diffaug.diffusion.train import generator_of, optimise
from diffaug.models.latent_inpainter import LatentInpainter
from diffaug.training.windows import Annotated, Rng, Windows, encode_windows, lesion_window, search_window
from diffaug.validator.calibration import check_steps, soft_iou
from diffaug.validator.latent_segmenter import logits_of, segment, segmentation_loss, segmenter_of

SEARCH_WINDOWS = 10  # per case; every third is lesion-free
ESTIMATES = 2  # direct estimates kept per window, at random timesteps


@torch.no_grad()
def estimates(model: LatentInpainter, windows: Windows, t: Tensor, seed: int, batch: int | None = None) -> Tensor:
    """Return the painter's direct estimates x0_hat of noised real latents, (N, Z, h, w).

    Args:
        model: The painter.
        windows: Real windows; the painter is told what their annotation says.
        t: Timestep of each, (N,).
        seed: Seeds the noise.
        batch: Rows evaluated together; as many as suit the model unless set.
    """
    generator, parts = generator_of(seed), []
    for rows in torch.split(torch.arange(len(windows)), batch or model.rows):
        part, now = windows.rows(rows), t[rows]
        eps = torch.randn(part.x0.shape, generator=generator)
        x_t = x_t_from_x0(part.x0, eps, model.schedule.at(now))
        parts.append(model(x_t, now, part.conditioning(model.embed_tokens(part.tokens))))
    return torch.cat(parts)


def search_windows(model: LatentInpainter, cases: Sequence[Annotated], seed: int) -> tuple[Windows, Tensor]:
    """Return windows for a validator and the index of each one's case, (N,)."""

    def sketch(number: int, rng: Rng) -> Any:
        case = cases[number // SEARCH_WINDOWS]
        lesion_free = number % 3 == 0 or not case.lesions
        return search_window(case, model.window, model.latent_side, rng, lesion_free=lesion_free)

    total = len(cases) * SEARCH_WINDOWS
    windows = encode_windows(model, (sketch(n, np.random.default_rng((seed, 7, n))) for n in range(total)))
    return windows, torch.arange(total) // SEARCH_WINDOWS


def training_pool(model: LatentInpainter, windows: Windows, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return latents, timesteps, row of the window, and trust in the label: real ones and estimates of them.

    An estimate at timestep t still holds a share alpha_bar of what the annotation describes; that is the trust in its
    label. Lesion-free windows stay lesion-free at every t: full trust.
    """
    total, rows = len(model.schedule.alpha_bar), torch.arange(len(windows))
    latents, times, index, trust = [windows.x0], [torch.zeros_like(rows)], [rows], [torch.ones(len(rows))]
    empty = windows.label.sum((1, 2, 3)) == 0
    for number in range(ESTIMATES):
        t = torch.randint(0, total, (len(rows),), generator=generator_of(seed, 11, number))
        latents.append(estimates(model, windows, t, seed + number))
        times.append(t)
        index.append(rows)
        trust.append(torch.where(empty, 1.0, model.schedule.at(t).float()))
    return torch.cat(latents), torch.cat(times), torch.cat(index), torch.cat(trust)


def train_validators(
    model: LatentInpainter,
    cases: Sequence[Annotated],
    folds: Mapping[str, int],
    config: ValidatorConfig,
    folder: Path,
    seed: int = 0,
) -> list[Any]:
    """Return one segmentation network per fold, trained on the cases outside that fold.

    Args:
        model: The painter, whose codec and estimates the networks read.
        cases: Annotated cases.
        folds: Fold of each case id.
        config: Architecture and schedule.
        folder: Where checkpoints and logs are kept.
        seed: Seeds windows, weights and iterations.
    """
    windows, case_of = search_windows(model, cases, seed)
    latents, times, index, trust = training_pool(model, windows, seed)
    fold_of = torch.tensor([folds[case.case.id] for case in cases])[case_of][index]
    networks = []
    for fold in range(config.folds):
        torch.manual_seed(seed + fold)
        network = segmenter_of(config, model.latent_channels, model.latent_side, windows.label.shape[1]).to(
            model.device
        )
        seen = torch.nonzero(fold_of != fold)[:, 0]

        def loss(_: int, generator: torch.Generator, network: Any = network, seen: Tensor = seen) -> dict[str, Tensor]:
            picks = seen[torch.randint(0, len(seen), (config.batch_size,), generator=generator)]
            logits = logits_of(network, latents[picks], times[picks])
            return {"loss": segmentation_loss(logits, windows.label[index[picks]], trust[picks])}

        optimise(
            f"validator-{fold}", {"validator": network}, loss, folder, average=0.99, weight_decay=0.05,
            iterations=config.iterations, learning_rate=config.learning_rate, seed=seed + fold,
        )  # fmt: skip
        networks.append(network.requires_grad_(False))
    return networks


def real_scores(
    model: LatentInpainter,
    networks: Sequence[Any],
    cases: Sequence[Annotated],
    folds: Mapping[str, int],
    config: FitConfig,
    context: tuple[float, float],
    seed: int = 0,
) -> dict[str, dict[int, list[float]]]:
    """Score every real lesion with the validator that has not seen its case.

    Returns:
        Per size bin and checked step, one soft IoU for each lesion, that of its worst class; at the last step of the
        latents themselves, before it of the painter's estimates at that step's timestep.
    """
    lesions = [(case, number) for case in cases for number in range(len(case.lesions))]
    alone = [case.alone(number) for case, number in lesions]
    side, cells = model.window, model.latent_side

    def sketch(number: int, rng: Rng) -> Any:
        return lesion_window(alone[number], side, cells, context, rng)

    windows = encode_windows(model, (sketch(n, np.random.default_rng((seed, 13, n))) for n in range(len(alone))))
    fold_of = torch.tensor([folds[case.case.id] for case in alone])
    timesteps = model.schedule.timesteps(config.steps)
    scores: dict[str, dict[int, list[float]]] = {}
    for step in check_steps(config.checks, config.steps):
        t = torch.full((len(alone),), 0 if step == config.steps else int(timesteps[step - 1]))
        latents = windows.x0 if step == config.steps else estimates(model, windows, t, seed + step)
        for fold, network in enumerate(networks):
            rows = torch.nonzero(fold_of == fold)[:, 0]
            if not len(rows):
                continue
            found = segment(network, latents[rows], t[rows])
            ious = soft_iou(found, windows.fine_mask[rows], windows.fine_region[rows]).tolist()
            for row, iou in zip(rows.tolist(), ious, strict=True):
                name = size_bin(alone[row].attributes[0].relative_area)
                scores.setdefault(name, {}).setdefault(step, []).append(iou)
    return scores
