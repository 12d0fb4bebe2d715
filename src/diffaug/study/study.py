"""A study: every arm with every seed, judged on the same test cases; killed anywhere, it goes on where it was.

Inputs are read and refused (`inputs`), runs are planned (here) and completed (`runs`, `workers`, `derive`), and their
records become tables (`tables`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffaug.artifacts import PathLike, write_json
from diffaug.compute.pool import check_guard
from diffaug.compute.progress import tracked
from diffaug.config import StudyConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.split import folds_by_group
from diffaug.presets import DEFAULT, preset_of, settings_of
from diffaug.reading import read_kept
from diffaug.runfolder import Contents, claim, held, holds, read_contents
from diffaug.study import choose
from diffaug.study.arms import Arm, ArmSpec, build_arms, check_size, default_arms, parse_arm, parse_arms
from diffaug.study.derive import Baseline, Derivation, Derived
from diffaug.study.inputs import (
    BASE_SEEN,
    DUPLICATES,
    PAINTED_DUPLICATES,
    Inputs,
    keep_seen,
    names_of_tests,
    read_fold_inputs,
    read_inputs,
    repeated_in,
    seen_by_painters,
)
from diffaug.study.places import FILE as PLACES
from diffaug.study.places import Places, name_of, write_places
from diffaug.study.provenance import check_groups, shared_groups
from diffaug.study.runs import Run, score_late_negatives
from diffaug.study.strata import Profile, contrast_cut, profile, record
from diffaug.study.tables import write_summary
from diffaug.study.workers import complete_runs

FILE = "study.json"
BESIDE = (
    DUPLICATES,
    PAINTED_DUPLICATES,
    BASE_SEEN,
    PLACES,
    "profiles.json",
    "leaks",
    "leaks.json",
    "runs",
)  # may be there before study.json
LATE = ("synthetic", "oracle", "unannotated")  # may be given after `real` is trained, which does not depend on them


@dataclass(frozen=True)
class Plan:
    """How the runs of a study are made.

    Attributes:
        inputs: What is read.
        config: Of the study, with its arms.
        specs: What the arms' names say.
        seed: The first one.
        folds: Number of folds of the training cases; 0 tests on `inputs.test`.
        device: Where to train.
        out: Folder of the study.
    """

    inputs: Inputs
    config: StudyConfig
    specs: tuple[ArmSpec, ...]
    seed: int
    folds: int
    device: str
    out: Path

    def arms(self) -> tuple[Arm, ...]:
        """Return the training sets, in order.

        Raises:
            StudyError: An arm's inputs are not given, or it has fewer cases than a batch has rows.
        """
        inputs = self.inputs
        arms = build_arms(
            self.specs, inputs.train, inputs.painted, self.config,
            full=inputs.full, unannotated=inputs.unannotated, seed=self.seed,
        )  # fmt: skip
        for arm in arms:
            check_size(arm, self.config.batch_size)
        return arms

    def contents(self) -> Contents:
        """Return what the study's folder holds; `identity` is all that a run's numbers depend on."""
        from diffaug.study.architectures import identity_of_study

        inputs, names = self.inputs, names_of_tests(self.inputs.tests)
        pasted_on = any(case.negative for case in inputs.unannotated) and "copy-paste" in self.config.arms
        digests = inputs.digests(pasted_on or any(spec.takes_unannotated for spec in self.specs))
        before = (read_contents(self.out, FILE) or {"identity": {}})["identity"]
        where = {"seed": self.seed, "test": [names[test] or test for test in inputs.tests], "device": self.device}
        folds = {"folds": self.folds} if self.folds else {}
        unasked = {name: before[name] for name in ("unannotated",) if name in before}  # by the arms of this call
        about = {
            "trained": {case.id: digest_of_case(case) for case in inputs.train},
            "tested": {case.id: digest_of_case(case) for case in inputs.test},
            "config": self.config.model_dump(mode="json"),
            "arms": {spec.name: spec.meaning for spec in self.specs},
            "data": name_of(inputs.dataset.folder),
            "tests": [
                {"name": prefix or test, "prefix": prefix, "folder": name_of(Path(test)) if prefix else ""}
                for test, prefix in names.items()
            ],
            **_classes(inputs.dataset.cases[0]),
            "synthetic": [name_of(one.folder) for one in inputs.painted.sets],
            "oracle": name_of(inputs.oracle) if inputs.oracle else "",
            "cases": {
                "train": len(inputs.train),
                "unannotated": len(inputs.unannotated),
                "test": len(inputs.test),
                "synthetic": [len(choose.kept_lesions(one)) for one in inputs.painted.sets],
                "full": len(inputs.full),
            },
        }
        identity = identity_of_study(self.config) | where | folds | unasked | digests
        return Contents("study", identity, FILE, about, LATE, BESIDE, partial(preset_of, "study"))

    def places(self) -> Places:
        """Return where the folders lie that are read."""
        inputs, names = self.inputs, names_of_tests(self.inputs.tests)
        return Places(
            str(inputs.dataset.folder.resolve()),
            [str(one.folder.resolve()) for one in inputs.painted.sets],
            {prefix: str(Path(test).resolve()) for test, prefix in names.items() if prefix},
        )

    def runs(self, arms: Sequence[Arm], columns: Sequence[Mapping[str, Any]]) -> list[Run]:
        """Return every run: of each seed, arm and fold.

        Args:
            arms: As `arms` returns them.
            columns: Group, area, contrast and strata of each tested case.
        """
        derived, rows = self._derived(), self.inputs.painted
        training = rows.cases(choose.training_negatives(rows))
        held_out = choose.held_out_negatives(rows)
        negatives = tuple(zip(rows.cases(held_out), rows.regions(held_out), strict=True))
        runs = [
            Run(
                arm=arm,
                seed=seed,
                test=self.inputs.test,
                columns=tuple(columns),
                config=self.config,
                device=self.device,
                out=self.out,
                pictures=seed == self.seed and not self.folds,
                keep=not self.folds,
                derive=Derivation(spec, derived, training) if spec.is_derived else None,
                negatives=negatives,
            )
            for seed in range(self.seed, self.seed + self.config.seeds)
            for arm, spec in zip(arms, self.specs, strict=True)
        ]
        return [part for run in runs for part in self._by_fold(run)]

    def _derived(self) -> Derived:
        """Return what the arms need from the baseline, whose run is planned with the others."""
        baseline = Baseline(self.out, self.seed, self.config, self.inputs.train)
        images = self.inputs.unannotated if any(spec.takes_labels for spec in self.specs) else ()
        rows = choose.kept_lesions(self.inputs.painted) if any(spec.is_scored for spec in self.specs) else []
        return Derived(baseline, images, tuple(rows), self.inputs.painted.cases(rows))

    def _by_fold(self, run: Run) -> list[Run]:
        """Return a run, or, with folds, one for each: trained on the other folds, tested on its own."""
        if not self.folds:
            return [run]
        fold_of = self.fold_of()
        return [
            replace(
                run,
                arm=replace(run.arm, real=tuple(case for case in run.arm.real if fold_of[case.id] != fold)),
                test=tuple(case for case in run.test if fold_of[case.id] == fold),
                columns=tuple(row for case, row in zip(run.test, run.columns, strict=True) if fold_of[case.id] == fold),
                fold=fold,
            )
            for fold in sorted(set(fold_of.values()))
        ]

    def fold_of(self) -> dict[str, int]:
        """Return the fold of each training case; none without folds.

        Raises:
            DataError: There are fewer groups than folds.
        """
        train = self.inputs.train
        groups, lesion_free = {case.id: case.group for case in train}, [case.id for case in train if case.negative]
        return folds_by_group(groups, self.folds, self.seed, lesion_free) if self.folds else {}


def run_study(
    data: PathLike,
    out: PathLike,
    synthetic: PathLike | Sequence[PathLike] = (),
    config: StudyConfig | None = None,
    *,
    preset: str = DEFAULT,
    seed: int = 0,
    test: str | Sequence[str] = "test",
    device: str = "cpu",
    oracle: PathLike | None = None,
    allow_duplicates: bool = False,
    folds: int = 0,
) -> dict[str, Any]:
    """Train every arm with every seed and compare them on held-out real cases.

    With folds, only the arm `real` is trained, on the training cases without one fold at a time, and tested on that
    fold: what a baseline misses of the training cases themselves (`diffaug generate --aim missed`).

    Writes OUT/study.json (what is run) before work starts, OUT/runs/ARM-SEED.jsonl as runs finish, OUT/cases.csv,
    OUT/summary.csv, and OUT/summary.json last. The same call again skips finished runs; arms and seeds may be added to
    a finished study.

    Args:
        data: Data set whose annotated `train` cases every arm sees.
        out: Study folder.
        synthetic: A finished synthetic set, or several, made from these training cases alone.
        config: Arms, seeds, schedule; without arms, those that the inputs allow. None takes the preset's.
        preset: default, demo (minutes, on phantoms), or smoke (shows only that it runs).
        seed: First of the `config.seeds` seeds.
        test: What is tested on: splits of `data`, or folders of other data sets (their `test`, or all they have
            annotated where that is empty).
        device: Where to train: cpu, cuda, cuda:N, mps or auto.
        oracle: Data set whose `train` holds every annotation, for the arm `oracle`.
        allow_duplicates: Go on where a test image, or its group, is also trained on, and say so in the report.
        folds: Number of folds of the training cases, groups whole; 0 tests on the split `test`.

    Returns:
        The summary, as written.

    Raises:
        ConfigError: An unknown arm or preset, or settings beside a preset; the device is not there, `out` holds
            something else, or another process works in it.
        StudyError: The comparison would not be honest or cannot be run, or a run failed.
        DataError: A file breaks a rule of the folder format.
        WorkerError: A worker was killed, or the script that calls this starts workers without a guard.
        StorageError: The disk is full, or a file cannot be written.

    Example:
        >>> diffaug.run_study("data/mine", "studies/mine", "synthetic/mine", preset="demo")  # doctest: +SKIP
    """
    from diffaug.compute.devices import device_of
    from diffaug.study.architectures import check_name, check_network

    check_guard()
    data, out, oracle = Path(data), Path(out), None if oracle is None else Path(oracle)
    config = settings_of(config, preset, lambda chosen: chosen.study)
    sets = [Path(folder) for folder in ([synthetic] if isinstance(synthetic, str | os.PathLike) else synthetic)]
    device = str(device_of(device))
    check_name(config.network)
    config = config.model_copy(update={"arms": ("real",)}) if folds else config
    for name in config.arms:
        parse_arm(name)  # a misspelt one is refused before anything is read
    tests = (test,) if isinstance(test, str) else test
    inputs = read_fold_inputs(data, sets, oracle) if folds else read_inputs(data, sets, tests, oracle)
    config = config.model_copy(update={"arms": config.arms or default_arms(inputs.painted.rows)})
    plan = Plan(inputs, config, parse_arms(config.arms), seed, folds, device, out)
    arms = plan.arms()
    plan.fold_of()
    check_network(config, len(inputs.dataset.class_names))
    contents = plan.contents()
    holds(out, contents)
    shared = [] if folds else shared_groups(inputs.dataset, inputs.test, inputs.full)
    check_groups(shared, allow_duplicates)
    seen = seen_by_painters(out / BASE_SEEN, inputs, allow_duplicates) if inputs.painted.sets else None
    repeated = [] if folds else repeated_in(out / DUPLICATES, inputs.seen(), inputs.test, allow_duplicates)
    if inputs.painted.sets:
        repeated += repeated_in(out / PAINTED_DUPLICATES, inputs.painted.pictures(), inputs.test, allow_duplicates)
    exceptions = {"duplicates": repeated, "shared_groups": shared, "base_seen": seen}

    with held(out):
        return _completed(plan, arms, replace(contents, about={**contents.about, **exceptions}), seen)


def _completed(plan: Plan, arms: Sequence[Arm], contents: Contents, seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Claim the folder, complete every run, and write the summary."""
    inputs, out = plan.inputs, plan.out
    cut, columns = _stratify(out, inputs)  # reads every case
    if seen is not None:
        keep_seen(out / BASE_SEEN, inputs, seen)
    claim(out, contents)
    write_places(out, plan.places())
    runs = plan.runs(arms, columns)
    complete_runs(runs, plan.config.workers, plan.config.ray)
    for run in runs:
        score_late_negatives(run)
    more = {"contrast_cut": cut, "base_seen": _counted(seen)}
    return write_summary(out, runs, plan.config.bootstrap, plan.seed, more, inputs.dataset.class_names)


def _classes(case: Case) -> dict[str, Any]:
    """Return what study.json says of declared classes: their names in order, and the values of each in a label."""
    values = {one.name: list(one.values) for one in case.classes}
    return {"classes": list(values), "class_values": values} if values else {}


def _counted(seen: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the summary says of the images that bases have seen; None without painted cases."""
    return None if seen is None else {**seen} | {name: len(seen[name]) for name in ("unannotated", "annotated")}


@dataclass(frozen=True)
class _Measured:
    """What profiles.json keeps: measurements by case, and the digest of the data that they belong to."""

    data: str
    profiles: dict[str, Profile]


def _stratify(out: Path, inputs: Inputs) -> tuple[float | None, tuple[dict[str, Any], ...]]:
    """Return the contrast cut of the training cases, and each tested case's measurements and strata.

    Measurements are kept in OUT/profiles.json, for the data with this digest.
    """
    path = out / "profiles.json"
    kept = read_kept(path, _Measured)
    if kept is None or kept.data != inputs.data_digest:
        cases: Sequence[Case] = (*inputs.train, *inputs.test)
        measured = {case.id: profile(case) for case in tracked(cases, len(cases), "measuring lesions")}
        kept = _Measured(inputs.data_digest, measured)
        write_json(path, {"data": kept.data, "profiles": {name: one.as_dict() for name, one in measured.items()}})
    profiles = kept.profiles
    cut = contrast_cut(profiles[case.id] for case in inputs.train)
    return cut, tuple(record(case, profiles[case.id], cut) for case in inputs.test)
