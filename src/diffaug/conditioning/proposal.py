"""Propose the domain of a data set from what its images show; the domain sets words, never what may be painted on.

Colour or grey, how dark the ground is, how many lesions a frame has, and how grainy tissue is. A proposal may be wrong:
it is told with its reason, and `fit --domain` overrules it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.findings import DOMAINS, GENERIC, canonical
from diffaug.conditioning.rule_learning import learn_rules
from diffaug.conditioning.rules import LearnedRules
from diffaug.data.case import Case
from diffaug.data.fundus import disc_and_cup
from diffaug.data.lesions import count_lesions
from diffaug.errors import ConfigError, nearest

AUTO = "auto"  # the domain that is proposed
SAMPLE = 40  # cases that are looked at
SIDE = 160  # px in which they are
COLOURED = 3.0  # of 255; the mean spread of a pixel's channels from which on an image is not grey
LIT = 10.0  # L*; darker pixels say nothing of tissue
DARK_GROUND, WHITE_GROUND = 8.0, 85.0  # median L* of a frame
MANY = 8.0  # lesions a frame, as cells have them
GRAINY = 0.04  # median of the fine structure over the light; speckle has more
SKIN, RED = 55.0, 8.0  # L* and a* of lit tissue


@dataclass(frozen=True)
class Look:
    """The medians of what some images show; see the constants."""

    spread: float
    ground: float
    light: float
    redness: float
    grain: float
    lesions: float


def look_at(cases: Sequence[Case]) -> Look:
    """Measure what some annotated cases look like."""
    ordered = sorted(cases, key=lambda case: case.id)
    rows = [_measured(case) for case in ordered[:: -(-len(ordered) // SAMPLE)]]
    return Look(*(float(value) for value in np.median(rows, axis=0)))


def _measured(case: Case) -> list[float]:
    picture = Image.fromarray(case.read_image())
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    image = np.asarray(picture)
    lab, grey = lab_from_rgb(image), image.mean(axis=2)
    lit = lab[..., 0] > LIT
    lit = lit if lit.any() else np.ones_like(lit)
    fine = np.abs(grey - ndimage.gaussian_filter(grey, 1.5)) / (grey + 5)
    lesions = count_lesions(case.read_mask()) if case.mask else 0
    spread = np.ptp(image.astype(np.int16), axis=2).mean()
    light, redness = np.median(lab[lit], axis=0)[:2]
    return [spread, np.median(lab[..., 0]), light, redness, np.median(fine[lit]), lesions]


def proposed(look: Look, names: Sequence[str]) -> tuple[str, str]:
    """Return a domain and the reason for it, from a look and the names of the classes."""
    grey, dark = look.spread < COLOURED, look.ground < DARK_GROUND
    kind, tissue = "grey" if grey else "colour", f"lightness L* {look.light:.0f}, redness a* {look.redness:.0f}"
    ground = f"{kind} images on {'dark' if dark else 'white'} ground, median lightness L* {look.ground:.0f}"
    choices = [  # the first that holds
        (disc_and_cup(names) is not None, "fundus", "the classes are disc and cup"),
        (dark or look.ground > WHITE_GROUND, "microscopy", ground),
        (look.lesions >= MANY, "microscopy", f"{look.lesions:.0f} annotated objects in an image"),
        (grey and look.grain >= GRAINY, "ultrasound", f"grey images with speckle, graininess {look.grain:.2f}"),
        (grey, "x-ray", f"grey images with little grain, graininess {look.grain:.2f}"),
        (look.light >= SKIN and look.redness < 2 * RED, "dermoscopy", f"light tissue with little red, {tissue}"),
        (look.redness >= RED, "endoscopy", f"red tissue, {tissue}"),
    ]
    nothing = (GENERIC, f"colour images like none of {', '.join(name for name in DOMAINS if name != GENERIC)}")
    return next(((name, reason) for holds, name, reason in choices if holds), nothing)


def check_domain(domain: str) -> str:
    """Return the name of a domain, `auto` included.

    Raises:
        ConfigError: There is no such domain.
    """
    name = canonical(domain)
    if name != AUTO and name not in DOMAINS:
        raise ConfigError(f"a domain must be {AUTO} or a known one: {domain!r} is not; {nearest(domain, DOMAINS)}")
    return name


def learn_frames(cases: Sequence[Case], domain: str = AUTO, progress: str = "") -> LearnedRules:
    """Learn the rules of a data set's frames, and which words suit them.

    Args:
        cases: Its annotated training cases.
        domain: Its domain; `auto` proposes one.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Raises:
        ConfigError: The domain is unknown.
    """
    chosen, annotated = check_domain(domain), [case for case in cases if case.mask]
    learned = learn_rules(annotated, progress)
    if not annotated:
        return learned
    look = look_at(annotated)
    name, reason = proposed(look, [each.name for each in annotated[0].classes])
    if chosen != AUTO:
        name, reason = chosen, "as chosen"
    rules = replace(learned.rules, domain=name, grey=look.spread < COLOURED)
    if rules.is_upright:  # layers are uneven: the evenest places lie deep, where few lesions do
        rules = rules.at("uneven", None)
    return replace(learned, rules=rules, reason=reason)
