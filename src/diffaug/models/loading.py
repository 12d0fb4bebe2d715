"""Load a model folder as what it is: a compact model or Stable Diffusion. Opens safetensors alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from diffaug.artifacts import PathLike, read_json
from diffaug.errors import DataError, ModelError
from diffaug.models.base import LatentInpainter, quiet_libraries
from diffaug.models.checkpoints import BASE_FILE, STEMS, is_compact_folder, read_reference, variant_of
from diffaug.models.compact import Compact
from diffaug.models.lora import Adapters
from diffaug.models.stable_diffusion import StableDiffusion
from diffaug.names import shown
from diffaug.reading import check_json_of

PARTS: dict[str, Any] = {  # class of each part by its folder; that of the codec by what its config names
    "vae": None,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": DDIMScheduler,
}
CODECS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}  # Stable Diffusion's, and the compact one
LOCAL = {"local_files_only": True}
NUMBERS = (
    ("tokenizer", "model_max_length"), ("text_encoder", "max_position_embeddings"), ("vae", "scaling_factor"),
    ("vae", "shift_factor"), ("vae", "latent_channels"), ("unet", "in_channels"), ("unet", "sample_size"),
)  # fmt: skip
OPTIONAL = ("shift_factor",)  # which older codecs lack


def load_model(folder: PathLike, device: torch.device | str = "cpu") -> LatentInpainter:
    """Load a diffusers-format folder of safetensors, as float32 and in evaluation mode.

    A folder that adds to a base is loaded as that base with the additions merged.

    Args:
        folder: A folder that `diffaug fit` made, or any Stable Diffusion inpainting model in the same format.
        device: Where the model computes: cpu, cuda, cuda:N or mps.

    Raises:
        ModelError: A part is missing or is not what its name says, or lacks weights.

    Example:
        >>> diffaug.load_model("models/mine")  # doctest: +SKIP
    """
    folder = Path(folder)
    if (folder / BASE_FILE).is_file():
        model = load_model(read_reference(folder).folder)
        if not isinstance(model, StableDiffusion):
            raise ModelError(
                f"low-rank updates are kept beside Stable Diffusion alone: the base of {folder} is compact"
            )
        model.adopt(Adapters.load(folder))
        return model.to(device)
    with quiet_libraries():
        loaded = {name: _load_part(folder, name) for name in PARTS}
    _check_numbers(folder, loaded)
    length, read = loaded["tokenizer"].model_max_length, loaded["text_encoder"].config.max_position_embeddings
    if not 0 < length <= read:
        raise ModelError(
            f"a tokenizer cuts prompts to what the text encoder reads, {read} tokens: {folder / 'tokenizer'} has "
            f"{length:.0f}; restore the file tokenizer_config.json, or fit again"
        )
    networks = [loaded[name].float().eval().requires_grad_(False) for name in ("vae", "unet", "text_encoder")]
    for name in ("vae", "unet"):  # else a saved model, and its digest, would tell where its base lay
        loaded[name].register_to_config(_name_or_path="")
    codec, unet, text_encoder = networks
    return kind_of(folder)(codec, unet, text_encoder, loaded["tokenizer"], loaded["scheduler"]).to(device)


def _check_numbers(folder: Path, loaded: Mapping[str, Any]) -> None:
    """Refuse a model one of whose configurations lacks a number that is computed with; it may come from anybody.

    Raises:
        ModelError: Naming the first one.
    """
    for part, name in NUMBERS:
        holder = loaded[part] if part == "tokenizer" else loaded[part].config
        value = getattr(holder, name, None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number and not (value is None and name in OPTIONAL):
            raise ModelError(
                f"a model computes with the numbers of its configurations: {folder / part} has {name} = "
                f"{shown(str(value))}; restore its files, or fit again"
            )


def kind_of(folder: Path) -> type[LatentInpainter]:
    """Return which kind of model a folder holds, without loading it."""
    return Compact if is_compact_folder(folder) else StableDiffusion


def _load_part(folder: Path, name: str) -> Any:
    """Load a part with its own `from_pretrained`.

    Raises:
        ModelError: It is missing, damaged, or lacks a weight.
    """
    if not (folder / name).is_dir():
        raise ModelError(f"a model folder needs {', '.join(PARTS)}: {folder} has no {name}/; fit it again")
    part = codec_class(folder / name) if name == "vae" else PARTS[name]
    try:
        check_json_of(folder / name)
        return _load_network(part, folder / name) if name in STEMS else part.from_pretrained(folder / name, **LOCAL)
    except ModelError:
        raise
    except Exception as error:  # whatever a library raises on a configuration that makes no sense
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"every part of a model must load: {folder / name}: {reason}; fit it again") from None


def _load_network(part: Any, folder: Path) -> Any:
    """Load a network, and see to it that no weight is made up.

    One that was saved while it held adapters loads with random weights in the adapted layers, and a warning at most.

    Raises:
        ModelError: Its files lack a weight.
    """
    options = {"use_safetensors": True, "variant": variant_of(folder), "output_loading_info": True}
    network, info = part.from_pretrained(folder, **LOCAL, **options)
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
