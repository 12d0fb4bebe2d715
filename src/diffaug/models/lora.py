"""Low-rank updates: far fewer numbers to learn from few cases than the weights they add to.

A saved network never holds adapters: its adapted layers would be saved under other names, and load with random weights.
The compact U-Net is adapted in every layer, and merged when done. Stable Diffusion is adapted in its attention alone;
what it gains is small, and is kept beside a reference to the checkpoint, in the file that diffusers' pipelines load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from diffaug.artifacts import atomic_path
from diffaug.compute.seeds import seeded
from diffaug.errors import ModelError
from diffaug.models.checkpoints import ADDED

WHOLE = ("conv_in", "conv_out")  # trained in full: small, and the only layers that see input and output channels
ATTENTION = {  # adapted linear layers
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
TEXT_PREFIX = "text_model."  # of a text encoder's layers in LoRA files; transformers 5 calls them without it
LORA_FILE, CHANNELS_FILE = ADDED


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
    lora = _inject(unet, [name for name in layers if name not in WHOLE], rank, seed)
    for name in WHOLE:
        getattr(unet, name).requires_grad_(True)
    return lora


def _inject(network: Any, targets: list[str], rank: int, seed: int) -> Any:
    with seeded(seed):
        return LoraModel(network, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), "default")


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
        lora: A and B by network and layer, such as {"unet": {"mid_block...to_q.lora_A.weight": (rank, inputs)}}.
        columns: Weights of `conv_in` for masks and scale, (C, E, 3, 3); None where there are none.
    """

    lora: Mapping[str, Mapping[str, Tensor]]
    columns: Tensor | None

    @torch.no_grad()
    def merge(self, networks: Mapping[str, Any], plain: int) -> None:
        """Add everything to plain weights in place: W + B A, and the columns behind the first `plain` ones.

        Source: Hu et al. 2021 (arXiv:2106.09685), Sec. 4.1.

        Raises:
            ModelError: A layer is absent, or has another shape.
        """
        if self.columns is not None:
            widen(networks["unet"], self.columns, plain)
        for part, values in self.lora.items():
            for name in (key.removesuffix(".lora_A.weight") for key in values if key.endswith(".lora_A.weight")):
                try:
                    weight = networks[part].get_submodule(name).weight
                    weight += (values[f"{name}.lora_B.weight"] @ values[f"{name}.lora_A.weight"]).to(weight)
                except (AttributeError, KeyError, RuntimeError):
                    raise ModelError(
                        f"low-rank updates must fit their base: {part} has no such {name}; use the base of the fit"
                    ) from None

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` reads, and the columns."""
        named = {
            f"{part}.{_prefixed(part, name)}": value.detach().float().cpu().contiguous()
            for part, values in self.lora.items()
            for name, value in values.items()
        }
        with atomic_path(folder / LORA_FILE) as partial:
            save_file(named, partial, {"format": "pt"})
        if self.columns is not None:
            with atomic_path(folder / CHANNELS_FILE) as partial:
                save_file({"columns": self.columns.detach().float().cpu().contiguous()}, partial, {"format": "pt"})

    @staticmethod
    def load(folder: Path) -> "Adapters":
        """Read what `save` wrote.

        Raises:
            ModelError: A file is missing or damaged.
        """
        lora: dict[str, dict[str, Tensor]] = {part: {} for part in ATTENTION}
        try:
            for key, value in load_file(folder / LORA_FILE).items():
                part, name = key.split(".", 1)
                lora[part][name.removeprefix(TEXT_PREFIX)] = value
            wide = (folder / CHANNELS_FILE).is_file()
            return Adapters(lora, load_file(folder / CHANNELS_FILE)["columns"] if wide else None)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"a tuned model needs its {LORA_FILE}: {folder}: {reason}; fit it again") from None


def _prefixed(part: str, name: str) -> str:
    return f"{TEXT_PREFIX}{name}" if part == "text_encoder" else name


class Tuning:
    """Low-rank updates of attention layers while they are trained, and the columns of `conv_in` behind the plain ones.

    Everything else is frozen; until it is trained, a network does what it did.

    Args:
        networks: What is adapted, by its name in `ATTENTION`.
        rank: Rank of each update, at least 1.
        plain: Channels of an inpainting U-Net; further ones are trained, these are not.
        seed: Seeds A.
    """

    def __init__(self, networks: Mapping[str, Any], rank: int, plain: int, seed: int = 0) -> None:
        self.networks = networks
        self.lora = {name: _inject(network, list(ATTENTION[name]), rank, seed) for name, network in networks.items()}
        self.conv = networks["unet"].conv_in
        self.is_wide = self.conv.in_channels > plain
        if self.is_wide:
            fixed = self.conv.weight[:, :plain].detach().clone()
            parametrize.register_parametrization(self.conv, "weight", _Columns(fixed))
            self.conv.parametrizations.weight.original.requires_grad_(True)

    def finish(self) -> Adapters:
        """Take the adapters out of the networks, so that these have plain weights again, and return them."""
        lora = {}
        for name, network in self.networks.items():
            values = {key: value for key, value in network.named_parameters() if "lora_" in key}
            lora[name] = {key.replace(".default.", "."): value.detach().cpu().clone() for key, value in values.items()}
            self.lora[name].unload()
        columns = None
        if self.is_wide:
            columns = self.conv.parametrizations.weight.original.detach().cpu().clone()
            parametrize.remove_parametrizations(self.conv, "weight", leave_parametrized=True)
        return Adapters(lora, columns)
