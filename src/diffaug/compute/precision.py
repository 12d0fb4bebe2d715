"""The arithmetic and the order in memory that are fastest on a device."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def autocast(device: torch.device | str, *, cache: bool = True) -> torch.autocast:
    """Return the mixed precision that is fastest on a device: bfloat16 where the hardware has it, else none.

    The cache of converted weights spares time, but not where passes are recorded.
    """
    kind = torch.device(device).type
    on_gpu = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)  # from Ampere on
    is_native = on_gpu or (kind == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(kind, torch.bfloat16, enabled=is_native, cache_enabled=cache)


def channels_last(network: Network) -> Network:
    """Return a network with the order of its weights in memory that is fastest for convolutions on a CPU."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return] # torch's stubs
