"""How well do the trained arms of a study label its unannotated images, and which decision threshold suits them?

    python benchmarks/labels.py FULL STUDY [STUDY ...] --arms real selected

The images are those of `train` whose masks were withheld (`diffaug data subset`, `data.annotated`), and FULL holds the
masks; `val` and `test` are never opened. Arms must not have been trained on labels of these images. Printed are, over
all studies, Dice, pixels not found and predicted over true area at each threshold; and of the mean over mirror images
at 0.5, which `pseudo-label` trains on, the Dice of those that the network is sure of, and how many are under 0.5.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffaug.artifacts import read_json
from diffaug.config import StudyConfig
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.study.batches import Pixels, load
from diffaug.study.derive import LEAST, LIKELY, mirrored
from diffaug.study.evaluate import BATCH, probabilities
from diffaug.study.inputs import config_of_plan
from diffaug.study.network import load_network
from diffaug.study.places import read_places

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def predictions(predict: Callable[["Tensor"], "Tensor"], images: "Tensor") -> NDArray[np.float32]:
    """Return the probabilities of images, batch by batch, (n, S, S)."""
    import torch

    parts = [predict(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return torch.cat(parts)[:, 0].numpy()


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Dice and the share of pixels not found of each image, given masks (n, S, S)."""
    both, there = (found & truth).sum((1, 2)), truth.sum((1, 2))
    return 2 * both / np.maximum(found.sum((1, 2)) + there, 1), 1 - both / np.maximum(there, 1)


@dataclass(frozen=True)
class Withheld:
    """A study's knobs and training cases, and its unannotated images with the masks that were withheld."""

    runs: Path
    config: StudyConfig
    train: tuple[Case, ...]
    pixels: Pixels


def read(study: Path, full: dict[str, Case]) -> Withheld:
    """Return what is withheld from a study, given every case with its mask."""
    plan = read_json(study / "study.json")
    dataset, config = read_dataset(Path(read_places(study, plan).data)), config_of_plan(plan)
    masked = [full[case.id] for case in dataset.split("unannotated") if full[case.id].mask is not None]
    return Withheld(study / "runs", config, dataset.annotated("train"), load(masked, config.size))


def measured(studies: Sequence[Withheld], arm: str) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """Yield for each trained network of an arm the probabilities of images, of mirrored ones, and the true masks."""
    for one in studies:
        for path in sorted(one.runs.glob(f"{arm}-*.safetensors")):
            network = load_network(one.config, path, len(one.train[0].class_names))
            views = partial(probabilities, network), partial(mirrored, network)
            single, turned = (predictions(view, one.pixels.images) for view in views)
            yield single, turned, one.pixels.masks[:, 0].numpy() > 0


def main() -> None:
    """Print the tables of the named arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="the data set with every annotation")
    parser.add_argument("studies", type=Path, nargs="+", help="study folders with kept weights")
    parser.add_argument("--arms", nargs="+", default=["real"])
    options = parser.parse_args()
    full = {case.id: case for case in read_dataset(options.full).cases}
    studies = [read(study, full) for study in options.studies]
    for arm in options.arms:
        found = list(measured(studies, arm))
        if not found:
            parser.error(f"no study keeps weights of {arm}")
        single, turned, truth = (np.concatenate([part[index] for part in found]) for index in range(3))
        print(f"{arm}: {len(found)} networks, {len(truth)} images")
        for threshold in THRESHOLDS:
            masks = single > threshold
            dice, lost = overlap(masks, truth)
            told = f"Dice {dice.mean():.3f}, not found {100 * lost.mean():.1f} %"
            print(f"  over {threshold:g}: {told}, area {masks.sum() / truth.sum():.2f} of the true one")
        likely = turned > LIKELY
        inside = (turned * likely).sum((1, 2)) / np.maximum(likely.sum((1, 2)), 1)
        sure = (inside >= studies[0].config.pseudo_confidence) & (likely.mean((1, 2)) >= LEAST)
        dice, lost = overlap(likely[sure], truth[sure])
        told = (
            f"Dice {dice.mean():.3f}, not found {100 * lost.mean():.1f} %, under 0.5 {100 * (dice < 0.5).mean():.1f} %"
        )
        print(f"  sure of {sure.sum()}: {told}")


if __name__ == "__main__":
    main()
