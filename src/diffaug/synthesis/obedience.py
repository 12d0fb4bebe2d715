"""How the findings of prompts acted in a synthetic set, and how far painted lesions show what they imply.

A finding acts by its name where the model has learnt it, else through the attributes that it implies: they choose the
mask, the words and the example, and the cup-to-disc ratio. A finding that implies none and has an unknown name has no
effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffaug.conditioning.attributes import measure_attributes
from diffaug.conditioning.cups import CUPS
from diffaug.conditioning.findings import Finding, Library
from diffaug.conditioning.prompts import words_of
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.images import Mask, read_image, read_mask
from diffaug.data.lesions import connected_parts
from diffaug.data.manifest import Row, kept, lesions
from diffaug.data.request import Request

NAMED = 5  # findings of a kind that a line names


@dataclass(frozen=True)
class Acted:
    """What became of one finding.

    Attributes:
        by_name: Prompts that said it by name.
        by_attributes: Prompts that did not know its name, in which it acted through what it implies.
        without_effect: Prompts in which it could not act.
        obeyed: Share of the attributes implied that kept cases with it show; None where it implies none, or none is
            kept.
        chance: The same share in kept cases without it; None where there are none.
    """

    by_name: int
    by_attributes: int
    without_effect: int
    obeyed: float | None = None
    chance: float | None = None


def acted(rows: Sequence[Row], library: Library, out: Path, rules: FrameRules = ENDOSCOPIC) -> dict[str, Acted]:
    """Return what became of each finding that requests were made of.

    Args:
        rows: Of a synthetic set.
        library: The findings that its prompts were made of.
        out: Folder of the set.
        rules: What in its frames is no tissue, and whether they are grey.
    """
    asked = lesions(rows)
    names = sorted({name for row in asked for name in row.request.findings if name in library.findings})
    shown = {row.id: _words_shown(row, out, rules) for row in kept(asked)} if names else {}
    return {name: _acted(name, library.findings[name], asked, shown) for name in names}


def _acted(name: str, finding: Finding, rows: Sequence[Row], shown: Mapping[str, Mapping[str, str]]) -> Acted:
    hows = [how(name, finding, row.request) for row in rows if name in row.request.findings]
    asked_for = {row.id for row in rows if name in row.request.findings}
    return Acted(
        by_name=hows.count("name"),
        by_attributes=hows.count("attributes"),
        without_effect=hows.count("none"),
        obeyed=obedience(finding, [words for row, words in shown.items() if row in asked_for]),
        chance=obedience(finding, [words for row, words in shown.items() if row not in asked_for]),
    )


def how(name: str, finding: Finding, request: Request) -> str:
    """Return how a finding acts in a request: by its name, through its attributes, or not at all (none)."""
    if not {finding.term, *finding.synonyms} & set(request.unknown_words):
        return "name"
    implies = any(finding.attributes.values()) or (name in CUPS and request.cup_ratio is not None)
    return "attributes" if implies else "none"


def obedience(finding: Finding, shown: Sequence[Mapping[str, str]]) -> float | None:
    """Return the share of a finding's attributes that lesions show.

    Args:
        finding: Each aspect with words counts once for each lesion.
        shown: The measured words of each lesion; an aspect that is not extreme has no word, and is not shown.
    """
    implied = {aspect: words for aspect, words in finding.attributes.items() if words}
    found = [words[aspect] in allowed for words in shown for aspect, allowed in implied.items()]
    return round(float(np.mean(found)), 3) if found else None


def _words_shown(row: Row, out: Path, rules: FrameRules) -> dict[str, str]:
    """Return the measured words of the lesion that was painted in a kept case."""
    image, mask = read_image(out / row.image), read_mask(out / row.mask)
    return words_of(measure_attributes(image, _painted(mask, row.window), rules), rules.grey)


def _painted(mask: Mask, window: tuple[int, int, int]) -> Mask:
    """Return the lesion that lies most in the middle of a window: the part that was painted."""
    parts, count = connected_parts(mask)
    if count < 2:
        return mask
    top, left, side = window
    quarter = side // 4
    middle = parts[max(0, top + quarter) : top + side - quarter, max(0, left + quarter) : left + side - quarter]
    votes = np.bincount(middle.ravel(), minlength=count + 1)
    votes[0] = 0
    return np.asarray(parts == int(np.argmax(votes))) if votes.any() else mask


def line_of(found: Mapping[str, Acted], library: Library) -> str:
    """Return one line for people: which findings acted by name, which through attributes, and which could not."""
    parts = []
    for kind, words in (
        ("by_name", "by name"),
        ("by_attributes", "through the attributes that they imply, since the model has not learnt their names"),
        ("without_effect", "without effect, since they imply none and the model has not learnt their names"),
    ):
        counts = {library.findings[name].term: getattr(one, kind) for name, one in found.items() if getattr(one, kind)}
        most = sorted(counts, key=lambda term: (-counts[term], term))
        named = ", ".join(f"{term} {counts[term]}" for term in most[:NAMED])
        more = f", and {len(most) - NAMED} more" if len(most) > NAMED else ""
        parts.append(f"{len(counts) or 'none'} acted {words}{f' ({named}{more})' if named else ''}")
    remedy = "; to teach a name, use it in the column prompt of training cases and fit again"
    unknown = any(one.by_attributes or one.without_effect for one in found.values())
    return "findings in prompts: " + "; ".join(parts) + (remedy if unknown else "")


def as_dict(found: Mapping[str, Acted]) -> dict[str, Any]:
    """Return JSON values by finding."""
    return {name: asdict(one) for name, one in found.items()}
