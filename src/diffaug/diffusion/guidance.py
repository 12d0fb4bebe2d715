"""Guidance: push the estimate away from what the painter would do without text and mask, then without the text."""

from dataclasses import replace

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser


class Guided:
    """A denoiser whose estimate is guided; itself a `diffusion.contract.Denoiser`.

    x0_hat = full + (weight - 1) (full - other)

    At timesteps of `switch` and above, where it is decided that there is a lesion and where, `other` is told neither
    text nor mask; below, where its surface is decided, no text. One more evaluation a row at every timestep, none if
    both weights are 1. Where a painter puts known cells back, both terms agree.

    Args:
        denoiser: What is guided.
        nothing: The embedded empty prompt, (1, L, D).
        text: Weight of the prompt, below `switch`.
        mask: Weight of prompt and mask together, from `switch` on: of the lesion against lesion-free tissue.
        switch: Timestep.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), on x0; Kynkaanniemi et al. 2024 (arXiv:2404.07724) for weights that
    depend on the noise.
    """

    def __init__(self, denoiser: Denoiser, nothing: Tensor, text: float, mask: float, switch: int) -> None:
        self.denoiser, self.nothing, self.switch = denoiser, nothing, switch
        self.text, self.mask = text, mask

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w)."""
        if self.text == self.mask == 1.0:
            return self.denoiser(x_t, t, conditioning)
        noisy = (t >= self.switch).view(-1, 1, 1, 1)
        silent = self.nothing.expand_as(conditioning.text)
        other = replace(conditioning, text=silent, mask=conditioning.mask.masked_fill(noisy, 0.0))
        told = Conditioning.stack([conditioning, other])
        full, away = self.denoiser(x_t.repeat(2, 1, 1, 1), t.repeat(2), told).chunk(2)
        weight = torch.where(noisy, self.mask, self.text).to(full.dtype)
        guided: Tensor = full + (weight - 1) * (full - away)
        return guided
