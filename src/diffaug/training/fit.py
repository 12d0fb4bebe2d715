"""`diffaug fit`: a data set becomes a model folder with painter, validators and thresholds.

Sees the cases of `train` and `unannotated` alone; val and test are never opened.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
)
from diffaug.compute.devices import device_of, leave_others, this_process
from diffaug.compute.progress import tracked
from diffaug.compute.seeds import seeded
from diffaug.conditioning.grammar import words_in
from diffaug.conditioning.prompts import all_prompts
from diffaug.config import FitConfig, GenerateConfig
from diffaug.data.case import Case, Pixels, digest_of_case
from diffaug.data.folder import check_dataset, read_dataset
from diffaug.data.seen import NOTHING, Seen, read_seen, write_seen
from diffaug.data.split import folds_by_group
from diffaug.errors import ConfigError, DataError, ModelError, PlacementError
from diffaug.models.base import LatentInpainter
from diffaug.models.checkpoints import Checkpoint, find_checkpoint, read_words, seal, verify, write_words
from diffaug.models.compact import Compact, denoiser_of, scheduler_of, text_encoder_of, tokenizer_of
from diffaug.models.loading import kind_of, load_model
from diffaug.painting.window import CONTEXT
from diffaug.synthesis.shards import guided, painted_trajectories, painter_digest, painting_of
from diffaug.training.codec import measure_codec, train_codec
from diffaug.training.painter import check_batch, train_painter
from diffaug.training.validation import real_scores, train_validators
from diffaug.training.windows import (
    Annotated,
    Rng,
    Sketch,
    Windows,
    drawn,
    encode_windows,
    lesion_window,
    normal_window,
    tissue_window,
)
from diffaug.validator.calibration import BINS, Calibration, calibrate, check_steps

SHIPPED = Path(__file__).parent.parent / "weights" / "endoscopy"
SHIPPED_TERMS = "the shipped endoscopy prior is for research and education: NOTICE and its model card state the terms"
SOFT = "the base's codec keeps little of these images (codec.psnr_db): painted tissue will look soft"
LEAST_PSNR = 28.0  # dB; a codec under it is trained on the user's own images
FEWEST_CASES = 6
NORMAL_SHARE = 0.35  # share of lesion-free windows in a batch
MOST_MONITORED = 0.5  # of the cases with lesions; groups so large that more would be taken choose nothing
FEWEST_MONITORED = 2  # cases that choose the checkpoint; where there would be fewer, the last weights are kept
MONITOR_WINDOWS = 6  # of each of them


def fit(
    data: Path,
    model: Path,
    config: FitConfig,
    *,
    base: Path | str | None = SHIPPED,
    seed: int = 0,
    device: str = "cpu",
    painting: GenerateConfig | None = None,
) -> dict[str, Any]:
    """Make a model folder from the annotated and unannotated training images of a data set.

    The same call again resumes where a killed one stopped, and returns at once where one has finished. Started several
    times by `accelerate launch`, it trains the painter in all processes; the first does the rest.

    Args:
        data: A data set folder.
        model: The folder to make.
        config: Architecture and schedules; the architecture is the base's where there is one.
        base: A model folder to start from, a Stable Diffusion inpainting checkpoint by path or hub name, or None to
            train every part from scratch.
        seed: Seeds every stage.
        device: Where to compute: cpu, cuda, cuda:N or auto.
        painting: How cases will be generated: the gate's looks on the way are calibrated on such samples; None is by
            default.

    Returns:
        What was measured: cases, lesions, codec PSNR, seconds of each stage; empty in all but the first process.

    Raises:
        ConfigError: `lora_rank` without a base, or Stable Diffusion without `lora_rank`; the device is not there; a
            batch has fewer rows than parts; or another process fits this model.
        DataError: A case breaks a rule, or there are too few annotated ones.
        ModelError: `model` was made with other settings, or the base is unsuitable.
    """
    place, process, painting = device_of(device), this_process(), painting or GenerateConfig()
    check_batch(config.denoiser.batch_size, process)  # told before any work
    start = usable_base(base, config)
    dataset = read_dataset(data)
    annotated, unannotated = dataset.split("train"), dataset.split("unannotated")
    check_count(len(annotated), data)
    digests = {case.id: digest_of_case(case) for case in (*annotated, *unannotated)}
    plan = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "data": digest_of_value([[c.id, c.group, digests[c.id]] for c in (*annotated, *unannotated)]),
        "base": digest_of_base(start) if start else "",
        "painting": painting_of(painting),
    }
    if finished(model, plan):
        return read_json(model / "training" / "summary.json") if process.leads else {}
    notices = [*check_dataset((*annotated, *unannotated), "checking images").notices, *notices_of(start, place)]
    folds = folds_by_group({case.id: case.group for case in annotated}, config.validator.folds, seed)
    check_classes(start, dataset.class_names)
    training = make_folder(model / "training")
    with held(training) if process.leads else nullcontext():
        if finished(model, plan):  # by another process, while the images were checked
            return read_json(training / "summary.json") if process.leads else {}
        _note_plan(model, plan | _seen(annotated, unannotated, digests))

        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        cases = [Annotated.of(case) for case in annotated]
        images = [case.image for case in cases] + [case.read_image() for case in unannotated]
        clock.note("read")

        # Codec: pixels <=> latents.
        painter = base_model(config, images, model / "training", start, seed, len(dataset.class_names)).to(place)
        fidelity = measure_codec(painter.reconstruct, images, painter.window)
        if start is not None and fidelity["psnr_db"] < LEAST_PSNR and painter.trains_codec:
            train_codec(images, config.codec, model / "training", seed, painter.codec)
            fidelity = measure_codec(painter.reconstruct, images, painter.window)
        clock.note("codec")

        # Painter: lesions where the mask says, and nothing where it is empty.
        seen, monitored = divided(cases, config.denoiser.monitor_share, seed)
        sources = painter_windows(painter, seen, config, seed)
        monitor = lesion_windows(painter, monitored, MONITOR_WINDOWS, seed, kind=3) if monitored else None
        clock.note("windows")
        train_painter(painter, sources, config.denoiser, model / "training", seed, monitor=monitor)
        clock.note("painter")
        leave_others()
        if not process.leads:
            return {}

        # Validators, one per fold, and thresholds from the lesions that each has not seen.
        guide = guided(painter, painting)
        networks = train_validators(painter, cases, folds, config.validator, model / "training", seed, guide)
        scores = real_scores(painter, networks, cases, folds, config, CONTEXT, seed, guide, painting.strength)
        clock.note("validators")

        # The folder, all but its seal.
        known = read_words(start.folder) if start else set()
        write_parts(model, painter, words_read(painter, [windows for windows, _ in sources]) | known, networks)
        write_seen(model, seen_after(start, images[: len(cases)], images[len(cases) :]))

        # Looks on the way: samples painted to the end tell what those that are accepted looked like before.
        first = first_calibration(model, config, scores, folds, painter)
        calibration = write_calibration(model, data, first, config.validator.trajectories, painting, seed, str(place))
        clock.note("trajectories")
        summary = {
            "annotated": len(annotated),
            "unannotated": len(unannotated),
            "lesions": calibration.counts,
            "codec": fidelity,
            "notices": [*notices, *calibration.notices()]
            + rare_classes(cases, dataset.class_names, config.validator.alpha)
            + ([] if painter.trains_codec or fidelity["psnr_db"] >= LEAST_PSNR else [SOFT]),
            "painter": chosen_checkpoint(model / "training" / "painter.log.jsonl"),
            "scores": {name: {str(step): values for step, values in found.items()} for name, found in scores.items()},
            "calibration": {k: v for k, v in asdict(calibration).items() if k not in ("folds", "trajectories")},
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        }
        write_json(model / "training" / "summary.json", summary)
        seal(model)
        for checkpoint in (model / "training").glob("*.checkpoint"):
            checkpoint.unlink()
        return summary


def seen_after(base: Checkpoint | None, annotated: Sequence[Pixels], others: Sequence[Pixels]) -> Seen:
    """Return every image that a model has seen once it is fitted on a base."""
    return (read_seen(base.folder) if base else NOTHING).then(Seen.of(annotated, others))


def write_parts(model: Path, painter: LatentInpainter, words: set[str], networks: Sequence[Any]) -> None:
    """Write the painter, the words it knows and the fold validators."""
    painter.save(model)
    write_words(model, words)
    for fold, network in enumerate(networks):
        network.save_pretrained(model / "validator" / str(fold))


def first_calibration(
    model: Path,
    config: FitConfig,
    scores: dict[str, dict[int, list[float]]],
    folds: dict[str, int],
    painter: LatentInpainter,
) -> Calibration:
    """Return what out-of-fold scores of real lesions say: thresholds at the end, none before it."""
    groups, thresholds = calibrate(scores, config.validator.alpha)
    return Calibration(
        alpha=config.validator.alpha,
        steps=config.steps,
        checks=check_steps(config.checks, config.steps),
        folds=folds,
        groups=groups,
        counts={name: len(next(iter(scores.get(name, {}).values()), [])) for name in BINS},
        thresholds=thresholds,
        validator=digest_of_folder(model / "validator"),
        painter=painter_digest(model),
        classes=max(1, painter.classes),
        real=thresholds,
        delta=config.validator.delta,
    ).without_stops()


def write_calibration(
    model: Path,
    data: Path,
    calibration: Calibration,
    count: int,
    painting: GenerateConfig,
    seed: int,
    device: str = "cpu",
) -> Calibration:
    """Write a calibration with thresholds before the end, from samples painted with it; without, where none can be."""
    calibration.save(model / "calibration.json")
    if count and len(calibration.checks) > 1:
        try:
            found = painted_trajectories(model, data, calibration, count, painting, seed, device)
        except PlacementError:  # told by `generate`, where it can be mended
            return calibration
        calibration = calibration.with_trajectories(found, painting_of(painting))
        calibration.save(model / "calibration.json")
    return calibration


def rare_classes(cases: Sequence[Annotated], names: Sequence[str], alpha: float) -> list[str]:
    """Return a line for each class of several that is in too few lesions to shape the thresholds by itself."""
    least = math.ceil(1 / alpha - 1)
    counts = [
        sum(bool((case.masks[k] & lesion).any()) for case in cases for lesion in case.lesions)
        for k in range(len(names))
    ]
    return [
        f"{count} annotated lesions hold the class {name}, fewer than the {least} that a threshold needs: where it is "
        "asked for, the gate judges it by what lesions without it reach"
        for name, count in zip(names, counts, strict=True)
        if count < least and len(names) > 1
    ]


def _note_plan(model: Path, plan: dict[str, Any]) -> None:
    write_json(model / "fit.json", plan)
    write_json(model / "training" / "versions.json", versions())


def _seen(annotated: Sequence[Case], unannotated: Sequence[Case], digests: dict[str, str]) -> dict[str, Any]:
    """Return what `fit.json` says of the data: digests of the annotated cases, and of every image."""
    images = {case.id: digest_of_file(case.image) for case in (*annotated, *unannotated)}
    return {"cases": {case.id: digests[case.id] for case in annotated}, "images": images}


def divided(cases: Sequence[Annotated], share: float, seed: int) -> tuple[list[Annotated], list[Annotated]]:
    """Divide cases into those that train the painter and those that choose its checkpoint; groups stay together.

    Cases with lesions choose it, of about the share; none where groups are so large that it would be over a half.
    """
    groups = {case.case.id: case.case.group for case in cases if case.lesions}
    count, wanted = len(set(groups.values())), share * len(groups)
    if wanted < FEWEST_MONITORED or count < 2:
        return list(cases), []
    folds = folds_by_group(groups, max(2, min(count, round(1 / share))), seed)
    sizes = Counter(folds.values())
    nearest = min(sorted(sizes), key=lambda fold: int(abs(sizes[fold] - len(groups) / len(sizes))))  # or the first
    chosen = {groups[name] for name, fold in folds.items() if fold == nearest}
    kept = [case for case in cases if case.case.id in groups and case.case.group in chosen]
    if len(kept) > MOST_MONITORED * len(groups):
        return list(cases), []
    return [case for case in cases if case.case.group not in chosen], kept


def chosen_checkpoint(log: Path) -> dict[str, float]:
    """Return the iteration whose weights were kept, its score, and the score of the last ones; empty if none scored."""
    scored = [row for row in read_jsonl(log) if "score" in row]
    if not scored:
        return {}
    best = min(scored, key=lambda row: row["score"])
    return {"iteration": best["iteration"], "score": best["score"], "last_score": scored[-1]["score"]}


def check_count(annotated: int, data: Path | str) -> None:
    """Refuse too few annotated cases of what is named.

    Raises:
        DataError: There are fewer than a painter and its folds need.
    """
    if annotated < FEWEST_CASES:
        raise DataError(f"a fit needs {FEWEST_CASES} annotated training cases: {data} has {annotated}; annotate more")


def usable_base(base: Path | str | None, config: FitConfig) -> Checkpoint | None:
    """Return the base, or None where the shipped one is absent.

    Raises:
        ConfigError: `lora_rank` without a base, or Stable Diffusion without `lora_rank`.
        ModelError: The base is neither a model folder nor a Stable Diffusion inpainting checkpoint.
    """
    rank = config.denoiser.lora_rank
    if base is None or (base == SHIPPED and not (SHIPPED / "model_index.json").is_file()):
        if rank:
            raise ConfigError(f"LoRA tunes a base: denoiser.lora_rank is {rank} from scratch; use a base, or rank 0")
        return None
    found = find_checkpoint(base)
    if rank < kind_of(found.folder).least_rank:
        raise ConfigError(f"Stable Diffusion is tuned by LoRA: denoiser.lora_rank is 0 with {base}; add --lora 16")
    return found


def notices_of(base: Checkpoint | None, device: torch.device) -> list[str]:
    """Return what a user should know of a base: its terms, and whether it is slow."""
    if base is None:
        return []
    if base.folder == SHIPPED:
        return [SHIPPED_TERMS]
    return kind_of(base.folder).notices(base.name, device)


def digest_of_base(base: Checkpoint) -> str:
    """Return the digest of what a base's outputs depend on, of a compact one its weights."""
    return digest_of_value(base.digests())


def check_classes(base: Checkpoint | None, names: Sequence[str]) -> None:
    """Refuse a base that was made for more classes than the data has.

    Raises:
        ModelError: It was.
    """
    if base:
        _check_classes(load_model(base.folder), base, len(names))


def _check_classes(model: LatentInpainter, base: Checkpoint, classes: int) -> None:
    if model.classes > classes:
        raise ModelError(
            f"a base has at most the classes of the data: {base.name} was made for {model.classes}, the data has "
            f"{classes}; use another base"
        )


class _Clock:
    """Notes the seconds since the last note."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def note(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage], self.last = now - self.last, now


def finished(model: Path, plan: dict[str, Any]) -> bool:
    """Tell whether a model folder holds the finished fit of a plan.

    Raises:
        ModelError: It holds a fit of another plan.
    """
    if not (model / "fit.json").is_file():
        if model.is_dir() and any(p.name != "training" and p.suffix != ".partial" for p in model.iterdir()):
            raise ModelError(f"a model needs a new or empty folder: {model} holds other files; choose another folder")
        return False
    made = read_json(model / "fit.json")
    differs = [key for key in plan if made.get(key) != plan[key]]
    if differs:
        raise ModelError(
            f"a model folder holds one fit: {model} was fitted with another {differs[0]}; choose another folder"
        )
    if (model / "digests.json").is_file():
        verify(model)
        return True
    return False


def base_model(
    config: FitConfig, images: Sequence[Pixels], folder: Path, base: Checkpoint | None, seed: int, classes: int = 1
) -> LatentInpainter:
    """Load the base and add masks of further classes, or train a codec and set untrained parts around it.

    Stable Diffusion gets channels for masks and scale, and is saved beside its checkpoint unless it is to be merged.

    Raises:
        ModelError: The base was made for more classes.
    """
    if base is not None:
        model = load_model(base.folder)
        _check_classes(model, base, classes)
        if not config.denoiser.merge:
            model.keep_base(base)
        model.add_masks(classes)
        return model
    return untrained_around(train_codec(images, config.codec, folder, seed), config, seed, classes)


def untrained_around(codec: Any, config: FitConfig, seed: int, classes: int = 1) -> LatentInpainter:
    """Set untrained parts, seeded, around a trained codec."""
    tokenizer = tokenizer_of(all_prompts())
    cells = config.codec.window // config.codec.cell
    with seeded(seed):
        unet = denoiser_of(config.denoiser, config.codec.latent_channels, cells, classes)
        text_encoder = text_encoder_of(config.denoiser, tokenizer)
    return Compact(codec, unet, text_encoder, tokenizer, scheduler_of())


def painter_windows(
    model: LatentInpainter, cases: Sequence[Annotated], config: FitConfig, seed: int
) -> list[tuple[Any, float]]:
    """Encode the windows a painter learns from, each kind with its share of a batch.

    Lesions are to be painted where the mask says, lesion-free tissue where it is empty. Every case gives as many,
    so large lesions do not drown small ones.
    """
    each = config.denoiser.windows_per_case

    def normal(number: int, rng: Rng) -> Sketch | None:
        return normal_window(cases[number // each], model.window, model.latent_side, rng)

    lesions = lesion_windows(model, cases, each, seed, kind=1)
    filled = _sketches(normal, len(cases) * each, (seed, 2))
    first = next(filled, None)
    if first is None:  # no frame has room for a lesion-free window
        return [(lesions, 1.0)]
    normals = encode_windows(model, chain([first], filled))
    return [(lesions, 1 - NORMAL_SHARE), (normals, NORMAL_SHARE)]


def lesion_windows(model: LatentInpainter, cases: Sequence[Annotated], each: int, seed: int, kind: int) -> Windows:
    """Encode `each` lesion windows of every case; `kind` tells the streams of one seed apart."""

    def lesion(number: int, rng: Rng) -> Sketch | None:
        case = cases[number // each]
        return lesion_window(case, model.window, model.latent_side, CONTEXT, rng) if case.lesions else None

    return encode_windows(model, _sketches(lesion, len(cases) * each, (seed, kind)))


def words_read(model: LatentInpainter, sources: Sequence[Windows]) -> set[str]:
    """Return the words of the prompts of some windows, as far as the text encoder reads them."""
    rows = {tuple(row) for windows in sources for row in windows.tokens.tolist()}
    texts = (model.tokenizer.decode(row, skip_special_tokens=True) for row in rows)
    return set().union(*(words_in(text) for text in texts))


def _sketches(make: Callable[[int, Rng], Sketch | None], count: int, key: tuple[int, int]) -> Iterator[Sketch]:
    """Yield sketches with a progress bar; each is a pure function of the key and its number."""
    for number in tracked(range(count), count, "windows"):
        sketch = make(number, np.random.default_rng((*key, number)))
        if sketch is not None:
            yield sketch


def train_prior(
    images: Sequence[Pixels], folder: Path, config: FitConfig, model: LatentInpainter, *, windows: int, seed: int = 0
) -> LatentInpainter:
    """Train a painter on unannotated tissue: random regions, described by what is measured in them.

    Args:
        images: Frames, (H, W, 3); no annotation is used.
        folder: Where checkpoint and log are kept.
        config: Architecture and schedule.
        model: A trained codec, and parts to train in place.
        windows: Windows drawn and encoded.
        seed: Seeds windows and iterations.

    Returns:
        The model.
    """

    def tissue(rng: Rng) -> Sketch:
        return tissue_window(images[int(rng.integers(len(images)))], model.window, model.latent_side, rng)

    encoded = encode_windows(model, drawn(tissue, windows, seed))
    train_painter(model, [(encoded, 1.0)], config.denoiser, folder, seed, name="prior")
    return model
