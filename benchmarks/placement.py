"""Where masks are put: violations, lesions per frame and their sizes beside the real ones. Requests alone, no painter.

Usage: python benchmarks/placement.py --out DIR [--data FOLDER] [--count 200] [--quick]
       [--place P] [--domain D]
    --out    DIR/placement.json, the same as a table on stdout, and sheet-1.png, ...: the new mask in green, old lesions
             that are painted over in yellow, those that stay in red, everything outside the field of view blue.
    --data   a folder of images/ and masks/ with the same stems; unset: DIFFAUG_DATA/kvasir-seg/train.
    --place, --domain  as in `diffaug generate`.
    --quick  phantoms with a drawn overlay, in seconds.

A violation is a new mask of which more than 1 % lies on black border, on an overlay, on text, or on a lesion that
stays. They are found here by other rules than placement's own: black pixels joined to the frame's edge, colours and
flat greys that tissue does not have, and marks that stand still from frame to frame.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from descriptions import cases_in
from PIL import Image, ImageDraw
from scipy import ndimage

from diffaug.artifacts import make_folder, write_json
from diffaug.conditioning.attributes import band_width
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.placement import BAND
from diffaug.conditioning.rule_learning import learn_rules
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, Pixels, write_png
from diffaug.data.lesions import CORNERS, components
from diffaug.data.phantom import make_phantoms
from diffaug.painting.compose import region_of

SIDE, COLUMNS, ROWS = 240, 6, 5  # px of a tile, tiles of a sheet
BLACK = 10  # of 255; darker pixels joined to the frame's edge are border
GAP = 30  # green or blue above red by this much is an overlay
TOUCH = 0.01  # share of the new mask from which on it counts as touching
STILL = 0.10  # share of the frames with the same mark at the same place
KINDS = ("border", "overlay", "text", "lesion")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def border(image: Pixels) -> Mask:
    """Find black pixels joined to the frame's edge."""
    black = np.pad(image.max(axis=2) <= BLACK, 1, constant_values=True)
    labels, _ = ndimage.label(black)
    return np.asarray((labels == labels[0, 0])[1:-1, 1:-1])


def overlay(image: Pixels) -> Mask:
    """Find pixels of colours that tissue does not have, and flat grey surfaces, in patches of 3 x 3 at least."""
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    odd = np.maximum(green, blue) > red + GAP
    spread = ndimage.maximum_filter(image, (7, 7, 1)).astype(int) - ndimage.minimum_filter(image, (7, 7, 1))
    flat = (spread.max(axis=2) <= 4) & (np.ptp(image, axis=2) <= 6) & (image.max(axis=2) > 40) & (image.min(2) < 220)
    return np.asarray(ndimage.binary_opening(odd, CORNERS) | ndimage.binary_opening(flat, np.ones((9, 9))))


def marks(image: Pixels) -> Mask:
    """Find pixels brighter than what is left of their surroundings by a median."""
    grey = image.mean(axis=2)
    return np.asarray((grey - ndimage.median_filter(grey, 9) > 18) & (np.ptp(image, axis=2) < 110))


class Texts:
    """Marks that stand still over the frames of one size."""

    def __init__(self, cases: Sequence[Case], most: int = 150) -> None:
        self.sums: dict[tuple[int, ...], Any] = {}
        self.frames: Counter[tuple[int, ...]] = Counter()
        for case in cases[:: -(-len(cases) // most)]:
            found = marks(case.read_image())
            self.sums[found.shape] = self.sums.get(found.shape, 0.0) + found.astype(float)
            self.frames[found.shape] += 1

    def on(self, image: Pixels) -> Mask:
        """Return the marks of an image that stand still; none where fewer than 20 frames tell."""
        found = marks(image)
        if self.frames[found.shape] < 20:
            return np.zeros_like(found)
        return np.asarray(found & (self.sums[found.shape] / self.frames[found.shape] > STILL))


def touching(new: Mask, forbidden: dict[str, Mask]) -> dict[str, float]:
    """Return the share of a mask on what it must not touch, by kind."""
    return {kind: float((new & there).sum() / new.sum()) for kind, there in forbidden.items()}


def areas(mask: Mask) -> list[float]:
    """Return the shares of the frame of a mask's lesions."""
    return [lesion.relative_area for lesion in components(mask)]


def distribution(frames: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return lesions per frame and the quantiles of their areas, in percent of the frame."""
    counts = Counter(min(len(areas), 3) for areas in frames)
    areas = [100 * area for one in frames for area in one]
    return {
        "lesions_per_frame": round(float(np.mean([len(one) for one in frames])), 3),
        "frames_with": {str(n): round(counts[n] / len(frames), 3) for n in (1, 2, 3)},
        "area_quantiles_percent": [round(float(q), 2) for q in np.quantile(areas, QUANTILES)],
    }


def tile(image: Pixels, field: Mask, outlines: Sequence[tuple[Mask, tuple[int, int, int]]], text: str) -> Image.Image:
    """Return a frame with what lies outside the field of view tinted, and masks outlined."""
    drawn = np.where(field[..., None], image, image // 2 + np.array([0, 0, 110], np.uint8)).astype(np.uint8)
    width = max(1, max(field.shape) // SIDE)
    for mask, colour in outlines:
        drawn[mask & ~ndimage.binary_erosion(mask, CORNERS, iterations=width, border_value=1)] = colour
    picture = Image.fromarray(drawn).resize((SIDE, SIDE), Image.Resampling.BOX)
    ImageDraw.Draw(picture).text((3, 3), text, fill="yellow")
    return picture


def write_sheets(tiles: Sequence[Image.Image], out: Path) -> None:
    """Write the tiles, COLUMNS x ROWS to a sheet."""
    for start in range(0, len(tiles), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
        for index, drawn in enumerate(tiles[start : start + COLUMNS * ROWS]):
            sheet.paste(drawn, (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
        sheet.save(out / f"sheet-{1 + start // (COLUMNS * ROWS)}.png")


def measure(cases: Sequence[Case], count: int, config: GenerateConfig, out: Path) -> dict[str, Any]:
    """Draw requests, write the sheets, and return what is measured."""
    drawer, texts = RequestDrawer(cases, 0, config, rules=learn_rules(cases).rules), Texts(cases)
    tiles, worst, violations, labels = [], dict.fromkeys((*KINDS, "painted border"), 0.0), Counter[str](), []
    placements = Counter[str]()
    for index in range(count):
        request = drawer.draw(index)
        masks, lesion = drawer.masks(request), drawer.backgrounds.lesion(request.background)
        image, field = (
            drawer.cases[request.background].read_image(),
            drawer.backgrounds.field(request.background),
        )
        black = border(image)
        stays = lesion & ~masks.old & (request.placement != "removed")
        forbidden = {"border": black, "overlay": overlay(image), "text": texts.on(image), "lesion": stays}
        found = touching(masks.new, forbidden)
        region = region_of(masks.new, masks.old, band_width(masks.new, BAND)) & field
        found["painted border"] = float((region & black).sum() / region.sum())
        worst = {kind: max(worst[kind], share) for kind, share in found.items()}
        bad = [kind for kind, share in found.items() if share > TOUCH]
        violations.update(bad)
        placements[request.placement] += 1
        labels.append(areas(masks.label))
        old = lesion & ~stays
        outlines = [(stays, (255, 0, 0)), (old, (255, 220, 0)), (masks.new, (0, 255, 0))]
        tiles.append(tile(image, field, outlines, f"{index} {request.placement} {' '.join(bad)}"))
    write_sheets(tiles, out)
    return {
        "placements": dict(placements),
        "violations": {kind: violations[kind] for kind in worst},
        "worst_share": {kind: round(share, 4) for kind, share in worst.items()},
        "painted": distribution(labels),
        "real": distribution([areas(case.read_mask()) for case in cases]),
    }


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text."""
    lines = [", ".join(f"{count} {place}" for place, count in sorted(result["placements"].items()))]
    for kind, count in result["violations"].items():
        lines.append(f"{kind:15} {count:4d} violations, worst {100 * result['worst_share'][kind]:.2f} %")
    for name in ("real", "painted"):
        one = result[name]
        areas = " ".join(f"{area:6.2f}" for area in one["area_quantiles_percent"])
        with_more = " ".join(f"{n}: {share:.3f}" for n, share in one["frames_with"].items())
        lines.append(f"{name:8} {one['lesions_per_frame']:.3f} lesions a frame ({with_more}); area % {areas}")
    return "\n".join(lines)


def phantoms(folder: Path) -> list[Case]:
    """Return phantoms with a green box and a line of text drawn into them."""
    make_phantoms(folder, 24, 0, 0, 0, size=128, seed=0)
    cases = list(read_dataset(folder).split("train"))
    for case in cases:
        image = case.read_image().copy()
        image[100:124, 8:36] = (10, 150, 120)
        image[30:33, 20:40:2] = 225
        write_png(case.image, image)
    return cases


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--place", default="mixed")
    parser.add_argument("--domain", default="generic")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    make_folder(given.out)
    with tempfile.TemporaryDirectory() as scratch:
        if given.quick:
            cases = phantoms(Path(scratch) / "phantoms")
        else:
            if given.data is None and "DIFFAUG_DATA" not in os.environ:
                parser.error("name a folder of images/ and masks/ with --data, or set DIFFAUG_DATA")
            folder = given.data or Path(os.environ["DIFFAUG_DATA"]) / "kvasir-seg" / "train"
            cases = sorted(cases_in(folder, 10**9, 0), key=lambda case: case.id)
        config = GenerateConfig(negatives=0.0, place=given.place, domain=given.domain)
        result = measure(cases, 12 if given.quick else given.count, config, given.out)
    write_json(given.out / "placement.json", result)
    print(table(result))


if __name__ == "__main__":
    main()
