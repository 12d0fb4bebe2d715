"""Light: what is moved from one place to another takes on the light of the place, along its whole border.

The quotient of the light of both, known around the border, is carried into the inside as a membrane: the harmonic
function with these values at the border; that of their colours is one for the whole. What is moved, times that
quotient, keeps its own structure and meets the light of the place at the border, as gradient-domain blending does, here
in the logarithm, where light is a factor.

Source: Perez, Gangnet and Blake 2003, "Poisson image editing", Sec. 3 (seamless cloning as a membrane).
"""

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
BRIGHTER, TINTED = 0.6, 0.25  # most that light and colour change, natural logarithm
VARIES = 0.3  # most that the light differs from its median along the border, natural logarithm
GLARE, BRIGHT = 160.0, 225.0  # grey level of the lightest channel, where a highlight begins and is complete
PALE, WHITE = 0.72, 0.92  # the darkest channel over the lightest, where a highlight begins and is complete
LIGHTEST = 215.0  # grey level to which the lighter part of what is moved may be lit; what is as light stays so
DETAILS = (1.0, 2.0)  # px; widths of the Gaussians between which structure is compared
SOFTER, SHARPER = 0.4, 1.2  # least and most that it is multiplied by
FAINT = 0.15  # grey levels that are added to both, so that nothing is divided by nearly nothing
LEAST_AROUND = 60  # px of tissue that say how sharp a place is
LIGHTER = 0.8  # quantile of its colours that counts as that part


def membrane(values: NDArray[Any], known: Mask) -> Values:
    """Return the harmonic function with the known values, (h, w, C); constant where nothing is known nearby.

    Args:
        values: Shape (h, w, C).
        known: Where they hold, (h, w); not empty.
    """
    height, width = known.shape
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
    fixed = known.ravel()
    laplacian = (sparse.csr_matrix(sparse.diags(np.asarray(links.sum(axis=1)).ravel())) - links)[~fixed]
    flat = values.reshape(index.size, -1).astype(np.float64)
    if not fixed.all():
        right = -laplacian[:, fixed] @ flat[fixed]
        flat[~fixed] = spsolve(laplacian[:, ~fixed].tocsc(), right).reshape(right.shape)
    return flat.reshape(values.shape).astype(np.float32)


def light_quotient(patch: NDArray[Any], place: NDArray[Any], around: Mask) -> Values:
    """Return what a patch is multiplied by to take on the light of a place, (h, w, 3).

    Args:
        patch: What is moved there, (h, w, 3), grey levels.
        place: What was there, (h, w, 3).
        around: Where both show tissue, (h, w); if nothing does, the quotient is 1.
    """
    if not around.any():
        return np.ones(patch.shape, dtype=np.float32)
    ratio = np.log((np.maximum(place, 0) + LEVEL) / (np.maximum(patch, 0) + LEVEL)).astype(np.float32)
    usual = np.median(ratio[around], axis=0)
    light = float(usual.mean())
    middle = float(np.clip(light, -BRIGHTER, BRIGHTER)) + np.clip(usual - light, -TINTED, TINTED)
    local = np.clip((ratio - usual).mean(axis=2, keepdims=True), -VARIES, VARIES)
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
    body is lit no further than a camera would expose it, and none of its colours passes one that it was weaker than:
    with more, a pale lesion would be white all over, or blue.

    Args:
        patch: What is moved there, (h, w, 3), grey levels.
        place: What was there, (h, w, 3).
        around: Where both show tissue, (h, w).
        body: What is moved, without what surrounds it, (h, w).
    """
    gain = light_quotient(patch, place, around)
    if body.any():
        own, usual = np.quantile(patch[body], LIGHTER, axis=0), np.median(gain[body], axis=0)
        gain = gain * (_exposed(own, own * usual) / np.maximum(own * usual, 1.0)).astype(np.float32)
    glare = _glare(patch)
    white = np.maximum(gain.mean(axis=2, keepdims=True), 0.9)
    return np.asarray(patch * (gain * (1 - glare) + white * glare), dtype=np.float32)


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
        ours, theirs = (
            np.median(np.abs(fine.mean(axis=2)[around])) for fine in (coarse - smooth, there - smooth_there)
        )
        made += (coarse - smooth) * float(np.clip((theirs + FAINT) / (ours + FAINT), SOFTER, SHARPER))
        coarse, there = smooth, smooth_there
    return made + coarse


def _glare(patch: NDArray[Any]) -> NDArray[Any]:
    """Return how far each pixel is a highlight, bright and without colour, (h, w, 1); nothing is in a grey image."""
    if is_grey(patch):
        return np.zeros((*patch.shape[:2], 1))
    light, dark = patch.max(axis=2, keepdims=True), patch.min(axis=2, keepdims=True)
    bright = np.clip((light - GLARE) / (BRIGHT - GLARE), 0, 1)
    return np.asarray(bright * np.clip((dark / np.maximum(light, 1) - PALE) / (WHITE - PALE), 0, 1))


def _exposed(own: NDArray[Any], lit: NDArray[Any]) -> NDArray[Any]:
    """Return a lit colour, (3,), within what a camera exposes, in the order of the colour's own channels."""
    order = np.argsort(-own, kind="stable")
    kept = lit.copy()
    kept[order] = np.minimum.accumulate(kept[order])
    return np.asarray(kept * min(1.0, max(LIGHTEST, float(own.mean())) / max(float(kept.mean()), 1.0)))
