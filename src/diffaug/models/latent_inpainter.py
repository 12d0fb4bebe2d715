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
from diffaug.compute.precision import Precision, autocast
from diffaug.conditioning.grammar import words_in
from diffaug.conditioning.prompts import all_prompts
from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.schedule import Schedule
from diffaug.errors import DataError, ModelError, ShapeError
from diffaug.models.checkpoints import (
    BASE_FILE,
    PLACE_FILE,
    STEMS,
    Checkpoint,
    read_reference,
    variant_of,
    verify_base,
    write_reference,
)
from diffaug.models.compact import SCALE_CHANNELS
from diffaug.models.lora import Adapters, has_adapters, widen

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
SMALL = 2**28  # parameters; the files of a smaller network are divided into pieces that version control takes
WORDS_FILE = "tokenizer/words.json"  # the words that the text encoder has met in training


def unshuffle_factor(codec: Any) -> int:
    """Return k of the space-to-depth step before a codec: 1 for a codec of RGB, 8 for one of 192 channels."""
    return round(math.sqrt(codec.config.in_channels / 3))


def encode_raw(codec: Any, image: Tensor) -> Tensor:
    """Return unscaled latents: pixels (B, 3, H, W) in [-1, 1] => (B, Z, h, w); of an AutoencoderKL the mean."""
    output = codec.encode(F.pixel_unshuffle(image, unshuffle_factor(codec)).to(codec.device))
    raw: Tensor = output.latents if hasattr(output, "latents") else output.latent_dist.mean
    return raw.to(image.device)


def decode_raw(codec: Any, raw: Tensor) -> Tensor:
    """Return pixels: unscaled latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
    return F.pixel_shuffle(codec.decode(raw.to(codec.device)).sample, unshuffle_factor(codec)).to(raw.device)


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

    Every part is a class of diffusers or transformers and loads with its own `from_pretrained`. A model computes on its
    own device and answers on that of its inputs, so nobody else needs to know where it is.

    Attributes:
        base: The checkpoint that it adds `adapters` to and is saved beside; None where it is saved whole.
        adapters: What a fit added, already merged into the networks.
        precision: Of the U-Net's arithmetic.
    """

    codec: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    base: Checkpoint | None = None
    adapters: Adapters | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        self.schedule = Schedule.of(self.scheduler)
        self.latent_channels = int(self.codec.config.latent_channels)
        self.plain_channels = least = 2 * self.latent_channels + 1
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
        self.is_compact = unshuffle_factor(self.codec) > 1  # small enough to be trained whole, codec included
        self.rows = 32 if self.is_compact else max(1, min(32, 2**13 // self.latent_side**2))  # evaluated together

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
        return embedded.to(tokens.device)

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
        told = (torch.cat(parts, dim=1), t, conditioning.text)
        with autocast(self.device, self.precision):
            output = self.unet(*(values.to(self.device) for values in told)).sample
        x0_hat = self.schedule.x0_from_prediction(x_t, output.float().to(x_t.device), t).to(x_t.dtype)
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
            added = classes - self.classes + (0 if self.classes else SCALE_CHANNELS)
            weight = self.unet.conv_in.weight.detach()
            zeros = weight.new_zeros(weight.shape[0], added, *weight.shape[2:])
            columns = [weight[:, self.plain_channels : self.masks_end], zeros, weight[:, self.masks_end :]]
            widen(self.unet, torch.cat(columns, dim=1), self.plain_channels)
            self.__post_init__()

    def adopt(self, adapters: Adapters) -> None:
        """Merge what a fit added into the networks in place, and remember it for `save`."""
        adapters.merge({"unet": self.unet, "text_encoder": self.text_encoder}, self.plain_channels)
        self.adapters = adapters
        self.__post_init__()

    def save(self, folder: Path, half: bool = False) -> None:
        """Write the diffusers-format folder, with `half` as float16; of a model beside a base, what was added alone.

        Raises:
            ModelError: A network holds adapters: they would be lost without a word when it is loaded.
        """
        parts = {"vae": self.codec, "unet": self.unet, "text_encoder": self.text_encoder}
        for name, part in parts.items():
            if has_adapters(part):
                raise ModelError(f"a network is saved with plain weights: {name} holds adapters; merge them first")
        make_folder(folder)
        head = {"_class_name": "LatentInpainter", "_diffusers_version": diffusers_version}
        if self.base is not None and self.adapters is not None:
            self.adapters.save(folder)
            write_reference(folder, self.base)
            write_json(folder / "model_index.json", head)
            return
        for name, part in parts.items():
            written = copy.deepcopy(part).half() if half else part.float()  # the model in memory stays as it is
            written.save_pretrained(folder / name, max_shard_size="15MB" if part.num_parameters() < SMALL else "5GB")
        self.tokenizer.backend_tokenizer.no_padding()  # else the last call's settings are saved
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        index: dict[str, Any] = {name: [library, part.__name__] for name, (library, part) in PARTS.items()}
        index["vae"][1] = type(self.codec).__name__
        write_json(folder / "model_index.json", {**head, **index})

    @staticmethod
    def load(folder: Path, device: torch.device | str = "cpu") -> "LatentInpainter":
        """Load a diffusers-format folder of safetensors, as float32 and in evaluation mode.

        A folder that adds to a base is loaded as that base with the additions merged.

        Raises:
            ModelError: A part is missing or is not what its name says, or lacks weights.
        """
        if (folder / BASE_FILE).is_file():
            model = LatentInpainter.load(read_reference(folder).folder)
            model.adopt(Adapters.load(folder))
            return model.to(device)
        loaded = {}
        for name, (_, expected) in PARTS.items():
            if not (folder / name).is_dir():
                raise ModelError(f"a model folder needs {', '.join(PARTS)}: {folder} has no {name}/; fit it again")
            part = codec_class(folder / name) if name == "vae" else expected
            try:
                loaded[name] = _load_part(part, folder / name)
            except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ModelError(f"every part of a model must load: {folder / name}: {reason}; fit it again") from None
        codec, unet, text = (loaded[name].float().eval().requires_grad_(False) for name in NETWORKS)
        for part in (codec, unet):
            part.register_to_config(
                _name_or_path=""
            )  # else a saved model, and its digest, would tell where its base lay
        return LatentInpainter(codec, unet, text, loaded["tokenizer"], loaded["scheduler"]).to(device)


def _load_part(part: Any, folder: Path) -> Any:
    """Load a part with its own `from_pretrained`, and see to it that no weight is made up.

    A network saved while it held adapters loads with random weights in the adapted layers, and a warning at most.

    Raises:
        ModelError: Its files lack a weight.
    """
    if folder.name not in STEMS:
        return part.from_pretrained(folder, local_files_only=True)
    options = {"use_safetensors": True, "variant": variant_of(folder), "output_loading_info": True}
    network, info = part.from_pretrained(folder, local_files_only=True, **options)
    if lacking := sorted(info["missing_keys"]):
        raise ModelError(
            f"every weight of a network must be in its files: {folder} lacks {lacking[0]} and {len(lacking) - 1} more; "
            "adapters must be merged before a network is saved, or use another checkpoint"
        )
    return network


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
    make_folder((folder / WORDS_FILE).parent)
    write_json(folder / WORDS_FILE, sorted(words))


def read_words(folder: Path) -> frozenset[str]:
    """Return the words of a model's training prompts; those of measured attributes where it has no list of its own."""
    if not (folder / WORDS_FILE).is_file():
        return frozenset().union(*(words_in(prompt) for prompt in all_prompts()))
    return frozenset(str(word) for word in read_json(folder / WORDS_FILE))


def seal(folder: Path) -> str:
    """Write `digests.json` over a finished model folder, last of all, and return the model digest.

    Training logs (`training/`), what a killed run left half-written and the place of a base do not shape what the model
    does.
    """
    apart = ("digests.json", PLACE_FILE)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in apart)
    kept = [path for path in files if path.relative_to(folder).parts[0] != "training" and path.suffix != ".partial"]
    digests = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in kept}
    write_json(folder / "digests.json", digests)
    return digest_of_value(digests)


def verify(folder: Path) -> str:
    """Check a model folder against its `digests.json`, and the base that it adds to; return the model digest.

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
    verify_base(folder)
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
