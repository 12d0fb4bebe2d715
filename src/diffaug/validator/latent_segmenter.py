"""Segment latents: the direct estimate and its timestep => mask logits at four times the latent side, in one pass.

Knows a denoiser only as something that makes estimates; never sees a requested mask.
Legend: B batch, h = w latent side, s = 4 h, Z latent channels, K classes.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from diffaug.compute.devices import device_of_network
from diffaug.compute.precision import autocast
from diffaug.config import ValidatorConfig
from diffaug.errors import ModelError
from diffaug.reading import check_json_of

UPSCALE = 4


def segmenter_of(config: ValidatorConfig, latent_channels: int, latent_side: int, classes: int = 1) -> Any:
    """Return an untrained UNet2DModel whose output is shuffled to four times its side."""
    stages = len(config.widths)
    return UNet2DModel(
        sample_size=latent_side,
        in_channels=latent_channels,
        out_channels=classes * UPSCALE**2,
        down_block_types=("DownBlock2D",) * stages,
        up_block_types=("UpBlock2D",) * stages,
        block_out_channels=config.widths,
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=32,
        dropout=0.1,
    )


def logits_of(segmenter: Any, x0_hat: Tensor, t: Tensor) -> Tensor:
    """Return mask logits: latents (B, Z, h, w) at timesteps t (B,) => (B, K, s, s)."""
    device = device_of_network(segmenter)  # it answers where it was asked
    with autocast(device):
        return F.pixel_shuffle(segmenter(x0_hat.to(device), t.to(device)).sample, UPSCALE).float().to(x0_hat.device)


@torch.no_grad()
def segment(segmenter: Any, x0_hat: Tensor, t: Tensor) -> Tensor:
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


def load_segmenter(folder: Path, device: torch.device | str = "cpu") -> Any:
    """Load a validator's network, in evaluation mode.

    Raises:
        ModelError: The folder is missing or damaged.
    """
    try:
        check_json_of(folder)
        network = UNet2DModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # whatever a library raises on a configuration that makes no sense
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"a model needs its validators: {folder}: {reason}; fit it again") from None
    return network.float().eval().requires_grad_(False).to(device)
