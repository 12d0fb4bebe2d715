"""Laws of the measure of what a prior remembers: copies are nearer to training, and fresh windows to neither side."""

import json
import sys

import numpy as np
import pytest
from benchmark_runs import BENCHMARKS, run_benchmark

from diffaug.data.phantom import make_phantoms

sys.path.insert(0, str(BENCHMARKS))
from memorised import share_nearer


def drawn(seed, count=300):
    return np.random.default_rng(seed).normal(size=(count, 6))


def test_copies_of_training_are_nearer_to_it_and_fresh_windows_are_as_near_to_either_side():
    trained, unseen, frames = [drawn(part) for part in range(3)], drawn(3), [str(place // 2) for place in range(300)]
    fresh, interval = share_nearer(drawn(4)[None], trained, unseen, frames)
    assert interval[0] < 0.5 < interval[1] and 0.4 < fresh < 0.6
    copied = [share_nearer(part[None], [part], unseen, frames)[0] for part in trained]
    assert copied == [1.0, 1.0, 1.0]
    assert share_nearer(unseen[None], trained, unseen, frames) == (0.0, (0.0, 0.0))


def test_a_side_with_more_windows_has_no_advantage():
    many, few, frames = drawn(0, 3000), drawn(1), [str(place) for place in range(300)]
    _, (low, high) = share_nearer(drawn(2)[None], [many], few, frames)
    assert low < 0.5 < high


@pytest.mark.slow  # 250 windows through the encoder; the laws above are tested by default
def test_the_measure_of_the_shipped_prior_runs(tmp_path):
    data, out = tmp_path / "data", tmp_path / "measured"
    make_phantoms(data, 9, 3, 3, 0, size=128, seed=0)
    run_benchmark("memorised", "--out", out, "--data", data, "--quick")
    measured = json.loads((out / "memorised.json").read_text())
    assert measured["prior_training_windows"] == 3 * measured["prior_unseen_windows"] == 90
    for name in ("prior_nearer_training", "prior_nearer_training_real"):
        low, high = measured[f"{name}_interval"]
        assert 0 <= low <= measured[name] <= high <= 1
    assert (out / "pairs.png").stat().st_size > 10_000
