"""What a very large set takes: costs of the shards of a finished set, and a cluster that makes many of them, simulated.

Usage: python benchmarks/cluster.py SET [--kept 10000000] [--workers 1000] [--losses 0.01] [--slow 0.02] [--json FILE]
       python benchmarks/cluster.py --check [SET] [--ray]

    SET        a finished synthetic set of `diffaug generate`: its shards say what they took (`shards/*/seconds.json`)
    --kept     lesions wanted
    --workers  processes that make shards, one node each
    --losses   chance that a node is lost in an hour
    --slow     share of the workers that take three times as long
    --check    hand shards to two real worker processes, which sleep instead of painting, and compare the times
    --ray      the same with two workers of a Ray cluster; `benchmarks/scale.py --only workers` compares painting ones

The simulation knows shards and nodes, nothing of images. A shard is taken by the first free worker. A node that is lost
takes the shard that it was making with it, and another one is there after RESTART seconds; finished shards are on the
disk. `generate` hands out shards in order, as many ahead of the first unfinished one as there are workers (`ahead`); a
cluster that hands out ranges of shards has no such limit.
"""

import argparse
import heapq
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

RESTART = 300.0  # s until another node has taken the place of a lost one, with the model loaded
SLOWER = 3.0  # times as long as others, on a slow node
CHECKED = 24  # shards of the check


@dataclass(frozen=True)
class Outcome:
    """What a simulated run took.

    Attributes:
        makespan: Seconds until the last shard is on the disk.
        worked: Seconds of all workers that made a shard which counts.
        wasted: Seconds of work that was lost with nodes.
        losses: Nodes that were lost.
        done: How often each shard was finished.
    """

    makespan: float
    worked: float
    wasted: float
    losses: int
    done: tuple[int, ...]

    @property
    def share_wasted(self) -> float:
        """Lost work over all work."""
        return self.wasted / max(1e-12, self.worked + self.wasted)


def simulate(
    seconds: Sequence[float],
    workers: int,
    *,
    losses_per_hour: float = 0.0,
    restart: float = RESTART,
    slow: float = 0.0,
    ahead: int | None = None,
    seed: int = 0,
) -> Outcome:
    """Make shards on workers, of which some are slow and some are lost.

    Args:
        seconds: What each shard takes on a usual worker.
        workers: How many there are; each is a node of its own.
        losses_per_hour: Rate at which a node is lost.
        restart: Seconds until another one takes its place.
        slow: Chance that a worker is SLOWER times as slow.
        ahead: Shards that may be begun from the first unfinished one on; None for any number.
        seed: Chooses slow workers and the times of losses.
    """
    rng = random.Random(seed)
    factor = [SLOWER if rng.random() < slow else 1.0 for _ in range(workers)]
    lost_at = [rng.expovariate(losses_per_hour / 3600) if losses_per_hour else float("inf") for _ in range(workers)]
    idle = [(0.0, worker) for worker in range(workers)]  # when each is free
    running: list[tuple[float, int, int, bool]] = []  # when it ends, shard, worker, whether it is lost
    again: list[int] = []  # shards that were lost
    done, following, first = [0] * len(seconds), 0, 0
    makespan = worked = wasted = 0.0
    losses, now = 0, 0.0
    while first < len(seconds):
        limit = len(seconds) if ahead is None else min(len(seconds), first + ahead)
        while idle and (again or following < limit):
            free, worker = heapq.heappop(idle)
            if again:
                shard = heapq.heappop(again)
            else:
                shard, following = following, following + 1
            start = max(free, now)
            while lost_at[worker] <= start:  # it was lost while it waited
                start = max(start, lost_at[worker] + restart)
                lost_at[worker] += restart + rng.expovariate(losses_per_hour / 3600)
                losses += 1
            end = start + seconds[shard] * factor[worker]
            is_lost = lost_at[worker] < end
            wasted += lost_at[worker] - start if is_lost else 0.0
            worked += 0.0 if is_lost else end - start
            heapq.heappush(running, (lost_at[worker] if is_lost else end, shard, worker, is_lost))
        now, shard, worker, is_lost = heapq.heappop(running)
        if is_lost:
            losses += 1
            heapq.heappush(again, shard)
            lost_at[worker] = now + restart + rng.expovariate(losses_per_hour / 3600)
        else:
            done[shard] += 1
            makespan = max(makespan, now)
        heapq.heappush(idle, (now + restart if is_lost else now, worker))
        while first < len(seconds) and done[first]:
            first += 1
    return Outcome(makespan, worked, wasted, losses, tuple(done))


# --- Measured shards --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What the shards of a finished set took.

    Attributes:
        seconds: Computing time of each shard, on one core.
        requests: Of all shards.
        kept: Kept lesions.
        bytes_of: Bytes on the disk by what they are.
    """

    seconds: tuple[float, ...]
    requests: int
    kept: int
    bytes_of: dict[str, int]

    @property
    def kept_per_shard(self) -> float:
        """Mean number of kept lesions of a shard."""
        return self.kept / len(self.seconds)


def costs_of(folder: Path) -> Costs:
    """Read what the shards of a finished set took; no picture is decoded."""
    seconds, requests, kept, sizes = [], 0, 0, {"rows": 0, "images": 0, "labels": 0, "other": 0}
    for shard in sorted(path for path in (folder / "shards").iterdir() if path.is_dir()):
        seconds.append(float(json.loads((shard / "seconds.json").read_text())))
        for line in (shard / "rows.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n"):
            row = json.loads(line)
            requests += 1
            kept += row["decision"] in ("kept", "surplus") and not row["request"]["negative"]
        kinds = {"rows.jsonl": "rows", "images": "images", "masks": "labels"}
        for path in shard.rglob("*"):
            if path.is_file():
                sizes[kinds.get(path.relative_to(shard).parts[0], "other")] += path.stat().st_size
    return Costs(tuple(seconds), requests, kept, sizes)


def projected(costs: Costs, kept: int, workers: int, losses: float, slow: float, most: int = 200_000) -> dict[str, Any]:
    """Return what many kept lesions take: measured costs, drawn again, on a simulated cluster.

    Where there are more shards than `most`, that number is simulated with as many fewer workers.
    """
    shards = round(kept / costs.kept_per_shard)
    share = min(1.0, most / shards)
    rng = random.Random(0)
    drawn = [rng.choice(costs.seconds) for _ in range(round(shards * share))]
    some = max(1, round(workers * share))
    found = simulate(drawn, some, losses_per_hour=losses, slow=slow)
    ideal = sum(drawn) / some
    return {
        "shards": shards,
        "shard_seconds_mean": round(fmean(costs.seconds), 1),
        "shard_seconds_most": round(max(costs.seconds), 1),
        "kept_per_shard": round(costs.kept_per_shard, 2),
        "requests_per_kept": round(costs.requests / max(1, costs.kept), 2),
        "core_hours": round(shards * fmean(costs.seconds) / 3600),
        "bytes_per_kept": {name: round(size / max(1, costs.kept)) for name, size in costs.bytes_of.items()},
        "terabytes": round(kept * sum(costs.bytes_of.values()) / max(1, costs.kept) / 1e12, 2),
        "files": shards * 4 + kept * 2,
        "hours": round(found.makespan / 3600, 2),
        "hours_without_losses_and_slow_workers": round(ideal / 3600, 2),
        "nodes_lost": round(found.losses / share),
        "share_of_work_lost": round(found.share_wasted, 5),
    }


# --- Check ------------------------------------------------------------------------------------------------------------


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def check(seconds: Sequence[float], workers: int = 2, ray: str = "") -> dict[str, float]:
    """Hand shards to real workers as `generate` does, and return the measured and the simulated seconds.

    The workers sleep for a part of what the shards took, ten seconds in all, so that the machine may be busy.
    """
    from diffaug.compute.cluster import workers as workers_of

    scale = min(1.0, 10.0 / sum(seconds))
    slept = [one * scale for one in seconds]
    with workers_of(workers, ray=ray) as pool:
        for job in [pool.submit(_sleep, 0.05) for _ in range(workers)]:  # they are there before the clock runs
            pool.result(job)
        started, ahead = time.perf_counter(), {}
        for shard in range(len(slept)):
            for number in range(shard, min(shard + workers, len(slept))):
                if number not in ahead:
                    ahead[number] = pool.submit(_sleep, slept[number])
            pool.result(ahead.pop(shard))
        measured = time.perf_counter() - started
    simulated = simulate(slept, workers, ahead=workers).makespan
    return {"measured_s": round(measured, 3), "simulated_s": round(simulated, 3), "work_s": round(sum(slept), 3)}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path, nargs="?")
    parser.add_argument("--kept", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--losses", type=float, default=0.01)
    parser.add_argument("--slow", type=float, default=0.02)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.set is None and not given.check:
        parser.error("name a finished synthetic set, or --check")
    costs = costs_of(given.set) if given.set else None
    if given.check:
        rng = random.Random(0)
        seconds = costs.seconds if costs else [rng.lognormvariate(0, 0.5) for _ in range(CHECKED)]
        found: dict[str, Any] = check(seconds, ray="auto" if given.ray else "")
    else:
        assert costs is not None
        found = projected(costs, given.kept, given.workers, given.losses, given.slow)
        found["measured"] = {**asdict(costs), "seconds": sum(costs.seconds), "shards": len(costs.seconds)}
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
