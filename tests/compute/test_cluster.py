"""What is a cluster's alone: lost workers and machines, and addresses that lead nowhere."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffaug.compute.cluster import ATTEMPTS, Ray, check_address, workers
from diffaug.errors import ConfigError, WorkerError
from diffaug.synthesis.generate import generate


def lost_once(path: Path) -> str:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), 9)
    return path.name


def lost(path: Path) -> None:
    with path.open("a") as file:
        file.write("1")
    os.kill(os.getpid(), 9)


def lasting(path: Path, seconds: float) -> int:
    path.touch()
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_task_whose_worker_was_killed_is_done_by_another(tmp_path):
    with Ray("auto", 2) as pool:
        jobs = [pool.submit(lost_once, tmp_path / name) for name in ("one", "two", "three")]
        assert [pool.result(job) for job in jobs] == ["one", "two", "three"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_task_that_kills_every_worker_is_one_line_after_a_few(tmp_path):
    with pytest.raises(WorkerError, match=r"all were lost .*; look whether") as error, Ray("auto", 1) as pool:
        pool.result(pool.submit(lost, tmp_path / "times"))
    assert "\n" not in str(error.value) and (tmp_path / "times").read_text() == "1" * ATTEMPTS


@pytest.mark.slow
def test_work_of_a_machine_that_never_comes_back_is_done_by_the_others(ray_cluster, tmp_path):
    machine = ray_cluster.add_node(num_cpus=2)
    with Ray("auto", 4) as pool:
        jobs = [pool.submit(lasting, tmp_path / str(number), 3.0) for number in range(4)]
        while len(list(tmp_path.iterdir())) < 4:
            pool._advance(jobs[0])
        ray_cluster.remove_node(machine, allow_graceful=False)
        found = [pool.result(job) for job in jobs]
    assert len(found) == 4 and len(set(found)) < 4  # some worker did two


@pytest.mark.parametrize("address", ["somewhere", "ray://head:10001", "head:0", "head:99999", ":6379", "a b:1"])
def test_what_is_no_address_is_one_line_that_says_what_is(address):
    with pytest.raises(ConfigError, match=r"must be auto, or HOST:PORT .*with `ray start`$"):
        check_address(address)


def test_work_ends_before_it_begins_where_nothing_answers_or_ray_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 does not answer: Connection refused; use auto"):
        generate("m", "d", tmp_path / "out", ray="127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"install the extra: pip install 'diffaug\[ray\]'"):
        generate("m", "d", tmp_path / "out", ray="auto")
    assert not (tmp_path / "out").exists()


JOINING = """
from diffaug.compute.cluster import connected
from diffaug.errors import ConfigError
try:
    connected("auto", 1).__enter__()
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow  # Ray takes seconds to import
def test_a_cluster_that_ray_address_names_and_that_has_ended_is_told_at_once():
    pytest.importorskip("ray", reason="needs Ray: pip install 'diffaug[dev]'")
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}  # of a process that is not connected
    told = subprocess.run([sys.executable, "-c", JOINING], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("--ray must name a running cluster: 127.0.0.1:1 does not answer")


def test_a_gpu_of_one_machine_is_refused_on_a_cluster():
    with pytest.raises(ConfigError, match="--device is cuda:1; use cuda"):
        workers(2, ray="auto", device="cuda:1")
