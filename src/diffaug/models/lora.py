"""Low-rank updates: far fewer numbers to learn from few cases than the weights they add to.

A saved network never holds adapters: its adapted layers would be saved under other names, and load with random weights.
The attention of a Stable Diffusion U-Net is adapted; what it gains is small, and is kept beside a reference to the
checkpoint, in the file that diffusers' pipelines load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from diffaug.artifacts import write_tensors
from diffaug.compute.seeds import seeded
from diffaug.errors import ModelError
from diffaug.models.checkpoints import ADDED
from diffaug.reading import read_tensors

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # adapted linear layers
PREFIX = "unet."  # of a U-Net's layers in LoRA files
A, B = ".lora_A.weight", ".lora_B.weight"
LORA_FILE, CHANNELS_FILE = ADDED


def has_adapters(network: nn.Module) -> bool:
    """Tell whether a network holds adapters, and so must not be saved as it is."""
    return any("lora_" in name for name, _ in network.named_parameters())


def widen(unet: Any, columns: Tensor, plain: int) -> None:
    """Let `conv_in` read further channels behind its first `plain` ones, in place; zero columns change no output.

    Args:
        unet: A UNet2DConditionModel.
        columns: Weights of the further channels, (C, E, 3, 3); they take the place of what stands there.
        plain: Channels of an inpainting U-Net: noisy latents, region, masked-image latents.
    """
    conv = unet.conv_in
    weight = torch.cat([conv.weight[:, :plain].detach(), columns.to(conv.weight)], dim=1)
    conv.weight, conv.in_channels = nn.Parameter(weight, requires_grad=False), weight.shape[1]
    unet.register_to_config(in_channels=weight.shape[1])


class _Columns(nn.Module):
    """A convolution's weight of which only the columns behind the fixed ones are trained."""

    fixed: Tensor

    def __init__(self, fixed: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", fixed)

    def forward(self, columns: Tensor) -> Tensor:
        return torch.cat([self.fixed, columns], dim=1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight[:, self.fixed.shape[1] :].contiguous()


@dataclass(frozen=True)
class Adapters:
    """What a fit adds to a Stable Diffusion checkpoint; held by the CPU, so that merging it is the same everywhere.

    Attributes:
        lora: A and B by layer of the U-Net, such as `mid_block...to_q.lora_A.weight`, (rank, inputs).
        columns: Weights of `conv_in` for masks and scale, (C, E, 3, 3); None where there are none.
    """

    lora: Mapping[str, Tensor]
    columns: Tensor | None

    @torch.no_grad()
    def merge(self, unet: Any, plain: int) -> None:
        """Add everything to plain weights in place: W + B A, and the columns behind the first `plain` ones.

        Source: Hu et al. 2021 (arXiv:2106.09685), Sec. 4.1.

        Raises:
            ModelError: A layer is absent, or has another shape.
        """
        if self.columns is not None:
            beside = (unet.conv_in.weight.shape[0], *unet.conv_in.weight.shape[2:])
            if self.columns.ndim != 4 or (self.columns.shape[0], *self.columns.shape[2:]) != beside:
                raise ModelError(
                    f"further channels must fit their base: {CHANNELS_FILE} has {tuple(self.columns.shape)} values; "
                    "use the base of the fit"
                )
            widen(unet, self.columns, plain)
        for name in (key.removesuffix(A) for key in self.lora if key.endswith(A)):
            try:
                weight, up, down = unet.get_submodule(name).weight, self.lora[name + B], self.lora[name + A]
                if (*up.shape[:1], *down.shape[1:]) != tuple(weight.shape):  # or a small file makes a huge product
                    raise KeyError(name)
                weight += (up @ down).to(weight)
            except (AttributeError, KeyError, RuntimeError):
                raise ModelError(
                    f"low-rank updates must fit their base: the U-Net has no such {name}; use the base of the fit"
                ) from None

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` reads, and the columns."""
        files = {LORA_FILE: {PREFIX + name: value for name, value in self.lora.items()}}
        if self.columns is not None:
            files[CHANNELS_FILE] = {"columns": self.columns}
        for file, tensors in files.items():
            write_tensors(folder / file, {name: value.float() for name, value in tensors.items()}, {"format": "pt"})

    @staticmethod
    def load(folder: Path) -> "Adapters":
        """Read what `save` wrote.

        Raises:
            ModelError: A file is missing or damaged.
        """
        try:
            lora = {key.removeprefix(PREFIX): value for key, value in read_tensors(folder / LORA_FILE)[0].items()}
            is_wide = (folder / CHANNELS_FILE).is_file()
            return Adapters(lora, read_tensors(folder / CHANNELS_FILE)[0]["columns"] if is_wide else None)
        except (OSError, KeyError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"a tuned model needs its {LORA_FILE}: {folder}: {reason}; fit it again") from None


class Tuning:
    """Low-rank updates of attention layers while they are trained, and the columns of `conv_in` behind the plain ones.

    W x + B A x, where B starts at zero. Everything else is frozen; until it is trained, the U-Net does what it did.

    Args:
        unet: A UNet2DConditionModel.
        rank: Rank of each update, at least 1.
        plain: Channels of an inpainting U-Net; further ones are trained, these are not.
        seed: Seeds A.

    Source: Hu et al. 2021 (arXiv:2106.09685), Eq. 3.
    """

    def __init__(self, unet: Any, rank: int, plain: int, seed: int = 0) -> None:
        self.unet, self.conv = unet, unet.conv_in
        with seeded(seed):
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ATTENTION))
            self.lora: Any = LoraModel(unet, config, "default")
        self.is_wide = self.conv.in_channels > plain
        if self.is_wide:
            fixed = self.conv.weight[:, :plain].detach().clone()
            parametrize.register_parametrization(self.conv, "weight", _Columns(fixed))
            self.conv.parametrizations.weight.original.requires_grad_(True)

    def finish(self) -> Adapters:
        """Take the adapters out of the U-Net, so that it has plain weights again, and return them."""
        values = {key: value for key, value in self.unet.named_parameters() if "lora_" in key}
        lora = {key.replace(".default.", "."): value.detach().cpu().clone() for key, value in values.items()}
        self.lora.unload()
        columns = None
        if self.is_wide:
            columns = self.conv.parametrizations.weight.original.detach().cpu().clone()
            parametrize.remove_parametrizations(self.conv, "weight", leave_parametrized=True)
        return Adapters(lora, columns)
