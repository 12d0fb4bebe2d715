"""What a network learns from a batch: varied images, their masks, and which pixels count.

Where a label is not known, the average of the network's weights, its teacher, gives one: it sees the image moved like
the network's own, but neither coloured nor cut, and only what it is sure of counts.

    y = [p > 1/2],  w = [max(p, 1 - p) >= c]    with p the teacher's probabilities and c `study.teacher_confidence`

Letters: B batch, K classes, S side of the square in px.

Source: Tarvainen & Valpola 2017 (arXiv:1703.01780) for the averaged teacher; Sohn et al. 2020 (arXiv:2001.07685) for
labels of weakly varied images where they are sure; French et al. 2020 (arXiv:1906.01916) for boxes cut from another
image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffaug.classical import vary
from diffaug.config import StudyConfig
from diffaug.study.batches import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

START = 0.2  # share of the iterations before the teacher is listened to
CUT = (0.25, 0.75)  # range of the area of a box that is cut from another image, as a share of the image
CUTTING = 5  # stream of the draws of boxes


@dataclass(frozen=True)
class Lesson:
    """What one iteration learns.

    `images` (B, 3, S, S) in [0, 1], `masks` (B, K, S, S) and `weights` of the same shape, both of 0 and 1; a pixel of
    weight 0 counts nothing, and without weights every pixel counts.
    """

    images: "Tensor"
    masks: "Tensor"
    weights: "Tensor | None" = None


def lesson_of(batch: Batch, teacher: "nn.Module | None", config: StudyConfig, seed: int, iteration: int) -> Lesson:
    """Vary a batch, and find labels for what is not known of it; a pure function of its arguments.

    Args:
        batch: Before classical augmentation.
        teacher: The average of the network's weights, in evaluation mode; without one, what is not known counts
            nothing.
        config: Strength of the augmentation, and what the teacher must be sure of.
        seed: Of the run.
        iteration: Of the run.
    """
    import torch

    if batch.known is None or batch.before is None:
        images, masks, _ = vary(batch.images, batch.masks, config.augmentation, seed, iteration)
        return Lesson(images, masks)
    beside = torch.cat([batch.known, batch.before], 1)
    images, masks, beside = vary(batch.images, batch.masks, config.augmentation, seed, iteration, beside)
    known, before = (beside[:, :1] > 1 - 1e-4).float().expand_as(masks), beside[:, 1:].clamp(0, 1)
    if teacher is None or iteration < START * config.iterations:
        return Lesson(images, masks, known)
    taught = (known.amin((1, 2, 3)) == 0).nonzero().flatten()
    labels, sure = opinion(teacher, before[taught], config.teacher_confidence)
    weights = known.clone()
    weights[taught] = torch.where(known[taught] > 0, 1.0, sure)
    masks = masks.clone()
    masks[taught] = torch.where(known[taught] > 0, masks[taught], labels)
    whole = (known.amax((1, 2, 3)) == 0).nonzero().flatten()
    return cut(Lesson(images, masks, weights), whole, np.random.default_rng([seed, CUTTING, iteration]))


def opinion(teacher: "nn.Module", images: "Tensor", confidence: float) -> "tuple[Tensor, Tensor]":
    """Return a teacher's labels of images (n, 3, S, S), and where it is sure of them, both (n, K, S, S) of 0 and 1."""
    import torch

    from diffaug.compute.precision import autocast

    with torch.no_grad(), autocast(images.device):
        logits = teacher(images.contiguous(memory_format=torch.channels_last)).float()
    probability = logits.sigmoid()
    return (probability > 0.5).float(), (torch.maximum(probability, 1 - probability) >= confidence).float()


def cut(lesson: Lesson, rows: "Tensor", rng: np.random.Generator) -> Lesson:
    """Replace a random box of half of some rows by that of the next of these rows: pixels, masks and weights.

    Args:
        lesson: With weights.
        rows: Which rows take part, such as those of unannotated images; a single one has nothing to take from.
        rng: Of the draws.
    """
    import torch

    if len(rows) < 2 or lesson.weights is None:
        return lesson
    side = lesson.images.shape[-1]
    inside = torch.zeros(len(rows), 1, side, side, device=lesson.images.device)
    for box in inside:
        area, ratio = rng.uniform(*CUT), np.exp(rng.uniform(-0.7, 0.7))
        height, width = (min(side, round(side * np.sqrt(area * one))) for one in (ratio, 1 / ratio))
        top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
        box[:, top : top + height, left : left + width] = float(rng.random() < 0.5)

    def swapped(values: "Tensor") -> "Tensor":
        found = values.clone()
        found[rows] = torch.where(inside > 0, values[rows.roll(1)], values[rows])
        return found

    return Lesson(swapped(lesson.images), swapped(lesson.masks), swapped(lesson.weights))
