"""Shares: parts of a synthetic set's shards, made by calls that know nothing of each other.

Share I of N has every N-th turn of the shards, from the I-th on; where strata take turns, a turn has one shard of each.
Nobody knows the keep rate beforehand, so a share is made when it has kept its part of the cases, rounded up. All
shares together have kept enough; a call for the whole set then takes the shards in order, makes the few that are
missing, and removes those that are not needed. So the set is the one that a single call makes.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffaug.errors import ConfigError

FORM = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Share:
    """A part of the shards; by default all of them.

    Attributes:
        index: Which part, from 0.
        count: How many parts there are.

    Raises:
        ConfigError: There is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise _wrong(str(self))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, shard: int, strata: int) -> bool:
        """Tell whether a shard is of this part, where so many strata take turns."""
        return shard // strata % self.count == self.index

    def quotas(self, quotas: Mapping[str, int]) -> dict[str, int]:
        """Return how many kept lesions of each stratum this part contributes at least, rounded up."""
        return {name: -(-quota // self.count) for name, quota in quotas.items()}


WHOLE = Share()


def share_from_text(text: str) -> Share:
    """Return the part that a text such as `0/3` names.

    Raises:
        ConfigError: It names none.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise _wrong(text)
    return Share(int(found[1]), int(found[2]))


def _wrong(text: str) -> ConfigError:
    return ConfigError(
        f"a shard range must be I/N, where I is a whole number from 0 to N - 1: it is {text!r}; "
        "for three workers use 0/3, 1/3 and 2/3"
    )


@dataclass(frozen=True)
class ShareSummary:
    """What `generate_share` made.

    Attributes:
        index: Which share, from 0.
        shares: How many shares the set has.
        shards: Finished shards of this share.
        requested: Requests for a lesion in these shards.
        kept: Kept lesions in these shards.
        wanted: Kept lesions that this share contributes at least.
        seconds: Computing time of these shards, summed over workers.
    """

    index: int
    shares: int
    shards: int
    requested: int
    kept: int
    wanted: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)
