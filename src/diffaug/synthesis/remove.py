"""`diffaug remove`: paint lesions away, so that an annotated image becomes a lesion-free one.

The painter fills each lesion and a margin around it with "normal mucosa" and an empty mask. A case's result is a pure
function of (model digest, case, seed); it is complete when its row, written last, exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from diffaug.artifacts import (
    atomic_path,
    digest_of_file,
    digest_of_value,
    make_folder,
    read_json,
    write_json,
    write_jsonl,
)
from diffaug.conditioning.masks import EIGHT
from diffaug.conditioning.placement import field_of_view
from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.conditioning.requests import seed_of_request
from diffaug.data.case import Case, Mask, Pixels, digest_of_case, write_png
from diffaug.data.folder import check_dataset, read_dataset, write_cases
from diffaug.data.inspect import outlined
from diffaug.diffusion.sampler import sample
from diffaug.diffusion.train import progress_bar
from diffaug.errors import DataError
from diffaug.models.latent_inpainter import LatentInpainter, decode, encode, scale_of, verify
from diffaug.synthesis.compose import band_width, compose
from diffaug.synthesis.shards import claim, load_validators
from diffaug.synthesis.window import Window, longer_side, window_around, window_image, window_mask
from diffaug.validator.calibration import Calibration
from diffaug.validator.latent_segmenter import UPSCALE, segment

MARGIN = 0.12  # of a lesion's longer side: its rim and its shadow are repainted too
CONTEXT = 1.7  # window side over the region's longer side; the painter learnt to fill a quarter to four fifths of it
SHEET_CASES, SHEET_SIDE = 12, 240  # of the sheet; px


@dataclass(frozen=True)
class Remover:
    """A loaded model that paints lesions away."""

    painter: LatentInpainter
    calibration: Calibration
    validators: Sequence[Any]
    seed: int

    @staticmethod
    def load(model: Path, seed: int) -> "Remover":
        """Load the painter and the validators of a fitted model."""
        calibration = Calibration.load(model / "calibration.json")
        return Remover(LatentInpainter.load(model), calibration, load_validators(model, calibration), seed)

    def remove(self, case: Case) -> tuple[Pixels, list[dict[str, Any]]]:
        """Return the frame without its lesions, and a record of every region that was painted.

        Every pixel outside the regions is the original's, byte for byte.
        """
        frame, mask = case.read_image(), case.read_mask()
        field, rows = field_of_view(frame), []
        for number, (lesion, region) in enumerate(regions_of(mask, field)):
            window = window_around(region, CONTEXT, least=max(32, longer_side(region) + 4))
            seed = seed_of_request(self.seed, int(digest_of_value([case.id, number])[:8], 16))
            before = self.found(case.id, frame, lesion, window)
            frame = compose(
                frame, self.fill(frame, region, window, seed), window, region, band_width(lesion, MARGIN), seed
            )
            after = self.found(case.id, frame, lesion, window)
            side = [window.top, window.left, window.side]
            rows.append({"window": side, "seed": seed, "found_before": before, "found_after": after})
        return frame, rows

    @torch.no_grad()
    def fill(self, frame: Pixels, region: Mask, window: Window, seed: int) -> torch.Tensor:
        """Paint lesion-free tissue into a region: pixels => (1, 3, side, side) in [-1, 1]."""
        painter = self.painter
        where = (window_mask(region, window, painter.window) > 0.25).float()
        image = window_image(frame, window, painter.window)
        scale = torch.tensor([scale_of(window.side, region.shape, painter.latent_side)])
        empty = torch.zeros(1, max(1, painter.classes), painter.window, painter.window)
        told = painter.condition(image, where, empty, scale, painter.embed([NORMAL_PROMPT]))
        *_, last = sample(painter, painter.noise([seed]), told, painter.schedule, self.calibration.steps)
        return decode(painter.codec, last.x_next)

    @torch.no_grad()
    def found(self, case: str, frame: Pixels, lesion: Mask, window: Window) -> float:
        """Return the share of a lesion's area that the validator finds; one that has not seen the case, where known."""
        painter, fold = self.painter, self.calibration.folds.get(case)
        networks = self.validators if fold is None else [self.validators[fold]]
        latents = encode(painter.codec, window_image(frame, window, painter.window))
        maps = torch.stack([segment(network, latents, torch.zeros(1, dtype=torch.long)) for network in networks])
        inside = window_mask(lesion, window, painter.latent_side * UPSCALE)
        found = maps.mean(0).amax(1, keepdim=True)
        return round(float((found * inside).sum() / inside.sum().clamp_min(1e-6)), 4)


def regions_of(mask: Mask, field: Mask) -> list[tuple[Mask, Mask]]:
    """Return lesions and the regions to repaint, largest first; lesions whose margins touch share a region.

    Args:
        mask: Lesions of a frame, (H, W).
        field: Where the frame shows tissue; the margin stays inside it.
    """
    labels, count = ndimage.label(mask, structure=EIGHT)
    whole = mask.copy()
    for index in range(1, count + 1):
        lesion = labels == index
        whole |= (ndimage.distance_transform_edt(~lesion) <= max(3.0, MARGIN * longer_side(lesion))) & field
    joined, count = ndimage.label(whole, structure=EIGHT)
    found = [(mask & (joined == index), joined == index) for index in range(1, count + 1)]
    return sorted(found, key=lambda pair: -int(pair[1].sum()))


def remove(model: Path, data: Path, out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Paint away the lesions of every annotated training case of a data set.

    The result is for other code (negative cases, lesion-free frames): `fit` and `study` want a lesion in every mask.

    The same call again resumes; its files are those of an unbroken run.

    Args:
        model: A finished model folder.
        data: A data set folder.
        out: The folder to make: images, empty masks, `cases.csv`, `manifest.jsonl`, `before_after.png`, `summary.json`.
        seed: Seeds the painting.

    Returns:
        The content of `summary.json`: cases, regions, and the median share of the lesions' area that the validator
        finds before and after.

    Raises:
        DataError: No training case is annotated, or a case breaks a rule.
        ModelError: The model is unfinished or altered.
        ConfigError: `out` holds a set with other settings, or other files.
    """
    digest = verify(model)
    cases = [case for case in read_dataset(data).split("train") if case.read_mask().any()]
    if not cases:
        raise DataError(f"removal needs annotated training cases: {data} has none; annotate some")
    check_dataset(cases, "checking images")
    digests = {case.id: digest_of_case(case) for case in cases}
    claim(out, {"remove": {"margin": MARGIN, "context": CONTEXT}, "seed": seed, "model": digest, "data": digests})
    remover = Remover.load(model, seed)
    with progress_bar() as bar:
        task = bar.add_task("removing", total=len(cases))
        for case in cases:
            if not _is_made(out, case):
                _write_case(out, case, *remover.remove(case), digest=digest)
            bar.update(task, advance=1)

    rows = [read_json(_row_path(out, case)) for case in cases]
    write_jsonl(out / "manifest.jsonl", rows)
    write_cases(out, [_made(out, case) for case in cases])
    write_sheet(cases[:SHEET_CASES], out)
    regions = [region for row in rows for region in row["regions"]]
    summary: dict[str, Any] = {"cases": len(rows), "regions": len(regions)}
    for name in ("found_before", "found_after"):
        summary[name] = round(float(np.median([region[name] for region in regions])), 4)
    write_json(out / "summary.json", summary)
    return summary


def _row_path(out: Path, case: Case) -> Path:
    return out / "rows" / f"{case.id}.json"


def _is_made(out: Path, case: Case) -> bool:
    made = _made(out, case)
    return all(path.is_file() for path in (_row_path(out, case), made.image, made.mask) if path)


def _made(out: Path, case: Case) -> Case:
    name = f"{case.id}-removed"
    image, mask = (out / kind / f"{name}.png" for kind in ("images", "masks"))
    return Case(name, image, mask, case.group, case.split, NORMAL_PROMPT, classes=case.classes)


def _write_case(out: Path, case: Case, frame: Pixels, regions: list[dict[str, Any]], *, digest: str) -> None:
    """Write image, empty mask, and last of all the row."""
    made = _made(out, case)
    for folder in ("images", "masks", "rows"):
        make_folder(out / folder)
    mask = out / "masks" / f"{made.id}.png"
    write_png(made.image, frame)
    write_png(mask, np.zeros(frame.shape[:2], dtype=np.uint8))
    digests = {"image_digest": digest_of_file(made.image), "mask_digest": digest_of_file(mask)}
    row = {"id": made.id, "source": case.id, "model": digest, "regions": regions}
    write_json(_row_path(out, case), {**row, **digests})


def write_sheet(cases: Sequence[Case], out: Path) -> None:
    """Write `before_after.png`: each case with its lesion outlined, as it was, and without its lesion, in a row."""
    size = (SHEET_SIDE, SHEET_SIDE)
    page = Image.new("RGB", (6 * SHEET_SIDE, -(-len(cases) // 2) * SHEET_SIDE))
    for number, case in enumerate(cases):
        before = case.read_image()
        after = np.asarray(Image.open(_made(out, case).image))
        for column, pixels in enumerate((outlined(before, case.read_mask()), before, after)):
            picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            page.paste(picture, ((3 * (number % 2) + column) * SHEET_SIDE, number // 2 * SHEET_SIDE))
    with atomic_path(out / "before_after.png") as partial:
        page.save(partial, format="PNG")
