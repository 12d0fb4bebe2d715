"""Examples: a real lesion moved onto a request's mask, from which sampling starts instead of from noise alone.

Noised to the timestep where sampling starts, the moved lesion gives the painter detail that few annotated cases cannot
teach it; what the painter makes of that follows mask, prompt and light (SDEdit: Meng et al. 2022, arXiv:2108.01073).

A lesion is moved by rays: what lies at a share of the way from the centre to the outline, in some direction, goes to
the same share of the way in the new mask. Directions stay, but for a mirroring and a small turn that fit its outline to
the mask's. It brings a rim of its own tissue along, and takes on the light of the place along its whole border.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from diffaug.conditioning.attributes import signed_distance
from diffaug.conditioning.rays import Alignment, at_directions, centre_of, ray_lengths
from diffaug.data.images import Mask, Pixels, is_grey
from diffaug.painting.below import with_effect_below
from diffaug.painting.border import ends_of_halo
from diffaug.painting.light import glare_of, in_detail_of, relit
from diffaug.painting.window import Window, resize

Values = NDArray[np.float64]
UPRIGHT = Alignment()
COARSE, FINE = (0.5, 1.35), (0.5, 1.05)  # of its end; where coarse and fine structure begin to fade, and are gone
RIM = (0.05, 0.22)  # of the halo; in colour images fine structure fades there, and so does lighter tissue
VISIBLE = 6.0  # grey levels; tissue that is so much lighter than the place is seen as a ring
SMOOTHED = 0.24  # of the halo; lighter is told at structures coarser than this
FINER = 0.12  # of the halo; fine structure is what a Gaussian of this width removes
WALL = 0.7  # of the brightness that a quarter of the tissue around a lesion exceeds; what is darker lies deeper
LIGHT_OF = (0.75, 1.4)  # of the halo; the light of a place is measured between these distances from the lesion
SHADOW = (0.3, 0.5)  # most of the light that a contact shadow takes, at the outline, and where it ends, of the halo
SHARP = 0.15  # of the halo; width over which what is no tissue around an example is left out
INEXACT = 2.0  # px, of the window or the source, the larger, by which a moved outline may miss the mask's
LIT = 0.5  # share of a source pixel that must be tissue beside its lesion, to tell of the light there


def source_points(points: Values, outlines: Sequence[tuple[Mask, Mask]], way: Alignment = UPRIGHT) -> Values:
    """Return where in the source frame the points of a target frame come from, both (2, ...), px.

    Args:
        points: Rows and columns in the target frame.
        outlines: Masks of the source frame and where each goes in the target frame, not empty; nested, the innermost
            first, such as cup and disc.
        way: How the source is mirrored and turned first.
    """
    origin, centre = (centre_of(mask) for mask in outlines[0])
    rows, columns = points[0] - centre[0], points[1] - centre[1]
    far, direction = np.hypot(rows, columns), np.arctan2(rows, columns)
    turned = way.direction(direction)
    here, there = np.zeros_like(far), np.zeros_like(far)  # lengths to the last outline, of target and source
    made = np.zeros_like(far)
    for source, target in outlines:
        ours = at_directions(ray_lengths(target, centre), direction)
        theirs = at_directions(ray_lengths(source, origin), turned)
        ours, theirs = np.maximum(ours, here + 0.5), np.maximum(theirs, there + 0.5)
        made = np.where(far >= here, there + (far - here) * (theirs - there) / (ours - here), made)
        here, there = ours, theirs
    made = np.where(far > here, there + (far - here) * scale_of_outline(*outlines[-1]), made)
    return np.stack([origin[0] + made * np.sin(turned), origin[1] + made * np.cos(turned)])


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


@dataclass(frozen=True, eq=False)
class Example:
    """A lesion that is moved.

    Attributes:
        frame: Its frame with border and overlays filled, (H, W, 3).
        body: The same with the lesion mirrored at its outline, outwards.
        tissue: Where the frame shows tissue that is no lesion, (H, W).
        lesion: Shape (H, W).
        distance: Signed distance to its outline, px, positive inside, (H, W).
        corner: Top and left of all these in the whole frame, where they are a part of it.
    """

    frame: Pixels
    body: Pixels
    tissue: Mask
    lesion: Mask
    distance: NDArray[np.float32]
    corner: tuple[int, int] = (0, 0)

    @staticmethod
    def of(frame: Pixels, field: Mask, lesion: Mask, corner: tuple[int, int] = (0, 0)) -> "Example":
        """Take a frame, or a part of one, without border and overlays, its field of view, and a lesion of it."""
        body = mirrored_tissue(frame, lesion)
        return Example(frame, body, field & ~lesion, lesion, signed_distance(lesion), corner)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return sum(part.nbytes for part in (self.frame, self.body, self.tissue, self.lesion, self.distance))

    def part_of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what an array of the whole frame, (h, w, ...), holds of this part."""
        (top, left), (height, width) = self.corner, self.lesion.shape
        return values[top : top + height, left : left + width]

    def at(self, points: Values, step: float, new: Mask, own: bool) -> tuple[NDArray[np.float32], Mask]:
        """Return what a window shows of the lesion and the tissue around it, (s, s, 3), and where that is tissue.

        Where a ray brings tissue into the new lesion, since it crosses a bent one twice, the lesion is mirrored at its
        outline; where it brings a lesion beside the new one, that is no tissue, and is not shown.

        Args:
            points: Where each pixel comes from, (2, s, s), px from `corner`.
            step: Px of the frame for one of the window.
            new: Where the lesion goes, (s, s).
            own: Whether that is its own outline, moved alike, so that nothing comes to where it does not belong.
        """
        depth = np.clip(self.distance / max(step, 1.0) / INEXACT, -1, 1)
        sides = np.stack([np.where(self.tissue, 255, 0), 127.5 * (depth + 1)], axis=2)
        values = np.concatenate([self.frame, np.rint(sides).astype(np.uint8)], axis=2)
        found = sampled(values, points, step)
        if own:
            return found[..., :3], found[..., 3] > 255 * LIT
        near = np.abs(signed_distance(new)) * min(step, 1.0) <= 2 * INEXACT
        beyond = np.where(near, 127.0, -64.0)  # some is borne near the outline
        outside = new & (found[..., 4] < 127.5 - beyond)
        shown = np.where(outside[..., None], sampled(self.body, points, step), found[..., :3])
        return shown, found[..., 3] > 255 * LIT


def moved_example(
    example: Example,
    points: Values,
    step: float,
    background: Pixels,
    new: Mask,
    usable: Mask,
    halo: float,
    own: bool = False,
    depth: float = 0.0,
) -> Pixels:
    """Return a window that shows the source's lesion in the light of the background: (side, side, 3).

    The lesion comes with a halo of its own tissue: its contact shadow, its base, the folds that it bends. Both take on
    the light of the place as it is beyond the halo. The halo ends where it differs least from the place, see border.py.
    Coarse structure fades into the background around that end, fine structure sooner, so that no texture is seen
    twice; highlights of the background stay. It is as sharp as the tissue that it comes to. In colour images the halo
    brings shadows alone beyond the lesion's rim: fine structure and what is lighter than the place end there, since
    readers see them as a ring, as bubbles or as haze; and what is darker than a shadow, such as a lumen, is none.

    Args:
        example: The lesion.
        points: Where each pixel of the window comes from, (2, side, side), px from the example's `corner`.
        step: Px of its frame for one of the window.
        background: The window without the lesions that are painted over, (side, side, 3), in pixels of any size.
        new: The new lesion, (side, side).
        usable: Where the background shows tissue, (side, side).
        halo: Its largest width, px of the window as given.
        own: Whether the new lesion is the example's own outline, moved as the points say.
        depth: How far below itself the lesion darkens or brightens an ultrasound image, px of the window; 0 is not.
    """
    patch, lit = example.at(points, step, new, own)
    away = ndimage.distance_transform_edt(~new)
    around = (away > LIGHT_OF[0] * halo) & (away <= LIGHT_OF[1] * halo) & lit & usable
    place = background.astype(np.float32)
    if not is_grey(background):
        around = at_one_depth(around, patch)
    if depth:
        place = with_effect_below(place, usable, patch, lit, new, depth)
    patch = in_detail_of(np.clip(relit(patch, place, around, new), 0, 255), place, around)
    shown = ndimage.gaussian_filter((new | lit).astype(np.float32), SHARP * halo)
    shown = np.where(new, 1.0, np.clip(2 * shown - 1, 0, 1) * (1 - glare_of(place)[..., 0]))  # which no shadow dims
    if not is_grey(background):
        patch = without_depth(patch, place, new, away / halo, INEXACT * max(1.0, 1 / step))
    ends = ends_of_halo(np.abs(patch - place).mean(axis=2), away / halo, new, lit & usable)
    coarse = shown * falling(away / halo / ends, *COARSE)
    if is_grey(background):
        fine = shown * falling(away / halo / ends, *FINE)
    else:
        lighter = ndimage.gaussian_filter((patch - place).mean(axis=2), SMOOTHED * halo)
        fine = shown * falling(away / halo, *RIM)
        coarse = np.maximum(coarse * falling(lighter, 0, VISIBLE), fine)
    mixed = in_two_scales(place, patch, coarse, fine, FINER * halo)
    return np.asarray(np.rint(np.clip(mixed, 0, 255)), dtype=np.uint8)


def at_one_depth(around: Mask, patch: NDArray[Any]) -> Mask:
    """Return the part of a band, (h, w), where an example, (h, w, 3), shows a wall, and no lumen behind its lesion.

    What is much darker than most of the band lies deeper, and says nothing of the light on the lesion: if a lumen
    counted as tissue, the lesion would be lit at its new place until it was white.
    """
    light = patch.mean(axis=2)
    return around & (light > WALL * np.quantile(light[around], 0.75)) if around.any() else around


def without_depth(patch: NDArray[Any], place: NDArray[Any], new: Mask, away: NDArray[Any], rim: float) -> NDArray[Any]:
    """Return a patch, (h, w, 3), around whose lesion nothing is darker than it and than a contact shadow on the place.

    What lies deeper behind an example, such as a lumen, is no shadow: where the new lesion lies there is a wall.

    Args:
        patch: What is moved, in the light of the place, (h, w, 3).
        place: What was there, (h, w, 3).
        new: The new lesion, (h, w).
        away: Distance from it over the width of the halo, (h, w).
        rim: Px by which the outline may lie outside the lesion, so that the rim inside shows what lies behind it, too.
    """
    around = ndimage.distance_transform_edt(new) <= rim + 1
    shaded = place * (1 - SHADOW[0] * falling(away, 0, SHADOW[1]))[..., None]
    least = np.minimum(shaded, np.median(patch[new], axis=0))
    return np.where(around[..., None], np.maximum(patch, least), patch)


def falling(values: NDArray[Any], high: float, low: float) -> NDArray[Any]:
    """Return 1 up to `high`, 0 from `low` on, and a cubic step between."""
    share = np.clip((low - values) / (low - high), 0, 1)
    return np.asarray(share**2 * (3 - 2 * share))


def in_two_scales(
    place: NDArray[Any], patch: NDArray[Any], coarse: NDArray[Any], fine: NDArray[Any], sigma: float
) -> NDArray[Any]:
    """Blend a patch into a place, (h, w, 3): each scale of structure by weights of its own.

    Args:
        place: What is there, (h, w, 3).
        patch: What comes there, (h, w, 3).
        coarse: Its share of what a Gaussian leaves, (h, w); where it is 1 all structure is the patch's.
        fine: Its share of what the Gaussian removes, (h, w).
        sigma: Of the Gaussian, px.

    Source: Burt and Adelson 1983, "A multiresolution spline with application to image mosaics", here with two bands.
    """
    smooth = ndimage.gaussian_filter(patch - place, (sigma, sigma, 0))
    return np.asarray(place + smooth * coarse[..., None] + (patch - place - smooth) * fine[..., None])
