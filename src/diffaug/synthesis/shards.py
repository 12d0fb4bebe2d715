"""Shards: the unit of work, of resuming and of distribution.

A shard is a fixed list of requests. Its files are a pure function of (model digest, config, data, shard index); it is
complete when its `rows.jsonl`, written last, exists. Kill it anywhere: what is missing is made again.
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffaug.artifacts import (
    digest_of_file,
    digest_of_value,
    make_folder,
    read_json,
    read_jsonl,
    versions,
    write_json,
    write_jsonl,
)
from diffaug.conditioning.budget import Budget, make_budget, read_needs
from diffaug.conditioning.grammar import Listener
from diffaug.conditioning.prompts import EMPTY_PROMPT
from diffaug.conditioning.requests import (
    Request,
    RequestDrawer,
    RequestMasks,
    check_config,
    check_place,
    is_generic,
)
from diffaug.config import GenerateConfig
from diffaug.data.case import NEGATIVE, Case, Label, Mask, Pixels, digest_of_case, write_png
from diffaug.data.folder import Dataset, check_dataset, read_dataset, write_cases
from diffaug.diffusion.contract import Denoiser
from diffaug.diffusion.devices import device_of
from diffaug.diffusion.guidance import Guided
from diffaug.diffusion.train import progress_bar
from diffaug.errors import ConfigError, ModelError
from diffaug.models.latent_inpainter import LatentInpainter, decode, read_words, scale_of, verify
from diffaug.synthesis.clearing import Remover
from diffaug.synthesis.compose import band_width, compose, reach_of, region_of, without_border
from diffaug.synthesis.engine import Decision, Painted, Prepared, paint
from diffaug.synthesis.window import Window, longer_side, window_around, window_image, window_mask, window_masks
from diffaug.validator.calibration import BINS, Calibration
from diffaug.validator.gate import Gate, Target
from diffaug.validator.latent_segmenter import UPSCALE, load_segmenter, segment

CLEARED = 64  # frames without their lesions that are kept in memory
REMAINS = 0.5  # share of a removed lesion's area that the validator still finds; with more, it is not gone
PREVIEWS = 3  # pictures of turned-down requests kept per shard
GUIDED_BY_MASK = 0.7  # share of the timesteps below those where guidance is of text and mask
PATIENCE = 20  # requests per wanted case before generation gives up
DECISIONS = ("kept", "stopped", "rejected")
FILL = "fill"  # the size bin under which a gate lets fills pass: there is no lesion to find
FOUND = 0.5  # of a fill's region; where the validator finds more, it is no lesion-free tissue


@dataclass(frozen=True)
class Plan:
    """Everything that a shard's output depends on, besides its index."""

    model: Path
    data: Path
    config: GenerateConfig
    seed: int
    model_digest: str
    data_digest: str
    findings_digest: str = ""  # empty for prompts of measured words alone
    device: str = "cpu"
    budget: Budget | None = None  # what kept cases should be like; None for the aim `match`

    def digest(self) -> str:
        """Return the digest of the settings."""
        return digest_of_value([self.settings(), self.seed, self.data_digest])

    def settings(self) -> dict[str, Any]:
        """Return the knobs that shape what is generated: not the number of workers, and of findings their content."""
        later = {name for name in ("paint_all", "fills") if not getattr(self.config, name)}  # absent from older sets
        knobs = self.config.model_dump(mode="json", exclude={"workers", "domain", "findings", "baseline"} | later)
        knobs |= {"findings": self.findings_digest} if self.findings_digest else {}
        knobs |= {"budget": self.budget.as_dict()} if self.budget else {}
        return knobs | ({"device": self.device} if self.device != "cpu" else {})  # last digits depend on it


@dataclass(frozen=True)
class Canvas:
    """A request laid out on its background: native pixels, and the window to paint."""

    request: Request
    background: Pixels
    masks: RequestMasks
    region: Mask
    field: Mask  # the field of view; nothing outside it is painted
    band: float
    window: Window
    removed: tuple[dict[str, Any], ...] = ()  # what was painted away on the background first

    @property
    def remains(self) -> float:
        """Return the largest share of a removed lesion that the validator still finds; 0 where none was removed."""
        return max((float(region["found_after"]) for region in self.removed), default=0.0)


class Studio:
    """A loaded model and data set: prepares requests and finishes what was painted."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.dataset: Dataset = read_dataset(plan.data)
        self.painter = LatentInpainter.load(plan.model, plan.device)
        self.denoiser = guided(self.painter, plan.config.guidance)
        self.calibration = Calibration.load(plan.model / "calibration.json")
        validators = load_validators(plan.model, self.calibration, plan.device)
        self.gate = Gate(validators, passing(self.calibration, plan.config.paint_all))
        train = fitted_cases(self.dataset, self.calibration)
        listener = Listener(read_words(plan.model), self.painter.reads)
        self.drawer = RequestDrawer(train, plan.seed, plan.config, listener=listener, budget=plan.budget)
        self.remover = Remover(self.painter, self.calibration, self.gate.validators, plan.seed)
        self._cleared: dict[str, tuple[Pixels, tuple[dict[str, Any], ...]]] = {}

    def canvas(self, request: Request) -> Canvas:
        """Lay out a request: where it is painted, and the window around that."""
        masks = self.drawer.masks(request)
        background, removed = self.background(request)
        band = band_width(masks.new, self.plan.config.band)
        field = self.drawer.terrain(request.background).field
        region = region_of(masks.new, masks.old, band) & field
        context = np.random.default_rng((request.seed, 1)).uniform(*self.plan.config.context)
        whole = masks.new | masks.old
        window = window_around(whole, float(context), least=max(32, longer_side(region) + 4))
        return Canvas(request, background, masks, region, field, band, window, removed)

    def background(self, request: Request) -> tuple[Pixels, tuple[dict[str, Any], ...]]:
        """Return what a request is painted on, and for `removed` a record of what was painted away."""
        case = self.dataset.case(request.background)
        if request.placement != "removed":
            return case.read_image(), ()
        if case.id not in self._cleared:
            if len(self._cleared) >= CLEARED:
                self._cleared.clear()
            frame, regions = self.remover.remove(case)
            self._cleared[case.id] = frame, tuple(regions)
        return self._cleared[case.id]

    def prepare(self, canvas: Canvas) -> Prepared:
        """Encode what the painter and the gate need to know: pixels => latents."""
        side, painter = self.painter.window, self.painter
        region = (window_mask(canvas.region, canvas.window, side) > 0.25).float()
        reach = reach_of(canvas.region, canvas.field, canvas.band)
        filled = (window_mask(reach, canvas.window, side) > 0.25).float()
        wanted = canvas.masks.new_classes(self.drawer.classes) & (not canvas.request.fill)
        mask = window_masks(wanted, canvas.window, side)
        scale = torch.tensor([scale_of(canvas.window.side, canvas.region.shape, painter.latent_side)])
        with torch.no_grad():
            text = painter.embed([canvas.request.prompt])
            image = window_image(without_border(canvas.background, canvas.field, reach), canvas.window, side)
            told = painter.condition(image, filled, mask, scale, text)
        fine = painter.cell // UPSCALE
        target = Target(
            mask=torch.nn.functional.avg_pool2d(mask, fine)[0],
            region=torch.nn.functional.max_pool2d(region, fine)[0],
            size_bin=FILL if canvas.request.fill else canvas.request.size_bin,
            fold=self.calibration.folds[canvas.request.mask_case or canvas.request.background],
        )
        return Prepared(canvas.request.index, painter.noise([canvas.request.seed]), told, target)

    def picture_of(self, values: Label) -> Label:
        """Return a label as it is written: in the data set's own values, or 0 and 255 where it declares no classes."""
        return values if self.drawer.classes else np.asarray(values * 255, dtype=np.uint8)

    @torch.no_grad()
    def finish(self, canvas: Canvas, painted: Painted) -> Pixels:
        """Decode a sample and blend it into its background: latents => pixels."""
        window = decode(self.painter.codec, painted.latents)
        seed = canvas.request.seed
        return compose(canvas.background, window, canvas.window, canvas.region, canvas.band, seed, canvas.field)


def passing(calibration: Calibration, everything: bool) -> Calibration:
    """Return the thresholds of a gate that lets fills pass, and with `everything` lets all samples pass."""
    none = {str(step): 0.0 for step in calibration.checks}
    own = dict.fromkeys(calibration.thresholds, none) if everything else calibration.thresholds
    return replace(calibration, thresholds={**own, FILL: none})


def judged(sample: Painted, size_bin: str, calibration: Calibration) -> Painted:
    """Return a sample that was painted to the end, with the decision that the gate would have taken on the way."""
    checks = [
        replace(check, threshold=round(calibration.threshold(size_bin, check.step), 5)) for check in sample.checks
    ]
    failed = next((check for check in checks if not check.accepted), None)
    decision: Decision = "kept" if failed is None else "rejected" if failed.step == calibration.steps else "stopped"
    return replace(sample, checks=checks, decision=decision)


def load_validators(model: Path, calibration: Calibration, device: str = "cpu") -> list[Any]:
    """Load the segmentation network of every fold of a model."""
    folds = range(max(calibration.folds.values()) + 1)
    return [load_segmenter(model / "validator" / str(fold), device) for fold in folds]


@torch.no_grad()
def guided(painter: LatentInpainter, weights: tuple[float, float]) -> Denoiser:
    """Return a painter under guidance: of text and mask while there is much noise, of the text afterwards."""
    switch = round(GUIDED_BY_MASK * len(painter.schedule.alpha_bar))
    return painter if weights == (1.0, 1.0) else Guided(painter, painter.embed([EMPTY_PROMPT]), *weights, switch)


def fitted_cases(dataset: Dataset, calibration: Calibration) -> list[Case]:
    """Return the annotated training cases, all of which the model must have been fitted on.

    Raises:
        ModelError: A case is unknown to the model: no validator is known that has not seen it.
    """
    train = list(dataset.split("train"))
    unknown = [case.id for case in train if case.id not in calibration.folds]
    if unknown or not train:
        name = unknown[0] if unknown else "(none)"
        raise ModelError(
            f"a model paints for the training cases it was fitted on: {name} of {dataset.folder} is not one; "
            "fit a model on this data set"
        )
    return train


@lru_cache(maxsize=1)
def studio_of(plan: Plan) -> Studio:
    """Load a plan's model and data once per process.

    One thread, since the order of additions inside a layer depends on the number of threads.
    """
    torch.set_num_threads(1)
    return Studio(plan)


def shard_folder(out: Path, shard: int) -> Path:
    """Return the folder of a shard."""
    return out / "shards" / f"{shard:05d}"


def generate_shard(plan: Plan, out: Path, shard: int) -> int:
    """Make one shard, unless it is complete, and return how many of its cases were kept."""
    folder = shard_folder(out, shard)
    if not (folder / "rows.jsonl").is_file():
        started = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        studio, size = studio_of(plan), plan.config.shard_size
        for name in ("images", "masks", "turned-down"):
            make_folder(folder / name)
        rows = sorted(_rows(studio, out, folder, range(shard * size, (shard + 1) * size)), key=lambda r: r["index"])
        write_json(folder / "seconds.json", round(time.monotonic() - started, 3))
        write_jsonl(folder / "rows.jsonl", rows)
    return sum(row["decision"] == "kept" and not row.get("fill") for row in read_jsonl(folder / "rows.jsonl"))


def _rows(studio: Studio, out: Path, folder: Path, requests: Sequence[int]) -> Iterator[dict[str, Any]]:
    canvases: dict[int, Canvas] = {}
    config, previews = studio.plan.config, Counter[str]()

    def prepared() -> Iterator[Prepared]:
        for index in requests:
            canvases[index] = studio.canvas(studio.drawer.draw(index))
            if config.paint_all or not _left_over(canvases[index], config):
                yield studio.prepare(canvases[index])

    samples = paint(
        studio.denoiser,
        studio.painter.schedule,
        prepared(),
        steps=studio.calibration.steps,
        slots=config.slots,
        gate=studio.gate if config.gate else None,
        solver=config.solver,
    )
    for painted in samples:
        canvas = canvases.pop(painted.index)
        judge = config.paint_all and config.gate and not canvas.request.fill
        sample = judged(painted, canvas.request.size_bin, studio.calibration) if judge else painted
        row = _row(studio, canvas, sample) | (_of_fill(studio, canvas, sample) if canvas.request.fill else {})
        if _left_over(canvas, config):
            row |= {"decision": "rejected", "reason": _why_left_over(canvas)}
        if row["decision"] == "kept" or config.paint_all:
            row |= _write_case(folder, canvas, studio, studio.finish(canvas, sample), out)
        if row["decision"] != "kept" and previews[row["decision"]] < PREVIEWS:
            previews[row["decision"]] += 1
            row["preview"] = _write_preview(folder, canvas, studio, studio.finish(canvas, sample), out)
        yield row
    for index, canvas in canvases.items():  # what was not painted at all
        unpainted = Painted(index, studio.painter.noise([0]), "rejected")
        yield _row(studio, canvas, unpainted) | {"reason": _why_left_over(canvas)}


def _left_over(canvas: Canvas, config: GenerateConfig) -> bool:
    """Tell whether the gate turns a request down since a lesion that was to be removed is still found."""
    return config.gate and canvas.remains > REMAINS


def _why_left_over(canvas: Canvas) -> str:
    return f"{canvas.remains:.3f} of a lesion was still found after its removal, more than {REMAINS}"


def _row(studio: Studio, canvas: Canvas, sample: Painted) -> dict[str, Any]:
    """Return all it takes to make a case again, and why it was kept or not; no times."""
    request, failed = canvas.request, next((check for check in sample.checks if not check.accepted), None)
    last = failed or (sample.checks[-1] if sample.checks else None)
    reason = "kept without a gate" if last is None else "agrees with its mask"
    if last is not None and sample.decision != "kept":
        reason = f"soft IoU {last.score:.3f} under {last.threshold:.3f} after step {last.step}"
    return {
        **request.as_dict(),
        "decision": sample.decision,
        "reason": reason,
        "steps": sample.steps,
        "checks": [asdict(check) for check in sample.checks],
        "sources": list(request.sources),
        "window": [canvas.window.top, canvas.window.left, canvas.window.side],
        **({"removed": list(canvas.removed)} if canvas.removed else {}),
        "model": studio.plan.model_digest,
        "validator": studio.calibration.validator,
        "config": studio.plan.digest(),
        "image": "",
        "mask": "",
        "preview": "",
    }


def _of_fill(studio: Studio, canvas: Canvas, sample: Painted) -> dict[str, Any]:
    """Return what differs in the row of a fill: the validator must find no lesion in it."""
    target = studio.prepare(canvas).target
    with torch.no_grad():
        map_ = segment(studio.gate.validators[target.fold], sample.latents, torch.zeros(1, dtype=torch.long))
    found = float((map_.amax(1) * target.region).sum() / target.region.sum().clamp_min(1e-6))
    kept = found < FOUND
    reason = f"a lesion-free fill: the validator finds {found:.3f} of its region, {FOUND:g} is the limit"
    return {"decision": "kept" if kept else "rejected", "reason": reason, "checks": [], "found": round(found, 5)}


def _write_case(folder: Path, canvas: Canvas, studio: Studio, image: Pixels, out: Path) -> dict[str, Any]:
    if canvas.request.fill:
        region = make_folder(folder / "regions") / f"{canvas.request.id}.png"
        write_png(region, canvas.region.astype(np.uint8) * 255)
    extra = {"region": region.relative_to(out).as_posix()} if canvas.request.fill else {}
    paths = {name: folder / f"{name}s" / f"{canvas.request.id}.png" for name in ("image", "mask")}
    write_png(paths["image"], image)
    write_png(paths["mask"], studio.picture_of(canvas.masks.values))
    return (
        {name: path.relative_to(out).as_posix() for name, path in paths.items()}
        | {f"{name}_digest": digest_of_file(path) for name, path in paths.items()}
        | extra
        | ({} if canvas.masks.label.any() else {"lesion_free": True})
    )


def _write_preview(folder: Path, canvas: Canvas, studio: Studio, image: Pixels, out: Path) -> str:
    """Write the window of a turned-down request, and beside it the requested mask."""
    path = folder / "turned-down" / f"{canvas.request.id}.png"
    write_png(path, np.asarray(canvas.window.crop(image), dtype=np.uint8))
    mask = np.asarray(canvas.window.crop(canvas.masks.values * canvas.masks.new), dtype=np.uint8)
    write_png(path.with_name(f"{path.stem}_mask.png"), studio.picture_of(mask))
    return path.relative_to(out).as_posix()


def generate(
    model: Path,
    data: Path,
    out: Path,
    config: GenerateConfig,
    *,
    seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Complete shards in order until `config.count` cases are kept, and write the synthetic set.

    The same call again resumes; files are byte-identical to those of an unbroken run, whatever the number of workers.

    Args:
        model: A finished model folder.
        data: The data set it was fitted on.
        out: The synthetic set to make.
        config: What to paint, and how much.
        seed: Base seed of the requests.
        workers: Processes, one thread each.
        device: Where to compute: cpu, cuda, cuda:N or auto. Every worker holds a model of its own there.

    Returns:
        The content of `summary.json`: the funnel by size bin and seconds per kept case.

    Raises:
        ModelError: The model is unfinished or altered, was fitted on other cases, or keeps too little.
        ConfigError: `out` holds a set with other settings, or the device is not there.
        FindingsError: The domain is unknown, or the findings break a rule.
        PlacementError: No mask fits on any background.
        StudyError: The baseline is not of these training cases out of fold.
    """
    plan = make_plan(model, data, config, seed, device)
    if not (out / "config.json").is_file():  # a mask that fits nowhere is told before anything is written
        train = [case for case in read_dataset(data).split("train") if case.mask]
        RequestDrawer(train, seed, config, budget=plan.budget).draw(0)
    if plan.budget:
        print(plan.budget.table(), file=sys.stderr, flush=True)
    claim(out, _settings(plan))
    shards = _complete(plan, out, workers)
    rows = _mark_surplus([row for shard in shards for row in read_jsonl(shard_folder(out, shard) / "rows.jsonl")], plan)
    for extra in (out / "shards").iterdir():
        if extra.name not in {shard_folder(out, shard).name for shard in shards}:
            shutil.rmtree(extra)  # made ahead by another worker, and not needed

    dataset = read_dataset(data)
    kept = [_case_of_row(row, out, dataset) for row in rows if row["decision"] == "kept"]
    write_jsonl(out / "manifest.jsonl", rows)
    write_cases(out, kept)
    write_json(out / "provenance.json", {"images": seen_images(plan)})
    summary = funnel(rows) | {
        "seconds": round(sum(read_json(shard_folder(out, s) / "seconds.json") for s in shards), 1)
    }
    summary["seconds_per_kept"] = round(summary["seconds"] / max(1, summary["kept"]), 3)
    unsaid = Counter(part for row in rows for part in row.get("unsaid", ()))
    if plan.budget:
        summary["budget"] = {
            name: {"quota": quota, **funnel([row for row in rows if row["aim"] == name])}
            for name, quota in zip(plan.budget.strata, plan.budget.quotas, strict=True)
        }
    if unsaid:
        summary["left_out_of_prompts"] = dict(sorted(unsaid.items()))
    write_json(out / "summary.json", summary)
    return summary


def make_plan(model: Path, data: Path, config: GenerateConfig, seed: int, device: str = "cpu") -> Plan:
    """Check model and data, and return everything that the shards depend on."""
    model, data, place = model.absolute(), data.absolute(), str(device_of(device))
    library = check_config(config)
    digest = verify(model)
    dataset = read_dataset(data)
    train = fitted_cases(dataset, Calibration.load(model / "calibration.json"))
    check_dataset(train)
    check_place(config, train[0].classes)
    digests = {case.id: digest_of_case(case) for case in train}
    fitted = read_json(model / "fit.json")["cases"]
    changed = [name for name, found in digests.items() if not isinstance(fitted, dict) or fitted.get(name) != found]
    if changed:
        raise ModelError(
            f"a model paints for the training cases it was fitted on: {changed[0]} of {data} is another one, or was "
            "changed since; fit a model on this data set"
        )
    findings = "" if is_generic(config) else digest_of_value(library.model_dump(mode="json"))
    budget = budget_of(dataset, config)
    return Plan(model, data, config, seed, digest, digest_of_value(digests), findings, place, budget)


def budget_of(dataset: Dataset, config: GenerateConfig) -> Budget | None:
    """Return what the kept cases should be like; None for the aim `match`.

    Raises:
        ConfigError: No training case is like what is aimed at.
        StudyError: The baseline is not of these training cases out of fold.
    """
    train = [case for case in dataset.split("train") if case.mask]
    needs = None
    if config.baseline is not None:
        needs = read_needs(config.baseline, train, [*dataset.split("val"), *dataset.split("test")])
    if config.aim == "match":
        return None
    return make_budget(config.aim, RequestDrawer(train, 0, config).words_of_cases(), config.count, needs)


def seen_images(plan: Plan) -> dict[str, str]:
    """Return the digest of every image that the model was fitted on, by case: as the fit, or the data set, says."""
    fitted = read_json(plan.model / "fit.json").get("images")
    if fitted:
        return dict(fitted)
    dataset = read_dataset(plan.data)
    return {case.id: digest_of_file(case.image) for case in (*dataset.split("train"), *dataset.split("unannotated"))}


def _settings(plan: Plan) -> dict[str, Any]:
    """Return what `config.json` says of a synthetic set."""
    return {
        "generate": plan.settings(),
        "seed": plan.seed,
        "model": plan.model_digest,
        "data": plan.data_digest,
        "fit_cases": sorted(Calibration.load(plan.model / "calibration.json").folds),
    }


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Write `config.json` before work starts, or check that it is the same.

    Raises:
        ConfigError: The folder holds a set with other settings, or other files.
    """
    path = out / "config.json"
    if path.is_file():
        old = read_json(path)
        differs = [key for key in settings if old.get(key) != settings[key]]
        if differs:
            raise ConfigError(
                f"an output folder has one config: {out} was started with another {differs[0]}; choose another folder"
            )
        return
    if out.is_dir() and any(found.suffix != ".partial" for found in out.iterdir()):
        raise ConfigError(f"an output needs a new or empty folder: {out} holds other files; choose another folder")
    make_folder(out)
    write_json(path, {**settings, "versions": versions()})


def _complete(plan: Plan, out: Path, workers: int) -> list[int]:
    """Complete shards in order until enough cases are kept; return their numbers.

    With a budget, a shard is left out when its stratum has its quota: the shards stay what they are, and strata of
    which little is kept get more of them.

    Raises:
        ModelError: Too few of very many requests are kept.
    """
    budget, size = plan.budget, plan.config.shard_size
    wanted = dict(zip(budget.strata, budget.quotas, strict=True)) if budget else {"": plan.config.count}
    most = {name: max(4, -(-PATIENCE * quota // size)) for name, quota in wanted.items()}
    kept, made = Counter[str](), Counter[str]()
    shards: list[int] = []

    def stratum_of(shard: int) -> str:
        return budget.stratum_of(shard) if budget else ""

    def open_from(start: int) -> Iterator[int]:
        """Yield shards whose strata lack cases, as far as is known."""
        while any(kept[name] < quota for name, quota in wanted.items()):
            if kept[stratum_of(start)] < wanted[stratum_of(start)]:
                yield start
            start += 1

    with progress_bar() as bar, _pool(workers) as pool:
        task = bar.add_task("kept cases", total=sum(wanted.values()))
        ahead: dict[int, Future[int]] = {}
        for shard in open_from(0):
            name = stratum_of(shard)
            if made[name] == most[name]:
                raise ModelError(
                    f"a model must keep 1 of {PATIENCE} requests: {kept[name]} of {made[name] * size} "
                    f"{name + ' ones ' if name else ''}were kept; fit it longer, annotate more cases, "
                    "or raise --alpha of the fit"
                )
            if pool is None:
                found = generate_shard(plan, out, shard)
            else:
                for number in islice(open_from(shard), workers):
                    if number not in ahead:
                        ahead[number] = pool.submit(generate_shard, plan, out, number)
                found = ahead.pop(shard).result()
            kept[name] += found
            made[name] += 1
            shards.append(shard)
            bar.update(task, completed=sum(min(kept[name], quota) for name, quota in wanted.items()))
    return shards


class _pool:  # noqa: N801
    """Worker processes, or None where one process is enough."""

    def __init__(self, workers: int) -> None:
        self.pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else None

    def __enter__(self) -> ProcessPoolExecutor | None:
        return self.pool

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def _mark_surplus(rows: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Mark what was kept beyond the wanted count, in all or of a stratum, so that `--count N` means N."""
    budget = plan.budget
    quotas = dict(zip(budget.strata, budget.quotas, strict=True)) if budget else {"": plan.config.count}
    kept = Counter[str]()
    for row in rows:
        if row["decision"] == "kept" and not row.get("fill"):
            name = row.get("aim", "")
            kept[name] += 1
            if kept[name] > quotas[name]:
                row["decision"] = "surplus"
                row["reason"] = f"kept, beyond the {quotas[name]} {name + ' ones ' if name else ''}asked for"
    return rows


def _case_of_row(row: dict[str, Any], out: Path, dataset: Dataset) -> Case:
    background = dataset.case(row["background"])
    paths = out / row["image"], out / row["mask"]
    attributes = {NEGATIVE: 1.0} if row.get("lesion_free") else {}
    return Case(row["id"], *paths, background.group, "train", row["prompt"], attributes, background.classes)


def funnel(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count requests by decision, in all and by size bin; surplus cases count as kept, and fills for themselves."""

    def counted(some: Sequence[dict[str, Any]]) -> dict[str, int]:
        found = Counter("kept" if row["decision"] == "surplus" else row["decision"] for row in some)
        return {"requested": len(some), **{name: found[name] for name in DECISIONS}}

    filled, rows = [row for row in rows if row.get("fill")], [row for row in rows if not row.get("fill")]
    by_size = {name: counted([row for row in rows if row["size_bin"] == name]) for name in BINS}
    return {**counted(rows), "by_size": by_size, **({"fills": counted(filled)} if filled else {})}
