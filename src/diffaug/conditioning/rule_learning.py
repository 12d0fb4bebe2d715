"""Learn the rules of a data set's frames from its annotated lesions, which lie on tissue by definition.

A rule says of pixels that they are no tissue. It is in force at its strictest level that loses at most 2 % of the
annotated lesions' pixels, and hides no frame; without such a level it is not in force. A frame is hidden where less
than 5 % of it is left, or of its lesion-free part where that is half of it or more. A weaker level never loses more,
and the order of cases does not matter.

Two limits of `place_free` are about shapes, not pixels: how even the light is under a shape, and how much of it may lie
on highlights. They are set so that lesions find room: at least a quarter of the lesion-free places of a median frame
keep them.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffaug.compute.progress import tracked
from diffaug.conditioning.attributes import equivalent_diameter, lab_from_rgb
from diffaug.conditioning.masks import draft_size, drafted
from diffaug.conditioning.placement import (
    CELLS,
    DEEP,
    LEAST_CLEAR,
    density,
    field_of_view,
    highlights,
    mean_lightness,
    overlays,
    placement_map_of,
)
from diffaug.conditioning.rules import (
    GLARE,
    LEVELS,
    MOST_DARK,
    MOST_GLARE,
    MOST_LOST,
    MOST_UNEVEN,
    NAMES,
    NO_RULES,
    SHINY,
    UNEVEN,
    FrameRules,
    LearnedRules,
    Loss,
)
from diffaug.conditioning.writing import SAMPLE, printed_at, stroke_shares, writing
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels

MOST_CASES = 240  # cases that are looked at; of more, every nth
KEPT_PLACES = 0.25  # share of a frame's lesion-free places that the limits of shapes keep, at the median frame
STEPS = 100  # of a density from 0 to 1, and of L* from 0 to 100
HALF = 0.5  # share of a frame; a lesion-free part that is smaller says nothing of what is hidden

Shares = Mapping[tuple[int, int], NDArray[np.float32] | None]  # of strokes, by the size of a frame
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Seen:
    """What one frame says of rules whose level is any number.

    Attributes:
        lesion: The number of the lesions' pixels.
        glare: Of them, by the share of highlights around them; STEPS + 1 bins.
        light: The same by L*.
        least_glare: The share of highlights around the least shiny pixels of the frame, which must be left.
        most_light: L* of its lightest ones.
        uneven: Spread of light, L*, that KEPT_PLACES of its lesion-free places stay under; None without a place.
        shiny: Share of highlights, likewise.
    """

    lesion: int
    glare: NDArray[np.int64]
    light: NDArray[np.int64]
    least_glare: float
    most_light: float
    uneven: float | None
    shiny: float | None


def learn_rules(cases: Iterable[Case], progress: str = "") -> LearnedRules:
    """Learn which rules hold for the frames of a data set.

    Args:
        cases: Its annotated training cases; those without a lesion say nothing.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Returns:
        The rules; those of endoscopy where no case has a lesion.
    """
    ordered = sorted((case for case in cases if case.mask and not case.negative), key=lambda case: case.id)
    ordered = ordered[:: -(-len(ordered) // MOST_CASES)] if ordered else []
    if not ordered:
        return LearnedRules()
    shares = _shares(ordered)
    losses: dict[str, Loss] = {}
    rules = NO_RULES
    for number in range(max(map(len, LEVELS.values()))):  # a rule that loses too much is tried at its next level
        open_rules = {
            rule: levels[number]
            for rule, levels in LEVELS.items()
            if getattr(rules, rule) is None and number < len(levels)
        }
        for rule, loss in _losses(ordered, open_rules, shares, progress if number == 0 else "").items():
            losses.setdefault(rule, loss)
            if holds(loss):
                rules = rules.at(rule, open_rules[rule])
    rules, more = _with_limits(rules, _mapped(_seen, ordered, progress))
    return _without_hidden(rules, losses | more, ordered, shares)


def holds(loss: Loss) -> bool:
    """Tell whether a rule that loses so much is in force."""
    return loss.pixels <= MOST_LOST and loss.frames == 0


def _mapped(each: Callable[[Case], Result], cases: Sequence[Case], progress: str = "") -> list[Result]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(tracked(pool.map(each, cases), len(cases), progress))


def _read(case: Case) -> tuple[Pixels, Mask]:
    """Return a frame and its lesions as requests are drawn on them: scaled down, where it is large."""
    image, lesion = case.read_image(), case.read_mask()
    frame = int(lesion.shape[0]), int(lesion.shape[1])
    size = draft_size(frame)
    if size == frame or not lesion.any():
        return image, lesion
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX)), drafted(lesion, size)


def _shares(cases: Sequence[Case]) -> Shares:
    """Return where frames of each size carry text, from up to SAMPLE of them."""
    names = defaultdict[tuple[int, int], list[Case]](list)
    for case in cases:
        height, width = _read(case)[1].shape
        names[height, width].append(case)
    return {
        size: stroke_shares(_read(case)[0] for case in same[:: -(-len(same) // SAMPLE)]) for size, same in names.items()
    }


def _losses(cases: Sequence[Case], levels: Mapping[str, float], shares: Shares, progress: str) -> dict[str, Loss]:
    """Return what rules at some levels lose of the cases."""
    if not levels:
        return {}
    found = _mapped(partial(_lost, levels=levels, shares=shares), cases, progress)
    total = sum(lesion for lesion, _ in found)
    return {
        rule: Loss(sum(lost[rule][0] for _, lost in found) / max(1, total), sum(lost[rule][1] for _, lost in found))
        for rule in levels
    }


def _lost(case: Case, levels: Mapping[str, float], shares: Shares) -> tuple[int, dict[str, tuple[int, bool]]]:
    """Return the pixels of a case's lesions, and by rule how many of them it loses and whether it hides the frame."""
    image, lesion = _read(case)
    lost = {}
    for rule, level in levels.items():
        tissue = _tissue(image, rule, level, shares)
        lost[rule] = int(np.count_nonzero(lesion & ~tissue)), _is_hidden(tissue, lesion)
    return int(np.count_nonzero(lesion)), lost


def _tissue(image: Pixels, rule: str, level: float, shares: Shares) -> Mask:
    """Return what one rule alone leaves of a frame."""
    alone = NO_RULES.at(rule, level)
    if rule == "border":
        return field_of_view(image, alone)
    if rule == "text":
        return ~writing(image, lab_from_rgb(image), _printed(shares, image, level))
    return ~overlays(image, alone)


def _printed(shares: Shares, image: Pixels, least: float | None) -> Mask | None:
    """Return where frames of an image's size carry text."""
    return None if least is None else printed_at(shares[image.shape[0], image.shape[1]], least)


def _is_hidden(tissue: Mask, lesion: Mask) -> bool:
    part = tissue[~lesion] if lesion.mean() < HALF else tissue
    return bool(min(part.mean(), tissue.mean()) < LEAST_CLEAR)


def _seen(case: Case) -> _Seen:
    image, lesion = _read(case)
    lab, cell = lab_from_rgb(image), -(-max(lesion.shape) // CELLS)
    glare = highlights(lab)
    around, light = density(glare), mean_lightness(lab, cell)
    by_pixel = np.repeat(np.repeat(light, cell, axis=0), cell, axis=1)[: lesion.shape[0], : lesion.shape[1]]
    free = ~lesion if lesion.mean() < HALF else np.ones_like(lesion)
    uneven, shiny = _limits(light, glare, lesion, cell)
    return _Seen(
        lesion=int(np.count_nonzero(lesion)),
        glare=np.bincount(np.ceil(around[lesion] * STEPS - 1e-3).astype(np.int64).clip(0, STEPS), minlength=STEPS + 1),
        light=np.bincount(by_pixel[lesion].astype(np.int64).clip(0, STEPS), minlength=STEPS + 1),
        least_glare=float(np.quantile(around[free], LEAST_CLEAR)),
        most_light=float(np.quantile(by_pixel[free], 1 - LEAST_CLEAR)),
        uneven=uneven,
        shiny=shiny,
    )


def _limits(light: NDArray[np.float32], glare: Mask, lesion: Mask, cell: int) -> tuple[float | None, float | None]:
    """Return the spread of light and the share of highlights under which KEPT_PLACES of the lesion-free places lie.

    A place is a square as large as the lesions of the frame, in cells.
    """
    rows, columns = light.shape
    pad = ((0, rows * cell - glare.shape[0]), (0, columns * cell - glare.shape[1]))

    def by_cell(mask: Mask) -> NDArray[np.float32]:
        return np.asarray(np.pad(mask, pad).reshape(rows, cell, columns, cell).mean(axis=(1, 3)), dtype=np.float32)

    side = max(1, min(round(equivalent_diameter(float(np.count_nonzero(lesion))) / cell), rows, columns))
    mean = partial(ndimage.uniform_filter, size=side, mode="nearest")
    place = mean(by_cell(lesion)) < 1e-6
    half = side // 2
    inside = np.zeros_like(place)
    inside[half : rows - half, half : columns - half] = True
    place &= inside
    if not place.any():
        return None, None
    spread = np.sqrt(np.maximum(0.0, mean(light.astype(np.float64) ** 2) - mean(light.astype(np.float64)) ** 2))
    return float(np.quantile(spread[place], KEPT_PLACES)), float(np.quantile(mean(by_cell(glare))[place], KEPT_PLACES))


def _with_limits(rules: FrameRules, seen: Sequence[_Seen]) -> tuple[FrameRules, dict[str, Loss]]:
    """Set the rules whose level is any number, and return what they would lose at their endoscopic levels."""
    total = max(1, sum(one.lesion for one in seen))
    by_glare, by_light = (np.sum([getattr(one, name) for one in seen], axis=0) for name in ("glare", "light"))
    denser = np.cumsum(by_glare[::-1])[::-1] / total  # share of pixels at this bin or above
    darker = (np.cumsum(by_light) - by_light) / total  # share of pixels below this bin

    def glare(level: float) -> Loss:
        bin_above = round(level * STEPS) + 1
        lost = float(denser[bin_above]) if bin_above <= STEPS else 0.0
        return Loss(lost, sum(one.least_glare > level for one in seen))

    def dark(level: float) -> Loss:
        least = round(DEEP - level)
        return Loss(float(darker[max(0, least)]), sum(one.most_light < least for one in seen))

    shares = [step / STEPS for step in range(round(GLARE * STEPS), round(MOST_GLARE * STEPS) + 1)]
    depths = [float(step) for step in range(round(MOST_DARK) + 1)]
    uneven = max(UNEVEN, _median([one.uneven for one in seen]))
    return replace(
        rules,
        glare=next((share for share in shares if holds(glare(share))), None),
        dark=next((depth for depth in depths if holds(dark(depth))), None),
        uneven=round(uneven, 1) if uneven <= MOST_UNEVEN else None,
        shiny=round(max(SHINY, _median([one.shiny for one in seen])), 3),
    ), {"glare": glare(GLARE), "dark": dark(0.0)}


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else 0.0


def _without_hidden(
    rules: FrameRules, losses: Mapping[str, Loss], cases: Sequence[Case], shares: Shares
) -> LearnedRules:
    """Leave rules out, those that lose most first, until together they hide no frame."""
    while True:
        painted_on = sum(_mapped(partial(_is_painted_on, rules=rules, shares=shares), cases))
        kept = [rule for rule in rules.in_force if rule in losses]
        if painted_on == len(cases) or not kept:
            return LearnedRules(rules, len(cases), painted_on, dict(losses))
        worst = max(kept, key=lambda rule: (losses[rule].pixels, list(NAMES).index(rule)))
        rules = rules.at(worst, None)


def _is_painted_on(case: Case, rules: FrameRules, shares: Shares) -> bool:
    image, lesion = _read(case)
    return placement_map_of(image, lesion, _printed(shares, image, rules.text), rules).is_paintable
