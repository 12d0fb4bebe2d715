"""What painting and training ask of a latent inpainting model: a denoiser with its codec and its text encoder.

`Compact` and `StableDiffusion` are its two kinds. Every part is a class of diffusers or transformers, and loads with
its own `from_pretrained`.

Legend: B batch, H = W window side (px), h = w latent side, Z latent channels, K classes, D text width, L text length.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import __version__ as diffusers_version
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from diffaug.artifacts import make_folder, make_readable, write_json
from diffaug.compute.devices import device_of_network
from diffaug.compute.precision import autocast
from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.schedule import Schedule
from diffaug.errors import ModelError, ShapeError
from diffaug.models.checkpoints import Checkpoint
from diffaug.models.lora import has_adapters, widen

SCALE_CHANNELS = 2  # window width over frame width, native pixels per latent cell
SMALL = 2**28  # parameters; the files of a smaller network are divided into pieces that version control takes


@dataclass
class LatentInpainter(ABC):
    """A latent diffusion inpainting model behind the denoiser contract (`diffusion.contract.Denoiser`).

    A model computes on its own device and returns tensors on the device of its inputs.

    Attributes:
        codec: The autoencoder between pixels and latents.
        unet: The network that is asked at every timestep.
        text_encoder: Embeds tokens.
        tokenizer: Makes tokens of prompts.
        scheduler: Says how much signal is left at each timestep, and what the U-Net predicts.
    """

    codec: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    trains_codec: ClassVar[bool]  # whether a fit may train the codec further on a user's images
    takes_lora: ClassVar[bool]  # whether a fit trains low-rank updates, rather than whole networks

    def __post_init__(self) -> None:
        self.schedule = Schedule.of(self.scheduler)
        self.latent_channels = int(self.codec.config.latent_channels)
        self.plain_channels = 2 * self.latent_channels + 1  # noisy latents, region, masked-image latents
        extra = int(self.unet.config.in_channels) - self.plain_channels
        if extra != 0 and extra <= SCALE_CHANNELS:
            raise ModelError(
                f"an inpainting U-Net takes noisy latents, region and masked-image latents, {self.plain_channels} "
                f"channels, and perhaps masks and scale; this one takes {self.unet.config.in_channels}; use an "
                "inpainting checkpoint"
            )
        self.classes = max(0, extra - SCALE_CHANNELS)
        self.latent_side = int(self.unet.config.sample_size)
        self.window = self.latent_side * self.cell

    @property
    @abstractmethod
    def cell(self) -> int:
        """Pixels per latent cell."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Windows that are evaluated together."""

    @property
    def rows_in_training(self) -> int | None:
        """Windows of a batch whose gradients are computed together; None is all of them."""
        return None

    @staticmethod
    def notices(name: str, device: torch.device) -> list[str]:
        """Return what a user should know before a base of this kind is tuned, a line each."""
        return []

    def keep_base(self, base: Checkpoint) -> None:  # noqa: B027 - most kinds have nothing to note
        """Note the checkpoint that a fit starts from, for a kind that is saved as an addition to it."""

    @abstractmethod
    def encode_raw(self, image: Tensor) -> Tensor:
        """Return unscaled latents: pixels (B, 3, H, W) in [-1, 1] => (B, Z, h, w)."""

    @abstractmethod
    def decode_raw(self, raw: Tensor) -> Tensor:
        """Return pixels: unscaled latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""

    @abstractmethod
    def tuned(self, rank: int, seed: int) -> AbstractContextManager[Mapping[str, Any]]:
        """Make parts of the model trainable for a block, and take in afterwards what they have learnt.

        Args:
            rank: Of low-rank updates, where the kind takes them.
            seed: Seeds the updates.

        Returns:
            The networks with trainable parameters, by name.
        """

    @property
    def networks(self) -> dict[str, Any]:
        """The parts that hold weights, by the names of their folders."""
        return {"vae": self.codec, "unet": self.unet, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        """The device of the U-Net, which the other parts share."""
        return device_of_network(self.unet)

    def to(self, device: torch.device | str) -> "LatentInpainter":
        """Move every network to a device."""
        for network in self.networks.values():
            network.to(device)
        return self

    def encode(self, image: Tensor) -> Tensor:
        """Return latents of about unit variance: pixels (B, 3, H, W) in [-1, 1] => latents (B, Z, h, w)."""
        config = self.codec.config
        latents: Tensor = (self.encode_raw(image).float() - (config.shift_factor or 0.0)) * config.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels: latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
        config = self.codec.config
        return self.decode_raw(latents / config.scaling_factor + (config.shift_factor or 0.0))

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        """Pass windows (B, 3, H, W) through the codec: pixels => latents => pixels."""
        return self.decode_raw(self.encode_raw(image)).clamp(-1, 1)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Tokenise prompts: text => token ids (B, L), padded or cut to the length of the text encoder."""
        ids: Tensor = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    def reads(self, prompt: str) -> bool:
        """Tell whether the text encoder reads all of a prompt."""
        return len(self.tokenizer(prompt).input_ids) <= int(self.tokenizer.model_max_length)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed token ids: (B, L) => (B, L, D)."""
        embedded: Tensor = self.text_encoder(tokens.to(self.device)).last_hidden_state
        return embedded.to(tokens.device)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: text => (B, L, D). An empty prompt asks for nothing."""
        return self.embed_tokens(self.tokens(prompts))

    def condition(self, image: Tensor, region: Tensor, mask: Tensor, scale: Tensor, text: Tensor) -> Conditioning:
        """Encode what the painter is given: pixels => latents.

        Args:
            image: Windows, (B, 3, H, W) in [-1, 1].
            region: Where it may paint, (B, 1, H, W), 0 or 1; removed from the image before encoding.
            mask: Covered share per class, (B, K, H, W).
            scale: See Conditioning, (B, 2).
            text: Embedded prompts, (B, L, D).

        Raises:
            ShapeError: Image, region and mask have different sizes.
        """
        if image.shape[-2:] != region.shape[-2:] or mask.shape[-2:] != region.shape[-2:]:
            shapes = ", ".join(str(tuple(values.shape)) for values in (image, region, mask))
            raise ShapeError(f"image, region and mask need one size; got {shapes}")
        return Conditioning(
            region=F.max_pool2d(region, self.cell),
            mask=F.avg_pool2d(mask, self.cell),
            masked_image_latents=self.encode(image * (region < 0.5)),
            scale=scale,
            text=text,
        )

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w), float32; see `diffusion.contract.Denoiser`."""
        parts = [x_t, conditioning.region, conditioning.masked_image_latents]
        if self.classes:
            scale = conditioning.scale[:, :, None, None].expand(-1, -1, *x_t.shape[-2:])
            parts += [conditioning.mask, scale]
        inputs = (torch.cat(parts, dim=1), t, conditioning.text)
        with autocast(self.device):
            output = self.unet(*(values.to(self.device) for values in inputs)).sample
        return self.schedule.x0_from_prediction(x_t, output.float().to(x_t.device), t).to(x_t.dtype)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Return unit normal latents, (B, Z, h, w): each row a pure function of its seed."""
        shape = (1, self.latent_channels, self.latent_side, self.latent_side)
        return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def add_masks(self, classes: int) -> None:
        """Let the U-Net read a soft mask of each of so many classes, and the scale, in place.

        Channels are added behind those of the masks it knows, with weights of zero: what it makes of the others stays
        until it is trained. The first class takes the mask that a model of one class was trained with.
        """
        if classes > self.classes:
            added = classes - self.classes + (0 if self.classes else SCALE_CHANNELS)
            masks_end = self.plain_channels + self.classes
            weight = self.unet.conv_in.weight.detach()
            zeros = weight.new_zeros(weight.shape[0], added, *weight.shape[2:])
            columns = [weight[:, self.plain_channels : masks_end], zeros, weight[:, masks_end:]]
            widen(self.unet, torch.cat(columns, dim=1), self.plain_channels)
            self.__post_init__()

    def save(self, folder: Path) -> None:
        """Write the diffusers-format folder.

        Raises:
            ModelError: A network holds adapters: they would be lost without a word when it is loaded.
        """
        for name, network in self.networks.items():
            if has_adapters(network):
                raise ModelError(f"a network is saved with plain weights: {name} holds adapters; merge them first")
        write_parts(folder, self.networks, self.tokenizer, self.scheduler)


def write_parts(folder: Path, networks: Mapping[str, Any], tokenizer: Any, scheduler: Any) -> None:
    """Write the parts of a model in their libraries' own formats, and `model_index.json`."""
    with quiet_libraries():
        for name, network in networks.items():
            size = "15MB" if network.num_parameters() < SMALL else "5GB"
            network.save_pretrained(folder / name, max_shard_size=size)
            for weights in (folder / name).glob("*.safetensors"):
                make_readable(weights)
        tokenizer.backend_tokenizer.no_padding()  # else the last call's settings are saved
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.save_pretrained(folder / "tokenizer")
        scheduler.save_pretrained(folder / "scheduler")
    libraries = {"vae": "diffusers", "unet": "diffusers", "text_encoder": "transformers"}
    index: dict[str, Any] = {name: [libraries[name], type(part).__name__] for name, part in networks.items()}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "DDIMScheduler"]}
    write_index(folder, index)


def write_index(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write `model_index.json`, which names the class of each part of a model folder."""
    head = {"_class_name": "LatentInpainter", "_diffusers_version": diffusers_version}
    write_json(make_folder(folder) / "model_index.json", {**head, **parts})


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep diffusers and transformers from printing bars and advice for the block, and restore their settings."""
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, has_bar in before:
            library.set_verbosity(verbosity)
            if has_bar:
                library.enable_progress_bar()


def scale_of(side: int, frame: tuple[int, int], cells: int) -> tuple[float, float]:
    """Return log2 of window width over frame width, and log2 of native pixels per latent cell / 8.

    Args:
        side: Window side, px of the frame.
        frame: Height and width of the frame; its width is the root of its area.
        cells: Latent cells across the window.
    """
    width = (frame[0] * frame[1]) ** 0.5
    return float(torch.tensor(side / width).log2()), float(torch.tensor(side / cells / 8).log2())
