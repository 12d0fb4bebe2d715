"""Train the weights that diffaug ships: a codec and a prior for endoscopy, from images without annotations.

Usage: python runs/release_weights.py IMAGES OUT [MODEL [SEED]]
    IMAGES: a folder of endoscopy images; for the shipped weights the 600 `train` images of Kvasir-SEG, without masks.
    OUT: work folder; OUT/endoscopy is the model folder in float16 (src/diffaug/weights/endoscopy when released).
    MODEL: go on from this model folder: its codec stays as it is, its prior is trained further.
    SEED: of the windows and the noise; another one than before when going on.

Every 20th image is held out of all training and measures codec and prior. Run it again after a kill: it goes on.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from diffaug.config import CodecConfig, DenoiserConfig, FitConfig
from diffaug.data.images import SUFFIXES, read_image
from diffaug.data.seen import NOTHING, Seen, read_seen, write_seen
from diffaug.models.base import LatentInpainter
from diffaug.models.compact import reconstruct
from diffaug.models.loading import load_model
from diffaug.training.codec import measure_codec, train_codec
from diffaug.training.painter import held_out_loss, train_painter
from diffaug.training.starting import untrained_around
from diffaug.training.windows import Rng, Sketch, Windows, drawn, encode_windows, tissue_window

CODEC = CodecConfig(iterations=1600)
DENOISER = DenoiserConfig(iterations=3000, batch_size=32, learning_rate=4e-4)
WINDOWS = 10000
MEASURED = 480  # windows of the held-out images


def tissue_windows(model: LatentInpainter, images: Sequence[Any], count: int, seed: int) -> Windows:
    """Encode windows of tissue with random regions, described by what is measured in them."""

    def tissue(_: int, rng: Rng) -> Sketch:
        return tissue_window(images[int(rng.integers(len(images)))], model.window, model.latent_side, rng)

    return encode_windows(model, drawn(tissue, count, seed))


def painting_loss(prior: LatentInpainter, images: Sequence[Any]) -> float:
    """Return the painting loss of a prior on windows of held-out images, inside the region alone."""
    return held_out_loss(prior, tissue_windows(prior, images, MEASURED, seed=99))


def train_prior(
    model: LatentInpainter, images: Sequence[Any], out: Path, config: DenoiserConfig, count: int, seed: int = 0
) -> LatentInpainter:
    """Train a painter on unannotated tissue in place, and return it."""
    windows = tissue_windows(model, images, count, seed)
    train_painter(model, [(windows, 1.0)], config, out, seed, name="prior")
    return model


def write_list(images: Path, model: Path, start: Path | None = None) -> None:
    """Write the list of the images that a model has seen, held-out ones included, so that studies can tell of them."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    own = Seen.of([], (read_image(path) for path in files))
    before = read_seen(start) if start else NOTHING
    if start and all(before.holds(own.sketches)):
        own = NOTHING
    write_seen(model, before.then(own))


def main(images: Path, out: Path, start: Path | None = None, seed: int = 0) -> None:
    """Train codec, then prior; write the model folder and what was measured."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    held_out = [read_image(path) for path in files[::20]]
    seen = [read_image(path) for index, path in enumerate(files) if index % 20]

    base = load_model(start) if start else None
    codec = base.codec if base else train_codec(seen, CODEC, out).requires_grad_(False)
    measured: dict[str, Any] = {"images": len(files)}
    measured["codec_held_out"] = asdict(measure_codec(partial(reconstruct, codec), held_out, CODEC.window, windows=120))
    if base:
        measured["painting_loss_before"] = round(painting_loss(base, held_out), 4)
    print(json.dumps(measured), flush=True)

    config = FitConfig(codec=CODEC, denoiser=DENOISER)
    prior = train_prior(base or untrained_around(codec, config, seed), seen, out, DENOISER, WINDOWS, seed)
    measured["painting_loss"] = round(painting_loss(prior, held_out), 4)
    for network in prior.networks.values():
        network.half()
    prior.save(out / "endoscopy")
    write_list(images, out / "endoscopy", start)
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]), *(int(argument) for argument in sys.argv[4:5]))
