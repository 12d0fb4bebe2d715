"""The arms of a study: what their names mean, what each trains on, and which inputs it needs.

Knows cases and rows of synthetic sets; knows no pixels, networks or metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from diffaug.config import StudyConfig
from diffaug.data.case import Case
from diffaug.data.manifest import Row, lesions, painted
from diffaug.errors import ConfigError, StudyError
from diffaug.study import choose
from diffaug.study.inputs import PaintedRows

PSEUDO_LABEL, MEAN_TEACHER = "pseudo-label", "mean-teacher"
SELF_TRAINED = (PSEUDO_LABEL, MEAN_TEACHER)  # train on unannotated images; the name of a painted arm may end in +ARM
ARMS = {
    "real": "the annotated training cases",
    "copy-paste": "the same, and lesions of these cases blended onto other training frames and lesion-free images",
    PSEUDO_LABEL: "the same, and unannotated images with the masks that the baseline is confident of",
    MEAN_TEACHER: "the same, and unannotated images that the average of the network's weights labels during training",
    "unfiltered": "the same, and painted cases as they come, whatever the gate said",
    "random-kept": "the same, and painted cases at random, as many of each size as in validated",
    "fixed-threshold": "the same, and painted cases whose agreement reaches one threshold for all sizes",
    "validated": "the same, and painted cases that the gate accepted",
    "selected": "the same, and accepted cases that are hard for the baseline, novel, and balanced over strata",
    "no-negatives": "the same as selected, without painted cases that show no lesion",
    "oracle": "every annotated training case of the full data set that this one is a subset of",
}
UNGATED = ("unfiltered", "random-kept", "fixed-threshold")  # choose among what the gate turned down, too
SCORED = ("selected", "no-negatives")  # choose by scores that the baseline gives
PAINTED = (*UNGATED, "validated", *SCORED)


@dataclass(frozen=True)
class ArmSpec:
    """What the name of an arm says.

    Attributes:
        name: As it was given, such as `selected@2+pseudo-label`.
        kind: A key of ARMS.
        ratio: Painted cases for each real one; None takes `study.synthetic_per_real`.
        added: The arm of SELF_TRAINED whose unannotated images a painted arm also trains on, in the same way; empty
            without them.
    """

    name: str
    kind: str
    ratio: float | None = None
    added: str = ""

    @property
    def is_painted(self) -> bool:
        """Whether it trains on painted cases."""
        return self.kind in PAINTED

    @property
    def is_scored(self) -> bool:
        """Whether it chooses painted cases by the scores that the baseline gives."""
        return self.kind in SCORED

    @property
    def takes_labels(self) -> bool:
        """Whether it trains on unannotated images that the baseline labels."""
        return PSEUDO_LABEL in (self.kind, self.added)

    @property
    def has_teacher(self) -> bool:
        """Whether it trains on unannotated images that the average of its own weights labels."""
        return MEAN_TEACHER in (self.kind, self.added)

    @property
    def takes_unannotated(self) -> bool:
        """Whether it trains on unannotated images."""
        return self.takes_labels or self.has_teacher

    @property
    def is_derived(self) -> bool:
        """Whether it needs a trained `real`, which is the baseline: to choose by, or to label images."""
        return self.is_scored or self.takes_labels

    @property
    def takes_negatives(self) -> bool:
        """Whether it trains on painted cases without a lesion."""
        return self.is_painted and self.kind != "no-negatives"

    @property
    def without_unannotated(self) -> str:
        """The name of the same painted arm without unannotated images."""
        return self.name.removesuffix(f"+{self.added}")

    @property
    def without_ratio(self) -> str:
        """The name of the same arm with the usual number of painted cases."""
        return "+".join(filter(None, (self.kind, self.added)))

    @property
    def meaning(self) -> str:
        """What it trains on, in words."""
        if self.added:
            return f"the same as {self.without_unannotated}, and the unannotated images of {self.added}"
        return ARMS[self.kind]

    def painted_per_real(self, config: StudyConfig) -> float:
        """Return how many painted lesions it takes for each real case."""
        return config.synthetic_per_real if self.ratio is None else self.ratio

    def painted_count(self, config: StudyConfig, real: int) -> int:
        """Return how many painted lesions it takes beside so many real cases."""
        return max(1, round(self.painted_per_real(config) * real))

    def negatives_count(self, config: StudyConfig, painted: int) -> int:
        """Return how many negatives belong to so many painted lesions."""
        return round(config.negatives * painted) if self.takes_negatives else 0


@cache
def parse_arm(name: str) -> ArmSpec:
    """Return what an arm's name says: KIND, KIND@RATIO of a painted arm, and either with an arm of SELF_TRAINED added.

    Raises:
        ConfigError: There is no such arm; the message says which there are.
    """
    painted, plus, added = name.partition("+")
    kind, at, text = painted.partition("@")
    ratio = _ratio(text)
    if name not in ARMS and (kind not in PAINTED or (at and ratio is None) or (plus and added not in SELF_TRAINED)):
        raise ConfigError(
            f"an arm must be one of {', '.join(ARMS)}: it is {name!r}; a painted arm may end in @RATIO, such as "
            f"selected@2, and then in {' or '.join(f'+{one}' for one in SELF_TRAINED)}"
        )
    return ArmSpec(name, kind, ratio if at else None, added)


def _ratio(text: str) -> float | None:
    try:
        ratio = float(text)
    except ValueError:
        return None
    return ratio if 0 < ratio <= 100 else None


def parse_arms(names: Sequence[str]) -> tuple[ArmSpec, ...]:
    """Return what the names of a study's arms say, in order.

    Raises:
        ConfigError: An arm does not exist, or is named twice, or none is named.
        StudyError: An arm needs a trained `real`, which is not named.
    """
    specs = tuple(parse_arm(name) for name in names)
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"a study needs at least one arm, and each once; got {', '.join(names) or 'none'}")
    derived = [spec.name for spec in specs if spec.is_derived]
    if derived and "real" not in names:
        raise StudyError(f"the arm {derived[0]} is derived from the arm real, which is not there; add real")
    return specs


def default_arms(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the arms that a study has where none are named: those that the painted rows allow."""
    return ("real", "copy-paste", *(("selected",) if choose.kept_lesions(rows) else ()))


@dataclass(frozen=True)
class Arm:
    """One training set under comparison.

    Attributes:
        name: Of the arm.
        real: Annotated cases.
        pool: Other cases, which fill a share of each batch. That of a derived arm is found once `real` is trained.
        paste: Whether pasted cases, made of `real`, fill that share instead.
        negatives: How many of the pool are painted cases without a lesion.
        wanted_negatives: How many of them belong to its painted lesions; the synthetic set may hold fewer.
        labelled: How many of the pool are unannotated images that the baseline labelled, beside painted cases.
        taught: Unannotated images that the average of the network's weights labels while it is trained. They fill the
            share of the pool, or half of it where there is one. Those declared to be lesion-free are known to be so.
        before: Of painted cases whose label is known in part, the images that they were painted on, by id.
        onto: Unannotated images that are declared to be lesion-free, onto which lesions are pasted, too.
    """

    name: str
    real: tuple[Case, ...]
    pool: tuple[Case, ...] = ()
    paste: bool = False
    negatives: int = 0
    wanted_negatives: int = 0
    labelled: int = 0
    taught: tuple[Case, ...] = ()
    onto: tuple[Case, ...] = ()
    before: Mapping[str, Path] = field(default_factory=dict)


def build_arms(
    specs: Sequence[ArmSpec],
    train: Sequence[Case],
    rows: PaintedRows,
    config: StudyConfig,
    *,
    full: Sequence[Case] = (),
    unannotated: Sequence[Case] = (),
    seed: int = 0,
) -> tuple[Arm, ...]:
    """Return the arms in order; the pool of a derived arm is what it will choose from.

    Args:
        specs: Of the arms.
        train: Annotated training cases, which every arm sees.
        rows: Of the synthetic sets, for the painted arms.
        config: Ratios and thresholds.
        full: Annotated training cases of the full data set, for `oracle`.
        unannotated: Unannotated training images, for the arms of SELF_TRAINED.
        seed: Of what is drawn at random.

    Raises:
        StudyError: An arm's inputs are not given.
    """
    _check_inputs(specs, rows, full, unannotated)
    return tuple(_build_arm(spec, train, rows, config, full, unannotated, seed) for spec in specs)


def _build_arm(
    spec: ArmSpec,
    train: Sequence[Case],
    rows: PaintedRows,
    config: StudyConfig,
    full: Sequence[Case],
    unannotated: Sequence[Case],
    seed: int,
) -> Arm:
    arm = Arm(spec.name, tuple(full if spec.kind == "oracle" else train))
    if spec.kind == "copy-paste":
        return replace(arm, paste=True, onto=tuple(case for case in unannotated if case.negative))
    if spec.has_teacher:
        arm = replace(arm, taught=tuple(unannotated))
    if spec.kind == PSEUDO_LABEL:
        return replace(arm, pool=tuple(unannotated))
    if not spec.is_painted:
        return arm
    image_of = {case.id: case.image for case in unannotated}
    partly = [row for row in rows if row.is_partly_known and row.request.background in image_of]
    arm = replace(arm, before={row.id: image_of[row.request.background] for row in partly})
    if spec.is_scored:
        return replace(arm, pool=rows.cases(choose.kept_lesions(rows)))
    chosen = _chosen(spec, rows, config, seed, spec.painted_count(config, len(train)))
    if not chosen:
        raise StudyError(f"an arm needs cases: none of the painted ones is left for {spec.name}; generate more")
    wanted = spec.negatives_count(config, len(chosen))
    negatives = choose.training_negatives(rows)[:wanted]
    return replace(
        arm, pool=rows.cases([*chosen, *negatives]), negatives=len(negatives), wanted_negatives=wanted
    )  # fmt: skip


def _chosen(spec: ArmSpec, rows: PaintedRows, config: StudyConfig, seed: int, count: int) -> list[Row]:
    """Return the painted lesions of an arm that needs no baseline."""
    validated = choose.kept_lesions(rows)[:count]
    if spec.kind == "unfiltered":
        return painted(rows)[:count]
    if spec.kind == "random-kept":
        return choose.random_like(rows, validated, seed)
    if spec.kind == "fixed-threshold":
        return choose.over_threshold(rows, config.fixed_threshold)[:count]
    return validated


def _check_inputs(
    specs: Sequence[ArmSpec], rows: PaintedRows, full: Sequence[Case], unannotated: Sequence[Case]
) -> None:
    """Refuse arms whose inputs are not given.

    Raises:
        StudyError: Naming the arm, and what it needs.
    """
    kinds = {spec.kind for spec in specs}
    given = ", ".join(str(one.folder) for one in rows.sets) or "none"

    def first(names: Iterable[str]) -> str:
        return min(kinds & set(names), default="")

    needy = first(PAINTED)
    if needy and not painted(rows):
        raise StudyError(
            f"the arm {needy} needs painted cases; got {given}; "
            "give --synthetic SYNTH with at least one kept case, or leave the arm out"
        )
    scored = first(SCORED)
    if scored and not choose.kept_lesions(rows):
        raise StudyError(f"an arm needs cases: none of the painted ones is left for {scored}; generate more")
    stopped = sum(not row.image for row in lesions(rows))
    if first(UNGATED) and stopped:
        raise StudyError(
            f"the arm {first(UNGATED)} needs every request painted to the end: {stopped} of {given} "
            "were stopped by the gate; generate the set with --paint-all, or leave the arm out"
        )
    if "fixed-threshold" in kinds and not all(row.checks for row in painted(rows)):
        raise StudyError(
            f"the arm fixed-threshold needs the validator's scores: {given} was painted without a gate; "
            "generate the set with --paint-all instead, or leave the arm out"
        )
    if "oracle" in kinds and not full:
        raise StudyError(
            "the arm oracle needs the annotations of the full data set; none were given; "
            "give --oracle DATA, or leave the arm out"
        )
    self_trained = [spec.name for spec in specs if spec.takes_unannotated]
    if self_trained and not unannotated:
        raise StudyError(
            f"the arm {self_trained[0]} needs unannotated images; the data set has none; add some, or leave the arm out"
        )


def check_size(arm: Arm, batch_size: int) -> None:
    """Refuse an arm that cannot fill a batch with different cases.

    Raises:
        StudyError: Naming the arm and its number of cases.
    """
    count = len(arm.real) + len(arm.pool) + len(arm.taught)
    if count < batch_size:
        raise StudyError(
            f"an arm needs as many cases as a batch has rows: {arm.name} has {count}, study.batch_size is "
            f"{batch_size}; lower study.batch_size, or annotate more cases"
        )
