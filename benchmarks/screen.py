"""What do other training cases add to a trained `real`? Minutes for each set instead of a whole run of the study.

    python benchmarks/screen.py FULL STUDY --synthetic SYNTH [SYNTH ...]

The weights of STUDY's `real` are trained on for a few iterations at a small learning rate: with its own cases alone,
with pasted ones, and with each synthetic set, without and with its negatives. All start alike and see the same real
cases in the same order, so that they differ by far less than two runs of the study do. Tested are the images of
`train` whose masks were withheld (FULL holds them); `val` and `test` are never opened. Printed are Dice, lesion
pixels not found, precision, and Dice minus that of the real cases alone with a 95 % interval over images.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from labels import Withheld, overlap, predictions, read
from numpy.typing import NDArray

from diffaug.data.folder import read_dataset
from diffaug.data.manifest import accepted
from diffaug.study import choose
from diffaug.study.arms import Arm
from diffaug.study.batches import Batches
from diffaug.study.evaluate import probabilities
from diffaug.study.inputs import read_set
from diffaug.study.network import load_network, train

SLOWER = 1 / 4  # peak learning rates over the study's


def arms_of(study: Withheld, folders: list[Path], count: int) -> list[Arm]:
    """Return what is compared, the real cases alone first."""
    arms = [Arm("real", study.train), Arm("copy-paste", study.train, paste=True)]
    for folder in folders:
        found = read_set(folder)
        painted = tuple(found.case(row) for row in accepted(found)[:count])
        negatives = tuple(found.case(row) for row in choose.training_negatives(found)[: len(painted) // 2])
        arms.append(Arm(f"{folder}", study.train, pool=painted))
        if negatives:
            arms.append(Arm(f"{folder} and negatives", study.train, painted + negatives, negatives=len(negatives)))
    return arms


def scores(study: Withheld, arm: Arm, weights: Path, iterations: int) -> NDArray[np.float64]:
    """Train on from `weights` and return Dice, the share not found and precision of each withheld image, (3, n)."""
    rates = {name: SLOWER * getattr(study.config, name) for name in ("learning_rate", "encoder_rate")}
    config = study.config.model_copy(update={"iterations": iterations, **rates})
    network = load_network(config, weights, len(study.train[0].class_names)).train()
    with tempfile.TemporaryDirectory() as folder:
        train(network, Batches(arm, config, 1), config, name=arm.name, files=Path(folder) / "run")
    found = predictions(partial(probabilities, network.eval()), study.pixels.images) > config.decision_threshold
    truth = study.pixels.masks[:, 0].numpy() > 0
    dice, lost = overlap(found, truth)
    return np.stack([dice, lost, (found & truth).sum((1, 2)) / np.maximum(found.sum((1, 2)), 1)])


def main() -> None:
    """Print a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="the data set with every annotation")
    parser.add_argument("study", type=Path, help="a study folder with kept weights of real")
    parser.add_argument("--synthetic", type=Path, nargs="+", default=[], help="sets made from its training cases")
    parser.add_argument("--count", type=int, default=200, help="painted cases taken of each set")
    parser.add_argument("--iterations", type=int, default=1500)
    options = parser.parse_args()
    study = read(options.study, {case.id: case for case in read_dataset(options.full).cases})
    weights = sorted(study.runs.glob("real-*.safetensors"))
    if not weights:
        parser.error(f"{options.study} keeps no weights of real")
    alone: NDArray[np.float64] | None = None
    for arm in arms_of(study, options.synthetic, options.count):
        measured = scores(study, arm, weights[0], options.iterations)
        alone = measured[0] if alone is None else alone
        gain = 100 * (measured[0] - alone)
        dice, lost, precision = measured.mean(1)
        print(
            f"{arm.name}: {len(arm.pool)} others, Dice {dice:.3f}, not found {100 * lost:.1f} %, precision "
            f"{precision:.3f}; {gain.mean():+.1f} points +- {1.96 * gain.std() / np.sqrt(len(gain)):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
