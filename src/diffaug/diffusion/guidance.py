"""Guidance: push the estimate away from what the painter would do without the text, then without text and mask."""

from dataclasses import replace

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser


class Guided:
    """A denoiser whose estimate is guided; itself a `diffusion.contract.Denoiser`.

    x0_hat = full + (weight - 1) (full - other)

    While a row is noisy, `other` is told no text: colour and surface are decided there. From `switch` down it is told
    neither text nor mask, so that the lesion stands out from lesion-free tissue. One more evaluation a row at every
    timestep, none if both weights are 1. Where a painter puts known cells back, all terms agree.

    Args:
        denoiser: What is guided.
        nothing: The embedded empty prompt, (1, L, D).
        text: Weight of the prompt, at timesteps of `switch` and above.
        mask: Weight of prompt and mask together, below `switch`.
        switch: Timestep.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), on x0; Kynkaanniemi et al. 2024 (arXiv:2404.07724) for different
    weights at different noise.
    """

    def __init__(self, denoiser: Denoiser, nothing: Tensor, text: float, mask: float, switch: int) -> None:
        self.denoiser, self.nothing, self.switch = denoiser, nothing, switch
        self.text, self.mask = text, mask

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w)."""
        if self.text == self.mask == 1.0:
            return self.denoiser(x_t, t, conditioning)
        late = (t < self.switch).view(-1, 1, 1, 1)
        silent = self.nothing.expand_as(conditioning.text)
        other = replace(conditioning, text=silent, mask=conditioning.mask.masked_fill(late, 0.0))
        told = Conditioning.stack([conditioning, other])
        full, away = self.denoiser(x_t.repeat(2, 1, 1, 1), t.repeat(2), told).chunk(2)
        weight = torch.where(late, self.mask, self.text).to(full.dtype)
        guided: Tensor = full + (weight - 1) * (full - away)
        return guided
