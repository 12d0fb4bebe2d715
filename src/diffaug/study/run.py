"""A study: every arm with every seed, judged on the same test cases; killed anywhere, it goes on where it was.

A run is one arm with one seed. It is complete when OUT/runs/ARM-SEED.jsonl exists, which is written last. It depends on
its arm, its seed and the config alone: the same file comes from one worker or many, broken off or not.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from diffaug.artifacts import (
    digest_of_file,
    digest_of_value,
    make_folder,
    read_json,
    read_jsonl,
    versions,
    write_csv,
    write_json,
    write_jsonl,
)
from diffaug.compute.progress import Show, progress_bar, tracked
from diffaug.config import StudyConfig
from diffaug.data.case import Case, digest_of_case, masks_from_label
from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.seen import SEEN_FILE
from diffaug.data.split import folds_by_group
from diffaug.errors import StudyError
from diffaug.runfolder import held
from diffaug.study import choose
from diffaug.study.arms import (
    SELECTED,
    Arm,
    SyntheticSet,
    annotated,
    build_arms,
    cases_of,
    check_arms,
    check_classes,
    check_size,
    default_arms,
    is_derived,
    meaning_of,
    owner_of,
    painted_count,
    read_synthetic,
    rows_of,
    takes_labels,
    wanted_fills,
)
from diffaug.study.derive import Derivation
from diffaug.study.evaluate import class_columns
from diffaug.study.provenance import (
    check_bases,
    check_groups,
    check_provenance,
    check_repeated,
    key_of,
    repeated_frames,
    seen_by_bases,
    shared_groups,
)
from diffaug.study.statistics import METRICS, summarise, tidy
from diffaug.study.strata import Profile, contrast_cut, profile, record

COLUMNS = ("arm", "seed", "case", "group", *METRICS, "area", "contrast", "strata", "prediction")
SUMMARY_COLUMNS = ("arm", "against", "stratum", "metric", "n", "mean", "low", "high", "p", "p_holm")
OWN = {  # what a study folder may hold before its study.json
    ".lock", "duplicates.json", "base_seen.json", "profiles.json", "leaks", "leaks.json", "runs",
}  # fmt: skip
FREE = ("arms", "seeds", "workers", "bootstrap")  # knobs that may change in a study folder: no run depends on them
PICTURE = 352  # px; longer side of a saved prediction
REPORT_EVERY = 10  # iterations

Report = Callable[[int], None]


@dataclass(frozen=True)
class Run:
    """One arm with one seed: all that a worker needs."""

    arm: Arm
    seed: int
    test: tuple[Case, ...]
    columns: tuple[Mapping[str, Any], ...]  # group, area, contrast and strata of each test case
    config: StudyConfig
    device: str
    out: Path
    pictures: bool  # whether predictions are saved
    keep: bool = False  # whether the trained weights are
    derive: Derivation | None = None  # how the arm gets its pool, where that needs trained baselines
    fills: tuple[tuple[Case, Path], ...] = ()  # held-out lesion-free fills, and the masks of their regions
    fold: int | None = None  # of the training cases, which is tested on and left out of training

    @property
    def name(self) -> str:
        """ARM-SEED or ARM-SEED-foldF, which is also the name of the run's files."""
        return f"{self.arm.name}-{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def records(self) -> Path:
        """The file that completes the run."""
        return self.out / "runs" / f"{self.name}.jsonl"

    @property
    def weights(self) -> Path:
        """Where the trained weights are kept."""
        return self.out / "runs" / f"{self.name}.safetensors"

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.records.exists() and (not self.keep or self.weights.exists())

    @property
    def ready(self) -> bool:
        """Whether the baselines that it needs are trained."""
        return self.derive is None or all(path.exists() for path in self.derive.baselines)


def run_study(
    data: Path,
    out: Path,
    synthetic: Sequence[Path],
    config: StudyConfig,
    *,
    seed: int = 0,
    test: str | Sequence[str] = "test",
    device: str = "cpu",
    oracle: Path | None = None,
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
        synthetic: Finished synthetic sets, made from these training cases alone.
        config: Arms, seeds, schedule; without arms, those that the inputs allow.
        seed: First of the `config.seeds` seeds.
        test: What is tested on: splits of `data`, or folders of other data sets (their `test`, or all they have
            annotated where that is empty).
        device: Where to train: cpu, cuda, cuda:N or auto.
        oracle: Data set whose `train` holds every annotation, for the arm `oracle`.
        allow_duplicates: Go on where a test image, or its group, is also trained on, and say so in the report.
        folds: Number of folds of the training cases, groups whole; 0 tests on the split `test`.

    Returns:
        The summary, as written.

    Raises:
        ConfigError: An unknown arm, the device is not there, or another process works in `out`.
        StudyError: The comparison would not be honest or cannot be run, or a run failed.
        DataError: A file breaks a rule of the folder format.
    """
    from diffaug.compute.devices import device_of

    device = str(device_of(device))
    check_folder(out)
    config = config.model_copy(update={"arms": ("real",)}) if folds else config
    if config.arms:
        check_arms(config.arms)
    tests = (test,) if isinstance(test, str) else test
    inputs = read_fold_inputs(data, synthetic, oracle) if folds else read_inputs(data, synthetic, tests, oracle)
    config = config.model_copy(update={"arms": config.arms or default_arms(inputs.synthetic)})
    arms = build_arms(
        config.arms, inputs.train, inputs.synthetic, config,
        full=inputs.full, unannotated=inputs.dataset.split("unannotated"), seed=seed,
    )  # fmt: skip
    for arm in arms:
        check_size(arm, config.batch_size)
    fold_of = folds_by_group({case.id: case.group for case in inputs.train}, folds, seed) if folds else {}
    shared = [] if folds else shared_groups(inputs.dataset, inputs.test, inputs.full)
    check_groups(shared, allow_duplicates)
    seen = _seen_by_bases(out, inputs, allow_duplicates) if inputs.synthetic else None
    repeated = [] if folds else repeated_in(out / "duplicates.json", inputs, allow_duplicates)
    digests = inputs.digests() | ({"unannotated": inputs.unannotated()} if any(map(takes_labels, config.arms)) else {})

    with held(out):
        told = {"duplicates": repeated, "shared_groups": shared, "base_seen": seen}
        plan = _same_study(out, _plan(inputs, digests, config, seed, device, folds) | told)
        cut, columns = _stratify(out, digests["data"], inputs.train, inputs.test)  # reads every case
        write_json(out / "study.json", plan)
        if seen:
            write_json(out / "base_seen.json", {"images": _key_of_bases(inputs), "seen": seen})
        whole = [
            _run_of(arm, one, inputs, columns, config, device, out, first=seed, folds=folds)
            for one in range(seed, seed + config.seeds)
            for arm in arms
        ]
        runs = [part for run in whole for part in _by_fold(run, fold_of)]
        complete_runs(runs, config.workers)
        for run in runs:
            score_late_fills(run)
        found = {"contrast_cut": cut, "base_seen": _counted(seen)}
        return _summarise(out, runs, config, seed, found, inputs.dataset.class_names)


def _by_fold(run: Run, fold_of: Mapping[str, int]) -> list[Run]:
    """Return a run, or, with folds, one for each: trained on the other folds, tested on its own."""
    if not fold_of:
        return [run]
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


@dataclass(frozen=True)
class Inputs:
    """What a study reads: the data set with its training and test cases, synthetic sets, and the oracle's cases."""

    dataset: Dataset
    tests: tuple[str, ...]  # splits or folders that are tested on
    train: tuple[Case, ...]
    test: tuple[Case, ...]
    synthetic: tuple[SyntheticSet, ...]
    oracle: Path | None
    full: tuple[Case, ...]

    def digests(self) -> dict[str, Any]:
        """Return the digests of all cases that are read, by the folder they come from."""
        return {
            "data": _digest((*self.train, *self.test)),
            "synthetic": [digest_of_value(list(one.rows)) for one in self.synthetic],  # rows hold digests of files
            "oracle": _digest(self.full) if self.full else "",
        }

    def unannotated(self) -> str:
        """Return the digest of the images that `real` may label."""
        return _digest(self.dataset.split("unannotated"))

    def seen(self) -> tuple[Case, ...]:
        """Return every real case that an arm or a model may train on, annotated or not."""
        return (*self.train, *self.dataset.split("unannotated"), *self.full)

    def images(self) -> str:
        """Return the digest of the images that were compared with each other."""
        return digest_of_value(key_of(self.seen(), self.test))


def read_inputs(data: Path, synthetic: Sequence[Path], tests: Sequence[str], oracle: Path | None = None) -> Inputs:
    """Read what a study compares, and refuse what would make the comparison dishonest.

    Raises:
        StudyError: A split without annotated cases, or a synthetic set that saw more than the training images.
        DataError: A file breaks a rule of the folder format.
    """
    dataset = read_dataset(data)
    train = _split(dataset, "train")
    names = names_of_tests(tests)
    tested = tuple(case for test in tests for case in tested_cases(dataset, test, names[test]))
    sets = tuple(read_synthetic(folder, number) for number, folder in enumerate(synthetic))
    full = annotated(read_dataset(oracle), "train") if oracle else ()
    for one in sets:
        check_provenance(one, dataset)
    told = [(one.folder, one.classes) for one in sets] + [
        (case.image.parent, case.classes) for case in (*full, *tested)
    ]
    for folder, classes in told:
        check_classes(folder, classes, dataset)
    return Inputs(dataset, tuple(tests), train, tested, sets, oracle, full)


def names_of_tests(tests: Sequence[str]) -> dict[str, str]:
    """Return what stands before the ids of tested cases: nothing for splits, as much of a folder's path as is unique.

    Raises:
        StudyError: The same cases are named twice.
    """
    if not tests:
        raise StudyError("a study tests on something: --test is empty; name val, test or the folder of a data set")
    folders = {test: Path(test).resolve() for test in tests if test not in ("val", "test")}
    if len(set(folders.values())) + len(tests) - len(folders) < len(tests) or len(set(tests)) < len(tests):
        raise StudyError(f"a study tests on each case once: --test names one twice, {', '.join(tests)}; name it once")

    def name(folder: Path, parts: int) -> str:
        return "/".join(folder.parts[-parts:])

    unique = (n for n in count(1) if len({name(folder, n) for folder in folders.values()}) == len(folders))
    parts = next(unique)
    return {test: name(folders[test], parts) if test in folders else "" for test in tests}


def tested_cases(dataset: Dataset, test: str, name: str = "") -> tuple[Case, ...]:
    """Return what is tested on: a split of the data set, or the cases of another one, with its name before their ids.

    Raises:
        StudyError: There are no annotated cases.
        DataError: The folder is no data set.
    """
    if test in ("val", "test"):
        return _split(dataset, test)
    if test == "train":
        raise StudyError("a study tests on cases that it does not train on: --test names train; name val or test")
    other = read_dataset(Path(test))
    cases = annotated(other, "test") or tuple(case for case in other.cases if case.mask is not None)
    if not cases:
        raise StudyError(f"a study needs annotated cases to test on: {test} has none; name another data set")
    return tuple(replace(case, id=f"{name}:{case.id}", group=f"{name}:{case.group}") for case in cases)


def read_fold_inputs(data: Path, synthetic: Sequence[Path], oracle: Path | None) -> Inputs:
    """Read the training cases, which folds train on and test on.

    Raises:
        StudyError: No case is annotated, or synthetic sets are given: they are made of every training case.
        DataError: A file breaks a rule of the folder format.
    """
    if synthetic or oracle:
        raise StudyError(
            "folds train the arm real alone: a synthetic set or an oracle has seen every fold; "
            "leave out --synthetic and --oracle, or --baseline"
        )
    dataset = read_dataset(data)
    train = _split(dataset, "train")
    return Inputs(dataset, ("train",), train, train, (), None, ())


def _split(dataset: Dataset, name: str) -> tuple[Case, ...]:
    cases = annotated(dataset, name)
    if not cases:
        raise StudyError(
            f"a study needs annotated cases in the split {name}: {dataset.folder} has none; "
            "add some to cases.csv, or name another split with --test"
        )
    return cases


def repeated_in(path: Path, inputs: Inputs, allowed: bool) -> list[list[str]]:
    """Return the test images that are also trained on; they are sought once for the same images, and kept in a file.

    Raises:
        StudyError: There are some, and they are not allowed.
    """
    kept, images = read_json(path) if path.exists() else {}, inputs.images()
    if kept.get("images") != images:
        pairs = repeated_frames(inputs.seen(), inputs.test, "looking for test images in training")
    else:
        pairs = [(test, train) for test, train in kept["pairs"]]
    check_repeated(pairs, allowed)
    write_json(make_folder(path.parent) / path.name, {"images": images, "pairs": pairs})
    return [list(pair) for pair in pairs]


def _seen_by_bases(out: Path, inputs: Inputs, allowed: bool) -> dict[str, Any]:
    """Return which test images the bases of the painters have seen, or refuse them; sought once for the same lists."""
    path, key = out / "base_seen.json", _key_of_bases(inputs)
    kept = read_json(path) if path.exists() else {}
    seen = kept["seen"] if kept.get("images") == key else seen_by_bases(inputs.synthetic, inputs.test, "comparing")
    check_bases(seen, allowed)
    return dict(seen)


def _key_of_bases(inputs: Inputs) -> str:
    lists = [digest_of_file(path) if (path := one.folder / SEEN_FILE).is_file() else "" for one in inputs.synthetic]
    return digest_of_value([lists, [digest_of_file(case.image) for case in inputs.test]])


def _counted(seen: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the summary says of the images that bases have seen; None without painted cases."""
    return None if seen is None else {**seen} | {name: len(seen[name]) for name in ("unannotated", "annotated")}


def _digest(cases: Sequence[Case]) -> str:
    def told(case: Case) -> list[Any]:
        classes = [[one.name, *one.values] for one in case.classes]
        files = [digest_of_file(path) if path else "" for path in (case.image, case.mask)]
        return [case.id, *([case.group] if case.group != case.id else []), *files, *classes]

    return digest_of_value([told(case) for case in cases])


def _run_of(
    arm: Arm,
    seed: int,
    inputs: Inputs,
    columns: tuple[Mapping[str, Any], ...],
    config: StudyConfig,
    device: str,
    out: Path,
    first: int,
    folds: int,
) -> Run:
    """Return the run of an arm and a seed; a derived arm is told which runs of `real` it waits for."""
    rows = rows_of(inputs.synthetic)
    training, held_out = choose.fills(rows)
    derive = None
    if is_derived(arm.name):
        derive = Derivation(
            kind=arm.kind,
            folder=out,
            baselines=(out / "runs" / f"real-{first}.safetensors",),
            config=config,
            train=inputs.train,
            candidates=() if arm.kind == "pseudo-label" else arm.pool,
            rows=tuple(choose.accepted(rows)) if arm.kind in SELECTED else (),
            fills=cases_of(training, inputs.synthetic) if arm.kind == "selected" else (),
            count=painted_count(arm, config),
            images=inputs.dataset.split("unannotated"),
            labels=takes_labels(arm.name) and arm.name != "pseudo-label",
        )
    owner = owner_of(inputs.synthetic)
    regions = tuple(owner[id(row)].folder / row["region"] for row in held_out)
    fills = tuple(zip(cases_of(held_out, inputs.synthetic), regions, strict=True))
    pictures = seed == first and not folds
    return Run(arm, seed, inputs.test, columns, config, device, out, pictures, not folds, derive, fills)


def _plan(
    inputs: Inputs, digests: Mapping[str, Any], config: StudyConfig, seed: int, device: str, folds: int
) -> dict[str, Any]:
    """Return what is run, as study.json says it; `identity` is all that a run's numbers depend on."""
    knobs = config.model_dump(mode="json")
    identity = {name: value for name, value in knobs.items() if name not in FREE}
    return {
        "identity": {**identity, "seed": seed, "test": list(inputs.tests), "device": device, **digests}
        | ({"folds": folds} if folds else {}),
        "trained": {case.id: digest_of_case(case) for case in inputs.train},
        "tested": {case.id: digest_of_case(case) for case in inputs.test},
        "config": knobs,
        "arms": {name: meaning_of(name) for name in config.arms},
        "data": str(inputs.dataset.folder.resolve()),
        "tests": [
            {"name": test, "prefix": prefix, "folder": str(Path(test).resolve()) if prefix else ""}
            for test, prefix in names_of_tests(inputs.tests).items()
        ],
        **({"classes": list(inputs.dataset.class_names)} if inputs.dataset.cases[0].classes else {}),
        "synthetic": [str(one.folder.resolve()) for one in inputs.synthetic],
        "oracle": str(inputs.oracle.resolve()) if inputs.oracle else "",
        "cases": {
            "train": len(inputs.train),
            "unannotated": len(inputs.dataset.split("unannotated")),
            "test": len(inputs.test),
            "synthetic": [len(choose.accepted(one.rows)) for one in inputs.synthetic],
            "full": len(inputs.full),
        },
        "versions": versions(),
    }


def check_folder(out: Path) -> None:
    """Refuse to work in a folder that holds something else than a study.

    Raises:
        StudyError: Naming a file that is there.
    """
    names = {path.name for path in out.iterdir() if path.suffix != ".partial"} if out.is_dir() else set()
    others = sorted(names - OWN)
    if others and not (out / "study.json").is_file():
        raise StudyError(
            f"a study needs a new or empty folder, or its own: {out} holds {others[0]}, no study.json; choose another"
        )


def _same_study(out: Path, plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the plan, with what a study in this folder has beyond it, or refuse a folder that holds another study."""
    path = out / "study.json"
    if path.exists():
        old = read_json(path)["identity"]
        for name, value in plan["identity"].items():
            late = name in ("synthetic", "oracle", "unannotated") and not old.get(name)
            if old.get(name) != value and not late:
                raise StudyError(
                    f"a study folder holds one study: {out} was made with {name} = {old.get(name)}, not {value}; "
                    "choose another folder, or go back to its settings"
                )
        return {**plan, "identity": old | plan["identity"]}
    return plan


def _stratify(
    out: Path, digest: str, train: Sequence[Case], test: Sequence[Case]
) -> tuple[float | None, tuple[dict[str, Any], ...]]:
    """Return the contrast cut of the training cases, and each test case's measurements and strata.

    Measurements are kept in OUT/profiles.json, for the data with this digest.
    """
    path = out / "profiles.json"
    kept = read_json(path) if path.exists() else {}
    if kept.get("data") != digest:
        cases = (*train, *test)
        measured = {case.id: profile(case).as_dict() for case in tracked(cases, len(cases), "measuring lesions")}
        kept = {"data": digest, "profiles": measured}
        write_json(path, kept)
    profiles = {case: Profile(**values) for case, values in kept["profiles"].items()}
    cut = contrast_cut(profiles[case.id] for case in train)
    return cut, tuple(record(case, profiles[case.id], cut) for case in test)


def complete_run(run: Run, report: Report = lambda iteration: None) -> None:
    """Train and test one run, unless its records exist; one whose weights are kept is only tested.

    Raises:
        StudyError: The loss is not finite.
        DataError: A file cannot be read.
    """
    import torch

    from diffaug.study.batches import Batches, load_images
    from diffaug.study.evaluate import predict, score_classes, write_prediction
    from diffaug.study.network import build_network, load_network, save_weights, train

    if run.finished:
        return
    config = run.config
    files = make_folder(run.out / "runs") / run.name
    arm = run.arm if run.derive is None else run.derive.finished(run.arm)
    classes = len(run.test[0].class_names)
    if run.keep and run.weights.exists():
        network = load_network(config, run.weights, classes).to(run.device)
    else:
        batches = Batches(arm, config, run.seed, run.device)
        network = build_network(config, run.seed, classes)
        train(network, batches, config, name=run.name, files=files, device=run.device, report=report)
        if run.keep:
            save_weights(network, run.weights)

    folder = Path("predictions") / run.name
    if run.pictures:
        make_folder(run.out / folder)
    rows = []
    images = load_images(run.test, config.size).to(torch.device(run.device))
    for index, (case, references, prediction) in enumerate(
        predict(network, images, run.test, config.decision_threshold)
    ):
        picture = folder / f"{index:05d}.png" if run.pictures else None
        if picture:
            write_prediction(run.out / picture, prediction, PICTURE, case.classes)
        scores = score_classes(references, masks_from_label(prediction, case.classes), case.class_names)
        rows.append(
            {"arm": run.arm.name, "seed": run.seed, "case": case.id}
            | scores
            | {**run.columns[index], "prediction": picture.as_posix() if picture else ""}
        )
    pool = {"real": len(arm.real), "pool": len(arm.pool), "fills": _alarms(run, network)}
    pool |= {"trained_fills": arm.fills, "wanted_fills": wanted_fills(arm, config)}
    pool |= {"labelled": arm.labelled} if arm.labelled else {}
    write_json(Path(f"{files}.pool.json"), pool)
    write_jsonl(run.records, rows)
    Path(f"{files}.checkpoint").unlink(missing_ok=True)


def score_late_fills(run: Run) -> None:
    """Count the false alarms on fills that were painted after a run ended, as far as its weights are kept."""
    from diffaug.study.network import load_network

    path = run.out / "runs" / f"{run.name}.pool.json"
    pool = read_json(path)
    if run.fills and not pool["fills"] and run.weights.exists():
        network = load_network(run.config, run.weights, len(run.test[0].class_names))
        write_json(path, pool | {"fills": _alarms(run, network.to(run.device))})


def _alarms(run: Run, network: Any) -> list[float]:
    """Return, for each held-out fill, the share of its region that is predicted to be a lesion."""
    import torch

    from diffaug.data.images import read_mask
    from diffaug.study.batches import load_images
    from diffaug.study.evaluate import predict

    if not run.fills:
        return []
    cases, regions = [case for case, _ in run.fills], [read_mask(region) for _, region in run.fills]
    images = load_images(cases, run.config.size).to(torch.device(run.device))
    labels = predict(network, images, cases, run.config.decision_threshold)
    found = (label > 0 for _, _, label in labels)
    return [round(float(lesion[region].mean()), 5) for region, lesion in zip(regions, found, strict=True)]


def complete_runs(runs: Sequence[Run], workers: int) -> None:
    """Complete runs in this process, or in several, with a progress bar; derived arms wait for their baselines.

    Raises:
        StudyError: A run failed, or a worker was killed.
        DataError: A file cannot be read.
    """
    from diffaug.compute.devices import one_thread

    runs = sorted(
        (run for run in runs if not run.finished), key=lambda run: (run.derive is not None, run.arm.name != "real")
    )
    if not runs:
        return
    total = sum(run.config.iterations for run in runs)
    with progress_bar(f"study: {len(runs)} runs", total) as bar:
        show = _shown(bar, len(runs))
        if workers == 1 or len(runs) == 1:
            with one_thread():
                for run in runs:
                    check_ready([run])
                    complete_run(run, lambda done, name=run.name: show(name, done))  # type: ignore[misc]
        else:
            _complete_in_processes(runs, min(workers, len(runs)), show)


def check_ready(runs: Sequence[Run]) -> None:
    """Refuse a run whose baselines nothing will train.

    Raises:
        StudyError: Naming the run and the first baseline that is missing.
    """
    for run in runs:
        missing = [path.stem for path in run.derive.baselines if not path.exists()] if run.derive else []
        if missing:
            raise StudyError(
                f"a derived arm needs its baselines: {run.name} waits for {missing[0]}, which is not run; "
                "add the arm real"
            )


def _shown(show: Show, runs: int) -> Callable[[str, int], None]:
    """Return what moves a progress bar by the iterations of several runs."""
    done: dict[str, int] = {}

    def shown(name: str, iteration: int) -> None:
        done[name] = iteration
        show(sum(done.values()), f"study: {len(done)} of {runs}, {name}")

    return shown


class _Worker:
    """What a worker process was started with."""

    stop: Any = None
    reports: Any = None


def _start_worker(parent: int, stop: Any, reports: Any) -> None:
    import signal

    from diffaug.compute.devices import prepare_worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent decides what Ctrl-C means
    prepare_worker(parent)
    _Worker.stop, _Worker.reports = stop, reports


def _work(run: Run) -> None:
    def report(done: int) -> None:
        if _Worker.stop.is_set():
            raise StudyError(f"a study stops with its first failure: {run.name} was stopped; run the study again")
        if done % REPORT_EVERY == 0:
            _Worker.reports.put((run.name, done))

    complete_run(run, report)


def _complete_in_processes(runs: Sequence[Run], workers: int, show: Callable[[str, int], None]) -> None:
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")
    stop, reports = context.Event(), context.Queue()
    started = (os.getpid(), stop, reports)
    with ProcessPoolExecutor(workers, context, _start_worker, started) as pool:
        waiting, pending = list(runs), set[Future[None]]()
        try:
            while pending or waiting:
                pending |= {pool.submit(_work, run) for run in waiting if run.ready}
                waiting = [run for run in waiting if not run.ready]
                if not pending:
                    check_ready(waiting)
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                while not reports.empty():
                    show(*reports.get())
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise StudyError(
                "worker processes must live until their runs end: one was killed, perhaps for memory; "
                "run the study again to go on, with fewer study.workers"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _summarise(
    out: Path, runs: Sequence[Run], config: StudyConfig, seed: int, told: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """Write cases.csv, summary.csv and, last, summary.json from the records of finished runs."""
    records = [row for run in runs for row in records_of(run)]
    pools = [(run, read_json(run.out / "runs" / f"{run.name}.pool.json")) for run in runs]
    alarms = [{"arm": run.arm.name, "seed": run.seed, "fold": run.fold, "fills": pool["fills"]} for run, pool in pools]
    summary = summarise(records, config.bootstrap, seed, names, alarms) | dict(told)
    for run, pool in reversed(pools):
        summary["arms"][run.arm.name]["cases"] = cases_of_pool(pool)
    write_tables(out, records, summary, names)
    return summary


def records_of(run: Run) -> list[dict[str, Any]]:
    """Return the records of a finished run.

    Raises:
        StudyError: There is not one for each test case.
    """
    rows = read_jsonl(run.records)
    if len(rows) != len(run.test):
        raise StudyError(
            f"a run has a record for each test case: {run.records} has {len(rows)} of {len(run.test)}; "
            "remove it, and the study tests the run again"
        )
    return rows


def cases_of_pool(pool: Mapping[str, Any]) -> dict[str, int]:
    """Return how many cases a run was trained on: real, others, and of these the labelled, the fills, those wanted."""
    return {name: pool[name] for name in ("real", "pool", "labelled", "trained_fills", "wanted_fills") if name in pool}


def write_tables(
    out: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Write the tables that the report is made from, summary.json last."""
    extra = [name for name in ("annotated", "draw", "fold") if records and name in records[0]]
    rows = [{**row, "strata": ";".join(row["strata"])} for row in records]
    last = COLUMNS.index("area")
    write_csv(out / "cases.csv", rows, (*extra, *COLUMNS[:last], *class_columns(names), *COLUMNS[last:]))
    write_csv(out / "summary.csv", tidy(summary), SUMMARY_COLUMNS)
    write_json(out / "summary.json", summary)
