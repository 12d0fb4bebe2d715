"""The noise schedule and the only place that knows eps and v.

x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps               (Ho et al. 2020, arXiv:2006.11239, Eq. 4)
v   = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0               (Salimans & Ho 2022, arXiv:2202.00512, Sec. 4)
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffaug.errors import ModelError, ShapeError

Prediction = Literal["epsilon", "v_prediction", "sample"]


def _column(alpha_bar: Tensor, like: Tensor) -> Tensor:
    """Shape one value per row to broadcast over (B, Z, h, w)."""
    if alpha_bar.shape != like.shape[:1]:
        raise ShapeError(
            f"alpha_bar needs one entry per row; got shape {tuple(alpha_bar.shape)} for {like.shape[0]} rows"
        )
    return alpha_bar.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def x_t_from_x0(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise clean latents: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps.

    Args:
        x0: Clean latents, (B, Z, h, w).
        eps: Unit normal noise of that shape.
        alpha_bar: Cumulative signal power of each row, (B,), in [0, 1].

    Raises:
        ShapeError: alpha_bar has not one entry per row.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eq. 4.
    """
    a = _column(alpha_bar, x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def v_from_x0(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the velocity sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0; arguments as in `x_t_from_x0`.

    Source: Salimans & Ho 2022 (arXiv:2202.00512), Sec. 4.
    """
    a = _column(alpha_bar, x0)
    return a.sqrt() * eps - (1 - a).sqrt() * x0


def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Estimate the clean latents from a velocity: sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v.

    Bounded at every alpha_bar, zero included.

    Source: Salimans & Ho 2022 (arXiv:2202.00512), Sec. 4.
    """
    a = _column(alpha_bar, x_t)
    return a.sqrt() * x_t - (1 - a).sqrt() * v


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Estimate the clean latents from a noise prediction.

    x0_hat = (x_t - sqrt(1 - alpha_bar) * eps) / sqrt(alpha_bar)

    Returns:
        x0_hat, unclipped: at small alpha_bar it is large and unreliable, and undefined at zero.

    Source: Song et al. 2021 (arXiv:2010.02502), "predicted x0" in Eq. 12.
    """
    a = _column(alpha_bar, x_t)
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


def eps_from_x0(x_t: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the noise in x_t that an estimate of x0 implies: (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar).

    Undefined at alpha_bar 1, where nothing is noise.
    """
    a = _column(alpha_bar, x_t)
    return (x_t - a.sqrt() * x0) / (1 - a).sqrt()


@dataclass(frozen=True)
class Schedule:
    """Signal power by timestep, and what the network predicts.

    Attributes:
        alpha_bar: Cumulative signal power, (T,), float64, falling with t.
        prediction: The name diffusers uses for what the network returns.
    """

    alpha_bar: Tensor
    prediction: Prediction

    @staticmethod
    def of(scheduler: Any) -> "Schedule":
        """Read a diffusers scheduler.

        Raises:
            ModelError: It predicts something else than eps, v or x0.
        """
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ModelError(f"a model must predict epsilon, v_prediction or sample; this one predicts {prediction!r}")
        return Schedule(scheduler.alphas_cumprod.double(), prediction)

    def at(self, t: Tensor) -> Tensor:
        """Return alpha_bar of integer timesteps (B,); t = -1 is clean, alpha_bar 1."""
        now = t.cpu()
        found = torch.where(now < 0, torch.ones((), dtype=torch.float64), self.alpha_bar[now.clamp_min(0)])
        return found.to(t.device, torch.float32 if t.device.type == "mps" else found.dtype)  # Metal has no float64

    def x0_from_prediction(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return x0_hat from what the network predicts at timesteps t (B,)."""
        if self.prediction == "sample":
            return prediction
        convert = x0_from_v if self.prediction == "v_prediction" else x0_from_eps
        return convert(x_t, prediction, self.at(t))

    def started(self, x0: Tensor, eps: Tensor, steps: int, strength: float) -> Tensor:
        """Return clean latents noised to the first of some timesteps, where sampling with a strength starts.

        Args:
            x0: Clean latents, (B, Z, h, w).
            eps: Unit normal noise of that shape.
            steps: As in `timesteps`.
            strength: As in `timesteps`.
        """
        return x_t_from_x0(x0, eps, self.at(self.timesteps(steps, strength)[:1]).expand(len(x0)))

    def timesteps(self, steps: int, strength: float = 1.0) -> Tensor:
        """Return the evaluated timesteps, (steps,), evenly spaced downwards ("trailing").

        Args:
            steps: How many.
            strength: Share of the timesteps that they span, from the clean end; with 1 the first is T - 1.

        Source: Lin et al. 2023 (arXiv:2305.08891), Table 2: sampling must start at the last timestep.
        """
        total = max(steps, strength * len(self.alpha_bar))
        return torch.arange(steps, 0, -1, dtype=torch.float64).mul(total / steps).round().long() - 1
