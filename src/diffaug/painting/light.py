"""Light: what is moved from one place to another takes on the light of the place, along its whole border.

The quotient of the brightness of both, known around the border, is carried into the inside as a membrane: the harmonic
function with these values at the border; the difference of their colours is one for the whole. What is moved, times
that quotient, keeps its own structure and meets the light of the place at the border, as gradient-domain blending does,
here in the logarithm, where light is a factor.

Source: Perez, Gangnet and Blake 2003, "Poisson image editing", Sec. 3 (seamless cloning as a membrane).
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from torch.nn import functional as F

from diffaug.data.images import Mask, is_grey

Values = NDArray[np.float32]
CELLS = 48  # of the grid on which a membrane is solved, a side
LEVEL = 6.0  # grey levels that are added to both colours of a quotient: black has no ratio
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # brightness of red, green and blue, ITU-R BT.601
BRIGHTER = 0.6  # most that the light changes, natural logarithm
TINT, TINTED = 0.8, 0.35  # share of the colour's difference that is made up for, and the most of it, over brightness
GREY = 0.1  # least length of the tissue's colour over its brightness: tissue that is grey says nothing of paler colours
VARIES = 0.3  # most that the light differs from its median along the border, natural logarithm
GLARE, BRIGHT = 160.0, 225.0  # grey level of the lightest channel, where a highlight begins and is complete
PALE, WHITE = 0.72, 0.92  # the darkest channel over the lightest, where a highlight begins and is complete
CLIPPED, FULL = 232.0, 248.0  # grey level of a channel from which a camera may have clipped it, and surely has
OVER = 4.0  # px; the Gaussian that smooths the factor by which a clipped channel is raised
LIGHTEST = 228.0  # grey level to which the second channel of what is moved may be lit; what is as light stays so
DETAILS = (1.0, 2.0)  # px; widths of the Gaussians between which structure is compared
SOFTER, SHARPER = 0.4, 1.2  # least and most that it is multiplied by
FAINT = 0.15  # grey levels that are added to both, so that nothing is divided by nearly nothing
LEAST_AROUND = 60  # px of tissue that say how sharp a place is
EXPOSED = 0.1  # of the body's radius; the Gaussian that what limits its light is smoothed by at its border
LIGHTER = 0.8  # quantile of its colours that counts as that part


def membrane(values: NDArray[Any], known: Mask) -> Values:
    """Return the harmonic function with the known values, (h, w, C); constant where nothing is known nearby.

    Args:
        values: Shape (h, w, C).
        known: Where they hold, (h, w); not empty.
    """
    fixed = known.ravel()
    laplacian = laplacian_of(*known.shape)[~fixed]
    flat = values.reshape(known.size, -1).astype(np.float64)
    if not fixed.all():
        right = -laplacian[:, fixed] @ flat[fixed]
        flat[~fixed] = spsolve(laplacian[:, ~fixed].tocsc(), right).reshape(right.shape)
    return flat.reshape(values.shape).astype(np.float32)


@lru_cache(maxsize=8)
def laplacian_of(height: int, width: int) -> Any:
    """Return the graph Laplacian of a grid, a sparse matrix of (h w, h w): each cell has four neighbours."""
    index = np.arange(height * width).reshape(height, width)
    pairs = np.concatenate(
        [
            np.stack([index[:, 1:].ravel(), index[:, :-1].ravel()]),
            np.stack([index[1:].ravel(), index[:-1].ravel()]),
        ],
        axis=1,
    )
    both = np.concatenate([pairs, pairs[::-1]], axis=1)
    links = sparse.coo_matrix((np.ones(both.shape[1]), both), shape=(index.size, index.size)).tocsr()
    return sparse.csr_matrix(sparse.diags(np.asarray(links.sum(axis=1)).ravel())) - links


def brightness(values: NDArray[Any]) -> Values:
    """Return the brightness of colours, (h, w, 1), grey levels at least 0."""
    return np.asarray(np.maximum(values.astype(np.float32) @ LUMA, 0)[..., None], dtype=np.float32)


def in_order(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the least, the middle and the largest channel of colours, (h, w, 3), each (h, w)."""
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    low, high = np.minimum(red, green), np.maximum(red, green)
    return np.minimum(low, blue), np.maximum(low, np.minimum(high, blue)), np.maximum(high, blue)


def tinted(patch: NDArray[Any], place: NDArray[Any], around: Mask) -> Values:
    """Return a patch whose colours meet those of a place as far as they go, (h, w, 3), as bright as it was.

    What of a colour differs from grey, over its brightness, is the same in any light. The difference of both tissues in
    it is added to what is as colourful as the tissue, and less to what is paler: white stays white. A factor for each
    channel would turn pale lesions blue, since tissue has little blue, and its factor is large.

    Args:
        patch: What is moved, (h, w, 3), grey levels.
        place: What was there, (h, w, 3).
        around: Where both show tissue, (h, w); if nothing does, nothing changes.
    """
    if not around.any():
        return patch.astype(np.float32)
    light = brightness(patch)
    own, other = (chroma(np.median(values[around], axis=0)) for values in (patch, place))
    shift = TINT * (other - own)
    shift *= min(1.0, TINTED / max(float(np.abs(shift).max()), 1e-6))
    size = np.linalg.norm(chroma(patch), axis=2, keepdims=True) / max(float(np.linalg.norm(own)), GREY)
    return np.asarray(np.maximum(patch + (light + LEVEL) * np.minimum(size, 1) * shift, 0), dtype=np.float32)


def chroma(colours: NDArray[Any]) -> NDArray[Any]:
    """Return what of colours, (..., 3), is not grey, over their brightness."""
    light = np.maximum(colours @ LUMA, 0)[..., None] + LEVEL
    return np.asarray((colours + LEVEL) / light - 1)


def unclipped(patch: NDArray[Any]) -> Values:
    """Return colours whose usually lightest channel is estimated where the camera clipped it, (h, w, 3), grey levels.

    A clipped channel says the least that it can be. Darkened as it is, it would fall below the others: red tissue would
    turn grey. It is estimated from the second lightest channel: their usual quotient, where nothing is clipped, falls
    towards 1 as the colour comes near white. Grooves between clipped pixels are raised by the same factor as these.

    Args:
        patch: Shape (h, w, 3), grey levels up to 255.
    """
    values = patch.astype(np.float32)
    _, middle, lightest = in_order(values)
    exposed = (lightest < CLIPPED) & (middle > CLIPPED / 4)
    if np.count_nonzero(exposed) < LEAST_AROUND:
        return values
    usual = np.median(values[exposed], axis=0)
    first, second = (int(each) for each in np.argsort(-usual, kind="stable")[:2])
    quotient = float(np.median(values[exposed, first] / np.maximum(values[exposed, second], 1)))
    whiter = np.clip((values[..., second] - usual[second]) / max(255.0 - float(usual[second]), 1.0), 0, 1) ** 3
    estimate = values[..., second] * (quotient + (1 - quotient) * whiter)
    clipped = np.clip((values[..., first] - CLIPPED) / (FULL - CLIPPED), 0, 1)
    missing = clipped * np.maximum(estimate - values[..., first], 0)
    made = values.copy()
    made[..., first] *= 1 + _smooth(missing) / np.maximum(_smooth(values[..., first]), 1)
    return made


def _smooth(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(ndimage.gaussian_filter(values, OVER))


def light_quotient(patch: NDArray[Any], place: NDArray[Any], around: Mask) -> Values:
    """Return what a patch is multiplied by to take on the light of a place, (h, w, 1).

    Args:
        patch: What is moved there, (h, w, 3), grey levels.
        place: What was there, (h, w, 3).
        around: Where both show tissue, (h, w); if nothing does, the quotient is 1.
    """
    if not around.any():
        return np.ones((*around.shape, 1), dtype=np.float32)
    ratio = np.log((brightness(place) + LEVEL) / (brightness(patch) + LEVEL))
    usual = float(np.median(ratio[around]))
    middle = float(np.clip(usual, -BRIGHTER, BRIGHTER))
    local = np.clip(ratio - usual, -VARIES, VARIES)
    cells = min(CELLS, around.shape[0]), min(CELLS, around.shape[1])
    weighed = np.concatenate([local * around[..., None], around[..., None]], axis=2).astype(np.float32)
    grid = F.adaptive_avg_pool2d(torch.from_numpy(weighed).permute(2, 0, 1)[None], cells)[0].permute(1, 2, 0).numpy()
    smooth = ndimage.gaussian_filter(grid, (1.0, 1.0, 0))
    known = grid[..., 1] > min(0.2, float(grid[..., 1].max()) / 2)
    solved = membrane(smooth[..., :1] / np.maximum(smooth[..., 1:], 1e-3), known)
    fine = F.interpolate(torch.from_numpy(solved).permute(2, 0, 1)[None], around.shape, mode="bilinear")
    return np.asarray(np.exp(fine[0].permute(1, 2, 0).numpy() + middle), dtype=np.float32)


def relit(patch: NDArray[Any], place: NDArray[Any], around: Mask, body: Mask) -> Values:
    """Return a patch in the light of a place, (h, w, 3), not clipped.

    Highlights keep their own lightness and colour, since they show the lamp and not the tissue. The lighter part of the
    body is lit no further than a camera would expose it: with more, a pale lesion would be white all over. Its second
    lightest channel counts, since the lightest of red tissue is often clipped.

    Args:
        patch: What is moved there, (h, w, 3), grey levels.
        place: What was there, (h, w, 3).
        around: Where both show tissue, (h, w).
        body: What is moved, without what surrounds it, (h, w).
    """
    gain = light_quotient(patch, place, around)
    coloured = tinted(unclipped(patch), place, around)
    if body.any():
        own, lit = (float(np.median(np.quantile(values[body], LIGHTER, axis=0))) for values in (patch, coloured))
        lit *= float(np.median(gain[body]))
        least = min(1.0, max(LIGHTEST, own) / max(lit, 1.0))
        soft = ndimage.gaussian_filter(body.astype(np.float32), EXPOSED * float(np.sqrt(body.sum() / np.pi)))
        gain = gain * (1 - (1 - least) * soft[..., None])
    glare = glare_of(patch)
    return np.asarray(gain * coloured * (1 - glare) + patch * glare, dtype=np.float32)


def in_detail_of(patch: NDArray[Any], place: NDArray[Any], around: Mask) -> Values:
    """Return a patch as sharp and as grainy as a place, (h, w, 3).

    Its structure between two neighbouring DETAILS is multiplied by what the same structure of the place has, over what
    its own has, where both show tissue. The median absolute value counts, which edges and highlights do not move.

    Args:
        patch: What is moved there, (h, w, 3), grey levels, in the light of the place.
        place: What was there, (h, w, 3).
        around: Where both show tissue, (h, w); with too little of it the patch is returned as it is.
    """
    if np.count_nonzero(around) < LEAST_AROUND:
        return np.asarray(patch, dtype=np.float32)
    coarse, there = (values.astype(np.float32) for values in (patch, place))
    made = np.zeros_like(coarse)
    for scale in DETAILS:
        smooth, smooth_there = (ndimage.gaussian_filter(values, (scale, scale, 0)) for values in (coarse, there))
        fine, fine_there = coarse - smooth, (there - smooth_there)[around]
        ours, theirs = (np.median(np.abs(part.mean(axis=1))) for part in (fine[around], fine_there))
        made += fine * float(np.clip((theirs + FAINT) / (ours + FAINT), SOFTER, SHARPER))
        coarse, there = smooth, smooth_there
    return made + coarse


def glare_of(patch: NDArray[Any]) -> NDArray[Any]:
    """Return how far each pixel is a highlight, bright and without colour, (h, w, 1); nothing is in a grey image."""
    if is_grey(patch):
        return np.zeros((*patch.shape[:2], 1))
    dark, _, light = (values[..., None] for values in in_order(patch))
    bright = np.clip((light - GLARE) / (BRIGHT - GLARE), 0, 1)
    return np.asarray(bright * np.clip((dark / np.maximum(light, 1) - PALE) / (WHITE - PALE), 0, 1))
