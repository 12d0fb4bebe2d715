"""Examples: a real lesion moved onto a request's mask, from which sampling starts instead of from noise alone.

Noised to the timestep where sampling starts, the moved lesion gives the painter detail that few annotated cases cannot
teach it; what the painter makes of that follows mask, prompt and light (SDEdit: Meng et al. 2022, arXiv:2108.01073).

A lesion is moved by rays: what lies at a share of the way from the centre to the outline, in some direction, goes to
the same share of the way, in that direction, in the new mask. Directions stay, since light comes from the camera.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from diffaug.conditioning.attributes import RING, equivalent_diameter
from diffaug.data.images import Mask, Pixels
from diffaug.painting.compose import blending_weight, region_of
from diffaug.painting.window import Window, resize

Values = NDArray[np.float64]
RAYS = 128  # directions in which an outline is measured
SMOOTH = 1.5  # rays; of the Gaussian that smooths the measured lengths
GAIN = 1.6  # largest factor by which an example is made lighter or darker
LIGHTEST = 215.0  # grey level to which a lesion's lighter part may be lit; what is as light by itself stays so
LIGHTER = 0.8  # quantile of its colours that counts as that part
RIM = 0.3  # of the band; what a moved lesion shows of the tissue around it, blended into the background
LIT = 0.5  # share of a source pixel that must be tissue beside its lesion, to tell of the light there


def centre_of(mask: Mask) -> Values:
    """Return the centroid of a mask that is not empty, (2,): row and column, px."""
    centre: Values = np.argwhere(mask).mean(axis=0)
    return centre


def ray_lengths(mask: Mask, centre: Values) -> Values:
    """Return how far a mask reaches from a point in each of RAYS directions, (RAYS,), px and at least 1.

    The farthest pixel counts: of a shape that a ray crosses several times, its hull along the ray.

    Args:
        mask: Shape (H, W), not empty.
        centre: Row and column, px.
    """
    outline = mask & ~ndimage.binary_erosion(mask)
    away = np.argwhere(outline) - centre
    ray = np.round(np.arctan2(away[:, 0], away[:, 1]) / (2 * np.pi) * RAYS).astype(int) % RAYS
    lengths = np.zeros(RAYS)
    np.maximum.at(lengths, ray, np.hypot(away[:, 0], away[:, 1]))
    known = np.flatnonzero(lengths)
    filled = np.interp(np.arange(RAYS), known, lengths[known], period=RAYS) if len(known) else lengths
    return np.maximum(ndimage.gaussian_filter1d(filled, SMOOTH, mode="wrap"), 1.0)


def source_points(points: Values, outlines: Sequence[tuple[Mask, Mask]]) -> Values:
    """Return where in the source frame the points of a target frame come from, both (2, ...), px.

    Args:
        points: Rows and columns in the target frame.
        outlines: Masks of the source frame and where each goes in the target frame, not empty; nested, the innermost
            first, such as cup and disc.
    """
    origin, centre = (centre_of(mask) for mask in outlines[0])
    rows, columns = points[0] - centre[0], points[1] - centre[1]
    far, direction = np.hypot(rows, columns), np.arctan2(rows, columns)
    ray = direction / (2 * np.pi) * RAYS % RAYS
    here, there = np.zeros_like(far), np.zeros_like(far)  # lengths to the last outline, of target and source
    made = np.zeros_like(far)
    for source, target in outlines:
        ends = (ray_lengths(target, centre), ray_lengths(source, origin))
        ours, theirs = (np.interp(ray, np.arange(RAYS), lengths, period=RAYS) for lengths in ends)
        ours, theirs = np.maximum(ours, here + 0.5), np.maximum(theirs, there + 0.5)
        made = np.where(far >= here, there + (far - here) * (theirs - there) / (ours - here), made)
        here, there = ours, theirs
    made = np.where(far > here, there + (far - here) * scale_of_outline(*outlines[-1]), made)
    return np.stack([origin[0] + made * np.sin(direction), origin[1] + made * np.cos(direction)])


def scale_of_outline(source: Mask, target: Mask) -> float:
    """Return px of the source for one px of the target."""
    return float(np.sqrt(source.sum() / target.sum()))


def mirrored_tissue(frame: Pixels, known: Mask) -> Pixels:
    """Return a frame whose unknown pixels show the tissue that lies as far beyond the nearest border, (H, W, 3).

    Args:
        frame: Shape (H, W, 3).
        known: Where it shows tissue, (H, W); where all is unknown the frame comes back.
    """
    if not known.any():
        return frame
    border = np.asarray(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))
    here = np.indices(known.shape)
    beyond = np.clip(2 * border - here, 0, np.array(known.shape)[:, None, None] - 1)
    found = np.where(known[tuple(beyond)], beyond, border)
    return np.asarray(frame[tuple(found)])


def window_points(window: Window, side: int) -> Values:
    """Return the centres of a window's pixels at the model's side, (2, side, side), px of the frame."""
    along = (np.arange(side) + 0.5) * window.side / side - 0.5
    return np.stack(np.meshgrid(window.top + along, window.left + along, indexing="ij"))


def sampled(frame: NDArray[np.uint8], points: Values, step: float) -> NDArray[np.float32]:
    """Return a frame's values at points, (h, w, C), mirrored beyond its edges.

    Args:
        frame: Shape (H, W, C).
        points: Rows and columns, (2, h, w), px.
        step: Px from point to point; with more than 1 the frame is scaled down first, so that nothing aliases.
    """
    values = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    height, width = frame.shape[:2]
    if step > 1:
        values = resize(values, (max(1, round(height / step)), max(1, round(width / step))))
    along = torch.from_numpy(np.stack([(points[1] + 0.5) / width, (points[0] + 0.5) / height], axis=-1)).float()
    found = F.grid_sample(values, along[None] * 2 - 1, padding_mode="reflection", align_corners=False)
    return np.asarray(found[0].permute(1, 2, 0).numpy())


def moved_example(
    source: Pixels,
    body: Pixels,
    tissue: Mask,
    outlines: Sequence[tuple[Mask, Mask]],
    window: Window,
    background: Pixels,
    new: Mask,
    old: Mask,
    band: float,
) -> Pixels:
    """Return a window that shows the source's lesion in the light of the background: (side, side, 3).

    The lesion comes with a narrow rim of its own tissue, blended into the background; its colours are scaled by what
    makes the tissue around it that of the place. Where an old lesion lay, the background shows the tissue beside it.

    Args:
        source: Frame of the example, (H, W, 3).
        body: The same frame with its lesion mirrored at the outline: where a ray leaves a bent lesion and enters it
            again, no tissue from between gets into the new one.
        tissue: Where it shows tissue that is no lesion, (H, W).
        outlines: Its lesion, and where that goes; see `source_points`.
        window: Of the frame that is painted.
        background: The window, (side, side, 3), in pixels of any size.
        new: The new lesion, (side, side).
        old: The lesions that it replaces, also where it covers them: nothing of them is tissue of the place.
        band: Blending band, px of the window as given.
    """
    side = background.shape[0]
    points = source_points(window_points(window, side), outlines)
    step = window.side / side * scale_of_outline(*outlines[-1])  # source px per window px
    moved = sampled(np.concatenate([source, tissue[..., None] * np.uint8(255)], axis=2), points, step)
    patch, lit = np.where(new[..., None], sampled(body, points, step), moved[..., :3]), moved[..., 3] > 255 * LIT
    real = mirrored_tissue(background, ~region_of(old, old, band)) if old.any() else background
    away = ndimage.distance_transform_edt(~new)
    ring = (away > band) & (away <= band + RING * equivalent_diameter(float(new.sum())))
    patch = patch * light_gain(patch[ring & lit], real[ring], patch[new])
    weight = blending_weight(away <= RIM * band, RIM * band)[:, :, None]
    mixed = np.clip(real * (1 - weight) + patch * weight, 0, 255)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def light_gain(source: NDArray[Any], target: NDArray[Any], lesion: NDArray[Any]) -> NDArray[np.float32]:
    """Return what the source's colours are multiplied by, (3,), from tissue of both and its lesion, each (N, 3).

    A pale lesion is lit no further than a camera would expose it, and none of its colours passes one that it was weaker
    than: with more it would be white all over, or blue.
    """
    if not (len(source) and len(target) and len(lesion)):
        return np.ones(3, dtype=np.float32)
    gain = np.median(target, axis=0) / np.maximum(np.median(source, axis=0), 1.0)
    own = np.maximum(np.quantile(lesion, LIGHTER, axis=0), 1.0)
    lit, order = own * np.clip(gain, 1 / GAIN, GAIN), np.argsort(-own, kind="stable")
    lit[order] = np.minimum.accumulate(lit[order])
    lit *= min(1.0, max(LIGHTEST, own.mean()) / lit.mean())
    return np.asarray(lit / own, dtype=np.float32)
