"""The jobs of a run: each is one fit with its study. Here they are listed, and checked before the first one starts."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import digest_of_file, digest_of_folder, digest_of_value
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.drawer import check_config, is_generic
from diffaug.conditioning.findings import library_of
from diffaug.config import Config, GenerateConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.duplicates import find_duplicates
from diffaug.data.folder import TRAINING, Dataset, copy_case, new_dataset, read_dataset, to_annotate, write_cases
from diffaug.data.manifest import SUMMARY
from diffaug.data.split import connected, folds_by_group
from diffaug.errors import ConfigError, DataError
from diffaug.knobs import identity_of
from diffaug.reading import read_kept, typed
from diffaug.runfolder import Contents, altered_files, finished_files, is_same, read_contents, write_contents

if TYPE_CHECKING:
    from diffaug.study.lines import RunLine
    from diffaug.study.records import Records

log = logging.getLogger(__name__)

ARMS = ("real", "copy-paste", "selected")  # where a config names none
SEED_STEP = 1000  # between the seeds of two draws, so that they share none


def import_data(config: Config, to: Path) -> Dataset:
    """Make the full data set of a run.

    Raises:
        ConfigError: The source needs a path and has none.
    """
    from diffaug.data.importing import import_dataset
    from diffaug.data.phantom import make_phantoms

    path = source_of(config)
    if path is None:
        counts = config.data.phantoms
        return make_phantoms(to, *counts, size=config.data.phantom_size, seed=config.seed, progress="phantoms")
    imported = import_dataset(config.data.source, path, to, config.seed, "importing")
    for notice in imported.notices:
        log.info(notice)
    return imported.dataset


def source_of(config: Config) -> Path | None:
    """Return the folder that a run reads; None for phantoms.

    Raises:
        ConfigError: The source needs a path and has none, or it is no folder.
    """
    source, path = config.data.source, config.data.path
    if source == "phantom":
        return None
    if path is None:
        raise ConfigError(f"data.path is needed for the source {source}: it is not set; name the folder of the images")
    if not path.is_dir():
        raise ConfigError(f"a source must be a folder: data.path is {path}; check the path")
    return path


def imported(config: Config) -> Dataset:
    """Return the full data set of a run. A folder with cases.csv is read where it is; other sources are imported once.

    Raises:
        ConfigError: The run folder holds a data set of other settings or other files.
    """
    if config.data.source == "folder" and config.data.path and (config.data.path / "cases.csv").is_file():
        return read_dataset(config.data.path)
    made_of = config.data.model_dump(mode="json", include={"source", "phantoms", "phantom_size"})
    made_of |= {"seed": config.seed}
    if config.data.path:
        made_of |= {"files": _digest_of_source(config.data.path, config.out)}
    derived(config.out / "data", made_of, lambda to: import_data(config, to))
    return read_dataset(config.out / "data")


def _digest_of_source(source: Path, out: Path) -> str:
    """Return the digest of the files of a source. If it was removed, that is the digest noted at its import."""
    if source.is_dir():
        return digest_of_folder(source)
    imported = read_contents(out, "data.json") or {"identity": {}}
    return str(imported["identity"].get("files", ""))


def derived(to: Path, made_of: dict[str, Any], make: Callable[[Path], Any]) -> None:
    """Make a data set once. The file TO.json beside it says what it was made of, and holds the digests of its files.

    Raises:
        ConfigError: It was made of other things.
        DataError: One of its files was altered.
    """
    contents = Contents("data set of a run", made_of, f"{to.name}.json")
    if (to / "cases.csv").is_file() and is_same(to.parent, contents, to):
        _check_unaltered(to, contents.file)
        return
    make(to)  # refuses a folder that holds other cases
    write_contents(to.parent, replace(contents, about={"files": finished_files(to)}))


def _check_unaltered(to: Path, file: str) -> None:
    noted = (read_contents(to.parent, file) or {}).get("files", {})  # older versions noted none
    for name in altered_files(to, typed(dict[str, str], noted, to.parent / file)):
        raise DataError(
            f"a data set of a run stays as it was made: {to / name} was altered; restore it, or remove {to}, and the "
            "same command makes it again"
        )


@dataclass(frozen=True)
class Job:
    """One fit with its study: for a number of annotated cases, a draw of them, and a fold (None without folds)."""

    config: Config
    source: Path  # the full data set
    full: Path  # the data set with every annotation; with folds, this fold is its test split
    digest: str  # the digest of the full data set
    annotated: int | str
    draw: int
    fold: int | None

    @property
    def out(self) -> Path:
        """The job's folder."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return self.config.out / f"n{self.annotated}-draw{self.draw}{fold}"

    @property
    def synthetic(self) -> Path:
        """The job's synthetic set, where an arm takes painted cases."""
        return self.out / "synthetic"

    @property
    def has_synthetic(self) -> bool:
        """Whether this set is here and finished."""
        return (self.synthetic / SUMMARY).is_file()

    @property
    def label(self) -> str:
        """What tells the job from those with as many annotated cases, such as `draw 1, fold 0`."""
        draw = f"draw {self.draw}" if len(self.config.data.draws) > 1 or self.fold is None else ""
        return ", ".join(filter(None, (draw, "" if self.fold is None else f"fold {self.fold}")))

    @property
    def seed(self) -> int:
        """The first seed of fit, generation and study."""
        return self.config.seed + SEED_STEP * self.draw

    @cached_property
    def count(self) -> int:
        """The number of annotated training cases."""
        if isinstance(self.annotated, int):
            return self.annotated
        return len(to_annotate(read_dataset(self.full), self.config.data.unannotated))

    @property
    def tests(self) -> tuple[str, ...]:
        """Splits, or folders of data sets, that are tested on."""
        return ("test",) if self.config.data.folds else self.config.data.test

    @property
    def labels_backgrounds(self) -> bool:
        """Whether the arm `real` labels images that are painted on."""
        return self.config.data.backgrounds == "pseudo-labelled"

    @property
    def repeated(self) -> Path:
        """The file that lists test images that are trained on. It is the same for all draws and numbers."""
        return self.config.out / f"duplicates{'' if self.fold is None else f'-fold{self.fold}'}.json"

    @property
    def is_repeated_damaged(self) -> bool:
        """Whether that file is there and damaged; `check_jobs` makes it again."""
        return self.repeated.is_file() and read_kept(self.repeated, dict[str, Any]) is None

    def alike(self, arm: str = "") -> str:
        """Return the digest of what the time of an arm depends on; without an arm, that of fit and painting."""
        where = {"annotated": self.annotated, "folds": self.config.data.folds, "device": self.config.device}
        return self._digest(arm, where) if arm else digest_of_value([self.painting, where])

    @property
    def painted_key(self) -> str:
        """The digest of what fit and painting depend on."""
        return digest_of_value([self.painting, self._where])

    @cached_property
    def painting(self) -> dict[str, Any]:
        """What painted cases depend on beside the data and the seed; for files that is their content.

        It is empty where no arm takes painted cases.
        """
        config, generate = self.config, self.config.generate
        if not any(map(is_painted, config.study.arms)):
            return {}
        from diffaug.training.starting import SHIPPED, digest_of_base, usable_base

        base, baseline = usable_base(SHIPPED, config.fit), generate.baseline and generate.baseline / "cases.csv"
        findings = (
            {} if is_generic(generate) else library_of(generate.domain, generate.findings).model_dump(mode="json")
        )
        labels = {"confidence": config.study.pseudo_confidence, "real": self._digest("real", {})}
        return {
            "fit": identity_of(config.fit),
            "base": digest_of_base(base) if base else "",
            "generate": identity_of(self.generate),
            "findings": digest_of_value(findings),
            "baseline": digest_of_file(baseline) if baseline and baseline.is_file() else "",
            "labels": labels if self.labels_backgrounds else "",
        }

    def _digest(self, arm: str, where: Mapping[str, Any]) -> str:
        from diffaug.study.records import key_of_run

        return key_of_run(arm, self.config.study, self.painting if is_painted(arm) else {}, where)

    def recorded(self, records: "Records") -> dict[tuple[str, int], "RunLine"]:
        """Return the lines of the recorded runs, by arm and seed.

        `oracle` does not depend on the annotated cases: its line may be that of another number of them. It gets the
        contrast cut of the other runs of this job.
        """
        found = {run: records.run(key, self.painted_key) for run, key in self.keys().items()}
        lines = {run: line for run, line in found.items() if line is not None}
        own = [line for line in lines.values() if line.annotated == self.annotated]
        return {
            run: replace(line, annotated=self.annotated, cut=own[0].cut if own else line.cut)
            for run, line in lines.items()
        }

    def missing(self, records: "Records") -> list[str]:
        """Return the arm of each run that is not recorded."""
        recorded = self.recorded(records)
        return [run[0] for run in self.keys() if run not in recorded]

    def trained(self) -> list[str]:
        """Return the arm of each run that was trained in this job's folder."""
        runs = self.out / "study" / "runs"
        return [arm for arm, seed in self.keys() if (runs / f"{arm}-{seed}.jsonl").is_file()]

    @cached_property
    def generate(self) -> GenerateConfig:
        """How the synthetic set is painted: to the end, since some arms choose among rejected cases."""
        made, count = self.config.generate, math.ceil(self.config.data.painted_per_real * self.count)
        return made.model_copy(update={"count": count, "paint_all": made.gate != "off"})

    def keys(self) -> dict[tuple[str, int], str]:
        """Return the key of each run, by arm and seed."""
        runs = product(range(self.seed, self.seed + self.config.study.seeds), self.config.study.arms)
        return {(arm, seed): self._digest(arm, self._where | {"seed": seed}) for seed, arm in runs}

    @cached_property
    def _where(self) -> dict[str, Any]:
        """What the scores of a run depend on beside its config. It digests every case of a test folder."""
        from diffaug.study.inputs import names_of_tests

        config = self.config
        names = names_of_tests(config.data.test)  # which stand before the ids of a folder's cases
        test = [[name, dataset_digest(read_dataset(Path(one)))] if name else one for one, name in names.items()]
        return {
            "data": self.digest, "annotated": self.annotated, "draw": self.draw, "fold": self.fold,
            "folds": config.data.folds, "test": test, "device": config.device, "first": self.seed,
            **({} if config.data.unannotated == "all" else {"unannotated": config.data.unannotated}),
        }  # fmt: skip


def dataset_digest(dataset: Dataset) -> str:
    """Return the digest of the cases of a data set with their splits, whatever its path."""
    return digest_of_value([[case.id, case.group, case.split, digest_of_case(case)] for case in dataset.cases])


def checked(config: Config) -> Config:
    """Check a config before anything is read, and return it with its arms.

    Raises:
        ConfigError: An arm or an aim is unknown, a network is unknown or does not load, or an arm takes cases that are
            not painted.
        FindingsError: The findings are unknown or break a rule.
        StudyError: An arm needs the arm `real`, which is not among the arms.
    """
    from diffaug.study.architectures import check_name, identity_of_study
    from diffaug.study.arms import parse_arms

    check_config(config.generate)
    check_name(config.study.network)
    identity_of_study(config.study)  # a network that does not load is refused before data are imported
    study = config.study.model_copy(update={"arms": config.study.arms or ARMS})
    config = config.model_copy(update={"study": study})
    arms = parse_arms(config.study.arms)
    if config.generate.backgrounds:
        raise ConfigError(
            f"a run labels its own backgrounds: generate.backgrounds is {config.generate.backgrounds}; "
            "leave it out, and set data.backgrounds: pseudo-labelled"
        )
    if "fixed-threshold" in config.study.arms and config.generate.gate == "off":
        raise ConfigError("the arm fixed-threshold needs the gate's scores: generate.gate is off; switch it on")
    most = config.data.painted_per_real
    for arm in arms:
        ratio = arm.painted_per_real(config.study)
        if arm.is_painted and ratio > most:
            raise ConfigError(
                f"an arm takes at most as many painted cases as are made: {arm.name} takes {ratio:g} for each real "
                f"case, data.painted_per_real is {most:g}; raise it, or leave the arm out"
            )
    return config


def jobs_of(config: Config, dataset: Dataset) -> list[Job]:
    """Return the jobs in order. With folds, the data set of each fold is made first."""
    digest, wanted = dataset_digest(dataset), config.data
    if not wanted.folds:
        fulls: Mapping[int | None, Path] = {None: dataset.folder}
    else:
        train = dataset.split("train")
        fold_of = checked_folds(config, dataset, _groups_of(train))  # before a folder is made
        fulls = {fold: config.out / f"fold{fold}" for fold in range(wanted.folds)}
        for fold in range(wanted.folds):
            derived(
                fulls[fold], made_of(config, digest, fold), partial(_fold_dataset, dataset, fold_of=fold_of, fold=fold)
            )
    first = read_dataset(next(iter(fulls.values())))
    config_of = {annotated: _with_its_arms(config, annotated, first) for annotated in wanted.annotated}
    return [
        Job(config_of[annotated], dataset.folder, full, digest, annotated, draw, fold)
        for annotated in wanted.annotated
        for draw in wanted.draws
        for fold, full in fulls.items()
    ]


def _with_its_arms(config: Config, annotated: int | str, full: Dataset) -> Config:
    """Leave out what needs unannotated images if a number of annotated cases leaves none, and log it.

    Discs are never painted on unannotated images either: a cup belongs to its disc.
    """
    from diffaug.study.arms import parse_arm

    if config.data.unannotated == "lesion-free":
        unannotated = any(case.negative for case in full.cases if case.split in TRAINING)
    else:
        others = len(full.split("train")) - annotated if isinstance(annotated, int) else 0
        unannotated = bool(others or full.split("unannotated"))
    if config.data.backgrounds == "pseudo-labelled" and (not unannotated or domain_of(full.class_names).stays_in_place):
        reason = "a disc stays in its own image" if unannotated else f"{annotated} annotated cases leave no others"
        log.info(f"lesions are painted on annotated images alone: {reason}")
        config = config.model_copy(update={"data": config.data.model_copy(update={"backgrounds": "annotated"})})
    if unannotated:
        return config
    self_trained = [arm for arm in config.study.arms if parse_arm(arm).takes_unannotated]
    if not self_trained:
        return config
    arms = tuple(arm for arm in config.study.arms if arm not in self_trained)
    if set(config.data.annotated) == {annotated}:
        raise ConfigError(
            f"the arm {self_trained[0]} needs unannotated images: of {full.folder}, {annotated} annotated cases leave "
            "none; annotate fewer, or leave the arm out"
        )
    log.info(f"{', '.join(self_trained)}: left out with {annotated} annotated cases, which leave no image unannotated")
    return config.model_copy(update={"study": config.study.model_copy(update={"arms": arms})})


def check_jobs(jobs: Sequence[Job]) -> None:
    """Check everything that would stop a job, before the first one starts.

    Raises:
        ConfigError: There are fewer annotated cases than the config names, the device is missing, or the place of
            painting does not suit the classes.
        DataError: A fit needs more annotated cases.
        StudyError: A batch needs more cases, there is no test case, a test image is also trained on, or the network
            cannot be trained.
    """
    from diffaug.compute.devices import device_of
    from diffaug.study.architectures import check_network
    from diffaug.study.inputs import read_inputs, repeated_in
    from diffaug.study.provenance import check_groups, shared_groups

    for device in {job.config.device for job in jobs} - {"cpu"}:
        device_of(device)
    for job in jobs:
        train = to_annotate(read_dataset(job.full), job.config.data.unannotated)
        _check_cases(job.config, job.annotated, train, str(job.full))
    for job in {job.full: job for job in jobs}.values():
        inputs = read_inputs(job.full, (), job.tests)
        check_network(job.config.study, len(inputs.dataset.class_names))
        check_groups(shared_groups(inputs.dataset, inputs.test), job.config.data.allow_duplicates)
        repeated_in(job.repeated, inputs.seen(), inputs.test, job.config.data.allow_duplicates)


def _check_cases(config: Config, annotated: int | str, train: Sequence[Case], where: str) -> None:
    """Check that a job with this number of annotated cases can be made of `train`, which messages call `where`."""
    from diffaug.study.arms import Arm, check_size

    count = annotated if isinstance(annotated, int) else len(train)
    if count > len(train):
        raise ConfigError(
            f"data.annotated is at most the number of annotated training cases: it is {count}, {where} has "
            f"{len(train)}; ask for fewer"
        )
    for arm in config.study.arms:
        if arm in ("real", "copy-paste"):
            check_size(Arm(arm, tuple(train[:count])), config.study.batch_size)
    if any(is_painted(arm) for arm in config.study.arms):
        from diffaug.training.fit import check_count

        check_count(count, where)
        domain_of(train[0].class_names).check_place(config.generate.place)


def made_of(config: Config, digest: str, fold: int | None) -> dict[str, Any]:
    """Return what the data set of a fold is made of, given the digest of the full one."""
    where = {"data": digest, "folds": config.data.folds, "fold": fold, "seed": config.seed}
    return where | ({} if config.data.unannotated == "all" else {"unannotated": config.data.unannotated})


def checked_folds(config: Config, dataset: Dataset, groups: Mapping[str, str]) -> dict[str, int]:
    """Return the fold of each training case, by case id.

    Raises:
        DataError: There are fewer groups than folds, or too few cases without a fold.
        ConfigError: More annotated cases are asked for than there are without a fold.
    """
    lesion_free = [case.id for case in dataset.split("train") if case.negative]
    fold_of = folds_by_group(groups, config.data.folds, config.seed, lesion_free)
    for fold, annotated in product(range(config.data.folds), config.data.annotated):
        others = [case for case in dataset.split("train") if fold_of[case.id] != fold]
        _check_cases(config, annotated, others, f"{dataset.folder} without fold {fold}")
    return fold_of


def _groups_of(cases: Sequence[Case]) -> dict[str, str]:
    """Return the group of each case. Groups that share an image are joined, so that it lies in one fold."""
    first: dict[str, str] = {}
    for case in cases:
        first.setdefault(case.group, case.id)
    links = [(case.id, first[case.group]) for case in cases]
    return connected([case.id for case in cases], [*links, *find_duplicates(cases)])


def _fold_dataset(dataset: Dataset, to: Path, fold_of: Mapping[str, int], fold: int) -> None:
    """Copy the training cases of a data set: one fold becomes `test`. The splits val and test are left out."""
    cases = [
        replace(case, split="test") if fold_of.get(case.id) == fold else case
        for case in dataset.cases
        if case.split in TRAINING
    ]
    with new_dataset(to) as partial:
        write_cases(partial, [copy_case(case, partial) for case in cases])


def is_painted(arm: str) -> bool:
    """Tell whether an arm takes painted cases."""
    from diffaug.study.arms import parse_arm

    return parse_arm(arm).is_painted
