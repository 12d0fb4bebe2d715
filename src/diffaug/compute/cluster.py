"""Which pool works: this process, worker processes, or actors of a Ray cluster (`Ray`, the third pool).

An actor is a process on any machine of the cluster. It does one task at a time, has one CPU or a share of a GPU, and
keeps what its tasks have loaded, such as a model. Whoever asks for the results gives the actors their tasks, so the
cluster has no queue: a task is sent when an actor is free. If an actor or its machine is lost, its task goes to
another one, so tasks have to bear being done twice. Knows nothing of what its tasks do.
"""

import logging
import os
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from diffaug.compute.pool import POLL_SECONDS, Here, Job, Pool, Processes, Report, Stopped, no_report, reporter
from diffaug.errors import ConfigError, WorkerError, one_line

ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")
INSTALL = "pip install 'diffaug[ray]'"
ATTEMPTS = 4  # workers that a task may be given to, one after the other
CONNECT_SECONDS = 10.0
PLACE_SECONDS = 900.0  # without any worker; a cluster that grows by itself may need minutes for a machine
TALK_SECONDS = 1.0  # between two looks at what a task reports
log = logging.getLogger(__name__)


def workers(count: int, on_report: Report = no_report, ray: str = "", device: str = "cpu") -> Pool:
    """Return a pool of so many workers: this process where one is enough, worker processes, or actors of a cluster.

    Args:
        count: Workers.
        on_report: See `Pool`.
        ray: Use Ray: `auto`, or HOST:PORT of a running cluster; empty for this machine without Ray.
        device: Where tasks compute. On a cluster each worker has a share of a GPU for cuda.

    Raises:
        ConfigError: Ray is not installed or not there, or the device is a GPU of one machine.
    """
    if not ray:
        return Here(on_report) if count == 1 else Processes(count, on_report)
    if device.startswith("cuda:"):
        raise ConfigError(f"Ray gives each worker its GPU: --device is {device}; use cuda")
    return Ray(ray, count, on_report, gpu=device == "cuda")


def check_address(address: str) -> None:
    """Check what names a cluster, and whether anything answers there.

    Raises:
        ConfigError: The text is no address, nothing answers, or Ray is not installed.
    """
    remedy = "use auto, or start a cluster with `ray start`"
    try:
        import ray  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError(f"--ray needs Ray: it is not installed; install the extra: {INSTALL}") from None
    if address == "auto":
        return
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ConfigError(f"--ray must be auto, or HOST:PORT of a running cluster: it is {address!r}; {remedy}")
    if reason := _silence(address):
        raise ConfigError(f"--ray must name a running cluster: {address} does not answer: {reason}; {remedy}")


def _silence(address: str) -> str:
    """Return why nothing answers at HOST:PORT; empty if something does. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def connected(address: str, count: int) -> Iterator[Any]:
    """Connect to a cluster for the block, and yield the module `ray`; a connection that is there already is used.

    Args:
        address: `auto` takes the cluster that runs on this machine, or that RAY_ADDRESS names; where there is none, one
            is started on this machine for the block. HOST:PORT names another.
        count: CPUs of a cluster that is started here.

    Raises:
        ConfigError: There is no such cluster, or Ray is not installed.
        WorkerError: Ray could not start here.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        if address == "auto":
            address = _running_cluster(ray)
        if address:
            ray.init(address=address, **quiet)
        else:
            _start(ray, count, quiet)
    except ConfigError:
        raise
    except Exception as error:  # Ray raises plain ones, too
        ray.shutdown()
        raise WorkerError(
            f"Ray must start or be reached: {_line(error)}; try again when the machine is less busy, or leave out --ray"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _running_cluster(ray: Any) -> str:
    """Return the address of the cluster that RAY_ADDRESS names or `ray start` made here; empty if there is none.

    Raises:
        ConfigError: Nothing answers at RAY_ADDRESS.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named and named != "auto":
        check_address(named)
        return named
    noted = ray._private.services.find_bootstrap_address(None) or ""  # also of a cluster that has ended
    return "" if not noted or _silence(noted) else noted


def _start(ray: Any, count: int, quiet: dict[str, bool]) -> None:
    """Start a cluster on this machine, without a dashboard."""
    for last in (False, True):
        try:
            ray.init(address="local", num_cpus=count, include_dashboard=False, **quiet)
            return
        except Exception as error:  # on a busy machine its parts wait too short a time for each other
            ray.shutdown()
            if last:
                raise
            log.info(f"Ray did not start and is started again: {_line(error)}")


def _line(error: BaseException) -> str:
    """Return the line of an error of Ray, which may be a page, that tells most: its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)[:200].rstrip(".")


class Worker:
    """What an actor is: it does tasks, and tells meanwhile what they report."""

    def __init__(self) -> None:
        self.reports: deque[tuple[Any, ...]] = deque()
        self.stopping = False

    def begin(self) -> None:
        """Return when the actor has its place."""

    def work(self, task: Any, arguments: tuple[Any, ...]) -> tuple[Any, list[tuple[Any, ...]]]:
        """Do a task, and return its result and what is left of its reports."""
        from diffaug.compute.devices import one_thread

        before = reporter.set(self._report)
        try:
            with one_thread():
                return task(*arguments), self.talk(False)
        finally:
            reporter.reset(before)

    def talk(self, stop: bool) -> list[tuple[Any, ...]]:
        """Return what was reported since the last call, in order; end the task at its next report if asked to.

        It runs in a thread of its own, beside the task.
        """
        self.stopping = self.stopping or stop
        return [self.reports.popleft() for _ in range(len(self.reports))]

    def _report(self, *values: Any) -> None:
        if self.stopping:
            raise Stopped
        self.reports.append(values)


class Ray(Pool):
    """Does tasks on actors of a Ray cluster, at once as far as it has places for them.

    Args:
        address: See `connected`.
        count: Actors. Those for which the cluster has no place wait for one.
        on_report: See `Pool`.
        gpu: Whether each actor has a share of a GPU, beside its CPU.
    """

    def __init__(self, address: str, count: int, on_report: Report = no_report, gpu: bool = False) -> None:
        super().__init__(on_report)
        self.block = ExitStack()
        self.ray = self.block.enter_context(connected(address, count))
        gpus = self.ray.cluster_resources().get("GPU", 0) if gpu else 0
        share = {"num_gpus": 1 / -(-count // max(1, int(gpus)))} if gpu else {}
        options = {"num_cpus": 1, "concurrency_groups": {"talk": 1}, "scheduling_strategy": "SPREAD", **share}
        self.actor = self.ray.remote(**options)(Worker)
        self.beginning: dict[Any, Any] = {}  # actors by what they answer when they have a place
        self.idle: list[Any] = []
        self.running: dict[Any, tuple[Any, Job[Any]]] = {}  # actors and jobs by their result
        self.talking: dict[Any, Any] = {}  # actors by the reports that they were asked for
        self.open: deque[Job[Any]] = deque()
        self.lost: Counter[Job[Any]] = Counter()
        self.failed = 0  # actors that could not begin
        self.talked = self.working = time.monotonic()
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        actor = self.actor.remote()
        self.beginning[actor.begin.remote()] = actor

    def _start(self, job: Job[Any]) -> None:
        self.open.append(job)
        self._assign()

    def _assign(self) -> None:
        while self.open and self.idle:
            actor, job = self.idle.pop(), self.open.popleft()
            self.running[actor.work.remote(job.task, job.arguments)] = actor, job

    def _advance(self, job: Job[Any]) -> None:
        self._assign()
        self._ask_for_reports()
        done, _ = self.ray.wait([*self.running, *self.beginning, *self.talking], num_returns=1, timeout=POLL_SECONDS)
        for answer in done:
            self._take(answer)
        if self.running or self.idle:
            self.working = time.monotonic()
        elif time.monotonic() - self.working > PLACE_SECONDS:
            raise WorkerError(
                f"a cluster must have a free CPU (or share of a GPU) for a worker: there was none for "
                f"{PLACE_SECONDS / 60:.0f} minutes; free one, then run the same command again to go on"
            )

    def _take(self, answer: Any) -> None:
        """Take the answer of an actor; if it is lost, another one takes its place and its task."""
        errors = self.ray.exceptions
        try:
            value = self.ray.get(answer)
        except errors.RayTaskError as error:
            if answer in self.talking:
                del self.talking[answer]
                return
            raise getattr(error, "cause", None) or error from None
        except errors.RayError as error:
            self._replace(answer, _line(error))
            return
        if answer in self.beginning:
            self.idle.append(self.beginning.pop(answer))
        elif answer in self.talking:
            del self.talking[answer]
            self._pass_on(value)
        else:
            actor, job = self.running.pop(answer)
            self._settle_talk(actor)
            self._pass_on(value[1])
            job.finish(value[0])
            self.idle.append(actor)

    def _replace(self, answer: Any, reason: str) -> None:
        if answer in self.talking:
            del self.talking[answer]  # its task tells the same
            return
        if answer in self.beginning:
            self.failed += 1
            if self.failed > ATTEMPTS:
                raise WorkerError(
                    f"a worker of a cluster must start: {reason}; install the same version of diffaug on every machine"
                )
            actor = self.beginning.pop(answer)
        else:
            actor, job = self.running.pop(answer)
            self.lost[job] += 1
            if self.lost[job] == ATTEMPTS:
                raise WorkerError(
                    f"a task of a cluster must end on one of {ATTEMPTS} workers: all were lost ({reason}); "
                    "look whether memory runs out there, then run the same command again to go on"
                )
            self.open.appendleft(job)
            log.warning(f"a worker of the cluster was lost, and its task is given to another: {reason}")
        with suppress(Exception):  # it may only be out of reach
            self.ray.kill(actor)
        self._hire()

    def _ask_for_reports(self) -> None:
        """Ask actors that work what their tasks have reported, from time to time, if anybody wants to know."""
        if self.on_report is no_report or time.monotonic() - self.talked < TALK_SECONDS:
            return
        self.talked = time.monotonic()
        for actor, _ in self.running.values():
            if all(actor is not other for other in self.talking.values()):
                self.talking[actor.talk.options(concurrency_group="talk").remote(False)] = actor

    def _settle_talk(self, actor: Any) -> None:
        """Pass on what an actor was asked for before its task ended, so that reports stay in order."""
        for answer in [answer for answer, other in self.talking.items() if other is actor]:
            del self.talking[answer]
            with suppress(self.ray.exceptions.RayError):
                self._pass_on(self.ray.get(answer))

    def _pass_on(self, reports: list[tuple[Any, ...]]) -> None:
        for values in reports:
            self.on_report(*values)

    def _stop(self) -> None:
        with self.block:
            for actor, _ in self.running.values():
                actor.talk.options(concurrency_group="talk").remote(True)
            running = [*self.running]
            while running:  # until they end at their next report, or with their task
                _, running = self.ray.wait(running, num_returns=len(running), timeout=POLL_SECONDS)
            for actor in [*self.idle, *self.beginning.values(), *(actor for actor, _ in self.running.values())]:
                with suppress(Exception):
                    self.ray.kill(actor)
