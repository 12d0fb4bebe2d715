"""Export: a synthetic set, alone or with the real cases that it belongs to, in the format of another library.

Knows no format's details: each is a module that writes into a new folder, which takes its place when it is whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, write_csv
from diffaug.data.copies import copied_pictures
from diffaug.data.folder import new_dataset, refuse_occupied
from diffaug.errors import ConfigError, nearest
from diffaug.export.cases import ORIGIN, Collection, collect, count_of
from diffaug.export.coco import write_coco
from diffaug.export.entries import COLUMNS
from diffaug.export.fiftyone import write_fiftyone
from diffaug.export.folds import write_folds
from diffaug.export.hf import write_hf
from diffaug.export.monai import write_monai
from diffaug.export.nnunet import write_nnunet
from diffaug.export.plain import write_plain
from diffaug.export.yolo import write_yolo
from diffaug.layouts import FORMATS

Writer = Callable[[Collection, Path, Path, str], tuple[str, ...]]  # what, where, its later name, progress => remarks
WRITERS: Mapping[str, Writer] = {
    "nnunet": write_nnunet,
    "monai": write_monai,
    "coco": write_coco,
    "yolo": write_yolo,
    "hf": write_hf,
    "folder": write_plain,
    "fiftyone": write_fiftyone,
}

KNOWN_IN_PART = ("nnunet", "folder")  # formats that hold pixels without a label


@dataclass(frozen=True)
class FoldCounts:
    """What one fold trains and validates on.

    Attributes:
        real: Real cases that it trains on.
        synthetic: Painted cases that it trains on.
        left_out: Painted cases that show something of its validation.
        val: Real cases that it validates on.
    """

    real: int
    synthetic: int
    left_out: int
    val: int


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: Where it lies.
        counts: The cases of each split, in words.
        folds: What each fold trains and validates on.
        notices: One sentence for each thing that the user should know.
    """

    folder: Path
    counts: Mapping[str, str]
    folds: tuple[FoldCounts, ...]
    notices: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def export_set(
    synthetic: PathLike,
    out: PathLike,
    layout: str,
    data: PathLike | None = None,
    *,
    folds: int | None = None,
    negatives: bool = True,
    ratio: float | None = None,
    without_copies: PathLike | None = None,
    allow_duplicates: bool = False,
    seed: int = 0,
    progress: str = "",
) -> Exported:
    """Write the kept cases of a synthetic set in the format of another library.

    Painted cases are training cases only. With folds, none is validated on, and none trains a fold whose validation
    holds one of its sources (background, mask, example) or a case of a source's group. OUT/provenance.csv says where
    each case is from. The same export again changes nothing.

    Args:
        synthetic: A finished synthetic set, or one that `select_set` made.
        out: A new folder.
        layout: nnunet, monai, coco, yolo, hf, folder or fiftyone.
        data: The data set that it belongs to: its annotated cases of train, val and test are exported, too.
        folds: Divide the real training cases into this number of folds. None divides them for nnU-Net alone, which
            would draw folds itself: one that validates on `val` or, without that split, five.
        negatives: Whether to export cases that are painted lesion-free, too.
        ratio: The most painted lesions for each real training case, the first of the set; None for all.
        without_copies: Folder of an audit of the set; pictures that show a copy of a training lesion are left out.
        allow_duplicates: Go on where an image of val or test repeats one that is trained on, and say so.
        seed: Chooses the folds.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        DataError: The set is unfinished, a file breaks a rule, or the format cannot hold the classes.
        StudyError: The set saw more than the training images of `data`, or an image of val or test is trained on.
        ConfigError: There is no such format, an option is no use, or `out` holds something else or cannot be written.

    Example:
        >>> diffaug.export_set("synthetic/mine", "exported/mine", "nnunet", "data/mine")  # doctest: +SKIP
    """
    synthetic, out = Path(synthetic), Path(out)
    if layout not in WRITERS:
        raise ConfigError(f"a format must be one of {', '.join(FORMATS)}; got {layout!r}; {nearest(layout, FORMATS)}")
    if folds is not None and folds < 2:
        raise ConfigError(f"--folds must be 2 or more: it is {folds}; use 5")
    refuse_occupied(out, ORIGIN, "an export")
    wanted = folds if folds is not None or layout == "nnunet" else 0
    real = None if data is None else Path(data)
    left_out = copied_pictures(Path(without_copies), synthetic) if without_copies else frozenset[str]()
    collection = collect(
        synthetic, real, folds=wanted, negatives=negatives, ratio=ratio, seed=seed, left_out=left_out,
        allow_duplicates=allow_duplicates, progress=progress,
    )  # fmt: skip
    if layout == "nnunet" and collection.folds_are_drawn:
        collection = collection.without_val()
    if layout not in KNOWN_IN_PART:
        collection = collection.without_partly_known(f"the format {layout} has no pixels without a label")
    with new_dataset(out, ORIGIN) as partial:
        remarks = WRITERS[layout](collection, partial, out, progress)
        if folds and layout != "nnunet":
            write_folds(collection.folds, partial / "folds.json")
        write_csv(partial / ORIGIN, (entry.record() for entry in collection.entries), COLUMNS)
    counts = {split: count_of(collection.split(split)) for split in collection.splits}
    return Exported(out, counts, _counts_of(collection), (*collection.left_out, *remarks))


def _counts_of(collection: Collection) -> tuple[FoldCounts, ...]:
    real, painted = {entry.id for entry in collection.real}, len(collection.painted)
    counts = []
    for fold in collection.folds:
        own = sum(name in real for name in fold.train)
        counts.append(FoldCounts(own, len(fold.train) - own, painted - (len(fold.train) - own), len(fold.val)))
    return tuple(counts)
