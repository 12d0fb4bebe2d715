"""Random generators that are pure functions of integers; the global one is left as it was found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch


def generator_of(*key: int) -> torch.Generator:
    """Return a CPU generator that is a pure function of a tuple of integers (each below 2**31)."""
    state = 0x9E3779B97F4A7C15
    for part in key:  # SplitMix64 (Steele et al. 2014), so that neighbouring keys give unrelated streams
        state = (state + 0x9E3779B97F4A7C15 + part) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for the block, in which libraries draw weights and dropout, and restore them."""
    is_started = cast("Callable[[], bool]", torch.cuda.is_initialized)()
    devices = range(torch.cuda.device_count()) if is_started else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
