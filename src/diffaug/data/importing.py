"""Import: the cases of a source become a data set whose splits divide no group.

Repeated frames form a group, so no split divides them. The groups that the source names, such as patients, are kept
together too. What the splits of the source already divide is reported, not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffaug.artifacts import PathLike
from diffaug.data.case import Case
from diffaug.data.duplicates import duplicates_of_fingerprints
from diffaug.data.examine import counted, examine_cases, notices_of
from diffaug.data.folder import Dataset, copy_case, new_dataset, read_dataset, refuse_occupied, write_cases
from diffaug.data.sources import LAYOUTS
from diffaug.data.sources.layout import SourceCases
from diffaug.data.split import connected, split_by_group
from diffaug.errors import ConfigError, DataError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
HELD_OUT = ("val", "test")

Pair = tuple[str, str]  # ids of two images that show the same frame


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        dataset: The data set.
        notices: One sentence for each thing that the user should know: conversions, repeated frames, missing files.
    """

    dataset: Dataset
    notices: tuple[str, ...]


def import_dataset(layout: str, source: PathLike, to: PathLike, seed: int = 0, progress: str = "") -> Imported:
    """Turn a folder of images and masks, or a public data set, into the folder format.

    Every file is decoded before the data set appears. Files are copied byte by byte, except for the masks and crops of
    REFUGE. The same import again changes nothing.

    Args:
        layout: `folder` for any `images/` and `masks/` with matching names; kvasir-seg, cvc-clinicdb, refuge2,
            refuge2-crops, drishti-gs or endotect for the published sets. docs/datasets.md describes each.
        source: The folder that holds the files.
        to: A new folder.
        seed: Chooses the splits where the source has none: 70 % train, 10 % val, 20 % test, by group.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        DataError: The layout or a file breaks a rule; nothing is written.
        ConfigError: No layout has this name, or `to` holds something else, or cannot be written.

    Example:
        >>> imported = diffaug.import_dataset("folder", "downloads/mine", "data/imported")
        >>> imported.dataset
        Dataset(data/imported: 10 cases, 7 train, 1 val, 2 test)
        >>> imported.notices
        ('10 masks are JPEG and were cut at 127',)
    """
    source, to = Path(source), Path(to)
    if layout not in LAYOUTS:
        raise ConfigError(f"a layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    if not source.is_dir():
        raise DataError(f"the images to import must lie in a folder: {source} is none; check the path")
    refuse_occupied(to)
    listed = LAYOUTS[layout](source)
    if listed.convert is None:
        placed, notices = _placed(listed, seed, progress)
        with new_dataset(to) as folder:
            write_cases(folder, [copy_case(case, folder) for case in placed])
    else:
        with new_dataset(to) as folder:
            written, remarks = listed.convert(folder, progress)
            placed, notices = _placed(replace(listed, cases=written), seed, progress)
            write_cases(folder, placed)
        notices += remarks
    return Imported(read_dataset(to), tuple(notices))


def _placed(listed: SourceCases, seed: int, progress: str) -> tuple[list[Case], list[str]]:
    """Decode cases, give each its group and its split, and return them with the notices.

    Unannotated images train the codec, so those that share a group with val or test are left out.
    """
    findings = examine_cases(listed.cases, progress)
    pairs = duplicates_of_fingerprints({finding.case.id: finding.fingerprint for finding in findings})
    split_of = {case.id: case.split for case in listed.cases}
    crossing = [
        (a, b) for a, b in pairs if split_of[a] != split_of[b] and "unannotated" not in (split_of[a], split_of[b])
    ]
    links = [pair for pair in pairs if pair not in set(crossing)]
    annotated = [case for case in listed.cases if case.split != "unannotated"]
    splits = _splits(annotated, _groups_of(annotated, links, listed.groups), seed)
    held_out = {name for name, split in splits.items() if split in HELD_OUT}
    repeated = {a for pair in pairs for a, b in (pair, pair[::-1]) if b in held_out}
    groups_held_out = {listed.groups[name] for name in held_out if name in listed.groups}
    kept = annotated + [
        case
        for case in listed.cases
        if case.split == "unannotated" and case.id not in repeated and listed.groups.get(case.id) not in groups_held_out
    ]
    groups = _groups_of(kept, links, listed.groups)
    placed = [replace(case, group=groups[case.id], split=splits.get(case.id, "unannotated")) for case in kept]
    notices = _notices(len(links), crossing, len(listed.cases) - len(placed))
    return placed, [*notices_of(findings), *notices, *listed.remark(findings)]


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


def _splits(cases: Sequence[Case], groups: Mapping[str, str], seed: int) -> dict[str, str]:
    """Draw the splits that the source leaves open, by group, and check that no group lies in two splits."""
    open_groups = {case.id: groups[case.id] for case in cases if not case.split}
    fixed = {case.split for case in cases}
    shares = {split: share for split, share in SHARES.items() if split not in fixed}
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
