"""Runs are completed by workers: here or in processes, in any order that their needs allow."""

from collections.abc import Callable, Sequence

from diffaug.compute.cluster import workers
from diffaug.compute.pool import report
from diffaug.compute.progress import Show, progress_bar
from diffaug.study.derive import Derived
from diffaug.study.runs import Run, complete_run

REPORT_EVERY = 10  # iterations


def complete_runs(runs: Sequence[Run], count: int, ray: str = "") -> None:
    """Complete runs with a number of workers, under a progress bar.

    What the baseline makes for derived arms is made once, as soon as the baseline is trained, and before the first of
    these arms. It is read, and made again where it is damaged, also when all runs are finished.

    Args:
        runs: The runs.
        count: Workers.
        ray: See `compute.cluster.workers`.

    Raises:
        StudyError: A run failed.
        DataError: A file cannot be read.
        WorkerError: A worker process was killed, or a cluster lost too many.
    """
    pending = [run for run in runs if not run.finished]
    for run in runs:
        if run not in pending:
            run.checkpoint.unlink(missing_ok=True)  # of a process that was killed at its end
    derived = next((run.derive.derived for run in runs if run.derive is not None), None)
    if not pending:
        if derived:
            derived.make()  # where it is missing or damaged
        return
    baseline = derived.baseline.name if derived else ""
    first = sorted((run for run in pending if run.derive is None), key=lambda run: run.name != baseline)
    total = sum(run.config.iterations for run in pending)
    with (
        progress_bar(f"study: {len(pending)} runs", total) as bar,
        workers(min(count, len(pending)), _shown(bar, len(pending)), ray, runs[0].device) as pool,
    ):
        name_of = {pool.submit(_work, run): run.name for run in first}
        making = pool.submit(Derived.make, derived) if derived and baseline not in name_of.values() else None
        for job in pool.finished():
            if derived and name_of.get(job) == baseline:
                making = pool.submit(Derived.make, derived)
            elif job is making:
                for run in pending:
                    if run.derive is not None:
                        pool.submit(_work, run)


def _work(run: Run) -> None:
    def shown(done: int) -> None:
        if done % REPORT_EVERY == 0:
            report(run.name, done)

    complete_run(run, shown)


def _shown(show: Show, runs: int) -> Callable[[str, int], None]:
    """Return what moves a progress bar by the iterations of several runs."""
    done: dict[str, int] = {}

    def shown(name: str, iteration: int) -> None:
        done[name] = iteration
        show(sum(done.values()), f"study: {len(done)} of {runs}, {name}")

    return shown
