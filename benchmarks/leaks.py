"""How much does a careless split flatter a segmentation model, where frames come in sequences?

    python benchmarks/leaks.py DATA --out OUT

Kvasir-SEG has no sequences and hardly a repeated frame, so both are made: each of some annotated training cases becomes
a few frames, as if the camera moved, turned and came nearer, which share a group; of every third, one frame is saved
once more, compressed, under a group of its own, as where a frame was annotated twice. `diffaug study --leaks` then
trains and tests `real` under each way to divide them. Real neighbours differ by less or by more than these do: read
the result as what can happen, and run the same on data that has sequences. `val` and `test` are never opened.
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from diffaug.config import UNET, StudyConfig
from diffaug.data.case import Case
from diffaug.data.folder import new_dataset, read_dataset, write_cases
from diffaug.study.leaks import leak_study

TURN = 12.0  # degrees either way
NEAR = (0.7, 0.95)  # side of a view over that of the frame
LIGHT = 0.15  # share by which a view is lighter or darker
REPEATED = 3  # of so many sequences one has a frame saved twice
QUALITY = 70  # of its JPEG


def view(picture: Image.Image, turn: float, near: float, row: float, column: float) -> Image.Image:
    """Return what a camera sees that turned (degrees) and came near, `row` and `column` (0 to 1) into the room left."""
    nearest, soft = Image.Resampling.NEAREST, picture.mode == "RGB"
    turned = picture.rotate(turn, Image.Resampling.BILINEAR if soft else nearest)
    width, height = picture.size
    left, top = column * (1 - near) * width, row * (1 - near) * height
    box = (left, top, left + near * width, top + near * height)
    return turned.resize(picture.size, Image.Resampling.BICUBIC if soft else nearest, box)


def compressed(picture: Image.Image) -> Image.Image:
    """Return a picture as JPEG gives it back."""
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=QUALITY)
    return Image.open(memory).convert("RGB")


def frames(case: Case, count: int, rng: np.random.Generator) -> list[tuple[Image.Image, Image.Image]]:
    """Return views of a case with their masks; those that lost the lesion are drawn anew."""
    image, mask = Image.fromarray(case.read_image()), Image.fromarray(case.read_mask().astype(np.uint8) * 255)
    made: list[tuple[Image.Image, Image.Image]] = []
    while len(made) < count:
        place = (rng.uniform(-TURN, TURN), rng.uniform(*NEAR), rng.random(), rng.random())
        seen, found = view(image, *place), view(mask, *place)
        if np.asarray(found).any():
            lit = np.asarray(seen, dtype=np.float32) * (1 + rng.uniform(-LIGHT, LIGHT))
            made.append((Image.fromarray(lit.clip(0, 255).astype(np.uint8)), found))
    return made


def make_sequences(cases: list[Case], to: Path, count: int, seed: int) -> None:
    """Write a data set of sequences, one of each case."""
    with new_dataset(to) as folder:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        made: list[Case] = []

        def write(case: Case, name: str, group: str, image: Image.Image, mask: Image.Image) -> None:
            files = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
            image.save(files[0])
            mask.save(files[1])
            made.append(replace(case, id=name, group=group, image=files[0], mask=files[1], split="train"))

        for index, case in enumerate(cases):
            views = frames(case, count, np.random.default_rng((seed, index)))
            for number, (image, mask) in enumerate(views):
                write(case, f"{case.id}-{number}", case.id, image, mask)
            if index % REPEATED == 0:
                write(case, f"{case.id}-again", f"{case.id}-again", compressed(views[0][0]), views[0][1])
        write_cases(folder, made)


def main() -> None:
    """Print Dice of each way, and how much it flatters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a data set; its annotated training cases are read")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=60)
    parser.add_argument("--frames", type=int, default=4, help="of a sequence")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=StudyConfig().iterations)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two iterations of a tiny network: does it run?")
    options = parser.parse_args()
    cases = [case for case in read_dataset(options.data).split("train") if case.mask][: options.sequences]
    make_sequences(cases, options.out / "sequences", options.frames, options.seed)
    config = StudyConfig(arms=("real",), iterations=options.iterations, workers=options.workers)
    if options.quick:
        tiny = StudyConfig(network=UNET, size=64, widths=(8, 8, 8, 8, 8), batch_size=4, iterations=2, seeds=1)
        config = tiny.model_copy(update={"arms": config.arms, "workers": config.workers})
    found = leak_study(options.out / "sequences", options.out, config, folds=options.folds, seed=options.seed)
    print(f"{found['groups']} groups, {found['cases']} frames, {len(found['repeated'])} pairs look the same")
    for way, one in found["ways"].items():
        dice, more = one["dice"], one["flattered"]
        print(
            f"{way}: Dice {dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}], "
            f"{100 * more['mean']:+.1f} points [{100 * more['low']:.1f}, {100 * more['high']:.1f}]"
        )


if __name__ == "__main__":
    main()
