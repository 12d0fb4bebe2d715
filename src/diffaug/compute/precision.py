"""Mixed precision: the arithmetic that is fastest on a device."""

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp16", "fp32"]


def autocast(device: torch.device | str, precision: Precision = "auto", *, cache: bool = True) -> torch.autocast:
    """Return mixed precision; `auto` is what is fastest on a device: bfloat16, where the hardware has it.

    The cache of converted weights spares time, but not where passes are recorded.
    """
    kind = torch.device(device).type
    on_gpu = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)  # from Ampere on
    native = on_gpu or (kind == "cpu" and torch.cpu._is_avx512_bf16_supported())
    enabled = native if precision == "auto" else precision != "fp32"
    low = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(kind, low, enabled=enabled, cache_enabled=cache)
