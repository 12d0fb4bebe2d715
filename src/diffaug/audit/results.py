"""What an audit found, and how `audit.json` holds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diffaug.audit.diagnosis import Diagnosis
from diffaug.audit.lesions import Found
from diffaug.audit.privacy import Known, Likeness, Limits
from diffaug.audit.quality import Property
from diffaug.audit.scores import Score
from diffaug.data.copies import Copy
from diffaug.encoder import NAME, encoder_digest
from diffaug.report.wording import Verdict


@dataclass(frozen=True, eq=False)
class Privacy:
    """What is known of copies.

    Attributes:
        scores: Shares of copies, and the recall of planted ones.
        control: Recall of planted copies by the kind of change.
        limits: Beyond which a lesion is a copy.
        held_out: Number of held-out real lesions that the limits come from.
        painted: The painted lesions.
        likenesses: Of each of them.
        known: The training lesions.
        from_example: Share of the copies whose nearest training lesion is the example they were painted from.
        backgrounds: Share of the pictures that show a training image, and mean share of their exact pixels.
    """

    scores: Sequence[Score]
    control: dict[str, float]
    limits: Limits
    held_out: int
    painted: Sequence[Found]
    likenesses: Sequence[Likeness]
    known: Known
    from_example: float | None
    backgrounds: tuple[float, float] | None

    @property
    def copies(self) -> list[Copy]:
        """The painted lesions that are copies, the most alike first."""
        found = []
        for one, like in zip(self.painted, self.likenesses, strict=True):
            if one.row and self.limits.is_copy(like):
                numbers = round(like.correlation, 4), round(like.distance, 3)
                found.append(Copy(one.row.id, one.case, self.known.lesions[like.nearest].case, *numbers))
        return sorted(found, key=lambda each: -each.correlation)


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        name: Of the folder of the set.
        lesions: Numbers of real, held-out and painted lesions.
        diagnosis: Whether the set is whole.
        quality: Scores; none without real lesions to compare with.
        attributes: Means of measured attributes.
        places: Means of positions, sizes and light.
        privacy: What is known of copies; None without enough real lesions.
        usefulness: The verdict of a study of the set; None without one.
        notices: What was not measured, and why, a sentence each.
    """

    name: str
    lesions: dict[str, int]
    diagnosis: Diagnosis
    quality: Sequence[Score]
    attributes: Sequence[Property]
    places: Sequence[Property]
    privacy: Privacy | None
    usefulness: Verdict | None
    notices: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return what audit.json holds."""
        privacy = self.privacy
        found: dict[str, Any] = {
            "set": self.name,
            "encoder": NAME,
            "encoder_digest": encoder_digest(),
            "lesions": self.lesions,
            "diagnosis": {
                "passed": self.diagnosis.passed,
                "damaged": sorted(self.diagnosis.damaged),
                "checks": [asdict(each) | {"passed": each.passed} for each in self.diagnosis.outcomes],
            },
            "quality": {
                "scores": [asdict(each) for each in self.quality],
                "attributes": [asdict(each) | {"outside": each.outside} for each in self.attributes],
                "places": [asdict(each) | {"outside": each.outside} for each in self.places],
            },
            "privacy": None,
            "usefulness": asdict(self.usefulness) if self.usefulness else None,
            "notices": list(self.notices),
        }
        if privacy:
            share = privacy.scores[0]
            found["privacy"] = {
                "copy_share": share.value,
                "copy_share_low": share.low,
                "copy_share_high": share.high,
                "control_recall": float(np.mean(list(privacy.control.values()))),
                "control": privacy.control,
                "scores": [asdict(each) for each in privacy.scores],
                "limits": asdict(privacy.limits),
                "held_out": privacy.held_out,
                "copies": len(privacy.copies),
                "from_example": privacy.from_example,
                "backgrounds": privacy.backgrounds,
            }
        return found
