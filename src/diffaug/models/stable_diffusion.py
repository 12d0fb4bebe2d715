"""Stable Diffusion inpainting, 1.5 or 2: tuned by low-rank updates, and saved beside the checkpoint it was tuned from.

Legend: B batch, H = W window side (px), h = w latent side, Z latent channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffaug.compute.devices import device_of_network
from diffaug.models.base import LatentInpainter, write_index
from diffaug.models.checkpoints import Checkpoint, write_reference
from diffaug.models.lora import Adapters, Tuning

CELLS = 2**13  # latent cells that are evaluated together: two windows of 512 px
MOST_ROWS = 32
TERMS = "the licence of {} also covers models fitted on it, and what they paint: read it before you share either"
SLOW = "Stable Diffusion takes minutes for each window on a CPU: use --device cuda where there is a GPU"


@dataclass
class StableDiffusion(LatentInpainter):
    """A checkpoint of Stable Diffusion inpainting.

    Attributes:
        base: The checkpoint that it adds `adapters` to and is saved beside; None where it is saved whole.
        adapters: What a fit added, already merged into the networks.
    """

    base: Checkpoint | None = None
    adapters: Adapters | None = None

    trains_codec = False  # other pipelines decode what this one paints
    takes_lora = True

    @property
    def cell(self) -> int:
        """Pixels per latent cell: each stage of the codec halves a side but the last."""
        return int(2 ** (len(self.codec.config.block_out_channels) - 1))

    @property
    def rows(self) -> int:
        """Windows that are evaluated together."""
        return max(1, min(MOST_ROWS, CELLS // self.latent_side**2))

    @property
    def rows_in_training(self) -> int | None:
        """Windows of a batch whose gradients are computed together."""
        return self.rows

    @staticmethod
    def notices(name: str, device: torch.device) -> list[str]:
        """Return what a user should know before a checkpoint is tuned, a line each."""
        return [TERMS.format(name), *([SLOW] if device.type == "cpu" else [])]

    def keep_base(self, base: Checkpoint) -> None:
        """Note the checkpoint that a fit starts from, which the model is saved beside."""
        self.base = base

    def encode_raw(self, image: Tensor) -> Tensor:
        """Return unscaled latents: pixels (B, 3, H, W) in [-1, 1] => (B, Z, h, w); of an AutoencoderKL the mean."""
        output = self.codec.encode(image.to(device_of_network(self.codec)))
        raw: Tensor = output.latents if hasattr(output, "latents") else output.latent_dist.mean
        return raw.to(image.device)

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Return pixels: unscaled latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
        pixels: Tensor = self.codec.decode(raw.to(device_of_network(self.codec))).sample
        return pixels.to(raw.device)

    @contextmanager
    def tuned(self, rank: int, seed: int) -> Iterator[dict[str, Any]]:
        """Train low-rank updates of the U-Net's attention, and its columns of masks and scale, which are kept."""
        tuning = Tuning(self.unet, rank, self.plain_channels, seed)
        yield {"unet": self.unet}
        self.adopt(tuning.finish())
        self.unet.requires_grad_(False)

    def adopt(self, adapters: Adapters) -> None:
        """Merge what a fit added into the networks in place, and remember it for `save`."""
        adapters.merge(self.unet, self.plain_channels)
        self.adapters = adapters
        self.__post_init__()

    def save(self, folder: Path) -> None:
        """Write what was added and a reference to the base, or the whole model where it has no base.

        Raises:
            ModelError: A network holds adapters: they would be lost without a word when it is loaded.
        """
        if self.base is None or self.adapters is None:
            super().save(folder)
            return
        write_index(folder, {})
        self.adapters.save(folder)
        write_reference(folder, self.base)
