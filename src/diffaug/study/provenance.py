"""The refusals that keep a comparison honest: where a test image must not be, and what a synthetic set must not see.

Knows digests and fingerprints; knows no arms and no metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffaug.artifacts import digest_of_file
from diffaug.compute.progress import tracked
from diffaug.data.case import Case, digest_of_case
from diffaug.data.duplicates import duplicates_across, fingerprint
from diffaug.data.folder import TRAINING, Dataset
from diffaug.data.manifest import SyntheticSet
from diffaug.data.records import Part
from diffaug.data.seen import all_of, sketches_of
from diffaug.errors import StudyError

SHOWN = 5  # pairs named in a message


def check_provenance(synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Refuse a synthetic set that saw more than the training images of the data set.

    Masks and examples come from annotated training cases, by id, and backgrounds from these or from unannotated ones;
    every image that the model was fitted on is an annotated or unannotated training image, by the digest of its file;
    every annotation that it was fitted on is that of an annotated training case, by the digest of the case.

    Raises:
        StudyError: Naming the first row, image or annotation that should not be there.
    """
    splits = {case.id: case.split for case in dataset.cases}
    allowed = {case.id for case in dataset.annotated("train")}
    for row in synthetic.rows:
        request = row.request
        painted = {request.mask_case, request.example} - {""}
        for source in request.sources:
            if source in allowed or (source not in painted and splits.get(source) == "unannotated"):
                continue
            where = f"in split {splits[source]}" if source in splits else "not in the data set"
            raise StudyError(
                f"synthetic cases may come from annotated training cases only: {row.id} of {synthetic.folder} "
                f"uses case {source}, which is {where}; generate the set from this data set's train split"
            )
    if not synthetic.images or not synthetic.annotations:
        raise StudyError(
            f"a synthetic set must say what its model was fitted on: {synthetic.folder} has no provenance.json "
            "with images and cases; run `diffaug generate` again, which writes it"
        )
    seen: dict[str, Case] = {}  # training cases first: that a test image repeats one is told by `check_repeated`
    for case in sorted(dataset.cases, key=lambda case: case.split not in TRAINING):
        seen.setdefault(digest_of_file(case.image), case)
    for name, digest in synthetic.images.items():
        found = seen.get(digest)
        if found is None or found.split not in TRAINING:
            where = f"case {found.id} in split {found.split}" if found else "not in the data set"
            raise StudyError(
                f"a synthetic set may have seen training images only: the model of {synthetic.folder} was fitted on "
                f"{name}, which is {where}; fit and generate from this data set"
            )
    known = {digest_of_case(case) for case in dataset.annotated("train")}
    unknown = [name for name, digest in synthetic.annotations.items() if digest not in known]
    if unknown:
        raise StudyError(
            f"no arm may know an annotation that real does not: the model of {synthetic.folder} was fitted on "
            f"{len(unknown)} that are not of this data set's training cases, such as {unknown[0]}; fit and generate "
            "from this data set"
        )


def repeated_frames(seen: Sequence[Case], test: Sequence[Case], progress: str = "") -> list[tuple[str, str]]:
    """Return the pairs of a test case and a training case that show the same frame, byte for byte or nearly.

    Args:
        seen: Every image that an arm or a model may train on, annotated or not; they are gone through in blocks, so
            there may be many. Of equal files the last one counts.
        test: Test cases.
        progress: What to call the work in a progress bar; empty for none.
    """
    digests = np.array([int(digest_of_file(case.image), 16) for case in seen], np.uint64)
    _, last = np.unique(digests[::-1], return_index=True)
    distinct = Part(seen, np.sort(len(digests) - 1 - last).tolist())
    tested = {case.id: fingerprint(case.read_image()) for case in test}
    work = tracked(distinct, len(distinct), progress)
    trained = ((case.id, fingerprint(case.read_image())) for case in work)
    return sorted((other, one) for one, other in duplicates_across(trained, tested))


def check_repeated(pairs: Sequence[tuple[str, str]], allowed: bool) -> None:
    """Refuse test images that are also trained on, unless they are allowed.

    Raises:
        StudyError: Naming the pairs.
    """
    if not pairs or allowed:
        return
    named = ", ".join(f"{test} = {train}" for test, train in pairs[:SHOWN])
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    raise StudyError(
        f"a test image must not be trained on: of the test and the training cases, {named}{more} show the same frame; "
        "remove one of each, or allow it with --allow-duplicates, which what is made will say"
    )


def shared_groups(dataset: Dataset, test: Iterable[Case], full: Iterable[Case] = ()) -> list[str]:
    """Return the groups that lie both in `train` or `unannotated` and among the tested cases of one data set.

    Those of the `full` data set, which `oracle` trains on, count, too. Groups of other data sets carry its name before
    theirs, so equal names there are no match. A case without a group is one of its own, and ids are unique.
    """
    trained = {case.group for split in TRAINING for case in dataset.split(split)}
    trained |= {case.group for case in full}
    return sorted(trained & {case.group for case in test})


def check_groups(groups: Sequence[str], allowed: bool) -> None:
    """Refuse groups (patients, sequences) on both sides, unless they are allowed.

    Raises:
        StudyError: Naming the groups.
    """
    if groups and not allowed:
        more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
        raise StudyError(
            f"a group is never divided between training and test: {', '.join(groups[:SHOWN])}{more} lies in both; move "
            "it to one split in cases.csv, or allow it with --allow-duplicates, which marks the report"
        )


def seen_by_bases(synthetic: Sequence[SyntheticSet], test: Sequence[Case], progress: str = "") -> dict[str, Any]:
    """Return which test images the base models of synthetic sets have seen, before they were fitted.

    Returns:
        known (whether every base says what it has seen), unannotated and annotated (ids of test cases), of (how many).
    """
    seen = all_of([one.seen for one in synthetic])
    found = (
        sketches_of(case.read_image() for case in tracked(test, len(test), progress)) if len(seen.sketches) else None
    )
    named = {
        name: [case.id for case, held in zip(test, seen.by_base(with_mask).holds(found), strict=True) if held]
        if found is not None
        else []
        for name, with_mask in (("annotated", True), ("unannotated", False))
    }
    return {"known": seen.complete, "of": len(test), **named}


def check_bases(seen: Mapping[str, Any], allowed: bool) -> None:
    """Refuse test images that a base has seen with their annotation, unless they are allowed.

    Raises:
        StudyError: Naming the first ones.
    """
    named = seen["annotated"]
    if named and not allowed:
        raise StudyError(
            f"no model may have seen the annotation of a test image: {len(named)} were annotated for a base of the "
            f"painter, such as {', '.join(named[:SHOWN])}; fit from another base, or allow it with --allow-duplicates, "
            "which marks the report"
        )


def key_of(seen: Iterable[Case], test: Iterable[Case]) -> Mapping[str, list[str]]:
    """Return the digests of the images that are compared: the result of `repeated_frames` belongs to them."""
    return {
        "training": sorted({digest_of_file(case.image) for case in seen}),
        "test": [digest_of_file(case.image) for case in test],
    }
