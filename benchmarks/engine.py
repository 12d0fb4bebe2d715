"""Kept cases per core-second against diffusers' inpainting loop, and what the gate is worth, on real Kvasir-SEG.

Usage: python benchmarks/engine.py --out DIR [--data DATA] [--model MODEL] [--quick]
    --out    DIR/engine.json, and the same numbers as a table on stdout; networks are kept there for the next run.
    --data   a data set folder with train, val and test; unset: DIFFAUG_DATA/kvasir-seg is imported.
    --model  a model fitted on DIR/data-100 (or with --quick, on phantoms); unset: it is fitted.
    --quick  phantoms and a few of everything: shows that it runs, not what it measures.

The peer. `StableDiffusionInpaintPipeline` takes 4 or 9 channels and refuses ours, so its published loop is rebuilt here
from the model's own diffusers scheduler and U-Net, in float32 as the pipeline runs it: 50 steps, guidance 7.5, the
prompt and the empty one in one batch, from noise, one image a call as is the pipeline's default (`*_batched`: as many
as we have slots). At our steps, solver, type, guidance and start (a training lesion moved onto the mask) it gets our
batch too (`*_singles`: one image a call). Then the decoder, and a pixel-space segmentation network trained on the same
cases; what has an IoU of 0.5 with its mask is kept.

Kept means: kept by the method's own rule, and good. Good means: an IoU of at least 0.5 by the judge (`judge.py`), a
pixel-space network trained on the training cases that no other network here has seen. Seconds are those of the
processor (time.process_time), one thread, so that a busy machine does not change ratios; encoding and compositing,
which both sides share, are left out of both.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from judge import NETWORK, Judge, _Batches, iou_inside, training_windows
from numpy.typing import NDArray
from painter import Lesion, codec_passed, features, fitted, lesions_of, prepare_data, say, windows
from scipy import ndimage
from scipy.stats import binomtest, rankdata
from torch import Tensor
from torch.nn import functional as F

from diffaug.artifacts import make_folder, write_json
from diffaug.compute.precision import autocast
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.config import CodecConfig, DenoiserConfig, FitConfig, GenerateConfig, SamplerConfig, ValidatorConfig
from diffaug.data.case import Case
from diffaug.data.folder import read_dataset
from diffaug.data.images import Mask
from diffaug.data.lesions import size_class
from diffaug.data.request import Request
from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.sampler import sample
from diffaug.diffusion.schedule import x_t_from_x0
from diffaug.painting.compose import region_of
from diffaug.painting.engine import Prepared, paint
from diffaug.painting.example import mirrored_tissue
from diffaug.painting.layout import Layout
from diffaug.painting.painter import Painter, blended, noised
from diffaug.painting.requests import paint_requests
from diffaug.painting.window import CONTEXT, frame_window, window_image, window_mask
from diffaug.realism.measures import kid
from diffaug.report.pictures import spread
from diffaug.study.batches import Pixels as Pool
from diffaug.study.network import build_network, train
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.segment import lesion_probabilities
from diffaug.synthesis.shards import Workshop, workshop_of
from diffaug.training.fit import fit
from diffaug.training.validation import estimates
from diffaug.training.windows import Annotated, encode_windows, lesion_window
from diffaug.validator.calibration import BINS, Trajectory, agreement
from diffaug.validator.gate import Gate
from diffaug.validator.latent_segmenter import UPSCALE, segment

GOOD = 0.5  # IoU by the judge
PEER_GUIDANCE, PEER_IOU = 7.5, 0.5
KINDS = ("shifted", "shrunk", "grown", "erased", "textureless")  # and "wrong class", where there are several
WHOLE_FRAMES = 3  # of each case, among the windows the pixel network learns from


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    annotated: int = 100
    requests: int = 200  # painted to the end, and with the gate
    peer: int = 64  # painted by the peer in batches
    singles: int = 6  # painted by the peer one at a time
    peer_steps: int = 50
    judge: int = 1200  # iterations
    pixel: int = 1200  # iterations of the pixel-space network
    fresh: int = 400  # lesions for coverage and KID
    frames: int = 300  # whole images
    rates: int = 64  # requests for each acceptance
    memory: tuple[int, int] = (100, 1000)  # requests
    timed: float = 0.4  # s; the least time that a call is repeated for
    layers: int = 5  # convolutions of which the fastest is the peak


QUICK = Size(
    12,
    requests=5,
    peer=2,
    singles=1,
    peer_steps=2,
    judge=2,
    pixel=2,
    fresh=6,
    frames=2,
    rates=4,
    memory=(2, 4),
    timed=0.01,
    layers=1,
)
TINY = FitConfig(  # of --quick: 64 px windows, 8 x 8 latents
    codec=CodecConfig(window=64, latent_channels=4, width=32, blocks=(1, 1), iterations=10, batch_size=4),
    denoiser=DenoiserConfig(widths=(16, 32), text_width=32, text_layers=1, windows_per_case=2, iterations=4),
    validator=ValidatorConfig(views_per_case=1, folds=2, windows_per_case=4, iterations=3, trajectories=1),
    sampler=SamplerConfig(steps=6),  # enough denoising for the share of two looks to mean something
)


# --- Bench ------------------------------------------------------------------------------------------------------------


class Clock:
    """Adds up the processor's seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*values: Any, **named: Any) -> Any:
            started = time.process_time()
            made = work(*values, **named)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
            return made

        return timed


class TimedGate(Gate):
    """A gate whose looks are timed."""

    def __init__(self, gate: Gate, clock: Clock, calibration: Any = None) -> None:
        super().__init__(gate.validators, calibration or gate.calibration)
        self.check = clock("check", super().check)  # type: ignore[method-assign]


@dataclass
class Bench:
    """A model, requests laid out and encoded, and networks that judge."""

    workshop: Workshop
    judge: Judge
    pixel: Judge
    requests: list[Request]
    layouts: list[Layout]
    prepared: list[Prepared]

    def timesteps(self) -> Tensor:
        """Return the evaluated timesteps, (steps,)."""
        steps = self.workshop.painter.calibration.steps
        return self.workshop.painter.model.schedule.timesteps(steps, self.workshop.painter.sampler.strength)

    def half(self) -> int:
        """Return the index of the half-way step, which the gate looks at."""
        return self.workshop.painter.calibration.checks[0] - 1

    @torch.no_grad()
    def without_lesion(self, index: int) -> Tensor:
        """Return where a request starts if the tissue beside its region is to go on in it, (1, Z, h, w)."""
        layout, painter = self.layouts[index], self.workshop.painter.model
        tissue = mirrored_tissue(layout.background, layout.field & ~layout.region)
        start = painter.encode(window_image(tissue, layout.window, painter.window))
        return noised(self.workshop.painter, start, painter.noise([layout.seed]))

    @staticmethod
    def of(model: Path, data: Path, judge: Judge, pixel: Judge, count: int) -> "Bench":
        """Draw, lay out and encode requests."""
        workshop = workshop_of(make_plan(model, data, GenerateConfig(negatives=0.0), 0))
        maker = workshop.maker
        drawn = sorted((maker.drawer.draw(index) for index in range(count)), key=maker.fold)  # as in a shard
        requests = [replace(request, index=index) for index, request in enumerate(drawn)]
        layouts = [workshop.maker.layout(request) for request in requests]
        texts = workshop.painter.embed(layout.prompt for layout in layouts)
        prepared = [item for some in groups(layouts, workshop) for item in workshop.painter.prepare(some, texts)]
        return Bench(workshop, judge, pixel, requests, layouts, prepared)

    def lesion(self, index: int, window: Tensor, start: bool = True) -> Lesion:
        """Return a painted window in its frame, with the detail that it kept of its start, or without."""
        layout = self.layouts[index]
        image = self.workshop.painter.blend([layout], [window])[0] if start else blended(layout, window)
        return Lesion(image, layout.masks.new, layout.region, self.requests[index].mask_case)

    def judged(self, lesions: Sequence[Lesion]) -> NDArray[np.float64]:
        """Return the IoU of each lesion with its mask, by the judge."""
        images, masks, regions = windows(lesions)
        return np.array(iou_inside(self.judge.probability(images), masks, regions))

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """Decode in batches of the slots."""
        size = self.workshop.plan.config.slots
        return torch.cat([self.workshop.painter.model.decode(part) for part in torch.split(latents, size)])

    def pixel_targets(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return masks and regions of requests as a pixel-space filter needs them, (N, 1, S, S) each."""
        side = self.workshop.painter.model.window
        masks = torch.cat([window_mask(self.layouts[i].masks.new, self.layouts[i].window, side) for i in rows])
        regions = torch.cat([window_mask(self.layouts[i].region, self.layouts[i].window, side) for i in rows])
        return masks, (regions > 0.25).float()

    @torch.no_grad()
    def filtered(self, images: Tensor, masks: Tensor, regions: Tensor) -> list[bool]:
        """Tell which windows a pixel-space network finds to be where their mask says."""
        found = self.pixel.probability(((images + 1) / 2).clamp(0, 1))
        return [iou >= PEER_IOU for iou in iou_inside(found, masks, regions)]


def groups(items: Sequence[Any], workshop: Workshop) -> Iterator[Sequence[Any]]:
    """Yield items as many at a time as there are slots."""
    size = workshop.plan.config.slots
    for start in range(0, len(items), size):
        yield items[start : start + size]


def auc(scores: Sequence[float], good: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve; None where all are good, or none."""
    ranks, hits = rankdata(scores), int(good.sum())
    if hits in (0, len(good)):
        return None
    return round(float((ranks[good].sum() - hits * (hits + 1) / 2) / (hits * (len(good) - hits))), 4)


def share(hits: int, count: int) -> dict[str, Any]:
    """Return a share with its 95 % interval (Wilson)."""
    if not count:
        return {"got": None, "low": None, "high": None, "n": 0}
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return {"got": round(hits / count, 4), "low": round(interval.low, 4), "high": round(interval.high, 4), "n": count}


# --- The networks that judge ------------------------------------------------------------------------------------------


def pixel_pool(cases: Sequence[Case]) -> Pool:
    """Return what the pixel-space network learns from: windows as the judge's, and whole frames."""
    found = training_windows(cases, 10)
    images, masks = [found.images], [found.masks]
    for case in cases:
        frame, mask = case.read_image(), case.read_mask()
        window = frame_window(frame.shape)
        image = ((window_image(frame, window, 128) + 1) * 127.5).round().to(torch.uint8)
        images += [image] * WHOLE_FRAMES
        masks += [(window_mask(mask, window, 128) > 0.5).to(torch.uint8)] * WHOLE_FRAMES
    ids = tuple(f"{case.id}/frame-{n}" for case in cases for n in range(WHOLE_FRAMES))
    return Pool(torch.cat(images), torch.cat(masks), (*found.ids, *ids))


def trained_network(data: Path, names: Sequence[str], folder: Path, iterations: int, whole: bool) -> None:
    """Train a judge, or with whole frames the pixel-space network, in a process of its own; kept in `folder`."""
    torch.set_num_threads(1)
    cases = [case for case in read_dataset(data).split("train") if case.id in set(names)]
    if not whole:
        Judge.trained(cases, folder, iterations)
    elif not (folder / "judge.safetensors").is_file():
        from safetensors.torch import save_file

        config = NETWORK.model_copy(update={"iterations": iterations})
        network, batches = build_network(config, 0), _Batches(pixel_pool(cases), config.batch_size)
        train(network, batches, config, name="pixel", files=make_folder(folder) / "pixel")  # type: ignore[arg-type]
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, folder / "judge.safetensors")


# --- Power: what the gate catches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A sample with the mask it is held against."""

    kind: str
    size: str
    scores: tuple[float, ...]  # after the half-way step, and at the end
    iou: float  # by the judge


def moved(mask: Mask, kind: str, rng: np.random.Generator) -> Mask:
    """Return a mask moved by half to all of its size, or scaled by 0.35 to 0.6 or 1.6 to 2.2 about its centre."""
    places = np.argwhere(mask)
    centre, size = places.mean(0), np.ptp(places, axis=0) + 1
    if kind == "shifted":
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
        shift = length * size * (np.sin(angle), np.cos(angle))
        return np.asarray(ndimage.shift(mask.astype(np.float32), shift, order=0) > 0.5)
    scale = rng.uniform(0.35, 0.6) if kind == "shrunk" else rng.uniform(1.6, 2.2)
    matrix, offset = np.eye(2) / scale, centre - centre / scale
    return np.asarray(ndimage.affine_transform(mask.astype(np.float32), matrix, offset, order=0) > 0.5)


@torch.no_grad()
def run_to_end(bench: Bench, items: Sequence[Prepared], denoiser: Any) -> Tensor:
    """Return the half-way estimate and the result of each, (N, 2, Z, h, w), in whole batches without a gate."""
    painter, steps = bench.workshop.painter.model, bench.workshop.painter.calibration.steps
    sampler, paths = bench.workshop.painter.sampler, []
    for some in groups(items, bench.workshop):
        told = Conditioning.stack([item.conditioning for item in some])
        noise = torch.cat([item.noise[:1] for item in some])
        path = list(sample(denoiser, noise, told, painter.schedule, steps, sampler.solver, sampler.strength))
        paths.append(torch.stack([path[bench.half()].x0_hat, path[-1].x_next], dim=1))
    return torch.cat(paths)


def scored(bench: Bench, path: Tensor, index: int, mask: Mask, region: Mask) -> tuple[float, ...]:
    """Return the scores of the half-way estimate and of the result (2, Z, h, w) against a mask."""
    workshop, window = bench.workshop, bench.layouts[index].window
    side, fine = workshop.painter.model.window, workshop.painter.model.cell // UPSCALE
    wanted = F.avg_pool2d(window_mask(mask, window, side), fine)
    where = F.max_pool2d((window_mask(region, window, side) > 0.25).float(), fine)
    halfway = int(bench.timesteps()[bench.half()])
    network = workshop.gate.validators[bench.prepared[index].target.fold or 0]
    found = segment(network, path, torch.tensor([halfway, 0]))
    return tuple(agreement(found, wanted.expand_as(found), where.expand(2, -1, -1, -1)).tolist())


def trials(bench: Bench, paths: Tensor, painted: Sequence[Lesion]) -> list[Trial]:
    """Return every request as it was painted, and once more perturbed: another mask, or another filling."""
    found, painter = [], bench.workshop.painter.model
    natural = bench.judged(painted)
    for i, layout in enumerate(bench.layouts):
        scores = scored(bench, paths[i], i, layout.masks.new, layout.region)
        found.append(Trial("painted", layout.size_bin, scores, float(natural[i])))

    silent = painter.embed([NORMAL_PROMPT])
    erased = [i for i in range(len(painted)) if KINDS[i % len(KINDS)] == "erased"]
    empty = [
        replace(
            bench.prepared[i],
            noise=bench.without_lesion(i),
            conditioning=replace(
                bench.prepared[i].conditioning, text=silent, mask=torch.zeros_like(bench.prepared[i].conditioning.mask)
            ),
        )
        for i in erased
    ]
    fills = dict(zip(erased, run_to_end(bench, empty, painter), strict=True)) if erased else {}
    for i, layout in enumerate(bench.layouts):
        kind, rng = KINDS[i % len(KINDS)], np.random.default_rng((5, i))
        mask, path, lesion = layout.masks.new, paths[i], painted[i]
        if kind in ("shifted", "shrunk", "grown"):
            mask = next((m for m in (moved(mask, kind, rng) for _ in range(20)) if m.sum() > 20), ~mask)
        elif kind == "erased":
            path = fills[i]
        else:
            path = textureless(bench, i, lesion, around=bool(i // len(KINDS) % 2))
        if kind in ("erased", "textureless"):
            lesion = bench.lesion(i, bench.decoded(path[1:]), start=False)
        region = layout.region | region_of(mask, np.zeros_like(mask), layout.band)
        lesion = replace(lesion, mask=mask, region=region)
        scores = scored(bench, path, i, mask, region)
        found.append(Trial(kind, size_class(float(mask.mean())), scores, float(bench.judged([lesion])[0])))
    return found


@torch.no_grad()
def textureless(bench: Bench, index: int, lesion: Lesion, around: bool) -> Tensor:
    """Return latents of a window whose region has one colour, that of what was painted or that around it, (2, ...)."""
    painter, layout = bench.workshop.painter.model, bench.layouts[index]
    image = window_image(lesion.image, layout.window, painter.window)
    region = (window_mask(layout.region, layout.window, painter.window) > 0.25).float()
    mask = window_mask(layout.masks.new, layout.window, painter.window)
    where = (1 - region) if around else mask
    colour = (image * where).sum((2, 3), keepdim=True) / where.sum().clamp_min(1)
    x0 = painter.encode(image * (1 - region) + colour * region)
    prepared, t = bench.prepared[index], bench.timesteps()[bench.half()].view(1)
    x_t = x_t_from_x0(x0, painter.noise([layout.seed]), painter.schedule.at(t))
    return torch.cat([bench.workshop.painter.denoiser(x_t, t, prepared.conditioning), x0])


def measure_power(bench: Bench, found: Sequence[Trial]) -> dict[str, Any]:
    """Return how well scores tell good from bad, at both looks: in all, by size, and by kind against what is good."""
    good = np.array([trial.iou >= GOOD for trial in found])
    kinds, sizes = np.array([t.kind for t in found]), np.array([t.size for t in found])
    result: dict[str, Any] = {"failures": int((~good).sum()), "successes": int(good.sum())}
    for look, name in enumerate(("half", "end")):
        scores = np.array([trial.scores[look] for trial in found])
        result[f"auc_{name}"] = auc(scores, good)
        result[f"auc_{name}_by_size"] = {size: auc(scores[sizes == size], good[sizes == size]) for size in BINS}
        painted = kinds == "painted"
        result[f"auc_{name}_painted_alone"] = auc(scores[painted], good[painted])
        result[f"auc_{name}_by_kind"] = {
            kind: auc(scores[chosen], good[chosen])
            for kind in KINDS
            for chosen in [(painted & good) | ((kinds == kind) & ~good)]
        }
        result[f"curve_{name}_by_size"] = {size: curve(scores[sizes == size], good[sizes == size]) for size in BINS}
    real = bench.workshop.painter.calibration
    ends = {size: real.threshold(size, real.steps) for size in BINS}
    result["caught_at_default"] = {
        kind: share(sum(t.scores[1] < ends[t.size] for t in some), len(some))
        for kind in KINDS
        for some in [[t for t in found if t.kind == kind and t.iou < GOOD]]
    }
    return result


def curve(scores: NDArray[np.float64], good: NDArray[np.bool_], points: int = 11) -> list[list[float]]:
    """Return operating points: share of the good that is turned down, and share of the bad that is caught."""
    if good.all() or not good.any():
        return []
    cuts = np.quantile(scores[good], np.linspace(0, 0.5, points))
    return [[round(float((scores[good] < c).mean()), 3), round(float((scores[~good] < c).mean()), 3)] for c in cuts]


# --- Cost -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def peer_latents(bench: Bench, items: Sequence[Prepared], scheduler: Any, steps: int) -> Tensor:
    """Return what diffusers' inpainting loop makes of some requests, in one batch: (N, Z, h, w)."""
    painter = bench.workshop.painter.model
    told = Conditioning.stack([item.conditioning for item in items])
    seeds = [bench.layouts[item.index].seed for item in items]
    latents = painter.noise(seeds) * scheduler.init_noise_sigma
    text = torch.cat([painter.embed([""]).expand_as(told.text), told.text])
    scale = told.scale[:, :, None, None].expand(-1, -1, *latents.shape[-2:])
    extra = [told.mask, scale] if painter.classes else []
    known = torch.cat([told.region, told.masked_image_latents, *extra], dim=1).repeat(2, 1, 1, 1)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        doubled = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        noise = painter.unet(torch.cat([doubled, known], dim=1), t, encoder_hidden_states=text).sample
        silent, full = noise.chunk(2)
        latents = scheduler.step(silent + PEER_GUIDANCE * (full - silent), t, latents).prev_sample
    return latents


def by_peer(
    bench: Bench, rows: Sequence[int], each: int, make: Callable[[Sequence[Prepared]], Tensor]
) -> dict[str, Any]:
    """Paint requests, decode all, filter in pixel space; return seconds a request, what is kept, and the lesions."""
    seconds, kept, lesions = 0.0, [], []
    for start in range(0, len(rows), each):
        some = rows[start : start + each]
        targets = bench.pixel_targets(some)  # ours lie in what is prepared
        started = time.process_time()
        images = bench.decoded(make([bench.prepared[i] for i in some]))
        kept += bench.filtered(images, *targets)
        seconds += time.process_time() - started
        lesions += [bench.lesion(i, image[None]) for i, image in zip(some, images, strict=True)]
    return {"seconds": seconds / len(rows), "kept": kept, "lesions": lesions}


def by_us(bench: Bench, gate: Gate, clock: Clock) -> dict[str, Any]:
    """Paint requests in slots under a gate and decode what is kept; return as `by_peer`."""
    workshop, config = bench.workshop, bench.workshop.plan.config
    started, kept, latents = time.process_time(), [False] * len(bench.prepared), {}
    denoiser = clock("denoise", workshop.painter.denoiser)
    steps = workshop.painter.calibration.steps
    options: dict[str, Any] = {"steps": steps, "slots": config.slots}
    options |= {"solver": workshop.painter.sampler.solver, "strength": workshop.painter.sampler.strength}
    for done in paint(denoiser, workshop.painter.model.schedule, bench.prepared, gate=gate, **options):
        if done.decision == "kept":
            kept[done.index], latents[done.index] = True, done.latents
    order = sorted(latents)
    images = bench.decoded(torch.cat([latents[i] for i in order])) if order else torch.empty(0)
    seconds = time.process_time() - started
    lesions = {i: bench.lesion(i, image[None]) for i, image in zip(order, images, strict=True)}
    return {"seconds": seconds / len(bench.prepared), "kept": kept, "lesions": lesions}


def measure_cost(bench: Bench, painted: Sequence[Lesion], held_out: Sequence[Lesion], size: Size) -> dict[str, Any]:
    """Return the ratios of kept cases per core-second, and the KID of both."""
    workshop, painter = bench.workshop, bench.workshop.painter.model
    slots, clock = workshop.plan.config.slots, Clock()
    ours = by_us(bench, TimedGate(workshop.gate, clock), clock)
    good = bench.judged(painted) >= GOOD
    fixed = by_us(bench, Gate(workshop.gate.validators, workshop.painter.calibration.fixed(PEER_IOU)), Clock())

    rows = spread(range(len(bench.prepared)), size.peer)  # requests lie in the order of their folds
    singles, equal = spread(rows, size.singles), spread(rows, 4 * size.singles)
    scheduler = DDIMScheduler.from_config(painter.scheduler.config)

    def by_loop(items: Sequence[Prepared]) -> Tensor:
        return peer_latents(bench, items, scheduler, size.peer_steps)

    peers = {
        "peer": by_peer(bench, singles, 1, by_loop),
        "peer_batched": by_peer(bench, rows, slots, by_loop),
        "equal": by_peer(bench, equal, 1, lambda x: run_to_end(bench, x, workshop.painter.denoiser)[:, 1]),
        "equal_batched": by_peer(bench, rows, slots, lambda x: run_to_end(bench, x, workshop.painter.denoiser)[:, 1]),
    }

    def rate(seconds: float, kept: Sequence[bool], fine: Sequence[bool]) -> float:
        return float(np.mean([k and f for k, f in zip(kept, fine, strict=True)])) / seconds

    mine = rate(ours["seconds"], ours["kept"], good.tolist())
    plain = rate(ours["seconds"], ours["kept"], [True] * len(good))
    result: dict[str, Any] = {
        "seconds_per_request": {"ours": ours["seconds"], "ours_fixed": fixed["seconds"]},
        "acceptance": {"ours": float(np.mean(ours["kept"])), "ours_fixed": float(np.mean(fixed["kept"]))},
    }
    for name, many in (("peer", "peer_batched"), ("equal", "equal_batched")):  # few singles are timed, many are judged
        fine = (bench.judged(peers[many]["lesions"]) >= GOOD).tolist()
        kept, everything = peers[many]["kept"], [True] * len(fine)
        key = "kept_per_core_second_ratio" if name == "peer" else "kept_ratio_equal_steps"
        alone, together = ("", "_batched") if name == "peer" else ("_singles", "")
        for suffix, seconds in ((alone, peers[name]["seconds"]), (together, peers[many]["seconds"])):
            result[f"{key}{suffix}"] = ratio(mine, rate(seconds, kept, fine))
            result[f"{key}{suffix}_good_or_not"] = ratio(plain, rate(seconds, kept, everything))
            if not suffix:
                result[f"{key}_interval"] = ratio_interval(
                    ours["kept"], good, ours["seconds"], np.array(kept) & fine, seconds
                )
            same = rate(fixed["seconds"], fixed["kept"], good.tolist())
            result[f"{key}{suffix}_fixed"] = ratio(same, rate(seconds, kept, fine))
            result["seconds_per_request"][f"{name}{suffix}"] = seconds
        result["acceptance"][name] = float(np.mean(kept))
        result["acceptance"][f"{name}_good"] = float(np.mean(fine))
        result["acceptance"][f"{name}_good_of_kept"] = float(np.sum(np.array(fine) & kept) / max(1, np.sum(kept)))
    result["acceptance"]["ours_good"] = float(good.mean())
    result["acceptance"]["ours_good_of_kept"] = float(np.sum(good & ours["kept"]) / max(1, np.sum(ours["kept"])))

    reference = features([codec_passed(painter, lesion) for lesion in held_out])
    batched = peers["peer_batched"]
    passed = [lesion for lesion, kept in zip(batched["lesions"], batched["kept"], strict=True) if kept]
    for name, lesions in (("ours", list(ours["lesions"].values())), ("peer", passed), ("peer_all", batched["lesions"])):
        result[f"kid_{name}"] = kid(features(lesions), reference) if len(lesions) > 7 else None
    result["check_share"] = clock.seconds["check"] / clock.seconds["denoise"]
    return result


def ratio_interval(kept: Sequence[bool], good: NDArray[np.bool_], seconds: float, theirs: Any, peer: float) -> Any:
    """Return the 95 % bootstrap interval over requests of the ratio of kept and good cases per core-second."""
    rng, mine = np.random.default_rng(0), good & np.array(kept)
    drawn = [
        (rng.choice(mine, len(mine)).mean() / seconds, rng.choice(theirs, len(theirs)).mean() / peer)
        for _ in range(2000)
    ]
    ratios = [a / b for a, b in drawn if b > 0]
    return [round(float(value), 3) for value in np.quantile(ratios, (0.025, 0.975))] if ratios else None


def ratio(ours: float, theirs: float) -> float | None:
    """Return a ratio; None where the other side kept nothing."""
    return round(ours / theirs, 3) if theirs > 0 else None


@torch.no_grad()
def measure_looks(bench: Bench, timed: float) -> dict[str, float]:
    """Return what a look costs on latents, and in pixels: milliseconds a sample, in batches of the slots."""
    painter, slots = bench.workshop.painter.model, bench.workshop.plan.config.slots
    latents = torch.randn(slots, painter.latent_channels, painter.latent_side, painter.latent_side)
    first = len(bench.prepared) // 2
    rows = [(first + number) % len(bench.prepared) for number in range(slots)]  # mostly of one fold, as in use
    targets, wanted = [bench.prepared[i].target for i in rows], bench.pixel_targets(rows)
    still, last = torch.zeros(slots, dtype=torch.long), torch.full((slots,), bench.workshop.painter.calibration.steps)
    parts: dict[str, Callable[[], Any]] = {
        "latent": lambda: bench.workshop.gate.check(latents, still, last, targets),
        "decode": lambda: painter.decode(latents),
        "pixel": lambda: bench.filtered(torch.zeros(slots, 3, painter.window, painter.window), *wanted),
    }
    found = {name: milliseconds(work, timed) / slots for name, work in parts.items()}
    cost = (found["decode"] + found["pixel"]) / found["latent"]
    return {"pixel_over_latent_cost": cost, **{f"look_ms_{name}": value for name, value in found.items()}}


def milliseconds(work: Callable[[], Any], least: float) -> float:
    """Return the median time of a call on the processor."""
    work()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * float(np.median(times))


@torch.no_grad()
def measure_peak(bench: Bench, timed: float, layers: int) -> dict[str, float]:
    """Return the denoiser's operations per second as a share of the best that a convolution reaches here."""
    from torch.utils.flop_counter import FlopCounterMode

    painter, slots = bench.workshop.painter.model, bench.workshop.plan.config.slots
    told = Conditioning.stack([bench.prepared[0].conditioning] * slots)
    noise, t = torch.randn(slots, *bench.prepared[0].noise.shape[1:]), torch.full((slots,), 500)
    in_use = autocast(painter.device)
    with FlopCounterMode(display=False) as counter:
        painter(noise, t, told)
    reached = counter.get_total_flops() / milliseconds(lambda: painter(noise, t, told), timed) / 1e6
    best = 0.0
    for width, side in ((128, 32), (192, 16), (256, 16), (256, 32), (512, 16))[:layers]:
        layer, values = torch.nn.Conv2d(width, width, 3, padding=1), torch.randn(slots, width, side, side)
        work = 2 * 9 * slots * width**2 * side**2
        with in_use:
            best = max(best, work / milliseconds(lambda layer=layer, values=values: layer(values), timed) / 1e6)  # type: ignore[misc]
    return {"conv_peak_share": reached / best, "denoiser_gflops": reached, "conv_peak_gflops": best}


def measure_slots(bench: Bench, count: int) -> dict[str, Any]:
    """Return the time of plain batches over that of slots at three acceptances, beside what the saved steps allow.

    A plain batch ends when its last sample does. The denoiser is not guided, which changes no ratio.
    """
    workshop, config = bench.workshop, bench.workshop.plan.config
    items, steps = bench.prepared[:count], workshop.painter.calibration.steps
    free = Gate(workshop.gate.validators, workshop.painter.calibration.fixed(0.0))
    options: dict[str, Any] = {"steps": steps, "slots": config.slots}
    options |= {"solver": workshop.painter.sampler.solver, "strength": workshop.painter.sampler.strength}
    painter = workshop.painter.model
    done = list(paint(painter, painter.schedule, items, gate=free, **options))
    first = [item.checks[0].score for item in done]
    result = {}
    for accepted in (0.3, 0.5, 0.8):
        cut = float(np.quantile(first, 1 - accepted))
        calibration = workshop.painter.calibration
        steps_of = {str(step): (cut if step == calibration.checks[0] else 0.0) for step in calibration.checks}
        gate = Gate(workshop.gate.validators, replace(calibration, thresholds=dict.fromkeys(BINS, steps_of)))

        def run(some: Sequence[Prepared], gate: Gate = gate) -> tuple[float, int]:
            started = time.process_time()
            made = list(paint(painter, painter.schedule, some, gate=gate, **options))
            return time.process_time() - started, sum(item.steps for item in made)

        in_slots, made = run(items)
        in_batches = sum(run(some)[0] for some in groups(items, workshop))
        result[str(accepted)] = {
            "measured": round(in_batches / in_slots, 3),
            "ideal": round(len(items) * steps / made, 3),
        }
    return result


def resident() -> float:
    """Return the memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory_growth(model: Path, data: Path, counts: tuple[int, int]) -> float:
    """Paint, decode and composite requests a shard at a time, two steps each; return MB between two counts of them."""
    torch.set_num_threads(1)
    workshop = workshop_of(make_plan(model, data, GenerateConfig(negatives=0.0), 0))
    painter, maker, size = workshop.painter, workshop.maker, workshop.plan.config.shard_size
    sampler, seen = painter.sampler.model_copy(update={"steps": 2, "guidance": (1.0, 1.0)}), list[float]()
    short = Painter(painter.model, sampler, painter.calibration, painter.validators, rules=painter.rules)
    for start in range(0, counts[1], size):
        requests = [maker.drawer.draw(index) for index in range(start, min(counts[1], start + size))]
        for _, layout, done in paint_requests(short, maker, requests, None):
            short.pictures([layout], [done])
            if done.index + 1 in counts:
                seen.append(resident())
    return seen[-1] - seen[0]


# --- Real images ------------------------------------------------------------------------------------------------------


def measure_coverage(bench: Bench, cases: Sequence[Case], most: int) -> dict[str, Any]:
    """Return, by look and size bin, the share of fresh real lesions that reach the conformal threshold.

    Before the end, the threshold is that of real lesions' estimates (`Calibration.real`), not the one that stops.
    """
    workshop, painter = bench.workshop, bench.workshop.painter.model
    alone: list[Annotated] = []
    for case in cases:
        whole = Annotated.of(case)
        alone += [
            replace(whole, lesions=[a], attributes=[b]) for a, b in zip(whole.lesions, whole.attributes, strict=True)
        ]
    alone = alone[:most]

    def sketch(number: int) -> Any:
        rng = np.random.default_rng((29, number))
        return lesion_window(alone[number], painter.window, painter.latent_side, CONTEXT, rng)

    real = encode_windows(painter, (sketch(number) for number in range(len(alone))))
    calibration, timesteps = workshop.painter.calibration, bench.timesteps()
    sizes, folds = [size_class(case.attributes[0].relative_area) for case in alone], len(workshop.gate.validators)
    result = {}
    for step in calibration.checks:
        ended = step == calibration.steps
        t = torch.full((len(alone),), 0 if ended else int(timesteps[step - 1]))
        latents = real.x0 if ended else estimates(painter, real, t, step, denoiser=workshop.painter.denoiser)
        hits: dict[str, list[bool]] = {name: [] for name in BINS}
        for network in workshop.gate.validators:  # each is asked, since no case belongs to a fold
            found = torch.cat(
                [segment(network, x, some) for x, some in zip(latents.split(32), t.split(32), strict=True)]
            )
            scores = agreement(found, real.fine_mask, real.fine_region).tolist()
            for name, score in zip(sizes, scores, strict=True):
                hits[name].append(score >= calibration.real[name][str(step)])
        result["coverage" if ended else f"coverage_step_{step}"] = {
            name: {"asked": 1 - calibration.alpha, **share(round(sum(some) / folds), len(some) // folds)}
            for name, some in hits.items()
        }
    return result


def measure_stops(bench: Bench, gate: Gate) -> dict[str, Any]:
    """Return how many of the samples that are accepted at the end the looks on the way would have stopped."""
    workshop, config = bench.workshop, bench.workshop.plan.config
    free = Gate(gate.validators, gate.calibration.fixed(0.0))
    options: dict[str, Any] = {"steps": workshop.painter.calibration.steps, "slots": config.slots}
    options |= {"solver": workshop.painter.sampler.solver, "strength": workshop.painter.sampler.strength}
    done = paint(workshop.painter.denoiser, workshop.painter.model.schedule, bench.prepared, gate=free, **options)
    sizes = [item.target.size_bin for item in bench.prepared]
    found = [Trajectory(sizes[item.index], tuple(check.score for check in item.checks)) for item in done]
    calibration = gate.calibration
    accepted = [t for t in found if t.scores[-1] >= calibration.threshold(t.size_bin, calibration.steps)]
    looks = calibration.checks[:-1]
    stopped = sum(
        any(s < calibration.threshold(t.size_bin, step) for s, step in zip(t.scores, looks, strict=False))
        for t in accepted
    )
    return {"asked": calibration.delta, **share(stopped, len(accepted))}


def measure_frames(model: Path, pixel: Judge, cases: Sequence[Case]) -> dict[str, float]:
    """Return the mean Dice of whole images in one latent pass and by the pixel-space network, and what each costs."""
    painter, dice = Painter.load(model), {"latent": [], "pixel": []}  # type: ignore[var-annotated]
    clock = Clock()

    def in_pixels(frame: Any) -> Mask:
        window = frame_window(frame.shape)
        found = pixel.probability((window_image(frame, window, 128) + 1) / 2)
        square = F.interpolate(found, (window.side, window.side), mode="bilinear", align_corners=False)[0, 0]
        return np.asarray(window.place(square.numpy(), frame.shape[:2]) > 0.5)

    ways = {"latent": lambda frame: (lesion_probabilities(painter, frame) > 0.5).any(0), "pixel": in_pixels}
    for case in cases:
        frame, reference = case.read_image(), case.read_mask()
        for name, way in ways.items():
            found = clock(name, way)(frame)
            both = found.sum() + reference.sum()
            dice[name].append(2 * float((found & reference).sum()) / float(both) if both else 1.0)
    means = {name: float(np.mean(values)) for name, values in dice.items()}
    return {
        "segment_dice_gap": means["pixel"] - means["latent"],
        **{f"segment_dice_{name}": value for name, value in means.items()},
        **{f"segment_ms_{name}": 1000 * clock.seconds[name] / len(cases) for name in means},
    }


# --- The whole ------------------------------------------------------------------------------------------------------


def run(out: Path, data: Path | None, model: Path | None, quick: bool, size: Size) -> dict[str, Any]:
    """Measure everything and return what goes into engine.json."""
    started = time.monotonic()
    torch.set_num_threads(1)
    make_folder(out)
    full, few = prepare_data(out, data, size, quick)  # type: ignore[arg-type]
    if quick and model is None:
        fit(few, out / "model", TINY, base=None)
    elif model is None:
        fitted(few, out, quick)
    model = model or out / "model"
    dataset, unseen = read_dataset(full), {case.id for case in read_dataset(few).split("unannotated")}
    others = [case for case in dataset.split("train") if case.id in unseen]
    annotated = [case for case in dataset.split("train") if case.id not in unseen]
    held_out = [*dataset.split("val"), *dataset.split("test")]

    spawned = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with ThreadPoolExecutor(1) if quick else spawned as pool:
        jobs: list[Future[Any]] = [
            pool.submit(trained_network, full, [c.id for c in cases], out / name, iterations, name == "pixel")
            for name, cases, iterations in (("judge", others, size.judge), ("pixel", annotated, size.pixel))
        ]
        for job in jobs:
            job.result()
        judge, pixel = Judge.trained(others, out / "judge", 1), Judge.trained(annotated, out / "pixel", 1)
        result: dict[str, Any] = {"judge_cases": len(others), "pixel_cases": len(annotated), "good": GOOD}
        say(started, "networks")
        result |= measured(model, few, judge, pixel, held_out, size, started)
    with ThreadPoolExecutor(1) if quick else ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        result["memory_growth_mb"] = fresh.submit(memory_growth, model, few, size.memory).result()
    result["minutes"] = (time.monotonic() - started) / 60
    rounded: dict[str, Any] = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 4))
    write_json(out / "engine.json", rounded)
    return rounded


def measured(
    model: Path, few: Path, judge: Judge, pixel: Judge, held_out: Sequence[Case], size: Size, started: float
) -> dict[str, Any]:
    """Return every number that needs the model."""
    bench = Bench.of(model, few, judge, pixel, size.requests)
    config, calibration = bench.workshop.plan.config, bench.workshop.painter.calibration
    sampler = bench.workshop.painter.sampler
    result: dict[str, Any] = {"steps": calibration.steps, "checks": calibration.checks, "guidance": sampler.guidance}
    result |= {"strength": sampler.strength}
    result |= {"solver": sampler.solver, "slots": config.slots, "thresholds": calibration.thresholds}
    result |= {"groups": calibration.groups, "stop_groups": calibration.stop_groups, "real": calibration.real}
    paths = run_to_end(bench, bench.prepared, bench.workshop.painter.denoiser)
    painted = [bench.lesion(i, window[None]) for i, window in enumerate(bench.decoded(paths[:, 1]))]
    say(started, "painted")
    result |= measure_power(bench, trials(bench, paths, painted))
    say(started, "power")
    result |= measure_cost(bench, painted, lesions_of(held_out, size.fresh), size)
    say(started, "cost")
    result |= measure_looks(bench, size.timed) | measure_peak(bench, size.timed, size.layers)
    result |= {"slots_over_batches": measure_slots(bench, size.rates)}
    say(started, "slots")
    result |= measure_coverage(bench, held_out, size.fresh)
    result |= {"stopped_though_acceptable": measure_stops(bench, bench.workshop.gate)}
    result |= measure_frames(model, pixel, held_out[: size.frames])
    say(started, "real images")
    return result


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("out", "data", "model"):
        parser.add_argument(f"--{name}", type=Path, required=name == "out")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    result = run(given.out, given.data, given.model, given.quick, QUICK if given.quick else Size())
    for name, value in result.items():
        print(f"{name:32} {json.dumps(value)}")


if __name__ == "__main__":
    main()
