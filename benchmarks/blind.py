"""Can a reader tell painted frames from real ones? Shuffled sheets without a hint, and a table of what a reader said.

Usage: python benchmarks/blind.py DATA SYNTH --out DIR [--count 24] [--seed 0]
       python benchmarks/blind.py DATA REMOVED --out DIR --removal [--count 24] [--seed 0]
       python benchmarks/blind.py --score ANSWERS --key KEY
    DATA     the data set of the real frames.
    SYNTH    the synthetic set that `diffaug generate` painted on it: COUNT kept lesions, each on another background as
             far as there are so many, beside COUNT real frames with lesions that are the source of none of them.
    REMOVED  with --removal, what `diffaug remove` made of DATA: windows where a lesion was removed, beside equally
             large windows of real lesion-free tissue.
    DIR      gets sheet-01.png, ... at full size, every frame alone under frames/, and answers.csv to be filled in with
             real, painted or cannot tell. The key lies apart, in DIR-key.json: a reader does not open it.
    ANSWERS  DIR/answers.csv, or JSON such as {"1": "real", "2": "painted", "3": "cannot tell"}.

Real frames come from the annotated training cases first, then from val and test, which are only looked at.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffaug.artifacts import make_folder, read_json, read_jsonl, write_json
from diffaug.conditioning.placement import field_of_view
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, Pixels, write_png
from diffaug.data.lesions import lesion_masks
from diffaug.errors import DiffaugError
from diffaug.painting.window import Window, resized, window_around
from diffaug.review.blind import ANSWERS, Kind, frames_of, scored, table

SHEET = 1080  # px of a sheet's longer side, so that viewers show it at full size; a longer frame is a sheet of its own
CAPTION, GAP = 26, 6  # px above and between frames
WINDOW = 288  # px of a window of tissue on a sheet
CONTEXT = 1.7  # window side over the longer side of a removed lesion
SEEN = 0.98  # share of a window of real tissue that lies in the field of view


@dataclass(frozen=True)
class Frame:
    """A real frame with its lesions and its field of view, each (H, W)."""

    id: str
    image: Pixels
    mask: Mask
    view: Mask


# --- What is shown ----------------------------------------------------------------------------------------------------


def whole_frames(data: Path, synth: Path, count: int, seed: int) -> list[tuple[Kind, str, Pixels]]:
    """Return painted frames and as many real ones that are the source of none of them, each with its name."""
    found = frames_of(data, synth, count, seed)
    for notice in found.notices:
        print(notice)
    return [(one.kind, one.case.id, one.case.read_image()) for one in found.frames]


def windows_of(data: Path, removed: Path, count: int, seed: int) -> list[tuple[Kind, str, Pixels]]:
    """Return windows where a lesion was removed, and as many equally large ones of real tissue."""
    dataset, rng = read_dataset(data), np.random.default_rng(seed)
    cleared = {case.id: case for case in read_dataset(removed).cases}
    places = [
        (cleared[row["id"]], mask)
        for row in read_jsonl(removed / "manifest.jsonl")
        for mask in lesion_masks(dataset[row["source"]].read_mask())
    ]
    frames = [
        Frame(case.id, image := case.read_image(), case.read_mask(), field_of_view(image))
        for case in dataset.annotated("train")
    ]
    found: list[tuple[Kind, str, Pixels]] = []
    taken: list[tuple[str, Window]] = []
    for number in rng.permutation(len(places))[:count]:
        case, mask = places[number]
        shown = inside(window_around(mask, CONTEXT), mask.shape)
        found.append(("painted", case.id, pictured(case.read_image(), shown)))
        place = tissue(frames, shown.side, taken, rng)
        if place is not None:
            taken.append((place[0].id, place[1]))
            found.append(("real", place[0].id, pictured(place[0].image, place[1])))
    return found


def inside(window: Window, shape: tuple[int, int]) -> Window:
    """Return a window that is moved into its frame, and cut to it where it is larger."""
    side = min(window.side, *shape)
    top, left = (min(max(0, start), size - side) for start, size in zip((window.top, window.left), shape, strict=True))
    return Window(top, left, side)


def tissue(
    frames: Sequence[Frame], side: int, taken: Sequence[tuple[str, Window]], rng: np.random.Generator, tries: int = 300
) -> tuple[Frame, Window] | None:
    """Return a lesion-free window of a real frame, of those that were taken least often, apart from what was taken.

    Smaller windows are tried where none of the side is found.
    """
    for each in range(tries):
        often = Counter(name for name, _ in taken)
        frame = min((frames[n] for n in rng.integers(0, len(frames), 4)), key=lambda one: often[one.id])
        size = min(max(32, round(side * 0.99 ** max(0, each - 60))), *frame.mask.shape)
        top, left = (int(rng.integers(0, whole - size + 1)) for whole in frame.mask.shape)
        window = Window(top, left, size)
        is_new = not any(name == frame.id and overlap(window, other) for name, other in taken)
        if is_new and not window.crop(frame.mask).any() and window.crop(frame.view).mean() >= SEEN:
            return frame, window
    return None


def overlap(a: Window, b: Window) -> bool:
    """Tell whether two windows show much of the same."""
    return max(abs(a.top - b.top), abs(a.left - b.left)) < 0.6 * min(a.side, b.side)


def pictured(image: Pixels, window: Window) -> Pixels:
    """Return a window at the side of all windows."""
    return resized(np.asarray(window.crop(image), dtype=np.uint8), WINDOW)


# --- Sheets -----------------------------------------------------------------------------------------------------------


def write_sheets(frames: Sequence[Pixels], out: Path) -> int:
    """Write numbered frames on as few sheets as they fit on at full size, and return how many sheets there are."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    tall, wide = height + CAPTION + GAP, width + GAP
    columns, rows = max(1, SHEET // wide), max(1, SHEET // tall)
    each = columns * rows
    for sheet, start in enumerate(range(0, len(frames), each), start=1):
        some = frames[start : start + each]
        page = Image.new("RGB", (min(columns, len(some)) * wide, -(-len(some) // columns) * tall), "white")
        draw = ImageDraw.Draw(page)
        for place, frame in enumerate(some):
            left, top = place % columns * wide, place // columns * tall
            draw.text((left + 3, top + 3), str(start + place + 1), fill="black", font_size=18)
            page.paste(Image.fromarray(frame), (left, top + CAPTION))
        write_png(out / f"sheet-{sheet:02d}.png", np.asarray(page, dtype=np.uint8))
    return -(-len(frames) // each)


def key_of(out: Path) -> Path:
    """Return where the key of sheets lies: beside their folder, not in it."""
    return out.parent / f"{out.name}-key.json"


def make(found: Sequence[tuple[Kind, str, Pixels]], out: Path, seed: int, key: Mapping[str, str]) -> None:
    """Shuffle what is shown, and write sheets, frames, an empty table of answers and the key."""
    if (out / "answers.csv").exists():
        raise SystemExit(f"a new folder is needed: {out} holds sheets; name another one, or remove it")
    order = np.random.default_rng((seed, 1)).permutation(len(found))
    shown = [found[place] for place in order]
    make_folder(out / "frames")
    for number, (_, _, pixels) in enumerate(shown, start=1):
        write_png(out / "frames" / f"{number:02d}.png", pixels)
    sheets = write_sheets([pixels for _, _, pixels in shown], out)
    with (out / "answers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("number", "answer", "what gives it away"), *((n + 1, "", "") for n in range(len(shown)))])
    answers = {str(number): {"kind": kind, "id": name} for number, (kind, name, _) in enumerate(shown, start=1)}
    write_json(key_of(out), {**key, "answers": answers})
    print(f"{len(shown)} frames on {sheets} sheets in {out}; fill in {out / 'answers.csv'} with {', '.join(ANSWERS)}")
    print(f"then: python benchmarks/blind.py --score {out / 'answers.csv'} --key {key_of(out)}")


# --- Scores -----------------------------------------------------------------------------------------------------------


def read_answers(path: Path) -> dict[int, str]:
    """Return the answer to each number of a CSV or JSON file; those left empty are left out."""
    if path.suffix == ".json":
        values = read_json(path)
        rows = values.items() if isinstance(values, dict) else [(row["number"], row["answer"]) for row in values]
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(row["number"], row["answer"] or "") for row in csv.DictReader(file)]
    found = {int(number): answer.strip().lower() for number, answer in rows if answer and answer.strip()}
    for number, answer in found.items():
        if answer not in ANSWERS:
            raise SystemExit(
                f"an answer is one of {', '.join(ANSWERS)}: that to {number} is {answer!r}; correct {path}"
            )
    return found


def main() -> None:
    """Run from the command line; an expected error is one line."""
    try:
        run()
    except DiffaugError as error:
        raise SystemExit(str(error)) from None


def run() -> None:
    """Write sheets, or score the answers to them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("synth", type=Path, nargs="?")
    for name in ("out", "score", "key"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--removal", action="store_true")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.score:
        if not given.key:
            parser.error("--score needs the key of the sheets: add, for example, --key sheets-key.json")
        key = {int(number): (of["kind"], of["id"]) for number, of in read_json(given.key)["answers"].items()}
        result = scored(read_answers(given.score), key)
        print(table(result))
        print(json.dumps(result, sort_keys=True))
        return
    if not (given.data and given.synth and given.out):
        parser.error("sheets need DATA, SYNTH and --out DIR")
    show = windows_of if given.removal else whole_frames
    found = show(given.data, given.synth, given.count, given.seed)
    key = {"data": str(given.data), "synthetic": str(given.synth), "mode": "removal" if given.removal else "frames"}
    make(found, given.out, given.seed, key)


if __name__ == "__main__":
    main()
