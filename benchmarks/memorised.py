"""Does the shipped prior show the images again that it was trained on?

Usage: python benchmarks/memorised.py --out DIR [--data DATA] [--quick]
    --out    DIR/memorised.json, and the pairs that are most alike as DIR/pairs.png: painted windows over training ones.
    --data   the data set whose training images the prior was trained on; unset: DIFFAUG_DATA/kvasir-seg is imported.
    --quick  phantoms and a few windows: shows that it runs, not what it measures.

The prior paints lesions from noise into frames of val and test, which it has not seen. Two questions are asked, in
features of an ImageNet encoder inside the mask, over turns and mirrors:

    copy_share       share of painted windows that are nearer to a training window than the 5 % quantile of real ones
                     is: 0.05 where painted windows are like fresh real ones. Smooth or typical windows are near to
                     everything, so this may be more without any copying.
    nearer_training  share of painted windows whose nearest training window is nearer than their nearest window of as
                     many unseen frames: 0.5 where the prior remembers nothing, 1 where it copies (the distance to the
                     closest record, against that of a holdout). `nearer_training_real` is the same of real windows.

Intervals are 95 % bootstrap intervals over frames. `painter.py` measures the same for the prior, beside a fitted model.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist

from diffaug.artifacts import make_folder, write_json
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.importing import import_dataset
from diffaug.data.phantom import make_phantoms
from diffaug.diffusion.sampler import sample
from diffaug.models.base import LatentInpainter
from diffaug.models.loading import load_model
from diffaug.realism.features import lesion_features
from diffaug.realism.measures import resampler
from diffaug.training.starting import SHIPPED
from diffaug.training.windows import drawn, encode_windows, tissue_window

PER_FRAME = 10  # windows of a frame that painted ones are compared with
PARTS = 3  # into which training frames are divided, so that each has about as many as the unseen frames
BATCH = 50  # windows that are painted at once
PAIRS = 12  # that are shown
Features = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of frames.

    Attributes:
        images: (N, 3, S, S) in [0, 1].
        masks: (N, 1, S, S).
        frames: Id of the frame of each.
    """

    images: torch.Tensor
    masks: torch.Tensor
    frames: Sequence[str]


def turned_features(images: torch.Tensor, masks: torch.Tensor) -> Features:
    """Return features under four quarter turns, with and without a mirror: (8, N, D)."""
    rows = []
    for turn in range(4):
        for mirror in (False, True):
            turned = [torch.rot90(x, turn, (2, 3)) for x in (images, masks)]
            rows.append(window_features(*([x.flip(3) for x in turned] if mirror else turned)))
    return np.stack(rows)


def window_features(images: torch.Tensor, masks: torch.Tensor) -> Features:
    """Return the encoder's features of windows, (N, 3, S, S) in [0, 1], and masks, (N, 1, S, S): (N, D)."""
    return np.stack([lesion_features(*pair) for pair in zip(images.split(1), masks.split(1), strict=True)])


def nearest_rows(rows: Features, known: Features, scale: Features | None = None) -> Features:
    """Return the least distance of each of N points (8, N, D) to known ones (M, D), standardised by those or others."""
    deviation = (known if scale is None else scale).std(0) + 1e-6
    least: Features = np.stack([cdist(turned / deviation, known / deviation).min(1) for turned in rows]).min(0)
    return least


def copies(painted: Features, held_out: Features, prefix: str = "") -> dict[str, float]:
    """Return the share of painted nearer to training than the 5 % quantile of held-out, and its interval's lower end.

    A bootstrap over both sets: the quantile is an estimate too.
    """
    rng = np.random.default_rng(0)

    def share(a: Features, b: Features) -> float:
        return float((a < np.quantile(b, 0.05)).mean())

    draws = [share(rng.choice(painted, len(painted)), rng.choice(held_out, len(held_out))) for _ in range(1000)]
    low = float(np.percentile(draws, 2.5))
    return {f"{prefix}copy_share": round(share(painted, held_out), 3), f"{prefix}copy_share_low": round(low, 3)}


def audit_prior(
    training: Sequence[Case], unseen: Sequence[Case], count: int, sheet: Path | None = None
) -> dict[str, Any]:
    """Return how near what the shipped prior paints is to the frames that it was trained on; see the top.

    Args:
        training: Cases that the prior was trained on.
        unseen: Cases that it was not; half of them are painted into, and the others are what training is compared with.
        count: Windows to paint.
        sheet: Where the pairs that are most alike are drawn.
    """
    prior, order = load_model(SHIPPED), np.random.default_rng(0).permutation(len(unseen))
    into, others = ([unseen[place] for place in half] for half in np.array_split(order, 2))
    painted, passed = _painted(prior, into, count)
    known = [_windows(prior, training[part::PARTS], seed=part) for part in range(PARTS)]
    trained = [window_features(one.images, one.masks) for one in known]
    fresh = _windows(prior, others, seed=PARTS)
    compared = window_features(fresh.images, fresh.masks)
    found = {name: turned_features(one.images, one.masks) for name, one in (("", painted), ("_real", passed))}
    every = np.concatenate(trained)
    to_training = {name: nearest_rows(turned, every) for name, turned in found.items()}
    result: dict[str, Any] = copies(to_training[""], to_training["_real"], prefix="prior_")
    for name, turned in found.items():
        share, interval = share_nearer(turned, trained, compared, painted.frames)
        result |= {f"prior_nearer_training{name}": share, f"prior_nearer_training{name}_interval": interval}
    if sheet is not None:
        _pairs(painted, found[""], known, every, to_training[""]).save(sheet)
    return result | {
        "prior_windows": count,
        "prior_training_windows": len(every),
        "prior_unseen_windows": len(compared),
    }


def share_nearer(
    turned: Features, trained: Sequence[Features], unseen: Features, frames: Sequence[str]
) -> tuple[float, tuple[float, float]]:
    """Return the share of windows that are nearer to training than to unseen frames, with its interval over frames.

    Args:
        turned: The windows, (8, N, D).
        trained: Parts of the training windows, each (M, D); the share is the mean over parts.
        unseen: Windows of unseen frames; each part is compared with as many.
        frames: The frame of each of the N.
    """
    scale, size = np.concatenate([*trained, unseen]), min(map(len, (*trained, unseen)))
    away = nearest_rows(turned, unseen[:size], scale)
    nearer = np.mean([nearest_rows(turned, part[:size], scale) < away for part in trained], axis=0)
    draw, rng = resampler(frames), np.random.default_rng(0)
    low, high = np.percentile([nearer[draw(rng)].mean() for _ in range(1000)], [2.5, 97.5])
    return round(float(nearer.mean()), 3), (round(float(low), 3), round(float(high), 3))


def _painted(prior: LatentInpainter, cases: Sequence[Case], count: int) -> tuple[Windows, Windows]:
    """Return what the prior paints into windows of frames, and the same windows as its codec passes them on."""
    fresh = _sketches(prior, cases, count, seed=1)
    images: dict[str, list[torch.Tensor]] = {"painted": [], "passed": []}
    for start in range(0, count, BATCH):
        told = encode_windows(prior, [sketch for sketch, _ in fresh[start : start + BATCH]])
        numbers = range(start, min(start + BATCH, count))
        with torch.no_grad():
            conditioning = told.conditioning(prior.embed_tokens(told.tokens))
            *_, last = sample(prior, prior.noise(numbers), conditioning, prior.schedule, 8)
            for name, latents in (("painted", last.x_next), ("passed", told.x0)):
                images[name].append(((prior.decode(latents) + 1) / 2).clamp(0, 1))
    masks, frames = torch.cat([sketch.mask for sketch, _ in fresh]), [frame for _, frame in fresh]
    painted, passed = (Windows(torch.cat(some), masks, frames) for some in images.values())
    return painted, passed


def _windows(prior: LatentInpainter, cases: Sequence[Case], seed: int) -> Windows:
    found = _sketches(prior, cases, PER_FRAME * len(cases), seed)
    images, masks = torch.cat([(one.image + 1) / 2 for one, _ in found]), torch.cat([one.mask for one, _ in found])
    return Windows(images, masks, [frame for _, frame in found])


def _sketches(prior: LatentInpainter, cases: Sequence[Case], count: int, seed: int) -> list[tuple[Any, str]]:
    """Return windows with masks in tissue of frames drawn at random, each with the id of its frame."""
    frames = [(case.read_image(), case.id) for case in cases]

    def make(_: int, rng: np.random.Generator) -> tuple[Any, str]:
        frame, name = frames[int(rng.integers(len(frames)))]
        return tissue_window(frame, prior.window, prior.latent_side, rng), name

    return list(drawn(make, count, seed))


def _pairs(
    painted: Windows, turned: Features, known: Sequence[Windows], every: Features, distances: Features
) -> Image.Image:
    """Return the painted windows that are nearest to training, the training window below each."""
    scale = every.std(0) + 1e-6
    images = torch.cat([one.images for one in known])
    columns = []
    for place in np.argsort(distances)[:PAIRS]:
        twin = int(cdist(turned[:, place] / scale, every / scale).min(0).argmin())
        columns.append(torch.cat([painted.images[place], images[twin]], dim=1))
    pixels = torch.cat(columns, dim=2).permute(1, 2, 0).numpy()
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def import_kvasir(out: Path) -> None:
    """Import Kvasir-SEG from DIFFAUG_DATA."""
    folder = os.environ.get("DIFFAUG_DATA")
    if not folder:
        raise SystemExit("real images are needed: DIFFAUG_DATA is not set; set it, or give --data or --quick")
    import_dataset("kvasir-seg", Path(folder) / "kvasir-seg", out, progress="importing")


def main() -> None:
    """Measure, and write memorised.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    out = make_folder(given.out)
    data = given.data or out / "data"
    if not (data / "cases.csv").is_file():
        make_phantoms(data, 9, 3, 3, 0, size=128, seed=0) if given.quick else import_kvasir(data)
    dataset = read_dataset(data)
    unseen = [*dataset.split("val"), *dataset.split("test")]
    found = audit_prior(dataset.split("train"), unseen, 8 if given.quick else 200, out / "pairs.png")
    write_json(out / "memorised.json", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
