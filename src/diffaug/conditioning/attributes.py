"""Measurable properties of a lesion: its shape, and how it differs from the tissue around it.

Knows pixels and masks only; words are given in prompts.py. Nothing here is a diagnosis.

Lengths are relative to the lesion: the crop is scaled down until the lesion's longer side is at most `GRID` px, so a
lesion measures the same in a large frame, in a small one and in a training window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.images import Mask, Pixels, check_image, check_mask
from diffaug.data.lesions import largest_part
from diffaug.errors import DataError

GRID = 64  # px; longest side of a lesion on the grid where colours, borders and texture are measured
RING = 0.25  # width of the ring of surrounding tissue, as a share of the equivalent diameter
GAP = 0.03  # width on both sides of the boundary that is left out, since annotators differ; a share of the diameter
DARK = 0.65  # share of the ring's median L*; darker pixels of the ring are not lit
SIDES = 8  # directions in which the light of a lesion's surroundings is told apart; even
FEW = 8  # px; fewer usable pixels than this give no contrast
BLACK = 8.0  # L*; darker pixels are the frame's border
BRIGHT, COLOURLESS = 82.0, 14.0  # L*, chroma; brighter and less coloured pixels are specular highlights
MAX_TEXTURE = 10.0  # the highest texture; surroundings of a surface that is rougher have no structure to compare with

Values = NDArray[np.float32]

# What tells lesions apart, two of them as logarithms.
FEATURES = (
    "relative_area", "eccentricity", "solidity", "lightness_contrast", "redness_contrast", "edge_sharpness", "texture",
)  # fmt: skip
LOGARITHMIC = ("relative_area", "texture")

LINEAR = np.where(
    np.arange(256) <= 0.04045 * 255, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4
).astype(np.float32)
XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], dtype=np.float32
)
WHITE = np.array([0.95047, 1.0, 1.08883], dtype=np.float32)  # D65, 2 degrees


@dataclass(frozen=True)
class Attributes:
    """Properties of one mask in one image. Every field is finite; see `measure_attributes` for the formulas."""

    relative_area: float  # mask pixels / frame pixels
    equivalent_diameter: float  # px of the frame
    eccentricity: float  # 0 = circle, towards 1 = line
    solidity: float  # area / area of the convex hull; 1 = convex
    lightness_contrast: float  # L*, lesion minus ring
    redness_contrast: float  # a*, lesion minus ring
    colour_contrast: float  # CIELAB distance of the medians
    edge_sharpness: float  # L* per tenth of the diameter, across the boundary
    texture: float  # roughness of the lesion / roughness of the ring; 1 = alike


def measure_attributes(image: Pixels, mask: Mask, rules: FrameRules = ENDOSCOPIC) -> Attributes:
    """Measure a lesion, or any region, against the ring of tissue around it.

        relative_area = A / (H W), equivalent_diameter d = sqrt(4 A / pi), A the pixels of the mask
        eccentricity = sqrt(1 - l2 / l1), l1 >= l2 the eigenvalues of the covariance of the mask's pixels
        solidity = A / (area of the convex hull)
        (dL*, da*, db*) = median in the lesion - median in the ring; colour_contrast = |(dL*, da*, db*)|
        edge_sharpness = median of |dL*/dn| at the boundary, times d / 10
        texture = MAD of the high-passed L* in the lesion / that in the ring, MAD the median absolute deviation

    Shape (eccentricity, solidity) is that of the largest component; everything else takes the whole mask. Contrasts are
    differences of medians inside the mask and in a ring of `RING` diameters around it, without the frame's black border
    and specular highlights, as far as the rules of the data set call these no tissue; texture is high-passed over
    tissue alone, so that the light of a highlight is not smoothed into the tissue beside it (normalised convolution,
    Knutsson & Westin 1993). A mask without such a ring (it fills the frame, or lies on black border) has contrasts and
    sharpness of 0 and a texture of 1, since there is nothing to compare with. An empty mask has zeros throughout and a
    texture of 1.

    Args:
        image: Shape (H, W, 3), uint8 RGB.
        mask: Shape (H, W), True inside.
        rules: What in such frames is no tissue.

    Raises:
        ShapeError: The image has not the shape (H, W, 3), or the mask has another size.
        DataError: The image does not hold bytes, or the mask no booleans.

    Example:
        >>> case = diffaug.read_dataset("data/mine")["train-0"]
        >>> attributes = diffaug.measure_attributes(case.read_image(), case.read_mask())
        >>> abs(attributes.relative_area - float(case.read_mask().mean())) < 1e-9
        True

    Source: eccentricity from second central moments, as scikit-image's regionprops; colours in CIELAB 1976, D65, and
        their distance as CIE 15 (Delta E 1976). Edge, texture and the limits of highlights are this project's own.
    """
    check_image(image)
    check_mask(mask, image.shape[:2])
    area = int(np.count_nonzero(mask))
    if area == 0:
        return Attributes(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    lab, inside = _on_grid(image, mask)
    diameter = equivalent_diameter(int(np.count_nonzero(inside)))
    eccentricity, solidity = shape_of(inside)
    tissue = ~_no_tissue(lab, rules)
    distance = signed_distance(inside)
    lesion = tissue & (distance > GAP * diameter)
    lesion = lesion if np.count_nonzero(lesion) >= FEW else tissue & inside
    ring = tissue & _ring(distance, diameter)
    lightness, redness, contrast = _contrasts(lab, lesion, ring)
    enough = np.count_nonzero(ring) >= FEW
    return Attributes(
        relative_area=area / mask.size,
        equivalent_diameter=equivalent_diameter(area),
        eccentricity=eccentricity,
        solidity=solidity,
        lightness_contrast=lightness,
        redness_contrast=redness,
        colour_contrast=contrast,
        edge_sharpness=_edge_sharpness(lab[..., 0], distance, tissue, diameter) if enough else 0.0,
        texture=_texture(lab[..., 0], lesion, ring, tissue, diameter) if enough else 1.0,
    )


class Reference:
    """Lesions that others are compared with, by `FEATURES` in standard deviations of these lesions."""

    def __init__(self, lesions: Sequence[Attributes]) -> None:
        features = np.array([_features(one) for one in lesions])  # (N, 7)
        self._centre, self._spread = features.mean(0), features.std(0) + 1e-6
        self._lesions = (features - self._centre) / self._spread

    def standardised(self, attributes: Attributes) -> NDArray[np.float64]:
        """Return the features of a lesion, shape (7,)."""
        return np.asarray((_features(attributes) - self._centre) / self._spread)

    def distances(self, attributes: Attributes) -> NDArray[np.float64]:
        """Return the distance of a lesion from each of the reference, shape (N,)."""
        return np.asarray(np.linalg.norm(self._lesions - self.standardised(attributes), axis=1))


def _features(attributes: Attributes) -> NDArray[np.float64]:
    values = [float(getattr(attributes, name)) for name in FEATURES]
    return np.array([np.log(max(1e-4, v)) if n in LOGARITHMIC else v for n, v in zip(FEATURES, values, strict=True)])


@dataclass(frozen=True)
class Surroundings:
    """The tissue around a lesion, and the roughness of both."""

    colour: Values  # median CIELAB of the ring, (3,); zeros if fewer than FEW of its pixels are tissue
    lit: float  # share of the ring that is tissue and at least DARK of its median L*
    inside: float  # roughness of the lesion, L*
    around: float  # roughness of the ring, L*
    sides: Values  # L* of the ring in each of SIDES directions, less the ring's median, (SIDES,); NaN without tissue

    def differ(self, other: "Surroundings", flip: bool = False) -> float:
        """Return by how much L* differs on the same sides of two lesions, the first of which may be flipped.

        The mean over the sides that both show; 0 where they share none.
        """
        own = self.sides[(SIDES // 2 - 1 - np.arange(SIDES)) % SIDES] if flip else self.sides
        difference = np.abs(own - other.sides)
        return 0.0 if np.isnan(difference).all() else float(np.nanmean(difference))


def surroundings_of(image: Pixels, mask: Mask, rules: FrameRules = ENDOSCOPIC) -> Surroundings:
    """Measure what lies around a mask that is not empty; ring, tissue and roughness are as in `measure_attributes`.

    Raises:
        ShapeError: The image has not the shape (H, W, 3), or the mask has another size.
        DataError: The image does not hold bytes, or the mask no booleans, or the mask is empty.
    """
    check_image(image)
    check_mask(mask, image.shape[:2])
    if not mask.any():
        raise DataError("surroundings are those of a lesion: the mask is empty; pass the mask of one lesion")
    lab, inside = _on_grid(image, mask)
    distance, diameter = signed_distance(inside), equivalent_diameter(int(np.count_nonzero(inside)))
    ring = _ring(distance, diameter)
    usable = ~_no_tissue(lab, rules)
    tissue = ring & usable
    rough, around = (_roughness(lab[..., 0], part, usable, diameter) for part in (usable & inside, tissue))
    if np.count_nonzero(tissue) < FEW:
        unknown = np.full(SIDES, np.nan, dtype=np.float32)
        return Surroundings(np.zeros(3, dtype=np.float32), 0.0, rough, around, unknown)
    median = np.median(lab[tissue], axis=0)
    lit = np.count_nonzero(tissue & (lab[..., 0] > DARK * median[0])) / np.count_nonzero(ring)
    return Surroundings(median, float(lit), rough, around, _sides(lab[..., 0] - median[0], tissue, inside))


def _sides(light: Values, where: Mask, inside: Mask) -> Values:
    """Return the mean light of some pixels in each of SIDES directions from the middle of a lesion, (SIDES,)."""
    rows, columns = np.nonzero(where)
    middle = np.argwhere(inside).mean(axis=0)
    turn = np.arctan2(rows - middle[0], columns - middle[1]) / (2 * np.pi) % 1.0
    side = np.minimum((turn * SIDES).astype(int), SIDES - 1)
    count, total = (np.bincount(side, weights=each, minlength=SIDES) for each in (None, light[where]))
    return np.where(count >= FEW, total / np.maximum(count, 1), np.nan).astype(np.float32)


def texture_of(inside: float, around: float) -> float:
    """Return the texture of a lesion from its own roughness and that of its ring, as in `measure_attributes`."""
    return min(MAX_TEXTURE, (inside + 0.05) / (around + 0.05))  # 0.05 L*: below one grey level there is no texture


def equivalent_diameter(area: float) -> float:
    """Return the diameter of the circle of the same area."""
    return float(np.sqrt(4.0 * area / np.pi))


def lab_from_rgb(image: Pixels) -> Values:
    """Return CIELAB (L*, a*, b*) of an sRGB image, shape (H, W, 3), float32; D65 white.

    Source: IEC 61966-2-1 and CIE 15; the same numbers as skimage.color.rgb2lab, several times faster from bytes.
    """
    check_image(image)
    xyz = LINEAR[image].reshape(-1, 3) @ (XYZ_FROM_RGB / WHITE[:, None]).T
    f = np.cbrt(xyz)
    np.copyto(f, 7.787 * xyz + 16.0 / 116.0, where=xyz <= 0.008856)
    lab, (x, y, z) = np.empty_like(f), f.T
    lab[:, 0], lab[:, 1], lab[:, 2] = 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)
    return lab.reshape(image.shape)


def shape_of(mask: Mask) -> tuple[float, float]:
    """Return eccentricity and solidity of a mask's largest connected part, both 0 of an empty mask.

    Raises:
        ShapeError: The mask is not two-dimensional.
    """
    if not np.any(mask):
        return 0.0, 0.0
    rows, columns = np.nonzero(largest_part(mask))
    return _eccentricity(rows, columns), _solidity(rows, columns)


def signed_distance(mask: Mask) -> Values:
    """Return the distance to the boundary in px, positive inside the mask and negative outside."""
    if mask.all():
        return np.full(mask.shape, float(max(mask.shape)), dtype=np.float32)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)


def near(mask: Mask, distance: float) -> Mask:
    """Return the pixels at most so far (px) from a mask's nearest pixel, (H, W); none where the mask is empty.

    Only the surroundings of the mask are looked at: it costs the same in frames of every size.
    """
    found = np.zeros(mask.shape, dtype=bool)
    if mask.any():
        box = box_around(mask, int(np.ceil(distance)) + 1)
        found[box] = ndimage.distance_transform_edt(~mask[box]) <= distance
    return found


def box_around(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of a mask that is not empty with a margin (px), cut at the frame's edges."""
    top, left, bottom, right = bounding_box(mask)
    return slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right (exclusive) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def longer_side(mask: Mask) -> int:
    """Return the longer side of the bounding box of a mask that is not empty, px."""
    top, left, bottom, right = bounding_box(mask)
    return max(bottom - top, right - left)


def band_width(mask: Mask, share: float) -> float:
    """Return the blending band in px: a share of the longer side of the mask's bounding box, at least 2."""
    return max(2.0, share * float(longer_side(mask)))


def _on_grid(image: Pixels, mask: Mask) -> tuple[Values, Mask]:
    """Cut out the mask and its ring, and scale them down so that the mask's longer side is at most GRID px."""
    top, left, bottom, right = bounding_box(mask)
    margin = max(5, round(RING * max(bottom - top, right - left)) + 2)
    rows, columns = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    crop, inside = image[rows, columns], mask[rows, columns]
    scale = GRID / max(bottom - top, right - left)
    if scale < 1.0:
        size = (max(1, round(inside.shape[1] * scale)), max(1, round(inside.shape[0] * scale)))
        soft = Image.fromarray(inside.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        crop = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))
        values = np.asarray(soft)
        inside = values >= min(128, int(values.max()))  # a line thinner than a grid cell keeps its heaviest cells
    return lab_from_rgb(crop), inside


def _ring(distance: Values, diameter: float) -> Mask:
    """Find the ring of RING diameters around a lesion, without the gap, from the signed distance to its boundary."""
    return np.asarray((distance < -max(1.0, GAP * diameter)) & (distance >= -max(3.0, RING * diameter)))


def _no_tissue(lab: Values, rules: FrameRules) -> Mask:
    """Find the frame's black border and specular highlights with the rim that they blur into, where rules say so."""
    found = np.zeros(lab.shape[:2], dtype=bool)
    if rules.glare is not None:
        chroma = np.hypot(lab[..., 1], lab[..., 2])
        found |= ndimage.binary_dilation((lab[..., 0] > BRIGHT) & (chroma < COLOURLESS))
    return found if rules.border is None else found | (lab[..., 0] < BLACK)


def _contrasts(lab: Values, lesion: Mask, ring: Mask) -> tuple[float, float, float]:
    if np.count_nonzero(lesion) == 0 or np.count_nonzero(ring) < FEW:
        return 0.0, 0.0, 0.0
    difference = np.median(lab[lesion], axis=0) - np.median(lab[ring], axis=0)
    return float(difference[0]), float(difference[1]), float(np.linalg.norm(difference))


def _edge_sharpness(lightness: Values, distance: Values, tissue: Mask, diameter: float) -> float:
    """Return the median of |dL*/dn| in a band around the boundary, times a tenth of the diameter.

    The normal n is the gradient of the signed distance; L* is smoothed by 2 % of the diameter: grain is no edge.
    """
    smooth = ndimage.gaussian_filter(lightness, max(0.5, 0.02 * diameter))
    band = tissue & (np.abs(distance) <= max(1.0, 0.05 * diameter))
    if np.count_nonzero(band) < FEW or min(lightness.shape) < 2:
        return 0.0
    rows, columns = np.gradient(smooth)
    normal_rows, normal_columns = np.gradient(distance)
    across = np.abs(rows * normal_rows + columns * normal_columns)
    return float(np.median(across[band])) * diameter / 10.0


def _texture(lightness: Values, lesion: Mask, ring: Mask, usable: Mask, diameter: float) -> float:
    """Return the roughness of the lesion over that of the ring."""
    if np.count_nonzero(lesion) < FEW:
        return 1.0
    return texture_of(*(_roughness(lightness, part, usable, diameter) for part in (lesion, ring)))


def _roughness(lightness: Values, where: Mask, usable: Mask, diameter: float) -> float:
    """Return the median absolute deviation of the high-passed L* of some pixels; 0 for fewer than FEW.

    High-passing subtracts the weighted mean of the usable pixels around each pixel.
    """
    if np.count_nonzero(where) < FEW:
        return 0.0
    width = max(1.0, 0.05 * diameter)
    share = ndimage.gaussian_filter(usable.astype(np.float32), width)
    smooth = ndimage.gaussian_filter(np.where(usable, lightness, 0.0), width) / np.maximum(share, 1e-3)
    fine = (lightness - smooth)[where]
    return float(np.median(np.abs(fine - np.median(fine))))


def _eccentricity(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> float:
    """Return sqrt(1 - l2 / l1) from the eigenvalues of the pixels' covariance; 1/12 is a pixel's own variance."""
    y, x = rows - rows.mean(), columns - columns.mean()
    yy, xx, xy = float((y * y).mean()) + 1 / 12, float((x * x).mean()) + 1 / 12, float((x * y).mean())
    middle, spread = (yy + xx) / 2, float(np.hypot((yy - xx) / 2, xy))
    return float(np.sqrt(max(0.0, 1.0 - (middle - spread) / (middle + spread))))


def _solidity(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> float:
    """Return pixels / area of the hull of the pixels' edge midpoints."""
    from scipy.spatial import ConvexHull

    steps = ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5))
    points = np.stack([rows, columns], axis=1).astype(np.float64)
    first, last = _row_ends(points)
    ends = np.concatenate([points[first], points[last]])
    hull = ConvexHull(np.concatenate([ends + step for step in steps]))
    return min(1.0, len(rows) / float(hull.volume))


def _row_ends(points: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the first and last point of each row; points come in row order."""
    breaks = np.flatnonzero(np.diff(points[:, 0])) + 1
    return np.concatenate([[0], breaks]).astype(np.intp), np.concatenate([breaks - 1, [len(points) - 1]]).astype(
        np.intp
    )
