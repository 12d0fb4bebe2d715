"""Milliseconds for each sample of a MONAI loop: as it is, with lesions pasted, painted, or read from a synthetic set.

    python benchmarks/loop.py MODEL DATA [--synthetic SYNTHETIC] [--workers 2] [--samples 64] [--side 352] [--json OUT]

The training cases of DATA are read, scaled to a square and given out in batches of 4 by a DataLoader with two workers.
`pasted` and `painted` add a lesion to every sample, `synthetic` reads the stored set instead. Milliseconds a sample are
those of the whole loop on the clock, in its second epoch: in the first the workers load the model. Core-milliseconds
are the computing time of one process for one sample, its reading included, whatever else the machine does. With the
same seed the first batch must have the same bytes.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Resized
from monai.utils import set_determinism

from diffaug import CaseDataset, RandPaintLesiond, RandPasteLesiond, SyntheticDataset, read_dataset

BATCH = 4
SINGLE = 16  # samples that the computing time is measured on, at most
KEYS = ("image", "label")


def loader_of(items: Any, transform: Callable[[Any], Any], workers: int) -> DataLoader:
    """Return a loader whose workers stay from epoch to epoch."""
    made = Dataset(items, transform)
    return DataLoader(made, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)


def epoch(loader: Iterable[Any], record: str) -> tuple[float, int, Counter[str], torch.Tensor]:
    """Return the seconds of an epoch, its samples, their decisions, and its first images."""
    start, samples, decisions, first = time.perf_counter(), 0, Counter[str](), None
    for batch in loader:
        samples += len(batch["image"])
        first = batch["image"].clone() if first is None else first
        if record:
            decisions.update(batch[record]["decision"])
    assert first is not None
    return time.perf_counter() - start, samples, decisions, first


def core_milliseconds(items: Any, transform: Any) -> float:
    """Return the computing time of a sample in this process, after the first."""
    count = min(SINGLE, len(items))
    transform(items[0])
    start = time.process_time()
    for index in range(1, 1 + count):
        transform(items[index % len(items)])
    return round(1000 * (time.process_time() - start) / count, 1)


def measured(items: Any, transform: Any, workers: int, record: str = "") -> dict[str, Any]:
    """Measure the second of two epochs, and whether a repetition gives the same first batch."""
    firsts = []
    for _ in range(2):
        set_determinism(seed=0)
        loader = loader_of(items, transform, workers)
        warm = epoch(loader, record)
        firsts.append(warm[3])
        if len(firsts) == 1:
            seconds, samples, decisions, _ = epoch(loader, record)
    set_determinism(None)
    return {
        "milliseconds": round(1000 * seconds / samples, 1),
        "epoch_seconds": round(seconds, 2),
        "first_epoch_seconds": round(warm[0], 2),
        "samples": samples,
        "repeatable": bool(torch.equal(*firsts)),
        "core_milliseconds": core_milliseconds(items, transform),
        "decisions": dict(decisions),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--synthetic", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--side", type=int, default=352)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = read_dataset(given.data).annotated("train")
    cases = (cases * (given.samples // len(cases) + 1))[: given.samples]
    scaled = Resized(KEYS, (given.side, given.side), mode=("area", "nearest"))
    ways: dict[str, tuple[Any, Any, str]] = {
        "plain": (CaseDataset(cases), scaled, ""),
        "pasted": (CaseDataset(cases), Compose([scaled, RandPasteLesiond(KEYS, given.data, prob=1.0)]), "pasted"),
        "painted": (
            CaseDataset(cases), Compose([scaled, RandPaintLesiond(KEYS, given.model, given.data, prob=1.0)]), "painted"
        ),
    }  # fmt: skip
    if given.synthetic:
        ways["synthetic"] = (SyntheticDataset(given.synthetic), scaled, "")
    found = {
        name: measured(items, transform, given.workers, record) for name, (items, transform, record) in ways.items()
    }
    print("| way | ms a sample | s an epoch | core-ms a sample | repeatable | decisions |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in found.items():
        cells = [row["milliseconds"], row["epoch_seconds"], row["core_milliseconds"], row["repeatable"]]
        said = ", ".join(f"{count} {word}" for word, count in row["decisions"].items())
        print(f"| {name} | {' | '.join(map(str, cells))} | {said} |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
