"""Classical augmentation, which every arm gets: geometry, colour, blur and noise, of images and masks together.

Every draw depends on (seed, iteration) alone, and a batch is varied in four passes: one resampling, one colour matrix,
one blur of some rows, one noise of some rows.

Letters: B batch, S side of the square in px.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

SCALE = math.log(1.4)  # largest change of size, up or down
SHIFT = 0.15  # of the side
SHEAR = 10.0  # degrees
COLOUR = 0.3  # largest change of brightness, contrast and saturation
CAST = 0.06  # largest shift of each channel
GEOMETRY, TINT, SOFT, NOISY = 0.8, 0.8, 0.2, 0.2  # shares of the rows that are moved, coloured, blurred, made noisy
NOISE = 0.03  # standard deviation
BLUR = 1.5  # px; widest Gaussian
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def vary(
    images: "Tensor", masks: "Tensor", strength: float, seed: int, iteration: int, beside: "Tensor | None" = None
) -> "tuple[Tensor, Tensor, Tensor]":
    """Vary a batch where it is; how depends on (seed, iteration) alone, and torch's own generator is left as it was.

    Flips and, with any strength above 0, rotations are free; size, shift, shear, colour, blur and noise grow with the
    strength. At 1: scale 1/1.4 to 1.4, shift 15 % of the side, shear 10 degrees, colours 30 %.

    Args:
        images: Float in [0, 1], shape (B, 3, S, S).
        masks: Of 0 and 1, shape (B, K, S, S).
        strength: 0 flips only, 1 is strong, 2 the limit.
        seed: Of the run.
        iteration: Of the run.
        beside: What is moved like the images, and neither coloured nor made binary, shape (B, N, S, S).

    Returns:
        Images, masks and what is beside them, all varied; without `beside`, a tensor without channels.
    """
    import torch

    generator = torch.Generator().manual_seed(seed * 1_000_003 + iteration)
    end = 3 + masks.shape[1]
    stack = _flip(torch.cat([images, masks] if beside is None else [images, masks, beside], 1), generator)
    if strength > 0:
        stack = _move(stack, strength, generator)
    images, masks, beside = stack[:, :3], stack[:, 3:end], stack[:, end:]
    if strength == 0:
        return images, masks, beside
    images = _colour(images, strength, generator)
    images = _blur(images, strength, generator)
    return _noise(images, strength, generator).clamp(0, 1), (masks > 0.5).float(), beside


def _uniform(count: int, half: float, generator: "Generator") -> "Tensor":
    """Draw from -half to half, shape (count,)."""
    import torch

    return (2 * torch.rand(count, generator=generator) - 1) * half


def _chosen(count: int, share: float, generator: "Generator") -> "Tensor":
    """Choose each of `count` rows with the probability `share`; booleans, shape (count,)."""
    import torch

    return torch.rand(count, generator=generator) < share


def _flip(images: "Tensor", generator: "Generator") -> "Tensor":
    import torch

    for axis in (2, 3):
        rows = _chosen(len(images), 0.5, generator).view(-1, 1, 1, 1).to(images.device)
        images = torch.where(rows, images.flip(axis), images)
    return images


def _move(images: "Tensor", strength: float, generator: "Generator") -> "Tensor":
    import torch
    import torch.nn.functional as F

    B = len(images)
    angle = _uniform(B, math.pi, generator)
    scale = torch.exp(_uniform(B, SCALE * strength, generator))
    shear = torch.tan(torch.deg2rad(_uniform(B, SHEAR * strength, generator)))
    shift = torch.stack([_uniform(B, 2 * SHIFT * strength, generator) for _ in range(2)], dim=1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, cos * shear - sin], 1), torch.stack([sin, sin * shear + cos], 1)], 1)
    moved = torch.cat([turn / scale.view(-1, 1, 1), shift[:, :, None]], dim=2)  # output => input, in [-1, 1]
    still = torch.eye(2, 3).expand(B, 2, 3)
    theta = torch.where(_chosen(B, GEOMETRY, generator).view(-1, 1, 1), moved, still).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _colour(images: "Tensor", strength: float, generator: "Generator") -> "Tensor":
    """Change brightness, contrast about the row's mean, saturation and cast: one matrix and one offset a row."""
    import torch

    B = len(images)
    bright, contrast, saturation = (1 + _uniform(B, COLOUR * strength, generator) for _ in range(3))
    cast = torch.stack([_uniform(B, CAST * strength, generator) for _ in range(3)], dim=1)
    rows = _chosen(B, TINT, generator)
    grey = torch.tensor(GREY).expand(3, 3)
    mix = saturation.view(-1, 1, 1) * torch.eye(3) + (1 - saturation).view(-1, 1, 1) * grey
    gain = (bright * contrast).clamp(min=0.1)
    matrix = torch.where(rows.view(-1, 1, 1), gain.view(-1, 1, 1) * mix, torch.eye(3))
    cast, mix, matrix, rows = (part.to(images.device) for part in (cast, mix, matrix, rows))
    mean = torch.einsum("bij,bj->bi", mix, images.mean((2, 3)))
    offset = cast + (bright * (1 - contrast))[:, None].to(images.device) * mean
    offset = torch.where(rows[:, None], offset, torch.zeros((), device=images.device))
    return torch.einsum("bij,bjhw->bihw", matrix, images) + offset[:, :, None, None]


def _blur(images: "Tensor", strength: float, generator: "Generator") -> "Tensor":
    import torch

    rows = _chosen(len(images), min(1.0, SOFT * strength), generator).nonzero().flatten().to(images.device)
    sigma = 0.2 + (BLUR - 0.2) * float(torch.rand(1, generator=generator))
    if not len(rows):
        return images
    images = images.clone()
    images[rows] = gaussian_blur(images[rows], sigma, 2)
    return images


def gaussian_blur(images: "Tensor", sigma: float, radius: int) -> "Tensor":
    """Blur images (B, C, S, S) with a Gaussian that is cut off after `radius` pixels; borders are reflected."""
    import torch
    import torch.nn.functional as F

    channels = images.shape[1]
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1.0) / sigma) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, -1).repeat(channels, 1, 1, 1).to(images.device)
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, taps, groups=channels), taps.transpose(2, 3), groups=channels)


def _noise(images: "Tensor", strength: float, generator: "Generator") -> "Tensor":
    import torch

    rows = _chosen(len(images), min(1.0, NOISY * strength), generator).nonzero().flatten().to(images.device)
    if not len(rows):
        return images
    images = images.clone()
    noise = torch.randn((len(rows), *images.shape[1:]), generator=generator)
    images[rows] += NOISE * strength * noise.to(images.device)
    return images
