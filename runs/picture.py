"""Draw the picture of the README from a finished run on phantoms: backgrounds with the outlines of masks, and results.

Usage: python runs/picture.py out/demo/n40-draw0 docs/phantoms.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, Pixels, read_image, read_mask, write_png
from diffaug.data.manifest import read_manifest

COLUMNS, SIDE = 6, 200
PARTS = (("image", read_image), ("mask", read_mask))  # of a row of the manifest


def outlined(image: Pixels, mask: Mask) -> Pixels:
    """Return the image with a green outline of the mask."""
    shown = image.copy()
    shown[mask & ~ndimage.binary_erosion(mask, iterations=2)] = (0, 230, 80)
    return shown


def main(run: Path, to: Path) -> None:
    """Draw kept cases in order, one in each column and each background once."""
    dataset = read_dataset(run / "data")
    columns: dict[str, Pixels] = {}
    for row in read_manifest(run / "synthetic").rows:
        kept = row.decision == "kept" and not row.request.negative
        if kept and row.request.background not in columns and len(columns) < COLUMNS:
            background = dataset.case(row.request.background).read_image()
            painted, mask = (read(run / "synthetic" / getattr(row, name)) for name, read in PARTS)
            pair = (outlined(background, mask), painted)
            small = [np.asarray(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for part in pair]
            columns[row.request.background] = np.vstack(small)
    write_png(to, np.hstack(list(columns.values())))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
