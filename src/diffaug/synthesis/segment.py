"""`diffaug segment`: find lesions in real images with the latent validator, in one pass and without painting.

Encode the whole frame, evaluate the fold validators once, average, upsample. No step of a sampler is made.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from diffaug.artifacts import make_folder, write_json
from diffaug.compute.devices import device_of
from diffaug.compute.progress import tracked
from diffaug.data.case import Mask, Pixels, read_image, write_png
from diffaug.data.inspect import outlined
from diffaug.errors import DataError
from diffaug.models.checkpoints import verify
from diffaug.models.loading import load_model
from diffaug.painting.window import frame_window, window_image
from diffaug.synthesis.shards import claim, load_validators
from diffaug.validator.calibration import Calibration
from diffaug.validator.latent_segmenter import segment

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
Maps = NDArray[np.float32]


class FrameSegmenter:
    """The validators of a model, applied to whole frames.

    Args:
        model: A finished model folder.
        device: Where to compute.
    """

    def __init__(self, model: Path, device: torch.device | str = "cpu") -> None:
        calibration = Calibration.load(model / "calibration.json")
        self.painter = load_model(model, device)
        self.validators: Sequence[Any] = load_validators(model, calibration, self.painter)

    @torch.no_grad()
    def probabilities(self, frame: Pixels) -> Maps:
        """Return lesion probabilities: pixels (H, W, 3) => (K, H, W), the mean over the fold validators."""
        window = frame_window(frame.shape)
        latents = self.painter.encode(window_image(frame, window, self.painter.window))
        still = torch.zeros(1, dtype=torch.long)
        maps = torch.stack([segment(network, latents, still) for network in self.validators]).mean(0)
        square = F.interpolate(maps, (window.side, window.side), mode="bilinear", align_corners=False)[0]
        return np.stack([window.place(found.numpy(), frame.shape[:2]) for found in square])


def segment_images(model: Path, images: Path, out: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Segment every image of a folder.

    Args:
        model: A finished model folder.
        images: A folder of images.
        out: The folder to make: `masks/` (of one class 0 and 255; of several, the number of the innermost class),
            `overlays/`, `summary.json`.
        device: Where to compute: cpu, cuda, cuda:N or auto.

    Returns:
        The content of `summary.json`: how many were segmented, and the share of the frame found in each.

    Raises:
        ModelError: The model is unfinished or altered.
        DataError: There is no image, two have one name, or some cannot be decoded; then the others are segmented all
            the same.
        ConfigError: `out` holds other files, or was made of other images; the device is not there.
    """
    place = device_of(device)
    digest = verify(model)
    paths = sorted(path for path in images.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"segmentation needs images: {images} holds none ({', '.join(SUFFIXES)}); check the path")
    stems = Counter(path.stem for path in paths)
    if twins := [path.name for path in paths if stems[path.stem] > 1]:
        raise DataError(f"each image needs a name of its own, as its mask has: {', '.join(twins[:2])}; rename one")
    segmenter, found, failed = FrameSegmenter(model, place), {}, []
    claim(out, {"model": digest, "images": str(images.resolve())})
    for name in ("masks", "overlays"):
        make_folder(out / name)
    for path in tracked(paths, len(paths), "segmenting"):
        try:
            frame = read_image(path)
        except DataError:
            failed.append(path.name)
            continue
        masks = segmenter.probabilities(frame) > 0.5
        anything: Mask = np.asarray(masks.any(0))
        write_png(out / "masks" / f"{path.stem}.png", label_of(masks))
        write_png(out / "overlays" / f"{path.stem}.png", outlined(frame, anything))
        found[path.name] = round(float(anything.mean()), 5)
    summary = {"segmented": len(found), "failed": failed, "found": found}
    write_json(out / "summary.json", summary)
    if failed:
        raise DataError(
            f"every image must decode: {', '.join(failed)} did not, the other {len(found)} are in {out}; "
            "save again or remove what is damaged"
        )
    return summary


def label_of(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return masks of K classes as one picture, (K, H, W) => (H, W): 0 and 255, the last class that holds it."""
    values = np.array([255] if len(masks) == 1 else range(1, len(masks) + 1), dtype=np.uint8)
    label: NDArray[np.uint8] = (masks * values[:, None, None]).max(0)
    return label
