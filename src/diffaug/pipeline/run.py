"""Every stage from one config: `diffaug run`, `diffaug demo` and `diffaug study --folds`."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import (
    digest_of_file,
    digest_of_folder,
    digest_of_value,
    held,
    make_folder,
    read_json,
    read_jsonl,
    write_csv,
    write_json,
)
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.drawer import check_config, is_generic
from diffaug.conditioning.findings import library_of
from diffaug.config import Config, FitConfig, GenerateConfig, StudyConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.duplicates import find_duplicates
from diffaug.data.folder import Dataset, copy_case, new_dataset, read_dataset, subset_dataset, write_cases
from diffaug.data.split import connected, folds_by_group
from diffaug.errors import ConfigError, EmptyArmError

if TYPE_CHECKING:
    from diffaug.study.records import Records
    from diffaug.training.fit import FitSummary

Say = Callable[[str], None]

ARMS = ("real", "copy-paste", "unfiltered", "selected")  # where a config names none
EXCEPTIONS = ("duplicates", "shared_groups")  # test images and groups that were also trained on, where it was allowed
SEED_STEP = 1000  # between the seeds of two draws, so that they share none
CURVE_COLUMNS = ("annotated", "arm", "draws", "n", "mean", "low", "high")
TRAINING_COLUMNS = ("annotated", "draw", "fold", "arm", "seed", "minutes")
COST_COLUMNS = (
    "annotated", "draw", "fold", "fit_seconds", "requested", "stopped", "rejected", "kept", "fills", "generate_seconds",
)  # fmt: skip


def say(text: str) -> None:
    """Print a line to stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


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
        say(notice)
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
    if config.data.path and config.data.path.is_dir():  # else it may have been removed since
        made_of |= {"files": digest_of_folder(config.data.path)}
    derived(config.out / "data", made_of, lambda to: import_data(config, to))
    return read_dataset(config.out / "data")


def derived(to: Path, made_of: dict[str, Any], make: Callable[[Path], Any]) -> None:
    """Make a data set once; what it was made of is written beside it, as TO.json.

    Raises:
        ConfigError: It was made of something else.
    """
    note = to.with_name(f"{to.name}.json")
    if (to / "cases.csv").is_file() and note.is_file():
        old = read_json(note)
        differs = [name for name, value in made_of.items() if old.get(name) != value]
        if differs:
            name = differs[0]
            raise ConfigError(
                f"a run folder holds one run: {to} was made with {name} = {old.get(name)}, not {made_of[name]}; "
                "choose another `out`, or go back to its settings"
            )
        return
    make(to)  # refuses a folder that holds other cases
    write_json(note, made_of)


@dataclass(frozen=True)
class Job:
    """One fit with its study: a number of annotated cases, a draw of them, and a fold (None without folds)."""

    config: Config
    source: Path  # the full data set
    full: Path  # every annotation, the fold's apart
    digest: str  # of the full data set
    painting: Mapping[str, Any]  # what painted cases depend on, beside the data and the seed
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
        """Return the digest of what the time of an arm depends on, or that of fit and painting."""
        from diffaug.study.records import key_of_run

        where = {"annotated": self.annotated, "folds": self.config.data.folds, "device": self.config.device}
        return (
            key_of_run(arm, self.config.study, self.painting, where) if arm else digest_of_value([self.painting, where])
        )

    @property
    def painted_key(self) -> str:
        """The digest of what fit and painting depend on."""
        return digest_of_value([self.painting, self._where])

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
        from diffaug.study.records import key_of_run

        return key_of_run(arm, self.config.study, self.painting, self._where | {"annotated": annotated, "seed": seed})

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


def painted_with(config: Config) -> dict[str, Any]:
    """Return what painted cases depend on, beside the data and the seed; of files the content, wherever they lie."""
    from diffaug.training.starting import SHIPPED, digest_of_base, usable_base

    made, base = config.generate, usable_base(SHIPPED, config.fit)
    findings = {} if is_generic(made) else library_of(made.domain, made.findings).model_dump(mode="json")
    missed = made.baseline / "cases.csv" if made.baseline else None
    free = {"count", "workers", "paint_all", "findings", "baseline", "backgrounds"}
    labelled = config.data.backgrounds == "pseudo-labelled"
    return {
        "fit": config.fit.model_dump(mode="json"),
        "base": digest_of_base(base) if base else "",
        "generate": made.model_dump(mode="json", exclude=free),
        "findings": digest_of_value(findings),
        "baseline": digest_of_file(missed) if missed and missed.is_file() else "",
        "painted_per_real": config.data.painted_per_real,
        **({"labelled": _labelling(config.study)} if labelled else {}),
    }


def _labelling(study: StudyConfig) -> dict[str, Any]:
    """Return what the masks of pseudo-labelled backgrounds depend on: how `real` is trained, and what it is sure of."""
    from diffaug.study.records import key_of_run

    own = {name: getattr(study, name) for name in ("pseudo_confidence", "baselines")}
    return own | {"real": key_of_run("real", study, {}, {})}


def dataset_digest(dataset: Dataset) -> str:
    """Return the digest of a data set's cases, splits included, wherever it lies."""
    return digest_of_value([[case.id, case.group, case.split, digest_of_case(case)] for case in dataset.cases])


def run_pipeline(config: Config, data: Path | None = None) -> list[Path]:
    """Run every stage for each number of annotated cases, draw and fold, and pool them; nothing recorded is repeated.

    Args:
        config: Every stage. Without arms the study has `real`, `copy-paste`, `unfiltered` and `selected`.
        data: The full data set, where it is not to be imported.

    Returns:
        The reports, one for each number of annotated cases.

    Raises:
        ConfigError: A stage asks for what cannot be made, told before the first one starts; or another process works
            in the folder of a job.
        FindingsError: The findings are unknown or break a rule.
        DiffaugError: A stage's own errors.
    """
    from diffaug.study.records import Records

    config = checked(config).model_copy(update={"device": _device(config.device)})
    dataset = read_dataset(data) if data else imported(config)
    records = Records(config.records or config.out / "records.jsonl")
    jobs = _within_budget(_jobs(config, dataset), records)
    _check_jobs([job for job in jobs if job.pending(records)])
    for job in jobs:
        _run_job(job, records)
    numbers = list(dict.fromkeys(job.annotated for job in jobs))
    pooled = {number: _pool([job for job in jobs if job.annotated == number], records) for number in numbers}
    return [_report(config, number, jobs, pooled, records) for number in numbers]


def _device(name: str) -> str:
    """Return a device's own name: a record does not depend on whether it was asked for by `auto`.

    Any other name stays, and need not be there to read what is recorded.
    """
    if name != "auto":
        return name
    from diffaug.compute.devices import device_of

    return str(device_of(name))


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
    for arm in filter(_is_painted, config.study.arms):
        ratio = ratio_of(arm, config.study)
        if ratio > most:
            raise ConfigError(
                f"an arm takes at most as many painted cases as are made: {arm} takes {ratio:g} for each real case, "
                f"data.painted_per_real is {most:g}; raise it, or leave the arm out"
            )
    return config


def _jobs(config: Config, dataset: Dataset) -> list[Job]:
    """Return the jobs in order; with folds, the data set of each fold is made first."""
    digest, wanted = dataset_digest(dataset), config.data
    painting = painted_with(config) if any(_is_painted(arm) for arm in config.study.arms) else {}
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
                fulls[fold], _made_of(config, digest, fold), partial(_fold_dataset, dataset, fold_of=fold_of, fold=fold)
            )
    first = read_dataset(next(iter(fulls.values())))
    own = {annotated: _with_its_arms(config, annotated, first) for annotated in wanted.annotated}
    return [
        Job(own[annotated], dataset.folder, full, digest, painting, annotated, draw, fold)
        for annotated in wanted.annotated
        for draw in wanted.draws
        for fold, full in fulls.items()
    ]


def _with_its_arms(config: Config, annotated: int | str, full: Dataset) -> Config:
    """Leave out what needs unannotated images where a number of annotated cases leaves none, and say so.

    Eyes are never painted on without annotation either: a cup belongs to its disc.
    """
    from diffaug.study.arms import takes_labels

    left = len(full.split("train")) - annotated if isinstance(annotated, int) else 0
    some = bool(left or full.split("unannotated"))
    if config.data.backgrounds == "pseudo-labelled" and (not some or domain_of(full.class_names).stays_in_place):
        reason = "discs are painted in annotated eyes" if some else f"{annotated} annotated cases leave no others"
        say(f"lesions are painted on annotated frames alone: {reason}")
        config = config.model_copy(update={"data": config.data.model_copy(update={"backgrounds": "annotated"})})
    if some:
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
    say(f"{', '.join(on_labels)}: left out with {annotated} annotated cases, which leave no image unannotated")
    return config.model_copy(update={"study": config.study.model_copy(update={"arms": arms})})


def _check_jobs(jobs: Sequence[Job]) -> None:
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
    if any(_is_painted(arm) for arm in config.study.arms):
        from diffaug.training.fit import check_count

        check_count(count, where)
        domain_of(train[0].class_names).check_place(config.generate.place)


def _made_of(config: Config, digest: str, fold: int | None) -> dict[str, Any]:
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


def _within_budget(jobs: Sequence[Job], records: "Records") -> list[Job]:
    """Leave out the last draws where all of them would take longer than the budget, and say what is expected."""
    config = jobs[0].config
    if config.budget is None:
        return list(jobs)
    draws = list(dict.fromkeys(job.draw for job in jobs))
    spent, kept = 0.0, list[int]()
    for draw in draws:
        own = [job for job in jobs if job.draw == draw]
        minutes = sum(_minutes(job, records) for job in own)
        if kept and spent + minutes > config.budget:
            break
        spent += minutes
        kept.append(draw)
    told = f"budget: {len(kept)} of {len(draws)} draws, about {spent:.0f} of {config.budget:g} minutes"
    told += "; intervals will say less about other draws" if len(kept) < len(draws) else ""
    say(f"{told}; one draw is made even so" if spent > config.budget else told)
    return [job for job in jobs if job.draw in kept]


def _minutes(job: Job, records: "Records") -> float:
    """Return the minutes that a job will take: nothing for what is recorded or made."""
    pending = job.missing(records)
    guess = estimate(job.config.study)["minutes"] / len(job.keys())
    minutes = sum(_measured(records.alike(job.alike(arm)), job.config.study.workers, guess) for arm in pending)
    if any(_is_painted(arm) for arm in pending) and not (job.out / "synthetic" / "summary.json").is_file():
        costs, guess = records.alike(job.alike()), estimate(job.config.fit)["minutes"]
        minutes += _measured(costs, 1, guess, "fit_seconds")
        minutes += _measured(costs, job.generate.workers, estimate(job.generate)["minutes"], "generate_seconds")
    return minutes


def _measured(lines: Sequence[Mapping[str, Any]], workers: int, guess: float, what: str = "seconds") -> float:
    """Return the mean minutes of lines that say how many seconds of a core something took; the guess without any."""
    found = [line[what] / workers / 60 for line in lines if line.get(what) is not None]
    return sum(found) / len(found) if found else guess


def _is_painted(arm: str) -> bool:
    from diffaug.study.arms import PAINTED, kind_of

    return kind_of(arm) in PAINTED


def _run_job(job: Job, records: "Records") -> None:
    """Run the stages of a job whose runs are not all recorded, and record them."""
    pending, beside = job.pending(records), job.oracles_beside(records)
    if pending or beside:
        with held(job.out):
            _run_stages(job, records, pending, beside)


def _run_stages(job: Job, records: "Records", pending: list[str], beside: Mapping[str, Mapping[str, Any]]) -> None:
    """Run what the pending arms need, and record it with the runs of `oracle` that are recorded beside."""
    from diffaug.study.arms import is_derived
    from diffaug.synthesis.shards import generate
    from diffaug.training.fit import fit

    config, out = job.config, job.out
    painted, labelled = any(_is_painted(arm) for arm in pending), config.data.backgrounds == "pseudo-labelled"
    if any(is_derived(arm) for arm in pending) or (painted and labelled):
        pending = list(dict.fromkeys(["real", *pending]))  # its weights are needed, even where it is recorded
    derived(
        out / "data",
        {**_made_of(config, job.digest, job.fold), "annotated": job.count, "draw": job.draw},
        lambda to: subset_dataset(read_dataset(job.full), to, job.count, job.draw),
    )
    if beside:
        records.repeat(beside, job.annotated, _contrast_cut(out / "data"))
    if not pending:
        return
    write_json(make_folder(out / "study") / "duplicates.json", read_json(job.repeated))  # of the same images
    if painted:
        say(f"fit: {job.count} annotated cases, draw {job.draw}{'' if job.fold is None else f', fold {job.fold}'}")
        options = {"seed": job.seed, "device": config.device, "painting": job.generate}
        fitted = fit(out / "data", out / "model", config.fit, **options)  # type: ignore[arg-type]
        for notice in fitted.notices if fitted else ():
            say(notice)
        wanted = job.generate
        if labelled:
            first = [arm for arm in pending if not _is_painted(arm)]
            say(f"study: {', '.join(first)}; real labels the frames that are painted on")
            _study_and_record(job, first, records)
            wanted = wanted.model_copy(update={"backgrounds": _label_frames(job)})
        say(f"generate: {wanted.count} cases")
        made = generate(
            out / "model", out / "data", out / "synthetic", wanted,
            seed=job.seed, workers=job.generate.workers, device=config.device,
        )  # fmt: skip
        records.note("cost", job.painted_key, {"alike": job.alike(), **_cost(job, fitted, made)})
    say(f"study: {', '.join(pending)}; {config.study.seeds} seeds")
    _study_and_record(job, pending, records)


def _contrast_cut(data: Path) -> float | None:
    from diffaug.study.arms import annotated
    from diffaug.study.strata import contrast_cut, profile

    return contrast_cut(profile(case) for case in annotated(read_dataset(data), "train"))


def _label_frames(job: Job) -> Path | None:
    """Make the data set of the images that `real` labels with confidence; None where there is none."""
    from diffaug.study.derive import pseudo_label_set

    to = job.out / "labelled"
    try:
        found = pseudo_label_set(job.out / "study", to)
    except EmptyArmError as error:
        say(f"lesions are painted on annotated frames alone: {error}")
        return None
    say(f"{found['labelled']} of {found['unannotated']} unannotated images are labelled")
    return to


def _study_and_record(job: Job, arms: Sequence[str], records: "Records") -> None:
    """Run some arms of a job's study and record the runs that are not recorded yet."""
    from diffaug.study.records import alarms_key
    from diffaug.study.run import cases_of_pool

    summary, runs = _study(job, arms), job.out / "study" / "runs"
    plan = read_json(job.out / "study" / "study.json")
    for (arm, seed), key in job.keys().items():
        if arm not in arms:
            continue
        pool, known = read_json(runs / f"{arm}-{seed}.pool.json"), records.run(key, job.painted_key)
        if known is None:
            last = read_jsonl(runs / f"{arm}-{seed}.log.jsonl")[-1]
            told: dict[str, Any] = {"arm": arm, "annotated": job.annotated, "draw": job.draw}
            told |= {"fold": job.fold, "seed": seed}
            told |= {"alike": job.alike(arm), "seconds": round(last["ms"] * last["iteration"] / 1000, 3)}
            told |= {"cases": cases_of_pool(pool), "fills": pool["fills"]}
            told |= {"painted": job.painted_key} if pool["fills"] else {}
            told |= {"base_seen": summary["base_seen"]} if _is_painted(arm) else {}
            told |= {name: plan[name] for name in EXCEPTIONS if plan[name]}
            records.add(key, told, read_jsonl(runs / f"{arm}-{seed}.jsonl"), summary["contrast_cut"])
        elif pool["fills"] and not known["fills"]:
            records.note("alarms", alarms_key(key, job.painted_key), {"fills": pool["fills"]})


def _study(job: Job, arms: Sequence[str]) -> dict[str, Any]:
    """Run some arms of a job's study, with its synthetic set where it is made, and return the summary."""
    from diffaug.study.run import run_study

    config = job.config
    sets = [job.out / "synthetic"] if (job.out / "synthetic" / "summary.json").is_file() else []
    return run_study(
        job.out / "data", job.out / "study", sets, config.study.model_copy(update={"arms": tuple(arms)}),
        seed=job.seed, test=job.tests, device=config.device, oracle=job.full,
        allow_duplicates=config.data.allow_duplicates,
    )  # fmt: skip


def _cost(job: Job, fitted: "FitSummary | None", made: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "annotated": job.annotated,
        "draw": job.draw,
        "fold": job.fold,
        "fit_seconds": round(sum(fitted.seconds.values()), 1) if fitted else 0.0,
        **{name: made[name] for name in ("requested", "stopped", "rejected", "kept")},
        "fills": made.get("fills", {}).get("kept", 0),
        "generate_seconds": made["seconds"],
    }


def _pool(jobs: Sequence[Job], records: "Records") -> dict[str, Any]:
    """Return records and summary of all draws and folds of one number of annotated cases."""
    from diffaug.study.statistics import summarise

    lines = [(job, records.run(key, job.painted_key)) for job in jobs for key in job.keys().values()]
    found = [line for _, line in lines if line is not None]
    rows = [row for job, line in lines if line is not None for row in _with_pictures(job, records.records_of(line))]
    config = jobs[0].config
    names = read_dataset(jobs[0].full).class_names
    summary = summarise(rows, config.study.bootstrap, config.seed, names, found)
    cuts = sorted({line["cut"] for line in found if line["cut"] is not None})  # each draw and fold has its own
    summary |= {"contrast_cut": cuts[0] if len(cuts) == 1 else None, "contrast_cuts": cuts}
    plans = [read_json(path) for job in jobs if (path := job.out / "study" / "study.json").is_file()]
    exceptions = {name: _together(one.get(name, []) for one in [*found, *plans]) for name in EXCEPTIONS}
    summary["base_seen"] = _seen_by_bases([line for line in found if _is_painted(line["arm"])])
    for line in reversed(found):
        summary["arms"][line["arm"]]["cases"] = line["cases"]
    return {"rows": rows, "summary": summary, "names": names, "count": jobs[0].count, "exceptions": exceptions}


def _together(lists: Iterable[Sequence[Any]]) -> list[Any]:
    """Return what any of some lists of names, or of pairs of names, holds: once, in order."""
    return sorted({tuple(one) if isinstance(one, list) else one for some in lists for one in some})


def _seen_by_bases(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how many test images the bases have seen: the most of any draw, summed over folds; None without arms."""
    if not lines:
        return None
    nothing = {"known": False, "of": 0, "annotated": 0, "unannotated": 0}
    told = [(line["fold"], line.get("base_seen") or nothing) for line in lines]
    folds = {fold: [seen for other, seen in told if other == fold] for fold, _ in told}
    counts = {name: sum(max(seen[name] for seen in own) for own in folds.values()) for name in list(nothing)[1:]}
    return {"known": all(seen["known"] for _, seen in told), **counts}


def _with_pictures(job: Job, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say where the predictions of a run lie, if they are still there; the pooled folder lies beside the job's."""
    for index, row in enumerate(rows):
        picture = Path("study") / "predictions" / f"{row['arm']}-{row['seed']}" / f"{index:05d}.png"
        if (job.out / picture).is_file() and job.draw == job.config.data.draws[0]:
            row["prediction"] = f"../{job.out.name}/{picture.as_posix()}"
    return rows


def _report(
    config: Config, number: int | str, jobs: Sequence[Job], pooled: Mapping[int | str, Any], records: "Records"
) -> Path:
    """Write the tables and the report of one number of annotated cases; the curve is over all numbers."""
    from diffaug.report.page import write_report
    from diffaug.study.run import write_tables

    own = [job for job in jobs if job.annotated == number]
    out, found = make_folder(config.out / f"n{number}"), pooled[number]
    painted = {job.painted_key for job in own}
    costs = [line for line in records.noted("cost") if line["cost"] in painted]
    runs = [line for job in own for key in job.keys().values() if (line := records.run(key)) is not None]
    trained = [{**line, "minutes": round(line["seconds"] / 60, 4)} for line in runs if "seconds" in line]
    write_csv(out / "curve.csv", curve(pooled), CURVE_COLUMNS)
    write_csv(out / "costs.csv", costs, COST_COLUMNS)
    write_csv(out / "training.csv", trained, TRAINING_COLUMNS)
    write_json(out / "study.json", _plan(own[0].config, own, found))
    write_tables(out, found["rows"], found["summary"], found["names"])
    synthetic = own[0].out / "synthetic"
    return write_report(out, synthetic if (synthetic / "summary.json").is_file() else None)


def curve(pooled: Mapping[int | str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean Dice by arm and number of annotated cases, which for `oracle` is that of the arms beside it."""
    return [
        {
            "annotated": found["count"],
            "arm": arm,
            "draws": one["draws"],
            "n": one["n"],
        }
        | one["dice"]
        for found in pooled.values()
        for arm, one in found["summary"]["arms"].items()
    ]


def _plan(config: Config, jobs: Sequence[Job], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was run, pooled over jobs, as study.json says it."""
    from diffaug.artifacts import versions
    from diffaug.study.arms import meaning_of

    plan: dict[str, Any] = next(
        (read_json(path) for job in jobs if (path := job.out / "study" / "study.json").is_file()), {}
    )
    config_of = config.study.model_dump(mode="json")
    cases = {"train": jobs[0].count, "unannotated": 0, "synthetic": [], "full": 0, **plan.get("cases", {})}
    return {
        "identity": {"seed": config.seed, "test": list(jobs[0].tests), "device": config.device},
        "config": config_of,
        "arms": {name: meaning_of(name) for name in config.study.arms},
        "data": str(jobs[0].source),
        **({"classes": list(found["names"])} if len(found["names"]) > 1 else {}),
        "tests": plan.get("tests", []) if not config.data.folds else [],
        "synthetic": plan.get("synthetic", []),
        "oracle": str(jobs[0].full),
        "cases": {**cases, "test": len({row["case"] for row in found["rows"]})},
        **found["exceptions"],
        "draws": sorted({job.draw for job in jobs}),
        "wanted_draws": list(config.data.draws),
        "folds": config.data.folds,
        "versions": plan.get("versions", versions()),
    }


# Milliseconds of one core, from the run of runs/kvasir.sh in docs/results.md (two AVX-512 cores); a rough guide.
TRAIN_PAINTER, TRAIN_VALIDATOR, AUGMENT_SEGMENTER, TRAIN_SEGMENTER = 34.0, 12.0, 1.5, 10.0  # per row of a batch
PAINT_STEP, PREPARE, FINISH = 12.0, 90.0, 90.0  # per request
KEPT_MB = 0.25  # a kept case of 352 x 352 as PNG
MODEL_MB = 75.0
ALL = 500  # training cases of a data set that is not looked at


def estimate(config: Config | FitConfig | GenerateConfig | StudyConfig) -> dict[str, float]:
    """Return the minutes on two cores and the megabytes that a stage or a whole run will take, roughly.

    The codec counts only where it is trained, which it is not when the shipped one suits the images. For a whole run
    the draws are told, too: those that the budget leaves.
    """
    if isinstance(config, Config):
        train = config.data.phantoms[0] if config.data.source == "phantom" else ALL
        counts = [train if isinstance(number, str) else number for number in config.data.annotated]
        painted = [math.ceil(config.data.painted_per_real * count) for count in counts]
        parts = [estimate(part) for _ in counts for part in (config.fit, config.study)]
        parts += [estimate(config.generate.model_copy(update={"count": count})) for count in painted]
        draw = {key: max(1, config.data.folds) * sum(part[key] for part in parts) for key in ("minutes", "megabytes")}
        draws = len(config.data.draws)
        if config.budget is not None:
            draws = min(draws, max(1, int(config.budget / draw["minutes"])))
        return {key: round(draws * value, 1) for key, value in draw.items()} | {"draws": draws}
    if isinstance(config, FitConfig):
        d, v = config.denoiser, config.validator
        ms = d.iterations * d.batch_size * TRAIN_PAINTER + v.folds * v.iterations * v.batch_size * TRAIN_VALIDATOR
        return {"minutes": round(ms / 2 / 60_000 + 2, 1), "megabytes": 3 * MODEL_MB}
    if isinstance(config, GenerateConfig):
        requests = 1.5 * config.count * (1 + config.negatives)
        ms = requests * (PREPARE + FINISH + 10 * PAINT_STEP)
        return {"minutes": round(ms / config.workers / 60_000, 1), "megabytes": round(requests * KEPT_MB, 1)}
    runs = len(config.arms or ARMS) * config.seeds
    relative = (config.size / 128) ** 2 * (4 / config.cell) ** 2 * config.widths[0] / 48
    ms = runs * config.iterations * config.batch_size * (AUGMENT_SEGMENTER + TRAIN_SEGMENTER * relative)
    return {"minutes": round(ms / config.workers / 60_000, 1), "megabytes": 10.0 * runs}
