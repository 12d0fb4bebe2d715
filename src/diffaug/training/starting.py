"""What a fit starts from: the shipped model, another one, a Stable Diffusion checkpoint, or nothing."""

from pathlib import Path
from typing import Any

import torch

from diffaug.artifacts import digest_of_value
from diffaug.compute.seeds import seeded
from diffaug.conditioning.prompts import all_prompts
from diffaug.config import FitConfig
from diffaug.errors import ConfigError, ModelError
from diffaug.models.base import LatentInpainter
from diffaug.models.checkpoints import Checkpoint, find_checkpoint
from diffaug.models.compact import Compact, denoiser_of, scheduler_of, text_encoder_of, tokenizer_of
from diffaug.models.loading import kind_of, load_model

SHIPPED = Path(__file__).parent.parent / "weights" / "endoscopy"
SHIPPED_TERMS = "the shipped endoscopy prior is for research and education: NOTICE and its model card state the terms"


def usable_base(base: Path | str | None, config: FitConfig) -> Checkpoint | None:
    """Return the base, or None where the shipped one is absent.

    Raises:
        ConfigError: Low-rank updates of something else than Stable Diffusion, or Stable Diffusion without them.
        ModelError: The base is neither a model folder nor a Stable Diffusion inpainting checkpoint.
    """
    rank = config.denoiser.lora_rank
    is_absent = base is None or (base == SHIPPED and not (SHIPPED / "model_index.json").is_file())
    found = None if base is None or is_absent else find_checkpoint(base)
    takes_lora = found is not None and kind_of(found.folder).takes_lora
    if rank and not takes_lora:
        raise ConfigError(
            f"LoRA is for a Stable Diffusion base: denoiser.lora_rank is {rank} with another base; "
            "name a Stable Diffusion inpainting checkpoint with --base, or leave --lora out"
        )
    if takes_lora and not rank:
        raise ConfigError(f"Stable Diffusion is tuned by LoRA: denoiser.lora_rank is 0 with {base}; add --lora 16")
    return found


def notices_of(base: Checkpoint | None, device: torch.device) -> list[str]:
    """Return what a user should know of a base: its terms, and whether it is slow."""
    if base is None:
        return []
    return [SHIPPED_TERMS] if base.folder == SHIPPED else kind_of(base.folder).notices(base.name, device)


def digest_of_base(base: Checkpoint) -> str:
    """Return the digest of the files that shape what a base does."""
    return digest_of_value(base.digests())


def load_base(base: Checkpoint, classes: int, merge: bool) -> LatentInpainter:
    """Load a base and let it read a mask of every class of the data.

    Args:
        base: Where it lies.
        classes: Of the data.
        merge: Save the fitted model whole, where its kind would be saved beside the base.

    Raises:
        ModelError: The base was made for more classes.
    """
    model = load_model(base.folder)
    if model.classes > classes:
        raise ModelError(
            f"a base has at most the classes of the data: {base.name} was made for {model.classes}, the data has "
            f"{classes}; use another base"
        )
    if not merge:
        model.keep_base(base)
    model.add_masks(classes)
    return model


def untrained_around(codec: Any, config: FitConfig, seed: int, classes: int = 1) -> LatentInpainter:
    """Set untrained parts, seeded, around a trained codec."""
    tokenizer = tokenizer_of(all_prompts())
    cells = config.codec.window // config.codec.cell
    with seeded(seed):
        unet = denoiser_of(config.denoiser, config.codec.latent_channels, cells, classes)
        text_encoder = text_encoder_of(config.denoiser, tokenizer)
    return Compact(codec, unet, text_encoder, tokenizer, scheduler_of())
