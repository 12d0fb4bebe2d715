"""A dictionary that computes a missing value from its key, and keeps it."""

from collections.abc import Callable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(dict[Key, Value]):
    """Values by key; a value is computed when it is first asked for.

    Args:
        compute: Returns the value of a key.
        limit: How many values are kept; the oldest makes way, and is computed again when asked for. None keeps all.
    """

    def __init__(self, compute: Callable[[Key], Value], limit: int | None = None) -> None:
        super().__init__()
        self._compute, self._limit = compute, limit

    def __missing__(self, key: Key) -> Value:
        value = self._compute(key)
        if self._limit and len(self) >= self._limit:
            del self[next(iter(self))]
        self[key] = value
        return value
