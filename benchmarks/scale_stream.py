"""Peak memory of `select`, `audit` and `export` over synthetic sets of two sizes: the section `stream` of `scale.py`.

The rows are written, not painted; their pictures are hard links of a few small ones. Each command runs in a process of
its own, which tells its own peak: what `wait4` says of a child holds the memory of its parent, too.

As a program (`python benchmarks/scale_stream.py --child ARGUMENTS`) it is such a process: it runs `diffaug ARGUMENTS`
and ends with a line that holds the peak, MB.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.artifacts import digest_of_file, make_folder, write_csv, write_json, write_jsonl
from diffaug.cli.main import main as run_diffaug
from diffaug.config import StudyConfig
from diffaug.data.case import digest_of_case
from diffaug.data.folder import Dataset
from diffaug.data.images import write_png
from diffaug.data.manifest import MANIFEST, PROVENANCE, SUMMARY, Row, text_of_rows
from diffaug.data.phantom import make_phantoms
from diffaug.data.request import Check, MaskTransform, Request
from diffaug.data.seen import NOTHING, write_seen
from diffaug.study.places import Places, write_places
from diffaug.study.study import run_study

PICTURES = 16
SIDE = 64  # px
# Rows of the two sets, and of the two that an audit compares with the training lesions, which takes 50 ms a lesion. It
# keeps features of 1,000 lesions and one number of each further one, so both sets are larger than that.
ROWS, COMPARED = (2_500, 50_000), (1_100, 1_400)
QUICK_ROWS, QUICK_COMPARED = (50, 100), (2, 4)
COLUMNS = ("id", "image", "mask", "group", "split", "prompt")


def measure_stream(work: Path, quick: bool) -> dict[str, Any]:
    """Measure the commands on sets of two sizes, two commands at a time: each tells the peak of its own process."""
    data = make_phantoms(work / "data", train=10, val=0, test=10, unannotated=0, size=SIDE)
    study = _study(work, data)
    table: list[dict[str, Any]] = []
    for count, compared in zip(*((QUICK_ROWS, QUICK_COMPARED) if quick else (ROWS, COMPARED)), strict=True):
        synthetic = write_pictured_set(work / f"{count}" / "set", data, count)
        fewer = write_pictured_set(work / f"{count}" / "fewer", data, compared)
        _let_select(study, synthetic, data.folder)
        with ThreadPoolExecutor(2) as threads:
            for found in threads.map(_measured, _commands(work / f"{count}", synthetic, fewer, data.folder, study)):
                table.append(found)
                print(*found.values(), flush=True)
    peaks: dict[str, list[float]] = {}
    for one in table:
        peaks.setdefault(one["command"], []).append(one["peak_mb"])
    growth = {name: round(large - small, 1) for name, (small, large) in peaks.items()}
    return {"stream_growth_mb": max(growth.values()), "stream_growth_by_command_mb": growth, "stream": table}


def _commands(folder: Path, synthetic: Path, fewer: Path, data: Path, study: Path) -> list[tuple[str, Path, list[str]]]:
    """Return the name of each command, the set that it reads and its words, the longest first."""
    out = {name: str(folder / name) for name in ("coco", "selected", "audit", "fewer-audit")}
    return [
        ("export coco", synthetic, ["export", str(synthetic), out["coco"], "--format", "coco", "--with", str(data)]),
        ("audit --with", fewer, ["audit", str(fewer), out["fewer-audit"], "--with", str(data)]),
        ("select", synthetic, ["select", str(synthetic), out["selected"], "--study", str(study)]),
        ("audit", synthetic, ["audit", str(synthetic), out["audit"]]),
    ]


def _measured(command: tuple[str, Path, list[str]]) -> dict[str, Any]:
    name, synthetic, words = command
    with (synthetic / MANIFEST).open("rb") as lines:
        rows = sum(1 for _ in lines)
    return {"command": name, "rows": rows, **peak_of(words)}


def peak_of(words: list[str]) -> dict[str, float]:
    """Run a command of diffaug in a process of its own, and return its peak of memory, MB, and its seconds."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--child", *words], check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise SystemExit(f"diffaug {' '.join(words)}\n{done.stderr[-3000:]}")
    return {"peak_mb": round(float(lines[-1]), 1), "seconds": round(time.perf_counter() - started, 1)}


def write_pictured_set(folder: Path, data: Dataset, count: int) -> Path:
    """Write a finished synthetic set of kept lesions whose pictures are hard links of a few small ones."""
    make_folder(folder / "shards" / "00000")
    rng = np.random.default_rng(0)
    train = data.annotated("train")
    files, links = _pictures(make_folder(folder.parent / f"{folder.name}-pictures")), 0
    known = [[digest_of_file(path) for path in pair] for pair in files]
    lines, cells = (folder / MANIFEST).open("w", encoding="utf-8"), []
    for number in range(count):
        place, name = number % PICTURES, f"synth-{number:06d}"
        links += 1
        if links == 30_000:  # file systems have a limit of 65,000
            files, links = _pictures(make_folder(folder.parent / f"{folder.name}-pictures-{number}")), 0
        image, mask = f"shards/00000/{name}.png", f"shards/00000/{name}_mask.png"
        for path, source in zip((image, mask), files[place], strict=True):
            os.link(source, folder / path)
        source = train[place % len(train)]
        row = _row(number, name, source.id, train[(place + 1) % len(train)].id, float(rng.random()))
        row = replace(row, image=image, mask=mask, image_digest=known[place][0], mask_digest=known[place][1])
        lines.write(text_of_rows([row]))
        cells.append(
            {"id": name, "image": image, "mask": mask, "group": source.id, "split": "train", "prompt": "a polyp"}
        )
    lines.close()
    write_csv(folder / "cases.csv", cells, COLUMNS)
    seen = {case.id: digest_of_file(case.image) for case in train}
    write_json(folder / PROVENANCE, {"images": seen, "cases": {case.id: digest_of_case(case) for case in train}})
    write_seen(folder, NOTHING)
    write_json(folder / SUMMARY, {"lesions": {"requested": count}, "negatives": {"requested": 0}})
    return folder


def _pictures(folder: Path) -> list[tuple[Path, Path]]:
    """Write a few pictures with one lesion each, of other noise than the images of the data set, and their masks."""
    rng, found = np.random.default_rng(1), []
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(PICTURES):
        row, column = rng.uniform(24, 40, 2)
        inside = ((rows - row) / rng.uniform(8, 14)) ** 2 + ((columns - column) / rng.uniform(8, 14)) ** 2 <= 1
        pixels = np.where(inside[..., None], 180, 110) + rng.normal(0, 12, (SIDE, SIDE, 3))
        image, mask = folder / f"{number}.png", folder / f"{number}_mask.png"
        write_png(image, pixels.clip(0, 255).astype(np.uint8), settled=False)
        write_png(mask, inside.astype(np.uint8) * 255, settled=False)
        found.append((image, mask))
    return found


def _row(number: int, name: str, background: str, mask_case: str, score: float) -> Row:
    size = ("small", "medium", "large")[number % 3]
    request = Request(
        number, name, number, background, mask_case, 0, "free", MaskTransform(1.0 + score / 9, 10 * score), 20, 20,
        f"a {size} pale polyp", size, ("pale",), example=mask_case,
    )  # fmt: skip
    checks = Check(5, 500, 0.25, 0.2), Check(10, 0, round(0.2 + score / 2, 5), 0.1)
    reason = f"the agreement {checks[1].score} reaches 0.1"
    return Row(request, "kept", reason, 10, checks, (0, 0, SIDE), "m" * 16, "v" * 16, "c" * 16)


def _study(work: Path, data: Dataset) -> Path:
    """Train the arm `real` for a few iterations; it names a set by the name that the large ones have, too."""
    small = write_pictured_set(work / "small" / "set", data, 16)
    config = StudyConfig(network="unet", arms=("real",), seeds=1, iterations=2, batch_size=2, size=64)
    run_study(data.folder, work / "study", [small], config)
    return work / "study"


def _let_select(study: Path, synthetic: Path, data: Path) -> None:
    """Make a study one of another set, whose cases it has scored: scoring is work, and not what is measured here."""
    write_places(study, Places(str(data.resolve()), [str(synthetic.resolve())]))
    rng = np.random.default_rng(0)

    def scored() -> Iterator[dict[str, Any]]:
        with (synthetic / MANIFEST).open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                features = [round(float(value), 4) for value in rng.normal(size=7)]
                yield {
                    "id": row["request"]["id"], "image_digest": row["image_digest"], "mask_digest": row["mask_digest"],
                    "loss": round(float(rng.random()), 5), "novelty": round(float(rng.random()), 4),
                    "low_contrast": bool(rng.random() < 0.3), "features": features,
                }  # fmt: skip

    write_jsonl(study / "scores.jsonl", scored())


def _child(words: list[str]) -> None:
    try:
        run_diffaug(words)
    finally:
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peak = next((float(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
        print((peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


if __name__ == "__main__":
    _child(sys.argv[2:])
