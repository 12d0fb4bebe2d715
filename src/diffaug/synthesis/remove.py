"""`diffaug remove`: paint lesions away, so that an annotated image becomes a lesion-free one.

A case's result is a pure function of (model digest, case, seed); it is complete when its row, written last, exists.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffaug.artifacts import (
    atomic_path,
    digest_of_file,
    held,
    make_folder,
    read_json,
    write_json,
    write_jsonl,
)
from diffaug.compute.devices import device_of
from diffaug.compute.progress import tracked
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.placement import field_of_view, lost_from_view
from diffaug.data.case import Case, Pixels, digest_of_case, write_png
from diffaug.data.folder import check_dataset, read_dataset, write_cases
from diffaug.data.inspect import outlined
from diffaug.errors import DataError
from diffaug.models.checkpoints import verify
from diffaug.models.loading import load_model
from diffaug.painting.clearing import CONTEXT, MARGIN, STRENGTH, Remover
from diffaug.synthesis.shards import claim, load_validators
from diffaug.validator.calibration import Calibration

SHEET_CASES, SHEET_SIDE = 12, 240  # of the sheet; px


def remove(model: Path, data: Path, out: Path, *, seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Paint away the lesions of every annotated training case of a data set.

    The result is for other code (negative cases, lesion-free frames): `fit` and `study` want a lesion in every mask.

    The same call again resumes; its files are those of an unbroken run.

    Args:
        model: A finished model folder.
        data: A data set folder.
        out: The folder to make: images, empty masks, `cases.csv`, `manifest.jsonl`, `before_after.png`, `summary.json`.
        seed: Seeds the painting.
        device: Where to compute: cpu, cuda, cuda:N or auto.

    Returns:
        The content of `summary.json`: cases, regions, the median share of the lesions' area that the validator finds
        before and after, and, where there are any, the cases left out since a lesion of theirs lies where no tissue is
        seen, such as in a box or in the frame's black border.

    Raises:
        DataError: No training case is annotated, none shows its lesions, or a case breaks a rule.
        ModelError: The model is unfinished or altered.
        ConfigError: `out` holds a set with other settings, or other files, or another process works in it.
    """
    place, digest = str(device_of(device)), verify(model)
    cases = [case for case in read_dataset(data).split("train") if case.read_mask().any()]
    if not cases:
        raise DataError(f"removal needs annotated training cases: {data} has none; annotate some")
    check_dataset(cases, "checking images")
    hidden = [c.id for c in cases if lost_from_view(c.read_mask(), field_of_view(c.read_image())).any()]
    cases = [case for case in cases if case.id not in hidden]
    if not cases:
        raise DataError(f"removal needs lesions on tissue: in {data} all lie where none is seen; check its masks")
    digests = {case.id: digest_of_case(case) for case in cases}
    settings: dict[str, Any] = {"margin": MARGIN, "context": CONTEXT, "strength": STRENGTH}
    settings |= {"device": place} if place != "cpu" else {}
    claim(out, {"remove": settings, "seed": seed, "model": digest, "data": digests})
    calibration = Calibration.load(model / "calibration.json")
    painter = load_model(model, place)
    remover = Remover(painter, calibration, load_validators(model, calibration, painter), seed)
    with held(out):
        return _written(cases, remover, out, digest, hidden)


def _written(cases: Sequence[Case], remover: Remover, out: Path, digest: str, hidden: Sequence[str]) -> dict[str, Any]:
    """Paint what is not painted yet, write the tables and the sheet, and return the summary."""
    for case in tracked(cases, len(cases), "removing"):
        if not _is_made(out, case):
            _write_case(out, case, *remover.remove(case), digest=digest)

    rows = [read_json(_row_path(out, case)) for case in cases]
    write_jsonl(out / "manifest.jsonl", rows)
    write_cases(out, [_made(out, case) for case in cases])
    write_sheet(cases[:SHEET_CASES], out)
    regions = [region for row in rows for region in row["regions"]]
    summary: dict[str, Any] = {"cases": len(rows), "regions": len(regions)}
    summary |= {"left_out": hidden} if hidden else {}
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
    return Case(
        name, image, mask, case.group, case.split, domain_of(case.class_names).normal_prompt, classes=case.classes
    )


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
