"""What an audit found, and how `audit.json` holds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffaug.audit.diagnosis import Diagnosis
from diffaug.audit.painted import Painted
from diffaug.audit.privacy import Known, Limits
from diffaug.audit.quality import Property
from diffaug.audit.scores import Score
from diffaug.data.copies import Copy
from diffaug.data.records import Mapped
from diffaug.encoder import NAME, encoder_digest
from diffaug.report.wording import Verdict


@dataclass(frozen=True, eq=False)
class Privacy:
    """What is known of copies.

    Attributes:
        scores: Shares of copies, and the recall of planted ones.
        control: Recall of planted copies by the kind of change.
        limits: Beyond which a lesion is a copy.
        held_out: Number of real lesions that the limits come from: held-out ones, and training lesions that stand in.
        painted: The painted lesions, and how like each is to the training lesions.
        known: The training lesions.
        from_example: Share of the copies whose nearest training lesion is the example they were painted from.
        backgrounds: Share of the pictures that show a training image, and mean share of their exact pixels.
    """

    scores: Sequence[Score]
    control: dict[str, float]
    limits: Limits
    held_out: int
    painted: Painted
    known: Known
    from_example: float | None
    backgrounds: tuple[float, float] | None

    @cached_property
    def copies(self) -> Sequence[Copy]:
        """The painted lesions that are copies, the most alike first."""
        found = [place for place, like in enumerate(self.painted.likenesses) if self.limits.is_copy(like)]
        rounded = [-round(self.painted.likenesses[place].correlation, 4) for place in found]
        return Mapped(self._copy, [found[place] for place in np.argsort(rounded, kind="stable")])

    def _copy(self, place: int) -> Copy:
        row, like = self.painted.rows[place], self.painted.likenesses[place]
        of = self.known.lesions[like.nearest].case
        return Copy(row.id, row.shown_in or row.id, of, round(like.correlation, 4), round(like.distance, 3))


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
