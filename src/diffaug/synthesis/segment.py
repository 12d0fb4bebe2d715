"""`diffaug segment`: find lesions in real images with the latent validator, in one pass and without painting.

Encode the whole frame, evaluate the fold validators once, average, upsample. No step of a sampler is made.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from diffaug.artifacts import PathLike, make_folder, write_json
from diffaug.compute.progress import tracked
from diffaug.data.images import Mask, Pixels, read_image, write_png
from diffaug.data.inspect import outlined
from diffaug.data.manifest import SUMMARY
from diffaug.errors import DataError
from diffaug.models.checkpoints import verify
from diffaug.painting.painter import Painter
from diffaug.painting.window import frame_window, window_image
from diffaug.runfolder import Contents, claimed
from diffaug.validator.latent_segmenter import segment

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class SegmentSummary:
    """What `segment_images` found.

    Attributes:
        segmented: How many images were segmented.
        failed: Names of those that could not be decoded.
        found: Share of the frame found in each of the others, by name.
    """

    segmented: int
    failed: tuple[str, ...] = ()
    found: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, as `summary.json` holds them."""
        return {**asdict(self), "failed": list(self.failed)}


@torch.no_grad()
def lesion_probabilities(painter: Painter, frame: Pixels) -> Maps:
    """Return lesion probabilities of a whole frame: pixels (H, W, 3) => (K, H, W), the mean over the validators."""
    window = frame_window(frame.shape)
    latents = painter.model.encode(window_image(frame, window, painter.model.window))
    still = torch.zeros(1, dtype=torch.long)
    maps = torch.stack([segment(network, latents, still) for network in painter.validators]).mean(0)
    square = F.interpolate(maps, (window.side, window.side), mode="bilinear", align_corners=False)[0]
    return np.stack([window.place(found.numpy(), frame.shape[:2]) for found in square])


def segment_images(model: PathLike, images: PathLike, out: PathLike, *, device: str = "cpu") -> SegmentSummary:
    """Segment every image of a folder.

    Args:
        model: A finished model folder.
        images: A folder of images.
        out: The folder to make: `masks/` (of one class 0 and 255; of several, the number of the innermost class),
            `overlays/`, `summary.json`.
        device: Where to compute: cpu, cuda, cuda:N or auto.

    Returns:
        What was found; `summary.json` holds it, too.

    Raises:
        ModelError: The model is unfinished or altered.
        DataError: There is no image, two have one name, or some cannot be decoded; then the others are segmented all
            the same.
        ConfigError: `out` holds other files, or was made of other images; the device is not there.

    Example:
        >>> diffaug.segment_images("models/mine", "photographs", "segmented/mine")  # doctest: +SKIP
    """
    model, images, out = Path(model), Path(images), Path(out)
    digest, paths = verify(model), _images_of(images)
    painter = Painter.load(model, device, sealed=False)
    identity = {"model": digest, "images": str(images.resolve())}
    with claimed(out, Contents("folder of segmented images", identity, "config.json")):
        summary = _written(painter, paths, out)
    if summary.failed:
        raise DataError(
            f"every image must decode: {', '.join(summary.failed)} did not, the other {summary.segmented} are in "
            f"{out}; save again or remove what is damaged"
        )
    return summary


def _images_of(folder: Path) -> list[Path]:
    """Return the images of a folder by name.

    Raises:
        DataError: There is none, or two have one name.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"segmentation needs images: {folder} holds none ({', '.join(SUFFIXES)}); check the path")
    stems = Counter(path.stem for path in paths)
    if twins := [path.name for path in paths if stems[path.stem] > 1]:
        raise DataError(f"each image needs a name of its own, as its mask has: {', '.join(twins[:2])}; rename one")
    return paths


def _written(painter: Painter, paths: Sequence[Path], out: Path) -> SegmentSummary:
    """Segment images, and write masks, overlays and the summary."""
    found, failed = dict[str, float](), []
    for name in ("masks", "overlays"):
        make_folder(out / name)
    for path in tracked(paths, len(paths), "segmenting"):
        try:
            frame = read_image(path)
        except DataError:
            failed.append(path.name)
            continue
        masks = lesion_probabilities(painter, frame) > 0.5
        anything: Mask = np.asarray(masks.any(0))
        write_png(out / "masks" / f"{path.stem}.png", label_of(masks))
        write_png(out / "overlays" / f"{path.stem}.png", outlined(frame, anything))
        found[path.name] = round(float(anything.mean()), 5)
    summary = SegmentSummary(len(found), tuple(failed), found)
    write_json(out / SUMMARY, summary.as_dict())
    return summary


def label_of(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return masks of K classes as one picture, (K, H, W) => (H, W): 0 and 255, the last class that holds it."""
    values = np.array([255] if len(masks) == 1 else range(1, len(masks) + 1), dtype=np.uint8)
    label: NDArray[np.uint8] = (masks * values[:, None, None]).max(0)
    return label
