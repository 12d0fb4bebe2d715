"""The contract between a painter and everything that uses one.

Whatever a network predicts (eps, v, x0), from outside it turns (x_t, t, conditioning) into x0_hat.
"""

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from diffaug.errors import ShapeError


@dataclass(frozen=True)
class Conditioning:
    """What a painter is given, a row per painted window.

    Attributes:
        region: Where it may paint, (B, 1, h, w), 0 or 1.
        mask: Covered share of each latent cell, one channel per class, (B, K, h, w), in [0, 1]; zero paints no lesion.
        masked_image_latents: The window with the region removed, encoded, (B, Z, h, w).
        scale: log2 of window width over frame width, and log2 of native pixels per latent cell / 8, (B, 2).
        text: Embedded prompt, (B, L, D).
    """

    region: Tensor
    mask: Tensor
    masked_image_latents: Tensor
    scale: Tensor
    text: Tensor

    def __post_init__(self) -> None:
        rows = {getattr(self, item.name).shape[0] for item in fields(self)}
        if len(rows) != 1:
            raise ShapeError(f"every part of a conditioning needs one row per window; got row counts {sorted(rows)}")

    def __len__(self) -> int:
        return int(self.region.shape[0])

    def rows(self, index: Tensor | slice) -> "Conditioning":
        """Return some rows."""
        return Conditioning(**{item.name: getattr(self, item.name)[index] for item in fields(self)})

    def place(self, index: Tensor, other: "Conditioning") -> None:
        """Overwrite rows in place with those of `other`."""
        for item in fields(self):
            getattr(self, item.name)[index] = getattr(other, item.name)

    @staticmethod
    def stack(parts: "list[Conditioning]") -> "Conditioning":
        """Concatenate rows."""
        return Conditioning(
            **{item.name: torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Conditioning)}
        )


class Denoiser(Protocol):
    """A function from noised latents to the direct estimate of the clean ones."""

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w), for x_t (B, Z, h, w) at integer timesteps t (B,)."""
        ...


@dataclass(frozen=True)
class Step:
    """One finished sampler step.

    Attributes:
        index: Steps done, 1 to the number of steps.
        t: The timestep that was evaluated, (B,).
        x_t: The latents that were evaluated.
        x0_hat: The direct estimate made of them.
        x_next: The latents at the next timestep; after the last step the finished sample.
    """

    index: int
    t: Tensor
    x_t: Tensor
    x0_hat: Tensor
    x_next: Tensor
