"""What becomes of a painted sample: the gate's decision, and the reason for it in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffaug.data.manifest import Decision
from diffaug.data.request import Check
from diffaug.painting.engine import Painted
from diffaug.painting.layout import Layout
from diffaug.validator.calibration import Calibration
from diffaug.validator.gate import Gate

REMAINS = 0.5  # share of a removed lesion's area that the validator still finds; with more, it is not gone
NEGATIVE_LIMIT = 0.25  # mean probability in a negative's region; with more, it is no lesion-free tissue
NEGATIVE_BIN = "negative"  # the size bin under which a gate lets negatives pass: there is no lesion to find
GateKind = Literal["conformal", "fixed", "off"]


@dataclass(frozen=True)
class Verdict:
    """What was decided about a sample.

    Attributes:
        decision: kept, stopped on the way, or rejected at the end.
        reason: The same in words, with the score and its threshold.
        checks: Every look of the gate.
        found: Of a negative, the mean lesion probability in its region.
    """

    decision: Decision
    reason: str
    checks: tuple[Check, ...] = ()
    found: float | None = None


def passing(calibration: Calibration, everything: bool) -> Calibration:
    """Return the thresholds of a gate that lets negatives pass, and with `everything` lets all samples pass."""
    none = {str(step): 0.0 for step in calibration.checks}
    thresholds = dict.fromkeys(calibration.thresholds, none) if everything else calibration.thresholds
    return replace(calibration, thresholds={**thresholds, NEGATIVE_BIN: none})


def is_left_over(layout: Layout) -> bool:
    """Tell whether a lesion that was to be removed from the background is still found, or left a trace."""
    return layout.remains > REMAINS or not layout.is_clear


def judged(sample: Painted, size_bin: str, calibration: Calibration) -> Painted:
    """Return a sample that was painted to the end, with the decision that the gate would have taken on the way."""
    checks = tuple(
        replace(check, threshold=round(calibration.threshold(size_bin, check.step), 5)) for check in sample.checks
    )
    failed = next((check for check in checks if not check.accepted), None)
    decision: Decision = "kept" if failed is None else "rejected" if failed.step == calibration.steps else "stopped"
    return replace(sample, checks=checks, decision=decision)


def verdict_on(layout: Layout, sample: Painted, calibration: Calibration, kind: GateKind, painted_all: bool) -> Verdict:
    """Return what becomes of a sample for a lesion that left its slot.

    Args:
        layout: What was asked for.
        sample: What was painted, or stopped on the way.
        calibration: The thresholds of the gate.
        kind: `off` keeps everything.
        painted_all: Whether the gate let everything pass, so that its decision is still to be taken.
    """
    if kind == "off":
        return Verdict(sample.decision, "kept without a gate")
    if painted_all:
        sample = judged(sample, layout.size_bin, calibration)
    if is_left_over(layout):
        if not layout.is_clear:
            return Verdict(
                "rejected", "the lesion that was to go could not be covered with tissue of its image", sample.checks
            )
        reason = f"{layout.remains:.3f} of a lesion was still found after its removal, more than {REMAINS}"
        return Verdict("rejected", reason, sample.checks)
    return Verdict(sample.decision, _reason(sample.checks, calibration.steps), sample.checks)


def _reason(checks: Sequence[Check], steps: int) -> str:
    """Return in words what the deciding look saw: the first that failed, else the last."""
    if not checks:
        return "kept without a gate"
    check = next((check for check in checks if not check.accepted), checks[-1])
    verb = "reaches" if check.accepted else "is under"
    when = "at the end" if check.step == steps else f"after step {check.step}"
    return f"agreement with the requested mask {check.score:.3f} {verb} {check.threshold:.3f} {when}"


def verdict_on_negative(latents: Tensor, region: Tensor, fold: int | None, gate: Gate, kind: GateKind) -> Verdict:
    """Return what becomes of painted lesion-free tissue: the validator must find no lesion in it.

    Args:
        latents: The finished sample, (1, Z, h, w).
        region: Where it was painted, at the validator's side, (1, s, s).
        fold: The validator that has not seen the case; None asks all of them.
        gate: Holds the validators.
        kind: `off` keeps everything.
    """
    probability = gate.probability(fold, latents, torch.zeros(1, dtype=torch.long))
    found = float((probability.amax(1) * region).sum() / region.sum().clamp_min(1e-6))
    decision: Decision = "kept" if found < NEGATIVE_LIMIT or kind == "off" else "rejected"
    reason = f"lesion-free tissue, {decision}: a lesion is found in {found:.3f} of it, {NEGATIVE_LIMIT:g} is the limit"
    return Verdict(decision, reason, found=round(found, 5))
