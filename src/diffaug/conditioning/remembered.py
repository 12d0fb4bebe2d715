"""A dictionary that computes a missing value from its key, and keeps it."""

from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(dict[Key, Value]):
    """Values by key; a value is computed when it is first asked for.

    Args:
        compute: Returns the value of a key.
        limit: How many values are kept, or how much they may weigh together; the oldest make way, and are computed
            again when asked for. None keeps all.
        weight: Returns what a value weighs, such as its bytes; None counts values.
    """

    def __init__(
        self,
        compute: Callable[[Key], Value],
        limit: int | None = None,
        weight: Callable[[Value], int] | None = None,
    ) -> None:
        super().__init__()
        self._compute, self._limit, self._weight = compute, limit, weight
        self._total = 0

    def __missing__(self, key: Key) -> Value:
        value = self._compute(key)
        if self._limit:
            self._total += self._weighed(value)
            while self and self._total > self._limit:
                self._total -= self._weighed(self.pop(next(iter(self))))
        self[key] = value
        return value

    def _weighed(self, value: Value) -> int:
        return self._weight(value) if self._weight else 1
