"""Full fine-tuning against LoRA, from the shipped prior, with 25 and 100 annotated cases.

Usage: python benchmarks/finetune.py DATA OUT [--iterations K] [--quick]
    DATA  a data set folder whose `train` split has 160 annotated cases or more.
    OUT   OUT/finetune.json, and the logs of every training; run it again after a kill.

Only the painter is trained. It is scored 16 times by the painting loss on lesions of other training cases; `val` and
`test` are not opened.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffaug.artifacts import make_folder, write_json
from diffaug.config import DenoiserConfig
from diffaug.data.folder import read_dataset
from diffaug.data.split import shuffled
from diffaug.models.loading import load_model
from diffaug.training.painter import chosen_checkpoint, held_out_loss, train_painter
from diffaug.training.painter_windows import lesion_windows, painter_windows
from diffaug.training.starting import SHIPPED
from diffaug.training.windows import Annotated

HELD_OUT = 40  # cases, of two windows each
RATES = {0: 4e-4, 8: 2e-3, 32: 2e-3}  # by rank; 0 is full fine-tuning


def tuned(cases: list[Annotated], held_out: Any, rank: int, rate: float, iterations: int, out: Path) -> dict[str, Any]:
    """Train a painter and return its score before, its best one, and the seconds of an update."""
    model = load_model(SHIPPED)
    config = DenoiserConfig(iterations=iterations, learning_rate=rate, lora_rank=rank)
    before, started = held_out_loss(model, held_out), time.monotonic()
    sources = painter_windows(model, cases, config.windows_per_case, 0)
    encoded, resumed = time.monotonic(), (out / "painter.checkpoint").is_file()
    train_painter(model, sources, config, out, monitor=held_out)
    seconds = None if resumed else round((time.monotonic() - encoded) / iterations, 3)  # a killed run's are not known
    row = {"cases": len(cases), "rank": rank, "learning_rate": rate, "before": round(before, 4)}
    chosen = chosen_checkpoint(out / "painter.log.jsonl")
    row |= asdict(chosen) if chosen else {}
    return {**row, "seconds_per_update": seconds, "seconds_windows": round(encoded - started, 1)}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    few, many, held, iterations = (4, 6, 3, 2) if given.quick else (25, 100, HELD_OUT, given.iterations)

    dataset = read_dataset(given.data)
    names = shuffled((case.id for case in dataset.split("train")), seed=0)
    cases = [Annotated.of(dataset.case(name)) for name in names[: held + many]]
    held_out = lesion_windows(load_model(SHIPPED), cases[:held], 2, 0, kind=3)
    rows = []
    for count in (few, many):
        for rank, rate in RATES.items():
            out = make_folder(given.out / f"n{count}-rank{rank}")
            rows.append(tuned(cases[held : held + count], held_out, rank, rate, iterations, out))
            print(rows[-1], flush=True)
            write_json(given.out / "finetune.json", rows)


if __name__ == "__main__":
    main()
