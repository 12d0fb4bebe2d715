"""What principal components of cells keep of endoscopy windows, before anything is trained.

Two tables: by number of components, and 128 px windows of 8 px cells against 256 px windows of 16 px cells, which have
the same 16 x 16 latents, by what comes back into the frame.

Usage: python benchmarks/codec_components.py IMAGES
    IMAGES: a folder of images; every 20th is held out, the components come from the others.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from diffaug.config import CodecConfig
from diffaug.data.images import SUFFIXES, Pixels, read_image
from diffaug.models.compact import codec_of, reconstruct
from diffaug.painting.window import resize, tensor_from_pixels
from diffaug.training.codec import measure_codec, psnr, sample_windows, start_from_components

CHANNELS = (4, 8, 12, 16, 24)
SIDES = (64, 128, 192, 256, 352)  # px of the frame


def cells_of(windows: torch.Tensor, cell: int) -> torch.Tensor:
    """Return cells as rows, (N h w, 3 cell^2)."""
    return F.pixel_unshuffle(windows, cell).permute(0, 2, 3, 1).flatten(0, 2)


class Components:
    """The principal components of the cells of random windows."""

    def __init__(self, seen: Sequence[Pixels], side: int, cell: int) -> None:
        known = cells_of(sample_windows(seen, side, 0), cell)
        self.side, self.cell, self.mean = side, cell, known.mean(0)
        self.vectors = torch.linalg.eigh((known - self.mean).T @ (known - self.mean))[1].flip(1)

    def passed(self, windows: torch.Tensor, count: int) -> torch.Tensor:
        """Return windows as `count` components keep them, (N, 3, side, side)."""
        basis, cells = self.vectors[:, :count], self.side // self.cell
        kept = (cells_of(windows, self.cell) - self.mean) @ basis @ basis.T + self.mean
        return F.pixel_shuffle(kept.view(len(windows), cells, cells, -1).permute(0, 3, 1, 2), self.cell)


def in_frame(components: Components, frame: Pixels, side: int, count: int) -> float:
    """Return the PSNR (dB) of a frame's middle square of `side` px that went through the window and back."""
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    square = tensor_from_pixels(frame[top : top + side, left : left + side])
    back = resize(components.passed(resize(square, components.side), count), side)
    return float(psnr(back.clamp(-1, 1), square))


def main(images: Path) -> None:
    """Print both tables, and the fidelity of the untrained codec that is set to 16 components."""
    config = CodecConfig()
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    held_out = [read_image(path) for path in files[::20]]
    seen = [read_image(path) for index, path in enumerate(files) if index % 20]
    fresh = sample_windows(held_out, config.window, 1, count=120)
    small, large = Components(seen, config.window, config.cell), Components(seen, 256, 16)
    for count in CHANNELS:
        print(f"{count:2} components: {float(psnr(small.passed(fresh, count), fresh).mean()):.1f} dB")

    print("PSNR in the frame, dB, by window side (px): 128 px windows of 8 px cells | 256 px windows of 16 px cells")
    for count in CHANNELS:
        row = []
        for side in SIDES:
            pair = [sum(in_frame(c, frame, side, count) for frame in held_out) / len(held_out) for c in (small, large)]
            row.append(f"{side}: {pair[0]:.1f} | {pair[1]:.1f}")
        print(f"{count:2} components  " + "   ".join(row))

    torch.manual_seed(0)
    codec = codec_of(config)
    start_from_components(codec, sample_windows(seen, config.window, 0))
    print("untrained codec:", measure_codec(partial(reconstruct, codec), held_out, config.window, windows=120))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
