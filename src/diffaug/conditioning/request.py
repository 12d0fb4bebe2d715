"""What a request means: its seed, and which pixels are painted and labelled.

A request is a pure function of the cases, the base seed, the config and its index; `drawer.RequestDrawer` draws it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffaug.conditioning.cups import label_of_ratio
from diffaug.conditioning.edges import to_border
from diffaug.conditioning.masks import MaskBank, MaskEntry, paste, render_label, rotation
from diffaug.data.case import LabelClass, masks_from_label
from diffaug.data.images import Label, Mask
from diffaug.data.lesions import connected_parts
from diffaug.data.request import MaskTransform, Placement, Request

FRONT = 0.12  # of the frame's longest side; nearer to its middle a lesion is lit from the front


@dataclass(frozen=True)
class Placed:
    """A training mask at a place on a background.

    Attributes:
        entry: The mask.
        transform: What it is drawn under.
        background: Case id.
        placement: How it lies there.
        top: Of the transformed mask's bounding box, px of the background's frame.
        left: Likewise.
        shape: The transformed mask in the background's draft, a tight crop.
        in_draft: Top and left of that crop in the draft, px.
    """

    entry: MaskEntry
    transform: MaskTransform
    background: str
    placement: Placement
    top: int
    left: int
    shape: Mask
    in_draft: tuple[int, int]

    def draft_mask(self, size: tuple[int, int]) -> Mask:
        """Return the mask in the background's draft of so many px, shape (h, w)."""
        return paste(self.shape, *self.in_draft, size)

    def keeps_light(self, size: tuple[int, int]) -> bool:
        """Tell whether the lamp, in the middle of the frame, lights the lesion from about where it did in its own.

        A lesion near the middle is lit from the front, wherever it comes from.

        Args:
            size: Height and width of the background's draft, px.
        """
        entry, (height, width) = self.entry, self.shape.shape
        own = _to_middle(entry.frame, (entry.top, entry.left), entry.crop.shape)
        here = _to_middle(size, self.in_draft, (height, width))
        moved = rotation(self.transform.angle) @ (own * [1, -1 if self.transform.flip else 1])
        return bool(min(np.hypot(*own), np.hypot(*here)) < FRONT or moved @ here >= 0)

    def request(self, index: int, seed: int, prompt: str, size_bin: str, **more: Any) -> Request:
        """Return the request to paint it; `more` are further fields of the request."""
        return Request(
            index=index,
            id=f"synth-{index:05d}",
            seed=seed,
            background=self.background,
            mask_case=self.entry.case,
            component=self.entry.component,
            placement=self.placement,
            transform=self.transform,
            top=self.top,
            left=self.left,
            prompt=prompt,
            size_bin=size_bin,
            **more,
        )


def _to_middle(frame: tuple[int, int], corner: tuple[int, int], crop: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the way from the middle of a crop to that of its frame, (2,), in longest sides of the frame."""
    middle = (np.array(frame) - np.array(crop)) / 2 - np.array(corner)
    return np.asarray(middle / max(frame))


@dataclass(frozen=True)
class RequestMasks:
    """Masks of a request, each of shape (H, W) of the background's frame.

    Attributes:
        new: What is painted; of a negative, what is painted lesion-free.
        old: The lesions that are painted over with the new one; empty for `free`, and for `removed`, where they are
            gone by then.
        label: The final label: what stays of the old lesions, and the new one.
        values: The same in the values of the data set's classes; 0 and 1 where it declares none.
    """

    new: Mask
    old: Mask
    label: Mask
    values: Label

    def new_classes(self, classes: Sequence[LabelClass]) -> Mask:
        """Return what is to be painted of each class, (K, H, W)."""
        return masks_from_label(self.values * self.new, classes)


def seed_of_request(seed: int, index: int) -> int:
    """Return a request's own seed: 63 bits of SHA-256 of the base seed and the index."""
    digest = hashlib.sha256(f"diffaug request {seed} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def masks_of_request(
    request: Request,
    bank: MaskBank,
    lesion: Mask | Label,
    classes: Sequence[LabelClass] = (),
    field: Mask | None = None,
) -> RequestMasks:
    """Return where to paint and the final label.

    Args:
        request: What to paint.
        bank: Holds the request's mask case.
        lesion: Mask or label of the background, shape (H, W); empty for a lesion-free image. Every connected part that
            the new mask touches is painted away; with `removed`, all of them were before.
        classes: Those of the label.
        field: Field of view, (H, W), up to whose border the new lesion goes; None where it lies inside.
    """
    lesion = np.zeros_like(lesion) if request.placement == "removed" else lesion
    before, lesion = lesion.astype(np.uint8), lesion > 0
    frame = int(lesion.shape[0]), int(lesion.shape[1])
    entry = bank.entry_of(request)
    if request.cup_ratio is None:
        crop = render_label(entry, request.transform, frame)
    else:
        crop = label_of_ratio(entry.values, request.cup_ratio, classes)
    painted = paste(crop, request.top, request.left, frame)
    if field is not None:
        painted = to_border(painted, field)
    new = painted > 0
    if request.negative:
        return RequestMasks(new, np.zeros_like(lesion), lesion, before)
    parts, _ = connected_parts(lesion)
    touched = np.unique(parts[new & lesion])
    old = np.isin(parts, touched[touched > 0])
    label = (lesion & ~old) | new
    return RequestMasks(new, old, label, np.where(new, painted, before * label))
