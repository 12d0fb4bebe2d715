"""Folders of segmented images: which images are read, and the masks, overlays and probabilities that are written.

Knows pictures and functions that find lesions in them; knows no networks.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
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
from diffaug.data.sources.names import base_of_mask, read_folder_name
from diffaug.data.sources.recognise import files_of
from diffaug.errors import ConfigError, DataError

Maps = NDArray[np.float32]  # (K, H, W), probabilities of K classes
FULL = 65535  # the value of probability 1 in a picture of 16 bits
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentSummary:
    """What was found in a folder of images.

    Attributes:
        segmented: How many images were segmented.
        failed: Names of those that could not be decoded, with their subfolders.
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


@dataclass(frozen=True)
class Images:
    """The images that are segmented.

    Attributes:
        folder: Where they lie, in subfolders or not.
        paths: Their files, in order.
    """

    folder: Path
    paths: tuple[Path, ...]

    def name_of(self, path: Path) -> str:
        """Return the path of an image inside the folder, such as P01/a.jpg."""
        return path.relative_to(self.folder).as_posix()

    def output_of(self, path: Path) -> str:
        """Return the path of an image's results inside their folders: that of the image, as PNG."""
        return path.relative_to(self.folder).with_suffix(".png").as_posix()


def images_of(place: Path, out: Path) -> Images:
    """Return the images of a folder and of its subfolders, or a file alone.

    Hidden files and folders are no images. A folder that is a link is followed. Masks that lie beside their images,
    such as a_mask.png beside a.png, are left out, and it is said how many.

    Args:
        place: The folder, or one image.
        out: Where results are to be written.

    Raises:
        DataError: There is none, two would have results of one name, or some lie in a folder of masks.
        ConfigError: Results would be written among the images.
    """
    if place.is_file():
        return Images(place.parent, (place,))
    if out.resolve().is_relative_to(place.resolve()):
        raise ConfigError(
            f"results must not lie among the images, which are read with all subfolders: {out} is in {place}; name "
            "another folder"
        )
    if not place.is_dir():
        raise DataError(f"segmentation needs images: {place} is no folder and no file; check the path")
    images = _without_masks(Images(place, tuple(path for path in files_of(place) if path.suffix.lower() in SUFFIXES)))
    if not images.paths:
        raise DataError(f"segmentation needs images: {place} holds none ({', '.join(SUFFIXES)}); check the path")
    _check_no_masks(images)
    outputs = [images.output_of(path) for path in images.paths]
    taken = Counter([*outputs, *{folder.as_posix() for name in outputs for folder in Path(name).parents}])
    if twins := [images.name_of(path) for path in images.paths if taken[images.output_of(path)] > 1]:
        raise DataError(f"each image needs a name of its own, as its mask has: {', '.join(twins[:2])}; rename one")
    return images


def _without_masks(images: Images) -> Images:
    """Leave out files whose names say that they are masks of other images in their folder."""
    stems = {(path.parent, path.stem.casefold()) for path in images.paths}

    def is_mask(path: Path) -> bool:
        found = base_of_mask(path.stem)
        return found is not None and (path.parent, found[0].casefold()) in stems

    masks = dict.fromkeys(path for path in images.paths if is_mask(path))
    if masks:
        log.warning(
            f"masks beside their images are left out: {len(masks)}, such as {images.name_of(next(iter(masks)))}"
        )
    return Images(images.folder, tuple(path for path in images.paths if path not in masks))


def _check_no_masks(images: Images) -> None:
    """Refuse a folder that holds folders of masks, which would be segmented like images."""
    folders = [path.relative_to(images.folder).parent for path in images.paths]
    masks = next((each for each in folders if any(read_folder_name(part).kind == "mask" for part in each.parts)), None)
    if masks is not None:
        beside = images.folder / "images"
        fix = f"name {beside}" if beside.is_dir() else "name the folder of the images, or rename it if it holds images"
        raise DataError(f"segmentation reads images, not masks: {images.folder} has the folder {masks}; {fix}")


def name_of_place(place: Path) -> str:
    """Return what tells images of one place from those of others, without saying where they lie."""
    return f"{place.resolve().name} ({digest_of_bytes(str(place.resolve()).encode())})"


def write_segmented(segmenter: Segmenter, images: Images, out: Path) -> SegmentSummary:
    """Segment images, and write `masks/`, `overlays/`, the probabilities that are wanted, and the summary last.

    The subfolders of the images are those of the results.

    Raises:
        DataError: Some images cannot be decoded; the others are segmented all the same.
    """
    found, failed = dict[str, float](), dict[str, str]()
    folders = [make_folder(out / name) for name in ("masks", "overlays", *segmenter.maps)]
    for folder in folders:
        _remove_others(folder, {images.output_of(path) for path in images.paths})
    for path in tracked(images.paths, len(images.paths), "segmenting"):
        name, output = images.name_of(path), images.output_of(path)
        try:
            frame = read_image(path)
        except DataError as error:
            failed[name] = str(error)
            for folder in folders:  # of a time when it could be read
                (folder / output).unlink(missing_ok=True)
            continue
        for folder in folders:
            make_folder((folder / output).parent)
        maps = segmenter.maps_of(frame)
        label = segmenter.label_of(maps)
        write_png(folders[0] / output, label, settled=False)
        write_png(folders[1] / output, outlined(frame, label > 0), settled=False)
        for folder, each in zip(folders[2:], maps, strict=False):
            _write_map(folder / output, each)
        found[name] = round(float((label > 0).mean()), 5)
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
    """Remove pictures of images that are gone, which an earlier run has left, and the folders that this empties."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds comes before the folder
        if path.suffix == ".png" and path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _write_map(path: Path, probability: NDArray[np.float32]) -> None:
    """Write probabilities (H, W) as a grey PNG of 16 bits: 0 to 65535."""
    values: NDArray[np.uint16] = np.round(probability.clip(0, 1) * FULL).astype(np.uint16)
    with atomic_path(path, settled=False) as partial:
        Image.fromarray(values).save(partial, format="PNG", compress_level=2)
