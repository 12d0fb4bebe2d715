"""Guidance: push the estimate away from what the painter would do without text and mask, then without the text."""

from dataclasses import replace

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser

ROWS = 4


class Guided:
    """A denoiser whose estimate is guided; itself a `diffusion.contract.Denoiser`.

    x0_hat = full + (weight - 1) (full - other)

    At timesteps of `switch` and above, where it is decided that there is a lesion and where, `other` is told neither
    text nor mask; below, where its surface is decided, no text; under `until`, nothing is guided. One more evaluation
    of each guided row, none where its weight is 1. Where a painter puts known cells back, both terms agree.

    Args:
        denoiser: What is guided.
        nothing: The embedded empty prompt, (1, L, D).
        text: Weight of the prompt, below `switch`.
        mask: Weight of prompt and mask together, from `switch` on: of the lesion against lesion-free tissue.
        switch: Timestep.
        until: The last timestep that is guided.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), on x0; Kynkaanniemi et al. 2024 (arXiv:2404.07724) for weights that
    depend on the noise.
    """

    def __init__(
        self, denoiser: Denoiser, nothing: Tensor, text: float, mask: float, switch: int, until: int = 0
    ) -> None:
        self.denoiser, self.nothing, self.switch, self.until = denoiser, nothing, switch, until
        self.text, self.mask = text, mask

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w)."""
        weights = self.weights(t)
        rows = guided_rows(weights != 1.0)
        some = conditioning.rows(rows)
        noisy = (t[rows] >= self.switch).view(-1, 1, 1, 1)
        silent = self.nothing.expand_as(some.text)
        other = replace(some, text=silent, mask=some.mask.masked_fill(noisy, 0.0))
        told = Conditioning.stack([conditioning, other])
        x0_hat = self.denoiser(torch.cat([x_t, x_t[rows]]), torch.cat([t, t[rows]]), told)
        full, away = x0_hat[: len(t)], x0_hat[len(t) :]
        push = (weights[rows] - 1).view(-1, 1, 1, 1).to(full.dtype)
        return full.index_add(0, rows, push * (full[rows] - away))

    def weights(self, t: Tensor) -> Tensor:
        """Return the weight of guidance at timesteps, (B,); 1 is none."""
        weight = torch.where(t >= self.switch, self.mask, self.text)
        return torch.where(t >= self.until, weight, 1.0)


def guided_rows(guided: Tensor) -> Tensor:
    """Return the rows that are evaluated again, of those to be guided, (B,): they, and others up to a multiple of ROWS.

    So that the batch has few shapes, of which a processor prepares each once.
    """
    order = torch.argsort((~guided).to(torch.int8), stable=True)
    needed = int(guided.sum())
    return order[: min(len(guided), -(-needed // ROWS) * ROWS)].sort().values
