"""Guidance: push the estimate away from what the painter would do without the text, or without text and mask."""

from dataclasses import replace

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser

ROWS = 4


class Guided:
    """A denoiser whose estimate is guided; itself a `diffusion.contract.Denoiser`.

    x0_hat = full + (text - 1) (full - without text) + (mask - 1) (full - without text and mask)

    A weight of 1 costs nothing; each other one costs an evaluation more. Where a painter puts known cells back, all
    terms agree there. Rows at timesteps under `until` are not guided and cost one evaluation: what a lesion becomes is
    decided while there is much noise.

    Args:
        denoiser: What is guided.
        nothing: The embedded empty prompt, (1, L, D).
        text: Weight of the prompt.
        mask: Weight of prompt and mask together: of the lesion against lesion-free tissue.
        until: The last timestep that is guided.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), on x0; Liu et al. 2022 (arXiv:2206.01714) for several conditions;
    Kynkaanniemi et al. 2024 (arXiv:2404.07724) for guidance in a part of the noise levels.
    """

    def __init__(self, denoiser: Denoiser, nothing: Tensor, text: float, mask: float, until: int = 0) -> None:
        self.denoiser, self.nothing, self.weights, self.until = denoiser, nothing, (text, mask), until

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w)."""
        rows = self.guided_rows(t)
        some, now = conditioning.rows(rows), t[rows]
        silent = replace(some, text=self.nothing.expand_as(some.text))
        blank = replace(silent, mask=torch.zeros_like(some.mask))
        terms = [(w - 1.0, told) for w, told in zip(self.weights, (silent, blank), strict=True) if w != 1.0]
        count = len(terms) if len(rows) else 0
        told = Conditioning.stack([conditioning, *(told for _, told in terms[:count])])
        x0_hat = self.denoiser(
            torch.cat([x_t, x_t[rows].repeat(count, 1, 1, 1)]), torch.cat([t, now.repeat(count)]), told
        )
        guided, *others = torch.split(x0_hat, [len(t), *[len(rows)] * count])
        pushed = full = guided[rows]
        for (weight, _), other in zip(terms, others, strict=False):
            pushed = pushed + weight * (full - other)
        strong = (t >= self.until).view(-1, 1, 1, 1)
        return torch.where(strong, guided.index_copy(0, rows, pushed), guided)

    def guided_rows(self, t: Tensor) -> Tensor:
        """Return the rows that are evaluated again: those to be guided, and others up to a multiple of `ROWS`.

        So that the batch has few shapes, of which a processor prepares each once.
        """
        order = torch.argsort((t < self.until).to(torch.int8), stable=True)
        needed = int((t >= self.until).sum())
        return order[: min(len(t), -(-needed // ROWS) * ROWS)].sort().values
