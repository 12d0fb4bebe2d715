"""Whether a synthetic set is whole: its files, its labels, where its cases are from, and what it must not have seen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.artifacts import digest_of_file
from diffaug.compute.progress import tracked
from diffaug.data.case import Case
from diffaug.data.folder import Dataset
from diffaug.data.images import read_image
from diffaug.data.manifest import Row, SyntheticSet
from diffaug.data.records import Mapped, Part
from diffaug.data.seen import SEEN_FILE
from diffaug.errors import DataError, DiffaugError
from diffaug.study.provenance import check_provenance, repeated_frames, seen_by_bases

SHOWN = 10  # findings that are named of one check


@dataclass(frozen=True)
class Outcome:
    """What one check of a set found.

    Attributes:
        name: What is checked.
        of: How many things were checked.
        findings: One sentence for each that is wrong, the first SHOWN.
        wrong: How many are wrong.
        skipped: Why it was not checked; empty where it was.
    """

    name: str
    of: int
    findings: tuple[str, ...] = ()
    wrong: int = 0
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; what was not checked has not passed."""
        return not self.wrong and not self.skipped


@dataclass(frozen=True)
class Diagnosis:
    """The checks of a set, and the rows whose files are damaged, which nothing else is measured on."""

    outcomes: tuple[Outcome, ...]
    damaged: frozenset[str]

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return not any(each.wrong for each in self.outcomes)


def diagnose(made: SyntheticSet, dataset: Dataset | None, progress: str = "") -> Diagnosis:
    """Check a synthetic set, alone or against the data set that it was painted for."""
    damaged, files, labels = set[str](), Findings(), Findings()
    count = sum(bool(row.image) for row in made.rows)
    for row in tracked((row for row in made.rows if row.image), count, progress):
        lines = list(_damage(made, row))
        if lines:
            damaged.add(row.id)
            files.add(lines[:1])
        else:
            labels.add(_label_findings(made, row))
    files.add(f"{row.id}: {line}" for row in made.rows for line in _previews(made, row))
    checks = [
        files.outcome("files are those that were written", len(made.rows)),
        labels.outcome("labels fit their pictures", count),
        Findings(_missing(made)).outcome("masks and regions are there", sum(1 for _ in _kept(made))),
        Findings(_unsaid(made)).outcome("the set says what its model has seen", 1),
    ]
    if dataset is None:
        skipped = "no data set is given; add it with --with DATA"
        names = ("sources are training cases", "no picture repeats a test image", "no base has seen a test annotation")
        return Diagnosis((*checks, *(Outcome(name, 0, skipped=skipped) for name in names)), frozenset(damaged))
    whole = (
        place for place, row in enumerate(made.rows) if row.decision == "kept" and row.image and row.id not in damaged
    )
    pictures = Mapped(made.case, Part(made.rows, whole))
    against = [_sources(made, dataset), *_leaks(made, dataset, pictures)]
    return Diagnosis((*checks, *against), frozenset(damaged))


class Findings:
    """What one check found: the first SHOWN sentences, and how many there were."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._first, self._count = list[str](), 0
        self.add(lines)

    def add(self, lines: Iterable[str]) -> None:
        """Take more."""
        for line in lines:
            self._count += 1
            if len(self._first) < SHOWN:
                self._first.append(line)

    def outcome(self, name: str, of: int) -> Outcome:
        """Return what the check found, by its name and the number of things that were checked."""
        return Outcome(name, of, tuple(self._first), self._count)


def _kept(made: SyntheticSet) -> Iterator[Row]:
    return (row for row in made.rows if row.decision == "kept")


def _damage(made: SyntheticSet, row: Row) -> Iterator[str]:
    """Yield what is wrong with the picture and the label of a row."""
    for name, digest in ((row.image, row.image_digest), (row.mask, row.mask_digest)):
        path = made.folder / name
        if not name or not path.is_file():
            yield f"{row.id}: {name or 'a file'} is missing"
        elif digest and digest_of_file(path) != digest:
            yield f"{row.id}: {name} is not the file that the manifest names"


def _previews(made: SyntheticSet, row: Row) -> Iterator[str]:
    for name in (row.preview, row.preview_mask, row.region):
        if name:
            try:
                read_image(made.folder / name, row.id)
            except DataError:
                yield f"{name} cannot be read"


def _label_findings(made: SyntheticSet, row: Row) -> Iterator[str]:
    case = made.case(row)
    try:
        shape, mask = case.read_image().shape[:2], case.read_mask()
    except DataError as error:
        yield f"{row.id}: {error}"
        return
    if mask.shape != shape:
        yield f"{row.id}: the label has {mask.shape[1]} x {mask.shape[0]} px, the picture {shape[1]} x {shape[0]}"
    elif not mask.any() and not (row.lesion_free or row.request.negative):
        yield f"{row.id}: the label is empty, and a lesion was asked for"
    elif row.lesion_free and np.any(mask):
        yield f"{row.id}: the row says lesion-free, and the label has a lesion"


def _missing(made: SyntheticSet) -> Iterator[str]:
    yield from (f"{row.id}: no label is named" for row in _kept(made) if not row.mask)
    without = (row for row in _kept(made) if row.request.negative and not row.region)
    yield from (f"{row.id}: a negative names no region" for row in without)


def _unsaid(made: SyntheticSet) -> list[str]:
    found = []
    if not made.images or not made.annotations:
        found.append("provenance.json does not name the images and annotations of the fit")
    if not made.seen.complete:
        found.append(f"{SEEN_FILE} is missing or incomplete: the model may have seen any image")
    if any(not (row.image_digest and row.mask_digest) for row in _kept(made)):
        found.append("the manifest lacks digests of files")
    return found


def _sources(made: SyntheticSet, dataset: Dataset) -> Outcome:
    """Check sources and digests as a study does."""
    lines = _lines(lambda: check_provenance(made, dataset))
    return Findings(lines).outcome("sources are training cases", len(made.rows))


def _lines(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except DiffaugError as error:
        return [str(error)]
    return []


def _leaks(made: SyntheticSet, dataset: Dataset, pictures: Sequence[Case]) -> Iterator[Outcome]:
    """Compare pictures, and what bases have seen, with the images of val and test."""
    held_out = [*dataset.split("val"), *dataset.split("test")]
    names = ("no picture repeats a test image", "no base has seen a test annotation")
    if not held_out:
        yield from (Outcome(name, 0, skipped="the data set has no val and no test") for name in names)
        return
    pairs = sorted((picture, tested) for tested, picture in repeated_frames(pictures, held_out))
    yield Findings(f"{picture} shows test {tested}" for picture, tested in pairs).outcome(names[0], len(pictures))
    seen = seen_by_bases([made], held_out)
    found = Findings(f"the annotation of {name} was seen" for name in seen["annotated"])
    yield found.outcome(names[1], len(held_out))
