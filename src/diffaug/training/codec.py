"""Train the autoencoder between pixels and latents on unannotated windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffaug.compute.devices import this_process
from diffaug.compute.precision import autocast
from diffaug.compute.seeds import generator_of, seeded
from diffaug.config import CodecConfig
from diffaug.data.images import Pixels
from diffaug.models.compact import cell_of, codec_of, decode_raw, encode_raw, with_scale
from diffaug.painting.window import Window, window_image, windows_at_once
from diffaug.training.loop import optimise, recipe_of

LATENT_NOISE = 0.02  # of the latents' standard deviation
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


@torch.no_grad()
def start_from_components(codec: Any, windows: Tensor) -> None:
    """Set a codec's weights so that it is the principal component transform of cells, with room to learn the rest.

    A cell of k x k pixels is projected on the leading components of random windows. Inside, each coefficient is carried
    as a pair (c, -c) of channels, which ReLU keeps whole: c = relu(c) - relu(-c); the blocks' last layers start at zero
    for these pairs, so they pass. Coefficients are scaled by their standard deviation to the power -1/2: coarse ones
    stay stronger, as they are in images, but by far less.

    Args:
        codec: An untrained AutoencoderTiny of one stage, as `codec_of` makes it.
        windows: What it is to keep, (N, 3, H, W) in [-1, 1], such as `sample_windows` returns.
    """
    factor, z = cell_of(codec), int(codec.config.latent_channels)
    cells = F.pixel_unshuffle((windows + 1) / 2, factor).permute(0, 2, 3, 1).flatten(0, 2)
    mean = cells.mean(0)
    power, vectors = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
    basis, deviation = vectors.flip(1)[:, :z], power.flip(0)[:z].clamp_min(1e-8).sqrt()
    scale = deviation.rsqrt() * 0.8 / deviation[0].sqrt()  # the strongest has deviation 0.8: the decoder clamps near 3

    first, last = codec.encoder.layers[0], codec.encoder.layers[-1]
    project = (basis * scale).T  # (Z, 3 k^2)
    for sign, rows in ((1, slice(0, z)), (-1, slice(z, 2 * z))):
        first.weight[rows] = 0
        first.weight[rows, :, 1, 1] = sign * project
        first.bias[rows] = -sign * project @ mean
    _set_readout(last, torch.eye(z), z)
    last.bias.zero_()
    first, last = codec.decoder.layers[0], codec.decoder.layers[-1]
    for sign, rows in ((1, slice(0, z)), (-1, slice(z, 2 * z))):
        first.weight[rows], first.bias[rows] = 0, 0
        first.weight[rows, :, 1, 1] = sign * torch.eye(z)
    _set_readout(last, basis / scale, z)
    last.bias.copy_(mean)
    for block in [*codec.encoder.layers, *codec.decoder.layers]:
        if hasattr(block, "fuse"):
            block.conv[-1].weight[: 2 * z], block.conv[-1].bias[: 2 * z] = 0, 0


def _set_readout(layer: Any, matrix: Tensor, z: int) -> None:
    """Make a 3 x 3 layer read `matrix` times (c, -c) pairs at its centre, and nothing of the other channels yet."""
    layer.weight.zero_()
    layer.weight[:, :z, 1, 1] = matrix
    layer.weight[:, z : 2 * z, 1, 1] = -matrix


def train_codec(images: Sequence[Pixels], config: CodecConfig, folder: Path, seed: int = 0, codec: Any = None) -> Any:
    """Train (or go on training) the decoder of an autoencoder and return the whole, with the scale of its latents.

    The encoder stays the principal component transform it starts as: latents never move, so a decoder can be trained
    for a user's own images without spoiling a painter that was trained before. A little noise on the latents teaches
    the decoder to bear what a painter gets slightly wrong.

    Args:
        images: Frames, (H, W, 3) uint8 of any size; no annotation is used.
        config: Architecture and schedule.
        folder: Where checkpoint and log are kept.
        seed: Seeds the initial weights and every iteration.
        codec: Start from these weights.

    Returns:
        AutoencoderTiny in evaluation mode; `scaling_factor` of its config gives latents unit variance.
    """
    if codec is None:
        with seeded(seed):
            codec = codec_of(config)
        windows = sample_windows(images, config.window, seed)
        start_from_components(codec, windows)
        with_scale(codec, windows)
    codec.decoder.requires_grad_(True)
    codec.encoder.requires_grad_(False)

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        picks = torch.randint(0, len(images), (config.batch_size,), generator=generator)
        batch = torch.cat([random_window(images[int(i)], config.window, generator) for i in picks])
        with autocast(codec.device):
            raw = encode_raw(codec, batch).detach()
            noise = torch.randn(raw.shape, generator=generator) * raw.std() * LATENT_NOISE
            image = decode_raw(codec, raw + noise).float()
        l1, edges = (image - batch).abs().mean(), gradient_loss(image, batch)
        return {"loss": l1 + GRADIENT_WEIGHT * edges, "l1": l1, "edges": edges}

    recipe = recipe_of(config, weight_decay=0.0)
    optimise({"decoder": codec.decoder}, loss, recipe, folder / "codec", seed=seed, process=this_process())
    return codec.eval().requires_grad_(False)


def sample_windows(images: Sequence[Pixels], side: int, seed: int, count: int = 400) -> Tensor:
    """Return random windows of frames in turn, at least one of each, (N, 3, side, side) in [-1, 1]."""
    generator = generator_of(seed, 3)
    return torch.cat([random_window(images[i % len(images)], side, generator) for i in range(max(count, len(images)))])


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each row in dB, for values in [-1, 1]: 10 log10(4 / MSE)."""
    return 10 * torch.log10(4.0 / ((image - target) ** 2).mean((1, 2, 3)).clamp_min(1e-10))


@dataclass(frozen=True)
class Fidelity:
    """What a codec keeps of windows: mean PSNR (dB) and mean SSIM."""

    psnr_db: float
    ssim: float


def fidelity(reconstruct: Callable[[Tensor], Tensor], windows: Tensor) -> Fidelity:
    """Return what a codec keeps of windows (N, 3, H, W).

    Args:
        reconstruct: Passes windows through the codec, such as `LatentInpainter.reconstruct`.
        windows: Values in [-1, 1].

    Source: Wang et al. 2004, "Image quality assessment", for SSIM.
    """
    from skimage.metrics import structural_similarity

    passed = torch.cat([reconstruct(part) for part in torch.split(windows, windows_at_once(windows.shape[-1]))])
    pairs = zip(passed.permute(0, 2, 3, 1).numpy(), windows.permute(0, 2, 3, 1).numpy(), strict=True)
    ssim = [structural_similarity(a, b, channel_axis=2, data_range=2.0) for a, b in pairs]
    return Fidelity(round(float(psnr(passed, windows).mean()), 2), round(float(sum(ssim)) / len(ssim), 4))


def measure_codec(
    reconstruct: Callable[[Tensor], Tensor], images: Sequence[Pixels], side: int, windows: int = 48
) -> Fidelity:
    """Return the fidelity of a codec on so many random windows of frames, `side` px wide; see `fidelity`."""
    generator = torch.Generator().manual_seed(0)
    chosen = (images[i * len(images) // windows] for i in range(windows))
    return fidelity(reconstruct, torch.cat([random_window(image, side, generator) for image in chosen]))
