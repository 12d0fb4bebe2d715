"""Training windows: cropped, augmented, encoded once and kept as tensors.

Legend: N windows, H = W window side (px), h = w latent side, s = 4 h validator side, Z latent channels, K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from diffaug.classical import vary
from diffaug.compute.progress import tracked
from diffaug.conditioning.attributes import Attributes, measure_attributes
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.prompts import ASPECTS, describe_region, words_of
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import lesion_masks
from diffaug.diffusion.contract import Conditioning
from diffaug.models.base import LatentInpainter, scale_of
from diffaug.painting.window import (
    Window,
    pixels_from_tensor,
    window_around,
    window_image,
    window_masks,
    windows_at_once,
)
from diffaug.validator.latent_segmenter import UPSCALE

Rng = np.random.Generator
AUGMENTATION = 0.75  # of what a validator learns from, as in a study
OUTLINED = 0.6  # chance that the region of a window without annotation is a part of the image that stands out
PART_SCALES = (100, 250, 600)  # of the segmentation into parts; larger ones make larger parts
SMALLEST_PART, LARGEST_PART = 0.025, 0.4  # share of the window
LEAST_SOLID = 0.65  # area of a part over that of its convex hull
DARK = 45.0  # grey level; a part below it is the border or the depth of the lumen
SAID = 0.8  # chance that a training prompt speaks of an aspect, so that each word is also learnt alone


@dataclass(frozen=True)
class Sketch:
    """One window in pixels, before it is encoded.

    Attributes:
        image: (1, 3, H, W) in [-1, 1].
        region: Where the painter may paint, (1, 1, H, W), 0 or 1.
        mask: Covered share of the lesion that is to be painted, (1, K, H, W); zero for lesion-free windows.
        label: Covered share of every annotated lesion in the window, (1, K, H, W): what a validator should find.
        scale: See Conditioning.
        prompt: Text.
    """

    image: Tensor
    region: Tensor
    mask: Tensor
    label: Tensor
    scale: tuple[float, float]
    prompt: str


@dataclass(frozen=True)
class Windows:
    """Encoded windows, a row each.

    Attributes:
        x0: Clean latents, (N, Z, h, w).
        region: (N, 1, h, w).
        mask: (N, K, h, w).
        masked: Masked-image latents, (N, Z, h, w).
        scale: (N, 2).
        tokens: Prompt tokens, (N, L).
        fine_region: Region at the validator's side, (N, 1, s, s).
        label: Annotated lesions at the validator's side, (N, K, s, s).
        fine_mask: What was to be painted, at the validator's side, (N, K, s, s).
    """

    x0: Tensor
    region: Tensor
    mask: Tensor
    masked: Tensor
    scale: Tensor
    tokens: Tensor
    fine_region: Tensor
    label: Tensor
    fine_mask: Tensor

    def __len__(self) -> int:
        return int(self.x0.shape[0])

    def rows(self, index: Tensor | slice) -> "Windows":
        """Return some rows."""
        return Windows(**{name: value[index] for name, value in vars(self).items()})

    @staticmethod
    def stack(parts: Sequence["Windows"]) -> "Windows":
        """Concatenate rows."""
        return Windows(**{name: torch.cat([getattr(part, name) for part in parts]) for name in Windows.__annotations__})

    def conditioning(self, text: Tensor) -> Conditioning:
        """Return what the painter is given, with the embedded prompts."""
        return Conditioning(self.region, self.mask, self.masked, self.scale, text)


@torch.no_grad()
def encode_windows(model: LatentInpainter, sketches: Iterable[Sketch], batch: int | None = None) -> Windows:
    """Encode windows: pixels => latents, a batch at a time so that memory holds latents only."""
    count, waiting = batch or windows_at_once(model.window), iter(sketches)
    batches = iter(lambda: list(islice(waiting, count)), [])
    return Windows.stack([_encoded(model, part) for part in batches])


def _encoded(model: LatentInpainter, sketches: Sequence[Sketch]) -> Windows:
    image, region, mask, label = (
        torch.cat([getattr(s, name) for s in sketches]) for name in ("image", "region", "mask", "label")
    )
    fine = model.cell // UPSCALE
    scale = torch.tensor([s.scale for s in sketches])
    conditioning = model.condition(image, region, mask, scale, torch.zeros(len(sketches), 1, 1))
    return Windows(
        x0=model.encode(image),
        region=conditioning.region,
        mask=conditioning.mask,
        masked=conditioning.masked_image_latents,
        scale=scale,
        tokens=model.tokens([s.prompt for s in sketches]),
        fine_region=F.max_pool2d(region, fine),
        label=F.avg_pool2d(label, fine),
        fine_mask=F.avg_pool2d(mask, fine),
    )


def random_blob(side: int, rng: Rng, largest: float = 0.42) -> Tensor:
    """Return a smooth random shape, (1, 1, side, side), 0 or 1.

    Its radius is a short Fourier series of the angle; its centre leaves room for it.
    """
    radius = side * rng.uniform(0.12, largest)
    centre = rng.uniform(0.75 * radius, side - 0.75 * radius, 2)
    squeeze, turn = rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    y, x = np.mgrid[:side, :side] + 0.5 - centre[:, None, None]
    along, across = np.cos(turn) * x + np.sin(turn) * y, (np.cos(turn) * y - np.sin(turn) * x) / squeeze
    angle = np.arctan2(across, along)
    waves = sum(
        rng.normal(0, 0.22 / order**1.3) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 7)
    )
    return torch.from_numpy(np.hypot(along, across) < radius * (1 + waves))[None, None].float()


def union(masks: Tensor) -> Tensor:
    """Return what some class covers, (1, K, H, W) => (1, 1, H, W)."""
    return masks.amax(1, keepdim=True)


def dilated(mask: Tensor, radius: float) -> Tensor:
    """Return the pixels within `radius` of some class of a mask (1, K, H, W) => (1, 1, H, W), 0 or 1."""
    distance = ndimage.distance_transform_edt((union(mask)[0, 0] <= 0.5).numpy())
    return torch.from_numpy(distance <= radius)[None, None].float()


def extent(mask: Tensor) -> float:
    """Return the diameter of the circle with the area of all classes of a mask (1, K, H, W), px."""
    return float(2 * (union(mask).sum() / np.pi).sqrt())


def _turned(sketch: Sketch, rng: Rng) -> Sketch:
    """Rotate by quarters and mirror; what a prompt says stays true."""
    turn, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def turned(values: Tensor) -> Tensor:
        values = torch.rot90(values, turn, (2, 3))
        return values.flip(3) if mirror else values

    moved = {name: turned(getattr(sketch, name)) for name in ("image", "region", "mask", "label")}
    return Sketch(**moved, scale=sketch.scale, prompt=sketch.prompt)


def _jittered(image: Tensor, rng: Rng) -> Tensor:
    """Change brightness, contrast and colour balance a little, the same for lesion and surroundings."""
    gain = torch.tensor(rng.uniform(0.93, 1.07, 3) * rng.uniform(0.9, 1.1), dtype=torch.float32).view(1, 3, 1, 1)
    return ((image + 1) * gain - 1).clamp(-1, 1)


def _varied(sketch: Sketch, rng: Rng) -> Sketch:
    """Move and colour a window as a study does: a validator meets few cases and all kinds of tissue."""
    shown, label = (sketch.image + 1) / 2, (sketch.label > 0.5).float()
    images, masks, region = vary(shown, label, AUGMENTATION, int(rng.integers(2**31)), 0, sketch.region)
    return replace(sketch, image=2 * images - 1, region=(region > 0.5).float(), mask=masks, label=masks)


def _some_aspects(rng: Rng) -> set[str]:
    """Choose the aspects that a prompt mentions: usually most of them."""
    return {aspect for aspect in ASPECTS if rng.random() < SAID}


@dataclass(frozen=True)
class Annotated:
    """A case held in memory: pixels, mask, its lesions and their measured attributes.

    A lesion is a connected part of all classes together, such as a disc with its cup; `classes` tells them apart,
    (K, H, W), and is None where the mask is the only one.
    """

    case: Case
    image: Pixels
    mask: Mask
    lesions: list[Mask]
    attributes: list[Attributes]
    classes: Mask | None = None
    rules: FrameRules = ENDOSCOPIC

    @staticmethod
    def of(case: Case, rules: FrameRules = ENDOSCOPIC) -> "Annotated":
        """Read and measure a case; the rules say what in its frame is no tissue."""
        image, mask = case.read_image(), case.read_mask()
        lesions = lesion_masks(mask)
        attributes = [measure_attributes(image, lesion, rules) for lesion in lesions]
        return Annotated(case, image, mask, lesions, attributes, case.read_masks() if case.classes else None, rules)

    @property
    def masks(self) -> Mask:
        """The mask of each class, (K, H, W)."""
        return self.mask[None] if self.classes is None else self.classes

    def alone(self, lesion: int) -> "Annotated":
        """Return the case with one of its lesions to choose from."""
        return replace(self, lesions=[self.lesions[lesion]], attributes=[self.attributes[lesion]])


def lesion_window(case: Annotated, side: int, cells: int, context: tuple[float, float], rng: Rng) -> Sketch:
    """Draw a window in which one lesion of a case is to be painted.

    The region is the lesion dilated by at least the blending band, and often by more, so that its outline does not give
    the mask away.
    """
    pick = int(rng.integers(len(case.lesions)))
    lesion = case.lesions[pick]
    shift = tuple(rng.uniform(-0.7, 0.7, 2))
    window = window_around(lesion, float(rng.uniform(*context)), (float(shift[0]), float(shift[1])))
    mask = window_masks(case.masks & lesion, window, side)
    region = dilated(mask, extent(mask) * rng.uniform(0.05, 0.25) + 1)
    if rng.random() < 0.3:
        region = torch.maximum(region, random_blob(side, rng))
    keep = set() if case.case.prompt else _some_aspects(rng)
    image = _jittered(window_image(case.image, window, side), rng)
    label = window_masks(case.masks, window, side)
    scale = scale_of(window.side, lesion.shape, cells)
    sketch = _turned(Sketch(image, region, mask, label, scale, case.case.prompt), rng)
    return sketch if sketch.prompt else replace(sketch, prompt=_described(case, pick, keep, sketch.mask, rng))


def _described(case: Annotated, pick: int, keep: set[str], mask: Tensor, rng: Rng) -> str:
    """Describe a lesion as the window (1, K, H, W) shows it after its turn."""
    domain = domain_of(case.case.class_names, case.rules)
    more = {aspect for aspect in domain.aspects if rng.random() < SAID}
    return domain.describe(words_of(case.attributes[pick], case.rules.grey), keep | more, mask[0].numpy() > 0.5)


def random_square(shape: tuple[int, int], rng: Rng, smallest: float = 0.2, largest: float = 1.0) -> Window:
    """Return a random square of a frame; sides are shares of the frame's shorter side, log-uniform."""
    shorter = min(shape)
    side = round(shorter * float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))))
    top, left = int(rng.integers(shape[0] - side + 1)), int(rng.integers(shape[1] - side + 1))
    return Window(top, left, side)


def normal_window(case: Annotated, side: int, cells: int, rng: Rng, tries: int = 12) -> Sketch | None:
    """Draw a window with a lesion-free region to paint, or None where the frame has no room for one."""
    for _ in range(tries):
        window = random_square(case.mask.shape, rng, largest=0.8)
        label = window_masks(case.masks, window, side)
        region = random_blob(side, rng)
        if float((region * dilated(label, 2)).sum()) == 0 and (
            case.rules.border is None or _is_lit(case.image, window)
        ):
            image = _jittered(window_image(case.image, window, side), rng)
            empty, scale = torch.zeros_like(label), scale_of(window.side, case.mask.shape, cells)
            prompt = domain_of(case.case.class_names, case.rules).normal_prompt
            return _turned(Sketch(image, region, empty, label, scale, prompt), rng)
    return None


def _is_lit(image: Pixels, window: Window) -> bool:
    """Tell whether a window shows tissue rather than the black border."""
    return float((np.asarray(window.crop(image)).max(axis=2) > 30).mean()) > 0.9


def search_window(case: Annotated, side: int, cells: int, rng: Rng, lesion_free: bool) -> Sketch:
    """Draw a window for a validator: anywhere in the frame, the lesion off-centre, cut, whole or absent.

    Where no lesion-free window is found, one with a lesion is returned.
    """
    for _ in range(12):
        window = random_square(case.mask.shape, rng)
        if rng.random() < 0.35 and not lesion_free:
            lesion = case.lesions[int(rng.integers(len(case.lesions)))]
            shift = rng.uniform(-1.6, 1.6, 2)
            window = window_around(lesion, float(rng.uniform(1.2, 3.0)), (float(shift[0]), float(shift[1])))
        label = window_masks(case.masks, window, side)
        if (float(union(label).mean()) > 0.01) != lesion_free and (not lesion_free or float(label.sum()) == 0):
            break
    whole = torch.ones_like(union(label))
    region = whole if rng.random() < 0.5 else torch.maximum(random_blob(side, rng), dilated(label, 4))
    prompt = domain_of(case.case.class_names, case.rules).normal_prompt if float(label.sum()) == 0 else ""
    image, scale = window_image(case.image, window, side), scale_of(window.side, case.mask.shape, cells)
    return _varied(Sketch(image, region, label, label, scale, prompt), rng)


def outlined_part(pixels: Pixels, rng: Rng) -> Mask | None:
    """Return a part of a window that stands out from what surrounds it, (side, side), or None if none does.

    A mask along an edge of the image teaches a painter, without any annotation, that a mask says where something ends.
    Highlights and dark lines are closed first, since they stand out most and are no parts of tissue.

    Source: Felzenszwalb and Huttenlocher 2004, "Efficient graph-based image segmentation", for the parts.
    """
    from skimage.measure import regionprops
    from skimage.segmentation import felzenszwalb

    side = len(pixels)
    even = ndimage.grey_opening(ndimage.grey_closing(pixels, (5, 5, 1)), (13, 13, 1))
    smooth = ndimage.gaussian_filter(even.astype(np.float32), (1.5, 1.5, 0))
    for scale in rng.permutation(PART_SCALES):
        parts = felzenszwalb(smooth / 255, scale=float(scale), sigma=1, min_size=round(SMALLEST_PART * side**2))
        found = [part for part in regionprops(parts) if _is_lesion_like(part, side, smooth)]
        if found:
            part = found[int(rng.integers(len(found)))]
            mask = np.zeros((side, side), dtype=np.float32)
            mask[part.slice] = part.image_filled
            return np.asarray(ndimage.gaussian_filter(mask, 2.0) > 0.5)
    return None


def _is_lesion_like(part: Any, side: int, smooth: NDArray[np.float32]) -> bool:
    """Tell whether a part has about the size and shape that lesions have, and is lit."""
    top, left, bottom, right = part.bbox
    edges = sum((top == 0, left == 0, bottom == side, right == side))
    share = part.area_filled / side**2
    compact = part.area / part.area_convex > LEAST_SOLID
    return bool(SMALLEST_PART < share < LARGEST_PART and compact and edges <= 1) and (
        float(smooth[part.slice][part.image].max(axis=1).mean()) > DARK
    )


def tissue_window(image: Pixels, side: int, cells: int, rng: Rng) -> Sketch:
    """Draw a window of unannotated tissue with a region, described by what is measured inside it.

    No annotation is used: the words say how the region differs from its ring. Half of the regions are parts of the
    image that stand out, if there are any; the others are of a random shape.
    """
    window = random_square(image.shape[:2], rng, smallest=0.25)
    for _ in range(6):
        if _is_lit(image, window):
            break
        window = random_square(image.shape[:2], rng, smallest=0.25)
    pixels = _jittered(window_image(image, window, side), rng)
    shown = pixels_from_tensor(pixels[0])
    part = outlined_part(shown, rng) if rng.random() < OUTLINED else None
    mask = random_blob(side, rng) if part is None else torch.from_numpy(part)[None, None].float()
    attributes = measure_attributes(shown, mask[0, 0].numpy() > 0.5)
    region = dilated(mask, extent(mask) * rng.uniform(0.05, 0.25) + 1)
    if rng.random() < 0.3:
        region = torch.maximum(region, random_blob(side, rng))
    prompt = describe_region(attributes, _some_aspects(rng) - {"size"})
    label = torch.zeros_like(mask)
    return _turned(Sketch(pixels, region, mask, label, scale_of(window.side, image.shape[:2], cells), prompt), rng)


def drawn(make: Callable[[int, Rng], Sketch | None], count: int, *key: int, description: str = "") -> Iterator[Sketch]:
    """Yield up to `count` sketches, each a pure function of the key and its number.

    Args:
        make: Draws a sketch from its number and a generator, or None where there is no room for one.
        count: How many are tried.
        key: Seed, and what else tells streams apart.
        description: Of a progress bar; empty for none.
    """
    for number in tracked(range(count), count, description):
        sketch = make(number, np.random.default_rng((*key, number)))
        if sketch is not None:
            yield sketch
