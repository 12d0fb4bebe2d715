"""Does the denoiser know a lesion when it sees one, and does it see those that the validators are blind for?

Usage: python benchmarks/opinion.py --out DIR --model MODEL --data DATA [--split SPLIT]
    --out    DIR/opinion.json, and the same numbers as a table on stdout.
    --model  a model that was fitted on training cases of DATA.
    --data   a data set; its annotated cases of SPLIT (test unless set) are looked at. For what tunes anything, make a
             data set whose test cases are training cases that the model was not fitted on.

Every lesion is a region in a window, and as many regions of the same kind lie on lesion-free tissue. Noise is added to
the window's latents at several timesteps, and the painter estimates what was there: once told that the region is a
lesion (mask and prompt), and once that it is lesion-free tissue.

    opinion = log (error as tissue / error as a lesion), errors being mean squares of x0_hat - x0 over the region

`outline`: the painter is told the lesion's own mask, or a random shape on tissue. `disc`: it is told a disc about as
large as the lesion that lies about there, or one on tissue: what could be asked where nobody knows the outline.

Probability is the mean of the validators over the mask. Asked is how well each tells lesions from tissue (AUC, with a
95 % bootstrap interval over cases), how well both together do (mean of ranks), and what either makes of the lesions
that the validators see with a probability under BLIND.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from engine import auc
from numpy.typing import NDArray
from scipy.stats import rankdata
from validators import BATCH, asked, maps_of

from diffaug.artifacts import write_json
from diffaug.conditioning.domain import domain_of
from diffaug.data.images import Mask
from diffaug.diffusion.schedule import x_t_from_x0
from diffaug.models.base import LatentInpainter, scale_of
from diffaug.painting.painter import Painter
from diffaug.painting.window import CONTEXT, window_around, window_image, window_mask, window_masks
from diffaug.realism.measures import resampler
from diffaug.training.windows import (
    Annotated,
    Rng,
    Sketch,
    Windows,
    dilated,
    encode_windows,
    extent,
    lesion_window,
    normal_window,
)

LESION = "a lesion"  # the prompt
TIMES = (100, 200, 300, 400, 500, 600, 700, 800)
NOISES = 2  # draws of noise at each timestep
BLIND = 0.1  # probability under which the validators are blind for a lesion
SIZES, OFF = (0.7, 1.1), 0.3  # of a disc: its radius, and how far its centre is from the lesion's, in radii
TRIES, DARK, LIT = 60, 40, 0.9  # places that are tried for tissue; where so much of the disc is brighter, it suits
BAND = 0.15  # of a disc's diameter, around it
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


def outlines(model: LatentInpainter, case: Annotated, number: int, is_lesion: bool, rng: Rng) -> Sketch | None:
    """Return a window with a lesion and its own mask, or with a random shape on lesion-free tissue of the case."""
    if is_lesion:
        return lesion_window(case.alone(number), model.window, model.latent_side, CONTEXT, rng)
    sketch = normal_window(case, model.window, model.latent_side, rng)
    return None if sketch is None else replace(sketch, mask=sketch.region.expand_as(sketch.mask))


def discs(model: LatentInpainter, case: Annotated, number: int, is_lesion: bool, rng: Rng) -> Sketch | None:
    """Return a window with a disc about on a lesion, or with a disc of that size on lit, lesion-free tissue."""
    lesion, shape = case.lesions[number], case.mask.shape
    radius = float(np.sqrt(lesion.sum() / np.pi)) * rng.uniform(*SIZES)
    centre = np.argwhere(lesion).mean(0) + rng.uniform(-OFF, OFF, 2) * radius
    if is_lesion:
        return on_disc(model, case, disc(shape, centre, radius), rng)
    for _ in range(TRIES):
        place = disc(shape, rng.uniform(0, shape), radius)
        if not (place & case.mask).any() and (case.image[place].max(1) > DARK).mean() > LIT:
            return on_disc(model, case, place, rng)
    return None


def disc(shape: tuple[int, ...], centre: NDArray[np.float64], radius: float) -> Mask:
    """Return the pixels within a radius of a centre (row, column), (H, W); one at least."""
    away = np.hypot(*(np.indices(shape) - centre[:, None, None]))
    return np.asarray(away <= max(radius, away.min()))


def on_disc(model: LatentInpainter, case: Annotated, place: Mask, rng: Rng) -> Sketch:
    """Return a window around a disc, which is its mask in every class."""
    window = window_around(place, float(rng.uniform(*CONTEXT)))
    mask = window_mask(place, window, model.window).expand(-1, len(case.masks), -1, -1)
    image, label = window_image(case.image, window, model.window), window_masks(case.masks, window, model.window)
    region = dilated(mask, BAND * extent(mask) + 1)
    return Sketch(image, region, mask, label, scale_of(window.side, place.shape, model.latent_side), "")


KINDS = {"outline": outlines, "disc": discs}


def regions(model: LatentInpainter, cases: Sequence[Annotated], kind: str) -> tuple[Windows, list[str], Mask]:
    """Return windows of every lesion, and of as many regions of lesion-free tissue in the same cases."""
    ids, lesions, sketches = list[str](), list[bool](), list[Sketch]()
    every = [(case, number) for case in cases for number in range(len(case.lesions))]
    for place, (case, number) in enumerate(every):
        for is_lesion in (True, False):
            sketch = KINDS[kind](model, case, number, is_lesion, np.random.default_rng((place, is_lesion)))
            if sketch is not None:
                ids, lesions, sketches = [*ids, case.case.id], [*lesions, is_lesion], [*sketches, sketch]
    return encode_windows(model, sketches), ids, np.array(lesions)


@torch.no_grad()
def errors(model: LatentInpainter, windows: Windows, t: int, prompt: str, share: int, seed: int) -> Values:
    """Return the mean square of x0_hat - x0 over each region, (N,), with the prompt and `share` times the mask."""
    found, generator, text = [], torch.Generator().manual_seed(seed), model.embed([prompt])
    for rows in torch.arange(len(windows)).split(BATCH):
        part, now = windows.rows(rows), torch.full((len(rows),), t)
        x_t = x_t_from_x0(part.x0, torch.randn(part.x0.shape, generator=generator), model.schedule.at(now))
        told = replace(part, mask=share * part.mask).conditioning(text.expand(len(rows), -1, -1))
        square = (model(x_t, now, told) - part.x0).square().mean(1, keepdim=True) * part.region
        found.append(square.sum((1, 2, 3)) / part.region.sum((1, 2, 3)).clamp_min(1))
    return torch.cat(found).double().numpy()


def looked_at(painter: Painter, cases: Sequence[Annotated], kind: str) -> Looked:
    """Return what denoiser and validators make of lesions and of tissue."""
    model = painter.model
    windows, ids, lesions = regions(model, cases, kind)
    silent = domain_of(cases[0].case.class_names, cases[0].rules).normal_prompt
    opinions = []
    for t in TIMES:
        told = [[errors(model, windows, t, *way, seed) for seed in range(NOISES)] for way in ((silent, 0), (LESION, 1))]
        as_tissue, as_lesion = np.mean(told, axis=1)
        opinions.append(np.log(as_tissue / as_lesion))
    found = [maps.amax(1, keepdim=True) for maps in maps_of(painter, windows.x0, 0)]
    inside = windows.fine_mask.amax(1, keepdim=True)
    probability = (torch.stack(found).mean(0) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1e-6)
    return Looked(ids, lesions, probability.double().numpy(), np.stack(opinions))


def with_interval(scores: Values, looked: Looked) -> list[float]:
    """Return the AUC and its 95 % bootstrap interval over cases."""
    rng, draw, draws = np.random.default_rng(0), resampler(looked.case), []
    for _ in range(500):
        chosen = draw(rng)
        found = auc(scores[chosen], looked.lesion[chosen])
        if found is not None:
            draws.append(found)
    values = np.array([auc(scores, looked.lesion), *np.percentile(draws, [2.5, 97.5])], dtype=np.float64)
    return [round(float(value), 3) for value in values]


def measured(looked: Looked) -> dict[str, Any]:
    """Return every number of a kind of regions; see the top."""
    result: dict[str, Any] = {"lesions": int(looked.lesion.sum()), "tissue": int((~looked.lesion).sum())}
    for t, values in zip(TIMES, looked.opinion, strict=True):
        result[f"auc_opinion_{t}"] = with_interval(values, looked)
    opinion = looked.opinion.mean(0)
    both = rankdata(opinion) + rankdata(looked.probability)
    for name, scores in (("opinion", opinion), ("probability", looked.probability), ("both", both)):
        result[f"auc_{name}"] = with_interval(scores, looked)
    blind = looked.lesion & (looked.probability < BLIND)
    result["blind_lesions"] = int(blind.sum())
    if blind.any():
        others = ~looked.lesion | blind
        result["auc_opinion_of_blind"] = auc(opinion[others], looked.lesion[others])
        result["auc_probability_of_blind"] = auc(looked.probability[others], looked.lesion[others])
    return result


def main() -> None:
    """Run from the command line."""
    painter, cases, out = asked(__doc__)
    result = {kind: measured(looked_at(painter, cases, kind)) for kind in KINDS}
    write_json(out / "opinion.json", result)
    for kind, numbers in result.items():
        for name, value in numbers.items():
            print(f"{kind:8} {name:28} {json.dumps(value)}")


if __name__ == "__main__":
    main()
