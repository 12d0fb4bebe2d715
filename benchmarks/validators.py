"""Do the validators find real lesions that they have not seen, and do they tell right masks from wrong ones?

Usage: python benchmarks/validators.py --out DIR --model MODEL --data DATA [--split SPLIT]
    --out    DIR/validators.json, and the same numbers as a table on stdout.
    --model  a model that was fitted on training cases of DATA.
    --data   a data set; its annotated cases of SPLIT (test unless set) are looked at. For what tunes anything, make a
             data set whose test cases are training cases that the model was not fitted on.

Every lesion is looked at in a window as it is painted in, by every validator:

    agreement       with its own mask: mean, and the 5 % quantile, which is about the threshold of the gate
    under_floor     share of real lesions with less than the floor of 0.3
    halfway         mean agreement of the painter's estimates after the first step of its sampler
    auc             chance that a lesion agrees better with its own mask than another lesion with a wrong mask: moved by
                    half to all of its size, shrunk to 0.35 to 0.6, or grown to 1.6 to 2.2 times its size
    caught          share of each kind of wrong masks under the 5 % quantile of right ones
    frames          Dice of whole frames as `diffaug segment` finds lesions in them, with a 95 % interval over cases
    look_ms         of a window by one validator, in milliseconds of one thread
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import auc, moved
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from diffaug.artifacts import make_folder, write_json
from diffaug.data.folder import read_dataset
from diffaug.painting.painter import Painter, guided
from diffaug.painting.window import CONTEXT
from diffaug.realism.measures import resampler
from diffaug.synthesis.segment import lesion_probabilities
from diffaug.training.validation import estimates
from diffaug.training.windows import Annotated, Rng, Sketch, Windows, encode_windows, lesion_window
from diffaug.validator.calibration import agreement
from diffaug.validator.latent_segmenter import segment

FLOOR, LOST = 0.3, 0.05
KINDS = ("shifted", "shrunk", "grown")
SMALLEST = 4  # pixels at the validators' side that a wrong mask has at least
BATCH = 32
Values = NDArray[np.float64]


def lesions_of(painter: Painter, cases: Sequence[Annotated]) -> Windows:
    """Return a window of every lesion."""
    model, alone = painter.model, [case.alone(number) for case in cases for number in range(len(case.lesions))]

    def sketch(number: int, rng: Rng) -> Sketch:
        return lesion_window(alone[number], model.window, model.latent_side, CONTEXT, rng)

    return encode_windows(model, (sketch(number, np.random.default_rng((13, number))) for number in range(len(alone))))


def maps_of(painter: Painter, latents: Tensor, t: int) -> list[Tensor]:
    """Return what each validator finds in latents at a timestep, (N, K, s, s)."""
    times = torch.full((len(latents),), t)
    parts = list(zip(latents.split(BATCH), times.split(BATCH), strict=True))
    return [torch.cat([segment(network, *part) for part in parts]) for network in painter.validators]


def agreements(maps: Sequence[Tensor], masks: Tensor, regions: Tensor) -> Values:
    """Return the agreement of each lesion with a mask, (V, N), a row for each validator."""
    return torch.stack([agreement(found, masks, regions) for found in maps]).double().numpy()


def wrong_masks(windows: Windows, kind: str) -> tuple[list[int], Tensor, Tensor]:
    """Return wrong masks of a kind, and regions that hold them: rows, (M, K, s, s) and (M, 1, s, s)."""
    rows, masks, regions, rng = list[int](), list[Tensor](), list[Tensor](), np.random.default_rng(3)
    for row, own in enumerate(windows.fine_mask):
        right = (own.amax(0) > 0.5).numpy()
        tries = (moved(right, kind, rng) for _ in range(20)) if right.sum() >= SMALLEST else ()
        wrong = next((mask for mask in tries if mask.sum() >= SMALLEST), None)
        if wrong is not None:
            mask = torch.from_numpy(wrong)[None, None].float()
            rows, masks = [*rows, row], [*masks, mask.expand(-1, len(own), -1, -1)]
            regions.append(torch.maximum(windows.fine_region[row, None], F.max_pool2d(mask, 5, 1, 2)))
    return rows, torch.cat(masks), torch.cat(regions)


def frame_dice(painter: Painter, cases: Sequence[Annotated]) -> list[float]:
    """Return the mean Dice of whole frames, and its 95 % bootstrap interval over cases."""
    dice = []
    for case in cases:
        found = (lesion_probabilities(painter, case.image) > 0.5).any(0)
        both = found.sum() + case.mask.sum()
        dice.append(2 * float((found & case.mask).sum()) / float(both) if both else 1.0)
    values, draw, rng = np.array(dice), resampler([case.case.group for case in cases]), np.random.default_rng(0)
    draws = [values[draw(rng)].mean() for _ in range(1000)]
    return [round(float(value), 3) for value in (values.mean(), *np.percentile(draws, [2.5, 97.5]))]


def measured(painter: Painter, cases: Sequence[Annotated]) -> dict[str, Any]:
    """Return every number; see the top."""
    windows = lesions_of(painter, cases)
    started = time.process_time()
    maps = maps_of(painter, windows.x0, 0)
    look = 1000 * (time.process_time() - started) / len(maps) / len(windows)
    right = agreements(maps, windows.fine_mask, windows.fine_region)
    sampler, model = painter.sampler, painter.model
    t = int(model.schedule.timesteps(sampler.steps, sampler.strength)[0])
    guess = estimates(model, windows, torch.full((len(windows),), t), 0, denoiser=guided(model, sampler))
    halfway = agreements(maps_of(painter, guess, t), windows.fine_mask, windows.fine_region)
    threshold = float(np.quantile(right, LOST))
    result: dict[str, Any] = {
        "lesions": len(windows),
        "agreement": float(right.mean()),
        "agreement_quantile": threshold,
        "under_floor": float((right < FLOOR).mean()),
        "halfway": float(halfway.mean()),
    }
    for kind in KINDS:
        rows, masks, regions = wrong_masks(windows, kind)
        wrong = agreements([found[rows] for found in maps], masks, regions)
        good = np.arange(right.size + wrong.size) < right.size
        result[f"auc_{kind}"] = auc(np.concatenate([right.ravel(), wrong.ravel()]), good)
        result[f"caught_{kind}"] = float((wrong < threshold).mean())
    result |= {"look_ms": look, "frames": frame_dice(painter, cases)}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def asked(about: str | None) -> tuple[Painter, list[Annotated], Path]:
    """Return what a command line names: a model, the cases it is measured on, and the folder of the numbers."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("out", "model", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    torch.set_num_threads(1)
    painter = Painter.load(given.model)
    cases = [Annotated.of(case, painter.rules) for case in read_dataset(given.data).split(given.split) if case.mask]
    return painter, cases, make_folder(given.out)


def main() -> None:
    """Run from the command line."""
    painter, cases, out = asked(__doc__)
    result = measured(painter, cases)
    write_json(out / "validators.json", result)
    for name, value in result.items():
        print(f"{name:20} {json.dumps(value)}")


if __name__ == "__main__":
    main()
