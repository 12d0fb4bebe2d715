"""Core-seconds of a painted case by stage, and of the same code before a change, on the same data and requests.

    python benchmarks/speed.py --out DIR [--before CLONE] [--data DATA ...] [--shards 2] [--quick]

    --out     DIR/speed.json, and the same as a table on stdout; models are kept there for the next run.
    --before  a second clone of the project at another commit; its shards are made in turn with ours, in processes of
              their own. Without one only this code is measured.
    --data    data sets with annotated training cases; for each, each code fits a model with few iterations, so that the
              painter is the shipped one and its gate is the code's own. Unset: DIFFAUG_DATA/kvasir-seg with 50
              annotated cases, and DIFFAUG_DATA/kvasir-seg-original, the same images at their own size, with 30.
    --shards  measured for each code and data set, after a first one, which loads the model and reads the frames.
    --quick   phantoms and one shard of a few requests: shows that it runs, not what it measures.

Seconds are those of one process with one thread (time.process_time), so that a busy machine changes the ratios little.
Keys, for each data set: `*_seconds_per_request`, `*_seconds_per_kept`, `*_stages` (seconds of a request in each stage);
over all of them `kept_over_before` (kept cases for a core-second over those of the code before, the least of the data
sets), `native_over_small` (seconds for a request of the second data set over the first), `denoise_share` (the
denoiser's share of a request on the first data set) and `worker_peak_gb`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = {  # what is timed, by the name of the stage; what one stage calls of another counts for the inner one alone
    "draw": ("diffaug.conditioning.drawer", "RequestDrawer", "draw_case"),
    "lay out": ("diffaug.painting.requests", "LayoutMaker", "layout"),
    "remove": ("diffaug.painting.clearing", "Remover", "remove"),
    "encode": ("diffaug.models.base", "LatentInpainter", "encode"),
    "denoise": ("diffaug.models.base", "LatentInpainter", "__call__"),
    "decode": ("diffaug.models.base", "LatentInpainter", "decode"),
    "look": ("diffaug.validator.gate", "Gate", "check"),
    "blend": ("diffaug.painting.painter", "Painter", "pictures"),
    "realism": ("diffaug.synthesis.shards", "", "_looked_at"),
    "write": ("diffaug.synthesis.shards", "", "_write_case"),
}
FEW = ("--denoiser.iterations", "3", "--denoiser.windows-per-case", "3", "--validator.iterations", "120",
       "--validator.windows-per-case", "10")  # fmt: skip
TINY = ("--preset", "smoke")


class Clock:
    """Adds up the processor's seconds of nested stages, each without those that it calls."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.running: list[str] = []
        self.last = time.process_time()

    def turn(self) -> None:
        """Give the seconds since the last turn to the stage that runs."""
        now = time.process_time()
        if self.running:
            self.seconds[self.running[-1]] += now - self.last
        self.last = now

    def timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, timed."""

        def wrapped(*args: Any, **more: Any) -> Any:
            self.turn()
            self.running.append(stage)
            try:
                return work(*args, **more)
            finally:
                self.turn()
                self.running.pop()

        return wrapped

    def watch(self) -> None:
        """Time every stage that this code has."""
        from importlib import import_module

        for stage, (module, owner, name) in STAGES.items():
            place = import_module(module)
            place = getattr(place, owner) if owner else place
            setattr(place, name, self.timed(stage, getattr(place, name)))


def make_shards(model: Path, data: Path, out: Path, requests: int) -> None:
    """Make the shard whose number each line of stdin says; print what it took, a line each, as JSON."""
    import torch

    from diffaug.config import GenerateConfig
    from diffaug.data.manifest import kept, read_rows
    from diffaug.synthesis.plan import make_plan
    from diffaug.synthesis.shards import generate_shard, shard_folder

    torch.set_num_threads(1)
    plan, clock = make_plan(model, data, GenerateConfig(shard_size=requests), 0, "cpu"), Clock()
    clock.watch()
    for line in sys.stdin:
        clock.seconds = dict.fromkeys(STAGES, 0.0)
        start = time.process_time()
        generate_shard(plan, out, int(line))
        seconds = time.process_time() - start
        rows = read_rows(shard_folder(out, int(line)) / "rows.jsonl")
        stages = {**clock.seconds, "other": seconds - sum(clock.seconds.values())}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        counts = {"requests": len(rows), "kept": len(kept(rows))}
        print(json.dumps({"seconds": seconds, **counts, "stages": stages, "peak_gb": peak}), flush=True)


class Worker:
    """A process that makes shards with the package of a source folder, one when it is asked."""

    def __init__(self, source: Path, model: Path, data: Path, out: Path, requests: int) -> None:
        settings = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--child", *map(str, (model, data, out, requests))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: Any = subprocess.Popen(command, env=settings, **pipes)
        self.made: list[dict[str, Any]] = []

    def make(self, shard: int) -> None:
        """Make a shard; the first, numbered 0, loads the model and is not counted."""
        self.process.stdin.write(f"{shard}\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        if shard:
            self.made.append(found)

    def total(self) -> dict[str, Any]:
        """End the process, and return what its shards took together; stages in seconds of a request."""
        self.process.stdin.close()
        self.process.wait()
        sums = {name: sum(one[name] for one in self.made) for name in ("seconds", "requests", "kept")}
        stages = {name: sum(one["stages"][name] for one in self.made) / sums["requests"] for name in [*STAGES, "other"]}
        return {**sums, "stages": stages, "peak_gb": max(one["peak_gb"] for one in self.made)}


def run(*command: Any, source: Path | None = None) -> None:
    """Run a command of `diffaug`, of the package in a source folder where it is given; its lines go to stderr."""
    settings = os.environ if source is None else {**os.environ, "PYTHONPATH": str(source)}
    words = [sys.executable, "-m", "diffaug", *map(str, command)]
    subprocess.run(words, check=True, stdout=sys.stderr, env=settings)


def default_data(out: Path) -> list[Path]:
    """Import Kvasir-SEG at 352 px and at its own size, with few annotated cases."""
    source, found = Path(os.environ["DIFFAUG_DATA"]), []
    for layout, name, annotated in (("kvasir-seg", "kvasir-seg", 50), ("folder", "kvasir-seg-original", 30)):
        full, data = out / f"{name}-full", out / f"{name}-{annotated}"
        if not data.exists():
            run("data", "import", layout, source / name, full)
            run("data", "subset", full, data, "--annotated", annotated, "--draw", 0)
        found.append(data)
    return found


def phantoms(out: Path) -> list[Path]:
    """Make phantoms."""
    data = out / "phantoms"
    if not data.exists():
        run("data", "phantom", data, "--train", 12, "--val", 2, "--test", 2, "--size", 96)
    return [data]


def measured(data: Path, out: Path, before: Path | None, shards: int, quick: bool) -> dict[str, Any]:
    """Fit a model with each code, and make the same shards with each in turn."""
    codes = {"now": Path(__file__).resolve().parents[1] / "src"} | ({"before": before / "src"} if before else {})
    models = {code: out / f"model-{data.name}-{code}" for code in codes}
    for code, source in codes.items():
        run("fit", data, models[code], *(TINY if quick else FEW), source=source)
    workers = {
        code: Worker(source, models[code], data, out / f"shards-{data.name}-{code}-{os.getpid()}", 4 if quick else 32)
        for code, source in codes.items()
    }
    for shard in range(1 + shards):
        for code in sorted(workers, reverse=bool(shard % 2)):
            workers[code].make(shard)
    return {code: worker.total() for code, worker in workers.items()}


def main() -> None:
    """Run from the command line."""
    if sys.argv[1:2] == ["--child"]:
        model, data, work, requests = sys.argv[2:]
        make_shards(Path(model), Path(data), Path(work), int(requests))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--data", type=Path, nargs="*")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sets = given.data or (phantoms(given.out) if given.quick else default_data(given.out))
    found = {
        data.name: measured(data, given.out, given.before, 1 if given.quick else given.shards, given.quick)
        for data in sets
    }
    result = summary(found)
    (given.out / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name}: {value}")


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the keys of speed.json from what was measured of each data set and code."""
    result: dict[str, Any] = {}
    for name, codes in found.items():
        for code, values in codes.items():
            prefix = f"{name}_" if code == "now" else f"{name}_before_"
            result[f"{prefix}seconds_per_request"] = round(values["seconds"] / values["requests"], 4)
            result[f"{prefix}seconds_per_kept"] = round(values["seconds"] / max(1, values["kept"]), 3)
            result[f"{prefix}kept"] = values["kept"]
            result[f"{prefix}stages"] = {stage: round(seconds, 4) for stage, seconds in values["stages"].items()}
    if all("before" in codes for codes in found.values()):
        result["kept_over_before"] = round(min(_speed(one["now"]) / _speed(one["before"]) for one in found.values()), 3)
    cost = [one["now"]["seconds"] / one["now"]["requests"] for one in found.values()]
    if len(cost) > 1:
        result["native_over_small"] = round(cost[1] / cost[0], 3)
    first = next(iter(found.values()))["now"]
    result["denoise_share"] = round(first["stages"]["denoise"] * first["requests"] / first["seconds"], 3)
    result["worker_peak_gb"] = round(max(one["now"]["peak_gb"] for one in found.values()), 3)
    return result


def _speed(values: dict[str, Any]) -> float:
    """Return kept cases for a second; of a poor model that keeps none, requests for a second."""
    return float((values["kept"] or values["requests"]) / values["seconds"])


if __name__ == "__main__":
    main()
