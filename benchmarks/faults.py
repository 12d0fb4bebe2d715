"""Does anything get lost, torn, stuck or let in? Kills, torn files, full disks and hostile files, over every command.

    python benchmarks/faults.py --out DIR
    python benchmarks/faults.py --out DIR --quick
    python benchmarks/faults.py --out DIR --only hostile --corpus MY-HOSTILE-FILES
    python benchmarks/faults.py --out DIR --repeat "kill:generate:kill:0.3712"

A stopped run goes on where it was: a trial that DIR/lane-*.jsonl records is not made again, unless the code has
changed since. Tiny phantoms, a model and a study are made in DIR/scene. Every trial is one command in a forked child,
in a folder of its own. DIR/faults.json has the counts and each finding with the command that repeats it;
DIR/trials.jsonl has a line for each trial. Linux only.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faulting.children import HANG_SECONDS, MOST_MB
from faulting.hostile import SHARE_OF_QUICK, corpus_trials, hostile_trials, try_hostile
from faulting.kills import disks_can_be_made, kill_trials, storage_trials, try_kill, try_storage
from faulting.lanes import Found, Lane
from faulting.scene import make_scene
from faulting.torn import torn_trials, try_torn

import diffaug
import diffaug.data.importing
import diffaug.data.inspect  # imported by a command only: children have them, as all that the scene needs

PARTS: dict[str, Callable[[str, Lane], Found]] = {
    "kill": try_kill, "storage": try_storage, "torn": try_torn, "hostile": try_hostile,
}  # fmt: skip
HOSTILE = 10_000  # files of a whole run
COUNTED = {"kill": "kill_points", "storage": "storage_faults", "torn": "torn_files", "hostile": "hostile_files"}
FLAWS = ("lost", "torn", "differing", "stuck", "torn_accepted", "tracebacks", "hangs", "memory", "outside", "unmade")


def trials_of(options: argparse.Namespace, lane: Lane) -> list[str]:
    """Return the names of all trials, which depend on the options and the seed alone."""
    quick, seed, chosen = options.quick, options.seed, options.only or tuple(PARTS)
    count = SHARE_OF_QUICK if quick else options.hostile
    names: list[str] = []
    if "kill" in chosen:
        names += kill_trials(quick, seed)
    if "storage" in chosen:
        able = disks_can_be_made(lane)
        names += [name for name in storage_trials(quick, seed) if able or ":disk:" not in name]
    if "torn" in chosen:
        names += torn_trials(quick, lane)
    if "hostile" in chosen:
        names += hostile_trials(count, seed)
        names += corpus_trials(options.corpus) if options.corpus else []
    names = [name for name in names if options.match in name]
    chosen_ones = set(random.Random(seed).sample(names, round(options.share * len(names))))
    return [name for name in names if name in chosen_ones]


def rows_of(out: Path, code: str) -> list[dict[str, Any]]:
    """Return what became of the trials of this code that lanes have made."""
    lines = [line for path in sorted(out.glob("lane-*.jsonl")) for line in path.read_text().splitlines()]
    return [row for row in map(_row_of, lines) if row.get("code") == code]


def _row_of(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}  # cut off by a kill


def try_all(names: Sequence[str], lanes: int, out: Path) -> list[dict[str, Any]]:
    """Try every name in so many processes, each in its own folder, and return what became of each, in order."""
    code = _code()
    made = {row["name"]: row for row in rows_of(out, code)}
    left = [name for name in names if name not in made]
    print(f"{len(names)} trials, of which {len(names) - len(left)} are made", flush=True)
    gc.collect()
    gc.freeze()  # children share what there is
    pids = []
    for number in range(lanes):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _work(left[number::lanes], out / f"lane-{number}", out / "scene", code)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        pids.append(pid)
    failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
    if failed:
        raise SystemExit("faults: a lane ended early; see above")
    made = {row["name"]: row for row in rows_of(out, code)}
    return [made[name] for name in names]


def _code() -> str:
    """Return a digest of the package and of the harness."""
    here = Path(__file__).parent
    files = sorted([*Path(diffaug.__file__).parent.rglob("*.py"), *here.glob("faulting/*.py"), Path(__file__)])
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _work(names: Iterable[str], folder: Path, scene: Path, code: str) -> None:
    lane = Lane(folder, scene)
    with folder.with_suffix(".jsonl").open("a") as file:
        file.write("\n")  # ends what a kill cut off
        for name in names:
            try:
                found = PARTS[name.partition(":")[0]](name, lane)
            except Exception as error:  # of the harness: the trial was not made, and the others are
                found = Found(name, counted=False, flaws=[("unmade", f"{type(error).__name__}: {error}"[:400])])
            file.write(json.dumps(asdict(found) | {"code": code}) + "\n")
            file.flush()


def summary_of(rows: Sequence[dict[str, Any]], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return the counts and the findings."""
    counts = Counter(dict.fromkeys((*COUNTED.values(), *FLAWS), 0))
    findings = []
    hostile = [row for row in rows if row["name"].startswith("hostile:")]
    for row in rows:
        counts[COUNTED[row["name"].partition(":")[0]]] += row["counted"]
        for kind in dict.fromkeys(kind for kind, _ in row["flaws"]):
            counts[kind] += 1
            what = [text for each, text in row["flaws"] if each == kind]
            repeat = f"python benchmarks/faults.py --out {options.out} --repeat {row['name']!r}"
            findings.append({"kind": kind, "what": what[:5], "repeat": repeat})
    return {
        **counts,
        "peak_mb": round(max((row["peak_mb"] for row in hostile), default=0)),
        "slowest_seconds": round(max((row["seconds"] for row in hostile), default=0), 1),
        "trials": len(rows), "seed": options.seed, "quick": options.quick, "minutes": round(seconds / 60, 1),
        "bounds": {"seconds": HANG_SECONDS, "mb": MOST_MB}, "findings": findings,
    }  # fmt: skip


def main() -> None:
    """Try, and write `faults.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--quick", action="store_true", help="a few trials of each part, in under a minute")
    parser.add_argument("--corpus", type=Path, help="folder of other hostile files")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--hostile", type=int, default=HOSTILE, help="number of hostile files")
    parser.add_argument("--share", type=float, default=1.0, help="try this share of everything")
    parser.add_argument("--match", default="", help="try what has this in its name alone, such as dicom:nasty")
    parser.add_argument("--lanes", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", help="name of one trial, whose folder is left in DIR/repeated/case")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    printed = os.dup(1)
    os.dup2(2, 1)  # what the commands print while the scene is made
    make_scene((options.out / "scene").absolute())
    sys.stdout.flush()
    os.dup2(printed, 1)
    lane = Lane(options.out / "repeated", options.out / "scene")
    if options.repeat:
        print(json.dumps(asdict(PARTS[options.repeat.partition(":")[0]](options.repeat, lane)), indent=2))
        return
    names = trials_of(options, lane)
    rows = try_all(names, 1 if options.quick else options.lanes, options.out)
    (options.out / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = summary_of(rows, options, time.monotonic() - started)
    (options.out / "faults.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps({name: value for name, value in summary.items() if name != "findings"}, indent=2))
    for finding in summary["findings"][:20]:
        print(finding["kind"], finding["what"][:1], finding["repeat"], sep="\n  ")


if __name__ == "__main__":
    main()
