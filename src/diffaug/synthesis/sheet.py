"""What `generate` shows at its end: a contact sheet of kept and turned-down requests, and a table by reason."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from diffaug.artifacts import atomic_path
from diffaug.data.case import masks_from_label
from diffaug.data.folder import read_classes
from diffaug.data.images import Mask, png_info, read_image, read_label
from diffaug.data.manifest import Row, kept, lesions
from diffaug.data.origin import MARK
from diffaug.data.pictures import GAP, LINE, picture_of, tile

SHEET = "contact_sheet.png"
KEPT, REFUSED = 24, 12  # pictures of each kind at most
SIDE, COLUMNS = 240, 6  # px of a picture, pictures in a row: an even number
WIDE, TALL = SIDE + GAP, SIDE + 2 * LINE + GAP  # px of a tile
NUMBER = re.compile(r"\d+(\.\d+)?")


def reasons_of(rows: Iterable[Row]) -> dict[str, int]:
    """Count requests by what became of them: kept, or the reason; the most frequent first.

    Reasons that differ only by their numbers count as one, which shows the least and the largest of each number.
    """
    found = defaultdict[str, list[str]](list)
    for reason in map(reason_of, rows):
        found[NUMBER.sub("", reason)].append(reason)
    counts = {_with_ranges(reasons): len(reasons) for reasons in found.values()}
    return dict(sorted(counts.items(), key=lambda item: (not item[0].startswith("kept"), -item[1], item[0])))


def reason_of(row: Row) -> str:
    """Return what became of a request."""
    if row.decision == "kept":
        return "kept, lesion-free tissue" if row.request.negative else "kept"
    return "kept in the picture of another lesion" if row.decision == "joined" else row.reason


def _with_ranges(reasons: Sequence[str]) -> str:
    """Return one text for reasons that differ only by their numbers: `0.02 to 0.28` where these differ."""
    numbers = [[match.group() for match in NUMBER.finditer(reason)] for reason in reasons]
    ranges = iter([(min(each, key=float), max(each, key=float)) for each in zip(*numbers, strict=True)])
    return NUMBER.sub(lambda _: " to ".join(dict.fromkeys(next(ranges))), reasons[0])


def write_sheet(out: Path, rows: Sequence[Row]) -> Path:
    """Write `contact_sheet.png`: kept cases, plain and outlined, and windows of what was turned down, with scores.

    Args:
        out: The synthetic set's folder.
        rows: Its rows, in order.
    """
    shown, refused = _shown(rows)
    tiles: list[Image.Image | None] = [tile for row in shown for tile in _kept_tiles(out, row)]
    tiles += [None] * (-len(tiles) % COLUMNS) + [_refused_tile(out, row) for row in refused]
    page = Image.new("RGB", (COLUMNS * WIDE, max(1, -(-len(tiles) // COLUMNS)) * TALL), "white")
    for place, each in enumerate(tiles):
        if each is not None:
            page.paste(each, (place % COLUMNS * WIDE, place // COLUMNS * TALL))
    path = out / SHEET
    with atomic_path(path) as partial:
        page.save(partial, format="PNG", pnginfo=png_info(MARK))
    return path


def files_shown(rows: Sequence[Row]) -> list[str]:
    """Return the paths of the pictures and masks that the sheet shows."""
    shown, refused = _shown(rows)
    return [name for row in shown for name in (row.image, row.mask)] + [
        name for row in refused for name in (row.preview, row.preview_mask)
    ]


def _shown(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the kept and the refused lesions that the sheet shows."""
    asked = lesions(rows)
    return kept(asked)[:KEPT], [row for row in asked if row.preview][:REFUSED]


def _kept_tiles(out: Path, row: Row) -> list[Image.Image]:
    image, mask = read_image(out / row.image), _masks_of(out, row.mask)
    plain, drawn = picture_of(image, None, SIDE), picture_of(image, mask, SIDE)
    return [tile(plain, [row.id, row.request.placement], SIDE), tile(drawn, scores_of(row), SIDE)]


def _refused_tile(out: Path, row: Row) -> Image.Image:
    image, mask = read_image(out / row.preview), _masks_of(out, row.preview_mask)
    lines = [f"{row.decision}: {row.id}", ", ".join(scores_of(row, short=True))]
    return tile(picture_of(image, mask, SIDE), lines, SIDE)


def _masks_of(out: Path, name: str) -> Mask:
    """Return the mask of each class of a label of the set."""
    label, classes = read_label(out / name), read_classes(out)
    return masks_from_label(label, classes) if classes else label > 0


def scores_of(row: Row, short: bool = False) -> list[str]:
    """Return in words what the gates found, one or two lines; those of `short` fit into one without the limit."""
    limit = ""
    if row.checks and not (short and row.look):
        least = row.checks[-1].threshold
        limit = f" (limit {least:.2f})" if least > 0 else " (no limit)"  # too few lesions are annotated for one
    found = [f"agreement {row.score:.2f}{limit}" if row.score is not None else "no gate"]
    return [*found, *([f"looks painted {1 - row.look.score:.2f}"] if row.look else [])]
