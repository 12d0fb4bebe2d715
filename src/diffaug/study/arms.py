"""What each arm trains on, and the refusals that keep a comparison honest.

Knows cases and manifests; knows no pixels, networks or metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diffaug.artifacts import digest_of_file, read_json
from diffaug.config import WITH_LABELS, StudyConfig
from diffaug.data.case import Case, LabelClass
from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.manifest import Row, read_rows
from diffaug.data.seen import UNKNOWN, Seen, read_seen
from diffaug.errors import ConfigError, StudyError
from diffaug.study import choose

ARMS = {
    "real": "the annotated training cases",
    "copy-paste": "the same, and lesions of these cases blended onto other training frames",
    "pseudo-label": "the same, and unannotated images with the masks that the baseline is confident of",
    "unfiltered": "the same, and painted cases as they come, whatever the gate said",
    "random-kept": "the same, and painted cases at random, as many of each size as in validated",
    "fixed-threshold": "the same, and painted cases whose agreement reaches one threshold for all sizes",
    "validated": "the same, and painted cases that the gate accepted",
    "selected": "the same, and accepted cases that are hard for the baseline, novel, and balanced over strata",
    "no-fills": "the same as selected, without lesion-free fills",
    "oracle": "every annotated training case of the full data set that this one is a subset of",
}
PAINTED = ("unfiltered", "random-kept", "fixed-threshold", "validated", "selected", "no-fills")
UNGATED = ("unfiltered", "random-kept", "fixed-threshold")  # choose among what the gate turned down, too
SELECTED = ("selected", "no-fills")  # choose by the scores of a trained `real`


@dataclass(frozen=True)
class Arm:
    """One training set under comparison.

    `real` are annotated cases; `pool` are other cases that fill a share of each batch; with `paste`, pasted cases made
    of `real` fill that share instead. The pool of a derived arm is found once `real` is trained. So many of the pool
    are lesion-free `fills`, and so many beside painted cases unannotated images that `real` `labelled`.
    """

    name: str
    real: tuple[Case, ...]
    pool: tuple[Case, ...] = ()
    paste: bool = False
    fills: int = 0
    labelled: int = 0

    @property
    def kind(self) -> str:
        """The arm without its ratio and its labelled images: `selected` for `selected@2+pseudo-label`."""
        return kind_of(self.name)


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic set as the study sees it: its folder, and every row of its manifest, with ids unique over sets."""

    folder: Path
    rows: tuple[Mapping[str, Any], ...]
    digests: Mapping[str, str]  # of the images that its model was fitted on, by case; {} where it does not say
    classes: tuple[LabelClass, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)  # digests of the cases whose masks its model has seen
    seen: Seen = UNKNOWN  # every image that its model, or a base of it, has seen

    def case(self, row: Mapping[str, Any]) -> Case:
        """Return a row with an image as a case."""
        image, mask = self.folder / row["image"], self.folder / row["mask"]
        return Case(row["id"], image, mask, row["background"], "train", row["prompt"], classes=self.classes)


def check_arms(names: Sequence[str]) -> None:
    """Refuse arms that do not exist, and arms named twice.

    Raises:
        ConfigError: With the valid names.
    """
    for name in names:
        kind, (_, at, ratio) = kind_of(name), name.removesuffix(WITH_LABELS).partition("@")
        if name not in ARMS and (kind not in PAINTED or (at and not _is_ratio(ratio))):
            raise ConfigError(
                f"an arm must be one of {', '.join(ARMS)}, or one of {', '.join(PAINTED)} with a number of painted "
                f"cases for each real one, such as selected@2; one of these with {WITH_LABELS} also trains on the "
                f"images of pseudo-label; got {name!r}"
            )
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"a study needs at least one arm, and each once; got {', '.join(names) or 'none'}")


def kind_of(name: str) -> str:
    """Return an arm's name without its ratio and its labelled images."""
    return name.removesuffix(WITH_LABELS).partition("@")[0]


def ratio_of(name: str, config: StudyConfig) -> float:
    """Return how many painted cases an arm takes for each real one."""
    return float(name.removesuffix(WITH_LABELS).partition("@")[2] or config.synthetic_per_real)


def takes_labels(name: str) -> bool:
    """Tell whether an arm trains on the unannotated images that `real` labels."""
    return name == "pseudo-label" or name.endswith(WITH_LABELS)


def is_derived(name: str) -> bool:
    """Tell whether an arm needs a trained `real`: to choose by, or to label images."""
    return takes_labels(name) or kind_of(name) in SELECTED


def _is_ratio(text: str) -> bool:
    try:
        return 0 < float(text) <= 100
    except ValueError:
        return False


def rows_of(synthetic: Sequence[SyntheticSet]) -> list[Mapping[str, Any]]:
    """Return the manifest rows of all sets, mixed evenly, so that the first ones of them are a share of each set."""
    placed = [((place + 0.5) / len(one.rows), row) for one in synthetic for place, row in enumerate(one.rows)]
    return [row for _, row in sorted(placed, key=lambda one: one[0])]


def default_arms(synthetic: Sequence[SyntheticSet]) -> tuple[str, ...]:
    """Return the arms that a study has where none are named: those that the synthetic sets allow."""
    rows = rows_of(synthetic)
    chosen = ["real", "copy-paste"]
    if choose.turned_down(rows):
        chosen.append("unfiltered")
    if choose.accepted(rows):
        chosen.append("selected")
    return tuple(chosen)


def build_arms(
    names: Sequence[str],
    train: Sequence[Case],
    synthetic: Sequence[SyntheticSet],
    config: StudyConfig,
    *,
    full: Sequence[Case] = (),
    unannotated: Sequence[Case] = (),
    seed: int = 0,
) -> tuple[Arm, ...]:
    """Return the arms in the order of their names; the pool of a derived arm is what it will choose from.

    Args:
        names: Arm names, checked.
        train: Annotated training cases, which every arm sees.
        synthetic: Synthetic sets, for the painted arms.
        config: Ratios and thresholds.
        full: Annotated training cases of the full data set, for `oracle`.
        unannotated: Unannotated training images, for `pseudo-label`.
        seed: Of what is drawn at random.

    Raises:
        StudyError: An arm's inputs are not given.
    """
    rows = rows_of(synthetic)
    _check_inputs(names, synthetic, rows, full, unannotated)
    arms = []
    for name in names:
        arm = Arm(name, tuple(full if name == "oracle" else train), paste=name == "copy-paste")
        if arm.kind in PAINTED:
            chosen = choose.accepted(rows) if arm.kind in SELECTED else _painted(arm, rows, config, seed)
            arm = replace(arm, pool=cases_of(chosen, synthetic), fills=sum(bool(row.get("fill")) for row in chosen))
            if not arm.pool:
                raise StudyError(f"an arm needs cases: none of the painted ones is left for {name}; generate more")
        arms.append(replace(arm, pool=tuple(unannotated)) if name == "pseudo-label" else arm)
    return tuple(arms)


def _check_inputs(
    names: Sequence[str],
    synthetic: Sequence[SyntheticSet],
    rows: Sequence[Mapping[str, Any]],
    full: Sequence[Case],
    unannotated: Sequence[Case],
) -> None:
    kinds = {kind_of(name) for name in names}
    given = ", ".join(str(one.folder) for one in synthetic) or "none"
    wanted = sorted(kinds & set(PAINTED))
    if wanted and not choose.painted(rows):
        raise StudyError(
            f"the arm {wanted[0]} needs painted cases; got {given}; "
            "give --synthetic SYNTH with at least one kept case, or leave the arm out"
        )
    stopped = sum(not row["image"] and not row.get("fill") for row in rows)
    if kinds & set(UNGATED) and stopped:
        raise StudyError(
            f"the arm {sorted(kinds & set(UNGATED))[0]} needs every request painted to the end: {stopped} of {given} "
            "were stopped by the gate; generate the set with --paint-all, or leave the arm out"
        )
    if "fixed-threshold" in kinds and not all(row["checks"] for row in choose.painted(rows)):
        raise StudyError(
            f"the arm fixed-threshold needs the validator's scores: {given} was painted without a gate; "
            "generate the set with --paint-all instead, or leave the arm out"
        )
    if "oracle" in kinds and not full:
        raise StudyError(
            "the arm oracle needs the annotations of the full data set; none were given; "
            "give --oracle DATA, or leave the arm out"
        )
    on_labels = [name for name in names if takes_labels(name)]
    if on_labels and not unannotated:
        raise StudyError(
            f"the arm {on_labels[0]} needs unannotated images; the data set has none; add some, or leave the arm out"
        )
    check_derived(names)


def meaning_of(name: str) -> str:
    """Return what an arm trains on, in words."""
    same = name.removesuffix(WITH_LABELS)
    return ARMS[kind_of(name)] if same == name else f"the same as {same}, and the unannotated images of pseudo-label"


def check_derived(names: Sequence[str]) -> None:
    """Refuse arms that need the arm `real`, without it.

    Raises:
        StudyError: Naming the arm.
    """
    derived = [name for name in names if is_derived(name)]
    if derived and "real" not in names:
        raise StudyError(f"the arm {derived[0]} is derived from the arm real, which is not there; add real")


def painted_count(arm: Arm, config: StudyConfig) -> int:
    """Return how many painted lesions an arm takes: its ratio times its real cases."""
    return max(1, round(ratio_of(arm.name, config) * len(arm.real)))


def wanted_fills(arm: Arm, config: StudyConfig) -> int:
    """Return how many lesion-free fills belong to the painted lesions of an arm, whose pool is known."""
    takes = arm.kind in PAINTED and arm.kind != "no-fills"
    return round(config.fills * (len(arm.pool) - arm.fills - arm.labelled)) if takes else 0


def _painted(arm: Arm, rows: Sequence[Mapping[str, Any]], config: StudyConfig, seed: int) -> list[Mapping[str, Any]]:
    """Return the rows of an arm that needs no baseline, with its fills."""
    count = painted_count(arm, config)
    validated = choose.accepted(rows)[:count]
    chosen = {
        "unfiltered": lambda: choose.painted(rows)[:count],
        "random-kept": lambda: choose.random_like(rows, validated, seed),
        "fixed-threshold": lambda: choose.over_threshold(rows, config.fixed_threshold)[:count],
        "validated": lambda: validated,
    }[arm.kind]()
    return with_fills(chosen, rows, config)


def with_fills(
    chosen: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], config: StudyConfig
) -> list[Mapping[str, Any]]:
    """Add the lesion-free fills that belong to so many painted lesions, as far as there are any."""
    training, _ = choose.fills(rows)
    return [*chosen, *training[: round(config.fills * len(chosen))]]


def owner_of(synthetic: Sequence[SyntheticSet]) -> dict[int, SyntheticSet]:
    """Return the set of each row, by the row's `id()`: rows of two sets may say the same."""
    return {id(row): one for one in synthetic for row in one.rows}


def cases_of(rows: Sequence[Mapping[str, Any]], synthetic: Sequence[SyntheticSet]) -> tuple[Case, ...]:
    """Return rows of synthetic sets as cases."""
    owner = owner_of(synthetic)
    return tuple(owner[id(row)].case(row) for row in rows)


def check_size(arm: Arm, batch_size: int) -> None:
    """Refuse an arm that cannot fill a batch with different cases.

    Raises:
        StudyError: Naming the arm and its number of cases.
    """
    count = len(arm.real) + len(arm.pool)
    if count < batch_size:
        raise StudyError(
            f"an arm needs as many cases as a batch has rows: {arm.name} has {count}, study.batch_size is "
            f"{batch_size}; lower study.batch_size, or annotate more cases"
        )


def read_synthetic(folder: Path, number: int = 0) -> SyntheticSet:
    """Read a finished synthetic set; the ids of a second set get its number.

    Raises:
        StudyError: The set has no manifest, is not finished, or holds other images or masks than were painted.
        DataError: A file breaks a rule of the folder format.
    """
    if not (folder / "manifest.jsonl").is_file() or not (folder / "summary.json").is_file():
        raise StudyError(
            f"a synthetic set must be finished: {folder} lacks manifest.jsonl or summary.json; "
            "run `diffaug generate` again to complete it"
        )
    classes = read_dataset(folder).cases[0].classes
    provenance = folder / "provenance.json"
    told = read_json(provenance) if provenance.is_file() else {}
    rows = [_mapping_of(row) for row in read_rows(folder / "manifest.jsonl")]
    _check_files(folder, rows)
    named = tuple(row | {"id": f"{number + 1}:{row['id']}"} if number else row for row in rows)
    return SyntheticSet(folder, named, told.get("images", {}), classes, told.get("cases", {}), read_seen(folder))


def _mapping_of(row: Row) -> dict[str, Any]:
    """Return a row of a manifest by the names that the arms use."""
    values = asdict(row)
    request = values.pop("request")
    return {**values, **request, "fill": request["negative"], "sources": row.request.sources}


def _check_files(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    files = [(row[kind], row[f"{kind}_digest"]) for row in rows if row["image"] for kind in ("image", "mask")]
    for name, digest in files:
        if not digest:  # of a set that does not say
            continue
        if not (folder / name).is_file() or digest_of_file(folder / name) != digest:
            raise StudyError(
                f"a synthetic set must hold what was painted: {folder / name} is not the file that manifest.jsonl "
                "tells of; generate the set again, in another folder where it was changed"
            )


def annotated(dataset: Dataset, split: str) -> tuple[Case, ...]:
    """Return the cases of a split that have a mask."""
    return tuple(case for case in dataset.split(split) if case.mask is not None)


def check_classes(folder: Path, classes: Sequence[LabelClass], dataset: Dataset) -> None:
    """Refuse a folder whose labels have other classes than the data set's.

    Raises:
        StudyError: They have.
    """
    wanted = dataset.cases[0].classes
    if tuple(classes) != wanted:
        told = [", ".join(f"{one.name} {list(one.values)}" for one in some) or "one" for some in (classes, wanted)]
        raise StudyError(
            f"all labels of a study need the same classes: {folder} has {told[0]}, {dataset.folder} has {told[1]}; "
            "take labels of the same classes, and generate synthetic sets from this data set"
        )
