"""Pairs of image and mask in a folder as it is: names of folders and files say what is a mask, and whose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffaug.data.examine import counted
from diffaug.data.images import SUFFIXES
from diffaug.data.sources.names import base_of_image, base_of_mask, natural, normal, read_folder_name
from diffaug.data.sources.recognise import files_of, look_at, not_understood
from diffaug.errors import DataError
from diffaug.layouts import MissingMasks

ENDINGS = (".nii.gz",)  # of two parts
Accept = Callable[[Path], bool]
Key = tuple[tuple[str, ...], str, str]  # folders that say nothing else, split, stem


@dataclass(frozen=True)
class Found:
    """A file of a source and what its path says.

    Attributes:
        path: The file.
        kind: "image", "mask", or "" where no folder says it.
        split: The split that a folder names, or "".
        free: Whether a folder says that the image is lesion-free.
        places: The folders that say nothing of this, outermost first.
        group: The first of them that may stand for a patient, or "".
        stem: The name without its suffix.
    """

    path: Path
    kind: str
    split: str
    free: bool
    places: tuple[str, ...]
    group: str
    stem: str


@dataclass(frozen=True)
class Pair:
    """An image with its masks.

    Attributes:
        image: The image.
        masks: Its masks, in order.
        id: Its name in the data set.
        missing: Whether it became unannotated since it has no mask, and not since a folder says so.
    """

    image: Found
    masks: tuple[Found, ...]
    id: str
    missing: bool = False


def has_image_suffix(path: Path) -> bool:
    """Tell whether a file's name ends as those of images do."""
    return path.suffix.lower() in SUFFIXES


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffix, in one spelling."""
    name = path.name
    ending = next((end for end in ENDINGS if name.lower().endswith(end)), path.suffix)
    return normal(name[: len(name) - len(ending)] if ending else name)


def find_pairs(
    source: Path,
    layout: str,
    accept: Accept = has_image_suffix,
    unite: bool = False,
    free_stem: Callable[[str], bool] = lambda _: False,
    missing: MissingMasks = "refuse",
) -> list[Pair]:
    """Find the images of a folder and the mask of each.

    Args:
        source: The folder.
        layout: The name of the layout that is read, for errors.
        accept: Tells which files count.
        unite: Whether an image may have several masks.
        free_stem: Tells whether a stem says that an image is lesion-free.
        missing: "unannotated" makes images without a mask unannotated, where no folder puts them into val or test.

    Raises:
        DataError: There is no image, an image or a mask has no partner, or two files claim one place.
    """
    paths = [path for path in files_of(source) if accept(path)]
    around = _around(paths, source)
    found = [_found(path, source, around) for path in paths]
    found = [replace(one, free=one.free or free_stem(one.stem)) for one in found]
    foldered = any(one.kind == "mask" for one in found)
    stems = {(one.path.parent, one.stem.casefold()) for one in found}
    images = [one for one in found if not _is_mask(one, foldered, stems)]
    masks = [one for one in found if one not in set(images)]
    if not images:
        rule = "a source needs images/ and masks/, or images with masks such as c0.png and c0_mask.png"
        if masks:
            raise DataError(f"{rule}: {source} holds masks such as {_inside(masks[0], source)} alone; add the images")
        raise not_understood(rule, source, layout)
    bare = not masks and any(not (image.free or image.split == "unannotated") for image in images)
    if bare and look_at(source)[1] not in ("", layout, "folder"):
        raise not_understood("a source has masks, as images", source, layout)
    _check_splits(images, source)
    owners = _owners(images, masks, source)
    ids, pairs = _ids(images), list[Pair]()
    for image, claimed in owners.items():
        bare = not claimed and not image.free and image.split not in ("val", "test", "unannotated")
        if bare and missing == "unannotated":
            pairs.append(Pair(replace(image, split="unannotated"), (), ids[image], missing=True))
            continue
        _check_claims(image, claimed, source, unite)
        pairs.append(Pair(image, tuple(claimed), ids[image]))
    return pairs


def missing_notices(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Say how many images became unannotated since they have no mask, if any did."""
    count = sum(pair.missing for pair in pairs)
    return (counted(count, "images have no mask and became unannotated"),) if count else ()


def _around(paths: Sequence[Path], source: Path) -> int:
    """Return how many folders lie around all files, such as the one inside an archive, whose names say nothing."""
    folders = [path.relative_to(source).parts[:-1] for path in paths]
    shared = 0
    for column in zip(*folders, strict=False):
        if len(set(column)) > 1 or read_folder_name(column[0]).plain:
            break
        shared += 1
    return shared


def _found(path: Path, source: Path, around: int) -> Found:
    kind, split, free, group = "", "", False, ""
    places: list[str] = []
    for part in path.relative_to(source).parts[around:-1]:
        name = read_folder_name(part)
        kind, split, free = name.kind or kind, split or name.split, free or name.free
        if not (name.kind or name.split or name.free):
            places.append(normal(part))
            group = group or (normal(part) if name.patient else "")
    return Found(path, kind, split, free, tuple(places), group, stem_of(path))


def _is_mask(one: Found, foldered: bool, stems: set[tuple[Path, str]]) -> bool:
    """Tell whether a file is a mask: by its folder or, where no folder is for masks, by its stem."""
    if one.kind == "mask" or foldered:
        return one.kind == "mask"
    marked = base_of_mask(one.stem)
    if marked is None:
        return False
    return one.kind != "image" or (one.path.parent, marked[0].casefold()) in stems


def _owners(images: Sequence[Found], masks: Sequence[Found], source: Path) -> dict[Found, list[Found]]:
    """Find the image of each mask: by the same stem, then without marks, then whatever the capitals."""
    exact: dict[Key, Found] = {}
    for image in images:
        twin = exact.setdefault((image.places, image.split, image.stem), image)
        if twin is not image:
            raise DataError(
                f"stems must be unique in a folder: {source} has {_inside(twin, source)} and "
                f"{_inside(image, source)}; rename one of them, or put masks into masks/"
            )
    loose: dict[Key, list[Found]] = {}
    for image in images:
        for name in {image.stem.casefold(), base_of_image(image.stem).casefold()}:
            loose.setdefault((image.places, image.split, name), []).append(image)
    owners: dict[Found, list[Found]] = {image: [] for image in images}
    for mask in masks:
        owners[_owner_of(mask, exact, loose, source)].append(mask)
    return owners


def _owner_of(mask: Found, exact: Mapping[Key, Found], loose: Mapping[Key, list[Found]], source: Path) -> Found:
    marked = base_of_mask(mask.stem)
    names = [mask.stem, *([marked[0]] if marked and marked[0] else [])]
    for name in names:
        image = exact.get((mask.places, mask.split, name))
        if image:
            return image
    for name in [*names, *(base_of_image(name) for name in names)]:
        images = loose.get((mask.places, mask.split, name.casefold()), [])
        if len(images) > 1:
            both = " and ".join(sorted(_inside(image, source) for image in images)[:2])
            raise DataError(f"a mask belongs to one image: {_inside(mask, source)} fits {both}; rename one of them")
        if images:
            return images[0]
    if marked and not marked[0]:
        alone = [image for (places, split, _), image in exact.items() if (places, split) == (mask.places, mask.split)]
        if len(alone) == 1:
            return alone[0]
    raise DataError(
        f"every mask needs an image of the same stem: case {names[-1] or mask.stem} ({mask.path}) has none in "
        f"{source}; add the image or remove the mask"
    )


def _check_claims(image: Found, masks: Sequence[Found], source: Path, unite: bool) -> None:
    if not masks and not image.free and image.split != "unannotated":
        held_out = image.split in ("val", "test")
        fix = f", since every image of {image.split} needs one" if held_out else " or add --missing-masks unannotated"
        raise DataError(
            f"every image needs a mask of the same stem: case {image.stem} ({image.path}) has none in {source}; "
            f"add it as masks/{image.stem}.png or {image.stem}_mask.png; if nobody has annotated the image, move it to "
            f"unannotated/images{fix}; if it is lesion-free, move it to normal/"
        )
    if len(masks) > 1 and not unite and image.split != "unannotated":
        raise DataError(
            f"an image has one mask: {_inside(image, source)} has {_inside(masks[0], source)} and "
            f"{_inside(masks[1], source)}; keep one of them, or unite them by importing as `busi`"
        )


def _check_splits(images: Sequence[Found], source: Path) -> None:
    """Check that either all images lie in folders of splits or none; unannotated and normal ones may lie beside."""
    plain = [image for image in images if not image.split and not image.free]
    split = [image for image in images if image.split not in ("", "unannotated")]
    if plain and split:
        raise DataError(
            f"a source has images/ or split folders: {source} has {_inside(plain[0], source)} and "
            f"{_inside(split[0], source)}; move one of them away, or into a folder of a split"
        )


def _ids(images: Sequence[Found]) -> dict[Found, str]:
    """Name the images by split and stem, and by their folders too where stems repeat."""
    short = [(image.split, image.stem) for image in images]
    deep = len(set(short)) < len(short)
    return {
        image: "-".join([*([image.split] if image.split else []), *(image.places if deep else ()), image.stem])
        for image in images
    }


def _inside(one: Found, source: Path) -> str:
    return one.path.relative_to(source).as_posix()


def in_natural_order(pairs: Sequence[Pair]) -> list[Pair]:
    """Return pairs in the order of their ids, by split as data sets list them."""
    order = {"": 0, "train": 1, "val": 2, "test": 3, "unannotated": 4}
    return sorted(pairs, key=lambda pair: (order[pair.image.split], natural(pair.id)))
