"""The contact sheet of a data set: where its lesions lie, and some of its cases with the outlines of their classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffaug.artifacts import atomic_path, make_folder
from diffaug.data.case import Case
from diffaug.data.pictures import FONT, GAP, LINE, OUTLINES, fitting, picture_of, tile
from diffaug.data.split import shuffled
from diffaug.data.table import SPLITS

SIDE = 192  # px of a picture
COLUMNS, ROWS = 8, 6  # pictures of cases
LEAST = 4  # cases of each split, if it has them
MAPPED = 100  # masks of a split, at most, that its map shows
GRID = 48  # cells of a map on each side
SHEET = "contact-sheet.png"


def write_contact_sheet(cases: Sequence[Case], out: Path) -> Path:
    """Write a map of the lesions of each split, and up to 48 cases with id, split, size and lesion area.

    Args:
        cases: Cases to draw from; the same cases are drawn every time, some of each split.
        out: A PNG file, or a folder for `contact-sheet.png`.

    Returns:
        The path of the sheet.

    Raises:
        ConfigError: `out` cannot be written.
    """
    path = sheet_path(out)
    make_folder(path.parent)
    maps = [_map_of(split, found) for split in SPLITS if (found := _annotated(cases, split))]
    tiles = [_tile_of(case) for case in drawn_cases(cases)]
    columns = min(COLUMNS, max(len(maps), len(tiles)))
    rows = [row for part in (maps, tiles) for row in _rows_of(part, columns)]
    head = 2 * LINE + 6
    sheet = Image.new("RGB", (columns * (SIDE + GAP), head + sum(row[0].height for row in rows)), "white")
    _write_legend(sheet, cases[0].class_names if cases else (), f"{len(tiles)} of {len(cases)} cases are shown")
    top = head
    for row in rows:
        for column, each in enumerate(row):
            sheet.paste(each, (column * (SIDE + GAP), top))
        top += row[0].height
    with atomic_path(path) as partial:
        sheet.save(partial, format="PNG")
    return path


def sheet_path(out: Path) -> Path:
    """Return where a sheet goes: the PNG file that is named, or one in the folder that is."""
    return out if out.suffix.lower() == ".png" else out / SHEET


def _rows_of(tiles: Sequence[Image.Image], columns: int) -> list[Sequence[Image.Image]]:
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def drawn_cases(cases: Sequence[Case]) -> list[Case]:
    """Return cases that are drawn at random, some of each split, in the order of the data set."""
    order = shuffled((case.id for case in cases), seed=0)
    split_of = {case.id: case.split for case in cases}
    first = [name for split in SPLITS for name in [each for each in order if split_of[each] == split][:LEAST]]
    drawn = set(list(dict.fromkeys([*first, *order]))[: COLUMNS * ROWS])
    return [case for case in cases if case.id in drawn]


def _annotated(cases: Sequence[Case], split: str) -> list[Case]:
    return [case for case in cases if case.split == split and case.mask is not None]


def _tile_of(case: Case) -> Image.Image:
    """Return a picture of a case, its classes outlined, over its id, its split, its size and its lesion area."""
    pixels, masks = case.read_image(), None if case.mask is None else case.read_masks()
    height, width = pixels.shape[:2]
    share = None if masks is None else float(masks.any(axis=0).mean())
    area = "no mask" if share is None else f"{100 * share:.1f} %" if share else "lesion-free"
    return tile(picture_of(pixels, masks, SIDE), [case.id, f"{case.split}, {width} x {height}, {area}"], SIDE)


def _map_of(split: str, cases: Sequence[Case]) -> Image.Image:
    """Return a picture of how often each place of an image is lesion: black is never, white is most often."""
    chosen = set(shuffled((case.id for case in cases), seed=0)[:MAPPED])
    total = np.zeros((GRID, GRID))
    for case in cases:
        if case.id in chosen:
            mask = Image.fromarray(case.read_mask().astype(np.uint8) * 255)
            total += np.asarray(mask.resize((GRID, GRID), Image.Resampling.BOX)) / 255
    grey = (255 * total / max(float(total.max()), 1e-9)).astype(np.uint8)
    picture = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    of = f"{len(chosen)} of {len(cases)}" if len(chosen) < len(cases) else f"{len(cases)}"
    line = f"{of} mask{'s' * (len(cases) > 1)}; white: lesion in {100 * total.max() / len(chosen):.0f} %"
    return tile(picture, [f"{split}: where lesions lie", line], SIDE)


def _write_legend(sheet: Image.Image, names: Sequence[str], shown: str) -> None:
    """Write at the top how many cases are shown, and below it the names of the classes, each behind its colour."""
    pen, left = ImageDraw.Draw(sheet), 4
    pen.text((left, 3), fitting(shown, sheet.width - 8), fill="black", font_size=FONT)
    each = max(24, sheet.width // max(1, len(names)) - 32)
    for number, name in enumerate(names):
        label = fitting(name, each)
        pen.rectangle((left, LINE + 7, left + 14, LINE + 11), fill=OUTLINES[number % len(OUTLINES)], outline="black")
        pen.text((left + 18, LINE + 3), label, fill="black", font_size=FONT)
        left += 32 + round(pen.textlength(label, font_size=FONT))
