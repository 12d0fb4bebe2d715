"""Tissue for a hole in a frame: a patch of the same frame, moved, perhaps mirrored, and relit.

`conditioning/patches.py` chooses the patch. Its inside is tissue as it was seen, without seams. Where no single patch
covers a hole, nothing is filled: what is pieced together repeats itself.
"""

import numpy as np
from scipy import ndimage

from diffaug.conditioning.patches import Patch, best_patch
from diffaug.data.images import Mask, Pixels
from diffaug.painting.light import relit

BLEND = 0.12  # width over which a patch meets the frame, of the diameter


def filled(frame: Pixels, hole: Mask, known: Mask) -> Pixels | None:
    """Return a frame with a hole filled with tissue of the same frame, or None if no patch covers the hole.

    Args:
        frame: Shape (H, W, 3).
        hole: What is to be filled, (H, W).
        known: Where the frame shows tissue that may be shown again, (H, W).
    """
    if not hole.any():
        return frame
    known = known & ~hole
    patch = best_patch(frame, hole, known)
    return None if patch is None else _filled_with(frame, hole, known, patch)


def _filled_with(frame: Pixels, hole: Mask, known: Mask, patch: Patch) -> Pixels:
    """Return a frame with a patch in its hole, in the light of what surrounds the hole."""
    step = tuple(-1 if flip else 1 for flip in patch.mirrored)
    source, usable = frame[:: step[0], :: step[1]], known[:: step[0], :: step[1]]
    diameter = float(np.sqrt(4 * hole.sum() / np.pi))
    band = max(2.0, BLEND * diameter)
    rows, columns = np.nonzero(hole)
    pad = int(np.ceil(3 * band)) + 2
    box = [
        np.arange(max(0, at.min() - pad), min(size, at.max() + pad + 1))
        for at, size in zip((rows, columns), hole.shape, strict=True)
    ]
    there = [axis + shift for axis, shift in zip(box, (patch.down, patch.right), strict=True)]
    within = [(axis >= 0) & (axis < size) for axis, size in zip(there, hole.shape, strict=True)]
    clipped = np.ix_(*(np.clip(axis, 0, size - 1) for axis, size in zip(there, hole.shape, strict=True)))
    here = np.ix_(*box)
    tissue = usable[clipped] & within[0][:, None] & within[1][None]
    todo, place, moved = hole[here], frame[here].astype(np.float32), source[clipped].astype(np.float32)
    away = ndimage.distance_transform_edt(~todo)
    around = (away > 0) & (away <= 2 * band) & known[here] & tissue
    lit = relit(moved, place, around, todo)
    weight = np.clip(1 - away / band, 0, 1) ** 2 * (todo | (known[here] & tissue))
    mixed = place * (1 - weight[..., None]) + lit * weight[..., None]
    made = frame.copy()
    made[here] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return made
