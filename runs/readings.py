"""Teach the critic: sheets of lesions for readers, their scores, and the regression that learns from them.

Usage: python runs/readings.py sheets DATA SYNTH OUT [--seed 0]
       python runs/readings.py add OUT ANSWERS READINGS --domain DOMAIN --name NAME
       python runs/readings.py learn READINGS WEIGHTS
    SYNTH     a set that `diffaug generate MODEL DATA SYNTH --no-realism --negatives 0` painted on DATA.
    OUT       gets sheets of nine numbered crops, every painted lesion of SYNTH and 25 real ones of DATA, shuffled; the
              key lies apart, in OUT-key.json, and a reader does not open it.
    ANSWERS   lines `number,score,reason`: from 0 (absurd) over 5 (could be either) to 10 (surely real), and why.
    READINGS  readings.csv and readings.safetensors, which has the features of each row; no image is kept.
    WEIGHTS   the regressions by domain (src/diffaug/weights/readers/model.safetensors).

`learn` prints how well scores of lesions are foretold whose examples it has not learned from.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from scipy.stats import spearmanr

from diffaug.artifacts import write_tensors
from diffaug.audit.lesions import new_lesion
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask, Pixels, read_image
from diffaug.data.lesions import lesion_masks
from diffaug.data.manifest import read_manifest
from diffaug.painting.looks import features_in
from diffaug.painting.window import resized

COLUMNS = ("domain", "set", "kind", "id", "example", "background", "score", "reason")
SIDE, ACROSS, CAPTION = 352, 3, 24  # px of a crop, crops a row and rows a sheet, px above a crop
CONTEXT, LEAST_SIDE = 2.5, 150  # side of a crop over the longer side of the lesion, and its least, px
REAL = 25
PENALTY = 3000.0  # of the squared weights of standardised features
FOLDS = 12
Values = NDArray[np.float64]


def lesions_of(data: Path, synth: Path, seed: int) -> list[tuple[dict[str, str], Path, Mask]]:
    """Return painted lesions and some real ones in a random order: what each is, its image and its mask, (H, W)."""
    rng, made, found = np.random.default_rng(seed), read_manifest(synth), []
    for row in made:
        mask = new_lesion(made, row) if row.image and not row.request.negative else None
        if mask is not None:
            request = row.request
            about = {"kind": "painted", "id": request.id, "example": request.example, "background": request.background}
            found.append((about, synth / row.image, mask))
    cases = [case for case in read_dataset(data).annotated("train") if case.read_mask().any()]
    for place in rng.permutation(len(cases))[:REAL]:
        case = cases[place]
        about = {"kind": "real", "id": case.id, "example": case.id, "background": case.id}
        found.append((about, case.image, lesion_masks(case.read_mask())[0]))
    return [found[place] for place in rng.permutation(len(found))]


def crop_of(image: Pixels, mask: Mask) -> Pixels:
    """Return what a reader sees of a lesion, (SIDE, SIDE, 3): it and its surroundings, within the frame."""
    places = np.argwhere(mask)
    first, last = places.min(0), places.max(0)
    side = int(min(max(CONTEXT * (last - first + 1).max(), LEAST_SIDE), *mask.shape))
    top, left = (
        int(np.clip((a + b - side) / 2, 0, length - side)) for a, b, length in zip(first, last, mask.shape, strict=True)
    )
    return resized(image[top : top + side, left : left + side], SIDE)


def make_sheets(data: Path, synth: Path, out: Path, seed: int) -> None:
    """Write the sheets and their key, with the features of each lesion beside it."""
    out.mkdir(parents=True, exist_ok=True)
    key, features, sheet = list[dict[str, Any]](), list[Values](), None
    for number, (about, path, mask) in enumerate(lesions_of(data, synth, seed), 1):
        image = read_image(path)
        key.append({"number": number, **about})
        features.append(features_in(image, mask))
        place = (number - 1) % ACROSS**2
        if place == 0:
            sheet = Image.new("RGB", (ACROSS * (SIDE + 6), ACROSS * (SIDE + CAPTION)), (60, 60, 60))
        left, top = place % ACROSS * (SIDE + 6), place // ACROSS * (SIDE + CAPTION)
        assert sheet is not None
        sheet.paste(Image.fromarray(crop_of(image, mask)), (left, top + CAPTION - 4))
        ImageDraw.Draw(sheet).text((left + 4, top + 2), str(number), fill="yellow", font_size=15)
        sheet.save(out / f"sheet-{(number - 1) // ACROSS**2 + 1:02d}.png")
    Path(f"{out}-key.json").write_text(json.dumps(key))
    write_tensors(Path(f"{out}-key.safetensors"), {"features": torch.from_numpy(np.stack(features)).half()})
    print(f"{len(key)} lesions in {out}")


def read_readings(folder: Path) -> tuple[list[dict[str, str]], Values]:
    """Return the rows of all readings and their features, (N, LENGTH)."""
    with (folder / "readings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, load_file(folder / "readings.safetensors")["features"].double().numpy()


def add(out: Path, answers: Path, readings: Path, domain: str, name: str) -> None:
    """Add the scores of a reader to the readings."""
    key = {
        entry["number"]: (place, entry) for place, entry in enumerate(json.loads(Path(f"{out}-key.json").read_text()))
    }
    features = load_file(f"{out}-key.safetensors")["features"]
    rows, places = list[dict[str, str]](), list[int]()
    for line in answers.read_text().splitlines():
        number, score, *reason = line.split(",", 2)
        place, entry = key[int(number)]
        about = {part: entry[part] for part in ("kind", "id", "example", "background")}
        rows.append({"domain": domain, "set": name, **about, "score": score, "reason": ",".join(reason)})
        places.append(place)
    taken = features[places]
    if (readings / "readings.csv").exists():
        before, known = read_readings(readings)
        rows, taken = [*before, *rows], torch.cat([torch.from_numpy(known).half(), taken])
    write_readings(readings, rows, taken)


def write_readings(folder: Path, rows: list[dict[str, str]], features: torch.Tensor) -> None:
    """Write readings: a table, and the features of its rows, (N, LENGTH)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "readings.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    write_tensors(folder / "readings.safetensors", {"features": features.contiguous()})


def ridge(rows: Values, scores: Values) -> tuple[Values, float]:
    """Return weights, (D,), and bias of a ridge regression on standardised rows, (N, D), in their own units."""
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    inputs, centre = (rows - mean) / deviation, float(scores.mean())
    dual = np.linalg.solve(inputs @ inputs.T + PENALTY * np.eye(len(rows)), scores - centre)
    weights: Values = inputs.T @ dual / deviation
    return weights, float(centre - mean @ weights)


def held_out(rows: Values, scores: Values, examples: list[str]) -> Values:
    """Return the score of each row by a regression that has not learned from its example, (N,)."""
    names = sorted(set(examples))
    fold = dict(zip(names, np.random.default_rng(0).permutation(len(names)) % FOLDS, strict=True))
    folds, foretold = np.array([fold[name] for name in examples]), np.zeros(len(rows))
    for number in range(FOLDS):
        tested = folds == number
        if tested.any():
            weights, bias = ridge(rows[~tested], scores[~tested])
            foretold[tested] = rows[tested] @ weights + bias
    return foretold


def learn(readings: Path, weights: Path) -> None:
    """Write the regressions, and print what they foretell."""
    rows, features = read_readings(readings)
    tensors = {}
    for domain in sorted({row["domain"] for row in rows}):
        taught = np.array([row["domain"] == domain and row["kind"] == "painted" for row in rows])
        some = [row for row, is_taught in zip(rows, taught, strict=True) if is_taught]
        scores = np.array([float(row["score"]) for row in some]) / 10
        foretold = held_out(features[taught], scores, [row["example"] for row in some])
        better = foretold >= np.median(foretold)
        rank = spearmanr(foretold, scores).statistic
        shares = [float((scores[part] >= 0.5).mean()) for part in (better, ~better)]
        examples = len({row["example"] for row in some})
        print(f"{domain}: {len(some)} painted lesions of {examples} examples, rank correlation {rank:.2f};")
        print(f"  a score of 5 or more in {shares[0]:.0%} of the better half, and in {shares[1]:.0%} of the other")
        for name in sorted({row["set"] for row in some}):
            own = np.array([row["set"] == name for row in some])
            if own.all():
                continue
            found = ridge(features[taught][~own], scores[~own])
            rank = spearmanr(features[taught][own] @ found[0] + found[1], scores[own]).statistic
            print(f"  {name}, by a regression on the other sets: {int(own.sum())} lesions, rank correlation {rank:.2f}")
        found = ridge(features[taught], scores)
        tensors[f"{domain}.weights"] = torch.from_numpy(found[0]).half()
        tensors[f"{domain}.bias"] = torch.tensor(found[1]).half()
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(weights, tensors)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, places in (
        ("sheets", ("data", "synth", "out")),
        ("add", ("out", "answers", "readings")),
        ("learn", ("readings", "weights")),
    ):
        part = parts.add_parser(name)
        for place in places:
            part.add_argument(place, type=Path)
    parts.choices["sheets"].add_argument("--seed", type=int, default=0)
    for option in ("--domain", "--name"):
        parts.choices["add"].add_argument(option, required=True)
    asked = vars(parser.parse_args())
    {"sheets": make_sheets, "add": add, "learn": learn}[asked.pop("part")](**asked)


if __name__ == "__main__":
    main()
