"""Shards: the unit of work, of resuming and of distribution.

A shard is a fixed list of cases, each of one or several requests. Its files are a pure function of the plan and its
index; it is complete when its `rows.jsonl`, written last, and every other file have the digests that
`digests.json` says. Kill it anywhere, or damage a file: what is missing or torn is made again.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from diffaug.artifacts import (
    digest_of_bytes,
    digest_of_file,
    digests_of_folder,
    make_folder,
    storing,
    sync_tree,
    versions,
    write_json,
    write_text,
)
from diffaug.compute.devices import processor_of
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.grammar import KnownWords
from diffaug.data.folder import read_dataset
from diffaug.data.images import Label, Mask, Pixels, write_png
from diffaug.data.manifest import Row, kept, lesions, read_rows, text_of_rows
from diffaug.data.origin import Kind, Origin, recorded_settings
from diffaug.data.request import Request
from diffaug.models.checkpoints import read_words
from diffaug.painting.clearing import Remover
from diffaug.painting.engine import Painted
from diffaug.painting.judging import Verdict, passing, verdict_on, verdict_on_negative
from diffaug.painting.layout import Layout
from diffaug.painting.looks import look_at, reason_of
from diffaug.painting.painter import Painter
from diffaug.painting.requests import LayoutMaker, paint_requests
from diffaug.reading import read_kept
from diffaug.realism.critic import Critic
from diffaug.synthesis.plan import Plan, backgrounds_of, fitted_cases
from diffaug.synthesis.shared import SharedPictures
from diffaug.validator.calibration import Calibration
from diffaug.validator.gate import Gate

PREVIEWS = 3  # pictures of turned-down requests kept per shard
ROWS = "rows.jsonl"
SECONDS = "seconds.json"
DIGESTS = "digests.json"


@dataclass(frozen=True)
class Workshop:
    """A plan's model and data, loaded.

    Attributes:
        plan: What is made.
        painter: Paints.
        maker: Lays out the requests.
        gate: Looks at what is painted; it lets negatives pass, and with `paint_all` everything.
    """

    plan: Plan
    painter: Painter
    maker: LayoutMaker
    gate: Gate

    @cached_property
    def origin(self) -> Origin:
        """What the pictures have in common of what they say of themselves."""
        validator, processor = self.painter.calibration.validator, processor_of(self.painter.model.device)
        return Origin(recorded_settings(self.plan.identity()), validator, versions(), processor)

    def texts(self, kind: Kind, *rows: Row) -> dict[str, str]:
        """Return what a picture that shows some rows, that of its file first, says of itself."""
        requests = tuple(row.request for row in rows)
        return replace(self.origin, id=rows[0].id, kind=kind, requests=requests).texts()

    @property
    def thresholds(self) -> Calibration:
        """The thresholds that decide."""
        return thresholds_of(self.plan, self.painter.calibration)

    @property
    def critic(self) -> Critic | None:
        """The critic that turns down what looks painted, if the plan asks for one and the model has one."""
        return self.painter.critic if self.plan.has_realism else None

    def is_partly_known(self, row: Row) -> bool:
        """Tell whether nothing is known of the image that a row is painted on, beside what is painted."""
        return not self.maker.drawer.backgrounds.is_known(row.request.background)

    def label(self, values: Label) -> Label:
        """Return a label as it is written: in the data set's own values, or 0 and 255 where it declares no classes."""
        return values if self.maker.drawer.classes else np.asarray(values * 255, dtype=np.uint8)


def thresholds_of(plan: Plan, calibration: Calibration) -> Calibration:
    """Return the thresholds that a plan asks for: those of the fit, or one for every size."""
    return calibration.fixed(plan.config.threshold) if plan.config.gate == "fixed" else calibration


@lru_cache(maxsize=1)
def workshop_of(plan: Plan) -> Workshop:
    """Load a plan's model and data, once per process."""
    painter = Painter.load(plan.model, plan.device, slots=plan.config.slots, sealed=False)  # the plan has checked it
    calibration = painter.calibration
    known = KnownWords(read_words(plan.model), painter.model.reads)
    dataset = read_dataset(plan.data)
    drawer = RequestDrawer(
        fitted_cases(dataset, calibration), plan.seed, plan.config, backgrounds_of(plan.config, dataset),
        known_words=known, budget=plan.budget, folds=calibration.folds, rules=painter.rules,
        unconvincing=painter.critic.unconvincing if painter.critic and plan.has_realism else frozenset(),
    )  # fmt: skip
    remover = Remover(painter.model, calibration, painter.validators, plan.seed, rules=painter.rules)
    gate = Gate(painter.validators, passing(thresholds_of(plan, calibration), plan.config.paint_all))
    return Workshop(plan, painter, LayoutMaker(drawer, remover, painter.sampler.strength == 1.0), gate)


def shard_folder(out: Path, shard: int) -> Path:
    """Return the folder of a shard."""
    return out / "shards" / f"{shard:05d}"


def generate_shard(plan: Plan, out: Path, shard: int) -> int:
    """Make one shard, unless it is complete, and return how many of its lesions were kept."""
    folder = shard_folder(out, shard)
    if not is_complete(folder):
        started = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        size = plan.config.shard_size
        for name in ("images", "masks", "turned-down"):
            make_folder(folder / name)
        found = _rows(workshop_of(plan), out, folder, range(shard * size, (shard + 1) * size))
        rows = sorted(found, key=lambda row: row.request.index)
        write_json(folder / SECONDS, round(time.monotonic() - started, 3))
        with storing(folder):
            sync_tree(folder)
        text = text_of_rows(rows)
        digests = digests_of_folder(folder, ("*/*.png",)) | {ROWS: digest_of_bytes(text.encode())}
        write_json(folder / DIGESTS, digests)
        write_text(folder / ROWS, text)
    return len(kept(lesions(read_rows(folder / ROWS))))


def seconds_of(folder: Path) -> float | None:
    """Return the computing time of a shard; None where it is not known."""
    return read_kept(folder / SECONDS, float)


def is_complete(folder: Path) -> bool:
    """Tell whether the rows of a shard and all files that were written for them are there, as they were written."""
    digests = read_kept(folder / DIGESTS, dict[str, str])
    if not digests or seconds_of(folder) is None:
        return False
    return digests.items() <= digests_of_folder(folder, (ROWS, "*/*.png")).items()


@dataclass(frozen=True)
class _Finished:
    """A sample to be decoded: its row, and whether it is written as a case or shown as a picture."""

    row: Row
    layout: Layout
    sample: Painted
    written: bool
    shown: bool


def _rows(workshop: Workshop, out: Path, folder: Path, numbers: Sequence[int]) -> Iterator[Row]:
    """Paint the requests of some cases, write what is to be kept or shown, and yield the row of each."""
    config, painter, previews = workshop.plan.config, workshop.painter, Counter[str]()
    requests = [request for number in numbers for request in workshop.maker.drawer.draw_case(number)]
    shared = SharedPictures(workshop.maker.drawer.per_case)
    gate = None if config.gate == "off" else workshop.gate
    waiting: list[_Finished] = []  # to be decoded in one batch
    painted = paint_requests(painter, workshop.maker, requests, gate, everything=config.paint_all)
    for request, layout, sample in painted:
        row = _row(workshop, request, layout, sample)
        is_kept = row.decision == "kept"
        previews[row.decision] += not is_kept and sample.steps > 0
        shown = not is_kept and previews[row.decision] <= PREVIEWS
        if sample.steps and (is_kept or shown or config.paint_all):
            waiting.append(_Finished(row, layout, sample, is_kept or config.paint_all, shown))
        else:
            yield row
        if waiting and len(waiting) >= painter.at_once(layout.region.size):
            yield from _pictured(workshop, folder, out, waiting, shared, previews)
            waiting = []
    yield from _pictured(workshop, folder, out, waiting, shared, previews)
    for picture in shared.finished():
        rows = picture.finished_rows()
        region = picture.region if workshop.is_partly_known(rows[0]) else None
        first = _write_case(workshop, rows, folder, picture.image, picture.values, out, region)
        yield from (first, *rows[1:])


def _verdict(workshop: Workshop, layout: Layout, sample: Painted) -> Verdict:
    config = workshop.plan.config
    if layout.negative:
        region = workshop.painter.fine_region(layout)
        return verdict_on_negative(sample.latents, region, layout.fold, workshop.gate, config.gate)
    return verdict_on(layout, sample, workshop.thresholds, config.gate, config.paint_all)


def _row(workshop: Workshop, request: Request, layout: Layout, sample: Painted) -> Row:
    """Return all it takes to make a case again, and why it was kept or not; no files yet."""
    verdict, window = _verdict(workshop, layout, sample), layout.window
    return Row(
        request=request,
        decision=verdict.decision,
        reason=verdict.reason,
        steps=sample.steps,
        checks=verdict.checks,
        window=(window.top, window.left, window.side),
        model=workshop.plan.model_digest,
        validator=workshop.painter.calibration.validator,
        config=workshop.plan.digest(),
        removed=layout.removed,
        found=verdict.found,
    )


def _looked_at(workshop: Workshop, item: _Finished, image: Pixels, previews: Counter[str]) -> _Finished:
    """Return a sample with the critic's look at the finished frame; what looks painted is turned down."""
    critic, row = workshop.critic, item.row
    if critic is None or row.request.negative:
        return item
    look = look_at(critic, image, item.layout.masks.new, row.request.size_bin, item.sample.steps)
    if look.accepted or row.decision != "kept":
        return replace(item, row=replace(row, look=look))
    previews["rejected"] += 1
    shown, written = previews["rejected"] <= PREVIEWS, workshop.plan.config.paint_all
    rejected = replace(row, look=look, decision="rejected", reason=reason_of(look))
    return replace(item, row=rejected, written=written, shown=shown)


def _pictured(
    workshop: Workshop,
    folder: Path,
    out: Path,
    waiting: Sequence[_Finished],
    shared: SharedPictures,
    previews: Counter[str],
) -> Iterator[Row]:
    """Decode some samples together, composite and write each, and yield its row; shared pictures wait for others."""
    images = workshop.painter.pictures([item.layout for item in waiting], [item.sample for item in waiting])
    for finished, image in zip(waiting, images, strict=True):
        item = _looked_at(workshop, finished, image, previews)
        row = item.row
        if shared.takes(row):
            shared.add(row, item.layout, image)
            continue
        if item.written:
            region = item.layout.region if row.request.negative or workshop.is_partly_known(row) else None
            row = _write_case(workshop, [row], folder, image, item.layout.masks.values, out, region)
        if item.shown:
            row = _write_preview(row, workshop, folder, item.layout, image, out)
        yield row


def _write_case(
    workshop: Workshop,
    rows: Sequence[Row],
    folder: Path,
    image: Pixels,
    values: Label,
    out: Path,
    painted: Mask | None = None,
) -> Row:
    """Write the image that shows some rows, its label, and the mask of what was painted if it is given.

    Returns:
        The first row, with the names of the files.
    """
    row, label = rows[0], workshop.label(values)
    paths = [folder / kind / f"{row.id}.png" for kind in ("images", "masks")]
    write_png(paths[0], image, settled=False, texts=workshop.texts("picture", *rows))
    write_png(paths[1], label, settled=False)
    names, digests = [path.relative_to(out).as_posix() for path in paths], [digest_of_file(path) for path in paths]
    if painted is not None:
        path = make_folder(folder / "regions") / f"{row.id}.png"
        write_png(path, painted.astype(np.uint8) * 255, settled=False)
        row = replace(row, region=path.relative_to(out).as_posix(), region_digest=digest_of_file(path))
    return replace(
        row, image=names[0], mask=names[1], image_digest=digests[0], mask_digest=digests[1], lesion_free=not label.any()
    )


def _write_preview(row: Row, workshop: Workshop, folder: Path, layout: Layout, image: Pixels, out: Path) -> Row:
    """Write the window of a turned-down request with the requested mask, and return the row with their names."""
    paths = [folder / "turned-down" / f"{row.id}{ending}.png" for ending in ("", "_mask")]
    mask = np.asarray(layout.window.crop(layout.masks.values * layout.masks.new), dtype=np.uint8)
    shown = np.asarray(layout.window.crop(image), dtype=np.uint8)
    write_png(paths[0], shown, settled=False, texts=workshop.texts("preview", row))
    write_png(paths[1], workshop.label(mask), settled=False)
    names = [path.relative_to(out).as_posix() for path in paths]
    return replace(row, preview=names[0], preview_mask=names[1])
