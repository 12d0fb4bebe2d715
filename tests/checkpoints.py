"""Tiny Stable Diffusion inpainting checkpoints with random weights, laid out as those of the hub are."""

import json
import pickle
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffaug.conditioning.prompts import all_prompts
from diffaug.models.compact import tokenizer_of

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
KINDS = {  # what tells the two apart, but for their size
    "sd15": {"width": 32, "heads": 4, "linear": False, "hidden_act": "quick_gelu"},
    "sd2": {"width": 64, "heads": (2, 4), "linear": True, "hidden_act": "gelu"},
}
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of codecs before 0.17


class Trap:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def networks_of(kind: str, in_channels: int = 9):
    """U-Net of 8 x 8 latents, codec of 8 px a cell, text encoder and tokenizer."""
    shape = KINDS[kind]
    torch.manual_seed(7)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=shape["width"],
        attention_head_dim=shape["heads"],
        use_linear_projection=shape["linear"],
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 16, 32),
        norm_num_groups=16,
        sample_size=64,
    )
    tokenizer = tokenizer_of(all_prompts())
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape["width"],
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            hidden_act=shape["hidden_act"],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder}, tokenizer


def write_checkpoint(folder: Path, kind: str, in_channels: int = 9) -> Path:
    """Write a checkpoint: `sd2` as diffusers does now, `sd15` as the mirrors of 2022 lie on the hub.

    The latter are half precision alone beside pickles, with names of weights that have changed since.
    """
    networks, tokenizer = networks_of(kind, in_channels)
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    if kind == "sd15":
        scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
        for name in networks:
            _age(folder / name, folder.parent / "sprung")
    else:
        scheduler = DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer", tokenizer)
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": type(scheduler).__name__}
    index = {name: ["diffusers", value] for name, value in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    head = {"_class_name": "StableDiffusionInpaintPipeline", "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps({**head, **index}))
    return folder


def _age(part: Path, trap: Path) -> None:
    (path,) = part.glob("*.safetensors")
    tensors = {old_name(part.name, name): value.half() for name, value in load_file(path).items()}
    if part.name == "text_encoder":
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path.with_suffix(".fp16.safetensors"), {"format": "pt"})
    path.unlink()
    stem = "pytorch_model" if part.name == "text_encoder" else path.stem
    (part / f"{stem}.bin").write_bytes(pickle.dumps(Trap(trap)))


def old_name(part: str, name: str) -> str:
    """The name that a weight had in 2022."""
    if part == "text_encoder":
        return f"text_model.{name}"
    if part == "vae" and ".attentions." in name:
        for now, once in OLD_ATTENTION.items():
            name = name.replace(f".{now}.", f".{once}.")
    return name


def _write_tokenizer(folder: Path, tokenizer) -> None:
    """Write the files of a slow tokenizer, which is what the hub's checkpoints have."""
    folder.mkdir(parents=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokens = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    config = {**tokens, "unk_token": tokenizer.unk_token, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
