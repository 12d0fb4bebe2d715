"""Procedural endoscopy-like scenes without lesions: tissue, folds, vessels, gleams, debris, light and camera.

A scene is a height field (px, towards the camera), a colour (albedo) and a light at the camera. Lumps, patches and
debris, which look like lesions but are none, are part of it. `phantom.py` adds the lesions.

Letters of shapes: S side of the square image in px. All fields are float32, shape (S, S), unless said otherwise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffaug.data.images import Mask, Pixels

Field = NDArray[np.floating[Any]]

MUCOSA = np.array([(0.80, 0.42, 0.33), (0.82, 0.52, 0.46), (0.84, 0.47, 0.29), (0.72, 0.36, 0.31), (0.81, 0.57, 0.50)])
VESSEL = np.array([0.22, 0.62, 0.52])  # how much of red, green and blue a vessel takes away
RED = np.array([0.00, -0.16, -0.14])  # one colour step towards inflamed
PALE = np.array([0.09, 0.12, 0.10])  # one colour step towards pale
DEBRIS = np.array([0.62, 0.47, 0.14])
MUCUS = np.array([0.74, 0.56, 0.22], dtype=np.float32)
LAMP = np.array([1.0, 0.98, 0.95], dtype=np.float32)  # the colour of gleams


@dataclass
class Scene:
    """The fields that a picture is rendered from; the functions below change them.

    Attributes:
        size: S, px.
        height: px towards the camera.
        albedo: Colour of the tissue, (S, S, 3), 0..1.
        light: Brightness, by the distance from the lamp.
        vessels: Density of the vessels, 0..1.
        bumps: Fine relief that makes gleams, px.
        wet: Where it gleams, 0..1.
        view: True inside the field of view.
    """

    size: int
    height: Field
    albedo: Field
    light: Field
    vessels: Field
    bumps: Field
    wet: Field
    view: Mask


# Fields


def _noise(rng: Generator, size: int, cells: float) -> Field:
    """Return smooth noise of so many cells across, deviation about 1."""
    grid = rng.standard_normal((int(cells) + 4, int(cells) + 4)).astype(np.float32)
    shift = rng.random(2)
    box = (1 + shift[0], 1 + shift[1], 1 + shift[0] + cells, 1 + shift[1] + cells)
    picture = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC, box=box)
    noise: Field = np.asarray(picture, dtype=np.float32) * 1.3
    return noise


def fractal(rng: Generator, size: int, cells: float, octaves: int = 3) -> Field:
    """Return noise with details: each octave has half the cells' width and 0.55 of the strength."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        total += 0.55**octave * _noise(rng, size, cells * 2**octave)
    return total / np.float32(np.sqrt(sum(0.55 ** (2 * octave) for octave in range(octaves))))


def _grid(size: int) -> tuple[Field, Field]:
    """Return x and y of the pixel centres, -1..1."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    return np.broadcast_to(axis[None, :], (size, size)), np.broadcast_to(axis[:, None], (size, size))


def smoothstep(low: float, high: float, values: Field) -> Field:
    """Return 0 below low and 1 above high (either order), smooth between."""
    share = np.clip((values - low) / (high - low), 0, 1)
    smooth: Field = share * share * (3 - 2 * share)
    return smooth


def blur(field: Field, sigma: float) -> Field:
    """Return a field smoothed by a Gaussian of so many px."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(field, sigma, truncate=3.0), dtype=np.float32)


# Tissue


def lesion_free_scene(rng: Generator, size: int) -> Scene:
    """Draw a wall or a tunnel with its vessels and what looks like a lesion but is none."""
    scene = _wall(rng, size) if rng.random() < 0.5 else _tunnel(rng, size)
    scene.vessels = _vessels(rng, size)
    _add_distractors(rng, scene)
    return scene


def _blank(rng: Generator, size: int) -> Scene:
    first, second = rng.choice(len(MUCOSA), 2, replace=False)
    colour = MUCOSA[first] * rng.uniform(0.6, 1.0) + MUCOSA[second] * rng.uniform(0.0, 0.4)
    tint = fractal(rng, size, 3)[..., None] * rng.uniform(0.15, 0.40)
    mottle = fractal(rng, size, size / 9, 2)[..., None] * rng.uniform(0.06, 0.16)
    albedo = np.float32(colour) + (tint + mottle) * np.float32(PALE)
    zero = np.zeros((size, size), np.float32)
    bumps = fractal(rng, size, size / 10, 2) * rng.uniform(0.25, 0.5)
    wet = smoothstep(rng.uniform(0.1, 0.7), 1.3, fractal(rng, size, 4, 2)) * rng.uniform(0.5, 1.0)
    return Scene(size, zero, albedo, zero + 1, zero, bumps, wet, _field_of_view(rng, size))


def _field_of_view(rng: Generator, size: int) -> Mask:
    """Return an octagon, a circle or a rounded square, sometimes with a black box in the lower left corner."""
    x, y = _grid(size)
    shape = rng.random()
    if shape < 0.6:
        inside = np.abs(x) + np.abs(y) < rng.uniform(1.25, 1.5)
    elif shape < 0.85:
        inside = np.hypot(x, y) < rng.uniform(1.0, 1.2)
    else:
        inside = x**4 + y**4 < rng.uniform(1.0, 1.4)
    inside &= np.maximum(np.abs(x), np.abs(y)) < rng.uniform(0.97, 1.01)
    if shape < 0.6 and rng.random() < 0.4:
        inside &= (x > rng.uniform(-0.45, -0.3)) | (y < rng.uniform(0.3, 0.5))
    return inside


def _wall(rng: Generator, size: int) -> Scene:
    """Look at the wall from near: broad undulation, a few curved folds, one side close to the lamp."""
    scene = _blank(rng, size)
    x, y = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    scene.height = fractal(rng, size, 2.5, 2) * (0.035 * size)
    scene.light = np.exp(along * rng.uniform(0.15, 0.6) - 0.25 * (x * x + y * y))
    bend = along * rng.uniform(0.8, 1.6) + 0.3 * _noise(rng, size, 2)
    for _ in range(int(rng.integers(1, 4))):
        _add_fold(rng, scene, bend - rng.uniform(-1.0, 1.0), steep=rng.uniform(0.04, 0.10))
    return scene


def _add_fold(rng: Generator, scene: Scene, distance: Field, steep: float) -> None:
    """Add a crest where distance is 0; behind it (distance > 0) the tissue lies in shadow and further away."""
    strength = smoothstep(-0.6, 0.8, _noise(rng, scene.size, 2.5)) * rng.uniform(0.4, 1.0)
    width = rng.uniform(0.14, 0.30)
    crest = np.exp(np.minimum(distance / width, 0) - np.maximum(distance / np.float32(steep), 0))
    behind = smoothstep(-0.5 * steep, 1.2 * steep, distance) * np.exp(-np.maximum(distance, 0) / 0.35)
    scene.height = scene.height + strength * blur(crest.astype(np.float32), 2.0) * (0.07 * scene.size)
    scene.light = scene.light * (1 - 0.62 * strength * behind)


def _tunnel(rng: Generator, size: int) -> Scene:
    """Look along the bowel: the lumen is dark, rings of folds lie around it, the near wall is bright."""
    scene = _blank(rng, size)
    x, y = _grid(size)
    centre = rng.uniform(0.15, 0.75) * np.array([np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn)])
    squash, warp = rng.uniform(0.7, 1.3), fractal(rng, size, 2, 2)
    radius = np.hypot((x - np.float32(centre[0])) * squash, (y - np.float32(centre[1])) / squash)
    radius = radius * (1 + 0.10 * warp) + 0.02
    near = radius / rng.uniform(0.7, 1.1)
    scene.light = 0.10 + 1.25 * near**2 / (0.30 + near**2)
    scene.height = fractal(rng, size, 3, 2) * (0.02 * size) * np.minimum(near, 1)
    ring = rng.uniform(0.16, 0.28)
    while ring < 1.9:
        wobble = ring * (1 + 0.12 * _noise(rng, size, 2.2))
        scale = 0.5 + ring  # the nearer, the larger
        _add_fold(rng, scene, (wobble - radius) / scale, steep=rng.uniform(0.03, 0.06))
        ring *= rng.uniform(1.35, 1.8)
    return scene


def _vessels(rng: Generator, size: int) -> Field:
    """Draw trees of vessels that branch and taper, drawn at twice the size and averaged."""
    scale = 2
    canvas = Image.new("L", (scale * size, scale * size))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(-0.1, 1.1, 2) * scale * size
        stack = [(x, y, rng.uniform(0, 2 * np.pi), rng.uniform(1.2, 2.6) * scale * size / 256)]
        for _ in range(100):
            if not stack:
                break
            _grow(rng, draw, stack, scale * size)
    field = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    return blur(field, 0.5) * rng.uniform(0.25, 0.85)


def _grow(rng: Generator, draw: ImageDraw.ImageDraw, stack: list[tuple[float, float, float, float]], side: int) -> None:
    """Draw one stretch of a vessel and put what grows from its end on the stack."""
    x, y, angle, width = stack.pop(0)
    turns = rng.normal(0, 0.22, 6)
    points = [(x, y)]
    for turn in turns:
        angle += turn
        x, y = x + 0.022 * side * np.cos(angle), y + 0.022 * side * np.sin(angle)
        points.append((x, y))
    draw.line(points, fill=int(min(255, 90 + 70 * width)), width=max(1, round(width)), joint="curve")
    if width > 0.8 and -0.2 * side < x < 1.2 * side and -0.2 * side < y < 1.2 * side:
        spread = rng.uniform(0.35, 0.8)
        stack.append((x, y, angle + spread * 0.4, width * 0.92))
        stack.append((x, y, angle - spread, width * 0.7))


# What lies on the tissue


def shape(rng: Generator, size: int, centre: Field, radius: float, *, elongation: float, ragged: float) -> Field:
    """Return the distance from the centre of an irregular superellipse, 1 on its outline.

    Args:
        rng: Draws angle, roundness and bulges.
        size: Side of the frame in px.
        centre: x and y in px.
        radius: Mean radius in px.
        elongation: Longer over shorter axis.
        ragged: Relative size of the bulges.
    """
    axis = np.arange(size, dtype=np.float32) + 0.5
    dx, dy = axis[None, :] - np.float32(centre[0]), axis[:, None] - np.float32(centre[1])
    turn = rng.uniform(0, np.pi)
    along = np.float32(np.cos(turn)) * dx + np.float32(np.sin(turn)) * dy
    across = np.float32(np.cos(turn)) * dy - np.float32(np.sin(turn)) * dx
    power, stretch = np.float32(rng.uniform(1.8, 2.8)), np.float32(np.sqrt(elongation))
    distance = (np.abs(along / stretch) ** power + np.abs(across * stretch) ** power) ** (1 / power)
    angle = np.arctan2(across, along)
    outline = np.ones((size, size), np.float32)
    for wave in range(2, 7):
        outline += np.float32(ragged * rng.normal() / wave) * np.cos(wave * angle + rng.uniform(0, 6.3))
    return np.asarray(distance / (np.float32(radius) * np.maximum(outline, 0.5)))


def step_towards(scene: Scene, colour: Field, share: Field) -> None:
    """Add a colour step to the tissue, in the given share of it at each pixel."""
    scene.albedo = scene.albedo + share[..., None] * np.float32(colour)


def _add_distractors(rng: Generator, scene: Scene) -> None:
    """Add what is no lesion: lumps of folds, red or pale patches, mucus, debris."""
    size = scene.size
    for _ in range(int(rng.integers(0, 3))):  # a lump of normal tissue, long and without an own colour
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.05, 0.11) * size
        rho = shape(rng, size, centre, radius, elongation=rng.uniform(3.0, 6.0), ragged=0.1)
        scene.height = scene.height + np.exp(-1.5 * rho**2) * (rng.uniform(0.02, 0.06) * size)
    for _ in range(int(rng.integers(0, 3))):  # a patch without edge; its vessels go on
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.06, 0.16) * size
        rho = shape(rng, size, centre, radius, elongation=rng.uniform(1.0, 2.0), ragged=0.2)
        step_towards(scene, (RED, PALE)[int(rng.integers(2))] * rng.uniform(0.15, 0.4), np.exp(-(rho**2)))
    if rng.random() < 0.3:  # mucus
        film = smoothstep(0.5, 2.4, fractal(rng, size, 3, 4)) * rng.uniform(0.4, 0.8)
        scene.albedo += film[..., None] * (MUCUS - scene.albedo)
        scene.vessels = scene.vessels * (1 - film)
    if rng.random() < 0.35:
        _add_debris(rng, scene)


def _add_debris(rng: Generator, scene: Scene) -> None:
    centre = rng.uniform(0.1, 0.9, 2) * scene.size
    for _ in range(int(rng.integers(2, 7))):
        spot, radius = centre + rng.normal(0, 0.06, 2) * scene.size, rng.uniform(0.008, 0.03) * scene.size
        rho = shape(rng, scene.size, spot, radius, elongation=rng.uniform(1.0, 2.0), ragged=0.35)
        cover = smoothstep(1.15, 0.8, rho)
        scene.albedo += cover[..., None] * (np.float32(DEBRIS * rng.uniform(0.6, 1.1)) - scene.albedo)
        dome = np.sqrt(np.maximum(0, 1 - rho**2))
        scene.height = scene.height + dome * np.float32(0.5 * radius)
        scene.vessels = scene.vessels * (1 - cover)


# Light and camera


def render(rng: Generator, scene: Scene) -> Pixels:
    """Light the scene, add gleams and bubbles, and take the picture."""
    lamp = rng.normal(0, 0.22, 2)
    slope_y, slope_x = np.gradient(scene.height + 0.3 * scene.bumps)
    facing = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    lit = (1 - np.float32(lamp[0]) * slope_x - np.float32(lamp[1]) * slope_y) * facing
    shade = scene.light * (0.30 + 0.70 * np.clip(lit, 0, 1.6))
    blood = 1 - scene.vessels[..., None] * np.float32(VESSEL)
    colour = np.clip(scene.albedo, 0.02, 1) * blood * shade[..., None]
    picture = 1 - np.exp(-rng.uniform(1.7, 2.6) * colour**1.25)  # the camera saturates softly
    picture *= 1 / 0.88
    picture = _add_gleams(rng, scene, picture, lamp)
    if rng.random() < 0.3:
        picture = _add_bubbles(rng, scene.size, picture)
    return _take(rng, scene, picture)


def _add_gleams(rng: Generator, scene: Scene, picture: Field, lamp: Field) -> Field:
    """Add mirror images of the lamp where wet, finely bumped tissue faces it."""
    relief = scene.height + scene.bumps
    slope_y, slope_x = np.gradient(relief)
    away = (slope_x + np.float32(lamp[0])) ** 2 + (slope_y + np.float32(lamp[1])) ** 2
    gleam = np.exp(-away / rng.uniform(0.008, 0.02)) * np.clip(scene.light, 0, 1) * scene.wet
    gleam = smoothstep(0.25, 0.6, gleam)
    return picture + gleam[..., None] * (LAMP - picture)


def _add_bubbles(rng: Generator, size: int, picture: Field) -> Field:
    """Add a cluster of bubbles: thin bright rims with a gleam each."""
    scale = 2
    canvas = Image.new("L", (scale * size, scale * size), 128)
    draw = ImageDraw.Draw(canvas)
    centre = rng.uniform(0.15, 0.85, 2)
    for _ in range(int(rng.integers(6, 40))):
        x, y = (centre + rng.normal(0, 0.07, 2)) * scale * size
        r = rng.uniform(0.006, 0.022) * scale * size
        draw.ellipse((x - r, y - r, x + r, y + r), outline=165, fill=118)
        draw.arc((x - r, y - r, x + r, y + r), 150, 290, fill=220)
        draw.ellipse((x - 0.45 * r, y - 0.45 * r, x - 0.15 * r, y - 0.15 * r), fill=255)
    field = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 128 - 1
    dark, bright = np.minimum(field, 0)[..., None], np.maximum(field, 0)[..., None]
    return np.asarray(picture * (1 + dark) + bright * 0.7)


def _take(rng: Generator, scene: Scene, picture: Field) -> Pixels:
    """Apply lens, white balance, grain and the black frame."""
    x, y = _grid(scene.size)
    vignette = 1 - rng.uniform(0.10, 0.30) * (x * x + y * y) / 2
    balance = np.float32(rng.uniform(0.94, 1.06, 3))
    lit = picture * vignette[..., None] * balance
    sharpness = rng.uniform(0.35, 0.8) * scene.size / 256  # px, deviation of the lens's blur
    seen = np.stack([blur(lit[..., channel], sharpness) for channel in range(3)], axis=-1)
    grain = rng.standard_normal((scene.size, scene.size, 3), dtype=np.float32) * rng.uniform(0.008, 0.018)
    inside = blur(scene.view.astype(np.float32), 0.7)[..., None]
    framed = (seen + grain) * inside + 0.012
    return np.asarray(np.clip(np.rint(framed * 255), 0, 255), dtype=np.uint8)
