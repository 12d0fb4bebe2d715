"""Guidance: push the estimate away from what the painter would do without the text, or without text and mask."""

from dataclasses import replace

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser


class Guided:
    """A denoiser whose estimate is guided; itself a `diffusion.contract.Denoiser`.

    x0_hat = full + (text - 1) (full - without text) + (mask - 1) (full - without text and mask)

    A weight of 1 costs nothing; each other one costs an evaluation more. Where a painter puts known cells back, all
    terms agree there.

    Args:
        denoiser: What is guided.
        nothing: The embedded empty prompt, (1, L, D).
        text: Weight of the prompt.
        mask: Weight of prompt and mask together: of the lesion against lesion-free tissue.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), on x0; Liu et al. 2022 (arXiv:2206.01714) for several conditions.
    """

    def __init__(self, denoiser: Denoiser, nothing: Tensor, text: float, mask: float) -> None:
        self.denoiser, self.nothing, self.weights = denoiser, nothing, (text, mask)

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w)."""
        silent = replace(conditioning, text=self.nothing.expand_as(conditioning.text))
        blank = replace(silent, mask=torch.zeros_like(conditioning.mask))
        terms = [(w - 1.0, told) for w, told in zip(self.weights, (silent, blank), strict=True) if w != 1.0]
        count = 1 + len(terms)
        told = Conditioning.stack([conditioning, *(told for _, told in terms)])
        full, *others = self.denoiser(x_t.repeat(count, 1, 1, 1), t.repeat(count), told).chunk(count)
        guided: Tensor = full
        for (weight, _), other in zip(terms, others, strict=True):
            guided = guided + weight * (full - other)
        return guided
