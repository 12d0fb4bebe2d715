"""How well a prediction matches its reference: per-case metrics, and how every case of a split gets them.

Knows masks and networks that turn images into logits; knows no arms, seeds or training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffaug.data.case import Case, Mask
from diffaug.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn

MISSED = 0.1  # a lesion whose IoU is under this counts as missed
BATCH = 16  # test images predicted together; the result does not depend on it


@dataclass(frozen=True)
class Scores:
    """Overlap of one prediction with its reference; None where the quotient has no meaning.

    With R the reference, P the prediction and TP their intersection, in pixels:

        dice = 2 TP / (R + P)    iou = TP / (R + P - TP)    sensitivity = TP / R    precision = TP / P

    Both empty: dice = iou = 1, sensitivity and precision None. Only the reference empty: dice = iou = precision = 0,
    sensitivity None. Only the prediction empty: dice = iou = sensitivity = 0, precision None.
    """

    dice: float
    iou: float
    sensitivity: float | None
    precision: float | None

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
    )


def probabilities(network: "nn.Module", images: "Tensor") -> "Tensor":
    """Predict lesion probabilities.

    The mean over an image's four flips was tried: it took four times as long and was no better (0.708 against 0.710).

    Args:
        network: Images in [0, 1], shape (B, 3, H, W), to logits, shape (B, 1, H, W).
        images: uint8, shape (B, 3, H, W).

    Returns:
        float32, shape (B, 1, H, W), in [0, 1].
    """
    import torch

    from diffaug.diffusion.train import autocast

    pixels = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(images.device):
        return network(pixels).float().sigmoid()  # type: ignore[no-any-return]


def predict(network: "nn.Module", images: "Tensor", cases: Sequence[Case]) -> Iterator[tuple[Case, Mask, Mask]]:
    """Yield each case with its reference and prediction, both at the size of the case's own mask.

    Probabilities are enlarged bilinearly, then cut at 0.5.

    Args:
        network: See `probabilities`; is put into evaluation mode.
        images: The cases' images at the network's size, uint8, shape (n, 3, S, S), in the order of `cases`.
        cases: Annotated cases.
    """
    import torch.nn.functional as F

    network.eval()
    for start in range(0, len(cases), BATCH):
        batch = probabilities(network, images[start : start + BATCH])
        for case, probability in zip(cases[start : start + BATCH], batch, strict=True):
            reference = case.read_mask()
            full = F.interpolate(probability[None], size=reference.shape, mode="bilinear", align_corners=False)
            yield case, reference, full[0, 0].cpu().numpy() > 0.5


def write_prediction(path: Path, prediction: Mask, size: int) -> None:
    """Write a prediction as a PNG whose longer side is `size` px at most."""
    from PIL import Image

    picture = Image.fromarray(prediction.astype(np.uint8) * 255)
    scale = min(1.0, size / max(picture.size))
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    pixels: NDArray[np.uint8] = np.asarray(picture)
    Image.fromarray(np.where(pixels > 127, 255, 0).astype(np.uint8)).save(path, format="PNG")
