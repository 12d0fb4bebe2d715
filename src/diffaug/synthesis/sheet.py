"""What `generate` shows at its end: a contact sheet of kept and turned-down requests, and a table by reason."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffaug.artifacts import atomic_path
from diffaug.data.case import masks_from_label
from diffaug.data.folder import read_classes
from diffaug.data.images import Mask, png_info, read_image, read_label
from diffaug.data.manifest import Row, kept, lesions
from diffaug.data.origin import MARK
from diffaug.data.pictures import FONT, GAP, LINE, fitting, picture_of

SHEET = "contact_sheet.png"
KEPT, REFUSED = 24, 12  # pictures of each kind at most
SIDE, COLUMNS = 240, 6  # px of a picture's longer side, pictures in a row: an even number
NARROWEST = 200  # px of a column: what is written under a picture takes as much
LEGEND_FONT, LEGEND_LINE = 14, 19  # px
PLACES = (
    "free: painted on tissue. replace: painted over a lesion. removed: painted where lesions were painted away first."
)
AGREEMENT = (
    "agreement: between the requested mask and the lesion that the validators find, from 0 to 1. limit: the least that "
    "is kept; there is none where too few lesions are annotated."
)
LOOKS_PAINTED = "looks painted: by the critic of realism, from 0 (convinces) to 1; readers cannot tell at 0.5."
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
    page = _page_of(
        legend_of(rows),
        [tile for row in shown for tile in _kept_tiles(out, row)],
        [_refused_tile(out, row) for row in refused],
    )
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


def legend_of(rows: Sequence[Row]) -> list[str]:
    """Return what stands at the head of the sheet: what it shows of the requests, and the words that it uses."""
    shown, refused = _shown(rows)
    cases, previews = kept(lesions(rows)), [row for row in lesions(rows) if row.preview]
    text = f"{len(shown)} of {len(cases)} kept cases with a lesion, plain and with the requested mask outlined"
    text += f"; below them {len(refused)} of {len(previews)} lesions that were turned down, and why" if refused else ""
    critic = any(row.look for row in (*shown, *refused))
    return [f"{text}.", PLACES, f"{AGREEMENT} {LOOKS_PAINTED}" if critic else AGREEMENT]


@dataclass(frozen=True, eq=False)
class _Tile:
    """A picture, and lines of text under it."""

    picture: Image.Image
    lines: Sequence[str]


def _page_of(said: Sequence[str], *parts: Sequence[_Tile]) -> Image.Image:
    """Return a legend over the tiles of each part, in rows that are no taller than their pictures and lines."""
    wide = max([NARROWEST, *(tile.picture.width for part in parts for tile in part)])
    columns = max(2, min(COLUMNS, max(map(len, parts))))
    rows = [part[start : start + columns] for part in parts for start in range(0, len(part), columns)]
    width = columns * (wide + GAP)
    legend = [line for text in said for line in wrapped(text, width - 8, LEGEND_FONT)]
    heights = [max(tile.picture.height + LINE * len(tile.lines) for tile in row) + 2 * GAP for row in rows]
    page = Image.new("RGB", (width, LEGEND_LINE * len(legend) + 2 * GAP + sum(heights)), "white")
    pen, top = ImageDraw.Draw(page), GAP
    for line in legend:
        pen.text((4, top), line, fill="black", font_size=LEGEND_FONT)
        top += LEGEND_LINE
    top += GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = column * (wide + GAP)
            page.paste(tile.picture, (left, top))
            for number, line in enumerate(tile.lines):
                place = (left + 2, top + tile.picture.height + 1 + LINE * number)
                pen.text(place, fitting(line, wide - 4), fill="black", font_size=FONT)
        top += height
    return page


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Return a text in lines of at most so many pixels, broken between words, in a font of a size."""
    font, lines = ImageFont.load_default(size), list[str]()
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _kept_tiles(out: Path, row: Row) -> list[_Tile]:
    image, mask = read_image(out / row.image), _masks_of(out, row.mask)
    plain, drawn = picture_of(image, None, SIDE), picture_of(image, mask, SIDE)
    return [_Tile(plain, [row.id, row.request.placement]), _Tile(drawn, scores_of(row))]


def _refused_tile(out: Path, row: Row) -> _Tile:
    image, mask = read_image(out / row.preview), _masks_of(out, row.preview_mask)
    return _Tile(picture_of(image, mask, SIDE), refused_lines(row))


def refused_lines(row: Row) -> list[str]:
    """Return what stands under a lesion that was turned down: its name, the reason, and the agreement if it is another.

    The reason takes three lines at most; `fitting` cuts the last.
    """
    lines = wrapped(row.reason, NARROWEST - 4, FONT)
    lines = [*lines[:2], *([" ".join(lines[2:])] if lines[2:] else [])]
    scores = [] if row.reason.startswith("agreement") else scores_of(row)[:1]
    return [f"{row.decision}: {row.id}", *scores, *lines]


def _masks_of(out: Path, name: str) -> Mask:
    """Return the mask of each class of a label of the set."""
    label, classes = read_label(out / name), read_classes(out)
    return masks_from_label(label, classes) if classes else label > 0


def scores_of(row: Row) -> list[str]:
    """Return in words what the gates found, one or two lines."""
    limit = ""
    if row.checks:
        least = row.checks[-1].threshold
        limit = f" (limit {least:.2f})" if least > 0 else " (no limit)"  # too few lesions are annotated for one
    found = [f"agreement {row.score:.2f}{limit}" if row.score is not None else "no gate"]
    return [*found, *([f"looks painted {1 - row.look.score:.2f}"] if row.look else [])]
