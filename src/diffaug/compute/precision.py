"""Mixed precision: the arithmetic that is fastest on a device."""

import torch


def autocast(device: torch.device | str, *, cache: bool = True) -> torch.autocast:
    """Return the mixed precision that is fastest on a device: bfloat16 where the hardware has it, else none.

    The cache of converted weights spares time, but not where passes are recorded.
    """
    kind = torch.device(device).type
    on_gpu = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)  # from Ampere on
    is_native = on_gpu or (kind == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(kind, torch.bfloat16, enabled=is_native, cache_enabled=cache)
