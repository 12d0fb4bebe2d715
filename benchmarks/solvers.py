"""How many steps each solver needs: distance of a few steps from many, on tissue that the shipped prior paints.

Usage: python benchmarks/solvers.py IMAGES [--windows N] [--reference STEPS] [--quick]
    IMAGES  a folder of endoscopy images; every 20th is used, which are those that the shipped prior has not seen.

Every solver starts from the same noise; the limit is what `--reference` steps of ab2 make of it. Distance: mean squared
difference inside the region, latents having unit variance. Detail: standard deviation of all but the three coarsest
latent channels, over that of the limit; under 1 is too smooth.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from diffaug.config import SamplerConfig
from diffaug.data.images import SUFFIXES, read_image
from diffaug.diffusion.sampler import Solver, sample
from diffaug.models.loading import load_model
from diffaug.painting.painter import guided
from diffaug.training.starting import SHIPPED
from diffaug.training.windows import drawn, encode_windows, tissue_window

COARSE = 3  # channels: about the colour of a cell
STEPS = (6, 8, 10, 20, 50)
SAMPLER = SamplerConfig(guidance=(3.0, 1.5))  # as sampling from noise alone wants it


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--reference", type=int, default=100)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    count, reference, counts = (2, 4, (1, 2)) if given.quick else (given.windows, given.reference, STEPS)

    painter = load_model(SHIPPED)
    files = sorted(path for path in given.images.iterdir() if path.suffix.lower() in SUFFIXES)
    frames = [read_image(path) for path in files[::20]]

    def tissue(_: int, rng: Any) -> Any:
        return tissue_window(frames[int(rng.integers(len(frames)))], painter.window, painter.latent_side, rng)

    windows = encode_windows(painter, drawn(tissue, count, 5))
    with torch.no_grad():
        told = windows.conditioning(painter.embed_tokens(windows.tokens))
    denoiser, noise = guided(painter, SAMPLER), painter.noise(range(count))

    def painted(steps: int, solver: Solver) -> Tensor:
        *_, last = sample(denoiser, noise, told, painter.schedule, steps, solver)
        return last.x_next

    limit, region = painted(reference, "ab2"), told.region.bool().expand_as(noise)
    fine = region.clone()
    fine[:, :COARSE] = False
    print(f"{count} windows, guidance {SAMPLER.guidance}, limit: {reference} steps of ab2")
    for steps in counts:
        for solver in get_args(Solver):
            found = painted(steps, solver)
            distance = float(((found - limit)[region] ** 2).mean())
            detail = float(found[fine].std() / limit[fine].std())
            print(f"{steps:3} {solver:6} distance {distance:.4f}  detail {detail:.3f}", flush=True)


if __name__ == "__main__":
    main()
