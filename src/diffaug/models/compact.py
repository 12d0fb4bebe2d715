"""The compact model: small enough for a CPU, trained whole, shipped with weights.

Its parts are small configurations of the diffusers and transformers classes, made here. Its codec works on
space-to-depth pixels: a cell of k x k px is encoded on its own.

Legend: B batch, H = W window side (px), h = w latent side, Z latent channels, K classes, D text width, L text length.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffaug.compute.devices import device_of_network
from diffaug.config import CodecConfig, DenoiserConfig
from diffaug.diffusion.contract import Conditioning
from diffaug.models.base import SCALE_CHANNELS, LatentInpainter

TEXT_LENGTH = 32  # tokens; the longest prompt of conditioning.prompts needs fewer
ROWS = 32  # windows that are evaluated together


@dataclass
class Compact(LatentInpainter):
    """A model whose every part is trained here."""

    trains_codec = True
    takes_lora = False

    @property
    def cell(self) -> int:
        """Pixels per latent cell."""
        return cell_of(self.codec)

    @property
    def rows(self) -> int:
        """Windows that are evaluated together."""
        return ROWS

    def encode_raw(self, image: Tensor) -> Tensor:
        """Return unscaled latents: pixels (B, 3, H, W) in [-1, 1] => (B, Z, h, w)."""
        return encode_raw(self.codec, image)

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Return pixels: unscaled latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
        return decode_raw(self.codec, raw)

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Return x0_hat, (B, Z, h, w); cells outside the region are known exactly, as each is encoded on its own."""
        x0_hat = super().__call__(x_t, t, conditioning)
        return torch.where(conditioning.region > 0, x0_hat, conditioning.masked_image_latents.to(x0_hat.dtype))

    @contextmanager
    def tuned(self, rank: int, seed: int) -> Iterator[dict[str, Any]]:
        """Train U-Net and text encoder whole: with 25 cases that is already better than low-rank updates."""
        trained = {"unet": self.unet.requires_grad_(True), "text_encoder": self.text_encoder.requires_grad_(True)}
        yield trained
        for network in trained.values():
            network.requires_grad_(False)


def cell_of(codec: Any) -> int:
    """Return k of the space-to-depth step before a codec, the pixels per latent cell: 8 for 192 channels."""
    return round(math.sqrt(codec.config.in_channels / 3))


def encode_raw(codec: Any, image: Tensor) -> Tensor:
    """Return unscaled latents: pixels (B, 3, H, W) in [-1, 1] => (B, Z, h, w)."""
    raw: Tensor = codec.encode(F.pixel_unshuffle(image, cell_of(codec)).to(device_of_network(codec))).latents
    return raw.to(image.device)


def decode_raw(codec: Any, raw: Tensor) -> Tensor:
    """Return pixels: unscaled latents (B, Z, h, w) => (B, 3, H, W), about [-1, 1], unclipped."""
    return F.pixel_shuffle(codec.decode(raw.to(device_of_network(codec))).sample, cell_of(codec)).to(raw.device)


@torch.no_grad()
def reconstruct(codec: Any, image: Tensor) -> Tensor:
    """Pass windows (B, 3, H, W) through a codec: pixels => latents => pixels."""
    return decode_raw(codec, encode_raw(codec, image)).clamp(-1, 1)


@torch.no_grad()
def with_scale(codec: Any, images: Tensor) -> Any:
    """Write the scale that gives the latents of `images` unit variance into the codec's config; return the codec."""
    raw = torch.cat([encode_raw(codec, batch).float() for batch in torch.split(images, 32)])
    codec.register_to_config(scaling_factor=round(float(1 / raw.std().clamp_min(1e-4)), 5), shift_factor=0.0)
    return codec


def codec_of(config: CodecConfig) -> Any:
    """Return an untrained AutoencoderTiny that works on space-to-depth pixels.

    A cell of k px turns (B, 3, H, W) into (B, 3 k^2, H/k, W/k): no layer runs at full resolution, where most of the
    time of a narrow codec goes. It has no normalisation layer, so brightness passes straight through, and it can start
    as a principal component transform (`training.codec.start_from_components`).
    """
    channels, (encoder_blocks, decoder_blocks) = 3 * config.cell**2, config.blocks
    return AutoencoderTiny(
        in_channels=channels,
        out_channels=channels,
        encoder_block_out_channels=(config.width,),
        decoder_block_out_channels=(config.width,),
        num_encoder_blocks=(encoder_blocks,),
        num_decoder_blocks=(decoder_blocks,),
        latent_channels=config.latent_channels,
    )


def denoiser_of(config: DenoiserConfig, latent_channels: int, latent_side: int, classes: int = 1) -> Any:
    """Return an untrained U-Net whose input is x_t, region, masked-image latents, class masks and scale.

    Cross-attention sits at half the latent side and in the middle; at the full side it would cost as much as all else.
    """
    stages = len(config.widths)
    attends = [level == 1 for level in range(stages)]
    return UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=2 * latent_channels + 1 + classes + SCALE_CHANNELS,
        out_channels=latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=config.widths,
        layers_per_block=1,
        cross_attention_dim=config.text_width,
        attention_head_dim=tuple(max(1, width // 64) for width in config.widths),  # the NUMBER of heads, in fact
        norm_num_groups=16,
    )


def tokenizer_of(corpus: Iterable[str]) -> Any:
    """Return a CLIPTokenizer around a byte-pair encoding trained on a corpus of prompts.

    Its alphabet holds every byte, so a user's own words are spelt out instead of lost.
    """
    start, end = "<|startoftext|>", "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=1024, show_progress=False, end_of_word_suffix="</w>", special_tokens=[start, end]
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.train_from_iterator(corpus, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [start, end, *alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += [token for token, _ in sorted(learnt["vocab"].items(), key=lambda item: item[1])]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split()) for pair in learnt["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)


def text_encoder_of(config: DenoiserConfig, tokenizer: Any) -> Any:
    """Return an untrained CLIPTextModel for a tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=max(1, config.text_width // 32),
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def scheduler_of() -> Any:
    """Return a cosine schedule with zero terminal signal, predicting v.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. 17; Lin et al. 2023 (arXiv:2305.08891), Alg. 1, for the zero.
    """
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
