"""Any folder of `images/` and `masks/` with matching stems, with or without split folders.

Read layouts, where every `images/` stands beside its `masks/`:

    SOURCE/images, SOURCE/masks                      split by group, seeded: 70 % train, 10 % val, 20 % test
    SOURCE/train/images, SOURCE/train/masks, val, test    the splits are kept; ids become SPLIT-STEM
    SOURCE/unannotated/images                        beside either: images without masks
    SOURCE/groups.csv                                beside either, with the columns id,group: patients or sequences

The readers of other layouts find and pair their files here too, and hand their cases to `import_cases`.
"""

import csv
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffaug.data.case import Case
from diffaug.data.duplicates import duplicates_of_fingerprints
from diffaug.data.examine import Finding, counted, examine_cases, notices_of
from diffaug.data.folder import SPLITS, Dataset, copy_case, new_dataset, read_dataset, refuse_occupied, write_cases
from diffaug.data.images import SUFFIXES
from diffaug.data.split import connected, split_by_group
from diffaug.errors import DataError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
ANNOTATED = tuple(SHARES)

Pair = tuple[str, str]  # ids of two images that show the same frame
Remark = Callable[[Sequence[Finding]], list[str]]  # what a reader has to say of the decoded cases, a line each


@dataclass(frozen=True)
class Placement:
    """Cases with their groups and splits.

    `crossing` are the repeated frames that the source's own split folders keep apart; `left_out` counts unannotated
    images of the groups of val and test.
    """

    cases: list[Case]
    crossing: list[Pair]
    left_out: int


def import_folder(source: Path, to: Path, seed: int = 0, progress: str = "") -> tuple[Dataset, list[str]]:
    """Turn a folder of images and masks into a data set.

    Every file is decoded before anything is written. Files are copied byte by byte. Frames that repeat each other form
    a group, so no split divides them.

    Args:
        source: A folder in one of the layouts above.
        to: A new folder.
        seed: Chooses the splits where the source has none.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Returns:
        The data set, and one line for each thing the user should know (conversions, repeated frames).

    Raises:
        DataError: The layout or a file breaks a rule; nothing is written.
        ConfigError: `to` holds something else, or cannot be written.
    """
    refuse_occupied(to)
    cases = cases_of_folder(source)
    return import_cases(cases, to, _read_groups(source, cases), seed, progress)


def import_cases(
    cases: Sequence[Case],
    to: Path,
    groups: Mapping[str, str],
    seed: int = 0,
    progress: str = "",
    remark: Remark | None = None,
) -> tuple[Dataset, list[str]]:
    """Turn the cases that a reader found into a data set; the files are copied byte by byte.

    Args:
        cases: Cases wherever they lie; those without a split have the split "".
        to: A new folder.
        groups: The groups that the source names, by case id; the other cases are a group each.
        seed: Chooses the splits where the source has none.
        progress: What to call the work in a progress bar on stderr; empty for none.
        remark: What else the user should know, from the decoded cases.

    Returns:
        The data set, and one line for each thing the user should know.

    Raises:
        DataError: A file or a group breaks a rule; nothing is written.
        ConfigError: `to` holds something else, or cannot be written.
    """
    refuse_occupied(to)
    placed, notices = place_cases(cases, groups, seed, progress, remark)
    with new_dataset(to) as partial:
        write_cases(partial, [copy_case(case, partial) for case in placed])
    return read_dataset(to), notices


def place_cases(
    cases: Sequence[Case],
    groups: Mapping[str, str],
    seed: int = 0,
    progress: str = "",
    remark: Remark | None = None,
) -> tuple[list[Case], list[str]]:
    """Decode cases and give each its group and split; see `import_cases`."""
    findings = examine_cases(cases, progress)
    pairs = duplicates_of_fingerprints({finding.case.id: finding.fingerprint for finding in findings})
    placement = _place(cases, pairs, groups, seed)
    remarks = remark(findings) if remark else []
    return placement.cases, [*notices_of(findings), *_notices_of_placement(pairs, placement), *remarks]


def cases_of_folder(source: Path) -> list[Case]:
    """Find the cases of a source; those without a split folder have the split "".

    Raises:
        DataError: There are no images, two files have one stem, or an image or mask has no partner.
    """
    if not source.is_dir():
        raise DataError(f"a source must be a folder: {source} is none; check the path")
    splits = [split for split in SPLITS if (source / split / "images").is_dir()]
    bare = [split for split in SPLITS if split not in splits and files_by_stem(source / split)]
    if bare:
        folder = source / bare[0]
        raise DataError(
            f"the images of a split lie in images/ inside it: {folder} holds some; move them to {folder}/images"
        )
    flat = (source / "images").is_dir()
    if flat and set(splits) & set(ANNOTATED):
        raise DataError(f"a source has images/ or split folders: {source} has images/ and {splits[0]}/; move one away")
    if not flat and not splits:
        raise DataError(
            f"a source needs images/ and masks/, or train/, val/ and test/ with both: {source} has neither; "
            "check the path"
        )
    cases = _cases_of_pair(source, "") if flat else []
    for split in splits:
        cases += _cases_of_pair(source / split, split)
    return cases


def _cases_of_pair(folder: Path, split: str) -> list[Case]:
    """Match `images/` and `masks/` of one folder by stem."""
    return pair_files(folder / "images", None if split == "unannotated" else folder / "masks", split)


def pair_files(
    images_folder: Path,
    masks_folder: Path | None,
    split: str = "",
    mask_suffixes: Sequence[str] = SUFFIXES,
    deep: bool = False,
) -> list[Case]:
    """Match the files of two folders by stem; without a folder of masks the cases have none.

    Args:
        images_folder: Where the images lie.
        masks_folder: Where their masks lie; None for cases without masks.
        split: The split of the cases, before their ids; "" where it is still to be drawn.
        mask_suffixes: What ends the name of a mask.
        deep: Look into the folders inside as well.

    Raises:
        DataError: There are no images, two files have one stem, or an image or mask has no partner.
    """
    images = files_by_stem(images_folder, SUFFIXES, deep)
    masks = {} if masks_folder is None else files_by_stem(masks_folder, mask_suffixes, deep)
    if not images:
        raise DataError(f"images/ must hold images ({' '.join(SUFFIXES)}): {images_folder} holds none; add them")
    if masks_folder is not None:
        _check_partners(images, images_folder, masks, masks_folder)
    prefix = f"{split}-" if split else ""
    return [
        Case(id=prefix + stem, image=images[stem], mask=masks.get(stem), group=prefix + stem, split=split)
        for stem in sorted(images, key=_natural)
    ]


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first folder of one of these names inside another, whatever their capitals; None without one."""
    found = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()}
    return next((found[name.lower()] for name in names if name.lower() in found), None)


def _natural(stem: str) -> list[tuple[int, str]]:
    """Sort numbers inside names by value, so that c9 comes before c12."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem) if part]


def files_by_stem(folder: Path, suffixes: Sequence[str] = SUFFIXES, deep: bool = False) -> dict[str, Path]:
    """Return the images of a folder, or with `deep` of all below it, by stem.

    Raises:
        DataError: Two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        stem = unicodedata.normalize("NFC", path.stem)  # macOS writes accents apart, so one name can differ in bytes
        if stem in found:
            raise DataError(
                f"stems must be unique in a folder: {folder} has {found[stem].name} and {path.name}; rename one of them"
            )
        found[stem] = path
    return found


def _check_partners(
    images: Mapping[str, Path], images_folder: Path, masks: Mapping[str, Path], masks_folder: Path
) -> None:
    alone = sorted(set(images) - set(masks), key=_natural)
    if alone:
        raise DataError(
            f"every image needs a mask of the same stem: case {alone[0]} ({images[alone[0]]}) has none in "
            f"{masks_folder}{_more(alone)}; add it or move the image to unannotated/images"
        )
    alone = sorted(set(masks) - set(images), key=_natural)
    if alone:
        raise DataError(
            f"every mask needs an image of the same stem: case {alone[0]} ({masks[alone[0]]}) has none in "
            f"{images_folder}{_more(alone)}; add the image or remove the mask"
        )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _read_groups(source: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Read `groups.csv`, where there is one: the group of each case, by id."""
    table = source / "groups.csv"
    if not table.is_file():
        return {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        groups = {unicodedata.normalize("NFC", row["id"]): row["group"] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError):
        raise DataError(
            f"groups.csv must be a CSV file in UTF-8 with the columns id,group: {table} is not; correct or remove it"
        ) from None
    named = {case.id: groups.get(case.id, "") for case in cases}
    lacking = [case.id for case in cases if not named[case.id] and case.split != "unannotated"]
    if lacking:
        raise DataError(f"groups.csv must name the group of every case: {table} has none for case {lacking[0]}; add it")
    return {name: group for name, group in named.items() if group}


def _place(cases: Sequence[Case], pairs: Sequence[Pair], named: Mapping[str, str], seed: int) -> Placement:
    """Give each case its group and split.

    Unannotated images train codec and prior, so those that share a group with val or test are left out.
    """
    fixed = {case.id: case.split for case in cases}
    crossing = {(a, b) for a, b in pairs if fixed[a] != fixed[b] and "unannotated" not in (fixed[a], fixed[b])}
    kept = [case for case in cases if case.split != "unannotated"]
    groups = _groups_of(kept, [pair for pair in pairs if pair not in crossing], named)
    free = {name: group for name, group in groups.items() if not fixed[name]}
    shares = {split: share for split, share in SHARES.items() if split not in fixed.values()}
    drawn = split_by_group(free, shares, seed) if free else {}
    splits = {case.id: case.split or drawn[case.id] for case in kept}
    _check_groups(groups, splits)
    held_out = {name for name, split in splits.items() if split in ("val", "test")}
    leaking = {a for pair in pairs for a, b in (pair, pair[::-1]) if b in held_out}
    held_out_groups = {named[name] for name in held_out if name in named}
    kept += [
        case
        for case in cases
        if case.split == "unannotated" and case.id not in leaking and named.get(case.id) not in held_out_groups
    ]
    groups = _groups_of(kept, [pair for pair in pairs if pair not in crossing], named)
    placed = [replace(case, group=groups[case.id], split=splits.get(case.id, "unannotated")) for case in kept]
    return Placement(placed, sorted(crossing), len(cases) - len(placed))


def _groups_of(cases: Sequence[Case], pairs: Sequence[tuple[str, str]], named: Mapping[str, str]) -> dict[str, str]:
    """Join cases of one named group and repeated frames; a group has its given name or that of its first case."""
    first: dict[str, str] = {}
    ids = [case.id for case in cases]
    known = {name: named[name] for name in ids if name in named}
    links = [(a, b) for a, b in pairs if a in set(ids) and b in set(ids)]
    links += [(first.setdefault(group, name), name) for name, group in known.items()]
    roots = connected(ids, links)
    names: dict[str, str] = {}
    for name, group in known.items():
        names[roots[name]] = min(names.get(roots[name], group), group)
    return {case.id: names.get(roots[case.id], roots[case.id]) for case in cases}


def _check_groups(groups: Mapping[str, str], splits: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for name, split in splits.items():
        other = first.setdefault(groups[name], name)
        if split != splits[other]:
            raise DataError(
                f"a group must stay in one split: {groups[name]} is in {splits[other]} ({other}) and {split} ({name}); "
                "move one of the cases or correct groups.csv"
            )


def _notices_of_placement(pairs: Sequence[Pair], placement: Placement) -> list[str]:
    notices = []
    within = len(pairs) - len(placement.crossing)
    if within:
        notices.append(counted(within, "frames are shown twice and were grouped"))
    if placement.crossing:
        first, second = placement.crossing[0]
        notices.append(
            f"{len(placement.crossing)} repeated frames lie in two of the source's splits, such as {first} and "
            f"{second}: scores on them are too kind; import without split folders to divide by group"
        )
    if placement.left_out:
        notices.append(
            counted(placement.left_out, "images of unannotated are from groups of val or test and were left out")
        )
    return notices
