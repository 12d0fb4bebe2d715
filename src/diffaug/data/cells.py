"""Phantoms of another kind: cell nuclei in dark-field fluorescence microscopy, with exact masks.

A frame holds some 20 to 40 bright round or oval nuclei on a dark background, a few of them cut by the frame's edge. No
two overlap, and some touch. Some frames are dimly exposed; a few are brightfield, with dark nuclei on a bright
background. Every frame is a pure function of the generator that it is drawn from.

Knows nothing of biology: what it is for is written in `phantom.py`.
"""

from typing import Literal

import numpy as np
from numpy.random import Generator

from diffaug.data.images import Mask, Pixels
from diffaug.data.scene import Field, blur, fractal, shape, smoothstep

Light = Literal["bright", "dim", "brightfield"]

COUNTS = (20, 40)  # nuclei of a frame
SHARES: dict[Light, float] = {"bright": 0.62, "dim": 0.30, "brightfield": 0.08}  # of the frames
TOUCHING = 0.12  # of the nuclei lie against another one
RADII = (0.034, 0.058)  # of the frame's side
TRIES = 60  # places that are tried for a nucleus; one that finds no room is left out
STAIN = np.array([0.42, 0.62, 0.34], dtype=np.float32)  # what a stained nucleus takes away of brightfield light


def draw_cells(rng: Generator, size: int) -> tuple[Pixels, Mask, Light]:
    """Draw a frame of nuclei.

    Args:
        rng: All that the frame depends on, besides its size.
        size: S, the side of the frame in px.

    Returns:
        Pixels, (S, S, 3); the union of the nuclei, (S, S); and how the frame is lit.
    """
    light = list(SHARES)[int(rng.choice(len(SHARES), p=list(SHARES.values())))]
    taken, glow = np.zeros((size, size), bool), np.zeros((size, size), np.float32)
    near = np.zeros((size, size), bool)  # the nuclei and a narrow gap around them
    typical = float(np.exp(rng.uniform(*np.log(RADII)))) * size
    for _ in range(int(rng.integers(COUNTS[0], COUNTS[1] + 1))):
        _add_nucleus(rng, typical * float(np.exp(rng.normal(0, 0.16))), glow, taken, near)
    return _take(rng, glow, light), taken, light


def _add_nucleus(rng: Generator, radius: float, glow: Field, taken: Mask, near: Mask) -> None:
    """Add a nucleus where there is room: its brightness to `glow`, its pixels to `taken`, and a gap more to `near`."""
    size, touches = len(taken), rng.random() < TOUCHING
    side = 2 * round(2.2 * radius) + 1
    rho = shape(rng, side, np.full(2, side / 2), radius, elongation=rng.uniform(1.0, 1.9), ragged=rng.uniform(0, 0.07))
    brightness = float(np.exp(rng.uniform(np.log(0.35), 0.0)))
    for _ in range(TRIES):
        top, left = (int(corner) for corner in rng.uniform(-0.02, 1.02, 2) * size - side / 2)
        rows, columns = slice(max(0, top), top + side), slice(max(0, left), left + side)
        seen = rho[max(0, -top) :, max(0, -left) :][: size - rows.start, : size - columns.start]
        inside = seen < 1
        if np.count_nonzero(inside) < 0.3 * np.count_nonzero(rho < 1) or (taken[rows, columns] & inside).any():
            continue
        gap = seen < 1 + 2.5 / radius
        if (near[rows, columns] & gap).any() != (touches and bool(taken.any())):
            continue
        texture = 1 + 0.16 * fractal(rng, side, side / 5, 2) - 0.25 * smoothstep(0.9, 1.9, fractal(rng, side, 4, 1))
        body = smoothstep(1.12, 0.86, rho) * (1 - 0.25 * np.minimum(rho, 1) ** 2) * texture * np.float32(brightness)
        glow[rows, columns] = np.maximum(
            glow[rows, columns], body[max(0, -top) :, max(0, -left) :][: seen.shape[0], : seen.shape[1]]
        )
        taken[rows, columns] |= inside
        near[rows, columns] |= gap
        return


def _take(rng: Generator, glow: Field, light: Light) -> Pixels:
    """Expose the frame: uneven light, glow from out of focus, blur and grain."""
    size = len(glow)
    uneven = 1 + 0.12 * fractal(rng, size, 2, 1)
    sharp = blur(glow, rng.uniform(0.5, 1.1) * size / 256)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    if light == "brightfield":
        paper = np.float32(rng.uniform(0.82, 0.92)) * (1 + 0.03 * (uneven - 1))
        colour = paper[..., None] * (1 - STAIN * np.clip(1.1 * sharp, 0, 1)[..., None])
        colour = colour + (0.012 * grain + 0.02 * fractal(rng, size, size / 12, 2))[..., None]
    else:
        haze = blur(glow, 0.06 * size) * rng.uniform(0.04, 0.12)
        exposure = rng.uniform(0.22, 0.40) if light == "dim" else rng.uniform(0.65, 1.0)
        signal = (sharp + haze) * uneven * exposure + rng.uniform(0.012, 0.05)
        signal = signal + grain * (0.006 + 0.02 * np.sqrt(np.maximum(signal, 0)))
        colour = np.repeat(signal[..., None], 3, axis=-1)
    return np.asarray(np.clip(np.rint(colour * 255), 0, 255), dtype=np.uint8)
