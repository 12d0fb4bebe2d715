"""Whether a synthetic set is whole: its files, its labels, where its cases are from, and what it must not have seen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffaug.artifacts import digest_of_file
from diffaug.compute.progress import tracked
from diffaug.data.case import Case
from diffaug.data.folder import Dataset
from diffaug.data.images import read_image
from diffaug.data.manifest import Row, SyntheticSet, kept
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
    rows = [row for row in made.rows if row.image]
    damaged: dict[str, str] = {}
    labels: list[str] = []
    for row in tracked(rows, len(rows), progress):
        for line in _damage(made, row):
            damaged.setdefault(row.id, line)
        if row.id not in damaged:
            labels += _label_findings(made, row)
    torn = [f"{row.id}: {line}" for row in made.rows for line in _previews(made, row)]
    checks = [
        _outcome("files are those that were written", len(made.rows), [*damaged.values(), *torn]),
        _outcome("labels fit their pictures", len(rows), labels),
        _outcome("masks and regions are there", len(kept(made.rows)), _missing(made)),
        _outcome("the set says what its model has seen", 1, _unsaid(made)),
    ]
    if dataset is None:
        skipped = "no data set is given; add it with --with DATA"
        names = ("sources are training cases", "no picture repeats a test image", "no base has seen a test annotation")
        return Diagnosis((*checks, *(Outcome(name, 0, skipped=skipped) for name in names)), frozenset(damaged))
    pictures = [made.case(row) for row in kept(rows) if row.id not in damaged]
    against = [_sources(made, dataset), *_leaks(made, dataset, pictures)]
    return Diagnosis((*checks, *against), frozenset(damaged))


def _outcome(name: str, of: int, findings: Sequence[str]) -> Outcome:
    return Outcome(name, of, tuple(findings[:SHOWN]), len(findings))


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


def _missing(made: SyntheticSet) -> list[str]:
    rows = kept(made.rows)
    found = [f"{row.id}: no label is named" for row in rows if not row.mask]
    return found + [f"{row.id}: a negative names no region" for row in rows if row.request.negative and not row.region]


def _unsaid(made: SyntheticSet) -> list[str]:
    found = []
    if not made.images or not made.annotations:
        found.append("provenance.json does not name the images and annotations of the fit")
    if not made.seen.complete:
        found.append(f"{SEEN_FILE} is missing or incomplete: the model may have seen any image")
    if any(not (row.image_digest and row.mask_digest) for row in kept(made.rows)):
        found.append("the manifest lacks digests of files")
    return found


def _sources(made: SyntheticSet, dataset: Dataset) -> Outcome:
    """Check sources and digests as a study does."""
    lines = _lines(lambda: check_provenance(made, dataset))
    return _outcome("sources are training cases", len(made.rows), lines)


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
    yield _outcome(names[0], len(pictures), [f"{picture} shows test {tested}" for picture, tested in pairs])
    seen = seen_by_bases([made], held_out)
    yield _outcome(names[1], len(held_out), [f"the annotation of {name} was seen" for name in seen["annotated"]])
