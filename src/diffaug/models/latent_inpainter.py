"""The one latent inpainting model: a diffusers-format folder, seen as a function to the clean latents.

Legend: B batch, H = W window side (px), h = w latent side, Z latent channels, K classes, D text width, L text length.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from diffaug.artifacts import digest_of_file, digest_of_value, make_folder, read_json, write_json
from diffaug.conditioning.grammar import words_in
from diffaug.conditioning.prompts import all_prompts
from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.schedule import Schedule
from diffaug.diffusion.train import autocast
from diffaug.errors import DataError, ModelError, ShapeError
from diffaug.models.compact import SCALE_CHANNELS

for _logging in (diffusers_logging, transformers_logging):  # their bars and advice are not for our users
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()

PARTS: dict[str, tuple[str, Any]] = {  # folder: library and class, as model_index.json names them
    "vae": ("diffusers", AutoencoderKL),
    "unet": ("diffusers", UNet2DConditionModel),
    "text_encoder": ("transformers", CLIPTextModel),
    "tokenizer": ("transformers", CLIPTokenizer),
    "scheduler": ("diffusers", DDIMScheduler),
}
CODECS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}  # Stable Diffusion's, and the compact one
NETWORKS = ("vae", "unet", "text_encoder")
WORDS_FILE = "tokenizer/words.json"  # the words that the text encoder has met in training


def unshuffle_factor(codec: Any) -> int:
    """Return k of the space-to-depth step before a codec: 1 for a codec of RGB, 8 for one of 192 channels."""
    return round(math.sqrt(codec.config.in_channels / 3))


def encode_raw(codec: Any, image: Tensor) -> Tensor:
    """Return unscaled latents: pixels (B, 3, H, W) in [-1, 1] => (B, Z, h, w); of an AutoencoderKL the mean."""
    output = codec.encode(F.pixel_unshuffle(image, unshuffle_factor(codec)))
    raw: Tensor = output.latents if hasattr(output, "latents") else output.latent_dist.mean
    return raw


def decode_raw(codec: Any, raw: Tensor) -> Tensor:
    """Return pixels: unscaled latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
    return F.pixel_shuffle(codec.decode(raw).sample, unshuffle_factor(codec))


def encode(codec: Any, image: Tensor) -> Tensor:
    """Return latents of about unit variance: pixels (B, 3, H, W) in [-1, 1] => latents (B, Z, h, w)."""
    config = codec.config
    latents: Tensor = (encode_raw(codec, image).float() - (config.shift_factor or 0.0)) * config.scaling_factor
    return latents


def decode(codec: Any, latents: Tensor) -> Tensor:
    """Return pixels: latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
    config = codec.config
    return decode_raw(codec, latents / config.scaling_factor + (config.shift_factor or 0.0))


@torch.no_grad()
def with_scale(codec: Any, images: Tensor) -> Any:
    """Write the scale that gives the latents of `images` unit variance into the codec's config; return the codec."""
    raw = torch.cat([encode_raw(codec, batch).float() for batch in torch.split(images, 32)])
    codec.register_to_config(scaling_factor=round(float(1 / raw.std().clamp_min(1e-4)), 5), shift_factor=0.0)
    return codec


@dataclass
class LatentInpainter:
    """A latent diffusion inpainting model behind the denoiser contract.

    Every part is a class of diffusers or transformers and loads with its own `from_pretrained`.
    """

    codec: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def __post_init__(self) -> None:
        self.schedule = Schedule.of(self.scheduler)
        self.latent_channels = int(self.codec.config.latent_channels)
        least = 2 * self.latent_channels + 1
        extra = int(self.unet.config.in_channels) - least
        if extra != 0 and extra <= SCALE_CHANNELS:
            raise ModelError(
                f"an inpainting U-Net takes noisy latents, region and masked-image latents, {least} channels, and "
                f"perhaps masks and scale; this one takes {self.unet.config.in_channels}; use an inpainting checkpoint"
            )
        self.classes = max(0, extra - SCALE_CHANNELS)
        self.masks_end = least + self.classes  # channels before those of the scale
        self.latent_side = int(self.unet.config.sample_size)
        self.cell = 2 ** (len(self.codec.config.block_out_channels) - 1) * unshuffle_factor(self.codec)
        self.window = self.latent_side * self.cell
        self.cells_are_apart = self.cell == unshuffle_factor(self.codec) > 1  # each cell is encoded on its own

    @property
    def device(self) -> torch.device:
        """The device of the U-Net, which the other parts share."""
        return torch.device(self.unet.device)

    def to(self, device: torch.device | str) -> "LatentInpainter":
        """Move every network to a device."""
        for part in (self.codec, self.unet, self.text_encoder):
            part.to(device)
        return self

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Tokenise prompts: text => token ids (B, L), padded or cut to the length of the text encoder."""
        ids: Tensor = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    def reads(self, prompt: str) -> bool:
        """Tell whether a prompt is short enough to be read whole."""
        return len(self.tokenizer(prompt).input_ids) <= int(self.tokenizer.model_max_length)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed token ids: (B, L) => (B, L, D)."""
        embedded: Tensor = self.text_encoder(tokens.to(self.device)).last_hidden_state
        return embedded

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: text => (B, L, D). An empty prompt asks for nothing."""
        return self.embed_tokens(self.tokens(prompts))

    def condition(self, image: Tensor, region: Tensor, mask: Tensor, scale: Tensor, text: Tensor) -> Conditioning:
        """Encode what the painter is told: pixels => latents.

        Args:
            image: Windows, (B, 3, H, W) in [-1, 1].
            region: Where it may paint, (B, 1, H, W), 0 or 1; removed from the image before encoding.
            mask: Covered share per class, (B, K, H, W).
            scale: See Conditioning, (B, 2).
            text: Embedded prompts, (B, L, D).
        """
        if image.shape[-2:] != region.shape[-2:] or mask.shape[-2:] != region.shape[-2:]:
            shapes = ", ".join(str(tuple(values.shape)) for values in (image, region, mask))
            raise ShapeError(f"image, region and mask need one size; got {shapes}")
        return Conditioning(
            region=F.max_pool2d(region, self.cell),
            mask=F.avg_pool2d(mask, self.cell),
            masked_image_latents=encode(self.codec, image * (region < 0.5)),
            scale=scale,
            text=text,
        )

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w), float32; see `diffusion.contract.Denoiser`."""
        parts = [x_t, conditioning.region, conditioning.masked_image_latents]
        if self.classes:
            scale = conditioning.scale[:, :, None, None].expand(-1, -1, *x_t.shape[-2:])
            parts += [conditioning.mask, scale]
        with autocast(self.device):
            output = self.unet(torch.cat(parts, dim=1), t, conditioning.text).sample
        x0_hat = self.schedule.x0_from_prediction(x_t, output.float(), t).to(x_t.dtype)
        if self.cells_are_apart:  # what lies outside the region is known exactly
            x0_hat = torch.where(conditioning.region > 0, x0_hat, conditioning.masked_image_latents.to(x0_hat.dtype))
        return x0_hat

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
            conv = self.unet.conv_in
            masks, scale = conv.weight.detach().split([self.masks_end, conv.in_channels - self.masks_end], dim=1)
            added = classes - self.classes + (0 if self.classes else SCALE_CHANNELS)
            zeros = masks.new_zeros(masks.shape[0], added, *masks.shape[2:])
            weight = torch.cat([masks, zeros, scale], dim=1)
            conv.weight, conv.in_channels = torch.nn.Parameter(weight, requires_grad=False), weight.shape[1]
            self.unet.register_to_config(in_channels=weight.shape[1])
            self.__post_init__()

    def save(self, folder: Path, half: bool = False) -> None:
        """Write the diffusers-format folder; with `half`, weights as float16."""
        make_folder(folder)
        parts = {"vae": self.codec, "unet": self.unet, "text_encoder": self.text_encoder}
        for name, part in parts.items():
            written = copy.deepcopy(part).half() if half else part.float()  # the model in memory stays as it is
            written.save_pretrained(folder / name, max_shard_size="15MB")
        self.tokenizer.backend_tokenizer.no_padding()  # else the last call's settings are saved
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        index: dict[str, Any] = {name: [library, part.__name__] for name, (library, part) in PARTS.items()}
        index["vae"][1] = type(self.codec).__name__
        head = {"_class_name": "LatentInpainter", "_diffusers_version": diffusers_version}
        write_json(folder / "model_index.json", {**head, **index})

    @staticmethod
    def load(folder: Path, device: torch.device | str = "cpu") -> "LatentInpainter":
        """Load a diffusers-format folder of safetensors, as float32 and in evaluation mode.

        Raises:
            ModelError: A part is missing or is not what its name says.
        """
        loaded = {}
        for name, (_, expected) in PARTS.items():
            if not (folder / name).is_dir():
                raise ModelError(f"a model folder needs {', '.join(PARTS)}: {folder} has no {name}/; fit it again")
            extra = {"use_safetensors": True} if name in NETWORKS else {}
            part = codec_class(folder / name) if name == "vae" else expected
            try:
                loaded[name] = part.from_pretrained(folder / name, local_files_only=True, **extra)
            except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ModelError(f"every part of a model must load: {folder / name}: {reason}; fit it again") from None
        codec, unet, text = (loaded[name].float().eval().requires_grad_(False) for name in NETWORKS)
        for part in (codec, unet):
            part.register_to_config(
                _name_or_path=""
            )  # else a saved model, and its digest, would tell where its base lay
        return LatentInpainter(codec, unet, text, loaded["tokenizer"], loaded["scheduler"]).to(device)


def codec_class(folder: Path) -> Any:
    """Return the class that a codec's folder names.

    Raises:
        ModelError: It names none that can be used here.
    """
    try:
        name = read_json(folder / "config.json").get("_class_name")
    except (DataError, AttributeError):
        raise ModelError(f"every part of a model needs its config: {folder} has no config.json; fit it again") from None
    if name not in CODECS:
        raise ModelError(f"a codec must be one of {', '.join(CODECS)}: {folder} holds {name!r}; use another checkpoint")
    return CODECS[name]


def write_words(folder: Path, words: Iterable[str]) -> None:
    """Write the words of a model's training prompts into its folder, before it is sealed."""
    write_json(folder / WORDS_FILE, sorted(words))


def read_words(folder: Path) -> frozenset[str]:
    """Return the words of a model's training prompts; those of measured attributes where it has no list of its own."""
    if not (folder / WORDS_FILE).is_file():
        return frozenset().union(*(words_in(prompt) for prompt in all_prompts()))
    return frozenset(str(word) for word in read_json(folder / WORDS_FILE))


def seal(folder: Path) -> str:
    """Write `digests.json` over a finished model folder, last of all, and return the model digest.

    Training logs (`training/`) and what a killed run left half-written do not shape what the model does.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "digests.json")
    kept = [path for path in files if path.relative_to(folder).parts[0] != "training" and path.suffix != ".partial"]
    digests = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in kept}
    write_json(folder / "digests.json", digests)
    return digest_of_value(digests)


def verify(folder: Path) -> str:
    """Check a model folder against its `digests.json` and return the model digest.

    Raises:
        ModelError: The folder is unfinished, or a file is missing or altered.
    """
    if not folder.is_dir():
        raise ModelError(f"a model is a folder made by `diffaug fit`: {folder} does not exist; fit one")
    try:
        digests = dict(read_json(folder / "digests.json"))
    except (DataError, TypeError, ValueError):
        digests = {}
    if not digests:
        raise ModelError(f"a finished model has a digests.json: {folder} has none; run `diffaug fit` again")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise ModelError(f"every file of a model must be there: {folder / name} is missing; fit it again")
        if digest_of_file(folder / name) != digest:
            raise ModelError(f"a model's files must be as they were fitted: {folder / name} was altered; fit it again")
    return digest_of_value(digests)


def scale_of(side: int, frame: tuple[int, int], cells: int) -> tuple[float, float]:
    """Return log2 of window width over frame width, and log2 of native pixels per latent cell / 8.

    Args:
        side: Window side, px of the frame.
        frame: Height and width of the frame; its width is the root of its area.
        cells: Latent cells across the window.
    """
    width = (frame[0] * frame[1]) ** 0.5
    return float(torch.tensor(side / width).log2()), float(torch.tensor(side / cells / 8).log2())
