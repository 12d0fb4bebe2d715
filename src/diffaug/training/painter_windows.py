"""Which cases and windows a painter learns from, and which choose its checkpoint."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from diffaug.conditioning.grammar import words_in
from diffaug.data.split import folds_by_group
from diffaug.models.base import LatentInpainter
from diffaug.painting.window import CONTEXT
from diffaug.training.windows import (
    Annotated,
    Rng,
    Sketch,
    Windows,
    drawn,
    encode_windows,
    lesion_window,
    normal_window,
)

NORMAL_SHARE = 0.35  # share of lesion-free windows in a batch
MONITOR_SHARE = 0.1  # of the cases with lesions choose the checkpoint, and train nothing
MOST_MONITORED = 0.5  # of the cases with lesions; groups so large that more would be taken choose nothing
FEWEST_MONITORED = 2  # cases that choose the checkpoint; where there would be fewer, the last weights are kept
MONITOR_WINDOWS = 6  # of each of them


def divided(
    cases: Sequence[Annotated], seed: int, share: float = MONITOR_SHARE
) -> tuple[list[Annotated], list[Annotated]]:
    """Divide cases into those that train the painter and those that choose its checkpoint; groups stay together.

    About `share` of the cases with lesions choose it. No case does where these would be fewer than two, or more than
    half of the cases with lesions because a group is large.
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


def painter_windows(
    model: LatentInpainter, cases: Sequence[Annotated], each: int, seed: int
) -> list[tuple[Windows, float]]:
    """Encode the windows a painter learns from, each kind with its share of a batch.

    Lesions are to be painted where the mask says, lesion-free tissue where it is empty. Every case gives as many,
    so large lesions do not drown small ones: `each` windows of each kind.
    """

    def normal(number: int, rng: Rng) -> Sketch | None:
        return normal_window(cases[number // each], model.window, model.latent_side, rng)

    lesions = lesion_windows(model, cases, each, seed, kind=1)
    sketches = drawn(normal, len(cases) * each, seed, 2, description="windows")
    first = next(sketches, None)
    if first is None:  # no frame has room for a lesion-free window
        return [(lesions, 1.0)]
    normals = encode_windows(model, chain([first], sketches))
    return [(lesions, 1 - NORMAL_SHARE), (normals, NORMAL_SHARE)]


def lesion_windows(model: LatentInpainter, cases: Sequence[Annotated], each: int, seed: int, kind: int = 3) -> Windows:
    """Encode `each` lesion windows of every case; `kind` tells the streams of one seed apart."""

    def lesion(number: int, rng: Rng) -> Sketch | None:
        case = cases[number // each]
        return lesion_window(case, model.window, model.latent_side, CONTEXT, rng) if case.lesions else None

    return encode_windows(model, drawn(lesion, len(cases) * each, seed, kind, description="windows"))


def words_read(model: LatentInpainter, sources: Sequence[Windows]) -> set[str]:
    """Return the words of the prompts of some windows, as far as the text encoder reads them."""
    rows = {tuple(row) for windows in sources for row in windows.tokens.tolist()}
    texts = (model.tokenizer.decode(row, skip_special_tokens=True) for row in rows)
    return set().union(*(words_in(text) for text in texts))
