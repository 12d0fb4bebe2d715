"""Laws of a worker pool, on each implementation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffaug.compute.cluster import Ray, workers
from diffaug.compute.pool import Here, Pool, Processes, report
from diffaug.errors import DataError, WorkerError


def square(number: int) -> int:
    return number**2


def threads() -> int:
    import torch  # not above: a worker imports this module, and most tasks here need no torch

    return torch.get_num_threads()


def reporting(name: str, times: int) -> str:
    for done in range(times):
        report(name, done)
    return name


def failing(name: str) -> None:
    raise DataError(f"{name} cannot be read")


def waiting_for(path: Path) -> None:
    while not path.exists():
        report("waiting")
        time.sleep(0.01)


def reporting_for_ever(path: Path) -> None:
    path.touch()
    while True:
        report("so far")
        time.sleep(0.001)


def killed() -> None:
    os.kill(os.getpid(), 9)


@pytest.fixture(params=["here", "processes", pytest.param("ray", marks=pytest.mark.slow)])
def pool_of(request: pytest.FixtureRequest):
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        return lambda *arguments: Ray("auto", 2, *arguments)
    return Here if request.param == "here" else lambda *arguments: Processes(2, *arguments)


def test_results_come_in_the_order_they_are_asked_for(pool_of):
    with pool_of() as pool:
        jobs = [pool.submit(square, number) for number in range(5)]
        assert [pool.result(job) for job in jobs] == [0, 1, 4, 9, 16]
        assert pool.result(jobs[2]) == 4  # as often as it is asked for


def test_every_job_is_finished_once_also_those_that_are_submitted_meanwhile(pool_of):
    with pool_of() as pool:
        for number in range(3):
            pool.submit(square, number)
        found = []
        for job in pool.finished():
            found.append(pool.result(job))
            if len(found) == 3:
                pool.submit(square, 9)
        assert sorted(found) == [0, 1, 4, 81]
        assert list(pool.finished()) == []


def test_reports_arrive_in_order_and_before_the_result(pool_of):
    reports = []
    with pool_of(lambda *values: reports.append(values)) as pool:
        jobs = [pool.submit(reporting, name, 5) for name in ("one", "two")]
        for job in jobs:
            name = pool.result(job)
            assert [done for who, done in reports if who == name] == list(range(5))


def test_outside_a_pool_a_report_goes_nowhere():
    report("one", 2)


def test_a_task_computes_on_one_thread_and_leaves_those_of_its_caller(pool_of, monkeypatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # which a worker process inherits
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pool_of() as pool:
            assert pool.result(pool.submit(threads)) == 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_first_failure_of_any_task_is_raised_as_it_is(pool_of):
    with pytest.raises(DataError, match="this cannot be read"), pool_of() as pool:
        pool.submit(failing, "this")
        list(pool.finished())


def test_a_failure_stops_the_other_tasks_even_if_nobody_asked_for_it(tmp_path):
    with pytest.raises(DataError, match="this cannot"), Processes(2) as pool:
        never = pool.submit(waiting_for, tmp_path / "never")
        pool.submit(failing, "this")
        pool.result(never)


def test_leaving_a_pool_ends_tasks_that_report_and_drops_those_that_wait(tmp_path):
    started = time.monotonic()
    with Processes(1) as pool:
        pool.submit(reporting_for_ever, tmp_path / "started")
        pool.submit(waiting_for, tmp_path / "never")
        while not (tmp_path / "started").exists():
            assert time.monotonic() - started < 300
            time.sleep(0.05)
    assert not (tmp_path / "never").exists()


def test_nothing_is_done_here_before_it_is_asked_for(tmp_path):
    with Here() as pool:
        pool.submit(reporting_for_ever, tmp_path / "started")
        assert pool.result(pool.submit(square, 3)) == 9
    assert not (tmp_path / "started").exists()


def test_a_killed_worker_is_one_line_that_says_what_to_do():
    with (
        pytest.raises(WorkerError, match=r"memory ran out.*fewer workers") as caught,
        Processes(2) as pool,
    ):
        pool.result(pool.submit(killed))
    assert "\n" not in str(caught.value)


def test_a_script_without_a_guard_is_one_line_that_says_what_it_is_for(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from diffaug.compute.cluster import workers\n"
        "from diffaug.compute.pool import check_guard\n"
        "from diffaug.errors import WorkerError\n"
        "check_guard()\n"
        "try:\n"
        "    with workers(2) as pool:\n"
        "        pool.result(pool.submit(abs, 3))\n"
        "except WorkerError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1 and 'under `if __name__ == "__main__":`' in done.stdout
    assert done.stderr == ""


@pytest.mark.slow  # three processes import torch; the test of tasks on one thread imports it in a task, by default
def test_a_worker_of_a_script_that_has_imported_torch_computes_on_one_thread(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from diffaug.compute.cluster import workers\n"
        "torch.set_num_threads(3)\n"
        'if __name__ == "__main__":\n'
        "    with workers(2) as pool:\n"
        "        print(pool.result(pool.submit(torch.get_num_threads)), torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "1 3\n"


def test_one_worker_is_this_process_and_several_are_others():
    assert isinstance(workers(1), Here)
    with workers(2) as pool:
        assert isinstance(pool, Processes) and isinstance(pool, Pool)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_are_gone_soon_after_their_parent_is_killed(tmp_path):
    code = f"""
import os, time
from pathlib import Path
from diffaug.compute.cluster import workers

def work(name):
    Path(name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with workers(2) as pool:
        for name in ("one", "two"):
            pool.submit(work, {str(tmp_path)!r} + "/" + name)
        time.sleep(600)
"""
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")])
    until = time.monotonic() + 300  # to start on a busy machine
    while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in ("one", "two")):
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    started = [int((tmp_path / name).read_text()) for name in ("one", "two")]

    def runs(worker: int) -> bool:
        stat = Path(f"/proc/{worker}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"  # whom nobody buries

    while any(map(runs, started)):
        assert time.monotonic() < until
        time.sleep(0.05)
