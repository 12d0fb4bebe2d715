"""A pool of workers: submit tasks, take their results as they come.

`Pool` is the interface; `Here` works in this process, `Processes` in several, `cluster.Ray` on other machines. Tasks
and results are what pickle can carry. A pool knows nothing of what its tasks do.
"""

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from diffaug.errors import WorkerError
from diffaug.names import ON_WINDOWS

Result = TypeVar("Result")
Report = Callable[..., None]
POLL_SECONDS = 0.2  # how often a waiting parent looks for reports
KILLED = (
    "a worker process must live until its task ends: one was killed, perhaps because memory ran out; "
    "run the same command again to go on, with fewer workers"
)
GUARD = (
    "a Python script that starts workers needs a guard, since every worker imports the script first and would start "
    'the work again: put the calls of the script under `if __name__ == "__main__":`, or use one worker'
)
UNGUARDED = 77  # exit status of a worker whose script has no guard
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the variables from which torch takes its number of threads
OWNER = "DIFFAUG_POOL"  # the variable in which workers find the process that has started them


def check_guard() -> None:
    """End a worker, and refuse another process, that has come here while it imports a script without a guard.

    Raises:
        WorkerError: The process is a worker of something else.
    """
    from multiprocessing import current_process

    if not getattr(current_process(), "_inheriting", False):
        return
    if os.environ.get(OWNER) == str(os.getppid()):
        os._exit(UNGUARDED)  # the process that has started it tells why, once
    raise WorkerError(GUARD)


def no_report(*values: Any) -> None:
    """Report to nobody."""


reporter: ContextVar[Report] = ContextVar("reporter", default=no_report)


def report(*values: Any) -> None:
    """Tell the pool that runs this task how far it is; outside a pool nothing happens.

    A task ends here when its pool stops, so long tasks report often.
    """
    reporter.get()(*values)


@dataclass(eq=False)
class Job(Generic[Result]):
    """A submitted task."""

    task: Callable[..., Result]
    arguments: tuple[Any, ...]
    done: bool = False
    outcome: Result | None = None

    def finish(self, outcome: Result) -> None:
        """Note what the task returned."""
        self.done, self.outcome = True, outcome


class Pool(ABC):
    """Runs tasks, each on one thread; the first failure of any task stops all of them.

    Use it as a context manager: leaving the block drops tasks that have not started, and ends those that run at their
    next report.

    Args:
        on_report: Is called in this process with the values of every `report`.
    """

    def __init__(self, on_report: Report = no_report) -> None:
        self.on_report = on_report
        self.waiting: list[Job[Any]] = []

    def submit(self, task: Callable[..., Result], *arguments: Any) -> Job[Result]:
        """Hand in a task: a function of a module, and arguments that pickle can carry."""
        job = Job(task, arguments)
        self.waiting.append(job)
        self._start(job)
        return job

    def result(self, job: Job[Result]) -> Result:
        """Return what a task returned, once it has ended.

        Raises:
            WorkerError: A worker process was killed.
            Exception: Whatever the first task that failed raised.
        """
        while not job.done:
            self._advance(job)
        if job in self.waiting:
            self.waiting.remove(job)
        return job.outcome  # type: ignore[return-value] # what `finish` noted

    def finished(self) -> Iterator[Job[Any]]:
        """Yield jobs as they end, until none is left; more may be submitted meanwhile. Raises what `result` raises."""
        while self.waiting:
            self._advance(self.waiting[0])
            for job in [job for job in self.waiting if job.done]:
                self.waiting.remove(job)
                yield job

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.waiting.clear()
        self._stop()

    @abstractmethod
    def _start(self, job: Job[Any]) -> None:
        """Start a job, or note that it is to be done."""

    @abstractmethod
    def _advance(self, job: Job[Any]) -> None:
        """Work or wait for a while, so that this job is done in the end, or others before it."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop what runs, and free what was taken."""


class Here(Pool):
    """Does each task in this process when its result is asked for; one that is never asked for is never done."""

    def _start(self, job: Job[Any]) -> None:
        pass

    def _advance(self, job: Job[Any]) -> None:
        from diffaug.compute.devices import one_thread

        before = reporter.set(self.on_report)
        try:
            with one_thread():
                job.finish(job.task(*job.arguments))
        finally:
            reporter.reset(before)

    def _stop(self) -> None:
        pass


class Processes(Pool):
    """Does tasks in worker processes, at once as far as there are any; they end when this process ends.

    Args:
        count: Worker processes.
        on_report: See `Pool`.
    """

    def __init__(self, count: int, on_report: Report = no_report) -> None:
        from concurrent.futures import Future, ProcessPoolExecutor
        from multiprocessing import get_context, process

        check_guard()
        super().__init__(on_report)
        os.environ[OWNER] = str(os.getpid())
        self.processes: set[process.BaseProcess] = set()
        spawn = get_context("spawn")
        self.stop, self.reports = spawn.Event(), spawn.SimpleQueue()
        started_with = (os.getpid(), self.stop, self.reports)
        self.executor = ProcessPoolExecutor(count, spawn, _prepare, started_with)
        self.futures: dict[Future[Any], Job[Any]] = {}

    def _start(self, job: Job[Any]) -> None:
        from concurrent.futures import BrokenExecutor
        from multiprocessing import active_children

        try:
            self.futures[self.executor.submit(job.task, *job.arguments)] = job
            self.processes.update(active_children())
        except BrokenExecutor:
            raise self._broken() from None

    def _advance(self, job: Job[Any]) -> None:
        from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait

        done, _ = wait(self.futures, POLL_SECONDS, FIRST_COMPLETED)
        self._pass_on_reports()  # those of a finished task were sent before its result
        try:
            for future in done:
                self.futures.pop(future).finish(future.result())
        except BrokenExecutor:
            raise self._broken() from None

    def _broken(self) -> WorkerError:
        """Return why a worker ended before its task."""
        self.executor.shutdown(wait=True)  # until every process has its exit status
        unguarded = any(each.exitcode == UNGUARDED for each in self.processes)
        return WorkerError(GUARD if unguarded else KILLED)

    def _pass_on_reports(self) -> None:
        while not self.reports.empty():
            self.on_report(*self.reports.get())

    def _stop(self) -> None:
        from concurrent.futures import wait

        self.stop.set()
        running = [future for future in self.futures if not future.cancel()]
        while wait(running, POLL_SECONDS).not_done:
            while not self.reports.empty():  # a worker whose report nobody takes would wait for ever
                self.reports.get()
        self.executor.shutdown(wait=True, cancel_futures=True)


class Stopped(Exception):  # noqa: N818 - no error
    """Ends a task of a pool that has stopped."""


def _prepare(parent: int, stop: Any, reports: Any) -> None:
    """Prepare a worker process: it computes on one thread, ignores Ctrl-C, and ends when its parent does."""
    import signal
    from multiprocessing import parent_process

    def leave_with_parent() -> None:
        started_by = parent_process()
        if ON_WINDOWS and started_by is not None:  # where the number of a parent stays when it has ended
            started_by.join()
        while not ON_WINDOWS and os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    def send(*values: Any) -> None:
        if stop.is_set():
            raise Stopped
        reports.put(values)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent decides what Ctrl-C means
    threading.Thread(target=leave_with_parent, daemon=True).start()
    os.environ |= dict.fromkeys(THREADS, "1")  # for a torch that a task imports later; not every task needs it
    if torch := sys.modules.get("torch"):  # the script that every worker imports first has imported it
        torch.set_num_threads(1)
    reporter.set(send)
