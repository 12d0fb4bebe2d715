"""Random generators that are pure functions of integers."""

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
