"""Shards: the unit of work, of resuming and of distribution.

A shard is a fixed list of requests. Its files are a pure function of (model digest, config, data, shard index); it is
complete when its `rows.jsonl`, written last, and all that it names exist. Kill it anywhere: what is missing is made
again.
"""

import math
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
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
    held,
    make_folder,
    read_json,
    read_jsonl,
    versions,
    write_json,
    write_jsonl,
)
from diffaug.compute.devices import device_of, one_thread, prepare_worker
from diffaug.compute.progress import progress_bar
from diffaug.conditioning.budget import Budget, make_budget, read_needs
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.drawer import RequestDrawer, check_config, is_generic
from diffaug.conditioning.grammar import KnownWords
from diffaug.conditioning.placement import BAND
from diffaug.conditioning.prompts import EMPTY_PROMPT
from diffaug.conditioning.request import RequestMasks, request_as_dict, seed_of_request
from diffaug.config import GenerateConfig
from diffaug.data.case import NEGATIVE, Case, Label, Mask, Pixels, digest_of_case, write_png
from diffaug.data.folder import Dataset, check_dataset, read_dataset, write_cases
from diffaug.data.manifest import Decision, Request
from diffaug.data.seen import read_seen, write_seen
from diffaug.diffusion.contract import Denoiser
from diffaug.diffusion.guidance import Guided
from diffaug.errors import ConfigError, ModelError
from diffaug.models.base import LatentInpainter, scale_of
from diffaug.models.checkpoints import BASE_FILE, read_words, verify
from diffaug.models.loading import load_model
from diffaug.painting.clearing import Remover
from diffaug.painting.compose import band_width, compose, reach_of, region_of, without_border
from diffaug.painting.engine import Painted, Prepared, paint
from diffaug.painting.example import mirrored_tissue, moved_example
from diffaug.painting.window import (
    CONTEXT,
    Window,
    image_of,
    longer_side,
    resized,
    window_around,
    window_mask,
    window_masks,
    windows_at_once,
)
from diffaug.validator.calibration import BINS, Calibration, Trajectory
from diffaug.validator.gate import Gate, Target
from diffaug.validator.latent_segmenter import UPSCALE, load_segmenter, segment

FINEST = 4  # times the painter's pixels; an example is moved in pixels no finer than these
CLEARED = 64  # frames without their lesions that are kept in memory, and as many examples
REMAINS = 0.5  # share of a removed lesion's area that the validator still finds; with more, it is not gone
PREVIEWS = 3  # pictures of turned-down requests kept per shard
GUIDED_SHARE = 0.7  # of the timesteps, from noise on, that are guided; each costs a second evaluation
GUIDED_BY_MASK = 0.7  # share of the timesteps below those where guidance is of text and mask
PATIENCE = 20  # requests per wanted case before generation gives up
FILES = ("image", "mask", "preview", "region")  # what a row names
DECISIONS = ("kept", "stopped", "rejected")
Texts = dict[str, Tensor]  # embedded prompts
FILL = "fill"  # the size bin under which a gate lets fills pass: there is no lesion to find
FOUND = 0.25  # mean probability in a fill's region; where the validator finds more, it is no lesion-free tissue


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
    backgrounds_digest: str = ""  # of the images with lesions that a baseline found; empty without them

    def digest(self) -> str:
        """Return the digest of the settings."""
        return digest_of_value([self.settings(), self.seed, self.data_digest])

    def settings(self) -> dict[str, Any]:
        """Return the knobs that shape what is generated: not the number of workers, and of findings their content."""
        paths = {"findings", "baseline", "backgrounds"}
        knobs = self.config.model_dump(mode="json", exclude={"workers", "domain", *paths})
        knobs |= {"findings": self.findings_digest} if self.findings_digest else {}
        knobs |= {"budget": self.budget.as_dict()} if self.budget else {}
        knobs |= {"backgrounds": self.backgrounds_digest} if self.backgrounds_digest else {}
        return knobs | ({"device": self.device} if self.device != "cpu" else {})  # last digits depend on it


@dataclass(frozen=True)
class Canvas:
    """A request laid out on its background: native pixels, and the window to paint."""

    request: Request
    background: Pixels
    masks: RequestMasks
    region: Mask
    reach: Mask  # what the painter fills: the region, and what lies beside it outside the field of view
    field: Mask  # the field of view; nothing outside it is painted
    band: float
    window: Window
    tissue: Pixels  # the window with border and overlays filled, (s, s, 3), in px of the frame
    start: Pixels | None = None  # what sampling starts from, in px as fine as the window's; None is noise alone
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
        self.painter = load_model(plan.model, plan.device)
        self.denoiser = guided(self.painter, plan.config)
        self.calibration = calibration_for(plan.config, Calibration.load(plan.model / "calibration.json"))
        validators = load_validators(plan.model, self.calibration, self.painter)
        self.gate = Gate(validators, passing(self.calibration, plan.config.paint_all))
        train = fitted_cases(self.dataset, self.calibration)
        known = KnownWords(read_words(plan.model), self.painter.reads)
        self.drawer = RequestDrawer(
            train, plan.seed, plan.config, backgrounds_of(plan.config),
            known_words=known, budget=plan.budget, folds=self.calibration.folds,
        )  # fmt: skip
        self.remover = Remover(self.painter, self.calibration, self.gate.validators, plan.seed)
        self._sources: dict[str, tuple[Pixels, Pixels, Mask, Mask]] = {}
        self._cleared: dict[str, tuple[Pixels, tuple[dict[str, Any], ...]]] = {}

    def canvas(self, request: Request) -> Canvas:
        """Lay out a request: where it is painted, and the window around that."""
        masks = self.drawer.masks(request)
        background, removed = self.background(request)
        band = band_width(masks.new, BAND)
        field = self.drawer.backgrounds.placement_map(request.background).field
        region = region_of(masks.new, masks.old, band) & field
        context = np.random.default_rng((request.seed, 1)).uniform(*CONTEXT)
        whole = masks.new | masks.old
        window = window_around(whole, float(context), least=max(32, longer_side(region) + 4))
        reach = reach_of(region, field, band)
        tissue: Pixels = np.asarray(window.crop(without_border(background, field, reach)), dtype=np.uint8)
        laid = Canvas(request, background, masks, region, reach, field, band, window, tissue, removed=removed)
        return self.started(laid)

    def started(self, canvas: Canvas) -> Canvas:
        """Return a canvas with what sampling starts from: a moved example, for a fill the tissue itself."""
        if self.plan.config.strength == 1.0:
            return canvas
        side = min(max(canvas.window.side, self.painter.window), FINEST * self.painter.window)
        tissue = resized(canvas.tissue, side)
        return replace(canvas, start=tissue if canvas.request.negative else self.example(canvas, tissue))

    def background(self, request: Request) -> tuple[Pixels, tuple[dict[str, Any], ...]]:
        """Return what a request is painted on, and for `removed` a record of what was painted away."""
        case = self.drawer.backgrounds.case(request.background)
        if request.placement != "removed":
            return case.read_image(), ()
        if case.id not in self._cleared:
            if len(self._cleared) >= CLEARED:
                self._cleared.clear()
            frame, regions = self.remover.remove(case)
            self._cleared[case.id] = frame, tuple(regions)
        return self._cleared[case.id]

    @torch.no_grad()
    def embed(self, prompts: Iterable[str]) -> Texts:
        """Embed every prompt once, (1, L, D) each; one by one, so that none depends on the others."""
        return {prompt: self.painter.embed([prompt]) for prompt in dict.fromkeys(prompts)}

    def prepare(self, canvas: Canvas) -> Prepared:
        """Encode one request alone."""
        return self.prepare_all([canvas], self.embed([canvas.request.prompt]))[0]

    def fold(self, request: Request) -> int:
        """Return which validator has not seen the case of a request's mask; of a fill, its background."""
        folds = self.calibration.folds
        if request.negative and request.background in folds:
            return folds[request.background]
        return folds[request.mask_case]

    def fine_region(self, canvas: Canvas) -> Tensor:
        """Return where a request may paint, at the validator's side, (1, s, s)."""
        region = (window_mask(canvas.region, canvas.window, self.painter.window) > 0.25).float()
        return F.max_pool2d(region, self.painter.cell // UPSCALE)[0]

    def picture_of(self, values: Label) -> Label:
        """Return a label as it is written: in the data set's own values, or 0 and 255 where it declares no classes."""
        return values if self.drawer.classes else np.asarray(values * 255, dtype=np.uint8)

    @torch.no_grad()
    def prepare_all(self, canvases: Sequence[Canvas], texts: Texts) -> list[Prepared]:
        """Encode what the painter and the gate need to know, of several requests in one batch: pixels => latents."""
        side, painter = self.painter.window, self.painter
        if not canvases:
            return []
        images = torch.cat([image_of(canvas.tissue, side) for canvas in canvases])
        filled = torch.cat([window_mask(canvas.reach, canvas.window, side) > 0.25 for canvas in canvases])
        wanted = [c.masks.new_classes(self.drawer.classes) & (not c.request.negative) for c in canvases]
        masks = torch.cat([window_masks(mask, c.window, side) for mask, c in zip(wanted, canvases, strict=True)])
        scale = torch.tensor([scale_of(c.window.side, c.region.shape, painter.latent_side) for c in canvases])
        text = torch.cat([texts[c.request.prompt] for c in canvases])
        told = painter.condition(images, filled.float(), masks, scale, text)
        fine_masks, prepared = F.avg_pool2d(masks, painter.cell // UPSCALE), []
        starts = self.starts(canvases)
        for row, canvas in enumerate(canvases):
            request = canvas.request
            size = FILL if request.negative else request.size_bin
            target = Target(fine_masks[row], self.fine_region(canvas), size, self.fold(request))
            noise = painter.noise([request.seed])
            noise = noise if starts is None else self.noised(starts[row : row + 1], noise)
            prepared.append(Prepared(request.index, noise, told.rows(slice(row, row + 1)), target))
        return prepared

    def starts(self, canvases: Sequence[Canvas]) -> Tensor | None:
        """Return the latents that sampling starts from, (B, Z, h, w); None where it starts from noise alone."""
        shown = [image_of(canvas.start, self.painter.window) for canvas in canvases if canvas.start is not None]
        return self.painter.encode(torch.cat(shown)) if shown else None

    def noised(self, start: Tensor, noise: Tensor) -> Tensor:
        """Return latents (1, Z, h, w) noised to where sampling starts, a row per row of the noise."""
        steps, strength = self.calibration.steps, self.plan.config.strength
        return self.painter.schedule.started(start.expand_as(noise), noise, steps, strength)

    def _source(self, case: str) -> tuple[Pixels, Pixels, Mask, Mask]:
        """Return an example's frame with its border filled, the same with its lesion mirrored, tissue, and lesion."""
        if case not in self._sources:
            if len(self._sources) >= CLEARED:
                self._sources.clear()
            field, lesion = (
                self.drawer.backgrounds.placement_map(case).field,
                self.drawer.bank.components(case)[0].in_frame(),
            )
            frame = without_border(self.dataset.case(case).read_image(), field, lesion)
            self._sources[case] = frame, mirrored_tissue(frame, lesion), field & ~lesion, lesion
        return self._sources[case]

    def example(self, canvas: Canvas, tissue: Pixels) -> Pixels:
        """Return a window's tissue, (side, side, 3), with the request's example where the new mask lies."""
        request, drawer, masks = canvas.request, self.drawer, canvas.masks
        frame, body, beside, lesion = self._source(request.example)
        nested = drawer.domain.nested(self.dataset.case(request.example), lesion, masks.new_classes(drawer.classes))
        outlines = [*nested, (lesion, masks.new)]
        # What stays in place keeps the vessels that cross its rim.
        old = masks.old & ~masks.new if drawer.domain.stays_in_place else masks.old
        side = len(tissue)
        new, gone = (
            np.asarray(window_mask(mask, canvas.window, side)[0, 0].numpy() > 0.5) for mask in (masks.new, old)
        )
        band = canvas.band * side / canvas.window.side
        return moved_example(frame, body, beside, outlines, canvas.window, tissue, new, gone, band)

    def decode_all(self, painted: Sequence[Painted]) -> list[Tensor]:
        """Decode samples in one batch: latents => windows, (1, 3, side, side) each."""
        return self._decoded([sample.latents for sample in painted])

    @torch.no_grad()
    def _decoded(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Decode rows in one batch, padded to the slots so that none depends on the others."""
        rows = torch.cat(list(latents))
        padding = rows[:1].expand(max(0, self.plan.config.slots - len(rows)), -1, -1, -1)
        parts = torch.split(torch.cat([rows, padding]), windows_at_once(self.painter.window))
        decoded = torch.cat([self.painter.decode(part) for part in parts])
        return list(torch.split(decoded, 1)[: len(rows)])

    @torch.no_grad()
    def blend_all(self, canvases: Sequence[Canvas], windows: Sequence[Tensor]) -> list[Pixels]:
        """Blend decoded windows, (1, 3, side, side) each, into their backgrounds, with the detail of their starts."""
        painter, side = self.painter, self.painter.window
        starts = [painter.encode(image_of(canvas.start, side)) for canvas in canvases if canvas.start is not None]
        passed = self._decoded(starts) if starts else [None] * len(canvases)  # all of a plan have a start, or none has
        return [blend(*parts) for parts in zip(canvases, windows, passed, strict=True)]

    def label(self, canvas: Canvas) -> Label:
        """Return the label of a finished sample as it is written: as requested."""
        return self.picture_of(canvas.masks.values)

    def finish(self, canvas: Canvas, painted: Painted) -> Pixels:
        """Decode one sample alone and blend it into its background: latents => pixels."""
        return self.blend_all([canvas], self.decode_all([painted]))[0]


def blend(canvas: Canvas, window: Tensor, passed: Tensor | None = None) -> Pixels:
    """Blend a decoded window, (1, 3, side, side), into its background, with the detail that was lost of its start.

    Args:
        canvas: Where it belongs.
        window: What was painted.
        passed: What the codec keeps of the canvas's start; None brings no detail back.
    """
    where = canvas.window, canvas.region, canvas.band, canvas.request.seed, canvas.field
    start = None if canvas.start is None or passed is None else (canvas.start, passed)
    return compose(canvas.background, window, *where, start=start)


def painting_of(config: GenerateConfig) -> dict[str, Any]:
    """Return the settings that shape a trajectory, as they are compared with those of the calibration."""
    guidance = [*config.guidance, 0.0 if config.guidance == (1.0, 1.0) else GUIDED_SHARE]
    return {"solver": config.solver, "guidance": guidance, "strength": config.strength}


def calibration_for(config: GenerateConfig, calibration: Calibration) -> Calibration:
    """Return the thresholds that a config asks for; none before the end where trajectories would be of another kind."""
    if config.gate == "fixed":
        calibration = calibration.fixed(config.threshold)
    return calibration if calibration.painting == painting_of(config) else calibration.without_stops()


def passing(calibration: Calibration, everything: bool) -> Calibration:
    """Return the thresholds of a gate that lets fills pass, and with `everything` lets all samples pass."""
    none = {str(step): 0.0 for step in calibration.checks}
    own = dict.fromkeys(calibration.thresholds, none) if everything else calibration.thresholds
    return replace(calibration, thresholds={**own, FILL: none})


def judged(sample: Painted, size_bin: str, calibration: Calibration) -> Painted:
    """Return a sample that was painted to the end, with the decision that the gate would have taken on the way."""
    checks = tuple(
        replace(check, threshold=round(calibration.threshold(size_bin, check.step), 5)) for check in sample.checks
    )
    failed = next((check for check in checks if not check.accepted), None)
    decision: Decision = "kept" if failed is None else "rejected" if failed.step == calibration.steps else "stopped"
    return replace(sample, checks=checks, decision=decision)


def painter_digest(model: Path) -> str:
    """Return the digest of what a validator depends on: codec and denoiser, or a base and what was added to it."""
    return digest_of_folder(model, ("unet/*.safetensors", "vae/*.safetensors", "*.safetensors", BASE_FILE))


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
    return [load_segmenter(model / "validator" / str(fold), painter.device) for fold in folds]


@torch.no_grad()
def guided(painter: LatentInpainter, config: GenerateConfig) -> Denoiser:
    """Return a painter under guidance: of text and mask while there is much noise, of the text afterwards."""
    if config.guidance == (1.0, 1.0):
        return painter
    total = len(painter.schedule.alpha_bar)
    switch, until = round(GUIDED_BY_MASK * total), round((1 - GUIDED_SHARE) * total)
    return Guided(painter, painter.embed([EMPTY_PROMPT]), *config.guidance, switch, until)


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

    It computes on one thread, since the order of additions inside a layer depends on the number of threads.
    """
    return Studio(plan)


def painted_trajectories(
    model: Path,
    data: Path,
    calibration: Calibration,
    count: int,
    config: GenerateConfig,
    seed: int,
    device: str = "cpu",
) -> list[Trajectory]:
    """Paint requests to the end, whatever the gate thinks, and return its scores.

    Args:
        model: A model folder, whole but for its seal.
        data: The data set it is fitted on.
        calibration: Folds and checks; no threshold of it counts.
        count: Requests; another series than any that is generated.
        config: How they are painted.
        seed: Seeds them.
        device: Where to compute.

    Returns:
        One for each request whose background could be cleared of lesions, where that was asked for.

    Raises:
        PlacementError: No mask fits on any background.
    """
    own = seed_of_request(seed, -1) % 2**31
    simple: dict[str, Any] = {
        "gate": "conformal", "paint_all": False, "negatives": 0.0, "backgrounds": None,
    }  # fmt: skip
    plain = config.model_copy(update=simple)
    studio = Studio(Plan(model.absolute(), data.absolute(), plain, own, "", "", device=device))
    gate = Gate(studio.gate.validators, calibration.fixed(0.0))
    found = sorted(painted_requests(studio, range(count), gate), key=lambda pair: pair[1].index)
    return [
        Trajectory(c.request.size_bin, tuple(check.score for check in sample.checks))
        for c, sample in found
        if sample.checks
    ]


def shard_folder(out: Path, shard: int) -> Path:
    """Return the folder of a shard."""
    return out / "shards" / f"{shard:05d}"


def generate_shard(plan: Plan, out: Path, shard: int) -> int:
    """Make one shard, unless it is complete, and return how many of its cases were kept."""
    folder = shard_folder(out, shard)
    if not _is_complete(folder, out):
        started = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        studio, size = studio_of(plan), plan.config.shard_size
        for name in ("images", "masks", "turned-down"):
            make_folder(folder / name)
        rows = sorted(_rows(studio, out, folder, range(shard * size, (shard + 1) * size)), key=lambda r: r["index"])
        write_json(folder / "seconds.json", round(time.monotonic() - started, 3))
        write_jsonl(folder / "rows.jsonl", rows)
    return sum(row["decision"] == "kept" and not row.get("fill") for row in read_jsonl(folder / "rows.jsonl"))


def _is_complete(folder: Path, out: Path) -> bool:
    """Tell whether a shard's rows are written, and every file that they name is still there."""
    rows = read_jsonl(folder / "rows.jsonl")
    return bool(rows) and all((out / row[kind]).is_file() for row in rows for kind in FILES if row.get(kind))


def painted_requests(studio: Studio, requests: Sequence[int], gate: Gate | None) -> Iterator[tuple[Canvas, Painted]]:
    """Paint requests in slots; every prompt is embedded once, and backgrounds are encoded a batch at a time.

    With a gate, what lies on a background from which a lesion did not go is not painted: rejected without a look, last.
    """
    config = studio.plan.config
    size = min(config.slots, windows_at_once(studio.painter.window))
    drawn = sorted((studio.drawer.draw(index) for index in requests), key=studio.fold)  # one validator looks at a time
    texts = studio.embed(request.prompt for request in drawn)
    canvases: dict[int, Canvas] = {}
    lost: list[Canvas] = []

    def hopeless(canvas: Canvas) -> bool:
        return bool(gate) and not config.paint_all and _left_over(canvas)

    def prepared() -> Iterator[Prepared]:
        for start in range(0, len(drawn), size):
            laid = [studio.canvas(request) for request in drawn[start : start + size]]
            lost.extend(canvas for canvas in laid if hopeless(canvas))
            usable = [canvas for canvas in laid if not hopeless(canvas)]
            canvases.update((canvas.request.index, canvas) for canvas in usable)
            yield from studio.prepare_all(usable, texts)

    samples = paint(
        studio.denoiser,
        studio.painter.schedule,
        prepared(),
        steps=studio.calibration.steps,
        slots=config.slots,
        gate=gate,
        solver=config.solver,
        strength=config.strength,
    )
    for sample in samples:
        yield canvases.pop(sample.index), sample
    for canvas in lost:
        yield canvas, Painted(canvas.request.index, studio.painter.noise([0]), "rejected")


def _rows(studio: Studio, out: Path, folder: Path, requests: Sequence[int]) -> Iterator[dict[str, Any]]:
    config, previews = studio.plan.config, Counter[str]()
    gate = None if config.gate == "off" else studio.gate
    waiting: list[Finished] = []  # to be decoded in one batch
    for canvas, sample in painted_requests(studio, requests, gate):
        row = _decided(studio, canvas, sample)
        kept = row["decision"] == "kept"
        previews[row["decision"]] += not kept and sample.steps > 0
        shown = not kept and previews[row["decision"]] <= PREVIEWS
        if sample.steps and (kept or shown or config.paint_all):
            waiting.append(Finished(row, canvas, sample, written=kept or config.paint_all, shown=shown))
        else:
            yield row
        if len(waiting) == config.slots:
            yield from _pictured(studio, folder, out, waiting)
            waiting = []
    yield from _pictured(studio, folder, out, waiting)


@dataclass(frozen=True)
class Finished:
    """A sample to be decoded: its row, and whether it is written as a case or shown as a picture."""

    row: dict[str, Any]
    canvas: Canvas
    sample: Painted
    written: bool
    shown: bool


def _pictured(studio: Studio, folder: Path, out: Path, waiting: Sequence[Finished]) -> Iterator[dict[str, Any]]:
    """Decode some samples together, composite and write each, and yield its row."""
    windows = studio.decode_all([item.sample for item in waiting]) if waiting else []
    images = studio.blend_all([item.canvas for item in waiting], windows)
    for item, image in zip(waiting, images, strict=True):
        row = item.row
        if item.written:
            row |= _write_case(folder, item.canvas, image, studio.label(item.canvas), out)
        if item.shown:
            row |= {"preview": _write_preview(folder, item.canvas, studio, image, out)}
        yield row


def _left_over(canvas: Canvas) -> bool:
    """Tell whether a lesion that was to be removed is still found."""
    return canvas.remains > REMAINS


def _decided(studio: Studio, canvas: Canvas, sample: Painted) -> dict[str, Any]:
    """Return the row of a sample that left its slot, with the gate's decision even where everything is painted."""
    config = studio.plan.config
    if canvas.request.negative:
        return _row(studio, canvas, sample) | _of_fill(studio, canvas, sample)
    if config.gate == "off":
        return _row(studio, canvas, sample)
    if config.paint_all:
        sample = judged(sample, canvas.request.size_bin, studio.calibration)
    row = _row(studio, canvas, sample)
    if _left_over(canvas):
        reason = f"{canvas.remains:.3f} of a lesion was still found after its removal, more than {REMAINS}"
        row |= {"decision": "rejected", "reason": reason}
    return row


def _row(studio: Studio, canvas: Canvas, sample: Painted) -> dict[str, Any]:
    """Return all it takes to make a case again, and why it was kept or not; no times."""
    request, failed = canvas.request, next((check for check in sample.checks if not check.accepted), None)
    last = failed or (sample.checks[-1] if sample.checks else None)
    reason = "kept without a gate"
    if last is not None:
        side = "reaches" if last.accepted else "is under"
        when = "at the end" if last.step == studio.calibration.steps else f"after step {last.step}"
        reason = f"agreement with the requested mask {last.score:.3f} {side} {last.threshold:.3f} {when}"
    return {
        **request_as_dict(request),
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
    """Return what differs in the row of a fill: under a gate, the validator must find no lesion in it."""
    region = studio.fine_region(canvas)
    with torch.no_grad():
        network = studio.gate.validators[studio.fold(canvas.request)]
        map_ = segment(network, sample.latents, torch.zeros(1, dtype=torch.long))
    found = float((map_.amax(1) * region).sum() / region.sum().clamp_min(1e-6))
    reason = f"a lesion-free fill: the validator finds {found:.3f} of its region, {FOUND:g} is the limit"
    decision = "kept" if found < FOUND or studio.plan.config.gate == "off" else "rejected"
    return {"decision": decision, "reason": reason, "checks": [], "found": round(found, 5)}


def _write_case(folder: Path, canvas: Canvas, image: Pixels, label: Label, out: Path) -> dict[str, Any]:
    paths = {name: folder / f"{name}s" / f"{canvas.request.id}.png" for name in ("image", "mask")}
    write_png(paths["image"], image)
    write_png(paths["mask"], label)
    written: dict[str, Any] = {name: path.relative_to(out).as_posix() for name, path in paths.items()}
    written |= {f"{name}_digest": digest_of_file(path) for name, path in paths.items()}
    if canvas.request.negative:
        region = make_folder(folder / "regions") / f"{canvas.request.id}.png"
        write_png(region, canvas.region.astype(np.uint8) * 255)
        written["region"] = region.relative_to(out).as_posix()
    return written if canvas.masks.label.any() else written | {"lesion_free": True}


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
        ConfigError: `out` holds a set with other settings, another process works in it, or the device is not there.
        FindingsError: The domain is unknown, or the findings break a rule.
        PlacementError: No mask fits on any background.
        StudyError: The baseline is not of these training cases out of fold.
    """
    plan = make_plan(model, data, config, seed, device)
    if not (out / "config.json").is_file():  # a mask that fits nowhere is told before anything is written
        train = [case for case in read_dataset(data).split("train") if case.mask]
        RequestDrawer(train, seed, config, backgrounds_of(config), budget=plan.budget).draw(0)
    notices = notices_of_gate(plan)
    for line in [*notices, *([plan.budget.table()] if plan.budget else [])]:
        print(line, file=sys.stderr, flush=True)
    claim(out, _settings(plan))
    with held(out):
        return _written(plan, out, workers, notices)


def _written(plan: Plan, out: Path, workers: int, notices: list[str]) -> dict[str, Any]:
    """Complete the shards, write the set, and return its summary."""
    shards = _complete(plan, out, workers)
    rows = _mark_surplus([row for shard in shards for row in read_jsonl(shard_folder(out, shard) / "rows.jsonl")], plan)
    for extra in (out / "shards").iterdir():
        if extra.is_dir() and extra.name not in {shard_folder(out, shard).name for shard in shards}:
            shutil.rmtree(extra)  # made ahead by another worker, and not needed

    dataset = read_dataset(plan.data)
    kept = [_case_of_row(row, out, dataset) for row in rows if row["decision"] == "kept"]
    write_jsonl(out / "manifest.jsonl", rows)
    write_cases(out, kept)
    write_seen(out, read_seen(plan.model))
    write_json(out / "provenance.json", provenance_of(plan))
    summary = funnel(rows) | {
        "seconds": round(sum(read_json(shard_folder(out, s) / "seconds.json") for s in shards), 1)
    }
    summary["seconds_per_kept"] = round(summary["seconds"] / max(1, summary["kept"]), 3)
    unsaid = Counter(part for row in rows for part in row.get("unsaid", ()))
    if plan.budget:
        summary["budget"] = {
            name: {"quota": quota, **funnel([row for row in rows if row.get("aim") == name])}
            for name, quota in zip(plan.budget.strata, plan.budget.quotas, strict=True)
        }
    if unsaid:
        summary["left_out_of_prompts"] = dict(sorted(unsaid.items()))
    summary["notices"] = notices
    write_json(out / "summary.json", summary)
    return summary


def notices_of_gate(plan: Plan) -> list[str]:
    """Return what the gate does not do, or does with little to go by: told when cases are generated."""
    if plan.config.gate == "off":
        return []
    made = Calibration.load(plan.model / "calibration.json")
    used = calibration_for(plan.config, made)
    if made.trajectories and not used.trajectories:
        told = f"the fit calibrated that for {made.painting}, not {painting_of(plan.config)}"
        return [f"nothing is stopped on the way: {told}; fit with these settings"]
    return used.notices()


def make_plan(model: Path, data: Path, config: GenerateConfig, seed: int, device: str = "cpu") -> Plan:
    """Check model and data, and return everything that the shards depend on."""
    model, data, place = model.absolute(), data.absolute(), str(device_of(device))
    library = check_config(config)
    digest = verify(model)
    dataset = read_dataset(data)
    train = fitted_cases(dataset, Calibration.load(model / "calibration.json"))
    check_dataset(train)
    domain_of(dataset.class_names).check_place(config.place)
    digests = {case.id: digest_of_case(case) for case in train}
    fitted = read_json(model / "fit.json")["cases"]
    changed = [name for name, found in digests.items() if not isinstance(fitted, dict) or fitted.get(name) != found]
    if changed:
        raise ModelError(
            f"a model paints for the training cases it was fitted on: {changed[0]} of {data} is another one, or was "
            "changed since; fit a model on this data set"
        )
    findings = "" if is_generic(config) else digest_of_value(library.model_dump(mode="json"))
    budget, backgrounds = budget_of(dataset, config), check_backgrounds(config, dataset, digests)
    return Plan(model, data, config, seed, digest, digest_of_value(digests), findings, place, budget, backgrounds)


def backgrounds_of(config: GenerateConfig) -> tuple[Case, ...]:
    """Return the images with lesions that a baseline found; none without a folder of them."""
    return read_dataset(config.backgrounds).split("train") if config.backgrounds else ()


def check_backgrounds(config: GenerateConfig, dataset: Dataset, digests: Mapping[str, str]) -> str:
    """Refuse images that the data set does not hold unannotated, and annotations that the model has not seen.

    Args:
        config: Names the folder, if any.
        dataset: What the model was fitted on.
        digests: Of its annotated cases, by case.

    Returns:
        The digest of the folder's cases; nothing without one.

    Raises:
        ConfigError: Naming the first image or annotation that should not be there; or the classes are disc and cup.
    """
    folder, known = config.backgrounds, {case.id: case for case in dataset.split("unannotated")}
    if folder is None:
        return ""
    others, path = backgrounds_of(config), folder / "provenance.json"
    if domain_of(dataset.class_names).stays_in_place:
        raise ConfigError(f"a cup is painted in the annotated eye it belongs to: backgrounds is {folder}; leave it out")
    rule = "backgrounds are unannotated images of the data set, labelled by `diffaug pseudo-label`"
    for case in others:
        same = case.id in known and digest_of_file(case.image) == digest_of_file(known[case.id].image)
        if not same or case.classes != known[case.id].classes:
            raise ConfigError(
                f"{rule}: {case.id} of {folder} is none of {dataset.folder}; label them for this data set"
            )
    told = read_json(path)["cases"] if path.is_file() else {"(it has no provenance.json)": ""}
    foreign = [name for name, digest in told.items() if digests.get(name) != digest]
    if foreign or not others:
        raise ConfigError(
            f"{rule}: {folder} has no images, or comes from other annotations, such as {(foreign or ['(none)'])[0]}; "
            "study this data set and label them again"
        )
    return digest_of_value([[case.id, digest_of_case(case)] for case in others])


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


def provenance_of(plan: Plan) -> dict[str, Any]:
    """Return what the model was fitted on, by case: the digests of all images, and those of the annotated cases."""
    fitted, dataset = read_json(plan.model / "fit.json"), read_dataset(plan.data)
    here = (*dataset.split("train"), *dataset.split("unannotated"))
    images = fitted.get("images") or {case.id: digest_of_file(case.image) for case in here}
    return {"images": images, "cases": fitted["cases"]}


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
    asked = 1 + plan.config.negatives  # requests for one lesion
    most = {name: max(4, math.ceil(PATIENCE * quota * asked / size)) for name, quota in wanted.items()}
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

    with progress_bar("kept cases", sum(wanted.values())) as show, _pool(workers) as pool:
        ahead: dict[int, Future[int]] = {}
        for shard in open_from(0):
            name = stratum_of(shard)
            if made[name] == most[name]:
                raise ModelError(
                    f"a model must keep 1 of {PATIENCE} requests: {kept[name]} of {round(made[name] * size / asked)} "
                    f"{name + ' ones ' if name else ''}were kept; fit it longer, annotate more cases, "
                    "or lower --validator.alpha of the fit"
                )
            if pool is None:
                with one_thread():
                    found = generate_shard(plan, out, shard)
            else:
                for number in islice(open_from(shard), workers):
                    if number not in ahead:
                        ahead[number] = pool.submit(generate_shard, plan, out, number)
                found = ahead.pop(shard).result()
            kept[name] += found
            made[name] += 1
            shards.append(shard)
            show(sum(min(kept[name], quota) for name, quota in wanted.items()))
    return shards


class _pool:  # noqa: N801
    """Worker processes, or None where one process is enough."""

    def __init__(self, workers: int) -> None:
        spawn = get_context("spawn")
        self.pool = (
            ProcessPoolExecutor(workers, spawn, initializer=prepare_worker, initargs=(os.getpid(),))
            if workers > 1
            else None
        )

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


def _stopped_after(row: Mapping[str, Any]) -> int:
    """Return the step that stopped a sample, or would have: some are painted to the end all the same."""
    return int(next((one["step"] for one in row["checks"] if one["score"] < one["threshold"]), row["steps"]))


def funnel(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count requests by decision, in all and by size bin; surplus cases count as kept, and fills for themselves."""

    def counted(some: Sequence[dict[str, Any]]) -> dict[str, int]:
        found = Counter("kept" if row["decision"] == "surplus" else row["decision"] for row in some)
        return {"requested": len(some), **{name: found[name] for name in DECISIONS}}

    filled, rows = [row for row in rows if row.get("fill")], [row for row in rows if not row.get("fill")]
    after = Counter(str(_stopped_after(row)) for row in rows if row["decision"] == "stopped")
    return {
        **counted(rows),
        "stopped_after_step": dict(sorted(after.items())),
        "by_size": {name: counted([row for row in rows if row["size_bin"] == name]) for name in BINS},
        **({"fills": counted(filled)} if filled else {}),
    }
