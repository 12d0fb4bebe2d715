"""What `generate` shows at its end: a contact sheet of kept and turned-down requests, and a table by reason."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffaug.artifacts import atomic_path
from diffaug.data.images import Mask, Pixels, png_info, read_image, read_label
from diffaug.data.inspect import outlined
from diffaug.data.manifest import Row, kept
from diffaug.data.origin import MARK

SHEET = "contact_sheet.png"
KEPT, REFUSED = 24, 12  # pictures of each kind at most
SIDE, CAPTION, COLUMNS = 240, 34, 6  # px of a picture, px under it, pictures in a row: an even number
NUMBER = re.compile(r"\d+(\.\d+)?")


def reasons_of(rows: Iterable[Row]) -> dict[str, int]:
    """Count requests by what became of them: kept, or the reason without its numbers; the most frequent first."""
    counts = Counter(reason_of(row) for row in rows)
    return dict(sorted(counts.items(), key=lambda item: (not item[0].startswith("kept"), -item[1], item[0])))


def reason_of(row: Row) -> str:
    """Return what became of a request, without numbers."""
    if row.decision == "kept":
        return "kept, lesion-free tissue" if row.request.negative else "kept"
    if row.decision == "joined":
        return "kept in the picture of another lesion"
    return NUMBER.sub("…", row.reason)


def write_sheet(out: Path, rows: Sequence[Row]) -> Path:
    """Write `contact_sheet.png`: kept cases, plain and outlined, and windows of what was turned down, with scores.

    Args:
        out: The synthetic set's folder.
        rows: Its rows, in order.
    """
    shown = [row for row in kept(rows) if not row.request.negative][:KEPT]
    refused = [row for row in rows if row.preview and not row.request.negative][:REFUSED]
    tiles: list[Image.Image | None] = [tile for row in shown for tile in _kept_tiles(out, row)]
    tiles += [None] * (-len(tiles) % COLUMNS) + [_refused_tile(out, row) for row in refused]
    page = Image.new("RGB", (COLUMNS * SIDE, max(1, -(-len(tiles) // COLUMNS)) * (SIDE + CAPTION)), "white")
    for place, tile in enumerate(tiles):
        if tile is not None:
            page.paste(tile, (place % COLUMNS * SIDE, place // COLUMNS * (SIDE + CAPTION)))
    path = out / SHEET
    with atomic_path(path) as partial:
        page.save(partial, format="PNG", pnginfo=png_info(MARK))
    return path


def _kept_tiles(out: Path, row: Row) -> list[Image.Image]:
    image, mask = read_image(out / row.image), read_label(out / row.mask) > 0
    return [_tile(image, None, f"{row.id}\n{row.request.placement}"), _tile(image, mask, scores_of(row))]


def _refused_tile(out: Path, row: Row) -> Image.Image:
    image, mask = read_image(out / row.preview), read_label(out / row.preview_mask) > 0
    return _tile(image, mask, f"{row.decision}: {row.id}\n{scores_of(row, ', ')}")


def scores_of(row: Row, between: str = "\n") -> str:
    """Return in words what the gates found."""
    parts = [f"agreement {row.score:.2f}" if row.score is not None else "no gate"]
    parts += [f"looks painted {1 - row.look.score:.2f}"] if row.look else []
    return between.join(parts)


def _tile(image: Pixels, mask: Mask | None, text: str) -> Image.Image:
    """Return a picture at the side of all, its mask outlined, and a text under it."""
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)
    if mask is not None:
        inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
        small = outlined(small, inside)
    tile = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    tile.paste(Image.fromarray(small), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    ImageDraw.Draw(tile).multiline_text((4, SIDE + 2), text, fill="black", font_size=12, spacing=2)
    return tile
