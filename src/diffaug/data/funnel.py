"""What became of the requests of a synthetic set, in numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffaug.data.lesions import SIZES
from diffaug.data.manifest import Row, lesions


@dataclass(frozen=True)
class Counts:
    """How many requests came to which end.

    Attributes:
        requested: Requests.
        kept: Accepted ones, which are the cases of the set.
        stopped: Those that the gate stopped on the way.
        rejected: Those that it turned down at the end.
        joined: Accepted ones that are shown in the picture of another one.
        surplus: Accepted ones beyond the count that was asked for, which are no cases of the set.
    """

    requested: int = 0
    kept: int = 0
    stopped: int = 0
    rejected: int = 0
    joined: int = 0
    surplus: int = 0

    @property
    def accepted(self) -> int:
        """All that the gate accepted."""
        return self.kept + self.surplus + self.joined


def counts_of(rows: Iterable[Row]) -> Counts:
    """Count rows by what became of them."""
    found = Counter(str(row.decision) for row in rows)
    return Counts(found.total(), **found)


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


def funnel(rows: Sequence[Row]) -> Funnel:
    """Count requests by what became of them, lesions and negatives apart.

    Args:
        rows: The rows of a synthetic set.

    Example:
        >>> diffaug.funnel(diffaug.read_manifest("synthetic/mine").rows).lesions
        Counts(requested=2, kept=1, stopped=1, rejected=0, joined=0, surplus=0)
    """
    requested = lesions(rows)
    after = Counter(str(row.stopped_after) for row in requested if row.decision == "stopped")
    return Funnel(
        lesions=counts_of(requested),
        negatives=counts_of(row for row in rows if row.request.negative),
        by_size={size: counts_of(row for row in requested if row.request.size_bin == size) for size in SIZES},
        stopped_after_step=dict(sorted(after.items())),
    )
