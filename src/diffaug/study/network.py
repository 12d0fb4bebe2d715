"""The segmentation model of a study and one run of its training, the same for every arm.

Knows batches, tensors and one run's files; knows no metrics and no other arm.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diffaug.artifacts import append_jsonl, atomic_path
from diffaug.config import StudyConfig
from diffaug.errors import StudyError
from diffaug.study.batches import Batches
from diffaug.study.classical import vary

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WARMUP = 0.05  # share of the iterations in which the learning rate rises
CLIP = 1.0  # largest norm of a gradient
LOG_EVERY = 50  # iterations
CHECKPOINT_EVERY = 250  # iterations
RECALL = 0.7  # weight of what is missed in the Tversky loss; what is wrongly found has the rest


def build_network(config: StudyConfig, seed: int, classes: int = 1) -> "nn.Module":
    """Return the segmentation network with the initial weights of a seed.

    A U-Net with batch normalisation between space-to-depth and depth-to-space: no layer runs at full resolution,
    so that it learns more in a minute of one core than any of the finer networks that were tried.
    Images (B, 3, S, S) => logits (B, K, S, S), one channel a class.

    Source: Falk et al. 2019, "U-Net: deep learning for cell counting, detection, and morphometry", as built by MONAI;
    the start of the last layer is that of Aitken et al. 2017 (arXiv:1707.02937).
    """
    import torch
    from monai.networks.nets import BasicUNet
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = BasicUNet(
            spatial_dims=2,
            in_channels=3 * config.cell**2,
            out_channels=classes * config.cell**2,
            features=(*config.widths, config.widths[0]),
            norm="batch",
            act="relu",
        )
    with torch.no_grad():  # the pixels of a cell start alike, or a young network would draw a checkerboard
        for parameter in unet.final_conv.parameters():
            parameter.copy_(parameter[:: config.cell**2].repeat_interleave(config.cell**2, 0))
    network = nn.Sequential(nn.PixelUnshuffle(config.cell), unet, nn.PixelShuffle(config.cell))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return] # torch's stubs


def segmentation_loss(logits: "Tensor", masks: "Tensor", weights: "Tensor", kind: str = "dice+ce") -> "Tensor":
    """Return an overlap loss, the mean of the classes, plus binary cross-entropy.

    With p the probabilities, m the masks and w the weight of each case:

        1 - (2 sum w p m + 1) / (sum w p + sum w m + 1) + sum w CE / sum w

    over the batch (`dice+ce`), or the first term for each image and averaged (`image-dice+ce`), where a small lesion
    counts as much as a large one, or with 0.7 of the weight on what is missed (`tversky+ce`).

    Args:
        logits: Shape (B, K, S, S).
        masks: Of 0 and 1, same shape.
        weights: Of each case, shape (B,).
        kind: A value of `StudyConfig.loss`.

    Source: Salehi et al. 2017 (arXiv:1706.05721) for the Tversky loss.
    """
    import torch
    import torch.nn.functional as F

    probability = torch.sigmoid(logits)
    each = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((1, 2, 3))
    entropy = (each * weights).sum() / weights.sum().clamp(min=1e-6)
    both, found, there = (part.sum((2, 3)) for part in (probability * masks, probability, masks))  # (B, K)
    if kind != "image-dice+ce":
        both, found, there = ((weights[:, None] * part).sum(0, keepdim=True) for part in (both, found, there))
        weights = torch.ones(1, device=logits.device)
    missed, extra = (RECALL, 1 - RECALL) if kind == "tversky+ce" else (0.5, 0.5)
    overlap = ((both + 0.5) / (both + missed * (there - both) + extra * (found - both) + 0.5)).mean(1)
    return 1 - (overlap * weights).sum() / weights.sum().clamp(min=1e-6) + entropy


def learning_rate(iteration: int, iterations: int, peak: float, kind: str = "cosine") -> float:
    """Rise linearly to the peak, then fall as a half cosine to zero, or stay."""
    warmup = max(1, round(WARMUP * iterations))
    if iteration < warmup:
        return peak * (iteration + 1) / warmup
    if kind == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))


class Average:
    """The exponential moving average of a network's weights; with a decay of 0 it is the network itself.

    The decay grows with the iterations done, as (1 + n) / (10 + n), so that the start is forgotten.
    """

    def __init__(self, network: "nn.Module", decay: float) -> None:
        self.network, self.decay, self.done = network, decay, 0
        self.weights = {key: value.detach().clone() for key, value in network.state_dict().items()} if decay else {}

    def update(self) -> None:
        """Take in the network's weights."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self.done += 1
        state = self.network.state_dict() if self.decay else {}
        counts = {key for key, value in state.items() if not value.is_floating_point()}
        blend = get_ema_multi_avg_fn(min(self.decay, (1 + self.done) / (10 + self.done)))  # type: ignore[no-untyped-call]
        if state:
            blend(*([one[key] for key in state if key not in counts] for one in (self.weights, state)), None)
        for key in counts:
            self.weights[key].copy_(state[key])

    def take(self) -> None:
        """Set the network to the average."""
        if self.decay:
            self.network.load_state_dict(self.weights)


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
    """Train a network in place; a checkpoint of the same run is taken up where it was left.

    Args:
        network: As made by `build_network` with the seed of `batches`.
        batches: What each iteration sees.
        config: Iterations and learning rate.
        name: Of the run, for messages.
        files: Path of the run's files without suffix: `.log.jsonl` and, until training ends, `.checkpoint`.
        device: Where to compute.
        report: Is called with the iterations done so far.

    Raises:
        StudyError: The loss is not finite; the message names the cases, and the log stays.
    """
    import torch

    from diffaug.compute.precision import autocast

    network.to(device).train()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        record_passes(network, batches.draw(0).images)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    average = Average(network, config.ema)
    checkpoint, log = Path(f"{files}.checkpoint"), Path(f"{files}.log.jsonl")
    start, clock = restore(network, optimiser, average, checkpoint) if checkpoint.exists() else 0, time.process_time()
    for iteration in range(start, config.iterations):
        batch = batches.draw(iteration)
        images, masks = vary(batch.images, batch.masks, config.augmentation, batches.seed, iteration)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(iteration, config.iterations, config.learning_rate, config.lr_schedule)

        with autocast(device, cache=not on_gpu):
            logits = network(images.contiguous(memory_format=torch.channels_last)).float()
        loss = segmentation_loss(logits, masks, batch.weights, config.loss)
        check_finite(loss, logits, name, iteration, batch.ids, log)

        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        average.update()

        done = iteration + 1
        report(done)
        if done % LOG_EVERY == 0 or done == config.iterations:
            row = {"run": name, "iteration": done, "loss": round(float(loss.detach()), 5)}
            append_jsonl(log, row | {"ms": round(1000 * (time.process_time() - clock) / (done - start), 1)})
        if done % CHECKPOINT_EVERY == 0:
            save(network, optimiser, average, checkpoint, done)
    average.take()


def record_passes(network: "nn.Module", images: "Tensor") -> None:
    """Record both passes of a network in training on a GPU, which then replays them: small ones wait for launches.

    The network's weights and statistics stay as they are; other batches must have the shape of this one. In evaluation
    the network computes as ever.

    Source: `torch.cuda.make_graphed_callables`, whose recording under autocast needs the latter's cache off.
    """
    import warnings

    import torch

    from diffaug.compute.precision import autocast

    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # recorded on a stream of its own
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
    append_jsonl(log, {"run": name, "iteration": iteration + 1, "loss": None, "cases": guilty})
    raise StudyError(
        f"the loss must stay finite: {name} reached {value} at iteration {iteration + 1} on {', '.join(guilty)}; "
        f"check these cases or lower study.learning_rate (the log is {log})"
    )


def save(network: "nn.Module", optimiser: "torch.optim.Optimizer", average: Average, path: Path, done: int) -> None:
    """Write weights, their average and the optimiser's state as safetensors, atomically."""
    from safetensors.torch import save_file

    tensors = {f"network.{key}": value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    tensors |= {f"average.{key}": value.detach().cpu().contiguous() for key, value in average.weights.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"done": str(done)})


def restore(network: "nn.Module", optimiser: "torch.optim.Optimizer", average: Average, path: Path) -> int:
    """Load what `save` wrote and return the iterations done.

    Moments get the memory format of their parameter, which a fused optimiser takes for granted.
    """
    import torch
    from safetensors import safe_open

    parameters = list(network.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            kind, _, rest = key.partition(".")
            if kind == "network":
                weights[rest] = file.get_tensor(key)
            elif kind == "average":
                average.weights[rest].copy_(file.get_tensor(key))
            else:
                number, _, name = rest.partition(".")
                index, value = int(number), file.get_tensor(key)
                if value.shape == parameters[index].shape:  # a moment, not the count of updates
                    value = torch.empty_like(parameters[index]).copy_(value)
                state.setdefault(index, {})[name] = value
        done = int(file.metadata()["done"])
    network.load_state_dict(weights)
    average.done = done
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return done


def save_weights(network: "nn.Module", path: Path) -> None:
    """Write a trained network's weights as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as partial:
        save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}, partial)


def load_network(config: StudyConfig, path: Path, classes: int = 1) -> "nn.Module":
    """Return a trained network in evaluation mode, from the weights that `save_weights` wrote.

    Raises:
        StudyError: The file is damaged, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = build_network(config, 0, classes)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StudyError(
            f"the weights of a run must be whole: {path}: {reason}; remove the file, and the study trains the run again"
        ) from None
    return network.eval()
