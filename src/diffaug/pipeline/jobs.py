"""Jobs: what a run is made of, each one fit with its study, and all that is refused before the first one starts."""

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
from diffaug.config import Config, GenerateConfig, identity_of
from diffaug.data.case import Case, digest_of_case
from diffaug.data.duplicates import find_duplicates
from diffaug.data.folder import Dataset, copy_case, new_dataset, read_dataset, write_cases
from diffaug.data.split import connected, folds_by_group
from diffaug.errors import ConfigError
from diffaug.runfolder import Contents, is_same, read_contents, write_contents

if TYPE_CHECKING:
    from diffaug.study.records import Records

log = logging.getLogger(__name__)

ARMS = ("real", "copy-paste", "unfiltered", "selected")  # where a config names none
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
    """Return the full data set of a run: a folder with cases.csv is read where it lies, others are imported once.

    Raises:
        ConfigError: It was made with other settings, or of other files.
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
    """Return the digest of a source's files; where it was removed since, that of the files that were imported."""
    if source.is_dir():
        return digest_of_folder(source)
    imported = read_contents(out, "data.json") or {"identity": {}}
    return str(imported["identity"].get("files", ""))


def derived(to: Path, made_of: dict[str, Any], make: Callable[[Path], Any]) -> None:
    """Make a data set once; what it was made of is written beside it, as TO.json.

    Raises:
        ConfigError: It was made of something else.
    """
    contents = Contents("data set of a run", made_of, f"{to.name}.json")
    if (to / "cases.csv").is_file() and is_same(to.parent, contents, to):
        return
    make(to)  # refuses a folder that holds other cases
    write_contents(to.parent, contents)


@dataclass(frozen=True)
class Job:
    """One fit with its study: a number of annotated cases, a draw of them, and a fold (None without folds)."""

    config: Config
    source: Path  # the full data set
    full: Path  # the data set with every annotation; with folds, that without this fold
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
    def seed(self) -> int:
        """The first seed of fit, generation and study."""
        return self.config.seed + SEED_STEP * self.draw

    @cached_property
    def count(self) -> int:
        """How many training cases are annotated."""
        train = len(read_dataset(self.full).split("train"))
        return train if isinstance(self.annotated, str) else self.annotated

    @property
    def tests(self) -> tuple[str, ...]:
        """What is tested on: splits, or folders."""
        return ("test",) if self.config.data.folds else self.config.data.test

    @property
    def repeated(self) -> Path:
        """Where it is kept which test images are also trained on: the same for all draws and numbers."""
        return self.config.out / f"duplicates{'' if self.fold is None else f'-fold{self.fold}'}.json"

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
            "labels": labels if config.data.backgrounds == "pseudo-labelled" else "",
        }

    def _digest(self, arm: str, where: Mapping[str, Any]) -> str:
        from diffaug.study.records import key_of_run

        return key_of_run(arm, self.config.study, self.painting if is_painted(arm) else {}, where)

    def pending(self, records: "Records") -> list[str]:
        """Return the arms that have a run which must be trained."""
        return list(dict.fromkeys(self.missing(records)))

    def missing(self, records: "Records") -> list[str]:
        """Return the arm of each run that is not recorded, here or beside another number of annotated cases."""
        return [arm for (arm, seed), key in self.keys().items() if self._recorded(arm, seed, key, records) is None]

    def oracles_beside(self, records: "Records") -> dict[str, Mapping[str, Any]]:
        """Return the runs of `oracle` that are recorded beside another number of annotated cases, by their key here."""
        found = {key: self._recorded(arm, seed, key, records) for (arm, seed), key in self.keys().items()}
        return {key: line for key, line in found.items() if line is not None and line["run"] != key}

    def _recorded(self, arm: str, seed: int, key: str, records: "Records") -> Mapping[str, Any] | None:
        if (own := records.run(key)) is not None or arm != "oracle":
            return own
        lines = (line for line in records.noted("run") if line["arm"] == arm and line["seed"] == seed)
        return next((line for line in lines if self._key(arm, seed, line["annotated"]) == line["run"]), None)

    def _key(self, arm: str, seed: int, annotated: int | str) -> str:
        return self._digest(arm, self._where | {"annotated": annotated, "seed": seed})

    @cached_property
    def generate(self) -> GenerateConfig:
        """What is painted, whichever arms there are: all of it to the end, so that each can choose among it."""
        made, count = self.config.generate, math.ceil(self.config.data.painted_per_real * self.count)
        return made.model_copy(update={"count": count, "paint_all": made.gate != "off"})

    def keys(self) -> dict[tuple[str, int], str]:
        """Return the key of each of its runs, by arm and seed."""
        study = self.config.study
        return {
            (arm, seed): self._key(arm, seed, self.annotated)
            for seed in range(self.seed, self.seed + study.seeds)
            for arm in study.arms
        }

    @cached_property
    def _where(self) -> dict[str, Any]:
        """What a run's numbers depend on beside its config; read once, since it digests every case of a test folder."""
        from diffaug.study.run import names_of_tests

        config = self.config
        names = names_of_tests(config.data.test)  # which stand before the ids of a folder's cases
        test = [[name, dataset_digest(read_dataset(Path(one)))] if name else one for one, name in names.items()]
        return {
            "data": self.digest, "annotated": self.annotated, "draw": self.draw, "fold": self.fold,
            "folds": config.data.folds, "test": test, "device": config.device, "first": self.seed,
        }  # fmt: skip


def dataset_digest(dataset: Dataset) -> str:
    """Return the digest of a data set's cases, splits included, wherever it lies."""
    return digest_of_value([[case.id, case.group, case.split, digest_of_case(case)] for case in dataset.cases])


def checked(config: Config) -> Config:
    """Refuse what can be refused before anything is read; return the config with its arms.

    Raises:
        ConfigError: Unknown arms or aims, or arms that take what is not made.
        FindingsError: The findings are unknown or break a rule.
        StudyError: An arm is derived from `real`, which is not there.
    """
    from diffaug.study.arms import check_arms, check_derived, ratio_of

    check_config(config.generate)
    study = config.study.model_copy(update={"arms": config.study.arms or ARMS})
    config = config.model_copy(update={"study": study})
    check_arms(config.study.arms)
    check_derived(config.study.arms)
    if config.generate.backgrounds:
        raise ConfigError(
            f"a run labels its own backgrounds: generate.backgrounds is {config.generate.backgrounds}; "
            "leave it out, and set data.backgrounds: pseudo-labelled"
        )
    if "fixed-threshold" in config.study.arms and config.generate.gate == "off":
        raise ConfigError("the arm fixed-threshold needs the gate's scores: generate.gate is off; switch it on")
    most = config.data.painted_per_real
    for arm in filter(is_painted, config.study.arms):
        ratio = ratio_of(arm, config.study)
        if ratio > most:
            raise ConfigError(
                f"an arm takes at most as many painted cases as are made: {arm} takes {ratio:g} for each real case, "
                f"data.painted_per_real is {most:g}; raise it, or leave the arm out"
            )
    return config


def jobs_of(config: Config, dataset: Dataset) -> list[Job]:
    """Return the jobs in order. With folds, the data set of each fold is made first."""
    digest, wanted = dataset_digest(dataset), config.data
    if not wanted.folds:
        fulls: Mapping[int | None, Path] = {None: dataset.folder}
    else:
        train = dataset.split("train")
        fold_of = folds_by_group(_groups_of(train), wanted.folds, config.seed)
        for fold, annotated in product(range(wanted.folds), wanted.annotated):  # before a folder is made
            others = [case for case in train if fold_of[case.id] != fold]
            _check_cases(config, annotated, others, f"{dataset.folder} without fold {fold}")
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
    from diffaug.study.arms import takes_labels

    others = len(full.split("train")) - annotated if isinstance(annotated, int) else 0
    unannotated = bool(others or full.split("unannotated"))
    if config.data.backgrounds == "pseudo-labelled" and (not unannotated or domain_of(full.class_names).stays_in_place):
        reason = "a disc stays in its own image" if unannotated else f"{annotated} annotated cases leave no others"
        log.info(f"lesions are painted on annotated images alone: {reason}")
        config = config.model_copy(update={"data": config.data.model_copy(update={"backgrounds": "annotated"})})
    if unannotated:
        return config
    on_labels = [arm for arm in config.study.arms if takes_labels(arm)]
    if not on_labels:
        return config
    arms = tuple(arm for arm in config.study.arms if arm not in on_labels)
    if set(config.data.annotated) == {annotated}:
        raise ConfigError(
            f"the arm {on_labels[0]} needs unannotated images: of {full.folder}, {annotated} annotated cases leave "
            "none; annotate fewer, or leave the arm out"
        )
    log.info(f"{', '.join(on_labels)}: left out with {annotated} annotated cases, which leave no image unannotated")
    return config.model_copy(update={"study": config.study.model_copy(update={"arms": arms})})


def check_jobs(jobs: Sequence[Job]) -> None:
    """Refuse what a job would stop at, before the first one starts.

    Raises:
        ConfigError: More annotated cases are asked for than there are, the device is not there, or labels have classes
            that the masks or places asked for do not suit.
        DataError: There are too few for a fit.
        StudyError: There are fewer than a batch has rows, none to test on, or test images are also trained on.
    """
    from diffaug.compute.devices import device_of
    from diffaug.study.provenance import check_groups, shared_groups
    from diffaug.study.run import read_inputs, repeated_in

    for device in {job.config.device for job in jobs} - {"cpu"}:
        device_of(device)
    for job in jobs:
        _check_cases(job.config, job.annotated, read_dataset(job.full).split("train"), str(job.full))
    for job in {job.full: job for job in jobs}.values():
        inputs = read_inputs(job.full, (), job.tests)
        check_groups(shared_groups(inputs.dataset, inputs.test), job.config.data.allow_duplicates)
        repeated_in(job.repeated, inputs, job.config.data.allow_duplicates)


def _check_cases(config: Config, annotated: int | str, train: Sequence[Case], where: str) -> None:
    """Refuse training cases of which no job with this number of annotated ones can be made; `where` names them."""
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
    return {"data": digest, "folds": config.data.folds, "fold": fold, "seed": config.seed}


def _groups_of(cases: Sequence[Case]) -> dict[str, str]:
    """Return the group of each case; groups that share a repeated frame are one, so that no fold is tested on it."""
    first: dict[str, str] = {}
    for case in cases:
        first.setdefault(case.group, case.id)
    links = [(case.id, first[case.group]) for case in cases]
    return connected([case.id for case in cases], [*links, *find_duplicates(cases)])


def _fold_dataset(dataset: Dataset, to: Path, fold_of: Mapping[str, int], fold: int) -> None:
    """Copy a data set in which one fold of `train` is `test`; what was val and test stays out."""
    cases = [
        replace(case, split="test") if fold_of.get(case.id) == fold else case
        for case in dataset.cases
        if case.split in ("train", "unannotated")
    ]
    with new_dataset(to) as partial:
        write_cases(partial, [copy_case(case, partial) for case in cases])


def is_painted(arm: str) -> bool:
    """Tell whether an arm takes painted cases."""
    from diffaug.study.arms import PAINTED, kind_of

    return kind_of(arm) in PAINTED
