"""What became of the requests of a synthetic set, in numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffaug.data.lesions import SIZES
from diffaug.data.manifest import Row, lesions


@dataclass(frozen=True)
class Counts:
    """How many requests came to which end; surplus cases count as kept.

    Attributes:
        requested: Requests.
        kept: Accepted ones, each the first of its case.
        stopped: Those that the gate stopped on the way.
        rejected: Those that it turned down at the end.
        joined: Further accepted ones of a case that has several.
    """

    requested: int = 0
    kept: int = 0
    stopped: int = 0
    rejected: int = 0
    joined: int = 0


@dataclass(frozen=True)
class Funnel:
    """What became of the requests of a set.

    Attributes:
        lesions: Requests for a lesion.
        negatives: Requests for lesion-free tissue.
        by_size: Requests for a lesion, by size class.
        stopped_after_step: How many were stopped, by the step after which they were.
    """

    lesions: Counts
    negatives: Counts
    by_size: Mapping[str, Counts]
    stopped_after_step: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def _counts(rows: Sequence[Row]) -> Counts:
    counts = Counter("kept" if row.decision == "surplus" else row.decision for row in rows)
    return Counts(len(rows), counts["kept"], counts["stopped"], counts["rejected"], counts["joined"])


def funnel(rows: Sequence[Row]) -> Funnel:
    """Count requests by what became of them, lesions and negatives apart.

    Args:
        rows: The rows of a synthetic set.

    Example:
        >>> diffaug.funnel(diffaug.read_manifest("synthetic/mine").rows).lesions
        Counts(requested=2, kept=1, stopped=1, rejected=0, joined=0)
    """
    requested = lesions(rows)
    after = Counter(str(row.stopped_after) for row in requested if row.decision == "stopped")
    return Funnel(
        lesions=_counts(requested),
        negatives=_counts([row for row in rows if row.request.negative]),
        by_size={size: _counts([row for row in requested if row.request.size_bin == size]) for size in SIZES},
        stopped_after_step=dict(sorted(after.items())),
    )
