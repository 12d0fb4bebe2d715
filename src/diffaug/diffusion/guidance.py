"""Guidance: push the estimate away from what the painter would do without text and mask, then without the text."""

from dataclasses import replace

import torch
from torch import Tensor

from diffaug.diffusion.contract import Conditioning, Denoiser

ROWS = 4


class Guided:
    """A denoiser whose estimate is guided; itself a `diffusion.contract.Denoiser`.

    x0_hat = full + (weight - 1) (full - other)

    At timesteps of `switch` and above, which decide whether there is a lesion and where it lies, `other` is estimated
    without text and mask. At timesteps below, which decide what its surface looks like, it is estimated without text.
    Timesteps below `until` are not guided. A guided row is evaluated twice; a row whose weight is 1 is not. Where a
    painter puts known cells back, both terms agree.

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
        without_text = self.nothing.expand_as(some.text)
        without = replace(some, text=without_text, mask=some.mask.masked_fill(noisy, 0.0))
        both = Conditioning.stack([conditioning, without])
        x0_hat = self.denoiser(torch.cat([x_t, x_t[rows]]), torch.cat([t, t[rows]]), both)
        full, other = x0_hat[: len(t)], x0_hat[len(t) :]
        push = (weights[rows] - 1).view(-1, 1, 1, 1).to(full.dtype)
        return full.index_add(0, rows, push * (full[rows] - other))

    def weights(self, t: Tensor) -> Tensor:
        """Return the weight of guidance at timesteps, (B,); a weight of 1 does not guide."""
        weight = torch.where(t >= self.switch, self.mask, self.text)
        return torch.where(t >= self.until, weight, 1.0)


def guided_rows(guided: Tensor) -> Tensor:
    """Return the rows that are evaluated twice: those to be guided, (B,), and others up to a multiple of ROWS.

    A batch then has few different shapes, and a processor prepares each of them once.
    """
    order = torch.argsort((~guided).to(torch.int8), stable=True)
    needed = int(guided.sum())
    return order[: min(len(guided), -(-needed // ROWS) * ROWS)].sort().values
