"""Are the automatic descriptions right? Numbered sheets to look at, and a table of what a reader found wrong.

Usage: python benchmarks/descriptions.py IMAGES OUT [--count 50] [--seed 0]
    IMAGES: a folder of `images/` and `masks/` with the same stems, such as kvasir-seg/train.
    OUT: gets sheet-1.png, ... with the outlined frame, the lesion alone and its words; and descriptions.json.

A reader looks at every case and writes OUT/wrong.txt, a line for each number with a wrong word: "7 colour border" (an
aspect that says nothing is wrong, too, where it should speak). The same command again then prints the shares.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffaug.artifacts import make_folder, write_json
from diffaug.conditioning.attributes import Attributes, bounding_box, measure_attributes
from diffaug.conditioning.prompts import ASPECTS, describe, words_of
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import lesion_masks
from diffaug.data.pictures import outlined
from diffaug.data.split import shuffled

SIDE, COLUMNS, ROWS = 300, 3, 3  # px of a picture, tiles of a sheet
CAPTION = 40  # px under a tile


def cases_in(folder: Path, count: int, seed: int) -> list[Case]:
    """Return `count` cases drawn from a folder of images and masks."""
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    images = {path.stem: path for path in (folder / "images").iterdir() if path.stem in masks}
    return [Case(stem, images[stem], masks[stem], stem, "train") for stem in shuffled(sorted(images), seed)[:count]]


def tile(number: int, image: Pixels, lesion: Mask, attributes: Attributes) -> Image.Image:
    """Return the outlined frame, the lesion without an outline, and its description."""
    top, left, bottom, right = bounding_box(lesion)
    half = 0.8 * max(bottom - top, right - left)
    y, x = (top + bottom) / 2, (left + right) / 2
    square = (round(x - half), round(y - half), round(x + half), round(y + half))
    frame = Image.fromarray(outlined(image, lesion)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    alone = Image.fromarray(image).crop(square).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    drawn = Image.new("RGB", (2 * SIDE + 8, SIDE + CAPTION))
    drawn.paste(frame, (0, 0))
    drawn.paste(alone, (SIDE, 0))
    a = attributes
    numbers = f"L {a.lightness_contrast:+.0f} a {a.redness_contrast:+.0f} E {a.colour_contrast:.0f} "
    numbers += f"edge {a.edge_sharpness:.1f} texture {a.texture:.2f} ecc {a.eccentricity:.2f} sol {a.solidity:.2f}"
    text = f"{number}: {describe(attributes)}\n{100 * a.relative_area:.1f} %  {numbers}"
    ImageDraw.Draw(drawn).multiline_text((3, SIDE + 3), text, fill="white", font_size=13)
    return drawn


def write_sheets(tiles: Sequence[Image.Image], out: Path) -> None:
    """Write the tiles, nine to a sheet."""
    width, height = tiles[0].size
    for start in range(0, len(tiles), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * width, ROWS * height))
        for index, drawn in enumerate(tiles[start : start + COLUMNS * ROWS]):
            sheet.paste(drawn, (index % COLUMNS * width, index // COLUMNS * height))
        sheet.save(out / f"sheet-{1 + start // (COLUMNS * ROWS)}.png")


def read_wrong(path: Path) -> dict[int, set[str]]:
    """Return the aspects that a reader found wrong, by number."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = {int(number): set(aspects) for number, *aspects in lines}
    assert all(aspects <= set(ASPECTS) for aspects in found.values()), f"aspects are {', '.join(ASPECTS)}"
    return found


def table(words: Sequence[Mapping[str, str]], wrong: Mapping[int, set[str]]) -> str:
    """Return cases with a wrong word by attribute, and by the word that was said."""
    rows = [f"any: {sum(bool(aspects) for aspects in wrong.values())} of {len(words)}"]
    for aspect in ASPECTS:
        said = Counter(one[aspect] or "(nothing)" for one in words)
        missed = Counter(words[number - 1][aspect] or "(nothing)" for number in wrong if aspect in wrong[number])
        by_word = ", ".join(f"{word} {missed[word]} of {total}" for word, total in said.most_common())
        rows.append(f"{aspect}: {missed.total()} of {len(words)} ({by_word})")
    return "\n".join(rows)


def make_sheets(folder: Path, out: Path, count: int, seed: int) -> None:
    """Write the sheets, and print the table where a reader has judged them."""
    make_folder(out)
    tiles, words, rows = [], [], []
    for number, case in enumerate(cases_in(folder, count, seed), start=1):
        image = case.read_image()
        lesion = lesion_masks(case.read_mask())[0]
        attributes = measure_attributes(image, lesion)
        tiles.append(tile(number, np.asarray(image), lesion, attributes))
        words.append(words_of(attributes))
        rows.append({"number": number, "case": case.id, "words": words[-1], "attributes": asdict(attributes)})
    write_sheets(tiles, out)
    write_json(out / "descriptions.json", rows)
    judged = out / "wrong.txt"
    print(table(words, read_wrong(judged)) if judged.is_file() else f"look at {out}/sheet-*.png and write {judged}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_sheets(given.images, given.out, given.count, given.seed)


if __name__ == "__main__":
    main()
