"""Folders of segmented images: which images are read, and the masks, overlays and probabilities that are written.

Knows pictures and functions that find lesions in them; knows no networks.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.artifacts import atomic_path, digest_of_bytes, make_folder, storing, sync_tree, write_json
from diffaug.compute.progress import tracked
from diffaug.data.images import SUFFIXES, Label, Pixels, read_image, write_png
from diffaug.data.manifest import SUMMARY
from diffaug.data.pictures import outlined
from diffaug.errors import DataError

Maps = NDArray[np.float32]  # (K, H, W), probabilities of K classes
FULL = 65535  # the value of probability 1 in a picture of 16 bits


@dataclass(frozen=True)
class SegmentSummary:
    """What was found in a folder of images.

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


@dataclass(frozen=True)
class Segmenter:
    """How images are segmented.

    Attributes:
        maps_of: Pixels (H, W, 3) => probabilities (K, H, W).
        label_of: Probabilities => the picture of the label, (H, W).
        maps: Where probabilities are written, in folders of these names, one a class; nowhere without a name.
    """

    maps_of: Callable[[Pixels], Maps]
    label_of: Callable[[Maps], Label]
    maps: tuple[str, ...] = ()


def images_of(place: Path) -> list[Path]:
    """Return the images of a folder by name, or a file alone.

    Raises:
        DataError: There is none, or two have one name.
    """
    if place.is_file():
        return [place]
    found = sorted(path for path in place.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path for path in found if not path.name.startswith(".")]  # file managers leave such files
    if not paths:
        below = sorted(
            {path.parent for path in place.glob("*/*") if path.suffix.lower() in SUFFIXES and path.is_file()}
        )
        holds = f"holds none ({', '.join(SUFFIXES)})"
        if (place / "images").is_dir():
            fix = f"name {place / 'images'}"
        elif below:
            number = f"{len(below)} folders that do" if len(below) > 1 else "a folder that does"
            holds, fix = f"holds no image itself, but {number}", f"give one of them, such as {below[0]}"
        else:
            fix = "check the path"
        raise DataError(f"segmentation needs images: {place} {holds}; {fix}")
    stems = Counter(path.stem for path in paths)
    if twins := [path.name for path in paths if stems[path.stem] > 1]:
        raise DataError(f"each image needs a name of its own, as its mask has: {', '.join(twins[:2])}; rename one")
    return paths


def name_of_place(place: Path) -> str:
    """Return what tells images of one place from those of others, without saying where they lie."""
    return f"{place.resolve().name} ({digest_of_bytes(str(place.resolve()).encode())})"


def write_segmented(segmenter: Segmenter, paths: Sequence[Path], out: Path) -> SegmentSummary:
    """Segment images, and write `masks/`, `overlays/`, the probabilities that are wanted, and the summary last.

    Raises:
        DataError: Some images cannot be decoded; the others are segmented all the same.
    """
    found, failed = dict[str, float](), dict[str, str]()
    for name in ("masks", "overlays", *segmenter.maps):
        _remove_others(make_folder(out / name), {f"{path.stem}.png" for path in paths})
    for path in tracked(paths, len(paths), "segmenting"):
        try:
            frame = read_image(path)
        except DataError as error:
            failed[path.name] = str(error)
            for folder in ("masks", "overlays", *segmenter.maps):  # of a time when it could be read
                (out / folder / f"{path.stem}.png").unlink(missing_ok=True)
            continue
        maps, name = segmenter.maps_of(frame), f"{path.stem}.png"
        label = segmenter.label_of(maps)
        write_png(out / "masks" / name, label, settled=False)
        write_png(out / "overlays" / name, outlined(frame, label > 0), settled=False)
        for folder, each in zip(segmenter.maps, maps, strict=False):
            _write_map(out / folder / name, each)
        found[path.name] = round(float((label > 0).mean()), 5)
    summary = SegmentSummary(len(found), tuple(failed), found)
    with storing(out):
        sync_tree(out)
    write_json(out / SUMMARY, summary.as_dict())
    if failed:
        raise DataError(
            f"every image must decode: {', '.join(failed)} did not, the other {summary.segmented} are in {out}; save "
            f"again or remove what is damaged ({next(iter(failed.values()))})"
        )
    return summary


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove pictures of images that are gone, which an earlier run has left."""
    for path in folder.glob("*.png"):
        if path.name not in names:
            path.unlink()


def _write_map(path: Path, probability: NDArray[np.float32]) -> None:
    """Write probabilities (H, W) as a grey PNG of 16 bits: 0 to 65535."""
    values: NDArray[np.uint16] = np.round(probability.clip(0, 1) * FULL).astype(np.uint16)
    with atomic_path(path, settled=False) as partial:
        Image.fromarray(values).save(partial, format="PNG", compress_level=4)
