"""How long does an iteration of a study's training take on a device, with its passes launched one by one or recorded?

    python benchmarks/passes.py DATA --device cuda

The network of a study learns from 50 annotated cases of `train` (the arm `real`) on one thread, once as it is and once
with recorded passes (`diffaug.study.network.record_passes`), one after the other: the last losses show whether both
learn the same. On a CPU nothing is recorded, so that the two rows show the noise.
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch

from diffaug.artifacts import read_jsonl
from diffaug.compute.devices import one_thread
from diffaug.config import UNET, StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.study import network as segmenter
from diffaug.study.arms import Arm
from diffaug.study.batches import Batches

CASES = 50
WARM = 100  # iterations that are not timed


def measure(batches: Batches, config: StudyConfig, device: str) -> tuple[float, float]:
    """Train a network; return milliseconds an iteration after the first ones, and the last loss."""
    first, clock, network = min(WARM, config.iterations // 2), dict[int, float](), segmenter.build_network(config, 0)

    def note(done: int) -> None:
        if done in (first, config.iterations):
            clock[done] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "run"
        segmenter.train(network, batches, config, name="run", files=files, device=device, report=note)
        last = read_jsonl(Path(f"{files}.log.jsonl"))[-1]["loss"]
    return 1000 * (clock[config.iterations] - clock[first]) / (config.iterations - first), last


def main() -> None:
    """Train twice and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set; only its annotated train cases are read")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="two iterations of a tiny network: does it run?")
    options = parser.parse_args()
    quick = {"network": UNET, "size": 64, "widths": (16, 16, 16, 16, 16), "batch_size": 2}
    config = StudyConfig(iterations=options.iterations) if not options.quick else StudyConfig(iterations=2, **quick)
    cases = read_dataset(options.data).annotated("train")[:CASES]
    name = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "cpu"
    with one_thread():
        batches = Batches(Arm("real", cases), config, 0, options.device)
        with patch.object(segmenter, "record_passes", lambda network, images: None):
            launched = measure(batches, config, options.device)
        recorded = measure(batches, config, options.device)
    for way, (ms, loss) in (("launched", launched), ("recorded", recorded)):
        print(f"{name}: {way} {ms:.2f} ms an iteration, last loss {loss:.5f}")


if __name__ == "__main__":
    main()
