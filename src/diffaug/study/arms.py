"""What each arm trains on, and the refusals that keep a comparison honest.

Knows cases and manifests; knows no pixels, networks or metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffaug.artifacts import read_jsonl
from diffaug.data.case import Case
from diffaug.data.folder import Dataset, read_dataset
from diffaug.errors import ConfigError, StudyError

ARMS = {
    "real": "the annotated training cases",
    "copy-paste": "the same, and lesions of these cases blended onto other training frames",
    "validated": "the same, and the kept cases of the synthetic sets",
    "oracle": "every annotated training case of the full data set that this one is a subset of",
}
AUGMENTED = ("copy-paste", "validated")  # a share of each batch of these arms is not real


@dataclass(frozen=True)
class Arm:
    """One training set under comparison.

    `real` are annotated cases; `pool` are synthetic cases that fill a share of each batch; with `paste`, pasted cases
    made of `real` fill that share instead.
    """

    name: str
    real: tuple[Case, ...]
    pool: tuple[Case, ...] = ()
    paste: bool = False


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic set as the study sees it: its folder, its kept cases, and every row of its manifest."""

    folder: Path
    cases: tuple[Case, ...]
    rows: tuple[Mapping[str, Any], ...]


def check_arms(names: Sequence[str]) -> None:
    """Refuse arms that do not exist, and arms named twice.

    Raises:
        ConfigError: With the valid names.
    """
    for name in names:
        if name not in ARMS:
            raise ConfigError(f"an arm must be one of {', '.join(ARMS)}; got {name!r}")
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"a study needs at least one arm, and each once; got {', '.join(names) or 'none'}")


def build_arms(
    names: Sequence[str], train: Sequence[Case], synthetic: Sequence[SyntheticSet], full: Sequence[Case] = ()
) -> tuple[Arm, ...]:
    """Return the arms in the order of their names.

    Args:
        names: Arm names, checked.
        train: Annotated training cases, which every arm sees.
        synthetic: Synthetic sets, for `validated`.
        full: Annotated training cases of the full data set, for `oracle`.

    Raises:
        StudyError: An arm's inputs are not given.
    """
    pool = tuple(case for one in synthetic for case in one.cases)
    if "validated" in names and not pool:
        given = ", ".join(str(one.folder) for one in synthetic) or "none"
        raise StudyError(
            f"the arm validated needs kept synthetic cases; got {given}; "
            "give --synthetic SYNTH with at least one kept case, or leave the arm out"
        )
    if "oracle" in names and not full:
        raise StudyError(
            "the arm oracle needs the annotations of the full data set; none were given; "
            "give --oracle DATA, or leave the arm out"
        )
    arms = {
        "real": Arm("real", tuple(train)),
        "copy-paste": Arm("copy-paste", tuple(train), paste=True),
        "validated": Arm("validated", tuple(train), pool=pool),
        "oracle": Arm("oracle", tuple(full)),
    }
    return tuple(arms[name] for name in names)


def read_synthetic(folder: Path) -> SyntheticSet:
    """Read a finished synthetic set.

    Raises:
        StudyError: The set has no manifest, or is not finished.
        DataError: A file breaks a rule of the folder format.
    """
    if not (folder / "manifest.jsonl").is_file() or not (folder / "summary.json").is_file():
        raise StudyError(
            f"a synthetic set must be finished: {folder} lacks manifest.jsonl or summary.json; "
            "run `diffaug generate` again to complete it"
        )
    rows = tuple(read_jsonl(folder / "manifest.jsonl"))
    return SyntheticSet(folder, annotated(read_dataset(folder), "train"), rows)


def annotated(dataset: Dataset, split: str) -> tuple[Case, ...]:
    """Return the cases of a split that have a mask."""
    return tuple(case for case in dataset.split(split) if case.mask is not None)


def check_provenance(synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Refuse a synthetic set that saw more than the annotated training cases of the data set.

    Raises:
        StudyError: Naming the first row and the first case that should not be there.
    """
    splits = {case.id: case.split for case in dataset.cases}
    allowed = {case.id for case in annotated(dataset, "train")}
    for row in synthetic.rows:
        for source in row.get("sources", ()):
            if source in allowed:
                continue
            where = f"in split {splits[source]}" if source in splits else "not in the data set"
            raise StudyError(
                f"synthetic cases may come from annotated training cases only: {row['id']} of {synthetic.folder} "
                f"uses case {source}, which is {where}; generate the set from this data set's train split"
            )


def check_classes(folder: Path, cases: Sequence[Case], dataset: Dataset) -> None:
    """Refuse cases whose labels have other classes than the data set's.

    Raises:
        StudyError: They have.
    """
    wanted = dataset.cases[0].classes
    if cases and cases[0].classes != wanted:
        told = [
            ", ".join(f"{one.name} {list(one.values)}" for one in some) or "one" for some in (cases[0].classes, wanted)
        ]
        raise StudyError(
            f"all labels of a study need the same classes: {folder} has {told[0]}, {dataset.folder} has {told[1]}; "
            "generate the set again from this data set"
        )


def check_disjoint(train: Mapping[str, str], test: Mapping[str, str]) -> None:
    """Refuse test images that are also trained on, byte for byte.

    Args:
        train: Ids of the training cases, synthetic ones included, by the digest of their image.
        test: Ids of the test cases, likewise.

    Raises:
        StudyError: Naming the first pair.
    """
    for digest, case in test.items():
        if digest in train:
            raise StudyError(
                f"a test image must not be trained on: case {case} of the test split and case {train[digest]} of "
                "the training set are the same file; remove one of them from cases.csv"
            )
