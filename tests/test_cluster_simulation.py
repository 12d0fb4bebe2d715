"""Laws of the simulated cluster: work is neither lost nor done twice, and without losses it is the known bound."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from cluster import RESTART, SLOWER, check, costs_of, projected, simulate

SECONDS = st.lists(st.floats(0.1, 500), min_size=1, max_size=40)


@given(SECONDS, st.integers(1, 12))
def test_without_losses_the_makespan_is_the_work_of_each_worker_and_at_most_one_shard_more(seconds, workers):
    found = simulate(seconds, workers)
    assert sum(seconds) / workers - 1e-6 <= found.makespan <= sum(seconds) / workers + max(seconds) + 1e-6
    assert found.worked == pytest.approx(sum(seconds)) and found.wasted == found.losses == 0
    assert simulate(seconds, 1).makespan == pytest.approx(sum(seconds))


@settings(deadline=None)
@given(SECONDS, st.integers(1, 8), st.floats(0.1, 5), st.integers(0, 5))
def test_no_shard_is_missing_or_finished_twice_when_nodes_are_lost(seconds, workers, losses, seed):
    found = simulate(seconds, workers, losses_per_hour=losses, seed=seed)
    assert set(found.done) == {1} and found.worked == pytest.approx(sum(seconds))
    assert 0 <= found.wasted <= found.losses * max(seconds) + 1e-6
    assert found == simulate(seconds, workers, losses_per_hour=losses, seed=seed)
    most = (found.worked + found.wasted) / workers + found.losses * (RESTART + max(seconds)) + max(seconds)
    assert found.makespan <= most + 1e-6


@given(SECONDS, st.integers(1, 8))
def test_slow_workers_take_so_much_longer_and_no_more(seconds, workers):
    found = simulate(seconds, workers, slow=1.0)
    assert found.makespan == pytest.approx(SLOWER * simulate(seconds, workers).makespan)


@given(SECONDS, st.integers(1, 8))
def test_shards_that_are_handed_out_in_order_are_never_made_sooner(seconds, workers):
    found = simulate(seconds, workers, ahead=workers)
    assert found.makespan <= sum(seconds) + 1e-6 and set(found.done) == {1}
    assert found.makespan >= sum(seconds) / workers - 1e-6
    assert simulate(seconds, workers, ahead=len(seconds)) == simulate(seconds, workers)


def test_one_long_shard_stops_those_that_follow_it_where_few_are_handed_out():
    seconds = [10.0, *[1.0] * 10]
    assert simulate(seconds, 2).makespan == 10 and simulate(seconds, 2, ahead=2).makespan == 15


def test_two_real_worker_processes_take_what_the_simulation_says():
    found = check([0.02, 0.3, 0.05, 0.2, 0.1, 0.05])
    assert found["measured_s"] >= found["simulated_s"] - 0.01  # a busy machine is later, never sooner


def test_the_costs_of_a_set_are_those_of_its_shards(tmp_path):
    for number, seconds in enumerate((4.0, 8.0)):
        shard = tmp_path / "shards" / f"{number:05d}"
        (shard / "images").mkdir(parents=True)
        (shard / "seconds.json").write_text(f"{seconds}\n")
        decisions = ["kept", "stopped", "surplus", "kept"]
        rows = [{"decision": one, "request": {"negative": place == 3}} for place, one in enumerate(decisions)]
        (shard / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (shard / "images" / "a.png").write_bytes(b"x" * 100)
    costs = costs_of(tmp_path)
    assert (costs.seconds, costs.requests, costs.kept, costs.kept_per_shard) == ((4.0, 8.0), 8, 4, 2.0)
    assert costs.bytes_of["images"] == 200 and costs.bytes_of["other"] < 20
    found = projected(costs, kept=1000, workers=10, losses=0.0, slow=0.0)
    assert found["shards"] == 500 and found["core_hours"] == round(500 * 6 / 3600)
    assert found["hours"] == pytest.approx(500 * 6 / 3600 / 10, abs=0.02)
    smaller = projected(costs, kept=1000, workers=10, losses=0.0, slow=0.0, most=100)
    assert smaller["hours"] == pytest.approx(found["hours"], abs=0.02)
