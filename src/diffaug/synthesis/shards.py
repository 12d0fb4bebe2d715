"""Shards: the unit of work, of resuming and of distribution.

A shard is a fixed list of requests. Its files are a pure function of (model digest, config, data, shard index); it is
complete when its `rows.jsonl`, written last, exists. Kill it anywhere: what is missing is made again.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffaug.artifacts import (
    digest_of_file,
    digest_of_folder,
    digest_of_value,
    make_folder,
    read_json,
    read_jsonl,
    versions,
    write_json,
    write_jsonl,
)
from diffaug.conditioning.findings import library_of
from diffaug.conditioning.grammar import Listener
from diffaug.conditioning.prompts import EMPTY_PROMPT
from diffaug.conditioning.requests import (
    Request,
    RequestDrawer,
    RequestMasks,
    check_place,
    is_generic,
    seed_of_request,
)
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, Label, Mask, Pixels, digest_of_case, write_png
from diffaug.data.folder import Dataset, check_dataset, read_dataset, write_cases
from diffaug.diffusion.contract import Denoiser
from diffaug.diffusion.guidance import Guided
from diffaug.diffusion.train import progress_bar
from diffaug.errors import ConfigError, ModelError
from diffaug.models.latent_inpainter import LatentInpainter, decode, read_words, scale_of, verify
from diffaug.synthesis.compose import band_width, compose, region_of, repaired
from diffaug.synthesis.engine import Painted, Prepared, paint
from diffaug.synthesis.window import Window, longer_side, window_around, window_image, window_mask, window_masks
from diffaug.validator.calibration import BINS, Calibration, Trajectory
from diffaug.validator.gate import Gate, Target
from diffaug.validator.latent_segmenter import UPSCALE, load_segmenter, segment

PREVIEWS = 3  # pictures of turned-down requests kept per shard
PATIENCE = 20  # requests per wanted case before generation gives up
DECISIONS = ("kept", "stopped", "rejected")
Texts = dict[str, Tensor]  # embedded prompts


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

    def digest(self) -> str:
        """Return the digest of the settings."""
        return digest_of_value([self.settings(), self.seed, self.data_digest])

    def settings(self) -> dict[str, Any]:
        """Return the knobs that shape what is generated: not the number of workers, and of findings their content."""
        knobs = self.config.model_dump(mode="json", exclude={"workers", "domain", "findings"})
        return knobs | ({"findings": self.findings_digest} if self.findings_digest else {})


@dataclass(frozen=True)
class Canvas:
    """A request laid out on its background: native pixels, and the window to paint."""

    request: Request
    background: Pixels
    masks: RequestMasks
    region: Mask
    band: float
    window: Window


class Studio:
    """A loaded model and data set: prepares requests and finishes what was painted."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.dataset: Dataset = read_dataset(plan.data)
        self.painter = LatentInpainter.load(plan.model)
        self.denoiser = guided(self.painter, plan.config)
        self.calibration = calibration_for(plan.config, Calibration.load(plan.model / "calibration.json"))
        self.gate = Gate(load_validators(plan.model, self.calibration, self.painter), self.calibration)
        train = fitted_cases(self.dataset, self.calibration)
        listener = Listener(read_words(plan.model), self.painter.reads)
        self.drawer = RequestDrawer(train, plan.seed, plan.config, listener=listener)

    def canvas(self, request: Request) -> Canvas:
        """Lay out a request: where it is painted, and the window around that."""
        masks = self.drawer.masks(request)
        background = self.dataset.case(request.background).read_image()
        band = band_width(masks.new, self.plan.config.band)
        region = region_of(masks.new, masks.old, band) & (
            self.drawer.terrain(request.background).field | masks.new | masks.old
        )
        context = np.random.default_rng((request.seed, 1)).uniform(*self.plan.config.context)
        whole = masks.new | masks.old
        window = window_around(whole, float(context), least=max(32, longer_side(region) + 4))
        return Canvas(request, background, masks, region, band, window)

    @torch.no_grad()
    def embed(self, prompts: Iterable[str]) -> Texts:
        """Embed every prompt once, (1, L, D) each; one by one, so that none depends on the others."""
        return {prompt: self.painter.embed([prompt]) for prompt in dict.fromkeys(prompts)}

    def prepare(self, canvas: Canvas) -> Prepared:
        """Encode one request alone."""
        return self.prepare_all([canvas], self.embed([canvas.request.prompt]))[0]

    def picture_of(self, values: Label) -> Label:
        """Return a label as it is written: in the data set's own values, or 0 and 255 where it declares no classes."""
        return values if self.drawer.classes else np.asarray(values * 255, dtype=np.uint8)

    @torch.no_grad()
    def prepare_all(self, canvases: Sequence[Canvas], texts: Texts) -> list[Prepared]:
        """Encode what the painter and the gate need to know, of several requests in one batch: pixels => latents."""
        side, painter = self.painter.window, self.painter
        windows = [window_image(c.background, c.window, side) for c in canvases]
        regions = torch.cat([(window_mask(c.region, c.window, side) > 0.25).float() for c in canvases])
        classes = self.drawer.classes
        masks = torch.cat([window_masks(c.masks.new_classes(classes), c.window, side) for c in canvases])
        scale = torch.tensor([scale_of(c.window.side, c.region.shape, painter.latent_side) for c in canvases])
        text = torch.cat([texts[c.request.prompt] for c in canvases])
        told = painter.condition(torch.cat(windows), regions, masks, scale, text)
        fine = painter.cell // UPSCALE
        fine_masks, fine_regions = F.avg_pool2d(masks, fine), F.max_pool2d(regions, fine)
        prepared = []
        for row, canvas in enumerate(canvases):
            request = canvas.request
            fold = self.calibration.folds[request.mask_case]
            target = Target(fine_masks[row], fine_regions[row], request.size_bin, fold)
            noise = painter.noise(seeds_of(request.seed, self.plan.config.candidates))
            prepared.append(Prepared(request.index, noise, told.rows(slice(row, row + 1)), target))
        return prepared

    @torch.no_grad()
    def decode_all(self, painted: Sequence[Painted]) -> list[Tensor]:
        """Decode samples in one batch, padded to the slots: latents => windows, (1, 3, side, side) each."""
        latents = torch.cat([sample.latents for sample in painted])
        padding = latents[:1].expand(max(0, self.plan.config.slots - len(painted)), -1, -1, -1)
        return list(torch.split(decode(self.painter.codec, torch.cat([latents, padding])), 1)[: len(painted)])

    @torch.no_grad()
    def repaired(self, canvas: Canvas, latents: Tensor) -> Mask:
        """Return the new mask with the boundary that its validator finds in finished latents, (1, Z, h, w)."""
        network = self.gate.validators[self.calibration.folds[canvas.request.mask_case]]
        found = segment(network, latents, torch.zeros(1, dtype=torch.long)).amax(1, keepdim=True)
        side = (canvas.window.side, canvas.window.side)
        square = F.interpolate(found, side, mode="bilinear", align_corners=False)[0, 0].numpy()
        outline = canvas.window.place(square, canvas.background.shape[:2]) > 0.5
        return repaired(canvas.masks.new, outline & canvas.region, canvas.band)

    def label(self, canvas: Canvas, painted: Painted) -> Label:
        """Return the label of a finished sample as it is written: as requested, or with the validator's boundary."""
        masks = canvas.masks
        if self.plan.config.label == "requested":
            return self.picture_of(masks.values)
        mended = (masks.label & ~masks.new) | self.repaired(canvas, painted.latents)
        return self.picture_of(mended.astype(np.uint8))

    def finish(self, canvas: Canvas, painted: Painted) -> Pixels:
        """Decode one sample alone and blend it into its background: latents => pixels."""
        return blend(canvas, self.decode_all([painted])[0])


def blend(canvas: Canvas, window: Tensor) -> Pixels:
    """Blend a decoded window, (1, 3, side, side), into its background."""
    seed = canvas.request.seed
    return compose(canvas.background, window, canvas.window, canvas.region, canvas.band, seed)


def seeds_of(seed: int, candidates: int) -> list[int]:
    """Return the seeds a request starts from: its own, then others that follow from it."""
    return [seed, *(seed_of_request(seed, number) for number in range(1, candidates))]


def painting_of(config: GenerateConfig) -> dict[str, Any]:
    """Return the settings that shape a trajectory, as they are compared with those of the calibration."""
    guidance = [*config.guidance, 0.0 if config.guidance == (1.0, 1.0) else config.guided_share]
    return {"solver": config.solver, "guidance": guidance}


def calibration_for(config: GenerateConfig, calibration: Calibration) -> Calibration:
    """Return the thresholds that a config asks for; none before the end where trajectories would be of another kind."""
    if config.gate == "fixed":
        calibration = calibration.fixed(config.threshold)
    return calibration if calibration.painting == painting_of(config) else calibration.without_stops()


def painter_digest(model: Path) -> str:
    """Return the digest of what a validator depends on: codec and denoiser."""
    return digest_of_folder(model, ("unet/*.safetensors", "vae/*.safetensors"))


def load_validators(model: Path, calibration: Calibration, painter: LatentInpainter) -> list[Any]:
    """Load the segmentation network of every fold of a model.

    Raises:
        ModelError: They, or the calibration, were made for another painter or other classes.
    """
    made = {"painter": painter_digest(model), "validators": digest_of_folder(model / "validator")}
    stated = {"painter": calibration.painter, "validators": calibration.validator}
    for part, digest in made.items():
        if digest != stated[part]:
            raise ModelError(
                f"a calibration belongs to one model: that of {model} was made for {part} {stated[part] or '(none)'}, "
                f"here lies {digest}; fit it again"
            )
    classes = max(1, painter.classes)
    if calibration.classes != classes:
        raise ModelError(
            f"a calibration speaks of its model's classes: that of {model} holds {calibration.classes}, "
            f"the painter {classes}; fit it again"
        )
    folds = range(max(calibration.folds.values()) + 1)
    return [load_segmenter(model / "validator" / str(fold)) for fold in folds]


@torch.no_grad()
def guided(painter: LatentInpainter, config: GenerateConfig) -> Denoiser:
    """Return a painter under the guidance of text and mask."""
    if config.guidance == (1.0, 1.0) or config.guided_share == 0:
        return painter
    until = round((1 - config.guided_share) * len(painter.schedule.alpha_bar))
    return Guided(painter, painter.embed([EMPTY_PROMPT]), *config.guidance, until)


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


def painted_trajectories(
    model: Path, data: Path, calibration: Calibration, count: int, config: GenerateConfig, seed: int
) -> list[Trajectory]:
    """Paint requests to the end, whatever the gate thinks, and return its scores.

    Args:
        model: A model folder, whole but for its seal.
        data: The data set it is fitted on.
        calibration: Folds and checks; no threshold of it counts.
        count: Requests; another series than any that is generated.
        config: How they are painted.
        seed: Seeds them.

    Raises:
        PlacementError: No mask fits on any background.
    """
    own = seed_of_request(seed, -1) % 2**31
    plain = config.model_copy(update={"gate": "conformal", "candidates": 1, "label": "requested"})
    studio = Studio(Plan(model.absolute(), data.absolute(), plain, own, "", ""))
    gate = Gate(studio.gate.validators, calibration.fixed(0.0))
    found = sorted(painted_requests(studio, range(count), gate), key=lambda pair: pair[1].index)
    return [Trajectory(c.request.size_bin, tuple(check.score for check in sample.checks)) for c, sample in found]


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
    return sum(row["decision"] == "kept" for row in read_jsonl(folder / "rows.jsonl"))


def painted_requests(studio: Studio, requests: Sequence[int], gate: Gate | None) -> Iterator[tuple[Canvas, Painted]]:
    """Paint requests in slots; every prompt is embedded once, and backgrounds are encoded a batch at a time."""
    config = studio.plan.config
    drawn = [studio.drawer.draw(index) for index in requests]
    texts = studio.embed(request.prompt for request in drawn)
    canvases: dict[int, Canvas] = {}

    def prepared() -> Iterator[Prepared]:
        for start in range(0, len(drawn), config.slots):
            laid = [studio.canvas(request) for request in drawn[start : start + config.slots]]
            canvases.update((canvas.request.index, canvas) for canvas in laid)
            yield from studio.prepare_all(laid, texts)

    samples = paint(
        studio.denoiser,
        studio.painter.schedule,
        prepared(),
        steps=studio.calibration.steps,
        slots=config.slots,
        gate=gate,
        solver=config.solver,
    )
    for sample in samples:
        yield canvases.pop(sample.index), sample


def _rows(studio: Studio, out: Path, folder: Path, requests: Sequence[int]) -> Iterator[dict[str, Any]]:
    config, previews = studio.plan.config, Counter[str]()
    gate = None if config.gate == "off" else studio.gate
    waiting: list[tuple[Canvas, Painted]] = []  # to be decoded in one batch
    for canvas, sample in painted_requests(studio, requests, gate):
        previews[sample.decision] += 1
        if sample.decision == "kept" or previews[sample.decision] <= PREVIEWS:
            waiting.append((canvas, sample))
        else:
            yield _row(studio, canvas, sample)
        if len(waiting) == config.slots:
            yield from _pictured(studio, folder, out, waiting)
            waiting = []
    yield from _pictured(studio, folder, out, waiting)


def _pictured(
    studio: Studio, folder: Path, out: Path, waiting: Sequence[tuple[Canvas, Painted]]
) -> Iterator[dict[str, Any]]:
    """Decode some samples together, composite and write each, and yield its row."""
    windows = studio.decode_all([sample for _, sample in waiting]) if waiting else []
    for (canvas, sample), window in zip(waiting, windows, strict=True):
        row, image = _row(studio, canvas, sample), blend(canvas, window)
        if sample.decision == "kept":
            yield row | _write_case(folder, canvas, image, studio.label(canvas, sample), out)
        else:
            yield row | {"preview": _write_preview(folder, canvas, studio, image, out)}


def _row(studio: Studio, canvas: Canvas, sample: Painted) -> dict[str, Any]:
    """Return all it takes to make a case again, and why it was kept or not; no times."""
    request, last = canvas.request, sample.checks[-1] if sample.checks else None
    reason = "kept without a gate"
    if last is not None:
        side = "reaches" if last.accepted else "is under"
        when = "at the end" if last.step == studio.calibration.steps else f"after step {last.step}"
        reason = f"IoU with the requested mask {last.score:.3f} {side} {last.threshold:.3f} {when}"
    rivals = {"candidate": sample.candidate, "rivals": list(sample.rivals)} if sample.rivals else {}
    return {
        **request.as_dict(),
        **rivals,
        "decision": sample.decision,
        "reason": reason,
        "steps": sample.steps,
        "checks": [asdict(check) for check in sample.checks],
        "sources": sorted({request.background, request.mask_case}),
        "window": [canvas.window.top, canvas.window.left, canvas.window.side],
        "model": studio.plan.model_digest,
        "validator": studio.calibration.validator,
        "config": studio.plan.digest(),
        "image": "",
        "mask": "",
        "preview": "",
    }


def _write_case(folder: Path, canvas: Canvas, image: Pixels, label: Label, out: Path) -> dict[str, str]:
    paths = {name: folder / f"{name}s" / f"{canvas.request.id}.png" for name in ("image", "mask")}
    write_png(paths["image"], image)
    write_png(paths["mask"], label)
    return {name: path.relative_to(out).as_posix() for name, path in paths.items()} | {
        f"{name}_digest": digest_of_file(path) for name, path in paths.items()
    }


def _write_preview(folder: Path, canvas: Canvas, studio: Studio, image: Pixels, out: Path) -> str:
    """Write the window of a turned-down request, and beside it the requested mask."""
    path = folder / "turned-down" / f"{canvas.request.id}.png"
    write_png(path, np.asarray(canvas.window.crop(image), dtype=np.uint8))
    mask = np.asarray(canvas.window.crop(canvas.masks.values * canvas.masks.new), dtype=np.uint8)
    write_png(path.with_name(f"{path.stem}_mask.png"), studio.picture_of(mask))
    return path.relative_to(out).as_posix()


def generate(
    model: Path, data: Path, out: Path, config: GenerateConfig, *, seed: int = 0, workers: int = 1
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

    Returns:
        The content of `summary.json`: the funnel by size bin and seconds per kept case.

    Raises:
        ModelError: The model is unfinished or altered, was fitted on other cases, or keeps too little.
        ConfigError: `out` holds a set with other settings.
        FindingsError: The domain is unknown, or the findings break a rule.
    """
    plan = make_plan(model, data, config, seed)
    claim(out, _settings(plan))
    shards = _complete(plan, out, workers)
    rows = _mark_surplus(
        [row for shard in shards for row in read_jsonl(shard_folder(out, shard) / "rows.jsonl")], config
    )
    for extra in (out / "shards").iterdir():
        if extra.name not in {shard_folder(out, shard).name for shard in shards}:
            shutil.rmtree(extra)  # made ahead by another worker, and not needed

    dataset = read_dataset(data)
    kept = [_case_of_row(row, out, dataset) for row in rows if row["decision"] == "kept"]
    write_jsonl(out / "manifest.jsonl", rows)
    write_cases(out, kept)
    summary = funnel(rows) | {
        "seconds": round(sum(read_json(shard_folder(out, s) / "seconds.json") for s in shards), 1)
    }
    summary["seconds_per_kept"] = round(summary["seconds"] / max(1, summary["kept"]), 3)
    unsaid = Counter(part for row in rows for part in row.get("unsaid", ()))
    if unsaid:
        summary["left_out_of_prompts"] = dict(sorted(unsaid.items()))
    write_json(out / "summary.json", summary)
    return summary


def make_plan(model: Path, data: Path, config: GenerateConfig, seed: int) -> Plan:
    """Check model, data and config, and return everything that the shards depend on."""
    model, data = model.absolute(), data.absolute()
    library = library_of(config.domain, config.findings)
    digest = verify(model)
    dataset = read_dataset(data)
    train = fitted_cases(dataset, Calibration.load(model / "calibration.json"))
    check_dataset(train)
    check_place(config, train[0].classes)
    if config.label == "repaired" and len(dataset.class_names) > 1:
        raise ConfigError(
            f"labels are repaired where there is one class: {data} declares {', '.join(dataset.class_names)}; "
            "set label: requested"
        )
    digests = {case.id: digest_of_case(case) for case in train}
    fitted = read_json(model / "fit.json")["cases"]
    changed = [name for name, found in digests.items() if not isinstance(fitted, dict) or fitted.get(name) != found]
    if changed:
        raise ModelError(
            f"a model paints for the training cases it was fitted on: {changed[0]} of {data} is another one, or was "
            "changed since; fit a model on this data set"
        )
    findings = "" if is_generic(config) else digest_of_value(library.model_dump(mode="json"))
    return Plan(model, data, config, seed, digest, digest_of_value(digests), findings)


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

    Raises:
        ModelError: Too few of very many requests are kept.
    """
    wanted, config = plan.config.count, plan.config
    most = max(4, -(-PATIENCE * wanted // config.shard_size))
    kept, shards = 0, []
    with progress_bar() as bar, _pool(workers) as pool:
        task = bar.add_task("kept cases", total=wanted)
        ahead: dict[int, Future[int]] = {}
        for shard in range(most):
            if pool is None:
                found = generate_shard(plan, out, shard)
            else:
                for number in range(shard, min(most, shard + workers)):
                    if number not in ahead:
                        ahead[number] = pool.submit(generate_shard, plan, out, number)
                found = ahead.pop(shard).result()
            kept += found
            shards.append(shard)
            bar.update(task, completed=min(kept, wanted))
            if kept >= wanted:
                return shards
    raise ModelError(
        f"a model must keep 1 of {PATIENCE} requests: {kept} of {most * config.shard_size} were kept; "
        "fit it longer, annotate more cases, or raise --alpha of the fit"
    )


class _pool:  # noqa: N801
    """Worker processes, or None where one process is enough."""

    def __init__(self, workers: int) -> None:
        self.pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else None

    def __enter__(self) -> ProcessPoolExecutor | None:
        return self.pool

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def _mark_surplus(rows: list[dict[str, Any]], config: GenerateConfig) -> list[dict[str, Any]]:
    """Mark what was kept beyond the wanted count, so that `--count N` means N."""
    kept = 0
    for row in rows:
        if row["decision"] == "kept":
            kept += 1
            if kept > config.count:
                row["decision"], row["reason"] = "surplus", f"kept, beyond the {config.count} asked for"
    return rows


def _case_of_row(row: dict[str, Any], out: Path, dataset: Dataset) -> Case:
    background = dataset.case(row["background"])
    paths = out / row["image"], out / row["mask"]
    return Case(row["id"], *paths, background.group, "train", row["prompt"], classes=background.classes)


def funnel(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count requests by decision, in all and by size bin; surplus cases count as kept."""

    def counted(some: Sequence[dict[str, Any]]) -> dict[str, int]:
        found = Counter("kept" if row["decision"] == "surplus" else row["decision"] for row in some)
        return {"requested": len(some), **{name: found[name] for name in DECISIONS}}

    after = Counter(str(row["steps"]) for row in rows if row["decision"] == "stopped")
    return {
        **counted(rows),
        "stopped_after_step": dict(sorted(after.items())),
        "by_size": {name: counted([r for r in rows if r["size_bin"] == name]) for name in BINS},
    }
