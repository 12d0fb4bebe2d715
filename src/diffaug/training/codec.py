"""Train the autoencoder between pixels and latents on unannotated windows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffaug.config import CodecConfig
from diffaug.data.case import Pixels
from diffaug.diffusion.train import autocast, optimise
from diffaug.models.compact import codec_of
from diffaug.models.latent_inpainter import decode, encode_moments, with_statistics
from diffaug.synthesis.window import Window, window_image

KL_WEIGHT = 1e-6
GRADIENT_WEIGHT = 0.5
SMALLEST_WINDOW = 0.22  # of the frame's shorter side


def random_window(pixels: Pixels, side: int, generator: torch.Generator) -> Tensor:
    """Return a random square of a frame, turned and mirrored: (1, 3, side, side) in [-1, 1]."""
    height, width = pixels.shape[:2]
    draw = torch.rand(3, generator=generator)
    shorter = min(height, width)
    size = max(16, round(shorter * float(SMALLEST_WINDOW + (1 - SMALLEST_WINDOW) * draw[0])))
    top, left = round(float(draw[1]) * (height - size)), round(float(draw[2]) * (width - size))
    turn, mirror = torch.randint(0, 4, (), generator=generator), torch.randint(0, 2, (), generator=generator)
    window = torch.rot90(window_image(pixels, Window(top, left, size), side), int(turn), (2, 3))
    return window.flip(3) if mirror else window


def gradient_loss(image: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of horizontal and vertical differences at two scales.

    L1 alone leaves highlights and vessels soft, since they cover few pixels; differences weigh edges up.
    """
    total = image.new_zeros(())
    for _ in range(2):
        for axis in (2, 3):
            total = total + (image.diff(dim=axis) - target.diff(dim=axis)).abs().mean()
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    return total / 4


def train_codec(images: Sequence[Pixels], config: CodecConfig, folder: Path, seed: int = 0, codec: Any = None) -> Any:
    """Train (or go on training) an autoencoder and return it with its latent statistics.

    Args:
        images: Frames, (H, W, 3) uint8 of any size; no annotation is used.
        config: Architecture and schedule.
        folder: Where checkpoint and log are kept.
        seed: Seeds the initial weights and every iteration.
        codec: Start from these weights.

    Returns:
        AutoencoderKL in evaluation mode; `latents_mean` and `latents_std` of its config make latents unit-normal.
    """
    torch.manual_seed(seed)
    codec = codec_of(config) if codec is None else codec

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        picks = torch.randint(0, len(images), (config.batch_size,), generator=generator)
        batch = torch.cat([random_window(images[int(i)], config.window, generator) for i in picks])
        with autocast("cpu"):
            mean, log_variance = encode_moments(codec, batch)
            noise = torch.randn(mean.shape, generator=generator)
            image = decode(codec, mean + noise * (0.5 * log_variance).exp(), normalised=False).float()
        kl = 0.5 * (mean.float() ** 2 + log_variance.float().exp() - 1 - log_variance.float()).mean()
        l1, edges = (image - batch).abs().mean(), gradient_loss(image, batch)
        return {"loss": l1 + GRADIENT_WEIGHT * edges + KL_WEIGHT * kl, "l1": l1, "edges": edges, "kl": kl}

    optimise(
        "codec", {"codec": codec}, loss, folder,
        iterations=config.iterations, learning_rate=config.learning_rate, seed=seed, weight_decay=0.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    sample = [random_window(images[i % len(images)], config.window, generator) for i in range(256)]
    return with_statistics(codec, torch.cat(sample))


@torch.no_grad()
def reconstruct(codec: Any, image: Tensor) -> Tensor:
    """Pass windows (B, 3, H, W) through the codec: pixels => latents => pixels."""
    mean, _ = encode_moments(codec, image)
    return decode(codec, mean, normalised=False).clamp(-1, 1)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each row in dB, for values in [-1, 1]: 10 log10(4 / MSE)."""
    return 10 * torch.log10(4.0 / ((image - target) ** 2).mean((1, 2, 3)).clamp_min(1e-10))


def measure_codec(codec: Any, images: Sequence[Pixels], side: int, windows: int = 48) -> dict[str, float]:
    """Return what a codec keeps of random windows: mean PSNR (dB) and mean SSIM.

    Source: Wang et al. 2004, "Image quality assessment", for SSIM.
    """
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    batch = torch.cat([random_window(images[i * len(images) // windows], side, generator) for i in range(windows)])
    passed = torch.cat([reconstruct(codec, part) for part in batch.split(16)])
    pairs = zip(passed.permute(0, 2, 3, 1).numpy(), batch.permute(0, 2, 3, 1).numpy(), strict=True)
    ssim = [structural_similarity(a, b, channel_axis=2, data_range=2.0) for a, b in pairs]
    return {"psnr_db": round(float(psnr(passed, batch).mean()), 2), "ssim": round(float(sum(ssim)) / len(ssim), 4)}
