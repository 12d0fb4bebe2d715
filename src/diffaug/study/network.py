"""The segmentation model of a study and one run of its training, the same for every arm.

Knows batches, tensors and one run's files; knows no metrics and no other arm.
"""

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diffaug.artifacts import append_jsonl, write_tensors
from diffaug.config import LITE, UNET, StudyConfig
from diffaug.errors import StudyError
from diffaug.reading import read_tensors
from diffaug.study.batches import Batches
from diffaug.study.teaching import lesson_of

if TYPE_CHECKING:
    from torch import Tensor, nn

WARMUP = 0.05  # share of the iterations in which the learning rate rises
ENCODER = "network.encoder."  # parameters of a part of this name learn at the encoder's rate


def build_network(config: StudyConfig, seed: int, classes: int = 1) -> "nn.Module":
    """Return the segmentation network with the initial weights of a seed.

    Images (B, 3, S, S) in [0, 1] => logits (B, K, S, S), one channel a class.

    Raises:
        ConfigError: See `architectures.build`.
        StudyError: See there.
    """
    from diffaug.compute.precision import channels_last
    from diffaug.compute.seeds import seeded
    from diffaug.study.architectures import build

    with seeded(seed):
        return channels_last(build(config, classes))


def segmentation_loss(logits: "Tensor", masks: "Tensor", weights: "Tensor | None" = None) -> "Tensor":
    """Return the Dice loss of each image and class, averaged, plus binary cross-entropy.

    With p the probabilities, m the mask and w the weights of one image and class:

        1 - mean (2 sum w p m + 1) / (sum w p + sum w m + 1) + mean w CE

    A small lesion counts as much as a large one, since each image has an overlap of its own. A pixel whose weight is 0
    counts nothing: neither value nor gradient depends on what its mask says.

    Args:
        logits: Shape (B, K, S, S).
        masks: Of 0 and 1, same shape.
        weights: Of 0 and 1, same shape; None is 1 everywhere.
    """
    import torch.nn.functional as F

    entropy = F.binary_cross_entropy_with_logits(logits, masks, weights)
    p = logits.sigmoid()
    return (dice_loss(p, masks) if weights is None else dice_loss(p * weights, masks * weights)) + entropy


def dice_loss(p: "Tensor", masks: "Tensor") -> "Tensor":
    """Return 1 - (2 sum p m + 1) / (sum p + sum m + 1), averaged over images and classes; shapes (B, K, S, S).

    The same sums in the same order as MONAI's `DiceLoss`, whose import takes seconds in every process.

    Source: Milletari et al. 2016 (arXiv:1606.04797), without squares.
    """
    both = (p * masks).sum((2, 3))
    found, missed = 0.5 * (p.sum((2, 3)) - both), 0.5 * (masks.sum((2, 3)) - both)
    return (1 - (2 * both + 1) / (2 * (both + found + missed) + 1)).mean()


def train(
    network: "nn.Module",
    batches: Batches,
    config: StudyConfig,
    *,
    name: str,
    files: Path,
    device: str = "cpu",
    report: Callable[[int], None] = lambda iteration: None,
) -> None:
    """Train a network in place, and leave it with the average of its weights; a killed run goes on where it was.

    Args:
        network: As made by `build_network` with the seed of `batches`.
        batches: What each iteration sees.
        config: Iterations and learning rates; the part of a network that is named `encoder` has its own.
        name: Of the run, for messages.
        files: Path of the run's files without suffix: `.log.jsonl` and, until training ends, `.checkpoint`.
        device: Where to compute.
        report: Is called with the iterations done so far.

    Raises:
        StudyError: The loss is not finite; the message names the cases, and the log stays.
    """
    import torch

    from diffaug.compute.precision import autocast
    from diffaug.training.loop import Recipe, log_of, optimise

    network.to(device)
    teacher = copy.deepcopy(network).eval().requires_grad_(False) if batches.taught_rows else None
    on_gpu = torch.device(device).type == "cuda"
    is_recorded = on_gpu and config.network in (UNET, LITE)  # another network may do what cannot be replayed
    if is_recorded:
        record_passes(network.train(), batches.draw(0).images)

    def loss(iteration: int, _: torch.Generator) -> dict[str, torch.Tensor]:
        batch = batches.draw(iteration)
        lesson = lesson_of(batch, teacher, config, batches.seed, iteration)
        with autocast(device, cache=not is_recorded):
            logits = network(lesson.images.contiguous(memory_format=torch.channels_last)).float()
        value = segmentation_loss(logits, lesson.masks, lesson.weights)
        check_finite(value, logits, name, iteration, batch.ids, log_of(files))
        return {"loss": value}

    warmup = max(1, round(WARMUP * config.iterations))
    recipe = Recipe(
        config.iterations, config.learning_rate, warmup, weight_decay=config.weight_decay, average=config.ema,
        shares={ENCODER: config.encoder_rate / config.learning_rate},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # passes are recorded on another one
        averaged = None if teacher is None else {"network": teacher}
        optimise(
            {"network": network}, loss, recipe, files,
            seed=batches.seed, report=report, averaged=averaged, forgiving=True,
        )  # fmt: skip


def record_passes(network: "nn.Module", images: "Tensor") -> None:
    """Record both passes of a network in training on a GPU, which then replays them: small ones wait for launches.

    The network's weights and statistics stay as they are; other batches must have the shape of this one. In evaluation
    the network computes as ever.

    Source: `torch.cuda.make_graphed_callables`, whose recording under autocast needs the latter's cache off.
    """
    import torch

    from diffaug.compute.precision import autocast

    state = {key: value.clone() for key, value in network.state_dict().items()}
    with autocast(images.device, cache=False):
        torch.cuda.make_graphed_callables(network, (images.contiguous(memory_format=torch.channels_last),))
    network.load_state_dict(state)


def check_finite(loss: "Tensor", logits: "Tensor", name: str, iteration: int, ids: tuple[str, ...], log: Path) -> None:
    """Stop a run whose loss is not a number.

    Raises:
        StudyError: Naming the cases whose own output is not finite; all of the batch where every one is.
    """
    import torch

    value = float(loss.detach())
    if math.isfinite(value):
        return
    finite = torch.isfinite(logits.detach()).flatten(1).all(1).tolist()
    guilty = [case for case, good in zip(ids, finite, strict=True) if not good] or list(ids)
    append_jsonl(log, {"iteration": iteration + 1, "loss": None, "cases": guilty})
    raise StudyError(
        f"the loss must stay finite: {name} reached {value} at iteration {iteration + 1} on {', '.join(guilty)}; "
        f"check these cases or lower study.learning_rate (the log is {log})"
    )


def save_weights(network: "nn.Module", path: Path) -> None:
    """Write a trained network's weights as safetensors, atomically."""
    from diffaug.study.architectures import about

    write_tensors(path, {key: value.clone() for key, value in network.state_dict().items()}, about(network))


def load_network(config: StudyConfig, path: Path, classes: int = 1) -> "nn.Module":
    """Return a trained network in evaluation mode, from the weights that `save_weights` wrote.

    Raises:
        StudyError: The file is damaged, or of another network.
        ConfigError: The user's function, which makes the network, cannot be imported.
    """
    from diffaug.compute.precision import channels_last
    from diffaug.compute.seeds import seeded
    from diffaug.study.architectures import build

    try:
        values, about = read_tensors(path)
        with seeded(0):
            network = channels_last(build(config, classes, about))
        network.load_state_dict(values)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StudyError(
            f"the weights of a run must be whole: {path}: {reason}; remove the file, and the study trains the run again"
        ) from None
    return network.eval()
