"""Import: the cases of a source become a data set whose splits divide no group.

Repeated frames form a group, so no split divides them. The groups that the source names, such as patients, are kept
together too. What the splits of the source already divide is reported, not changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffaug.artifacts import PathLike, digest_of_bytes
from diffaug.data.case import Case, LabelClass
from diffaug.data.classes import classes_from_words, labelling_of, read_source_classes
from diffaug.data.duplicates import duplicates_of_fingerprints
from diffaug.data.examine import counted, examine_cases, notices_of
from diffaug.data.folder import (
    Dataset,
    new_dataset,
    read_dataset,
    refuse_occupied,
    write_cases,
)
from diffaug.data.leftovers import GROUPS, notices_of_leftovers, read_groups
from diffaug.data.metadata import copy_picture
from diffaug.data.preparing import Preparing, prepare_all
from diffaug.data.sources import LAYOUTS
from diffaug.data.sources.layout import ReadOptions, SourceRecords
from diffaug.data.split import ENOUGH_GROUPS, connected, split_by_group
from diffaug.data.table import SPLITS
from diffaug.errors import ConfigError, DataError
from diffaug.layouts import PAIRED, EmptyMasks, MissingMasks
from diffaug.names import LONGEST, check_distinct, plain_name

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
HELD_OUT = ("val", "test")
FILES = {"coco": ".json", "yolo": ".yaml", "csv": ".csv"}  # layouts whose source may be a file

Pair = tuple[str, str]  # ids of two images that show the same frame


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        dataset: The data set.
        notices: One sentence for each thing that the user should know: conversions, repeated frames, missing files.
        advice: What to do about images whose patients nobody named, and about a test split that is too small to compare
            on.
    """

    dataset: Dataset
    notices: tuple[str, ...]
    advice: tuple[str, ...] = ()

    def counts(self) -> str:
        """Return how many cases lie in each split, in words."""
        sizes = {split: len(self.dataset.split(split)) for split in SPLITS}
        free = sum(case.negative for case in self.dataset)
        words = ", ".join(f"{size} {split}" for split, size in sizes.items() if size)
        return f"{words}; {free} of them lesion-free" if free else words


def import_dataset(
    layout: str,
    source: PathLike,
    to: PathLike,
    seed: int = 0,
    progress: str = "",
    *,
    split: str = "",
    classes: Sequence[str] = (),
    empty_masks: EmptyMasks = "refuse",
    missing_masks: MissingMasks = "refuse",
    window: tuple[float, float] | None = None,
    channels: Sequence[int] = (),
) -> Imported:
    """Turn images and masks in any of the known layouts, or a public data set, into the folder format.

    Every file is decoded before the data set appears. Files keep their coded pixels where a data set can hold them as
    they are, and lose their metadata; others are written as PNG. The same import again changes nothing.

    Args:
        layout: `folder` for images and masks that names pair; nnunet, coco, yolo, csv, dicom, nifti, hf or busi for
            those layouts; or the name of a published set. docs/datasets.md describes each.
        source: The folder that holds the files; of coco, yolo and csv also the file that describes them.
        to: A new folder.
        seed: Chooses the splits where the source has none, by group.
        progress: What to call the work in a progress bar on stderr; empty for none.
        split: Shares of train, val and test, such as "70:10:20", which is used if this is empty.
        classes: Names with values in the masks, such as "disc=1,2" and "cup=2"; otherwise `classes.json` in the source
            tells them.
        empty_masks: "negative" makes images with an empty mask lesion-free cases, "leave-out" leaves them out; "refuse"
            raises.
        missing_masks: "unannotated" makes images without a mask unannotated, in layouts that pair images with masks by
            name (`folder`, `busi`, `dicom`, `nifti`); images in folders called val or test need one. "refuse" raises.
        window: Centre and width of the values that become black to white, for images of more than 8 bits; None for the
            0.5th to the 99.5th percentile of each image or volume.
        channels: The channels of nnU-Net's images and of volumes that become grey (one) or red, green and blue.

    Raises:
        DataError: The layout or a file breaks a rule; nothing is written.
        ConfigError: No layout has this name, an option is no use, or `to` holds something else or cannot be written.

    Example:
        >>> imported = diffaug.import_dataset("folder", "downloads/mine", "data/imported")
        >>> imported.dataset
        Dataset(data/imported: 10 cases, 7 train, 1 val, 2 test)
        >>> imported.notices
        ('10 masks are JPEG and were cut at 127',)
    """
    source, to = Path(source), Path(to)
    _check_source(layout, source, missing_masks)
    shares = shares_of(split) if split else {}
    declared = classes_from_words(classes)
    refuse_occupied(to)
    listed = LAYOUTS[layout](source, ReadOptions(tuple(channels), missing_masks))
    folder = source if source.is_dir() else source.parent
    labelling = labelling_of(known) if (known := _classes_of(listed, declared, folder, layout)) else None
    listed, notices = _with_plain_ids(listed, source)
    groups, said_of_groups = read_groups(folder, listed.records)
    notices += [*said_of_groups, *(notices_of_leftovers(folder, listed.records) if listed.convert is None else ())]
    with new_dataset(to) as partial:
        if listed.convert is not None:
            records, more = listed.convert(partial, progress)
            listed, notices = replace(listed, records=records), notices + more
        cases, said = prepare_all(listed.records, Preparing(partial, labelling, empty_masks, window), progress)
        placed, more = _placed(cases, groups, listed, shares, seed, progress)
        few = _few_to_test(placed, not any(case.split for case in cases if case.split != "unannotated"))
        alone = _each_alone(placed) if not groups else ""
        write_cases(partial, [_settled(case, partial) for case in placed])
        _remove_others(partial, placed)
    return Imported(read_dataset(to), (*notices, *said, *more), tuple(filter(None, (alone, few))))


def _check_source(layout: str, source: Path, missing_masks: MissingMasks) -> None:
    """Refuse a layout that is not known, a source that is not there, and an option that the layout does not have."""
    if layout not in LAYOUTS:
        raise ConfigError(f"a layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    if not source.is_dir() and not (source.is_file() and source.suffix == FILES.get(layout)):
        raise DataError(f"the images to import must lie in a folder: {source} is none; check the path")
    if missing_masks != "refuse" and layout not in PAIRED:
        raise ConfigError(
            f"--missing-masks is for the layouts {', '.join(PAIRED)}, where names pair images with masks: the layout "
            f"is {layout}; leave the option out"
        )


def shares_of(split: str) -> dict[str, float]:
    """Read shares of train, val and test.

    Raises:
        ConfigError: They are not three numbers, of which one is positive.

    Example:
        >>> shares_of("70:10:20")
        {'train': 70.0, 'val': 10.0, 'test': 20.0}
    """
    try:
        values = [float(part) for part in split.split(":")]
    except ValueError:
        values = []
    if len(values) != len(SHARES) or not all(0 <= value < 1e9 for value in values) or not values[0]:
        raise ConfigError(
            f"--split takes the shares of train, val and test, such as 70:10:20 or 100:0:0, train above 0: "
            f"got {split!r}; correct it"
        )
    return dict(zip(SHARES, values, strict=True))


def window_of(text: str) -> tuple[float, float]:
    """Read a window, centre and width.

    Raises:
        ConfigError: They are not two numbers, of which the width is positive.

    Example:
        >>> window_of("40,400")
        (40.0, 400.0)
    """
    try:
        centre, width = (float(part) for part in text.split(","))
    except ValueError:
        centre, width = 0.0, 0.0
    if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
        raise ConfigError(f"--window takes a centre and a positive width, such as 40,400: got {text!r}; correct it")
    return centre, width


def channels_of(text: str) -> tuple[int, ...]:
    """Read the numbers of one, two or three channels.

    Raises:
        ConfigError: They are not one to three different numbers from 0.

    Example:
        >>> channels_of("0,2")
        (0, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    channels = tuple(int(part) for part in parts if part.isdecimal())
    if not 1 <= len(parts) == len(set(channels)) <= 3:
        raise ConfigError(f"--channels takes one to three numbers from 0, such as 0 or 0,1,2: got {text!r}; correct it")
    return channels


def _classes_of(
    listed: SourceRecords, declared: tuple[LabelClass, ...], folder: Path, layout: str
) -> tuple[LabelClass, ...]:
    """Return the classes: those of the user, else of the source's layout, else of its classes.json."""
    if declared and listed.settled:
        names = ", ".join(each.name for each in listed.classes)
        raise ConfigError(
            f"--classes is for masks of values: the layout {layout} names its classes itself ({names}); "
            "leave the option out"
        )
    return declared or listed.classes or read_source_classes(folder)


def _with_plain_ids(listed: SourceRecords, source: Path) -> tuple[SourceRecords, list[str]]:
    """Return records whose ids are plain names, long ones cut, and the notices so far.

    Raises:
        DataError: An id is no plain name, or two differ by capitals alone.
    """
    records = [
        record if len(record.id.encode()) <= LONGEST else replace(record, id=_shortened(record.id))
        for record in listed.records
    ]
    for record in records:
        plain_name(record.id, f"the id of a case of {source}")
    check_distinct((record.id for record in records), source)
    cut = sum(one is not other for one, other in zip(records, listed.records, strict=True))
    said = [counted(cut, f"cases have names of more than {LONGEST} bytes, which were cut")] if cut else []
    return replace(listed, records=records), [*listed.notices, *said]


def _shortened(name: str) -> str:
    """Return a long name cut to what every system takes, with a digest that tells it from others."""
    return f"{name.encode()[: LONGEST - 17].decode(errors='ignore').rstrip()}-{digest_of_bytes(name.encode())}"


def _settled(case: Case, folder: Path) -> Case:
    """Copy the files of a case that were not written for it into a new data set."""
    kinds = {"images": case.image, "masks": case.mask}
    inside = {
        kind: path if path is None or folder in path.parents else copy_picture(path, folder / kind, case.id)
        for kind, path in kinds.items()
    }
    return replace(case, image=inside["images"] or case.image, mask=inside["masks"])


def _remove_others(folder: Path, placed: Sequence[Case]) -> None:
    """Remove what was written for images that were left out."""
    names = {case.id for case in placed}
    for kind in ("images", "masks"):
        for path in (folder / kind).glob("*"):
            if path.stem not in names:
                path.unlink()


def _placed(
    cases: Sequence[Case],
    named: Mapping[str, str],
    listed: SourceRecords,
    shares: Mapping[str, float],
    seed: int,
    progress: str,
) -> tuple[list[Case], list[str]]:
    """Decode cases, give each its group and its split, and return them with the notices.

    Unannotated images train the codec, so those that share a group with val or test are left out.
    """
    findings = examine_cases(cases, progress)
    pairs = duplicates_of_fingerprints({finding.case.id: finding.fingerprint for finding in findings})
    split_of = {case.id: case.split for case in cases}
    crossing = [
        (a, b) for a, b in pairs if split_of[a] != split_of[b] and "unannotated" not in (split_of[a], split_of[b])
    ]
    links = [pair for pair in pairs if pair not in set(crossing)]
    annotated = [case for case in cases if case.split != "unannotated"]
    splits = _splits(annotated, _groups_of(annotated, links, named), shares, seed)
    held_out = {name for name, split in splits.items() if split in HELD_OUT}
    repeated = {a for pair in pairs for a, b in (pair, pair[::-1]) if b in held_out}
    groups_held_out = {named[name] for name in held_out if name in named}
    kept = annotated + [
        case
        for case in cases
        if case.split == "unannotated" and case.id not in repeated and named.get(case.id) not in groups_held_out
    ]
    groups = _groups_of(kept, links, named)
    placed = [replace(case, group=groups[case.id], split=splits.get(case.id, "unannotated")) for case in kept]
    notices = _notices(len(links), crossing, len(cases) - len(placed))
    return placed, [*notices_of(findings), *notices, *_merged(placed, named), *listed.remark(findings)]


def _merged(placed: Sequence[Case], named: Mapping[str, str]) -> list[str]:
    """Say which groups of the source became one, since they show the same frame."""
    members: dict[str, set[str]] = {}
    for case in placed:
        if case.id in named:
            members.setdefault(case.group, set()).add(named[case.id])
    joined = sorted(sorted(names) for names in members.values() if len(names) > 1)
    if not joined:
        return []
    return [
        f"{sum(map(len, joined))} groups of the source, such as {joined[0][0]} and {joined[0][1]}, hold frames that "
        f"look alike and became {len(joined)}, since no frame may lie on both sides of a test: "
        f"{len({case.group for case in placed})} groups are left; look at the pairs with `diffaug data inspect`"
    ]


def _groups_of(cases: Sequence[Case], links: Sequence[Pair], named: Mapping[str, str]) -> dict[str, str]:
    """Join the cases of a named group and repeated frames, and name each group: as the source does, or by a case."""
    ids = [case.id for case in cases]
    known = {name: named[name] for name in ids if name in named}
    members: dict[str, str] = {}
    joined = [(a, b) for a, b in links if a in set(ids) and b in set(ids)]
    joined += [(members.setdefault(group, name), name) for name, group in known.items()]
    roots = connected(ids, joined)
    names: dict[str, str] = {}
    for name, group in known.items():
        names[roots[name]] = min(names.get(roots[name], group), group)
    return {name: names.get(roots[name], roots[name]) for name in ids}


def _splits(cases: Sequence[Case], groups: Mapping[str, str], wanted: Mapping[str, float], seed: int) -> dict[str, str]:
    """Draw the splits that the source leaves open, by group, and check that no group lies in two splits."""
    open_groups = {case.id: groups[case.id] for case in cases if not case.split}
    fixed = {case.split for case in cases if case.split}
    if wanted and fixed:
        raise ConfigError(
            f"--split divides a source without splits: this one has {', '.join(sorted(fixed))} already; leave the "
            "option out, or move the images out of the folders of the splits"
        )
    shares = {split: share for split, share in (wanted or SHARES).items() if share and split not in fixed}
    drawn = split_by_group(open_groups, shares, seed) if open_groups else {}
    splits = {case.id: case.split or drawn[case.id] for case in cases}
    first: dict[str, str] = {}
    for name, split in splits.items():
        other = first.setdefault(groups[name], name)
        if split != splits[other]:
            raise DataError(
                f"a group must stay in one split: {groups[name]} is in {splits[other]} ({other}) and {split} ({name}); "
                "move one of the cases or correct groups.csv"
            )
    return splits


def _each_alone(placed: Sequence[Case]) -> str:
    """Say that nobody named the patients of images, and what to do if several images are of one."""
    if len(placed) < 2:
        return ""
    groups = len({case.group for case in placed})
    return (
        f"each of {groups} images counts as a patient of its own, since no {GROUPS} says which belong together: if "
        "some are of one patient or video, write that file (columns id, group) beside the images and import again, or "
        "tests will be too easy"
    )


def _few_to_test(placed: Sequence[Case], drawn: bool) -> str:
    """Say that the test cases are of too few groups to compare on, and, where their split was drawn, what to do."""
    test = [case for case in placed if case.split == "test"]
    groups = len({case.group for case in test})
    if not test or groups >= ENOUGH_GROUPS:
        return ""
    of = "" if groups == len(test) else f" of {groups} group{'s' * (groups != 1)}"
    said = f"{len(test)} test image{'s' * (len(test) != 1)}{of} {'is' if len(test) == 1 else 'are'} too few to show a "
    said += f"difference, which takes {ENOUGH_GROUPS} groups (patients)"
    return f"{said}; with --split 100:0:0 and `diffaug study --folds 5` every image is tested" if drawn else said


def _notices(within: int, crossing: Sequence[Pair], left_out: int) -> list[str]:
    notices = []
    if within:
        notices.append(counted(within, "frames are shown twice and were grouped"))
    if crossing:
        first, second = min(crossing)
        notices.append(
            f"{len(crossing)} repeated frames lie in two of the source's splits, such as {first} and {second}: scores "
            "on them are too high; import without split folders to divide by group"
        )
    if left_out:
        notices.append(counted(left_out, "images of unannotated are from groups of val or test and were left out"))
    return notices
