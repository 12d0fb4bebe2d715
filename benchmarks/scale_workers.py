"""The section `workers` of scale.py: what a Ray cluster adds to worker processes, and that the bytes stay the same."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster import simulate

from diffaug.artifacts import read_json
from diffaug.compute.cluster import Ray, connected, workers
from diffaug.compute.pool import Pool
from diffaug.config import GenerateConfig, config_from_values
from diffaug.data.phantom import make_phantoms
from diffaug.synthesis.generate import generate, generate_share
from diffaug.synthesis.plan import Plan, make_plan
from diffaug.synthesis.shards import generate_shard, shard_folder
from diffaug.training.fit import fit

BLOCKS = 3  # of each kind, in turns
SECONDS = 10  # of a block of two workers
SHARES = 3
TIMES = ("seconds.json", "summary.json")  # files that hold times


def measure_workers(work: Path, quick: bool) -> dict[str, Any]:
    """Measure throughput of pools in turns, and compare the files of sets that were made in four ways."""
    make_phantoms(work / "data", train=8, val=0, test=0, unannotated=2, size=128)
    fit(work / "data", work / "model", config_from_values({}, "smoke").fit)
    size, count = (2, 3) if quick else (16, 48)
    config = GenerateConfig(count=count, shard_size=size, slots=2 if quick else 8, gate="off", negatives=0.0)
    with cluster_of_its_own(), connected("auto", 3):
        return _throughput(work, make_plan(work / "model", work / "data", config, 0), quick) | _compared(work, config)


@contextmanager
def cluster_of_its_own() -> Iterator[None]:
    """Let `auto` start a cluster, where it would otherwise join one that runs on this machine for something else."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        os.environ["RAY_TMPDIR"] = folder
        os.environ.pop("RAY_ADDRESS", None)
        yield


def _throughput(work: Path, plan: Plan, quick: bool) -> dict[str, Any]:
    with workers(2) as processes, Ray("auto", 2) as two, Ray("auto", 1) as one:
        pools: dict[str, Pool] = {"processes": processes, "two": two, "one": one}
        shard = max(_seconds(pool, plan, work / f"warm-{name}", range(2)) for name, pool in pools.items())
        shard = _seconds(one, plan, work / "warm", range(2)) / 2  # the model is loaded now
        number = 2 if quick else max(4, 2 * round(SECONDS / shard))
        times: dict[str, list[float]] = {name: [] for name in pools}
        for block in range(1 if quick else BLOCKS):
            shards = range(block * number, (block + 1) * number)
            for name, pool in pools.items():
                times[name].append(_seconds(pool, plan, work / name, shards))
    of_two = [
        _simulated(work / "two", range(block * number, (block + 1) * number)) for block in range(len(times["two"]))
    ]
    pairs = list(zip(times["processes"], times["two"], times["one"], strict=True))
    return {
        "ray_over_processes": round(statistics.median(each[0] / each[1] for each in pairs), 3),
        "ray_two_over_one": round(statistics.median(each[2] / each[1] for each in pairs), 3),
        "ray_two_over_simulated": round(statistics.median(a / b for a, b in zip(times["two"], of_two, strict=True)), 3),
        "workers_seconds": {name: [round(each, 1) for each in found] for name, found in times.items()},
        "workers_shards": number,
    }


def _seconds(pool: Pool, plan: Plan, out: Path, shards: Sequence[int]) -> float:
    """Return how long a pool takes to make some shards."""
    started = time.perf_counter()
    for job in [pool.submit(generate_shard, plan, out, shard) for shard in shards]:
        pool.result(job)
    return time.perf_counter() - started


def _simulated(out: Path, shards: Sequence[int]) -> float:
    """Return how long two workers take for shards by the simulation of `cluster.py`, from what each shard took."""
    return simulate([float(read_json(shard_folder(out, shard) / "seconds.json")) for shard in shards], 2).makespan


def _compared(work: Path, config: GenerateConfig) -> dict[str, Any]:
    """Make a set by one process, two, Ray, shares, and Ray with a worker that is killed; compare their files."""
    given = work / "model", work / "data"
    generate(*given, work / "by-one", config)
    generate(*given, work / "by-two", config, workers=2)
    generate(*given, work / "by-ray", config, workers=2, ray="auto")
    for index in range(SHARES):
        generate_share(*given, work / "by-shares", config, share=(index, SHARES))
    generate(*given, work / "by-shares", config)
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill_a_worker, work / "by-killed")
        generate(*given, work / "by-killed", config, workers=2, ray="auto")
    files = _files(work / "by-one")
    others = ("by-two", "by-ray", "by-shares")
    left = _files(work / "by-killed")
    return {
        "identical": all(_files(work / name) == files for name in others),
        "killed_worker_lost": sum(left.get(name) != data for name, data in files.items()),
        "killed_worker_was_killed": killed.result(),
    }


def _files(folder: Path) -> dict[str, bytes]:
    """Return the files of a set by name, without those that hold times."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in TIMES]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def kill_a_worker(out: Path) -> bool:
    """Kill an actor that paints, once the first picture is there; return whether there was one."""
    import psutil

    until = time.monotonic() + 300
    while time.monotonic() < until:
        if any(out.glob("shards/*/images/*.png")):
            for process in psutil.Process().children(recursive=True):  # of the cluster that this process has started
                with suppress(psutil.NoSuchProcess):
                    if any(word.startswith("ray::Worker.work") for word in process.cmdline()):
                        process.kill()
                        return True
        time.sleep(0.01)
    return False
