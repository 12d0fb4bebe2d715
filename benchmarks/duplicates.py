"""Does the guard against repeated images find copies that were changed, and leave unrelated images alone?

Usage: python benchmarks/duplicates.py --out DIR [--count N] [--quick]
    --out    DIR/duplicates.json, the same numbers on stdout, and DIR/pairs.png with pairs that were found within a set.
    --count  images of each set that copies are made of.
    --quick  phantoms in place of real images: shows that it runs, not what it measures.

Real images come from the folder DIFFAUG_DATA: polyps (Kvasir-SEG), breast ultrasound (BUSI) and fundus photographs
(DRIONS-DB). Copies are resized, saved as JPEG, flipped, cut by 5 to 20 % of each side, made lighter or darker, or all
of these. An alarm is false between images that cannot be the same: polyps of Kvasir-SEG and of CVC-ClinicDB, benign
and malignant lesions of BUSI but five that are one picture, eyes of DRIONS-DB and of Drishti-GS. `before` is what a
fingerprint alone finds.
"""

import argparse
import io
import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffaug.artifacts import make_folder, read_csv, write_json
from diffaug.data.duplicates import SAME_FRAME, Fingerprint, duplicates_of_fingerprints, fingerprint
from diffaug.data.images import Pixels
from diffaug.data.phantom import make_phantoms

KNOWN = 0.985  # correlation of 16 x 16 thumbnails over which two images of BUSI are known to be repeated
TILE, SHOWN = 160, 24


def resized(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image of 40 to 80 % of the side."""
    factor, picture = rng.uniform(0.4, 0.8), Image.fromarray(image)
    return np.asarray(picture.resize((round(picture.width * factor), round(picture.height * factor))))


def saved_again(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image as a JPEG of quality 30 to 70 gives it back."""
    memory = io.BytesIO()
    Image.fromarray(image).save(memory, "JPEG", quality=int(rng.integers(30, 70)))
    return np.asarray(Image.open(memory).convert("RGB"))


def flipped(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image that is mirrored left to right or top to bottom."""
    return np.ascontiguousarray(np.flip(image, int(rng.integers(2))))


def cut(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image without 5 to 20 % of its height and of its width, taken from anywhere."""
    parts = []
    for side in image.shape[:2]:
        kept = round(side * (1 - rng.uniform(0.05, 0.2)))
        start = int(rng.integers(side - kept + 1))
        parts.append(slice(start, start + kept))
    return image[parts[0], parts[1]]


def lighter(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image of 75 to 125 % of the brightness, moved by up to 15 grey levels."""
    changed = image.astype(np.float32) * rng.uniform(0.75, 1.25) + rng.uniform(-15, 15)
    return changed.clip(0, 255).astype(np.uint8)


def all_of_them(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image with every change."""
    for change in (cut, flipped, lighter, resized, saved_again):
        image = change(image, rng)
    return image


CHANGES: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "resized": resized, "JPEG": saved_again, "flipped": flipped, "cut": cut, "lighter": lighter, "all": all_of_them,
}  # fmt: skip


def read(paths: Sequence[Path]) -> dict[str, Pixels]:
    """Return images by stem."""
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


def recall(images: dict[str, Pixels], prints: dict[str, Fingerprint], count: int) -> dict[str, dict[str, float]]:
    """Return the share of changed copies that are found among the images of a set, now and by the fingerprint alone."""
    rng, found = np.random.default_rng(0), {}
    names = list(images)[:: max(1, len(images) // count)][:count]
    for kind, change in CHANGES.items():
        copies = {f"copy {name}": fingerprint(change(images[name], rng)) for name in names}
        sides = {name: 1 if name in copies else 2 for name in (*copies, *prints)}
        pairs = set(duplicates_of_fingerprints({**copies, **prints}, sides))
        before = [float(copies[f"copy {name}"].structure @ prints[name].structure) >= SAME_FRAME for name in names]
        after = [(f"copy {name}", name) in pairs for name in names]
        found[kind] = {"found": float(np.mean(after)), "before": float(np.mean(before))}
    return found


# The same picture twice in BUSI, once as benign and once as malignant: looked at one by one, no false alarms.
TWICE = {("benign-164", "malignant-52"), ("benign-85", "malignant-52"), ("benign-399", "malignant-93"),
         ("benign-406", "malignant-94"), ("benign-433", "malignant-145")}  # fmt: skip


def false_alarms(one: dict[str, Fingerprint], other: dict[str, Fingerprint]) -> dict[str, Any]:
    """Return the share of images that are taken for one of a set in which they cannot be."""
    prints = {f"1 {name}": value for name, value in one.items()} | {f"2 {name}": value for name, value in other.items()}
    found = duplicates_of_fingerprints(prints, {name: int(name[0]) for name in prints})
    pairs = [pair for pair in found if (pair[0][2:], pair[1][2:]) not in TWICE]
    alarmed = {name for pair in pairs for name in pair}
    return {"images": len(prints), "alarms": len(alarmed), "true": len(found) - len(pairs), "pairs": pairs[:20]}


def neighbours(prints: dict[str, Fingerprint], sequences: Path) -> dict[str, float]:
    """Return the share of neighbouring frames of a sequence that are found, and of pairs that cross sequences."""
    of = {Path(row["frame"]).stem: row["sequence"] for row in read_csv(sequences, ("frame", "sequence"))}
    pairs = set(duplicates_of_fingerprints(prints))
    frames = sorted(prints, key=int)
    next_to = [pair for pair in pairwise(frames) if of[pair[0]] == of[pair[1]]]
    crossing = sum(of[one] != of[other] for one, other in pairs)
    return {"neighbours": float(np.mean([(pair in pairs) for pair in next_to])), "pairs": len(pairs), "crossing": crossing}  # fmt: skip  # noqa: E501


def known_pairs(images: dict[str, Pixels]) -> list[tuple[str, str]]:
    """Return the pairs whose small thumbnails correlate over KNOWN."""
    rows = []
    for image in images.values():
        small = np.asarray(Image.fromarray(image).convert("L").resize((16, 16), Image.Resampling.BOX), np.float64)
        rows.append((small - small.mean()).ravel() / max(1e-6, float(np.linalg.norm(small - small.mean()))))
    names, alike = list(images), np.stack(rows) @ np.stack(rows).T
    return [(names[a], names[b]) for a, b in np.argwhere(alike > KNOWN) if a < b]


def sheet(images: dict[str, Pixels], pairs: Sequence[tuple[str, str]], path: Path) -> None:
    """Write pairs of images beside each other."""
    page = Image.new("RGB", (8 * TILE, TILE * max(1, -(-len(pairs) // 4))), "white")
    for number, pair in enumerate(pairs):
        for side, name in enumerate(pair):
            picture = Image.fromarray(images[name]).resize((TILE, TILE))
            page.paste(picture, ((2 * (number % 4) + side) * TILE, number // 4 * TILE))
    page.save(path)


def sets_of(quick: bool, out: Path) -> tuple[dict[str, dict[str, Pixels]], dict[str, tuple[str, str]]]:
    """Return images by set, and the names of sets that share no image."""
    if quick:
        for name, seed in (("one", 0), ("two", 1)):
            if not (out / name).exists():
                make_phantoms(out / name, 8, 0, 0, 0, size=128, seed=seed)
        return {name: read(sorted((out / name / "images").iterdir())) for name in ("one", "two")}, {"phantoms": ("one", "two")}  # fmt: skip  # noqa: E501
    data = Path(os.environ["DIFFAUG_DATA"])
    busi = read(sorted((data / "busi" / "images").iterdir()))
    sets = {
        "polyps": read(sorted((data / "kvasir-seg-original" / "images").iterdir())),
        "ultrasound": {name: image for name, image in busi.items() if name.startswith("benign")},
        "fundus": read(sorted((data / "drions-db" / "images").iterdir())),
        "malignant": {name: image for name, image in busi.items() if name.startswith("malignant")},
        "clinicdb": read(sorted((data / "cvc-clinicdb" / "images").iterdir(), key=lambda path: int(path.stem))),
        "drishti": read(sorted((data / "drishti-gs" / "images").iterdir())),
    }
    apart = {"polyps": "clinicdb", "ultrasound": "malignant", "fundus": "drishti"}
    return sets, {name: (name, other) for name, other in apart.items()}


def measure(out: Path, count: int, quick: bool) -> dict[str, Any]:
    """Return what goes into duplicates.json."""
    make_folder(out)
    sets, apart = sets_of(quick, out)
    prints = {name: {stem: fingerprint(image) for stem, image in images.items()} for name, images in sets.items()}
    result: dict[str, Any] = {"sets": {name: len(images) for name, images in sets.items()}, "within": {}, "recall": {}}
    result["milliseconds"] = {}
    for name in apart:
        first = apart[name][0]
        started = time.process_time()
        pairs = duplicates_of_fingerprints(prints[first])
        result["milliseconds"][name] = round(1000 * (time.process_time() - started) / len(prints[first]), 1)
        result["within"][name] = len(pairs)
        sheet(sets[first], pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN], out / f"pairs-{name}.png")
        result["recall"][name] = recall(sets[first], prints[first], count)
    result["false_alarms"] = {name: false_alarms(prints[a], prints[b]) for name, (a, b) in apart.items()}
    if not quick:
        known, found = known_pairs(sets["ultrasound"]), set(duplicates_of_fingerprints(prints["ultrasound"]))
        result["busi_known"] = {"pairs": len(known), "found": float(np.mean([pair in found for pair in known]))}
        data = Path(os.environ["DIFFAUG_DATA"])
        result["clinicdb"] = neighbours(prints["clinicdb"], data / "cvc-clinicdb" / "sequences.csv")
    kinds = [kind["found"] for one in result["recall"].values() for kind in one.values()]
    result["duplicate_recall"] = round(float(np.mean(kinds)), 4)
    result["duplicate_recall_least"] = min(kinds)
    alarms = list(result["false_alarms"].values())
    result["duplicate_false_alarms"] = sum(one["alarms"] for one in alarms) / sum(one["images"] for one in alarms)
    write_json(out / "duplicates.json", result)
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    for name, value in measure(given.out, 8 if given.quick else given.count, given.quick).items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
