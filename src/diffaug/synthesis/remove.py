"""`diffaug remove`: paint lesions away, so that an annotated image becomes a lesion-free one.

A case's result is a pure function of (model digest, case, seed); it is complete when its row, written last, exists.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffaug.artifacts import (
    PathLike,
    atomic_path,
    digest_of_file,
    digest_of_value,
    make_folder,
    versions,
    write_json,
    write_jsonl,
)
from diffaug.compute.devices import one_thread, processor_of
from diffaug.compute.progress import tracked
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.patches import MARGIN, is_covered
from diffaug.conditioning.placement import field_of_view, lost_from_view
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules, read_rules
from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import check_dataset, read_dataset, write_cases
from diffaug.data.images import png_info, read_image, write_png
from diffaug.data.manifest import MANIFEST, SUMMARY
from diffaug.data.origin import MARK, Origin
from diffaug.data.pictures import outlined
from diffaug.data.request import RemovedCase
from diffaug.errors import DataError
from diffaug.models.checkpoints import verify
from diffaug.painting.clearing import CONTEXT, MIRRORED_STRENGTH, STRENGTH, Remover
from diffaug.painting.painter import Painter
from diffaug.reading import read_kept, read_typed
from diffaug.runfolder import Contents, claimed

SHEET_CASES, SHEET_SIDE = 12, 240  # of the sheet; px


@dataclass(frozen=True)
class RemoveSummary:
    """What `remove` made.

    Attributes:
        cases: How many cases were cleared.
        regions: How many regions were painted in them.
        found_before: Median share of a lesion's area that the validator found before.
        found_after: The same after.
        left_out: Cases with a lesion where no tissue is seen, such as in a box or in the frame's black border, and
            cases with a lesion so large that no tissue of the frame covers it.
    """

    cases: int
    regions: int
    found_before: float
    found_after: float
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, as `summary.json` holds them."""
        return {**asdict(self), "left_out": list(self.left_out)}


def remove(model: PathLike, data: PathLike, out: PathLike, *, seed: int = 0, device: str = "cpu") -> RemoveSummary:
    """Paint away the lesions of every annotated training case of a data set.

    The result is for other code (negative cases, lesion-free frames): `fit` and `study` want a lesion in every mask.

    The same call again resumes; its files are those of an unbroken run.

    Args:
        model: A finished model folder.
        data: A data set folder.
        out: The folder to make: images, empty masks, `cases.csv`, `manifest.jsonl`, `before_after.png`, `summary.json`.
        seed: Seeds the painting.
        device: Where to compute: cpu, cuda, cuda:N, mps or auto.

    Returns:
        What was made; `summary.json` holds it, too.

    Raises:
        DataError: No training case is annotated, none shows its lesions, or a case breaks a rule.
        ModelError: The model is unfinished or altered.
        ConfigError: `out` holds a set with other settings, or other files, or another process works in it.

    Example:
        >>> diffaug.remove("models/mine", "data/mine", "removed/mine")  # doctest: +SKIP
    """
    model, data, out = Path(model), Path(data), Path(out)
    removals = removals_of(model, data, seed, device)
    with claimed(out, Contents("folder of cleared cases", removals.origin.settings, "config.json")), one_thread():
        return _written(removals, out)


@dataclass(frozen=True)
class Removals:
    """What is removed, and by what.

    Attributes:
        remover: The loaded model.
        cases: What is cleared.
        hidden: The ids of cases that cannot be cleared.
        origin: What the pictures have in common of what they say of themselves.
    """

    remover: Remover
    cases: tuple[Case, ...]
    hidden: tuple[str, ...]
    origin: Origin


def removals_of(model: Path, data: Path, seed: int, device: str) -> Removals:
    """Load a model, and find the cases whose lesions it removes.

    Raises:
        DataError: There is none, or a case breaks a rule.
        ModelError: The model is unfinished or altered.
    """
    digest, rules = verify(model), read_rules(model).rules
    cases, hidden = removable_cases(data, rules)
    painter = Painter.load(model, device, sealed=False)
    remover = Remover(painter.model, painter.calibration, painter.validators, seed, rules=rules)
    place = painter.model.device
    identity = {
        "margin": MARGIN, "context": CONTEXT, "strength": [STRENGTH, MIRRORED_STRENGTH], "seed": seed,
        "model": digest, "data": digest_of_value({case.id: digest_of_case(case) for case in cases}),
        "device": str(place),
    }  # fmt: skip
    origin = Origin(identity, painter.calibration.validator, versions(), processor_of(place), kind="removed")
    return Removals(remover, tuple(cases), hidden, origin)


def removable_cases(data: Path, rules: FrameRules = ENDOSCOPIC) -> tuple[list[Case], tuple[str, ...]]:
    """Return the annotated training cases whose lesions can be removed, and the ids of the others.

    Args:
        data: A data set folder.
        rules: What in its frames is no tissue.

    Raises:
        DataError: There is none, or a case breaks a rule.
    """
    cases = [case for case in read_dataset(data).split("train") if case.read_mask().any()]
    if not cases:
        raise DataError(f"removal needs annotated training cases: {data} has none; annotate some")
    check_dataset(cases, "checking images")
    hidden = tuple(case.id for case in cases if not _can_be_cleared(case, rules))
    seen = [case for case in cases if case.id not in hidden]
    if not seen:
        raise DataError(
            f"removal needs lesions on tissue that the rest of their frame can cover: none of {len(cases)} cases of "
            f"{data} has only such; add cases with smaller lesions"
        )
    return seen, hidden


def _can_be_cleared(case: Case, rules: FrameRules) -> bool:
    """Tell whether all lesions of a case are seen, and tissue of its frame covers them."""
    frame, mask = case.read_image(), case.read_mask()
    field = field_of_view(frame, rules)
    return not lost_from_view(mask, field).any() and is_covered(frame, mask, field, rules)


def _written(removals: Removals, out: Path) -> RemoveSummary:
    """Paint what is not painted yet, write the tables and the sheet, and return the summary."""
    cases, rules = removals.cases, removals.remover.rules
    for case in tracked(cases, len(cases), "removing"):
        if not _is_made(out, case):
            write_removal(removals, case, out)

    rows = [read_typed(_row_path(out, case), RemovedCase) for case in cases]
    write_jsonl(out / MANIFEST, (asdict(row) for row in rows))
    write_cases(out, [_made(out, case, rules) for case in cases])
    write_sheet(cases[:SHEET_CASES], out)
    regions = [region for row in rows for region in row.regions]
    before, after = ([getattr(region, name) for region in regions] for name in ("found_before", "found_after"))
    medians = [round(float(np.median(values)), 4) for values in (before, after)]
    summary = RemoveSummary(len(rows), len(regions), medians[0], medians[1], removals.hidden)
    write_json(out / SUMMARY, summary.as_dict())
    return summary


def _row_path(out: Path, case: Case) -> Path:
    return out / "rows" / f"{case.id}.json"


def _is_made(out: Path, case: Case) -> bool:
    """Tell whether a case's row is there, and its files are those that were written with it."""
    made, row = _made(out, case), read_kept(_row_path(out, case), RemovedCase)
    if row is None or not made.mask:
        return False
    files = {made.image: row.image_digest, made.mask: row.mask_digest}
    return all(path.is_file() and digest_of_file(path) == digest for path, digest in files.items())


def _made(out: Path, case: Case, rules: FrameRules = ENDOSCOPIC) -> Case:
    name, prompt = f"{case.id}-removed", domain_of(case.class_names, rules).normal_prompt
    image, mask = (out / kind / f"{name}.png" for kind in ("images", "masks"))
    return Case(name, image, mask, case.group, case.split, prompt, classes=case.classes)


def write_removal(removals: Removals, case: Case, out: Path) -> Path:
    """Remove the lesions of a case, write image, empty mask, and last of all the row, and return the image's file."""
    origin, (frame, regions) = removals.origin, removals.remover.remove(case)
    made = _made(out, case)
    for folder in ("images", "masks", "rows"):
        make_folder(out / folder)
    mask = out / "masks" / f"{made.id}.png"
    write_png(made.image, frame, texts=replace(origin, id=made.id, source=case.id).texts())
    write_png(mask, np.zeros(frame.shape[:2], dtype=np.uint8))
    row = RemovedCase(made.id, case.id, origin.model, regions, digest_of_file(made.image), digest_of_file(mask))
    write_json(_row_path(out, case), asdict(row))
    return made.image


def write_sheet(cases: Sequence[Case], out: Path) -> None:
    """Write `before_after.png`: each case with its lesion outlined, as it was, and without its lesion, in a row."""
    size = (SHEET_SIDE, SHEET_SIDE)
    page = Image.new("RGB", (6 * SHEET_SIDE, -(-len(cases) // 2) * SHEET_SIDE))
    for number, case in enumerate(cases):
        before = case.read_image()
        after = read_image(_made(out, case).image)
        for column, pixels in enumerate((outlined(before, case.read_mask()), before, after)):
            picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            page.paste(picture, ((3 * (number % 2) + column) * SHEET_SIDE, number // 2 * SHEET_SIDE))
    with atomic_path(out / "before_after.png") as partial:
        page.save(partial, format="PNG", pnginfo=png_info(MARK))
