"""The page of an audit; knows what was found and writes one HTML file that needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from diffaug.artifacts import versions, write_text
from diffaug.audit.lesions import Found
from diffaug.audit.results import Audit, Privacy
from diffaug.audit.scores import Score
from diffaug.report import pictures
from diffaug.report.rendering import render

PAIRS = 8  # of the lesions that are most alike
NO_VALUE = "–"


@dataclass(frozen=True)
class Pair:
    """A painted lesion beside the training lesion that it is most like.

    Attributes:
        name: Id of the request.
        of: Id of the training case.
        painted: Close-up, as a data URI.
        real: The same of the training lesion.
        correlation: Of their structures.
        copy: Whether it counts as a copy.
        example: Whether it was painted from this case.
    """

    name: str
    of: str
    painted: str
    real: str
    correlation: float
    copy: bool
    example: bool


@dataclass(frozen=True)
class Line:
    """A score as text: value with interval, the real value, best and worst."""

    name: str
    meaning: str
    value: str
    real: str
    best: str
    worst: str


def write_page(path: Path, audit: Audit) -> None:
    """Write the page of an audit."""
    privacy = audit.privacy
    page = {
        "audit": audit,
        "kind": _kind(audit),
        "title": _title(audit),
        "lead": lead(audit),
        "quality": [line_of(each) for each in audit.quality],
        "privacy": privacy,
        "copies": [line_of(each) for each in privacy.scores] if privacy else [],
        "pairs": _pairs(privacy) if privacy else [],
        "versions": versions(),
    }
    write_text(path, render("audit.html.j2", page))


def _kind(audit: Audit) -> Literal["gain", "loss", "none"]:
    if not audit.diagnosis.passed or (audit.privacy and audit.privacy.copies):
        return "loss"
    return "gain" if audit.privacy else "none"


def _title(audit: Audit) -> str:
    if audit.diagnosis.damaged:
        return "The set is damaged"
    if not audit.diagnosis.passed:
        return "The set did not pass its checks"
    if audit.privacy is None:
        return "The set is whole; copies were not measured"
    if not audit.privacy.copies:
        return "The set is whole, and no painted lesion is a copy"
    return f"{100 * (audit.privacy.scores[0].value or 0):.0f} % of the painted lesions are copies of training lesions"


def lead(audit: Audit) -> list[str]:
    """Return what a reader must know first, a sentence or two each."""
    found = []
    wrong = [each for each in audit.diagnosis.outcomes if each.wrong]
    found += [f"{each.name.capitalize()}: {each.wrong} of {each.of} are not." for each in wrong]
    privacy = audit.privacy
    if privacy:
        share = privacy.scores[0]
        text = (
            f"Of {len(privacy.painted)} painted lesions {len(privacy.copies)} are copies: "
            f"{text_of(share, share.value)} ({text_of(share, share.low)} to {text_of(share, share.high)}). A copy is "
            "nearer to a training lesion than about 19 of 20 other real lesions are, by its features or its pixels."
        )
        if privacy.from_example is not None:
            text += (
                f" For {100 * privacy.from_example:.0f} % of them this is the lesion that they were painted from: "
                "painting starts from its pixels."
            )
        found.append(text)
        if privacy.backgrounds and privacy.backgrounds[0] > 0:
            found.append(
                f"{100 * privacy.backgrounds[0]:.0f} % of the pictures show an image of the data set around the "
                f"lesion, and {100 * privacy.backgrounds[1]:.0f} % of their pixels are exactly those of that image. "
                "Treat the set as you treat the images it was painted on."
            )
    return found + list(audit.notices)


def line_of(score: Score) -> Line:
    """Return a score as text."""
    value = text_of(score, score.value)
    if score.low is not None and score.value is not None:
        value += f" [{text_of(score, score.low)}, {text_of(score, score.high)}]"
    worst = text_of(score, score.worst) if score.worst is not None else "no limit"
    return Line(score.name, score.meaning, value, text_of(score, score.real), text_of(score, score.best), worst)


def text_of(score: Score, value: float | None) -> str:
    """Return a value of a score as text: a share in percent, others with three digits; a dash where there is none."""
    if value is None:
        return NO_VALUE
    return f"{100 * value:.1f} %" if score.unit == "share" else f"{value:.3g}"


def _pairs(privacy: Privacy) -> list[Pair]:
    """Return the painted lesions that are most like a training lesion, each training lesion at most twice."""
    likenesses = privacy.painted.likenesses
    order = np.argsort([-like.correlation for like in likenesses], kind="stable").tolist()
    shown, pairs = dict[int, int](), list[Pair]()
    for place in order:
        if len(pairs) == PAIRS:
            break
        like = likenesses[place]
        if shown.get(like.nearest, 0) < 2:
            shown[like.nearest] = shown.get(like.nearest, 0) + 1
            one, real = privacy.painted.pixels(place), privacy.known.lesions[like.nearest]
            name, copy = one.row.id if one.row else one.case, privacy.limits.is_copy(like)
            pairs.append(Pair(name, real.case, _close_up(one), _close_up(real), like.correlation, copy, one.example == real.case))  # fmt: skip  # noqa: E501
    return pairs


def _close_up(one: Found) -> str:
    return pictures.plain(pictures.close_up(one.image, one.mask))


def checks_text(audit: Audit) -> Sequence[str]:
    """Return one line for each check, for the command line."""
    words = {True: "passed", False: "found"}
    return [
        f"{each.name}: {'not checked' if each.skipped else words[each.passed]}"
        + (f" {each.wrong} of {each.of} wrong, such as {each.findings[0]}" if each.wrong else "")
        for each in audit.diagnosis.outcomes
    ]
