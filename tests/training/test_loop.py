import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import diffaug.training.loop
from diffaug.artifacts import read_jsonl
from diffaug.compute.seeds import generator_of
from diffaug.config import CodecConfig
from diffaug.errors import ModelError
from diffaug.training.loop import Average, Recipe, optimise, recipe_of

ITERATIONS = 12


class Interruption(BaseException):
    pass


def network(width=8, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(dropout), nn.Tanh(), nn.Linear(width, 1))


def train(folder, net, iterations=ITERATIONS, stop_at=None, **options):
    def loss(i, generator):
        if i == stop_at:
            raise Interruption
        x = torch.randn(16, 3, generator=generator)
        return {"loss": ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()}

    optimise({"net": net}, loss, Recipe(iterations, 1e-2, warmup=1, beta=0.99), folder / "net", **options)
    return net


def log_of(folder):
    """Return the log of a training without the times."""
    return [{key: value for key, value in row.items() if key != "ms"} for row in read_jsonl(folder / "net.log.jsonl")]


def parameters(net):
    return torch.cat([value.detach().flatten() for value in net.parameters()])


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr(diffaug.training.loop, "CHECKPOINT_SECONDS", -1.0)


def test_a_generator_is_a_pure_function_of_its_key():
    first, second = (torch.randn(8, generator=generator_of(3, 5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(8, generator=generator_of(5, 3)))
    assert not torch.equal(first, torch.randn(8, generator=generator_of(3)))


def test_generators_of_neighbouring_keys_are_unrelated():
    keys = [(seed, i) for seed in range(8) for i in range(25)]
    draws = torch.stack([torch.randn(400, generator=generator_of(*key)) for key in keys]).double()
    correlation = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.3  # 6 standard deviations
    assert len({generator_of(*key).initial_seed() for key in keys}) == len(keys)


def test_training_learns_and_logs_its_last_iteration(tmp_path):
    net = train(tmp_path, network(), iterations=300)
    rows = read_jsonl(tmp_path / "net.log.jsonl")
    assert [row["iteration"] for row in rows] == [50, 100, 150, 200, 250, 300]
    last = rows[-1]
    assert last["ms"] > 0
    assert last["loss"] < 0.1
    assert not net.training


def test_the_same_seed_trains_the_same_network_and_another_seed_another(tmp_path):
    trained = [parameters(train(tmp_path / str(n), network(), seed=seed)) for n, seed in enumerate((1, 1, 2))]
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("stops", [(0,), (1,), (7,), (3, 4, 11)])
def test_a_training_killed_anywhere_and_resumed_equals_an_unbroken_one(tmp_path, save_always, stops, dropout):
    unbroken = parameters(train(tmp_path / "unbroken", network(dropout=dropout)))
    for stop in stops:
        with pytest.raises(Interruption):
            train(tmp_path / "broken", network(dropout=dropout), stop_at=stop)
        torch.rand(stop + 1)  # a new process has another global state
    assert torch.equal(parameters(train(tmp_path / "broken", network(dropout=dropout))), unbroken)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "unbroken")


def test_a_finished_training_is_not_repeated(tmp_path):
    first = parameters(train(tmp_path, network()))
    assert torch.equal(parameters(train(tmp_path, network(), stop_at=0)), first)


def test_parameters_that_need_no_gradient_stay_as_they_are(tmp_path):
    net = network()
    net[0].requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train(tmp_path, net)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"3.weight", "3.bias"}
    assert all(".0." not in name for name in load_file(tmp_path / "net.checkpoint"))


def test_a_part_learns_at_its_share_of_the_rate_and_the_others_as_ever(tmp_path):
    def trained(name, shares):
        net = network()
        loss = lambda i, generator: {"loss": (net(torch.ones(4, 3)) - 1).square().mean()}  # noqa: E731
        optimise(
            {"net": net}, loss, Recipe(1, 1e-2, warmup=1, average=0.0, weight_decay=0.0, shares=shares), tmp_path / name
        )
        return net

    start, *trainings = (
        list(net.parameters()) for net in (network(), trained("a", {}), trained("b", {"net.0.": 0.25}))
    )
    moved = [[(value - old).detach().abs().max() for value, old in zip(one, start, strict=True)] for one in trainings]
    assert [float(b / a) for a, b in zip(*moved, strict=True)] == pytest.approx([0.25, 0.25, 1.0, 1.0], rel=1e-3)


def test_a_checkpoint_of_another_model_is_one_line_of_error(tmp_path):
    train(tmp_path, network())
    deeper = nn.Sequential(*network(), nn.Linear(1, 1))
    for other in (deeper, network(width=9)):
        with pytest.raises(ModelError, match=r"net\.checkpoint") as error:
            train(tmp_path, other)
        assert "\n" not in str(error.value)


def test_a_checkpoint_without_an_iteration_is_one_line_of_error(tmp_path):
    train(tmp_path, network())
    path = tmp_path / "net.checkpoint"
    save_file(load_file(path), path)
    with pytest.raises(ModelError, match="delete it"):
        train(tmp_path, network())


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_checkpoint_is_one_line_of_error(tmp_path, size):
    train(tmp_path, network())
    path = tmp_path / "net.checkpoint"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(ModelError, match="delete it") as error:
        train(tmp_path, network())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_one_line_of_error_and_harms_nothing(tmp_path, value):
    net = network()
    before = parameters(net)
    with pytest.raises(ModelError, match="net iteration 1") as error:
        optimise(
            {"net": net},
            lambda i, g: {"loss": net(torch.ones(1, 3)).sum() * value},
            Recipe(3, 1e-2, 1),
            tmp_path / "net",
        )
    assert "\n" not in str(error.value)
    assert torch.equal(parameters(net), before)
    assert not (tmp_path / "net.checkpoint").exists()


@pytest.mark.parametrize(("warmup", "floor"), [(100, 0.02), (50, 0.0)])
def test_the_learning_rate_rises_to_its_peak_then_falls_to_its_floor(warmup, floor):
    recipe = Recipe(1000, 2e-3, warmup, floor)
    rates = [recipe.learning_rate_at(i) for i in range(1000)]
    assert rates[warmup - 1] == 2e-3 == max(rates)
    assert rates[:warmup] == sorted(set(rates[:warmup]))
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == pytest.approx(floor * 2e-3, abs=1e-7)


@pytest.mark.parametrize("iterations", [1, 2, 9, 10])
def test_the_shortest_training_has_a_learning_rate(iterations):
    recipe = recipe_of(CodecConfig(iterations=iterations))
    assert all(0 < recipe.learning_rate_at(i) <= recipe.learning_rate for i in range(iterations))


def test_an_average_of_a_constant_is_that_constant_and_it_follows_a_change():
    value = {"a": torch.full((3,), 2.0), "count": torch.tensor(0)}
    mean = Average(value, decay=0.5)
    for done in range(1, 6):
        mean.update(value, done)
    torch.testing.assert_close(mean.values["a"], value["a"])
    value["a"].zero_()
    value["count"] += 7
    mean.update(value, 100)
    torch.testing.assert_close(mean.values["a"], torch.full((3,), 1.0))
    assert mean.values["count"] == 7


def test_an_average_without_decay_is_the_last_value():
    value = {"a": torch.rand(5)}
    mean = Average(value, decay=0.0)
    value["a"].normal_()
    mean.update(value, 1)
    assert torch.equal(mean.values["a"], value["a"])


@pytest.mark.parametrize("stop", [3, 11])
def test_statistics_of_batch_normalisation_are_averaged_and_resumed(tmp_path, save_always, stop):
    def normalised():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    unbroken = train(tmp_path / "unbroken", normalised()).state_dict()
    with pytest.raises(Interruption):
        train(tmp_path / "broken", normalised(), stop_at=stop)
    resumed = train(tmp_path / "broken", normalised()).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    assert unbroken["1.num_batches_tracked"] == ITERATIONS
    assert unbroken["1.running_mean"].abs().sum() > 0


def test_training_leaves_the_random_numbers_of_its_caller(tmp_path):
    net = network(dropout=0.5)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(tmp_path, net)
    assert torch.equal(torch.rand(3), wanted)


def test_whoever_asks_is_told_of_every_iteration(tmp_path):
    reports = []
    train(tmp_path, network(), report=reports.append)
    assert reports == list(range(1, ITERATIONS + 1))


def scored_by(net, target):
    """Score a network by the distance of its first weight from a target, so that the best is not the last."""
    return lambda: (net[0].weight[0, 0] - target).abs().item()


def test_a_copy_that_holds_the_average_is_never_behind_and_survives_a_kill(tmp_path, save_always):
    whole, teacher, seen = network(), network().requires_grad_(False), []
    train(tmp_path / "whole", whole, report=lambda done: seen.append(parameters(teacher)), averaged={"net": teacher})
    plain = train(tmp_path / "plain", network())
    assert len({tuple(one.tolist()) for one in seen}) == ITERATIONS
    assert torch.equal(parameters(whole), parameters(plain)) and torch.equal(seen[-1], parameters(whole))
    resumed, copy = network(), network().requires_grad_(False)
    with pytest.raises(Interruption):
        train(tmp_path / "killed", network(), stop_at=8, averaged={"net": network()})
    later = []
    train(tmp_path / "killed", resumed, report=lambda done: later.append(parameters(copy)), averaged={"net": copy})
    assert all(torch.equal(one, other) for one, other in zip(seen[8:], later, strict=True))


def test_the_best_scored_average_is_kept_and_not_the_last(tmp_path):
    last = train(tmp_path / "last", network())
    first = network()[0].weight[0, 0].item()
    net = network()
    train(tmp_path / "best", net, score=scored_by(net, first))
    rows = [row for row in log_of(tmp_path / "best") if "score" in row]
    assert [row["iteration"] for row in rows] == list(range(1, ITERATIONS + 1))
    least = min(rows, key=lambda row: row["score"])
    assert least["iteration"] < ITERATIONS
    assert scored_by(net, first)() == pytest.approx(least["score"], abs=1e-6)
    assert not torch.equal(parameters(net), parameters(last))


def test_scoring_does_not_change_what_is_learnt(tmp_path):
    plain, net = train(tmp_path / "plain", network(dropout=0.2)), network(dropout=0.2)
    scores = iter(range(100, 0, -1))  # always better: the last average is the best
    train(tmp_path / "scored", net, score=lambda: float(torch.randn(()) * 0 + next(scores)))
    assert torch.equal(parameters(plain), parameters(net))


def test_a_scored_training_that_is_killed_and_resumed_keeps_the_same_best(tmp_path, save_always):
    whole, net = network(), network()
    first = network()[0].weight[0, 0].item()
    train(tmp_path / "whole", whole, score=scored_by(whole, first))
    with pytest.raises(Interruption):
        train(tmp_path / "killed", net, stop_at=8, score=scored_by(net, first))
    fresh = network()
    train(tmp_path / "killed", fresh, score=scored_by(fresh, first))
    assert torch.equal(parameters(whole), parameters(fresh))
    scored = [[r for r in log_of(tmp_path / n) if "score" in r] for n in ("whole", "killed")]
    assert scored[0] == scored[1]
