"""From cases to batches: pixels in memory at the network's size, and which of them are seen when.

Every draw depends on (seed, iteration) alone: a run that resumes, and another arm with the same seed, draw the same.

Letters: B batch, S side of the network's square input in px, n cases, K classes, P candidate positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffaug.classical import gaussian_blur
from diffaug.conditioning.domain import domain_of
from diffaug.config import StudyConfig
from diffaug.data.case import Case, check_mask_size
from diffaug.data.images import read_image
from diffaug.errors import StudyError
from diffaug.study.arms import Arm, check_size

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES = 8  # positions tried for a pasted lesion
TISSUE = 25 / 255  # a pixel without a channel over this is frame border, not tissue
COARSE = 4  # px; side of the cells on which a position is judged
ON_TISSUE = 0.9  # share of a pasted lesion that should lie on tissue inside the frame
REAL, POOL, PASTE, TAUGHT = 1, 2, 3, 4  # streams of draws that must not depend on each other


@dataclass(frozen=True)
class Pixels:
    """Cases in memory.

    Attributes:
        images: uint8, shape (n, 3, S, S).
        masks: uint8 of 0 and 1, shape (n, K, S, S).
        ids: In the same order.
        known: Where the masks are known, uint8 of 0 and 1, shape (n, 1, S, S); None where all of every mask is.
        before: What is to be labelled where they are not, uint8, shape (n, 3, S, S); None where `known` is.
    """

    images: "Tensor"
    masks: "Tensor"
    ids: tuple[str, ...]
    known: "Tensor | None" = None
    before: "Tensor | None" = None

    def to(self, device: str) -> "Pixels":
        """Return the same cases in the memory of a device."""
        known, before = (None if one is None else one.to(device) for one in (self.known, self.before))
        return Pixels(self.images.to(device), self.masks.to(device), self.ids, known, before)


@dataclass(frozen=True)
class Batch:
    """What one iteration sees.

    Attributes:
        images: Float in [0, 1], shape (B, 3, S, S).
        masks: Float of 0 and 1, shape (B, K, S, S).
        ids: Of the cases.
        known: 1 where the mask is known to be right, shape (B, 1, S, S); None where all of every mask is.
        before: What is to be labelled where the mask is not known, shape (B, 3, S, S); None where `known` is.
    """

    images: "Tensor"
    masks: "Tensor"
    ids: tuple[str, ...]
    known: "Tensor | None" = None
    before: "Tensor | None" = None

    def to(self, device: str) -> "Batch":
        """Return the same batch on a device."""
        known, before = (None if one is None else one.to(device) for one in (self.known, self.before))
        return Batch(self.images.to(device), self.masks.to(device), self.ids, known, before)


def load_images(cases: Sequence[Case], size: int) -> "Tensor":
    """Read whole frames, squashed to a square: uint8, shape (n, 3, S, S)."""
    return stacked((case.read_image() for case in cases), size)


def load(cases: Sequence[Case], size: int, before: Mapping[str, Path] | None = None) -> Pixels:
    """Read cases at the network's size; a pixel of a mask is of a class where at least half of it is.

    A pixel's label is known where all of it is.

    Args:
        cases: With masks.
        size: S.
        before: Of cases whose label is known in part, the images that they were painted on, by id; without one it is
            the case's own.

    Raises:
        DataError: A file cannot be read, or a mask has another size than its image.
    """
    import torch

    masks = np.zeros((len(cases), len(cases[0].class_names) if cases else 1, size, size), np.uint8)
    images = []
    for row, case in enumerate(cases):
        image, own = case.read_image(), case.read_masks()
        check_mask_size(case, own.shape[1:], image.shape[:2])
        images.append(_squashed(image, size))
        for channel, mask in enumerate(own):
            masks[row, channel] = _squashed(mask.astype(np.uint8) * 255, size) >= 128
    pixels = Pixels(_tensor(images, size), torch.from_numpy(masks), tuple(case.id for case in cases))
    if not any(case.known for case in cases):
        return pixels
    known = np.ones((len(cases), 1, size, size), np.uint8)
    shown = list(images)
    for row, case in enumerate(cases):
        if case.known is not None:
            known[row, 0] = _squashed(case.read_known().astype(np.uint8) * 255, size) == 255
            shown[row] = _squashed(read_image(before[case.id]), size) if before and case.id in before else images[row]
    return replace(pixels, known=torch.from_numpy(known), before=_tensor(shown, size))


def load_unannotated(cases: Sequence[Case], size: int, like: Pixels) -> Pixels:
    """Read images at the network's size, with empty masks of as many classes as others have."""
    images = load_images(cases, size)
    return Pixels(images, like.masks.new_zeros(len(cases), *like.masks.shape[1:]), tuple(case.id for case in cases))


def extended(one: Pixels, other: Pixels) -> Pixels:
    """Return the cases of both."""
    import torch

    if not other.ids:
        return one
    images, masks = torch.cat([one.images, other.images]), torch.cat([one.masks, other.masks])
    both = Pixels(images, masks, one.ids + other.ids)
    if one.known is None or one.before is None:
        return both
    known = torch.cat([one.known, torch.ones_like(other.images[:, :1])])
    return replace(both, known=known, before=torch.cat([one.before, other.images]))


def _squashed(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))


def stacked(images: Iterable[NDArray[np.uint8]], size: int) -> "Tensor":
    """Return frames (H, W, 3) of any sizes, squashed to a square, as a tensor (n, 3, S, S), uint8."""
    return _tensor([_squashed(image, size) for image in images], size)


def _tensor(squares: Sequence[NDArray[np.uint8]], size: int) -> "Tensor":
    """Return images (S, S, 3) as a tensor (n, 3, S, S)."""
    import torch

    return torch.from_numpy(np.array(squares, np.uint8).reshape(-1, size, size, 3)).permute(0, 3, 1, 2).contiguous()


def order(count: int, length: int, seed: int, stream: int) -> NDArray[np.int64]:
    """Return `length` indices below `count`: one random permutation after the other.

    Raises:
        StudyError: There is nothing to draw from.
    """
    if length == 0:
        return np.zeros(0, np.int64)
    if count == 0:
        raise StudyError("a training set needs at least one case; it has none; annotate or generate some")
    rng = np.random.default_rng([seed, stream])
    epochs = -(-length // count) or 1
    return np.concatenate([rng.permutation(count) for _ in range(epochs)])[:length]


class Batches:
    """The batches of one run, each a pure function of its iteration.

    A share of the rows is drawn from the arm's pool, or pasted, or of unannotated images; an arm with a pool and
    unannotated images has as many of each. The rest are real cases, in an order that is the same for every arm with one
    seed and the same real cases. Batches are made on `device`; those of an arm that pastes are
    made on the CPU and moved.

    Raises:
        StudyError: The arm has fewer cases than a batch has rows.
    """

    def __init__(self, arm: Arm, config: StudyConfig, seed: int, device: str = "cpu") -> None:
        import torch

        check_size(arm, config.batch_size)
        self.device = device
        place = "cpu" if arm.paste else device
        self.seed = seed
        others = round(config.batch_size * config.synthetic_share) if arm.pool or arm.paste or arm.taught else 0
        self.taught_rows = 0 if not arm.taught else others // 2 if arm.pool else others
        self.pool_rows = others - self.taught_rows
        self.real_rows = config.batch_size - others
        self.real = load(arm.real, config.size).to(place)
        self.one_place = bool(arm.real) and domain_of(arm.real[0].class_names).stays_in_place
        self.pool = load(arm.pool, config.size, arm.before).to(place) if arm.pool else None
        self.taught = load_unannotated(arm.taught, config.size, self.real).to(place)
        self.taught_free = torch.tensor([float(case.negative) for case in arm.taught], device=place)
        self.onto = extended(self.real, load_unannotated(arm.onto, config.size, self.real))
        self.real_order = order(len(arm.real), self.real_rows * config.iterations, seed, REAL)
        self.pool_order = order(len(arm.pool or self.onto.ids), self.pool_rows * config.iterations, seed, POOL)
        self.taught_order = order(len(arm.taught), self.taught_rows * config.iterations, seed, TAUGHT)

    def draw(self, iteration: int) -> Batch:
        """Return the batch of an iteration, before classical augmentation."""
        import torch

        def rows(order: NDArray[np.int64], count: int) -> "Tensor":
            return torch.from_numpy(order[iteration * count : (iteration + 1) * count])

        parts = [take(self.real, rows(self.real_order, self.real_rows))]
        if self.pool_rows:
            others = rows(self.pool_order, self.pool_rows)
            parts.append(take(self.pool, others) if self.pool else self._paste(others, iteration))
        if self.taught_rows:
            parts.append(self._taught(rows(self.taught_order, self.taught_rows)))
        return joined(parts).to(self.device)

    def _taught(self, rows: "Tensor") -> Batch:
        """Return unannotated images, of whose masks nothing is known, unless they are declared to be lesion-free."""
        found = take(self.taught, rows)
        known = self.taught_free[rows.to(self.taught_free.device)].view(-1, 1, 1, 1)
        return replace(found, known=known.expand_as(found.masks[:, :1]), before=found.images)

    def _paste(self, targets: "Tensor", iteration: int) -> Batch:
        import torch

        rng = np.random.default_rng([self.seed, PASTE, iteration])
        sources = torch.from_numpy(rng.integers(0, len(self.real.ids), len(targets)))
        onto, lesion = take(self.onto, targets), take(self.real, sources)
        images, masks = paste(onto.images, onto.masks, lesion.images, lesion.masks, rng, self.one_place)
        names = tuple(f"{a} on {b}" for a, b in zip(lesion.ids, onto.ids, strict=True))
        return Batch(images, masks, names)


def joined(parts: Sequence[Batch]) -> Batch:
    """Return several batches as one; of a part that says nothing about it, every pixel is known."""
    import torch

    images, masks = torch.cat([part.images for part in parts]), torch.cat([part.masks for part in parts])
    ids = tuple(name for part in parts for name in part.ids)
    if all(part.known is None for part in parts):
        return Batch(images, masks, ids)
    known = torch.cat([torch.ones_like(part.images[:, :1]) if part.known is None else part.known for part in parts])
    before = torch.cat([part.images if part.before is None else part.before for part in parts])
    return Batch(images, masks, ids, known, before)


def take(pixels: Pixels, rows: "Tensor") -> Batch:
    """Return some rows of cases in memory as a batch."""
    ids = tuple(pixels.ids[row] for row in rows.tolist())
    rows = rows.to(pixels.images.device)
    batch = Batch(pixels.images[rows].float() / 255, pixels.masks[rows].float(), ids)
    if pixels.known is None or pixels.before is None:
        return batch
    return replace(batch, known=pixels.known[rows].float(), before=pixels.before[rows].float() / 255)


def paste(
    images: "Tensor",
    masks: "Tensor",
    lesion_images: "Tensor",
    lesion_masks: "Tensor",
    rng: np.random.Generator,
    one_place: bool = False,
) -> tuple["Tensor", "Tensor"]:
    """Blend lesions onto other frames, under random similarity transforms.

    A lesion, with all its classes, is turned, mirrored, scaled by 0.5 to 1.5 and put where it lies on tissue inside the
    frame: the first of eight random positions where 90 % of it does, else the best of them. The seam is feathered over
    about 3 px of 128.

    Args:
        images: Frames to paste on, float in [0, 1], shape (B, 3, S, S).
        masks: Their lesions, shape (B, K, S, S).
        lesion_images: Frames to take lesions from, shape (B, 3, S, S).
        lesion_masks: What to take, shape (B, K, S, S); an empty mask pastes nothing.
        rng: Of the draws.
        one_place: Put it upright onto the frame's own lesion instead, scaled to cover it: an eye has one optic disc.

    Returns:
        The new frames and their labels: the pasted lesion's classes where it lies, elsewhere the frame's own.

    Source: Ghiasi et al. 2021 (arXiv:2012.07177), with one lesion a frame and feathered blending.
    """
    import torch
    import torch.nn.functional as F

    B, _, S, _ = lesion_masks.shape
    wholes = lesion_masks.amax(1)
    if one_place:
        grids = torch.stack([_onto(m.numpy(), own.numpy(), rng) for m, own in zip(wholes, masks.amax(1), strict=True)])
    else:
        grids = torch.stack([_grids(mask.numpy(), rng) for mask in wholes])  # (B, P, 2, 3)
    tissue = F.avg_pool2d((images.amax(1, keepdim=True) > TISSUE).float(), COARSE)
    coarse = F.affine_grid(grids.flatten(0, 1), [B * CANDIDATES, 1, *tissue.shape[2:]], align_corners=False)
    moved = F.grid_sample(
        F.avg_pool2d(wholes[:, None], COARSE).repeat_interleave(CANDIDATES, 0), coarse, align_corners=False
    )
    scale = torch.linalg.det(grids[..., :2]).abs().reciprocal()  # area of the moved lesion over its own, (B, P)
    whole = (wholes[:, None].sum((2, 3)) / COARSE**2 * scale).clamp(min=1e-6)
    fits = (moved.view(B, CANDIDATES, *tissue.shape[2:]) * tissue).sum((2, 3)) / whole
    chosen = torch.where((fits >= ON_TISSUE).any(1), (fits >= ON_TISSUE).int().argmax(1), fits.argmax(1))
    grid = F.affine_grid(grids[torch.arange(B), chosen], [B, 1, S, S], align_corners=False)
    lesion = F.grid_sample(lesion_images, grid, padding_mode="reflection", align_corners=False)
    label = (F.grid_sample(lesion_masks, grid, align_corners=False) > 0.5).float()
    pasted = label.amax(1, keepdim=True)
    alpha = gaussian_blur(pasted, S / 96, 3)
    return images + alpha * (lesion - images), torch.where(pasted > 0, label, masks)


def _grids(mask: NDArray[np.float32], rng: np.random.Generator) -> "Tensor":
    """Return P affine maps from output to input coordinates in [-1, 1] that move a lesion, shape (P, 2, 3)."""
    import torch

    S = mask.shape[0]
    rows, columns = np.nonzero(mask > 0.5)
    centre = np.array([columns.mean(), rows.mean()]) if len(rows) else np.full(2, S / 2)
    centre = (2 * centre + 1) / S - 1
    angle, factor = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.5), np.log(1.5)))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = mirror @ turn / factor
    positions = rng.uniform(-0.8, 0.8, size=(CANDIDATES, 2))
    grids = [np.concatenate([matrix, (centre - matrix @ position)[:, None]], axis=1) for position in positions]
    return torch.from_numpy(np.stack(grids).astype(np.float32))


def _onto(mask: NDArray[np.float32], own: NDArray[np.float32], rng: np.random.Generator) -> "Tensor":
    """Return P times the map that puts a lesion upright onto another, as large as to cover it, mirrored or not.

    Output to input coordinates in [-1, 1], shape (P, 2, 3); the identity where one of the two is empty.
    """
    import torch

    boxes = [_box(one) for one in (mask, own)]
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    if boxes[0] is None or boxes[1] is None:
        matrix, shift = np.eye(2), np.zeros(2)
    else:
        (centre, size), (target, wanted) = boxes[0], boxes[1]
        matrix = mirror / max(wanted / size)
        shift = centre - matrix @ target
    grid = np.concatenate([matrix, shift[:, None]], axis=1)
    return torch.from_numpy(np.stack([grid] * CANDIDATES).astype(np.float32))


def _box(mask: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the centre (x, y) of a mask's bounding box and its size, in coordinates from -1 to 1; None if empty."""
    rows, columns = np.nonzero(mask > 0.5)
    if not len(rows):
        return None
    first, last = np.array([columns.min(), rows.min()]), np.array([columns.max() + 1, rows.max() + 1])
    return (first + last) / mask.shape[0] - 1, 2 * (last - first) / mask.shape[0]
