"""How convincing painted lesions are, on real Kvasir-SEG: codec, likeness, obedience, copies, seams, time.

Usage: python benchmarks/painter.py --out DIR [--data DATA] [--model MODEL] [--test FOLDER] [--quick]
       [--solver S] [--strength S] [--guidance TEXT MASK] [--painted N] [--asked N]
    --out    DIR/painter.json, the same numbers as a table on stdout, and contact sheets; run it again after a kill.
    --data   a data set folder with train, val and test; unset: DIFFAUG_DATA/kvasir-seg is imported.
    --model  a model fitted on DIR/data-100 (or with --quick, on phantoms); unset: it is fitted, and timed.
    --test   another folder of images/ and masks/ whose lesions are the held-out ones.
    --solver, --strength, --guidance  of the sampler, instead of those that the model was fitted with.
    --painted, --asked  how many requests are painted, and how many of them with each word.
    --quick  phantoms and a few updates of everything: shows that it runs, not what it measures.

100 annotated cases make the model; the other training cases train the judge (`judge.py`), which finds lesions and says
what is left of removed ones, and the lesions of val and test are only measured. Likeness (kernel distances, the
classifier and copies) is measured in features of an ImageNet encoder, see `likeness.py`. Nothing is tuned here.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge import CONTEXT, Judge, crop, iou_inside, window_of
from likeness import MOST, Seen, auc, pasted_onto
from memorised import audit_prior, copies, import_kvasir, nearest_rows, turned_features
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.stats import spearmanr

from diffaug.artifacts import make_folder, read_json, write_json
from diffaug.conditioning.attributes import band_width, measure_attributes
from diffaug.conditioning.masks import render
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset, subset_dataset
from diffaug.data.images import Mask, Pixels
from diffaug.data.importing import import_dataset
from diffaug.data.lesions import lesion_masks
from diffaug.data.phantom import make_phantoms
from diffaug.data.request import Request
from diffaug.encoder import NAME, encoder_digest
from diffaug.models.base import LatentInpainter
from diffaug.painting.clearing import Remover
from diffaug.painting.compose import compose
from diffaug.painting.engine import paint
from diffaug.painting.layout import Layout
from diffaug.painting.looks import features_in, origins_of
from diffaug.painting.painter import Painter
from diffaug.painting.requests import LayoutMaker
from diffaug.painting.seams import ratios, region_around
from diffaug.painting.window import window_image, window_mask
from diffaug.realism.measures import kid
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.shards import workshop_of
from diffaug.training.codec import fidelity

ASKED: dict[str, tuple[str, str, str, str]] = {  # attribute: aspect of the prompt, word for little, for much, measure
    "pale/red": ("colour", "pale", "reddish", "redness_contrast"),
    "contrast": ("contrast", "low-contrast", "high-contrast", "colour_contrast"),
    "texture": ("surface", "smooth", "textured", "texture"),
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    annotated: int = 100
    painted: int = 240
    asked: int = 40  # requests, each painted with both words of each attribute
    held_out: int = 400
    judge: int = 1200  # iterations
    audited: int = 200  # windows that the prior paints
    removed: int = 60  # held-out cases whose lesions are painted away


QUICK = Size(annotated=12, painted=12, asked=4, held_out=12, judge=4, audited=8, removed=2)


@dataclass(frozen=True)
class Lesion:
    """One lesion in its frame: what every measurement takes."""

    image: Pixels
    mask: Mask
    region: Mask  # where paint may show
    case: str  # that it shows; of a painted one, its example
    background: str = ""  # of a painted one


def lesions_of(cases: Iterable[Case], most: int) -> list[Lesion]:
    """Return the lesions of annotated cases."""
    found = []
    for case in cases:
        image = case.read_image()
        for mask in lesion_masks(case.read_mask()):
            found.append(Lesion(image, mask, region_around(mask), case.id))
    return found[:most]


def windows(lesions: Sequence[Lesion]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return windows in [0, 1], masks and regions of lesions, (N, ., S, S)."""
    parts = []
    for lesion in lesions:
        window = window_of(lesion.mask)
        pixels, mask = crop(lesion.image, lesion.mask, window)
        parts.append((pixels, mask, (window_mask(lesion.region, window, pixels.shape[-1]) > 0.25).float()))
    images, masks, regions = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(masks), torch.cat(regions)


# --- What is measured -------------------------------------------------------------------------------------------------


def measure_codec(painter: LatentInpainter, lesions: Sequence[Lesion]) -> dict[str, float]:
    """Return mean PSNR (dB) and SSIM of one window per lesion."""
    images = torch.cat([window_image(x.image, window_of(x.mask), painter.window) for x in lesions])
    return {f"codec_{name}": value for name, value in asdict(fidelity(painter.reconstruct, images)).items()}


@torch.no_grad()
def codec_passed(painter: LatentInpainter, lesion: Lesion) -> Lesion:
    """Return a real lesion that went through the codec and was blended in again, without the detail that this loses."""
    window, band = window_of(lesion.mask), band_width(lesion.mask, 0.08)
    latents = painter.encode(window_image(lesion.image, window, painter.window))
    image = compose(lesion.image, painter.decode(latents), window, lesion.region, band, seed=0)
    return replace(lesion, image=image)


class Easel:
    """Paints requests and keeps the time of each part."""

    def __init__(self, model: Path, data: Path, change: Mapping[str, Any], seed: int = 0) -> None:
        workshop = workshop_of(make_plan(model, data, GenerateConfig(negatives=0.0, gate="off"), seed))
        sealed, self.drawer = workshop.painter, workshop.maker.drawer
        self.sampler = sealed.sampler.model_copy(update=dict(change))
        self.painter = Painter(sealed.model, self.sampler, sealed.calibration, sealed.validators, rules=sealed.rules)
        self.maker = LayoutMaker(self.drawer, workshop.maker.remover, self.sampler.strength == 1.0)
        self.seconds = dict.fromkeys(("encode", "denoise", "decode", "composite"), 0.0)
        self.windows = 0
        self.laid: dict[Request, Layout] = {}

    def layout(self, request: Request) -> Layout:
        """Lay a request out, once for all steps and solvers that it is painted with."""
        if request not in self.laid:
            self.laid[request] = self.maker.layout(request)
        return self.laid[request]

    def requests(self, count: int) -> list[Request]:
        """Return the first requests."""
        return [self.drawer.draw(index) for index in range(count)]

    def paint(self, requests: Sequence[Request], steps: int = 0, solver: Any = "") -> list[Lesion]:
        """Paint requests without a gate; 0 steps and no solver are those of the sampler."""
        painter = self.painter
        layouts = [self.layout(request) for request in requests]
        laid = time.perf_counter()
        texts = painter.embed(layout.prompt for layout in layouts)
        prepared = [replace(painter.prepare([one], texts)[0], index=i) for i, one in enumerate(layouts)]
        encoded = time.perf_counter()
        options: dict[str, Any] = {
            "steps": steps or self.sampler.steps,
            "solver": solver or self.sampler.solver,
            "strength": self.sampler.strength,
        }
        samples = paint(painter.denoiser, painter.model.schedule, prepared, slots=8, **options)
        latents = {sample.index: sample.latents for sample in samples}
        denoised = time.perf_counter()
        with torch.no_grad():
            decoded = [painter.model.decode(latents[i]) for i in range(len(layouts))]
        done = time.perf_counter()
        images = painter.blend(layouts, decoded)
        made = [
            Lesion(image, layout.masks.new, layout.region, *reversed(origins_of(request)))
            for image, layout, request in zip(images, layouts, requests, strict=True)
        ]
        if not steps:
            spent = (encoded - laid, denoised - encoded, done - denoised, time.perf_counter() - done)
            for name, value in zip(self.seconds, spent, strict=True):
                self.seconds[name] += value
            self.windows += len(requests)
        return made

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each part per painted window."""
        return {name: round(1000 * value / max(1, self.windows), 1) for name, value in self.seconds.items()}

    def copy_paste(self, request: Request) -> Lesion:
        """Paste the lesion that a request's mask came from, with the same mask, place and background, feathered."""
        layout = self.layout(request)
        entry = self.drawer.bank.entry(request.mask_case, request.component)
        source = self.drawer.backgrounds.case(request.mask_case).read_image()
        warped = pasted_onto(source, entry.in_frame(), request.transform, layout.masks.new, render(entry, request.transform, layout.masks.new.shape))  # fmt: skip  # noqa: E501
        alpha = ndimage.gaussian_filter(layout.masks.new.astype(np.float32), 1.5)[:, :, None]
        mixed = layout.background * (1 - alpha) + warped * alpha
        return Lesion(mixed.round().astype(np.uint8), layout.masks.new, layout.region, request.mask_case)


def measure_ratios(lesions: Sequence[Lesion], suffix: str = "") -> dict[str, float]:
    """Return the medians of `ratios`."""
    seam, sharpness = np.nanmedian(np.array([ratios(x.image, x.mask, x.region) for x in lesions]), axis=0)
    return {f"seam_ratio{suffix}": round(float(seam), 3), f"sharpness_ratio{suffix}": round(float(sharpness), 3)}


def measure_obedience(easel: Easel, requests: Sequence[Request], out: Path) -> dict[str, float]:
    """Return, for each attribute, the rank correlation between what was asked and what is measured.

    Every request is painted twice, with the word for little and with that for much, and nothing else in its prompt.
    """
    found, tiles = {}, []
    for name, (aspect, little, much, measure) in ASKED.items():
        asked, measured = [], []
        for level, word in ((-1, little), (1, much)):
            made = easel.paint([easel.drawer.reworded(request, {aspect: word}) for request in requests])
            asked += [level] * len(made)
            measured += [getattr(measure_attributes(lesion.image, lesion.mask), measure) for lesion in made]
            tiles.append([tile(lesion) for lesion in made[:12]])
        found[name] = round(float(spearmanr(asked, measured).statistic), 3)
    sheet(tiles, out / "obedience.png")
    return found


def features(lesions: Sequence[Lesion]) -> NDArray[np.float64]:
    """Return the encoder's features of lesions, (N, D)."""
    return np.stack([features_in(lesion.image, lesion.mask) for lesion in lesions])


def nearest(lesions: Sequence[Lesion], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each lesion's distance to the nearest known one, in standardised features, over turns and mirrors."""
    return nearest_rows(turned_features(*windows(lesions)[:2]), known)


def seen(lesions: Sequence[Lesion]) -> list[Seen]:
    """Return lesions as a cross-fitted classifier takes them."""
    found = zip(lesions, features(lesions), strict=True)
    return [
        Seen(row, lesion.background or lesion.case, frozenset({lesion.case, lesion.background} - {""}))
        for lesion, row in found
    ]


def measure_likeness(
    easel: Easel,
    requests: Sequence[Request],
    painted: Sequence[Lesion],
    held_out: Sequence[Lesion],
    training: Sequence[Lesion],
    out: Path,
) -> dict[str, Any]:
    """Return kernel distances, classifiers, copies, seams and sharpness, and write the sheets of painted lesions.

    Real lesions are compared after they went through the codec, so that what is told apart is what was painted, and not
    what the codec does to any tissue; and as they are (`kid_against_real`), since painted ones get their detail back.
    """
    painter = easel.painter.model
    pasted = [easel.copy_paste(request) for request in requests]
    passed = [codec_passed(painter, lesion) for lesion in held_out]
    passed_training = [codec_passed(painter, lesion) for lesion in training]

    reference, known = features(passed), features(passed_training)
    sets = {"painted": features(painted), "copy_paste": features(pasted), "real_codec": known}
    for name, steps, solver in (
        ("8_steps", 8, ""),
        ("8_steps_ab2", 8, "ab2"),
        ("50_steps", 50, ""),
    ):
        made = painted if (steps, solver) == (easel.sampler.steps, "") else easel.paint(requests, steps, solver)
        sets[name] = features(made)
    distances = {f"kid_{name}": kid(found, reference) for name, found in sets.items()}
    result: dict[str, Any] = {name: found["value"] for name, found in distances.items()}
    result["kid_intervals"] = {name: [found["low"], found["high"]] for name, found in distances.items()}

    real = features(held_out)
    result["kid_against_real"] = {name: kid(sets[name], real) for name in ("painted", "copy_paste")}

    for name, against in (("real", held_out), ("codec", passed)):
        found = auc(seen(against[:MOST]), seen(painted))
        result[f"auc_{name}_vs_painted"] = found["value"]
        result[f"auc_{name}_interval"] = [found["low"], found["high"]]

    result |= copies(nearest(painted, known), nearest(passed, known))
    result |= measure_ratios(painted) | measure_ratios(held_out, "_real") | measure_ratios(passed, "_codec")
    rows = [painted[:12], painted[12:24], pasted[:12], passed[:12], held_out[:12], held_out[12:24]]
    sheet([[tile(lesion) for lesion in row] for row in rows if row], out / "windows.png")
    frames_sheet(painted[:24], out / "frames.png")
    return result


def measure_removal(remover: Remover, judge: Judge, cases: Sequence[Case], out: Path) -> dict[str, float]:
    """Return how much of lesions the judge finds before and after they are painted away, and write `removed.png`.

    `found`: median share of a lesion's area; `seen`: share of the lesions of which it finds at least half.
    """
    result, tiles = {}, []
    frames = {case.id: remover.remove(case)[0] for case in cases}
    before = lesions_of(cases, len(cases) * 10)
    after = [replace(lesion, image=frames[lesion.case]) for lesion in before]
    for name, lesions in (("before", before), ("after", after)):
        images, masks, _ = windows(lesions)
        found = (judge.probability(images) > 0.5) & (masks > 0.5)
        share = (found.sum((1, 2, 3)) / (masks > 0.5).sum((1, 2, 3)).clamp_min(1)).numpy()
        result[f"removal_found_{name}"] = round(float(np.median(share)), 3)
        result[f"removal_seen_{name}"] = round(float((share >= 0.5).mean()), 3)
        tiles.append([tile(lesion) for lesion in lesions])
    sheet([row[i : i + 12] for i in range(0, min(36, len(before)), 12) for row in tiles], out / "removed.png")
    return result


# --- Pictures ---------------------------------------------------------------------------------------------------------


def tile(lesion: Lesion, side: int = 150) -> Image.Image:
    """Return a lesion's window as a picture."""
    part = np.asarray(window_of(lesion.mask).crop(lesion.image), dtype=np.uint8)
    return Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC)


def sheet(rows: Sequence[Sequence[Image.Image]], path: Path) -> None:
    """Write rows of equal pictures as one."""
    side = rows[0][0].size[0]
    page = Image.new("RGB", (side * max(len(row) for row in rows), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(picture, (x * side, y * side))
    page.save(path)


def frames_sheet(lesions: Sequence[Lesion], path: Path, side: int = 280, columns: int = 6) -> None:
    """Write whole painted frames."""
    pictures = [Image.fromarray(x.image).resize((side, side), Image.Resampling.BICUBIC) for x in lesions]
    sheet([pictures[i : i + columns] for i in range(0, len(pictures), columns)], path)


# --- The whole ------------------------------------------------------------------------------------------------------


def prepare_data(out: Path, data: Path | None, size: Size, quick: bool) -> tuple[Path, Path]:
    """Return the full data set and the subset with few annotations, made where they are missing."""
    full, few = data or out / "data", out / f"data-{size.annotated}"
    if quick and data is None and not (full / "cases.csv").is_file():
        make_phantoms(full, 20, 4, 8, 0, size=128, seed=0)
    elif not (full / "cases.csv").is_file():
        import_kvasir(full)
    if not (few / "cases.csv").is_file():
        subset_dataset(read_dataset(full), few, size.annotated, 0)
    return full, few


def fitted(data: Path, out: Path, quick: bool) -> dict[str, float]:
    """Fit OUT/model with the command line and return minutes and peak memory; both are kept for the next run."""
    record = out / "fit-cost.json"
    if not record.is_file():
        command = [sys.executable, "-m", "diffaug", "fit", str(data), str(out / "model")]
        subprocess.run([*command, "--preset", "smoke"] if quick else command, check=True, stdout=subprocess.DEVNULL)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = sum(read_json(out / "model" / "training" / "summary.json")["seconds"].values())
        cost = {"fit_minutes": seconds / 60, "fit_core_minutes": (used.ru_utime + used.ru_stime) / 60}
        write_json(record, {name: round(v, 2) for name, v in (cost | {"fit_peak_gb": used.ru_maxrss / 2**20}).items()})
    found: dict[str, float] = read_json(record)
    return found


def held_out_cases(full: Path, test: Path | None, out: Path) -> list[Case]:
    """Return the cases that are only measured."""
    if test is None:
        dataset = read_dataset(full)
        return [*dataset.split("val"), *dataset.split("test")]
    imported = out / "held-out"
    if not (imported / "cases.csv").is_file():
        import_dataset("folder", test, imported, seed=0)
    return [case for case in read_dataset(imported).cases if case.mask is not None]


def run(
    out: Path,
    data: Path | None,
    model: Path | None,
    test: Path | None,
    quick: bool,
    size: Size,
    change: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure everything and return what goes into painter.json."""
    started = time.monotonic()
    make_folder(out)
    full, few = prepare_data(out, data, size, quick)
    result: dict[str, Any] = {"annotated": size.annotated}
    result |= fitted(few, out, quick) if model is None else {}
    model = model or out / "model"

    dataset, unseen = read_dataset(full), {case.id for case in read_dataset(few).split("unannotated")}
    others = [case for case in dataset.split("train") if case.id in unseen]
    annotated = [case for case in dataset.split("train") if case.id not in unseen]
    judge = Judge.trained(others, out / "judge", size.judge)
    result |= {"judge_cases": judge.cases, "judge_digest": judge.digest()}
    result |= {"encoder": NAME, "encoder_digest": encoder_digest()}
    say(started, "judge")

    easel = Easel(model, few, change)
    painter = easel.painter.model
    sampler = easel.sampler
    result |= {"steps": sampler.steps, "solver": sampler.solver}
    result |= {"guidance": sampler.guidance, "strength": sampler.strength}
    measured = held_out_cases(full, test, out)
    held_out = lesions_of(measured, size.held_out)
    training = lesions_of(annotated, size.held_out)
    result |= {"held_out_lesions": len(held_out), **measure_codec(painter, held_out)}
    say(started, "codec")

    requests = easel.requests(size.painted)
    painted = easel.paint(requests)
    result |= {"painted": len(painted), "milliseconds": easel.milliseconds(), "context": CONTEXT}
    say(started, "painting")

    result |= measure_likeness(easel, requests, painted, held_out, training, out)
    say(started, "likeness")

    # Obedience of text and mask.
    result["obedience"] = measure_obedience(easel, requests[: size.asked], out)
    for name, lesions in (("mask_iou_median", painted), ("judge_iou_real", held_out)):
        images, masks, regions = windows(lesions)
        result[name] = round(float(np.median(iou_inside(judge.probability(images), masks, regions))), 3)
    say(started, "obedience")

    result |= measure_removal(easel.maker.remover, judge, measured[: size.removed], out)
    say(started, "removal")

    result |= audit_prior(dataset.split("train"), measured, size.audited)
    result["minutes"] = round((time.monotonic() - started) / 60, 1)

    write_json(out / "painter.json", result)
    return result


def say(started: float, what: str) -> None:
    """Print how far it has come."""
    print(f"{time.monotonic() - started:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("out", "data", "model", "test"):
        parser.add_argument(f"--{name}", type=Path, required=name == "out")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--solver")
    parser.add_argument("--strength", type=float)
    parser.add_argument("--guidance", type=float, nargs=2)
    for name in ("painted", "asked"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    counts = {name: getattr(given, name) for name in ("painted", "asked") if getattr(given, name)}
    size = replace(QUICK if given.quick else Size(), **counts)
    change = {name: getattr(given, name) for name in ("solver", "strength") if getattr(given, name) is not None}
    change |= {"guidance": tuple(given.guidance)} if given.guidance else {}
    result = run(given.out, given.data, given.model, given.test, given.quick, size, change)
    for name, value in result.items():
        print(f"{name:24} {json.dumps(value)}")


if __name__ == "__main__":
    main()
