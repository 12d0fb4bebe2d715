"""Data sets that a finished study makes: the painted cases that its baseline selects, and the images that it labels."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, write_json, write_jsonl
from diffaug.config import SelectConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.copies import copied_pictures
from diffaug.data.folder import Dataset, copy_case, copy_file, new_dataset, read_dataset, write_cases
from diffaug.data.manifest import (
    MANIFEST,
    PROVENANCE,
    SUMMARY,
    Row,
    SyntheticSet,
    values_of,
)
from diffaug.data.records import Mapped, Part, RecordFile, Spool, items_at
from diffaug.data.reviews import rejected_pictures
from diffaug.data.seen import write_seen
from diffaug.errors import ConfigError, StudyError
from diffaug.runfolder import contents_of, held
from diffaug.study import choose
from diffaug.study.derive import (
    Baseline,
    Derived,
    labelled_cases,
    make_labels,
    nothing_left,
    read_scored,
    scores_of,
)
from diffaug.study.inputs import check_plan, config_of_plan, read_painted, without_rejected
from diffaug.study.places import FILE as PLACES
from diffaug.study.places import read_places


@dataclass(frozen=True)
class Selection:
    """What `select_set` chose.

    Attributes:
        accepted: Lesions that the gate had accepted.
        kept: Lesions that were chosen.
        negatives: Cases without a lesion that belong to them.
        by_size: Chosen lesions by size class.
        copies: Accepted lesions that were left out, since an audit calls them copies of training lesions.
        rejected: Pictures that were left out, since somebody rejected them in a review.
    """

    accepted: int
    kept: int
    negatives: int
    by_size: dict[str, int]
    copies: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Labelling:
    """How many unannotated images there were, and how many of them `pseudo_label_set` labelled."""

    unannotated: int
    labelled: int


def read_baseline(study: Path, **changed: Any) -> tuple[dict[str, Any], Dataset, Baseline]:
    """Return what study.json says, the study's data set, and its baseline, with some knobs changed.

    Raises:
        StudyError: The arm `real` is not trained, or the data were changed since.
        ConfigError: An older version of diffaug made the study.
    """
    plan = contents_of(study, "study.json")
    check_plan(plan, study / "study.json")
    config = config_of_plan(plan, **changed)
    place = read_places(study, plan).data
    if not place:
        raise StudyError(
            f"a baseline needs its data: {study / PLACES} does not say where {plan.get('data')!r} lies; study it again"
        )
    dataset = read_dataset(Path(place))
    baseline = Baseline(study, plan["identity"]["seed"], config, dataset.annotated("train"))
    if not baseline.weights.is_file():
        raise StudyError(f"a baseline is a trained arm real: {study} lacks {baseline.name}; run its study with real")
    if plan.get("trained") != {case.id: digest_of_case(case) for case in baseline.train}:
        raise StudyError(f"a baseline belongs to its data: {plan['data']} was changed since {study}; study it again")
    return plan, dataset, baseline


def select_set(
    synthetic: PathLike,
    out: PathLike,
    study: PathLike,
    config: SelectConfig,
    count: int | None = None,
    without_copies: PathLike | None = None,
) -> Selection:
    """Copy the selected cases of a synthetic set into a data set of their own, with the negatives that belong to them.

    Pictures that a review of the set rejected are left out. The choice is a pure function of the manifest and of the
    scores, which are measured with the study's baseline once
    for the same painted cases, and kept in STUDY/scores.jsonl. OUT/manifest.jsonl has a row for each chosen case, with
    its scores.

    Args:
        synthetic: A finished synthetic set.
        out: The data set to make; it can be studied like any synthetic set.
        study: A finished study of this set alone, with the arm `real`.
        config: The upper cut of the loss, and the weight of novelty.
        count: Lesions wanted; None takes all that are not too hard.
        without_copies: Folder of an audit of the set; pictures that show a copy of a training lesion are left out.

    Raises:
        StudyError: The study is of another set, or has no trained baseline; nothing is left.
        DataError: The audit has no decisions about copies, or is of another set.
        ConfigError: `out` holds something else, or `count` is under 1.

    Example:
        >>> config = diffaug.SelectConfig()
        >>> diffaug.select_set("synthetic/mine", "selected/mine", "studies/mine", config)  # doctest: +SKIP
    """
    synthetic, out, study = Path(synthetic), Path(out), Path(study)
    if count is not None and count < 1:
        raise ConfigError(f"a selection has at least one case: --count is {count}; ask for more, or leave it out")
    copied = copied_pictures(Path(without_copies), synthetic) if without_copies else frozenset[str]()
    plan, dataset, baseline = read_baseline(study, select=config.model_dump())
    if [str(synthetic.resolve())] != read_places(study, plan).synthetic:
        named = ", ".join(plan["synthetic"]) or "no set"
        raise StudyError(f"a selection needs a study of its set: {study} is of {named}, not of {synthetic}; study it")
    painted = read_painted(synthetic)
    found, rejected = without_rejected(painted), rejected_pictures(painted)
    candidates = Part(found.rows, (place for place, row in enumerate(found) if choose.is_kept_lesion(row)))
    if not candidates:
        left_by = " that its review leaves" if rejected else ""
        raise StudyError(f"a selection needs accepted cases: {synthetic} has none{left_by}; generate more")
    derived = Derived(baseline, (), candidates, Mapped(found.case, candidates))
    with held(study):
        derived.make()
    knobs = baseline.config
    left = [number for number, row in enumerate(candidates) if row.id not in copied]
    if not left:
        raise StudyError(
            f"a selection needs cases: all {len(candidates)} accepted ones of {synthetic} are copies; paint with a "
            "larger --sampler.strength, or leave --without-copies out"
        )
    scored = read_scored(baseline.scores_table)
    count = len(candidates) if count is None else count
    choice = choose.choice_of(candidates[left], items_at(scored, left), knobs.select, count)
    if not choice:
        raise StudyError(nothing_left(len(left), "selected"))
    chosen = _Chosen(found, scored, [left[number] for number in choice], candidates)
    chosen.add_negatives(round(knobs.negatives * len(choice)))
    gone = len(candidates) - len(left)
    sizes = Counter(row.request.size_bin for row in chosen if not row.request.negative)
    selection = Selection(len(candidates), len(choice), len(chosen) - len(choice), dict(sizes), gone, len(rejected))
    _copy_rows(chosen, out, asdict(selection), {case.id: case.group for case in dataset})
    return selection


class _Chosen:
    """The rows of a selection, each read with its scores when it is asked for.

    Attributes:
        made: The set that they are of.
        places: Their places in it.
    """

    def __init__(
        self, made: SyntheticSet, scored: RecordFile[Any], lesions: Sequence[int], candidates: Part[Row]
    ) -> None:
        self.made, self._scored, self._lesions = made, scored, lesions
        self.places = candidates.numbers[list(lesions)].tolist()

    def add_negatives(self, count: int) -> None:
        """Add the first negatives that are trained on."""
        accepted = (place for place, row in enumerate(self.made) if row.request.negative and row.image and row.accepted)
        trained = (place for number, place in enumerate(accepted) if choose.is_trained_on(number))
        self.places += list(islice(trained, count))

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Row]:
        scores = map(scores_of, items_at(self._scored, self._lesions))
        for row in items_at(self.made.rows, self.places):
            yield replace(row, decision="kept", scores=next(scores, None))

    def joined(self) -> Iterator[Row]:
        """Yield the rows of the set whose lesions the chosen pictures show."""
        pictures = set(self.places)
        return (row for row in self.made if row.shown_in and self.made.place_of(row.shown_in) in pictures)


def _copy_rows(chosen: _Chosen, out: Path, summary: dict[str, Any], group_of: Mapping[str, str]) -> None:
    """Copy some rows of a synthetic set, and their files, into a set of its own, each in the group of its background.

    Rows whose lesions the copied pictures show come along: their sources are those of the picture, too.
    """
    found = chosen.made
    with new_dataset(out) as partial, Spool(partial) as moved:

        def copied() -> Iterator[Case]:
            for row in chosen:
                case = copy_case(found.case(row, group_of.get(row.request.background, "")), partial)
                moved.add(values_of(_moved(row, case, found, partial)))
                yield case

        write_cases(partial, copied())
        write_jsonl(partial / MANIFEST, chain(moved, map(values_of, chosen.joined())))
        write_seen(partial, found.seen)
        write_json(partial / PROVENANCE, {"images": dict(found.images), "cases": dict(found.annotations)})
        write_json(partial / SUMMARY, summary)


def _moved(row: Row, case: Case, found: SyntheticSet, folder: Path) -> Row:
    """Return a row whose files are those of a copied case."""
    paths = {"image": case.image, "mask": case.mask}
    if row.is_partly_known:
        paths["region"] = case.known
    elif row.region:
        paths["region"] = copy_file(found.folder / row.region, folder / "regions", row.id)
    places = {name: path.relative_to(folder).as_posix() for name, path in paths.items() if path}
    return replace(row, preview="", **places)  # type: ignore[arg-type] # they are names of paths


def pseudo_label_set(study: Path, out: Path, confidence: float | None = None) -> Labelling:
    """Copy the unannotated images of a study's data of whose labels its baseline is sure, with these labels as masks.

    They can be painted on (`generate --backgrounds`): `provenance.json` says which annotations the baseline has seen.

    Args:
        study: A study with the arm `real` trained.
        out: The data set to make; its cases are `train`.
        confidence: Least mean probability in a mask; None takes the study's.

    Raises:
        StudyError: There is no trained baseline, or the data set has no unannotated image.
        EmptyArmError: It is sure of no image.
        ConfigError: `out` holds something else.
    """
    changed = {} if confidence is None else {"pseudo_confidence": confidence}
    plan, dataset, baseline = read_baseline(study, **changed)
    images = dataset.split("unannotated")
    if not images:
        raise StudyError(
            f"pseudo-labels are for unannotated images: {dataset.folder} has none; import the images with some in a "
            "folder unannotated/, and study the new data set"
        )
    with held(study):
        make_labels(baseline, images)
    labelled = labelled_cases(baseline, images)
    with new_dataset(out) as partial:
        write_cases(partial, [copy_case(case, partial) for case in labelled])
        write_json(partial / PROVENANCE, {"cases": plan["trained"]})
    return Labelling(len(images), len(labelled))
