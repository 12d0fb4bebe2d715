"""Train the fold validators and calibrate the gate on the lesions that each has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffaug.classical import vary
from diffaug.compute.progress import tracked
from diffaug.compute.seeds import generator_of, seeded
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.config import FRAMES, FitConfig, ValidatorConfig
from diffaug.data.lesions import size_class
from diffaug.diffusion.contract import Denoiser
from diffaug.diffusion.sampler import sample
from diffaug.diffusion.schedule import x_t_from_x0
from diffaug.models.base import LatentInpainter
from diffaug.painting.window import frame_window, window_image, window_masks, windows_at_once
from diffaug.training.loop import optimise, recipe_of
from diffaug.training.windows import (
    AUGMENTATION,
    Annotated,
    Rng,
    Sketch,
    Windows,
    drawn,
    encode_windows,
    lesion_window,
    search_window,
)
from diffaug.validator.calibration import agreement, check_steps
from diffaug.validator.latent_segmenter import (
    UPSCALE,
    LatentSegmenter,
    frame_side,
    logits_of,
    segment,
    segmentation_loss,
    segmenter_of,
)

ESTIMATES = 2  # direct estimates kept per window, at random timesteps; the second is guided as in generation
NEGATIVE_EVERY = 7  # one in seven windows with a lesion is painted over
NEGATIVE_SHARE = 0.15  # of a batch: negatives and the estimates on their way
STEPS = 8  # of a negative
SHOWN = 64  # frames that tell how latents look


@dataclass(frozen=True)
class LabelledLatents:
    """What validators learn from, a row each.

    Attributes:
        latents: Real ones, estimates, negatives, (N, Z, h, w).
        times: Timestep of each, (N,).
        index: Row of its label, (N,).
        trust: In that label, (N,), in [0, 1].
        case: Index of the case whose annotation it is, (N,).
        label: Lesions at the validator's side, (M, K, s, s).
        painted: First row of the negatives.
    """

    latents: Tensor
    times: Tensor
    index: Tensor
    trust: Tensor
    case: Tensor
    label: Tensor
    painted: int


@torch.no_grad()
def estimates(
    model: LatentInpainter,
    windows: Windows,
    t: Tensor,
    seed: int,
    batch: int | None = None,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Return the painter's direct estimates x0_hat of noised real latents, (N, Z, h, w).

    Args:
        model: The painter.
        windows: Real windows; the painter is given what their annotation says.
        t: Timestep of each, (N,).
        seed: Seeds the noise.
        batch: Rows evaluated together; as many as suit the model unless set.
        denoiser: Makes the estimates instead of the painter, such as the painter under guidance.
    """
    generator, parts = generator_of(seed), []
    for rows in torch.split(torch.arange(len(windows)), batch or model.rows):
        part, now = windows.rows(rows), t[rows]
        eps = torch.randn(part.x0.shape, generator=generator)
        x_t = x_t_from_x0(part.x0, eps, model.schedule.at(now))
        parts.append((denoiser or model)(x_t, now, part.conditioning(model.embed_tokens(part.tokens))))
    return torch.cat(parts)


def search_windows(model: LatentInpainter, cases: Sequence[Annotated], seed: int, each: int) -> tuple[Windows, Tensor]:
    """Return `each` windows of every case for a validator, and the index of each one's case, (N,)."""

    def sketch(number: int, rng: Rng) -> Sketch:
        case = cases[number // each]
        lesion_free = number % 5 < 2 or not case.lesions  # two fifths are asked for: some cases have no room
        return search_window(case, model.window, model.latent_side, rng, lesion_free=lesion_free)

    total = len(cases) * each
    windows = encode_windows(model, drawn(sketch, total, seed, 7, description="windows for validators"))
    return windows, torch.arange(total) // each


@torch.no_grad()
def paint_negatives(
    model: LatentInpainter, windows: Windows, seed: int, prompt: str = NORMAL_PROMPT
) -> tuple[Tensor, Tensor, Tensor]:
    """Paint lesion-free tissue over the regions of real windows: what a validator must not take for a lesion.

    Args:
        model: The painter.
        windows: Real windows.
        seed: Seeds noise and timesteps.
        prompt: What lesion-free tissue is called.

    Returns:
        Latents, (2 N, Z, h, w): the negatives, then an estimate on the way to each; the timesteps, (2 N,); and the
        label, (N, K, s, s): the annotated lesions outside the region.
    """
    tokens, done, ways, times = model.tokens([prompt]), [], [], []
    stops = torch.randint(1, STEPS, (len(windows),), generator=generator_of(seed, 19)) - 1
    noise = torch.randn(windows.x0.shape, generator=generator_of(seed, 23))
    for rows in torch.split(torch.arange(len(windows)), min(16, model.rows)):
        part = windows.rows(rows)
        empty = replace(part, mask=torch.zeros_like(part.mask))
        conditioning = empty.conditioning(model.embed_tokens(tokens).expand(len(rows), -1, -1))
        path = list(sample(model, noise[rows], conditioning, model.schedule, STEPS))
        done.append(path[-1].x_next)
        ways.append(torch.stack([path[int(stop)].x0_hat[row] for row, stop in enumerate(stops[rows])]))
        times.append(torch.stack([path[int(stop)].t[row] for row, stop in enumerate(stops[rows])]))
    latents = torch.cat([*done, *ways])
    label = windows.label * (1 - windows.fine_region)
    return latents, torch.cat([torch.zeros(len(windows), dtype=torch.long), *times]), label


def labelled_latents(
    model: LatentInpainter,
    windows: Windows,
    case_of: Tensor,
    seed: int,
    guide: Denoiser | None = None,
    prompt: str = NORMAL_PROMPT,
) -> LabelledLatents:
    """Return real latents, estimates of them, and negatives.

    An estimate at timestep t still holds a share alpha_bar of what the annotation describes; that is the trust in its
    label. Lesion-free windows stay lesion-free at every t: full trust.

    Args:
        model: The painter.
        windows: Real windows.
        case_of: Index of the case of each, (N,).
        seed: Seeds timesteps and noise.
        guide: The painter under the guidance of generation, which makes every second estimate; None for the painter.
        prompt: What lesion-free tissue is called.
    """
    total, rows = len(model.schedule.alpha_bar), torch.arange(len(windows))
    latents, times, trust = [windows.x0], [torch.zeros_like(rows)], [torch.ones(len(rows))]
    empty = windows.label.sum((1, 2, 3)) == 0
    for number in range(ESTIMATES):
        t = torch.randint(0, total, (len(rows),), generator=generator_of(seed, 11, number))
        latents.append(estimates(model, windows, t, seed + number, denoiser=guide if number % 2 else None))
        times.append(t)
        trust.append(torch.where(empty, 1.0, model.schedule.at(t).float()))
    repainted = torch.nonzero(~empty)[:, 0][::NEGATIVE_EVERY]
    negatives, when, label = paint_negatives(model, windows.rows(repainted), seed, prompt)
    index = torch.cat([rows.repeat(1 + ESTIMATES), (torch.arange(len(repainted)) + len(rows)).repeat(2)])
    return LabelledLatents(
        latents=torch.cat([*latents, negatives]),
        times=torch.cat([*times, when]),
        index=index,
        trust=torch.cat([*trust, torch.ones(len(negatives))]),
        case=torch.cat([case_of.repeat(1 + ESTIMATES), case_of[repainted].repeat(2)]),
        label=torch.cat([windows.label, label]),
        painted=(1 + ESTIMATES) * len(rows),
    )


@dataclass(frozen=True)
class FrameViews:
    """Whole frames that validators learn from, varied: C cases, V views of each.

    Attributes:
        latents: (C, V, Z, h, w).
        label: Lesions at the validator's side, (C, V, K, s, s), 0 to 255.
    """

    latents: Tensor
    label: Tensor

    def rows(self, cases: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return some views as latents (B, Z, h, w) and label (B, K, s, s) in [0, 1]."""
        return self.latents[cases, views], self.label[cases, views].float() / 255


def frame_views(model: LatentInpainter, cases: Sequence[Annotated], each: int, seed: int) -> FrameViews:
    """Encode every case's whole frame, mirrored to a square and varied as a study varies its images."""
    side, latents, labels = frame_side(model.cell, model.latent_side), list[Tensor](), list[Tensor]()
    for number, case in enumerate(tracked(cases, len(cases), "frames for validators")):
        window = frame_window(case.mask.shape)
        image = (window_image(case.image, window, side) + 1) / 2
        masks = (window_masks(case.masks, window, side) > 0.5).float()
        image, masks = (part.expand(each, -1, -1, -1) for part in (image, masks))
        images, masks, _ = vary(image, masks, AUGMENTATION, seed, number)
        latents.append(_encoded(model, 2 * images - 1))
        labels.append((255 * F.avg_pool2d(masks, model.cell // UPSCALE)).round().to(torch.uint8))
    return FrameViews(torch.stack(latents), torch.stack(labels))


def shown_latents(model: LatentInpainter, cases: Sequence[Annotated]) -> tuple[Tensor, Tensor]:
    """Return whole frames at a window's side, as latents (N, Z, h, w) and as images (N, 3, s, s) in [0, 1]."""
    frames = [window_image(case.image, frame_window(case.mask.shape), model.window) for case in cases[:SHOWN]]
    images = torch.cat(frames)
    return _encoded(model, images), F.avg_pool2d((images + 1) / 2, model.cell // UPSCALE)


@torch.no_grad()
def _encoded(model: LatentInpainter, images: Tensor) -> Tensor:
    """Encode as many images at once as suit their side: (N, 3, s, s) in [-1, 1] => (N, Z, h, w)."""
    return torch.cat([model.encode(part) for part in torch.split(images, windows_at_once(images.shape[-1]))])


def train_validators(
    model: LatentInpainter,
    cases: Sequence[Annotated],
    folds: Mapping[str, int],
    config: ValidatorConfig,
    folder: Path,
    seed: int = 0,
    guide: Denoiser | None = None,
) -> list[LatentSegmenter]:
    """Return one segmentation network per fold, trained on the cases outside that fold.

    Args:
        model: The painter, whose codec and estimates the networks read.
        cases: Annotated cases.
        folds: Fold of each case id.
        config: Schedule.
        folder: Where checkpoints and logs are kept.
        seed: Seeds windows, weights and iterations.
        guide: The painter under the guidance of generation.
    """
    windows, case_of = search_windows(model, cases, seed, config.windows_per_case)
    rows = labelled_latents(
        model, windows, case_of, seed, guide, domain_of(cases[0].case.class_names, cases[0].rules).normal_prompt
    )
    frames = frame_views(model, cases, config.views_per_case, seed)
    fold_of = torch.tensor([folds[case.case.id] for case in cases])
    networks = []
    for fold in range(config.folds):
        shown = shown_latents(model, [case for case in cases if folds[case.case.id] != fold])
        with seeded(seed + fold):
            network = segmenter_of(*shown, windows.label.shape[1]).to(model.device)
        loss = _Lessons(rows, frames, fold_of != fold, network, config)
        recipe = recipe_of(config, weight_decay=0.05, average=0.99)
        optimise({"validator": network}, loss, recipe, folder / f"validator-{fold}", seed=seed + fold)
        networks.append(network.requires_grad_(False))
    return networks


class _Lessons:
    """What a validator learns in an iteration: windows, some of them estimates and negatives, and whole frames.

    Args:
        rows: Windows of all cases.
        frames: Of all cases.
        seen: Which cases the network may see, (C,).
        network: It.
        config: Says how many of each make a batch.
    """

    def __init__(
        self, rows: LabelledLatents, frames: FrameViews, seen: Tensor, network: LatentSegmenter, config: ValidatorConfig
    ) -> None:
        self.rows, self.frames, self.network, self.config = rows, frames, network, config
        is_painted = torch.arange(len(rows.times)) >= rows.painted
        self.parts = [torch.nonzero(seen[rows.case] & part)[:, 0] for part in (~is_painted, is_painted)]
        self.cases = torch.nonzero(seen)[:, 0]

    def __call__(self, _: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of an iteration."""
        return {"loss": self._of_windows(generator) + self._of_frames(generator)}

    def _of_windows(self, generator: torch.Generator) -> Tensor:
        rows, count = self.rows, self.config.batch_size
        negatives = round(count * NEGATIVE_SHARE) if len(self.parts[1]) else 0
        picks = torch.cat(
            [
                part[torch.randint(0, len(part), (n,), generator=generator)]
                for part, n in zip(self.parts, (count - negatives, negatives), strict=True)
                if n
            ]
        )
        logits = logits_of(self.network, rows.latents[picks], rows.times[picks])
        return segmentation_loss(logits, rows.label[rows.index[picks]], rows.trust[picks])

    def _of_frames(self, generator: torch.Generator) -> Tensor:
        count, views = FRAMES, self.frames.label.shape[1]
        cases = self.cases[torch.randint(0, len(self.cases), (count,), generator=generator)]
        latents, label = self.frames.rows(cases, torch.randint(0, views, (count,), generator=generator))
        logits = logits_of(self.network, latents, torch.zeros(count, dtype=torch.long))
        return segmentation_loss(logits, label, torch.ones(count))


def real_scores(
    model: LatentInpainter,
    networks: Sequence[LatentSegmenter],
    cases: Sequence[Annotated],
    folds: Mapping[str, int],
    config: FitConfig,
    context: tuple[float, float],
    seed: int = 0,
    guide: Denoiser | None = None,
) -> dict[str, dict[int, list[float]]]:
    """Score every real lesion with the validator that has not seen its case.

    Returns:
        Per size bin and checked step, the agreement of each lesion, that of its worst class; at the last step of the
        latents themselves, before it of the painter's estimates at that step's timestep.
    """
    lesions = [(case, number) for case in cases for number in range(len(case.lesions))]
    alone = [case.alone(number) for case, number in lesions]
    side, cells = model.window, model.latent_side

    def sketch(number: int, rng: Rng) -> Sketch:
        return lesion_window(alone[number], side, cells, context, rng)

    windows = encode_windows(model, drawn(sketch, len(alone), seed, 13, description="scores of real lesions"))
    fold_of = torch.tensor([folds[case.case.id] for case in alone])
    sampler = config.sampler
    timesteps = model.schedule.timesteps(sampler.steps, sampler.strength)
    scores: dict[str, dict[int, list[float]]] = {}
    for step in check_steps(sampler.checks, sampler.steps):
        t = torch.full((len(alone),), 0 if step == sampler.steps else int(timesteps[step - 1]))
        latents = windows.x0 if step == sampler.steps else estimates(model, windows, t, seed + step, denoiser=guide)
        for fold, network in enumerate(networks):
            rows = torch.nonzero(fold_of == fold)[:, 0]
            if not len(rows):
                continue
            found = segment(network, latents[rows], t[rows])
            ious = agreement(found, windows.fine_mask[rows], windows.fine_region[rows]).tolist()
            for row, iou in zip(rows.tolist(), ious, strict=True):
                name = size_class(alone[row].attributes[0].relative_area)
                scores.setdefault(name, {}).setdefault(step, []).append(iou)
    return scores
