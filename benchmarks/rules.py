"""Which rules hold for the frames of a data set: what each loses of its lesions, and what is left to paint on.

Usage: python benchmarks/rules.py DATA [--out DIR] [--count 60] [--shown 6]
    DATA     a data set folder, or a folder of images/ and masks/ with the same stems.
    --out    DIR/rules.json, and DIR/NAME.png at full size for some frames: outside the field of view blue, text and
             crowded glare red, tissue that is clear as it is, lesions outlined in green.
    --count  cases that are looked at, every nth.
    --shown  of them, every nth is drawn.

The loss is that of the endoscopic rule; the level is the one in force, if any.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from descriptions import cases_in

from diffaug.artifacts import make_folder, write_json
from diffaug.conditioning.placement import placement_map_of
from diffaug.conditioning.rule_learning import learn_rules
from diffaug.conditioning.rules import ENDOSCOPIC, NAMES, FrameRules, LearnedRules, Loss
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.images import Pixels, write_png
from diffaug.data.pictures import outlined


def every(cases: Sequence[Case], count: int) -> list[Case]:
    """Return every nth case, about `count` of them."""
    ordered = sorted(cases, key=lambda case: case.id)
    return ordered[:: max(1, len(ordered) // count)]


def read(folder: Path) -> list[Case]:
    """Return the annotated training cases of a data set, or all of a folder of images and masks."""
    if (folder / "cases.csv").is_file():
        return [case for case in read_dataset(folder).split("train") if case.mask]
    return cases_in(folder, 10**9, 0)


def drawn(case: Case, rules: FrameRules) -> Pixels:
    """Return a frame with what may not be painted on tinted, and its lesions outlined."""
    image, lesion = case.read_image(), case.read_mask()
    places = placement_map_of(image, lesion, rules=rules)
    clear = np.repeat(np.repeat(places.clear, places.cell, 0), places.cell, 1)[: image.shape[0], : image.shape[1]]
    picture = np.where(clear[..., None], image, image // 2 + np.array([110, 0, 0], np.uint8))
    picture = np.where(places.field[..., None], picture, image // 2 + np.array([0, 0, 110], np.uint8))
    return outlined(np.asarray(picture, dtype=np.uint8), lesion)


def table(learned: LearnedRules) -> str:
    """Return what each rule loses at its endoscopic level, and its level in force."""
    rows = [f"{'rule':16} {'loses':>8} {'hides':>6}  endoscopic  in force"]
    for rule, name in NAMES.items():
        loss, level = learned.losses.get(rule, Loss(0.0, 0)), getattr(learned.rules, rule)
        shown = "no" if level is None else f"{level:g}"
        rows.append(f"{name:16} {100 * loss.pixels:7.2f}% {loss.frames:6d}  {getattr(ENDOSCOPIC, rule):10g}  {shown}")
    return "\n".join([*rows, learned.line()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--shown", type=int, default=6)
    given = parser.parse_args()
    cases, started = every(read(given.data), given.count), time.process_time()
    learned = learn_rules(cases)
    print(f"{len(cases)} cases, {(time.process_time() - started) / max(1, len(cases)):.2f} s of one core each")
    print(table(learned))
    if given.out:
        make_folder(given.out)
        write_json(given.out / "rules.json", learned.as_dict())
        for case in every(cases, given.shown):
            write_png(given.out / f"{case.id}.png", drawn(case, learned.rules))
