"""Any folder of images and masks, as it is: pairs are read from the names of folders and files.

Read layouts, in any mixture that is not ambiguous; capitals, blanks and the order of folders do not matter:

    images/c0.png, masks/c0.png                      or img, frames, .. and labels, annotations, ground truth, gt, ..
    c0.png, c0_mask.png                              or _seg, _segmentation, _label, _gt, or mask_c0.png
    patient-7/images/a.png, patient-7/masks/a.png    a folder that says nothing else is a group
    train/.., val/.., test/..                        the splits are kept; ids become SPLIT-STEM
    unannotated/..                                   images without masks
    normal/.., negatives/..                          lesion-free images; their masks may be empty or missing
"""

from pathlib import Path

from diffaug.data.examine import counted
from diffaug.data.sources.layout import Record, SourceRecords
from diffaug.data.sources.pairing import Pair, find_pairs, in_natural_order, missing_notices
from diffaug.data.sources.recognise import look_at, not_understood
from diffaug.layouts import MissingMasks


def read_folder(source: Path, missing_masks: MissingMasks = "refuse") -> SourceRecords:
    """Find the pairs of a folder, with the groups, splits and lesion-free images that its folders name.

    Raises:
        DataError: There are no images, two files have one stem, an image or mask has no partner, or the folder holds
            another layout.
    """
    if look_at(source)[1] == "nnunet":
        raise not_understood("a folder holds images and masks", source, "folder")
    return records_of_pairs(find_pairs(source, "folder", missing=missing_masks))


def records_of_pairs(pairs: list[Pair]) -> SourceRecords:
    """Return the records of pairs, and say which folders became groups."""
    open_split = divided_split(pairs)
    records = [
        Record(
            pair.id,
            pair.image.path,
            _mask_of(pair),
            pair.image.group,
            pair.image.split or open_split,
            pair.image.free,
        )
        for pair in in_natural_order(pairs)
    ]
    unread = sum(pair.image.split == "unannotated" and bool(pair.masks) for pair in pairs)
    said = (counted(unread, "images of unannotated have masks, which were not read"),) if unread else ()
    return SourceRecords(records, notices=(*group_notices(records), *missing_notices(pairs), *said))


def divided_split(pairs: list[Pair]) -> str:
    """Return the split of lesion-free images that lie beside folders of splits: train, or "" without such folders."""
    return "train" if any(pair.image.split not in ("", "unannotated") for pair in pairs) else ""


def _mask_of(pair: Pair) -> Path | tuple[Path, ...] | None:
    if pair.image.split == "unannotated":
        return None
    paths = tuple(mask.path for mask in pair.masks)
    return paths if len(paths) > 1 else paths[0] if paths else None


def group_notices(records: list[Record]) -> tuple[str, ...]:
    """Say which folders became groups, if any did."""
    groups = sorted({record.group for record in records if record.group})
    if not groups:
        return ()
    number = "1 folder became a group" if len(groups) == 1 else f"{len(groups)} folders became groups"
    return (f"{number}, such as {groups[0]}: each is kept in one split",)
