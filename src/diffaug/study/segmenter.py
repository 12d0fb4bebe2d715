"""The segmentation model of a study and one run of its training, the same for every arm.

Knows batches, tensors and one run's files; knows no metrics and no other arm.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diffaug.artifacts import append_jsonl, atomic_path
from diffaug.config import StudyConfig
from diffaug.errors import StudyError
from diffaug.study.batches import Batches, augment, classical_augmentation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CELL = 4  # px; side of the squares whose pixels become channels
WARMUP = 0.05  # share of the iterations in which the learning rate rises
WEIGHT_DECAY = 1e-2
CLIP = 1.0  # largest norm of a gradient
LOG_EVERY = 50  # iterations
CHECKPOINT_EVERY = 250  # iterations


def build_network(config: StudyConfig, seed: int, classes: int = 1) -> "nn.Module":
    """Return the segmentation network with the initial weights of a seed.

    A U-Net with batch normalisation between space-to-depth and depth-to-space by 4: no layer runs at full resolution,
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
            in_channels=3 * CELL**2,
            out_channels=classes * CELL**2,
            features=(*config.widths, config.widths[0]),
            norm="batch",
            act="relu",
        )
    with torch.no_grad():  # the pixels of a cell start alike, or a young network would draw a checkerboard
        for parameter in unet.final_conv.parameters():
            parameter.copy_(parameter[:: CELL**2].repeat_interleave(CELL**2, 0))
    network = nn.Sequential(nn.PixelUnshuffle(CELL), unet, nn.PixelShuffle(CELL))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return] # torch's stubs


def segmentation_loss(logits: "Tensor", masks: "Tensor") -> "Tensor":
    """Return soft Dice over the batch, the mean of the classes, plus binary cross-entropy; both (B, K, S, S)."""
    import torch
    import torch.nn.functional as F

    def dice(p: "Tensor", m: "Tensor") -> "Tensor":
        return (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1)

    probability = torch.sigmoid(logits)
    parts = zip(probability.chunk(logits.shape[1], 1), masks.chunk(masks.shape[1], 1), strict=True)
    overlap = torch.stack([dice(p, m) for p, m in parts]).mean()
    return 1 - overlap + F.binary_cross_entropy_with_logits(logits, masks)


def learning_rate(iteration: int, iterations: int, peak: float) -> float:
    """Rise linearly to the peak, then fall as a half cosine to zero."""
    warmup = max(1, round(WARMUP * iterations))
    if iteration < warmup:
        return peak * (iteration + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))


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
        StudyError: The loss is not finite; the message names the cases of that batch, and the log stays.
    """
    import torch

    from diffaug.diffusion.train import autocast

    network.to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=WEIGHT_DECAY)
    augmentation = classical_augmentation()
    checkpoint, log = Path(f"{files}.checkpoint"), Path(f"{files}.log.jsonl")
    start = restore(network, optimiser, checkpoint) if checkpoint.exists() else 0
    for iteration in range(start, config.iterations):
        batch = augment(augmentation, batches.draw(iteration), batches.seed, iteration)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(iteration, config.iterations, config.learning_rate)

        with autocast(device):
            logits = network(batch.images.to(device, memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), batch.masks.to(device))
        check_finite(float(loss.detach()), name, iteration, batch.ids, log)

        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()

        done = iteration + 1
        report(done)
        if done % LOG_EVERY == 0 or done == config.iterations:
            append_jsonl(log, {"run": name, "iteration": done, "loss": round(float(loss.detach()), 5)})
        if done % CHECKPOINT_EVERY == 0:
            save(network, optimiser, checkpoint, done)


def check_finite(loss: float, name: str, iteration: int, ids: tuple[str, ...], log: Path) -> None:
    """Stop a run whose loss is not a number.

    Raises:
        StudyError: Naming the cases of the batch.
    """
    if math.isfinite(loss):
        return
    append_jsonl(log, {"run": name, "iteration": iteration + 1, "loss": None, "cases": list(ids)})
    raise StudyError(
        f"the loss must stay finite: {name} reached {loss} at iteration {iteration + 1} on {', '.join(ids)}; "
        f"check these cases or lower study.learning_rate (the log is {log})"
    )


def save(network: "nn.Module", optimiser: "torch.optim.Optimizer", path: Path, done: int) -> None:
    """Write weights and optimiser state as safetensors, atomically."""
    from safetensors.torch import save_file

    tensors = {f"network.{key}": value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"done": str(done)})


def restore(network: "nn.Module", optimiser: "torch.optim.Optimizer", path: Path) -> int:
    """Load what `save` wrote and return the iterations done."""
    from safetensors import safe_open

    state: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            kind, _, rest = key.partition(".")
            if kind == "network":
                weights[rest] = file.get_tensor(key)
            else:
                index, _, name = rest.partition(".")
                state.setdefault(int(index), {})[name] = file.get_tensor(key)
        done = int(file.metadata()["done"])
    network.load_state_dict(weights)
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return done
