"""Whether a painted cup has the vertical cup-to-disc ratio that was asked for, on Drishti-GS.

Usage: python benchmarks/drishti.py --out DIR [--from FOLDER] [--seed S] [--quick]
    --out    DIR/drishti.json, the same numbers as a table on stdout, and DIR/discs.png; run it again after a kill.
    --from   images/, masks/ and labels.csv of Drishti-GS; unset: DIFFAUG_DATA/drishti-gs.
    --seed   which crops are painted on, and everything that is drawn.
    --quick  a few updates of everything: shows that it runs, not what it measures.

One split of the crops: half of them make the model and are painted on, the others train the judge, a pixel-space
segmentation network (`study/segmenter.py`) that has seen neither the backgrounds nor a painted disc. Its own error is
measured on the real crops that are painted on. Requested and measured ratios are those of `vertical_ratio`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge import NETWORK
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from diffaug.artifacts import atomic_path, make_folder, read_json, write_json
from diffaug.config import (
    UNET,
    CodecConfig,
    DenoiserConfig,
    FitConfig,
    GenerateConfig,
    SamplerConfig,
    StudyConfig,
    ValidatorConfig,
)
from diffaug.data.case import Case, masks_from_label
from diffaug.data.folder import read_dataset, subset_dataset
from diffaug.data.fundus import disc_and_cup, vertical_ratio
from diffaug.data.importing import import_dataset
from diffaug.data.manifest import Row, read_manifest
from diffaug.data.pictures import outlined
from diffaug.painting.requests import paint_requests
from diffaug.study.arms import Arm
from diffaug.study.batches import Batches, load_images
from diffaug.study.evaluate import predict, score_classes
from diffaug.study.network import build_network, train
from diffaug.synthesis.generate import generate
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.shards import workshop_of
from diffaug.training.fit import fit
from diffaug.training.starting import SHIPPED

TILE = 200  # px of the sheet
COLUMNS = 8


@dataclass(frozen=True)
class Size:
    """How much is done."""

    annotated: int  # crops that make the model and are painted on
    fit: FitConfig
    base: Path | None
    generate: GenerateConfig
    judge: StudyConfig
    checked: int = 48  # painted eyes that are held against their own classes and wrong ones


FULL = Size(
    annotated=25,
    fit=FitConfig(
        denoiser=DenoiserConfig(iterations=250),
        validator=ValidatorConfig(iterations=150),
        sampler=SamplerConfig(strength=0.05),  # vessels of an eye keep their course
    ),
    base=SHIPPED,
    generate=GenerateConfig(count=64, workers=1),
    judge=NETWORK.model_copy(update={"iterations": 1200}),
)
QUICK = Size(
    annotated=6,
    fit=FitConfig(
        codec=CodecConfig(window=64, latent_channels=4, width=32, blocks=(1, 1), iterations=20, batch_size=4),
        denoiser=DenoiserConfig(widths=(16, 32), text_width=32, windows_per_case=2, iterations=4, batch_size=8),
        validator=ValidatorConfig(views_per_case=1, folds=2, iterations=3, batch_size=8),
        sampler=SamplerConfig(steps=4),
    ),
    base=None,
    generate=GenerateConfig(count=8, shard_size=8, gate="off", workers=1),
    checked=4,
    judge=StudyConfig(network=UNET, size=64, widths=(8, 8, 16, 16, 16), iterations=40, batch_size=4),
)


def say(started: float, what: str) -> None:
    """Print how far it has come."""
    print(f"{time.monotonic() - started:6.0f} s  {what}", file=sys.stderr, flush=True)


def prepare_data(source: Path | None, out: Path, size: Size, seed: int) -> tuple[list[Case], list[Case]]:
    """Return the cases that are painted on and those that train the judge; OUT/data holds the former, annotated."""
    if not (out / "full" / "cases.csv").is_file():
        folder = source or (Path(os.environ["DIFFAUG_DATA"]) / "drishti-gs" if "DIFFAUG_DATA" in os.environ else None)
        if folder is None:
            raise SystemExit("fundus images are needed: DIFFAUG_DATA is not set; set it, or give --from")
        import_dataset("drishti-gs", folder, out / "full", seed, "importing")
    full = read_dataset(out / "full")
    if not (out / "data" / "cases.csv").is_file():
        subset_dataset(full, out / "data", size.annotated, seed)
    painted = {case.id for case in read_dataset(out / "data").split("train")}
    return [c for c in full.cases if c.id in painted], [c for c in full.cases if c.id not in painted]


def judge_of(cases: Sequence[Case], out: Path, config: StudyConfig, seed: int) -> Any:
    """Train the judge on real crops, or load the one in OUT."""
    path, network = out / "judge.safetensors", build_network(config, seed, len(cases[0].class_names))
    if path.is_file():
        network.load_state_dict(load_file(path))
    else:
        train(network, Batches(Arm("real", tuple(cases)), config, seed), config, name="judge", files=out / "judge")
        with atomic_path(path) as partial:
            save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
    return network.eval()


def judged(network: Any, cases: Sequence[Case], size: int) -> list[dict[str, float | None]]:
    """Return what the judge finds in each case: its ratio, its error and its agreement with the label, by class."""
    rows = []
    threshold = StudyConfig().decision_threshold
    for case, references, label in predict(network, load_images(cases, size), cases, threshold):
        rows.append(score_classes(references, masks_from_label(label, case.classes), case.class_names))
    return rows


def column(rows: Sequence[dict[str, float | None]], name: str) -> list[float]:
    """Return one measure of each row; a prediction without a disc counts as a ratio of 0."""
    return [row[name] or 0.0 for row in rows]


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where one of the two never changes."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return round(float(spearmanr(first, second).statistic), 3)


def measure(
    network: Any, real: Sequence[Case], painted: Sequence[Case], rows: Sequence[Row], size: int
) -> tuple[dict[str, Any], list[float]]:
    """Return the numbers of drishti.json, and the measured ratio of each painted case."""
    by_id = {row.id: row.request for row in rows}
    asked = [float(by_id[case.id].cup_ratio or 0.0) for case in painted]
    own, found = judged(network, real, size), judged(network, painted, size)
    measured, untouched = column(found, "vcdr"), dict(zip((case.id for case in real), column(own, "vcdr"), strict=True))
    truth = [vertical_ratio(*case.read_masks()) or 0.0 for case in real]
    return {
        "vcdr_rank_correlation": correlation(asked, measured),
        "vcdr_mae": round(float(np.mean(np.abs(np.subtract(asked, measured)))), 4),
        "vcdr_bias": round(float(np.mean(np.subtract(measured, asked))), 4),
        "vcdr_mae_segmenter": round(float(np.mean(column(own, "vcdr_error"))), 4),
        "vcdr_rank_correlation_segmenter": correlation(truth, column(own, "vcdr")),
        "vcdr_rank_correlation_backgrounds": correlation(asked, [untouched[by_id[c.id].background] for c in painted]),
        "requested": [round(min(asked), 3), round(max(asked), 3)],
        **{
            f"{name}_dice{suffix}": round(float(np.median(column(some, f"{name}_dice"))), 3)
            for name in ("disc", "cup")
            for suffix, some in (("", found), ("_segmenter", own))
        },
        "painted": len(painted),
        "kept_share": round(sum(row.accepted for row in rows) / len(rows), 3),
    }, measured


def measure_classes(model: Path, data: Path, count: int) -> dict[str, Any]:
    """Return how well validators tell a painted eye's own classes from wrong ones: those of a disc without its cup.

    Area under the curve of the final score, and the share that the default thresholds turn down of wrong and of own.
    """
    workshop = workshop_of(make_plan(model, data, GenerateConfig(negatives=0.0), 1))
    scores: dict[str, list[tuple[float, bool]]] = {"own": [], "wrong": []}
    disc, cup = disc_and_cup(workshop.maker.drawer.cases[next(iter(workshop.maker.drawer.cases))].class_names) or (0, 1)
    painter, requests = workshop.painter, [workshop.maker.drawer.draw(index) for index in range(count)]
    for _, layout, sample in paint_requests(painter, workshop.maker, requests, None):
        own = painter.prepare([layout], painter.embed([layout.prompt]))[0].target
        swapped = own.mask.clone()
        swapped[cup] = (own.mask[disc] - own.mask[cup]).clamp(0, 1)  # the rim is called cup
        for name, mask in (("own", own.mask), ("wrong", swapped)):
            still, last = torch.zeros(1, dtype=torch.long), torch.tensor([workshop.painter.calibration.steps])
            (check,) = workshop.gate.check(sample.latents, still, last, [replace(own, mask=mask)])
            scores[name].append((check.score, check.accepted))
    wins = [a > b for a, _ in scores["own"] for b, _ in scores["wrong"]]
    turned = {f"turned_down_{name}": round(1 - float(np.mean([ok for _, ok in x])), 3) for name, x in scores.items()}
    return {"wrong_class_auc": round(float(np.mean(wins)), 3), **turned}


def sheet(real: Sequence[Case], painted: Sequence[Case], rows: Sequence[Row], path: Path) -> None:
    """Write painted discs by rising ratio: the real eye, the painted one, and the requested disc and cup on it."""
    by_id, eyes = {row.id: row.request for row in rows}, {case.id: case for case in real}
    ordered = sorted(painted, key=lambda case: by_id[case.id].cup_ratio or 0.0)
    shown = [ordered[index * len(ordered) // (2 * COLUMNS)] for index in range(2 * COLUMNS)]
    page = Image.new("RGB", (COLUMNS * TILE, 6 * TILE), "white")
    for number, case in enumerate(shown):
        image = case.read_image()
        marked = image
        for mask in case.read_masks():
            marked = outlined(marked, mask)
        for row, pixels in enumerate((eyes[by_id[case.id].background].read_image(), image, marked)):
            tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
            page.paste(tile, (number % COLUMNS * TILE, (3 * (number // COLUMNS) + row) * TILE))
    page.save(path)


def run(source: Path | None, out: Path, size: Size, seed: int) -> dict[str, Any]:
    """Measure everything and return what goes into drishti.json."""
    started = time.monotonic()
    make_folder(out)
    real, others = prepare_data(source, out, size, seed)
    say(started, f"{len(real)} crops to paint on, {len(others)} for the judge")
    network = judge_of(others, out, size.judge, seed)
    say(started, "judge")
    fit(out / "data", out / "model", size.fit, base=size.base, seed=seed, painting=size.generate)
    say(started, "model")
    generate(out / "model", out / "data", out / "synthetic", size.generate, seed=seed, workers=size.generate.workers)
    say(started, "painting")
    painted, rows = read_dataset(out / "synthetic").cases, read_manifest(out / "synthetic").rows
    result, measured = measure(network, real, painted, rows, size.judge.size)
    result |= measure_classes(out / "model", out / "data", size.checked)
    sheet(real, painted, rows, out / "discs.png")
    seconds = read_json(out / "model" / "training" / "summary.json")["seconds"]
    by_id = {row.id: row.request.cup_ratio for row in rows}
    result |= {
        "fit_minutes": round(sum(seconds.values()) / 60, 1),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "ratios": {case.id: [by_id[case.id], round(found, 3)] for case, found in zip(painted, measured, strict=True)},
    }
    write_json(out / "drishti.json", result)
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", type=Path, dest="source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    for name, value in run(given.source, given.out, QUICK if given.quick else FULL, given.seed).items():
        if name != "ratios":
            print(f"{name:36} {json.dumps(value)}")


if __name__ == "__main__":
    main()
