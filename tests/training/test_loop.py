import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import diffaug.training.loop
from diffaug.artifacts import read_jsonl
from diffaug.compute.seeds import generator_of
from diffaug.errors import ModelError
from diffaug.training.loop import Average, learning_rate_at, optimise

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

    optimise("net", {"net": net}, loss, folder, iterations=iterations, learning_rate=1e-2, **options)
    return net


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
    last = read_jsonl(tmp_path / "net.jsonl")[-1]
    assert last["iteration"] == 299
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
    assert read_jsonl(tmp_path / "broken" / "net.jsonl") == read_jsonl(tmp_path / "unbroken" / "net.jsonl")


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
    assert all(".0." not in name for name in load_file(tmp_path / "net.safetensors"))


def test_a_checkpoint_of_another_model_is_one_line_of_error(tmp_path):
    train(tmp_path, network())
    deeper = nn.Sequential(*network(), nn.Linear(1, 1))
    for other in (deeper, network(width=9)):
        with pytest.raises(ModelError, match=r"net\.safetensors") as error:
            train(tmp_path, other)
        assert "\n" not in str(error.value)


def test_a_checkpoint_without_an_iteration_is_one_line_of_error(tmp_path):
    train(tmp_path, network())
    path = tmp_path / "net.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(ModelError, match="delete it"):
        train(tmp_path, network())


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_checkpoint_is_one_line_of_error(tmp_path, size):
    train(tmp_path, network())
    path = tmp_path / "net.safetensors"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(ModelError, match="delete it") as error:
        train(tmp_path, network())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_one_line_of_error_and_harms_nothing(tmp_path, value):
    net = network()
    before = parameters(net)
    with pytest.raises(ModelError, match="net iteration 0") as error:
        optimise(
            "net",
            {"net": net},
            lambda i, g: {"loss": net(torch.ones(1, 3)).sum() * value},
            tmp_path,
            iterations=3,
            learning_rate=1e-2,
        )
    assert "\n" not in str(error.value)
    assert torch.equal(parameters(net), before)
    assert not (tmp_path / "net.safetensors").exists()


def test_the_learning_rate_rises_then_falls_to_a_fiftieth():
    rates = [learning_rate_at(i, 1000) for i in range(1000)]
    assert rates[99] == 1.0 == max(rates)
    assert rates[:100] == sorted(set(rates[:100]))
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, abs=1e-4)
    assert all(0 < learning_rate_at(i, n) <= 1 for n in (1, 2, 9, 10) for i in range(n))


def test_an_average_of_a_constant_is_that_constant_and_it_follows_a_change():
    value = {"a": torch.full((3,), 2.0)}
    mean = Average(value, decay=0.5)
    for i in range(5):
        mean.update(value, i)
    torch.testing.assert_close(mean.values["a"], value["a"])
    value["a"].zero_()
    mean.update(value, 100)
    torch.testing.assert_close(mean.values["a"], torch.full((3,), 1.0))


def scored_by(net, target):
    """Score a network by the distance of its first weight from a target, so that the best is not the last."""
    return lambda: (net[0].weight[0, 0] - target).abs().item()


def test_the_best_scored_average_is_kept_and_not_the_last(tmp_path):
    last = train(tmp_path / "last", network())
    first = network()[0].weight[0, 0].item()
    net = network()
    train(tmp_path / "best", net, score=scored_by(net, first))
    rows = [row for row in read_jsonl(tmp_path / "best" / "net.jsonl") if "score" in row]
    assert [row["iteration"] for row in rows] == list(range(ITERATIONS))
    least = min(rows, key=lambda row: row["score"])
    assert least["iteration"] < ITERATIONS - 1
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
    scored = [[r for r in read_jsonl(tmp_path / n / "net.jsonl") if "score" in r] for n in ("whole", "killed")]
    assert scored[0] == scored[1]
