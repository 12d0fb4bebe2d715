"""What principal components of 8 x 8 px cells keep of endoscopy windows, before anything is trained.

Usage: python benchmarks/codec_components.py IMAGES
    IMAGES: a folder of images; every 20th is held out, the components come from the others.
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from diffaug.config import CodecConfig
from diffaug.data.case import SUFFIXES, read_image
from diffaug.models.compact import codec_of
from diffaug.training.codec import measure_codec, psnr, sample_windows, start_from_components


def main(images: Path) -> None:
    """Print PSNR by number of components, and of the untrained codec that is set to 16 of them."""
    config = CodecConfig()
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    held_out = [read_image(path) for path in files[::20]]
    seen = [read_image(path) for index, path in enumerate(files) if index % 20]

    def cells(windows: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(windows, config.cell).permute(0, 2, 3, 1).flatten(0, 2)

    known, fresh = cells(sample_windows(seen, config.window, 0)), sample_windows(held_out, config.window, 1, count=120)
    mean = known.mean(0)
    vectors = torch.linalg.eigh((known - mean).T @ (known - mean))[1].flip(1)
    side = config.window // config.cell
    for count in (4, 8, 12, 16, 24):
        basis = vectors[:, :count]
        kept = (cells(fresh) - mean) @ basis @ basis.T + mean
        image = F.pixel_shuffle(kept.view(len(fresh), side, side, -1).permute(0, 3, 1, 2), config.cell)
        print(f"{count:2} components: {float(psnr(image, fresh).mean()):.1f} dB")

    torch.manual_seed(0)
    codec = codec_of(config)
    start_from_components(codec, seen, config.window)
    print("untrained codec:", measure_codec(codec, held_out, config.window, windows=120))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
