"""What a data set holds: sizes, lesion areas, groups, repeated frames, and a sheet of its cases."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffaug.artifacts import PathLike, make_folder
from diffaug.data.case import Case
from diffaug.data.duplicates import duplicates_of_fingerprints
from diffaug.data.examine import Finding, examine_cases, notices_of
from diffaug.data.folder import Dataset
from diffaug.data.lesions import LARGE, SMALL
from diffaug.data.sheet import sheet_path, write_contact_sheet
from diffaug.data.table import SPLITS

HEADER = (
    "split", "cases", "groups", "lesion area, % of the image", "under 5 %", "over 15 %", "lesions per image",
)  # fmt: skip


@dataclass(frozen=True)
class SplitSummary:
    """The cases of one split.

    Attributes:
        split: Its name.
        cases: How many there are.
        groups: How many groups they form.
        areas: The lesion area of each case with a lesion, as a share of its image, ascending.
        lesions: The number of lesions in all of them.
        lesion_free: The number of annotated cases without a lesion.
    """

    split: str
    cases: int
    groups: int
    areas: tuple[float, ...]
    lesions: int
    lesion_free: int = 0

    @property
    def small(self) -> float:
        """The share of the cases with a lesion whose lesion area is that of a small lesion."""
        return float(np.mean([area < SMALL for area in self.areas]))

    @property
    def large(self) -> float:
        """The share of the cases with a lesion whose lesion area is that of a large lesion."""
        return float(np.mean([area > LARGE for area in self.areas]))

    def cells(self) -> tuple[str, ...]:
        """Return the row of the printed table."""
        free = f" ({self.lesion_free} lesion-free)" if self.lesion_free else ""
        first = (self.split, f"{self.cases}{free}", str(self.groups))
        if not self.areas:
            return (*first, "no lesions" if self.lesion_free else "no masks", "-", "-", "-")
        least, lower, median, upper, largest = 100 * np.quantile(self.areas, (0.0, 0.25, 0.5, 0.75, 1.0))
        areas = f"median {median:.1f}, middle half {lower:.1f}-{upper:.1f}, all {least:.1f}-{largest:.1f}"
        shares = (f"{100 * self.small:.0f} %", f"{100 * self.large:.0f} %")
        return (*first, areas, *shares, f"{self.lesions / len(self.areas):.2f}")


@dataclass(frozen=True)
class Inspection:
    """What decoding a data set showed; `text()` is what the command prints.

    Attributes:
        folder: Where the data set lies.
        splits: A summary of each split that has cases.
        sizes: ((width, height), count) of the images, px, the most frequent first.
        within: Pairs of ids that show the same frame, in the same split.
        across: Pairs of ids that show the same frame, in two splits.
        divided: The groups that lie in more than one of train, val and test.
        notices: One sentence for each kind of conversion.
        sheet: The contact sheet; None where none was asked for.
        classes: The names of the classes that the data set declares.
    """

    folder: Path
    splits: tuple[SplitSummary, ...]
    sizes: tuple[tuple[tuple[int, int], int], ...]
    within: tuple[tuple[str, str], ...]
    across: tuple[tuple[str, str], ...]
    divided: tuple[str, ...]
    notices: tuple[str, ...]
    sheet: Path | None
    classes: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the table and its remarks for a terminal."""
        rows = [HEADER, *(summary.cells() for summary in self.splits)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*table, "", *self._remarks()])

    def _remarks(self) -> list[str]:
        shown = ", ".join(f"{width} x {height} ({count})" for (width, height), count in self.sizes[:4])
        more = f", and {len(self.sizes) - 4} more sizes" if len(self.sizes) > 4 else ""
        remarks = [f"image sizes, width x height in pixels (number of images): {shown}{more}"]
        remarks.append(f"pairs of images of one split that show the same frame: {_pairs(self.within)}")
        remarks.append(f"pairs of images in two splits that show the same frame: {_pairs(self.across)}")
        if self.divided:
            remarks.append(
                f"groups that lie in more than one of train, val and test: {len(self.divided)} "
                f"({', '.join(self.divided[:5])}{', ..' * (len(self.divided) > 5)})"
            )
        if self.classes:
            remarks.append(f"classes: {', '.join(self.classes)}; lesion areas are those of their union")
        remarks += self.notices
        if self.sheet:
            remarks.append(f"contact sheet: {self.sheet}")
        return remarks


def inspect_dataset(data: Dataset, out: PathLike | None = None, progress: str = "") -> Inspection:
    """Decode a data set and summarise it.

    Args:
        data: The data set.
        out: Where the contact sheet goes: a PNG file, or a folder for `contact-sheet.png`; None for no sheet.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        DataError: An image or a mask breaks a rule of the format.
        ConfigError: `out` cannot be written.

    Example:
        >>> inspection = diffaug.inspect_dataset(diffaug.read_dataset("data/mine"))
        >>> inspection.splits[0].cases, inspection.sizes, inspection.across
        (8, (((128, 128), 10),), ())
    """
    if out is not None:
        make_folder(sheet_path(Path(out)).parent)
    findings = examine_cases(data.cases, progress)
    split_of = {case.id: case.split for case in data}
    pairs = duplicates_of_fingerprints({finding.case.id: finding.fingerprint for finding in findings})
    sizes = Counter((finding.width, finding.height) for finding in findings)
    return Inspection(
        folder=data.folder,
        splits=tuple(_summarise(split, findings) for split in SPLITS if data.split(split)),
        sizes=tuple(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        within=tuple((a, b) for a, b in pairs if split_of[a] == split_of[b]),
        across=tuple((a, b) for a, b in pairs if split_of[a] != split_of[b]),
        divided=_divided_groups(data.cases),
        notices=tuple(notices_of(findings)),
        sheet=None if out is None else write_contact_sheet(data.cases, Path(out)),
        classes=tuple(each.name for each in data.classes),
    )


def _summarise(split: str, findings: Sequence[Finding]) -> SplitSummary:
    inside = [finding for finding in findings if finding.case.split == split]
    groups = {finding.case.group for finding in inside}
    masked = [finding.area for finding in inside if finding.area is not None]
    areas = sorted(area for area in masked if area > 0)
    lesions = sum(finding.lesions for finding in inside)
    return SplitSummary(split, len(inside), len(groups), tuple(areas), lesions, len(masked) - len(areas))


def _divided_groups(cases: Sequence[Case]) -> tuple[str, ...]:
    splits: dict[str, set[str]] = {}
    for case in cases:
        if case.split != "unannotated":
            splits.setdefault(case.group, set()).add(case.split)
    return tuple(sorted(group for group, names in splits.items() if len(names) > 1))


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{first} = {second}" for first, second in pairs[:6])
    return f"{len(pairs)} ({shown}{', ..' * (len(pairs) > 6)})" if shown else "0"
