"""Any folder of `images/` and `masks/` with matching stems, with or without split folders.

Read layouts, where every `images/` stands beside its `masks/`:

    SOURCE/images, SOURCE/masks                      split by group, seeded: 70 % train, 10 % val, 20 % test
    SOURCE/train/images, SOURCE/train/masks, val, test    the splits are kept; ids become SPLIT-STEM
    SOURCE/unannotated/images                        beside either: images without masks
    SOURCE/groups.csv                                beside either, with the columns id,group: patients or sequences
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from diffaug.artifacts import read_csv
from diffaug.data.case import Case
from diffaug.data.folder import SPLITS
from diffaug.data.sources.layout import SourceCases, files_by_stem, pair_files
from diffaug.errors import DataError

GROUPS = "groups.csv"


def read_folder(source: Path) -> SourceCases:
    """Find the cases of a folder, and their groups where `groups.csv` names them.

    Raises:
        DataError: There are no images, two files have one stem, an image or mask has no partner, or groups.csv breaks
            a rule.
    """
    splits = [split for split in SPLITS if (source / split / "images").is_dir()]
    bare = [split for split in SPLITS if split not in splits and files_by_stem(source / split)]
    if bare:
        folder = source / bare[0]
        raise DataError(
            f"the images of a split lie in images/ inside it: {folder} holds some; move them to {folder}/images"
        )
    flat = (source / "images").is_dir()
    if flat and set(splits) - {"unannotated"}:
        raise DataError(f"a source has images/ or split folders: {source} has images/ and {splits[0]}/; move one away")
    if not flat and not splits:
        raise DataError(
            f"a source needs images/ and masks/, or train/, val/ and test/ with both: {source} has neither; "
            "check the path"
        )
    cases = _pairs_of(source, "") if flat else []
    for split in splits:
        cases += _pairs_of(source / split, split)
    return SourceCases(cases, _read_groups(source / GROUPS, cases))


def _pairs_of(folder: Path, split: str) -> list[Case]:
    return pair_files(folder / "images", None if split == "unannotated" else folder / "masks", split)


def _read_groups(table: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Read the group of each case by its id; none where there is no table."""
    if not table.is_file():
        return {}
    rows = read_csv(table, ("id", "group"))
    groups = {unicodedata.normalize("NFC", row["id"]): row["group"] for row in rows if row["group"]}
    lacking = [case.id for case in cases if case.id not in groups and case.split != "unannotated"]
    if lacking:
        raise DataError(f"{GROUPS} must name the group of every case: {table} has none for case {lacking[0]}; add it")
    return {case.id: groups[case.id] for case in cases if case.id in groups}
