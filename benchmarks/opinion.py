"""Does the denoiser know a lesion when it sees one, and does it see those that the validators are blind for?

Usage: python benchmarks/opinion.py --out DIR --model MODEL --data DATA
    --out    DIR/opinion.json, and the same numbers as a table on stdout.
    --model  a model that was fitted on the training cases of DATA.
    --data   the data set. Its annotated test cases are looked at; for what tunes anything, make a data set whose test
             cases are training cases that the model was not fitted on.

Every lesion of a test case is a region in a window, and as many regions of the same kind lie on lesion-free tissue.
Noise is added to the window's latents at several timesteps, and the painter estimates what was there, once told that
the region is a lesion (mask and prompt), and once that it is lesion-free tissue:

    opinion = log (error as tissue / error as a lesion), errors being mean squares of x0_hat - x0 over the region

Probability is the mean of the validators over the region. Asked is how well each tells lesions from tissue (AUC, with
a 95 % bootstrap interval over cases), how well both together do (mean of ranks), and what opinion makes of the lesions
that the validators see with a probability under BLIND.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from diffaug.artifacts import make_folder, write_json
from diffaug.conditioning.domain import domain_of
from diffaug.data.folder import read_dataset
from diffaug.diffusion.schedule import x_t_from_x0
from diffaug.models.base import LatentInpainter
from diffaug.painting.painter import Painter
from diffaug.painting.window import CONTEXT
from diffaug.training.windows import Annotated, Rng, Sketch, Windows, drawn, encode_windows, lesion_window, normal_window
from diffaug.validator.latent_segmenter import segment

TIMES = (100, 200, 300, 400, 500, 600, 700, 800)
NOISES = 2  # draws of noise at each timestep
BLIND = 0.1  # probability under which the validators are blind for a lesion
BATCH = 32
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Looked:
    """What is known of N regions.

    Attributes:
        case: Id of the case of each.
        lesion: Whether it is one, (N,).
        probability: Mean of the validators, (N,).
        opinion: By timestep, (T, N).
    """

    case: Sequence[str]
    lesion: NDArray[np.bool_]
    probability: Values
    opinion: Values


def regions(model: LatentInpainter, cases: Sequence[Annotated]) -> tuple[Windows, list[str], NDArray[np.bool_]]:
    """Return windows of every lesion, and of as many regions of lesion-free tissue in the same cases."""
    lesions = [(case, number) for case in cases for number in range(len(case.lesions))]

    def lesion(number: int, rng: Rng) -> Sketch:
        case, own = lesions[number]
        return lesion_window(case.alone(own), model.window, model.latent_side, CONTEXT, rng)

    def tissue(number: int, rng: Rng) -> Sketch | None:
        return normal_window(lesions[number][0], model.window, model.latent_side, rng)

    ids, kinds, sketches = list[str](), list[bool](), list[Sketch]()
    for number, (case, _) in enumerate(lesions):
        for is_lesion, draw in ((True, lesion), (False, tissue)):
            sketch = draw(number, np.random.default_rng((number, is_lesion)))
            if sketch is not None:
                ids, kinds, sketches = [*ids, case.case.id], [*kinds, is_lesion], [*sketches, sketch]
    return encode_windows(model, sketches), ids, np.array(kinds)


@torch.no_grad()
def errors(model: LatentInpainter, windows: Windows, t: int, prompts: Sequence[str], told: bool, seed: int) -> Values:
    """Return the mean square of x0_hat - x0 over each region, (N,), where the painter is told of a lesion or of none."""
    found, generator = [], torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(windows)).split(BATCH):
        part = windows.rows(rows)
        mask = part.mask if told else torch.zeros_like(part.mask)
        now = torch.full((len(rows),), t)
        x_t = x_t_from_x0(part.x0, torch.randn(part.x0.shape, generator=generator), model.schedule.at(now))
        text = model.embed([prompts[int(row)] for row in rows])
        x0_hat = model(x_t, now, replace(part, mask=mask).conditioning(text))
        square = (x0_hat - part.x0).square().mean(1, keepdim=True) * part.region
        found.append(square.sum((1, 2, 3)) / part.region.sum((1, 2, 3)).clamp_min(1))
    return torch.cat(found).double().numpy()


def looked_at(painter: Painter, cases: Sequence[Annotated]) -> Looked:
    """Return what denoiser and validators make of lesions and of tissue."""
    model = painter.model
    windows, ids, kinds = regions(model, cases)
    shapes = torch.where(windows.mask.amax(1, keepdim=True).sum((1, 2, 3), keepdim=True) > 0, windows.mask, windows.region)
    asked = replace(windows, mask=shapes)  # tissue is asked for as a lesion of its region's shape
    silent = domain_of(cases[0].case.class_names, cases[0].rules).normal_prompt
    normal, lesion = [silent] * len(windows), ["a lesion"] * len(windows)
    opinions = []
    for t in TIMES:
        pairs = [
            [errors(model, asked, t, prompts, told, seed) for prompts, told in ((normal, False), (lesion, True))]
            for seed in range(NOISES)
        ]
        as_tissue, as_lesion = np.mean(pairs, axis=0)
        opinions.append(np.log(as_tissue / as_lesion))
    still, found = torch.zeros(len(windows), dtype=torch.long), []
    for network in painter.validators:
        parts = zip(windows.x0.split(BATCH), still.split(BATCH), strict=True)
        found.append(torch.cat([segment(network, x, t) for x, t in parts]).amax(1, keepdim=True))
    inside = torch.where(windows.fine_mask.amax(1, keepdim=True).sum((1, 2, 3), keepdim=True) > 0,
                         windows.fine_mask.amax(1, keepdim=True), windows.fine_region)  # fmt: skip
    probability = (torch.stack(found).mean(0) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1e-6)
    return Looked(ids, kinds, probability.double().numpy(), np.stack(opinions))


def auc(scores: Values, lesion: NDArray[np.bool_]) -> float:
    """Return the chance that a lesion scores above tissue."""
    ranks, hits = rankdata(scores), int(lesion.sum())
    return float((ranks[lesion].sum() - hits * (hits + 1) / 2) / (hits * (len(lesion) - hits)))


def with_interval(scores: Values, looked: Looked) -> list[float]:
    """Return the AUC and its 95 % bootstrap interval over cases."""
    rng, names = np.random.default_rng(0), sorted(set(looked.case))
    rows = {name: np.flatnonzero(np.array(looked.case) == name) for name in names}
    draws = []
    for _ in range(500):
        chosen = np.concatenate([rows[names[place]] for place in rng.integers(len(names), size=len(names))])
        if 0 < looked.lesion[chosen].sum() < len(chosen):
            draws.append(auc(scores[chosen], looked.lesion[chosen]))
    return [round(value, 3) for value in (auc(scores, looked.lesion), *np.percentile(draws, [2.5, 97.5]))]


def measured(looked: Looked) -> dict[str, Any]:
    """Return every number; see the top."""
    result: dict[str, Any] = {"lesions": int(looked.lesion.sum()), "tissue": int((~looked.lesion).sum())}
    for t, values in zip(TIMES, looked.opinion, strict=True):
        result[f"auc_opinion_{t}"] = with_interval(values, looked)
    opinion = looked.opinion.mean(0)
    both = rankdata(opinion) + rankdata(looked.probability)
    for name, scores in (("opinion", opinion), ("probability", looked.probability), ("both", both)):
        result[f"auc_{name}"] = with_interval(scores, looked)
    blind = looked.lesion & (looked.probability < BLIND)
    ceiling = float(np.quantile(opinion[~looked.lesion], 0.95))
    seen = opinion[blind] > ceiling
    result |= {"blind_lesions": int(blind.sum()), "opinion_sees_of_blind": round(float(seen.mean()), 3) if len(seen) else None}
    others = ~looked.lesion | blind
    if 0 < blind.sum():
        result["auc_opinion_of_blind"] = round(auc(opinion[others], looked.lesion[others]), 3)
        result["auc_probability_of_blind"] = round(auc(looked.probability[others], looked.lesion[others]), 3)
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("out", "model", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    painter = Painter.load(given.model)
    cases = [Annotated.of(case, painter.rules) for case in read_dataset(given.data).split("test") if case.mask]
    result = measured(looked_at(painter, cases))
    write_json(make_folder(given.out) / "opinion.json", result)
    for name, value in result.items():
        print(f"{name:28} {json.dumps(value)}")


if __name__ == "__main__":
    main()
