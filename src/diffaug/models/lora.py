"""Low-rank updates of a U-Net: far fewer numbers to learn from few cases, merged into plain weights when done.

A saved model never holds adapters: diffusers would load the adapted layers under other names and leave them untrained.
"""

from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import nn

WHOLE = ("conv_in", "conv_out")  # trained in full: small, and the only layers that see input and output channels


def add_lora(unet: Any, rank: int, seed: int = 0) -> Any:
    """Add a trainable low-rank update to every other linear and convolutional layer, in place, and freeze the rest.

    W x + B A x, where B starts at zero: the U-Net does what it did until it is trained. `conv_in` and `conv_out` are
    trained in full.

    Args:
        unet: A UNet2DConditionModel.
        rank: Rank of each update, at least 1.
        seed: Seeds A.

    Returns:
        The adapters; `merge_and_unload()` writes W + B A into the U-Net's plain weights, after which it can be saved.

    Source: Hu et al. 2021 (arXiv:2106.09685), Eq. 3.
    """
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=[name for name in layers if name not in WHOLE])
    torch.manual_seed(seed)
    lora = LoraModel(unet, config, "default")
    for name in WHOLE:
        getattr(unet, name).requires_grad_(True)
    return lora
