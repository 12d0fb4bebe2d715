"""A study: every arm with every seed, judged on the same test cases; killed anywhere, it goes on where it was.

A run is one arm with one seed. It is complete when OUT/runs/ARM-SEED.jsonl exists, which is written last. It depends on
its arm, its seed and the config alone: the same file comes from one worker or many, broken off or not.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from diffaug.config import StudyConfig
from diffaug.data.case import Case, digest_of_case, masks_from_label
from diffaug.data.folder import Dataset, read_dataset
from diffaug.data.split import folds_by_group
from diffaug.errors import StudyError
from diffaug.study.arms import (
    ARMS,
    Arm,
    SyntheticSet,
    annotated,
    build_arms,
    check_arms,
    check_classes,
    check_disjoint,
    check_provenance,
    read_synthetic,
)
from diffaug.study.evaluate import class_columns
from diffaug.study.statistics import METRICS, summarise
from diffaug.study.strata import Profile, contrast_cut, profile, record

COLUMNS = ("arm", "seed", "case", *METRICS, "area", "contrast", "strata", "prediction")
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
    columns: tuple[Mapping[str, Any], ...]  # area, contrast and strata of each test case
    config: StudyConfig
    device: str
    out: Path
    pictures: bool  # whether predictions are saved
    fold: int | None = None  # of the training cases, which is tested on and left out of training

    @property
    def name(self) -> str:
        """ARM-SEED or ARM-SEED-foldF, which is also the name of the run's files."""
        return f"{self.arm.name}-{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def records(self) -> Path:
        """The file that completes the run."""
        return self.out / "runs" / f"{self.name}.jsonl"


def run_study(
    data: Path,
    out: Path,
    synthetic: Sequence[Path],
    config: StudyConfig,
    *,
    seed: int = 0,
    test: str = "test",
    device: str = "cpu",
    oracle: Path | None = None,
    folds: int = 0,
) -> dict[str, Any]:
    """Train every arm with every seed and compare them on held-out real cases.

    With folds, only the arm `real` is trained, on the training cases without one fold at a time, and tested on that
    fold: what a baseline misses of the training cases themselves (`diffaug generate --aim missed`).

    Writes OUT/study.json (what is run) before work starts, OUT/runs/ARM-SEED.jsonl as runs finish, OUT/cases.csv, and
    OUT/summary.json last. The same call again skips finished runs; arms and seeds may be added to a finished study.

    Args:
        data: Data set whose annotated `train` cases every arm sees.
        out: Study folder.
        synthetic: Finished synthetic sets, made from these training cases alone.
        config: Arms, seeds, schedule.
        seed: First of the `config.seeds` seeds.
        test: Split of `data` that is tested on.
        device: Where to train.
        oracle: Data set whose `train` holds every annotation, for the arm `oracle`.
        folds: Number of folds of the training cases, groups whole; 0 tests on the split `test`.

    Returns:
        The summary, as written.

    Raises:
        ConfigError: An unknown arm.
        StudyError: The comparison would not be honest or cannot be run, or a run failed.
        DataError: A file breaks a rule of the folder format.
    """
    config = config.model_copy(update={"arms": ("real",)}) if folds else config
    check_arms(config.arms)
    inputs = read_fold_inputs(data, synthetic, oracle) if folds else read_inputs(data, synthetic, test, oracle)
    arms = build_arms(config.arms, inputs.train, inputs.synthetic, inputs.full)
    fold_of = folds_by_group({case.id: case.group for case in inputs.train}, folds, seed) if folds else {}
    digests = inputs.digests()

    make_folder(out)
    _write_plan(out, _plan(inputs, digests, config, seed, device, folds))
    cut, columns = _stratify(out, digests["data"], inputs.train, inputs.test)
    runs = [
        run
        for one in range(seed, seed + config.seeds)
        for arm in arms
        for run in _by_fold(
            Run(arm, one, inputs.test, columns, config, device, out, pictures=one == seed and not folds), fold_of
        )
    ]
    pending = [run for run in runs if not run.records.exists()]
    if pending:
        (out / "summary.json").unlink(missing_ok=True)
        _complete(pending, config.workers)
    return _summarise(out, runs, config, seed, cut, inputs.dataset.class_names)


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
    split: str  # the split that is tested on
    train: tuple[Case, ...]
    test: tuple[Case, ...]
    synthetic: tuple[SyntheticSet, ...]
    oracle: Path | None
    full: tuple[Case, ...]

    def digests(self) -> dict[str, Any]:
        """Return the digests of all cases that are read, by the folder they come from."""
        return {
            "data": _digest((*self.train, *self.test)),
            "synthetic": [_digest(one.cases) for one in self.synthetic],
            "oracle": _digest(self.full) if self.full else "",
        }


def read_inputs(data: Path, synthetic: Sequence[Path], test: str, oracle: Path | None = None) -> Inputs:
    """Read what a study compares, and refuse what would make the comparison dishonest.

    Raises:
        StudyError: A split without annotated cases, a synthetic set that saw more than the annotated training cases,
            or a test image that is also trained on.
        DataError: A file breaks a rule of the folder format.
    """
    dataset = read_dataset(data)
    train, tested = _split(dataset, "train"), _split(dataset, test)
    sets = tuple(read_synthetic(folder) for folder in synthetic)
    full = annotated(read_dataset(oracle), "train") if oracle else ()
    for one in sets:
        check_provenance(one, dataset)
    for folder, cases in [*((one.folder, one.cases) for one in sets), *([(oracle, full)] if oracle else [])]:
        check_classes(folder, cases, dataset)
    seen = (*full, *(case for one in sets for case in one.cases), *train)
    check_disjoint(
        {digest_of_file(case.image): case.id for case in seen}, {digest_of_file(case.image): case.id for case in tested}
    )
    return Inputs(dataset, test, train, tested, sets, oracle, full)


def read_fold_inputs(data: Path, synthetic: Sequence[Path], oracle: Path | None) -> Inputs:
    """Read the training cases, which folds train on and test on.

    Raises:
        StudyError: No case is annotated, or synthetic sets are given: they are made of every training case.
        DataError: A file breaks a rule of the folder format.
    """
    if synthetic or oracle:
        raise StudyError(
            "folds train the arm real alone: a synthetic set or an oracle has seen every fold; "
            "leave out --synthetic and --oracle, or --folds"
        )
    dataset = read_dataset(data)
    train = _split(dataset, "train")
    return Inputs(dataset, "train", train, train, (), None, ())


def _split(dataset: Dataset, name: str) -> tuple[Case, ...]:
    cases = annotated(dataset, name)
    if not cases:
        raise StudyError(
            f"a study needs annotated cases in the split {name}: {dataset.folder} has none; "
            "add some to cases.csv, or name another split with --test"
        )
    return cases


def _digest(cases: Sequence[Case]) -> str:
    def told(case: Case) -> list[Any]:
        classes = [[one.name, *one.values] for one in case.classes]
        return [case.id, digest_of_file(case.image), digest_of_file(case.mask) if case.mask else "", *classes]

    return digest_of_value([told(case) for case in cases])


def _plan(
    inputs: Inputs, digests: Mapping[str, Any], config: StudyConfig, seed: int, device: str, folds: int
) -> dict[str, Any]:
    """Return what is run, as study.json says it; `identity` is all that a run's numbers depend on."""
    knobs = config.model_dump(mode="json")
    identity = {name: value for name, value in knobs.items() if name not in FREE}
    return {
        "identity": {**identity, "seed": seed, "test": inputs.split, "device": device, **digests}
        | ({"folds": folds} if folds else {}),
        "tested": {case.id: digest_of_case(case) for case in inputs.test},
        "config": knobs,
        "arms": {name: ARMS[name] for name in config.arms},
        "data": str(inputs.dataset.folder.resolve()),
        **({"classes": list(inputs.dataset.class_names)} if inputs.dataset.cases[0].classes else {}),
        "synthetic": [str(one.folder.resolve()) for one in inputs.synthetic],
        "oracle": str(inputs.oracle.resolve()) if inputs.oracle else "",
        "cases": {
            "train": len(inputs.train),
            "unannotated": len(inputs.dataset.split("unannotated")),
            "test": len(inputs.test),
            "synthetic": [len(one.cases) for one in inputs.synthetic],
            "full": len(inputs.full),
        },
        "versions": versions(),
    }


def _write_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Write study.json, or refuse a folder that holds another study."""
    path = out / "study.json"
    if path.exists():
        old = read_json(path)["identity"]
        for name, value in plan["identity"].items():
            if old.get(name) != value and not (name in ("synthetic", "oracle") and not old.get(name)):
                raise StudyError(
                    f"a study folder holds one study: {out} was made with {name} = {old.get(name)}, not {value}; "
                    "choose another folder, or go back to its settings"
                )
    write_json(path, plan)


def _stratify(
    out: Path, digest: str, train: Sequence[Case], test: Sequence[Case]
) -> tuple[float | None, tuple[dict[str, Any], ...]]:
    """Return the contrast cut of the training cases, and each test case's measurements and strata.

    Measurements are kept in OUT/profiles.json, for the data with this digest.
    """
    path = out / "profiles.json"
    kept = read_json(path) if path.exists() else {}
    if kept.get("data") != digest:
        measured = {case.id: profile(case).as_dict() for case in _track((*train, *test), "measuring lesions")}
        kept = {"data": digest, "profiles": measured}
        write_json(path, kept)
    profiles = {case: Profile(**values) for case, values in kept["profiles"].items()}
    cut = contrast_cut(profiles[case.id] for case in train)
    return cut, tuple(record(profiles[case.id], cut) for case in test)


def _track(cases: Sequence[Case], what: str) -> Iterator[Case]:
    from rich.console import Console
    from rich.progress import track

    yield from track(cases, what, console=Console(stderr=True), transient=True)


def complete_run(run: Run, report: Report = lambda iteration: None) -> None:
    """Train and test one run, unless its records exist.

    Raises:
        StudyError: The loss is not finite.
        DataError: A file cannot be read.
    """
    import torch

    from diffaug.study.batches import Batches, load_images
    from diffaug.study.evaluate import predict, score_classes, write_prediction
    from diffaug.study.segmenter import build_network, train

    if run.records.exists():
        return
    config = run.config
    files = make_folder(run.out / "runs") / run.name
    batches = Batches(run.arm, config, run.seed)
    network = build_network(config, run.seed, len(run.test[0].class_names))
    train(network, batches, config, name=run.name, files=files, device=run.device, report=report)

    folder = Path("predictions") / run.name
    if run.pictures:
        make_folder(run.out / folder)
    rows = []
    images = load_images(run.test, config.size).to(torch.device(run.device))
    for index, (case, references, prediction) in enumerate(predict(network, images, run.test)):
        picture = folder / f"{index:05d}.png" if run.pictures else None
        if picture:
            write_prediction(run.out / picture, prediction, PICTURE, case.classes)
        scores = score_classes(references, masks_from_label(prediction, case.classes), case.class_names)
        rows.append(
            {"arm": run.arm.name, "seed": run.seed, "case": case.id}
            | scores
            | {**run.columns[index], "prediction": picture.as_posix() if picture else ""}
        )
    write_jsonl(run.records, rows)
    Path(f"{files}.checkpoint").unlink(missing_ok=True)


def _complete(runs: Sequence[Run], workers: int) -> None:
    """Complete runs in this process, or in several, with a progress bar on stderr."""
    total = sum(run.config.iterations for run in runs)
    with _progress(total, len(runs)) as show:
        if workers == 1 or len(runs) == 1:
            with one_thread():
                for run in runs:
                    complete_run(run, lambda done, name=run.name: show(name, done))  # type: ignore[misc]
        else:
            _complete_in_processes(runs, min(workers, len(runs)), show)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums then have one order, so that a run gives the same bits wherever it runs."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(total: int, runs: int) -> Iterator[Callable[[str, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    done: dict[str, int] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"study: {runs} runs to train", total=total)

        def show(name: str, iteration: int) -> None:
            done[name] = iteration
            progress.update(task, completed=sum(done.values()), description=f"study: {len(done)} of {runs}, {name}")

        yield show


class _Worker:
    """What a worker process was started with."""

    stop: Any = None
    reports: Any = None


def _start_worker(parent: int, stop: Any, reports: Any) -> None:
    """Prepare a worker: one thread, deaf to Ctrl-C (its parent decides), and gone when its parent is."""
    import signal
    import threading
    import time

    import torch

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
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
    from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")
    stop, reports = context.Event(), context.Queue()
    started = (os.getpid(), stop, reports)
    with ProcessPoolExecutor(workers, context, _start_worker, started) as pool:
        pending = {pool.submit(_work, run) for run in runs}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
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
    out: Path, runs: Sequence[Run], config: StudyConfig, seed: int, cut: float | None, names: Sequence[str]
) -> dict[str, Any]:
    """Write cases.csv and, last, summary.json from the records of finished runs."""
    records = [row for run in runs for row in read_jsonl(run.records)]
    columns = (*COLUMNS[: COLUMNS.index("area")], *class_columns(names), *COLUMNS[COLUMNS.index("area") :])
    write_csv(out / "cases.csv", [row | {"strata": ";".join(row["strata"])} for row in records], columns)
    summary = summarise(records, config.bootstrap, seed, names) | {"contrast_cut": cut}
    write_json(out / "summary.json", summary)
    return summary
