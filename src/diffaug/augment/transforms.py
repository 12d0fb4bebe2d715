"""MONAI dictionary transforms that add a lesion to a case while it is loaded: pasted, or painted.

Each call draws its numbers first, from the random state that MONAI seeds in every worker, applies them, and records
them beside the image: the same record and the same case give the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from PIL import Image

from diffaug.artifacts import PathLike
from diffaug.conditioning.domain import domain_of
from diffaug.data.case import Case, LabelClass
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, Pixels, check_image
from diffaug.data.lesions import components
from diffaug.errors import DataError, ShapeError
from diffaug.models.checkpoints import verify
from diffaug.painting.painter import Painter
from diffaug.study.batches import paste

LARGEST_SEED = 2**31 - 1
REMEMBERED = 64  # frames of lesions that a process keeps in memory
Planes = NDArray[np.float32]  # (C, H, W) in [0, 1]


@dataclass(frozen=True)
class Draw:
    """What one call draws.

    Attributes:
        is_on: Whether a lesion is added.
        frame: Which frame of the bank it comes from, in [0, 1).
        lesion: Which lesion of that frame, in [0, 1).
        seed: Of where it lies, how it is turned and scaled, and of the painter's noise.
    """

    is_on: bool
    frame: float
    lesion: float
    seed: int


@dataclass(frozen=True)
class Pasted:
    """A case with a lesion pasted onto it.

    Attributes:
        image: (3, H, W) in [0, 1].
        masks: (K, H, W), True inside each class.
        new: The pasted lesion, (H, W).
    """

    image: Planes
    masks: Mask
    new: Mask


class RandPasteLesiond(MapTransform, RandomizableTransform):  # type: ignore[misc] # MONAI is untyped
    """Paste a lesion of another case, turned, mirrored, scaled and feathered, onto tissue of the image.

    A record lies beside the image, under `pasted`: whether it was done, of which case the lesion is, and the seed.
    The lesion covers what lies under it; where classes lie inside each other, such as a cup in its disc, it is put
    onto the image's own.

    Args:
        keys: Of the image, (3, H, W) or (1, H, W), and of the label, (K, H, W), a mask of 0 and 1 for each class.
        lesions: A data set whose annotated training cases give the lesions. None takes the image's own lesions.
        prob: How often a lesion is added.
        white: The image's value of white: 1, or 255 for images of bytes, whatever their type.

    Raises:
        DataError: The data set has no lesions.

    Example:
        >>> transform = diffaug.RandPasteLesiond(keys=("image", "label"), lesions="data/mine", prob=1.0)
        >>> item = diffaug.CaseDataset(diffaug.read_dataset("data/mine").annotated("train"))[0]
        >>> new = transform.set_random_state(seed=0)(item)
        >>> new["pasted"]["decision"], bool((new["label"] != item["label"]).any())
        ('kept', True)

    Source: Ghiasi et al. 2021 (arXiv:2012.07177).
    """

    record = "pasted"

    def __init__(
        self,
        keys: Sequence[str],
        lesions: PathLike | None = None,
        prob: float = 0.5,
        white: float = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.white, self.cases = white, () if lesions is None else _annotated(Path(lesions))
        self.one_place = bool(self.cases) and domain_of(self.cases[0].class_names).stays_in_place

    def randomize(self, data: Any = None) -> Draw:
        """Draw the numbers of one call, as many whether a lesion is added or not."""
        super().randomize(data)
        frame, lesion, seed = self.R.rand(), self.R.rand(), self.R.randint(LARGEST_SEED)
        return Draw(bool(self._do_transform), float(frame), float(lesion), int(seed))

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the case, perhaps with one more lesion, and the record.

        Raises:
            ShapeError: Image or label have other shapes.
            DataError: Image or label hold other values.
        """
        image_key, label_key = self.keys[:2]
        draw = self.randomize()
        image = planes_of(data[image_key], self.white, image_key)
        masks = masks_of(data[label_key], image.shape[1:], label_key)
        record = {"decision": "off", "lesion": "", "seed": draw.seed}
        new = dict(data)
        if draw.is_on:
            made, record = self._added(image, masks, draw)
            if made is not None:
                changed = (made.image != image).any(axis=0)
                new[image_key] = _like(data[image_key], made.image * self.white, changed)
                new[label_key] = _like(data[label_key], made.masks, np.ones_like(changed))
        new[self.record] = record
        return new

    def _added(self, image: Planes, masks: Mask, draw: Draw) -> tuple[Pasted | None, dict[str, Any]]:
        """Return the case with a lesion, None where there is none to paste, and the record."""
        name, frame, classes = self._source(image, masks, draw)
        record = {"decision": "kept" if classes.any() else "no lesion", "lesion": name, "seed": draw.seed}
        if not classes.any():
            return None, record
        return pasted(image, masks, frame, classes, draw.seed, self.one_place), record

    def _source(self, image: Planes, masks: Mask, draw: Draw) -> tuple[str, Planes, Mask]:
        """Return the case that a lesion comes from, its frame, and the lesion's classes."""
        name, frame, classes = "", image, masks
        if self.cases:
            case = self.cases[int(draw.frame * len(self.cases))]
            name = case.id
            frame, classes = _frame_of(case.id, case.image, case.mask or case.image, case.classes)
        if len(classes) != len(masks):
            raise ShapeError(
                f"a label has a mask for each class, here {len(classes)}: it has {len(masks)}; turn class numbers into "
                "masks, for example with AsDiscreted(to_onehot=..)"
            )
        found = components(np.asarray(classes.any(axis=0)))
        if not found:
            return name, frame, np.zeros_like(classes)
        return name, frame, classes & found[int(draw.lesion * len(found))].in_frame()


class RandPaintLesiond(RandPasteLesiond):
    """Paint a lesion onto tissue of the image while it is loaded: a pasted one, repainted by a fitted model.

    A record lies beside the image, under `painted`: the decision (kept, rejected, off tissue, no lesion, off), of which
    case the lesion is, and the seed. What the model's validators turn down leaves the case as it was. Every pixel
    outside the blending band keeps its value.

    Args:
        keys: Of the image, (3, H, W) or (1, H, W), and of the label, (K, H, W), a mask of 0 and 1 for each class.
        model: A model folder, which each worker loads once, or a painter.
        lesions: A data set whose annotated training cases give the lesions: better the one that the model was fitted
            on. None takes the image's own lesions.
        prob: How often a lesion is added.
        white: The image's value of white: 1, or 255 for images of bytes, whatever their type.
        prompt: What the lesion looks like; empty leaves that to the model.
        gate: Whether what the validators turn down leaves the case as it was.
        device: Where to compute. In worker processes only the CPU can be used.

    Raises:
        DataError: The data set has no lesions.
        ModelError: The model is unfinished or altered.

    Example:
        >>> keys = ("image", "label")
        >>> diffaug.RandPaintLesiond(keys, model="models/mine", lesions="data/mine", prob=0.3)  # doctest: +SKIP
    """

    record = "painted"

    def __init__(
        self,
        keys: Sequence[str],
        model: PathLike | Painter,
        lesions: PathLike | None = None,
        prob: float = 0.3,
        white: float = 1.0,
        *,
        prompt: str = "",
        gate: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__(keys, lesions, prob, white)
        self.model: Path | Painter = model if isinstance(model, Painter) else Path(model)
        self.prompt, self.gate, self.device = prompt, gate, device
        if isinstance(self.model, Path):
            verify(self.model)

    @property
    def painter(self) -> Painter:
        """The painter, which a process loads once."""
        return self.model if isinstance(self.model, Painter) else _painter_of(self.model.absolute(), self.device)

    def _added(self, image: Planes, masks: Mask, draw: Draw) -> tuple[Pasted | None, dict[str, Any]]:
        made, record = super()._added(image, masks, draw)
        if made is None:
            return None, record
        classes = made.masks & made.new
        before, start = bytes_of(image), bytes_of(made.image)
        try:
            found = self.painter.paint(
                start, classes if len(classes) > 1 else classes[0], prompt=self.prompt, seed=draw.seed, start="image"
            )
        except DataError:  # hidden by the border of the frame, or by writing
            return None, record | {"decision": "off tissue"}
        if self.gate and found.decision != "kept":
            return None, record | {"decision": found.decision}
        changed = (found.image != before).any(axis=2)
        picture = np.where(changed, found.image.transpose(2, 0, 1).astype(np.float32) / 255, image)
        return Pasted(picture.astype(np.float32), made.masks, made.new), record | {"decision": found.decision}


class OnArrays:
    """Call one of these transforms with plain arrays, as albumentations is called.

    `aug(image=image, mask=mask)` takes an image, (H, W, 3) uint8, and a mask, (H, W) bool, or (K, H, W) of K classes,
    and returns a dictionary of both and of the record.

    Args:
        transform: Made with `white=255`; its keys may be any.
        seed: Of its random state; each process needs one of its own.

    Example:
        >>> case = diffaug.read_dataset("data/mine")["train-0"]
        >>> aug = diffaug.OnArrays(diffaug.RandPasteLesiond(("image", "label"), "data/mine", prob=1.0, white=255))
        >>> new = aug(image=case.read_image(), mask=case.read_mask())
        >>> new["image"].shape, new["mask"].dtype, new["pasted"]["decision"]
        ((128, 128, 3), dtype('bool'), 'kept')
    """

    def __init__(self, transform: RandPasteLesiond, seed: int = 0) -> None:
        self.transform = transform.set_random_state(seed=seed)

    def __call__(self, *, image: Pixels, mask: Mask) -> dict[str, Any]:
        """Return image, mask and record.

        Raises:
            ShapeError: Image or mask have other shapes.
            DataError: Image or mask hold other values.
        """
        check_image(image)
        image_key, label_key = self.transform.keys[:2]
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        found = self.transform({image_key: planes, label_key: mask[None] if mask.ndim == 2 else mask})
        picture, label = np.ascontiguousarray(found[image_key].transpose(1, 2, 0)), found[label_key]
        record = self.transform.record
        return {"image": picture, "mask": label[0] if mask.ndim == 2 else label, record: found[record]}


def pasted(image: Planes, masks: Mask, frame: Planes, classes: Mask, seed: int, one_place: bool = False) -> Pasted:
    """Paste a lesion onto an image; both are seen as squares of the image's longer side.

    Args:
        image: To paste on, (3, H, W) in [0, 1].
        masks: Its classes, (K, H, W).
        frame: Where the lesion comes from, (3, h, w) of any size.
        classes: The lesion's classes, (K, h, w).
        seed: Of the place, the turn and the scale.
        one_place: Put it onto the image's own structure.
    """
    height, width = image.shape[1:]
    side = max(height, width)
    own, lesion = _square(masks.astype(np.float32), side), _square(classes.astype(np.float32), side) >= 0.5
    mark = lesion.any(axis=0, keepdims=True)  # a last channel, which shows where the lesion went
    onto = _square(image, side), np.concatenate([own, np.zeros_like(own[:1])])
    source = _square(frame, side), np.concatenate([lesion, mark]).astype(np.float32)
    batch = [torch.from_numpy(planes)[None] for planes in (*onto, *source)]  # one row each
    made, labels = paste(batch[0], batch[1], batch[2], batch[3], np.random.default_rng(seed), one_place)
    crop = np.s_[..., :height, :width]
    found = labels[0].numpy()[crop] > 0.5
    return Pasted(made[0].numpy()[crop].clip(0, 1), found[:-1], found[-1])


def _square(planes: Planes, side: int) -> Planes:
    """Scale planes (C, h, w) so that the longer side is `side`, and fill the rest below and beside with 0."""
    height, width = planes.shape[1:]
    if max(height, width) != side:
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
        planes = np.stack([np.asarray(Image.fromarray(plane).resize(size, how)) for plane in planes]).clip(0, 1)
        height, width = planes.shape[1:]
    return np.pad(planes.astype(np.float32), ((0, 0), (0, side - height), (0, side - width)))


def _annotated(folder: Path) -> tuple[Case, ...]:
    cases = tuple(case for case in read_dataset(folder).annotated("train") if not case.negative)
    if not cases:
        raise DataError(f"lesions come from annotated training cases: {folder} has none; annotate some")
    return cases


@lru_cache(maxsize=REMEMBERED)
def _frame_of(name: str, image: Path, mask: Path, classes: tuple[LabelClass, ...]) -> tuple[Planes, Mask]:
    """Return the image of a case, (3, H, W) in [0, 1], and its masks, (K, H, W)."""
    case = Case(name, image, mask, name, "train", classes=classes)
    return case.read_image().transpose(2, 0, 1).astype(np.float32) / np.float32(255), case.read_masks()


@lru_cache(maxsize=2)
def _painter_of(folder: Path, device: str) -> Painter:
    return Painter.load(folder, device)


def bytes_of(planes: Planes) -> Pixels:
    """Return planes (3, H, W) in [0, 1] as pixels (H, W, 3)."""
    return np.ascontiguousarray(np.rint(planes * 255).astype(np.uint8).transpose(1, 2, 0))


def planes_of(value: Any, white: float, key: str) -> Planes:
    """Return an image as planes (3, H, W) in [0, 1]; a grey one is repeated.

    Raises:
        ShapeError: The channels are not first, or neither one nor three.
        DataError: It is not of numbers from 0 to white.
    """
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ShapeError(
            f"an image has the shape (3, H, W) or (1, H, W): {key!r} has {array.shape}; put the channels first, for "
            "example with EnsureChannelFirstd"
        )
    low, high = float(array.min()), float(array.max())
    looks_scaled = white > 1 and array.dtype.kind == "f" and 0 < high <= 1
    if not 0 <= low <= high <= white * 1.001 or looks_scaled:
        raise DataError(
            f"an image holds values from 0 to {white:g}, its white: {key!r} has {low:.4g} to {high:.4g}; set white=255 "
            "or white=1, and add lesions before intensities are normalised"
        )
    planes = (array.astype(np.float32) / white).clip(0, 1)
    return np.repeat(planes, 3, axis=0) if len(planes) == 1 else planes


def masks_of(value: Any, frame: Sequence[int], key: str) -> Mask:
    """Return a label as masks (K, H, W).

    Raises:
        ShapeError: It has not the size of its image.
        DataError: It holds other values than 0 and 1.
    """
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if array.ndim != 3 or array.shape[1:] != tuple(frame):
        raise ShapeError(
            f"a label has the shape (K, H, W) of its image, here {tuple(frame)}: {key!r} has {array.shape}; put a "
            "channel first, and scale image and label alike"
        )
    if not np.isin(array, (0, 1)).all():
        strange = next(value for value in np.unique(array) if value not in (0, 1))
        raise DataError(
            f"a label is a mask of 0 and 1 for each class: {key!r} holds {strange:g}; turn it into masks, for example "
            "with AsDiscreted(threshold=0.5)"
        )
    return array > 0


def _like(old: Any, new: NDArray[Any], changed: Mask) -> Any:
    """Return new planes (C, H, W) where something changed, with the type, the channels and the metadata of the old."""
    before = np.asarray(old.detach().cpu() if isinstance(old, torch.Tensor) else old)
    rounded = np.rint(new) if before.dtype.kind in "ui" else new
    both = np.where(changed, rounded[: len(before)], before).astype(before.dtype)
    return convert_to_dst_type(both, old, dtype=old.dtype)[0]
