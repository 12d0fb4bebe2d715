"""Put a painted window back: light and grain of the background, a blending band, nothing outside it.

Everything is in native pixels of the frame.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from diffaug.conditioning.attributes import box_around, near
from diffaug.data.images import Mask, Pixels, is_grey
from diffaug.painting.window import Window, resize, tensor_from_pixels

Values = NDArray[np.float32]
LIGHT_SCALE = 0.06  # of the window's side; the light is corrected at structures coarser than this
GRID = 4  # cells per LIGHT_SCALE of the grid on which that is done
KEPT_SCALE = 3.0  # px of the painter; what a Gaussian of this width removes is the start's own structure
GRAIN_SCALE = 1.0  # px; grain is what a Gaussian of this width removes


def region_of(new: Mask, old: Mask, band: float) -> Mask:
    """Return where a request may paint: both masks dilated by the blending band (px)."""
    return near(new | old, band)


def halo_width(mask: Mask, share: float) -> float:
    """Return the width in px of what an example brings along of its tissue: a share of the radius of equal area."""
    return share * float(np.sqrt(np.count_nonzero(mask) / np.pi))


def reach_of(region: Mask, field: Mask, band: float) -> Mask:
    """Return what the painter fills: the region, and what lies outside the field of view within a band (px) of it.

    Nothing of the latter is shown; but a painter that sees black beside a lesion paints the lesion's rim black.
    """
    return np.asarray(region | (~field & near(region, band)))


def without_border(frame: Pixels, field: Mask, reach: Mask, window: Window | None = None) -> Pixels:
    """Return a frame whose border and overlays are filled with the nearest tissue that is not painted, (H, W, 3).

    Args:
        frame: Shape (H, W, 3).
        field: Where it shows tissue, (H, W).
        reach: What is painted, (H, W).
        window: Fill only what lies in this window, with tissue of the window, if it shows any; None fills all.
    """
    if window is not None and not field.all():
        box = window.inside(field.shape)
        if (field & ~reach)[box].any():
            made = frame.copy()
            made[box] = without_border(frame[box], field[box], reach[box])
            return made
    known = field & ~reach
    if field.all() or not known.any():
        return frame
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.where(field[..., None], frame, frame[tuple(nearest)])


def blending_weight(region: Mask, band: float) -> Values:
    """Return the painted share of each pixel, (H, W): 0 outside the region, 1 deeper inside it than the band.

    A cubic step between, so that neither end shows an edge.
    """
    if region.all():
        return np.ones(region.shape, dtype=np.float32)  # there is no border to be away from
    weight = np.zeros(region.shape, dtype=np.float32)
    if region.any():
        box = box_around(region, 1)
        depth = np.clip(ndimage.distance_transform_edt(region[box]) / max(band, 1.0), 0.0, 1.0)
        weight[box] = depth**2 * (3 - 2 * depth)
    return weight


def compose(
    background: Pixels,
    painted: Tensor,
    window: Window,
    region: Mask,
    band: float,
    seed: int,
    field: Mask | None = None,
    start: tuple[Pixels, Tensor] | None = None,
) -> Pixels:
    """Return the frame with the painted window blended in.

    Args:
        background: Frame, (H, W, 3).
        painted: Decoded window, (1, 3, side, side) in [-1, 1].
        window: Where it belongs.
        region: Where paint may show, (H, W).
        band: Width of the blending band, px.
        seed: Seeds the grain.
        field: Field of view, (H, W): black corners and overlays outside it tell nothing of the tissue's light and
            grain. None is the whole frame.
        start: The window that sampling started from, (s, s, 3) in pixels as fine as the painter's or finer, and what
            the codec keeps of it, shaped as `painted`: its fine structure is kept, see `harmonised`.

    Returns:
        A new frame; every pixel outside `region` is the background's, byte for byte.
    """
    inside = np.asarray(window.crop(region), dtype=bool)
    unknown = inside if field is None else inside | ~np.asarray(window.crop(field), dtype=bool)
    real = np.asarray(window.crop(background), dtype=np.float32)
    scaled = resize(painted.float(), window.side)[0].permute(1, 2, 0).numpy()
    patch = (np.clip(scaled, -1, 1) + 1) * 127.5
    if start is not None:
        patch = harmonised(painted, *start, window.side)
    if is_grey(real):
        patch = np.repeat(patch.mean(axis=2, keepdims=True), 3, axis=2)
    patch = patch + light_difference(real, patch, unknown)
    if start is None:
        patch = patch + missing_grain(real, patch, inside, np.random.default_rng(seed), ~unknown)

    weight = blending_weight(region, band)
    alpha = np.asarray(window.crop(weight), dtype=np.float32)[:, :, None]
    mixed = np.clip(np.rint(real * (1 - alpha) + patch * alpha), 0, 255).astype(np.uint8)
    frame = background.copy()
    rows, columns = window.inside(region.shape)
    part = mixed[
        rows.start - window.top : rows.stop - window.top, columns.start - window.left : columns.stop - window.left
    ]
    where = region[rows, columns]
    frame[rows, columns][where] = part[where]
    return frame


def harmonised(painted: Tensor, start: Pixels, passed: Tensor, side: int) -> Values:
    """Return a start with the light and the coarse structure of what was painted from it, (side, side, 3).

    What is finer than KEPT_SCALE is the start's: the codec keeps little of it, and a window of 128 px that is enlarged
    none. What is coarser is the painted window's, but for what the codec changes by itself.

    Args:
        painted: Decoded window, (1, 3, h, h) in [-1, 1].
        start: The window that sampling started from, (s, s, 3).
        passed: The start as the codec gives it back, (1, 3, h, h) in [-1, 1].
        side: Of the window, px of the frame.
    """
    change = 127.5 * (painted - passed).float()[0].permute(1, 2, 0).numpy()
    coarse = ndimage.gaussian_filter(change, (KEPT_SCALE, KEPT_SCALE, 0))
    whole = resize(torch.from_numpy(coarse).permute(2, 0, 1)[None], side)
    shown = 127.5 * (resize(tensor_from_pixels(start), side) + 1)
    return np.asarray((shown + whole)[0].permute(1, 2, 0).numpy())


def light_difference(real: Values, patch: Values, unknown: Mask) -> Values:
    """Return the smooth difference of the background from the painted window, carried into the region: (s, s, 3).

    Normalised convolution (Knutsson & Westin 1993) of the difference known outside the region, at a fine scale near the
    border and a coarse one deeper inside, on a grid four times finer than the finer of the two.
    """
    known = (~unknown).astype(np.float32)
    if not known.any():
        return np.zeros_like(patch)
    side = known.shape[0]
    cells = min(side, round(GRID / LIGHT_SCALE))
    values = np.concatenate([(real - patch) * known[:, :, None], known[:, :, None]], axis=2)
    grid = F.adaptive_avg_pool2d(torch.from_numpy(values).permute(2, 0, 1)[None], cells)[0].permute(1, 2, 0).numpy()
    total = np.zeros((cells, cells, 3), dtype=np.float32)
    weight = np.zeros((cells, cells), dtype=np.float32)
    for scale in (LIGHT_SCALE, 4 * LIGHT_SCALE):
        sigma = scale * cells
        smooth = ndimage.gaussian_filter(grid, (sigma, sigma, 0), mode="nearest")
        share = smooth[..., 3]
        trust = (1 - weight) * np.clip(share * 4, 0, 1)
        total += smooth[..., :3] / (share[:, :, None] + 1e-4) * trust[:, :, None]
        weight += trust
    fine = F.interpolate(torch.from_numpy(total).permute(2, 0, 1)[None], (side, side), mode="bilinear")
    return fine[0].permute(1, 2, 0).numpy()


def missing_grain(
    real: Values, patch: Values, inside: Mask, rng: np.random.Generator, around: Mask | None = None
) -> Values:
    """Return grain that lifts the region's fine noise to that of the background: (s, s, 3).

    The background's grain is what a narrow Gaussian removes outside the region, or `around` it, by its median absolute
    value, which edges and highlights do not move; the painted window's is measured inside. Their powers differ by what
    is added.
    """

    def strength(values: Values, where: Mask) -> float:
        grey = values.mean(axis=2)
        fine = np.abs(grey - ndimage.gaussian_filter(grey, GRAIN_SCALE))
        return float(np.median(fine[where])) / 0.6745 if where.any() else 0.0

    around = ~inside if around is None else around
    lacking = strength(real, around) ** 2 - strength(patch, inside) ** 2
    if lacking <= 0 or not around.any():
        return np.zeros_like(patch)
    noise = ndimage.gaussian_filter(rng.standard_normal(inside.shape), 0.5)  # JPEG softens real grain about as much
    fine = noise - ndimage.gaussian_filter(noise, GRAIN_SCALE)
    scaled = noise * (np.sqrt(lacking) / max(1e-6, float(fine.std())))
    return np.repeat(scaled[:, :, None], 3, axis=2).astype(np.float32)
