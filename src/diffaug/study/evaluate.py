"""How well a prediction matches its reference: per-case metrics, and how every case of a split gets them.

Knows masks and networks that turn images into logits; knows no arms, seeds or training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffaug.artifacts import atomic_path
from diffaug.conditioning.domain import domain_of
from diffaug.data.case import Case, LabelClass, label_from_probabilities
from diffaug.data.images import Label, Mask
from diffaug.data.lesions import connected_parts, largest_part, least_area, lesion_masks
from diffaug.errors import StudyError
from diffaug.study.statistics import METRICS

if TYPE_CHECKING:
    from torch import Tensor, nn

MISSED = 0.1  # a lesion whose IoU is under this counts as missed
FILLED = 0.1  # of a fill's region; where more is predicted, the model took painted tissue for a lesion
BATCH = 16  # test images predicted together; the result does not depend on it


@dataclass(frozen=True)
class Scores:
    """How one prediction compares with its reference; None where a value has no meaning.

    With R the reference, P the prediction and TP their intersection, in pixels:

        dice = 2 TP / (R + P)    iou = TP / (R + P - TP)    sensitivity = TP / R    precision = TP / P

    `hd95` is the 95th percentile of the distances of each outline's pixels to the other outline, the larger of both
    directions, in px of the case's own frame. `lesion_recall` is the share of the reference's lesions (as
    `data.lesions` defines them; None without one) that are found: IoU of at least 0.1 with the parts of the prediction
    that touch it. `false_alarm` is 1 where a lesion-free image has a predicted part as large as a lesion, and
    `false_area` the share of such an image that is predicted.

    Both empty: dice = iou = 1, false_alarm = false_area = 0, the others None. Only the reference empty: dice = iou =
    precision = 0, false_alarm and false_area as they are, the others None. Only the prediction empty: dice = iou =
    sensitivity = lesion_recall = 0, hd95 the frame's diagonal (a miss must not drop out of the mean), precision None.
    With a lesion in the reference, false_alarm and false_area are None.
    """

    dice: float
    iou: float
    sensitivity: float | None
    precision: float | None
    hd95: float | None = None
    lesion_recall: float | None = None
    false_alarm: float | None = None
    false_area: float | None = None

    @property
    def missed(self) -> float | None:
        """1.0 when IoU is under 0.1, else 0.0; None when there was no lesion to miss."""
        return None if self.sensitivity is None else float(self.iou < MISSED)

    @property
    def false_negative_rate(self) -> float | None:
        """Share of lesion pixels that were not predicted, 1 - sensitivity; None without a lesion."""
        return None if self.sensitivity is None else 1.0 - self.sensitivity


def score(reference: Mask, prediction: Mask) -> Scores:
    """Compare two masks of one image, both (H, W).

    Raises:
        StudyError: The masks have different sizes.
    """
    if reference.shape != prediction.shape:
        raise StudyError(
            f"reference and prediction must have one size: {reference.shape} and {prediction.shape}; resize first"
        )
    lesion, predicted = int(reference.sum()), int(prediction.sum())
    both = int((reference & prediction).sum())
    empty = lesion + predicted == 0
    return Scores(
        dice=1.0 if empty else 2 * both / (lesion + predicted),
        iou=1.0 if empty else both / (lesion + predicted - both),
        sensitivity=both / lesion if lesion else None,
        precision=both / predicted if predicted else None,
        hd95=hausdorff95(reference, prediction),
        lesion_recall=lesion_recall(reference, prediction),
        false_alarm=None if lesion else float(largest_part(prediction).sum() >= least_area(prediction.size)),
        false_area=None if lesion else predicted / prediction.size,
    )


def hausdorff95(reference: Mask, prediction: Mask) -> float | None:
    """Return HD95 in px; the diagonal where only the prediction is empty, None where the reference is.

    Source: Taha & Hanbury 2015, "Metrics for evaluating 3D medical image segmentation", section on distances.
    """
    if not reference.any():
        return None
    if not prediction.any():
        return float(np.hypot(*reference.shape))
    rows, columns = ndimage.find_objects((reference | prediction).astype(np.int8))[0]
    part = (slice(max(0, rows.start - 1), rows.stop + 1), slice(max(0, columns.start - 1), columns.stop + 1))
    one, other = (_outline(mask)[part] for mask in (reference, prediction))
    there = ndimage.distance_transform_edt(~other)[one]
    back = ndimage.distance_transform_edt(~one)[other]
    return float(max(np.quantile(there, 0.95), np.quantile(back, 0.95)))


def _outline(mask: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def lesion_recall(reference: Mask, prediction: Mask) -> float | None:
    """Return the share of the reference's lesions that are found; None without a lesion."""
    lesions = lesion_masks(reference)
    if not lesions:
        return None
    parts, _ = connected_parts(prediction)
    found = 0
    for lesion in lesions:
        touching = np.unique(parts[lesion])
        answer = np.isin(parts, touching[touching > 0])
        union = int((lesion | answer).sum())
        found += int((lesion & answer).sum()) >= MISSED * union
    return found / len(lesions)


def score_classes(references: Mask, predictions: Mask, names: Sequence[str]) -> dict[str, float | None]:
    """Return the metrics of one case, by name.

    Of one class they are its `Scores`. Of several, each is the mean over the classes where it has a value, and every
    class's own stands beside it as `disc_dice`, and so do the columns of the domain, such as the vertical cup-to-disc
    ratio.

    Args:
        references: Shape (K, H, W).
        predictions: Same shape.
        names: Of the classes.
    """
    scores = [score(reference, prediction) for reference, prediction in zip(references, predictions, strict=True)]
    if len(scores) == 1:
        return {metric: getattr(scores[0], metric) for metric in METRICS}
    found: dict[str, float | None] = {}
    for metric in METRICS:
        values = [value for one in scores if (value := getattr(one, metric)) is not None]
        found[metric] = sum(values) / len(values) if values else None
    found |= {
        column: getattr(one, m) for name, one in zip(names, scores, strict=True) for m, column in columns_of(name)
    }
    return found | domain_of(names).scores(references, predictions)


def columns_of(name: str) -> list[tuple[str, str]]:
    """Return every metric with the name of its column for one class of several."""
    return [(metric, f"{name}_{metric}") for metric in METRICS]


def class_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that `score_classes` adds to the metrics of one class."""
    if len(names) == 1:
        return ()
    own = tuple(column for name in names for _, column in columns_of(name))
    return (*own, *domain_of(names).columns)


def probabilities(network: "nn.Module", images: "Tensor") -> "Tensor":
    """Predict lesion probabilities.

    The mean over an image's four flips was tried: it took four times as long and was no better (0.708 against 0.710).

    Args:
        network: Images in [0, 1], shape (B, 3, H, W), to logits, shape (B, K, H, W).
        images: uint8, shape (B, 3, H, W).

    Returns:
        float32, shape (B, K, H, W), in [0, 1].
    """
    import torch

    from diffaug.compute.precision import autocast

    pixels = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(images.device):
        return network(pixels).float().sigmoid()  # type: ignore[no-any-return]


def predict(
    network: "nn.Module", images: "Tensor", cases: Sequence[Case], threshold: float
) -> Iterator[tuple[Case, Mask, Label]]:
    """Yield each case with the references of its classes, (K, H, W), and the predicted label, (H, W), at its own size.

    Probabilities are enlarged bilinearly, then cut; of several classes the most probable label is taken.

    Args:
        network: See `probabilities`; is put into evaluation mode.
        images: The cases' images at the network's size, uint8, shape (n, 3, S, S), in the order of `cases`.
        cases: Annotated cases.
        threshold: Probability over which a pixel is lesion.
    """
    network.eval()
    for start in range(0, len(cases), BATCH):
        batch = probabilities(network, images[start : start + BATCH])
        for case, probability in zip(cases[start : start + BATCH], batch, strict=True):
            references = case.read_masks()
            full = enlarged(probability, references.shape[1:])
            yield case, references, labelled(full, case.classes, threshold)


def labelled(probability: NDArray[np.float32], classes: Sequence[LabelClass], threshold: float) -> Label:
    """Return the label (H, W) of probabilities (K, H, W): those over a threshold, or of classes the likeliest."""
    return label_from_probabilities(probability, classes) if classes else (probability[0] > threshold).astype(np.uint8)


def enlarged(probability: "Tensor", shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return probability maps (K, S, S) at the size (H, W) of a frame, bilinearly: (K, H, W)."""
    import torch.nn.functional as F

    full = F.interpolate(probability[None], size=shape, mode="bilinear", align_corners=False)
    return np.asarray(full[0].cpu().numpy(), dtype=np.float32)


def write_prediction(path: Path, prediction: Label, size: int, classes: Sequence[LabelClass] = ()) -> None:
    """Write a predicted label as a PNG whose longer side is `size` px at most; without classes as 0 and 255."""
    from PIL import Image

    if classes:
        picture = Image.fromarray(prediction)
        picture.thumbnail((size, size), Image.Resampling.NEAREST)  # label values have no mean
    else:
        picture = Image.fromarray(prediction.astype(np.uint8) * 255)
        scale = min(1.0, size / max(picture.size))
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        pixels: NDArray[np.uint8] = np.asarray(picture)
        picture = Image.fromarray(np.where(pixels > 127, 255, 0).astype(np.uint8))
    with atomic_path(path, settled=False) as partial:
        picture.save(partial, format="PNG")
