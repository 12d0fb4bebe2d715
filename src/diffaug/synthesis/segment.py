"""`diffaug segment`: find lesions in real images with the latent validator, in one pass and without painting.

Encode the whole frame, evaluate the fold validators once, average, upsample. No step of a sampler is made.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from diffaug.artifacts import PathLike
from diffaug.data.images import Pixels
from diffaug.data.segmented import Maps, Segmenter, SegmentSummary, images_of, name_of_place, write_segmented
from diffaug.models.checkpoints import verify
from diffaug.painting.painter import Painter
from diffaug.painting.window import frame_window, window_image
from diffaug.runfolder import Contents, claimed
from diffaug.validator.latent_segmenter import frame_side, segment


@torch.no_grad()
def lesion_probabilities(painter: Painter, frame: Pixels) -> Maps:
    """Return lesion probabilities of a whole frame: pixels (H, W, 3) => (K, H, W), the mean over the validators."""
    window = frame_window(frame.shape)
    latents = painter.model.encode(
        window_image(frame, window, frame_side(painter.model.cell, painter.model.latent_side))
    )
    still = torch.zeros(1, dtype=torch.long)
    maps = torch.stack([segment(network, latents, still) for network in painter.validators]).mean(0)
    square = F.interpolate(maps, (window.side, window.side), mode="bilinear", align_corners=False)[0]
    return np.stack([window.place(found.numpy(), frame.shape[:2]) for found in square])


def segment_images(model: PathLike, images: PathLike, out: PathLike, *, device: str = "cpu") -> SegmentSummary:
    """Segment every image of a folder and its subfolders.

    Args:
        model: A finished model folder.
        images: A folder of images, or one image.
        out: The folder to make: `masks/` (of one class 0 and 255; of several, the number of the innermost class),
            `overlays/`, `summary.json`. Masks and overlays have the subfolders of the images. It must not lie inside
            the folder of images.
        device: Where to compute: cpu, cuda, cuda:N, mps or auto.

    Returns:
        What was found; `summary.json` holds it, too.

    Raises:
        ModelError: The model is unfinished or altered.
        DataError: There is no image, two of a folder have one name, there are masks, or some images cannot be decoded;
            then the others are segmented all the same.
        ConfigError: `out` holds other files, was made of other images, or lies among them; the device is not there.

    Example:
        >>> diffaug.segment_images("models/mine", "photographs", "segmented/mine")  # doctest: +SKIP
    """
    model, images, out = Path(model), Path(images), Path(out)
    digest, found = verify(model), images_of(images, out)
    painter = Painter.load(model, device, sealed=False)
    identity = {"model": digest, "images": name_of_place(images)}
    segmenter = Segmenter(partial(lesion_probabilities, painter), lambda maps: label_of(maps > 0.5))
    with claimed(out, Contents("folder of segmented images", identity, "config.json")):
        return write_segmented(segmenter, found, out)


def label_of(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return masks of K classes as one picture, (K, H, W) => (H, W): 0 and 255, the last class that holds it."""
    values = np.array([255] if len(masks) == 1 else range(1, len(masks) + 1), dtype=np.uint8)
    label: NDArray[np.uint8] = (masks * values[:, None, None]).max(0)
    return label
