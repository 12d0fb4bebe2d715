"""Segment latents: the direct estimate and its timestep => mask logits at four times the latent side, in one pass.

The first layer turns latents into a small image, by a linear map that is fitted to the codec; behind it stands the
encoder that has learned from ImageNet, with the decoder of a U-Net. So a few annotated cases suffice, and nothing is
decoded. Latents of a whole frame, or of a window of another size, are segmented by the same network.

Knows a denoiser only as something that makes estimates; never sees a requested mask.
Legend: B batch, h = w latent side, s = 4 h, Z latent channels, K classes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffaug.artifacts import make_folder, write_tensors
from diffaug.compute.devices import device_of_network
from diffaug.compute.precision import autocast, channels_last
from diffaug.compute.seeds import seeded
from diffaug.config import FRAME_CELLS
from diffaug.decoder import EncoderDecoder
from diffaug.encoder import CHANNELS, STRIDES, Trunk, load_trunk
from diffaug.errors import ModelError
from diffaug.reading import read_tensors

UPSCALE = 4
NEARBY = 3  # cells; what a cell shows is told from it and from its neighbours
RIDGE = 1e-6  # keeps the least squares solvable where latents are alike
TIMES = 1000  # timesteps of a schedule
WEIGHTS = "model.safetensors"


class LatentSegmenter(nn.Module):
    """The network of a validator.

    Args:
        trunk: Of EfficientNet-lite0.
        latent_channels: Z.
        classes: K.
    """

    def __init__(self, trunk: Trunk, latent_channels: int, classes: int) -> None:
        super().__init__()
        cell = 3 * UPSCALE**2
        self.image = nn.Conv2d(latent_channels, cell, NEARBY, padding=NEARBY // 2)
        self.time = nn.Linear(2, cell)
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)
        self.network = EncoderDecoder(trunk, CHANNELS, STRIDES, classes)

    def forward(self, latents: Tensor, t: Tensor) -> Tensor:
        """Return logits: (B, Z, h, w) at timesteps (B,) => (B, K, s, s)."""
        noise = t.to(latents) / TIMES
        shift = self.time(torch.stack([noise, noise.sqrt()], dim=1))
        image = F.pixel_shuffle(self.image(latents) + shift[:, :, None, None], UPSCALE)
        logits: Tensor = self.network(image.contiguous(memory_format=torch.channels_last))
        return logits


def segmenter_of(latents: Tensor, images: Tensor, classes: int = 1) -> LatentSegmenter:
    """Return a network that is ready to be trained: it sees an image, with the eyes of ImageNet.

    Args:
        latents: Of some windows, (N, Z, h, w).
        images: The same windows, (N, 3, s, s) in [0, 1].
        classes: K.
    """
    segmenter = LatentSegmenter(load_trunk(), latents.shape[1], classes)
    weight, bias = image_map(latents, images)
    with torch.no_grad():
        segmenter.image.weight.copy_(weight)
        segmenter.image.bias.copy_(bias)  # type: ignore[union-attr] # torch's stubs: a convolution may have none
    return channels_last(segmenter)


@torch.no_grad()
def image_map(latents: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (48, Z, 3, 3) and bias (48,) of the convolution that shows latents as images best.

    Least squares over all cells: each of a cell's 4 x 4 x 3 values is a linear function of the 3 x 3 cells around it.

    Args:
        latents: (N, Z, h, w).
        images: (N, 3, s, s) in [0, 1].
    """
    channels = latents.shape[1]
    cells = F.unfold(latents, NEARBY, padding=NEARBY // 2).transpose(1, 2).flatten(0, 1).double()
    seen = torch.cat([cells, torch.ones_like(cells[:, :1])], dim=1)
    shown = F.pixel_unshuffle(images, UPSCALE).permute(0, 2, 3, 1).flatten(0, 2).double()
    ridge = RIDGE * len(seen) * torch.eye(seen.shape[1], dtype=seen.dtype)
    found = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ shown).float()
    return found[:-1].T.reshape(-1, channels, NEARBY, NEARBY), found[-1]


def frame_side(cell: int, latent_side: int) -> int:
    """Return the side in px at which whole frames are encoded: that of a window, if it has as many cells or more."""
    return cell * max(FRAME_CELLS, latent_side)


def logits_of(segmenter: LatentSegmenter, x0_hat: Tensor, t: Tensor) -> Tensor:
    """Return mask logits: latents (B, Z, h, w) at timesteps t (B,) => (B, K, s, s)."""
    device = device_of_network(segmenter)  # it answers where it was asked
    with autocast(device):
        logits: Tensor = segmenter(x0_hat.to(device), t.to(device))
    return logits.float().to(x0_hat.device)


@torch.no_grad()
def segment(segmenter: LatentSegmenter, x0_hat: Tensor, t: Tensor) -> Tensor:
    """Return lesion probabilities, (B, K, s, s) in [0, 1]; arguments as in `logits_of`."""
    return logits_of(segmenter, x0_hat, t).sigmoid()


def segmentation_loss(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Return cross-entropy plus 1 - the soft Dice of each row and class, a scalar: small lesions count as large ones.

    With the Dice of the whole batch instead, every twentieth real lesion was all but missed (docs/results.md).

    Args:
        logits: (B, K, s, s).
        label: Covered share, same shape, in [0, 1].
        weight: Trust in each row's label, (B,), in [0, 1].
    """
    entropy = (F.binary_cross_entropy_with_logits(logits, label, reduction="none") * weight.view(-1, 1, 1, 1)).mean()
    found = logits.sigmoid()
    dice = (2 * (found * label).sum((2, 3)) + 1) / ((found + label).sum((2, 3)) + 1)  # (B, K)
    return entropy + 1 - (dice.mean(1) * weight).sum() / weight.sum().clamp_min(1e-6)


def save_segmenter(segmenter: LatentSegmenter, folder: Path) -> None:
    """Write a network's weights as safetensors."""
    write_tensors(make_folder(folder) / WEIGHTS, segmenter.state_dict())


def load_segmenter(folder: Path, device: torch.device | str = "cpu") -> LatentSegmenter:
    """Load a validator's network, in evaluation mode.

    Raises:
        ModelError: The folder is missing or damaged, or of a version with other networks.
    """
    try:
        values, _ = read_tensors(folder / WEIGHTS)
        channels, classes = values["image.weight"].shape[1], values["network.head.bias"].shape[0]
        with seeded(0):  # the weights that torch draws are overwritten; its generator stays as it was
            segmenter = LatentSegmenter(Trunk(), channels, classes)
        segmenter.load_state_dict(values)
    except (RuntimeError, OSError, ValueError, KeyError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"a model needs its validators: {folder}: {reason}; fit it again") from None
    return channels_last(segmenter).eval().requires_grad_(False).to(device)
