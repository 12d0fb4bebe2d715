import heapq
import math

import pytest
import torch

from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.sampler import sample
from diffaug.diffusion.schedule import Schedule
from diffaug.encoder import Trunk
from diffaug.models.compact import scheduler_of
from diffaug.painting.engine import Prepared, paint
from diffaug.validator.calibration import BINS, Calibration
from diffaug.validator.gate import Gate, Target
from diffaug.validator.latent_segmenter import LatentSegmenter

SCHEDULE = Schedule.of(scheduler_of())
STEPS, CHECKS = 6, (2, 4, 6)
NEVER = 2.0  # a threshold that no score reaches


def denoiser(x_t, t, told):
    """Estimate from everything that is known of a row, and of that row alone."""
    return torch.tanh(0.6 * x_t + told.masked_image_latents + t.view(-1, 1, 1, 1) / 999 + told.mask)


class Counted:
    """A denoiser that counts its calls and keeps the shapes of its batches."""

    def __init__(self, inner=denoiser):
        self.inner, self.shapes = inner, []

    def __call__(self, x_t, t, told):
        self.shapes.append(tuple(x_t.shape))
        return self.inner(x_t, t, told)


def request(index, size_bin="small"):
    generator = torch.Generator().manual_seed(index)
    shapes = ((1, 4, 8, 8), (1, 1, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (1, 2), (1, 3, 5))
    noise, *parts = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    mask, region = torch.zeros(1, 32, 32), torch.ones(1, 32, 32)
    mask[:, 8:20, 8:20] = 1
    return Prepared(index, noise, Conditioning(*parts), Target(mask, region, size_bin, index % 2))


def painted(requests, slots=3, gate=None, steps=STEPS, model=denoiser, **options):
    options = {"solver": "ddim"} | options
    items = paint(model, SCHEDULE, requests, steps=steps, slots=slots, gate=gate, **options)
    return {item.index: item for item in items}


@pytest.fixture(scope="module")
def gate_with():
    """A gate with real, untrained validators, and a threshold for each size and check."""
    networks = []
    for fold in range(2):
        torch.manual_seed(fold)
        network = LatentSegmenter(Trunk(), 4, 1).eval().requires_grad_(False)
        networks.append(network.double())

    def make(**by_size):
        thresholds = {name: dict.fromkeys(map(str, CHECKS), 0.0) | by_size.get(name, {}) for name in BINS}
        groups, counts = {name: (name,) for name in BINS}, dict.fromkeys(BINS, 20)
        folds = {"train-0": 0, "train-1": 1}
        return Gate(networks, Calibration(0.05, STEPS, CHECKS, folds, groups, counts, thresholds, ""))

    return make


@pytest.mark.parametrize("solver", ["ab2", "ddim"])
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 16])
@pytest.mark.parametrize(("count", "strength"), [(1, 1.0), (5, 0.5), (7, 1.0)])
def test_slots_make_the_sample_that_a_plain_batch_makes(slots, count, strength, solver):
    requests = [request(index) for index in range(count)]
    noise, told = torch.cat([r.noise for r in requests]), Conditioning.stack([r.conditioning for r in requests])
    *_, last = sample(denoiser, noise, told, SCHEDULE, STEPS, solver, strength)
    found = painted(requests, slots, solver=solver, strength=strength)
    assert sorted(found) == list(range(count))
    for index, row in enumerate(last.x_next):
        torch.testing.assert_close(found[index].latents[0], row, atol=1e-12, rtol=0)
        assert (found[index].decision, found[index].steps, found[index].checks) == ("kept", STEPS, ())


def test_a_real_painter_makes_the_same_sample_in_any_slot(untrained):
    def of(index):
        parts = request(index)
        told = vars(parts.conditioning) | {"text": untrained.embed(["a lesion"])}
        told = Conditioning(**{name: value.detach().float() for name, value in told.items()})
        return Prepared(index, parts.noise.float(), told, parts.target)

    alone = {index: painted([of(index)], 1, model=untrained)[index] for index in range(3)}
    together = painted([of(index) for index in range(3)], 2, model=untrained)
    for index in range(3):
        torch.testing.assert_close(together[index].latents, alone[index].latents, atol=0.05, rtol=0.05)
        assert not torch.allclose(together[index].latents, alone[(index + 1) % 3].latents, atol=0.3)


def test_samples_do_not_depend_on_the_order_of_requests(gate_with):
    requests = [request(index, BINS[index % 3]) for index in range(8)]
    gate = gate_with(medium={"4": NEVER}, large={"6": NEVER})
    forwards, backwards = painted(requests, 3, gate), painted(requests[::-1], 3, gate)
    for index in range(8):
        assert forwards[index].decision == backwards[index].decision
        assert [check.score for check in forwards[index].checks] == [check.score for check in backwards[index].checks]
        torch.testing.assert_close(forwards[index].latents, backwards[index].latents, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [1, 4])
def test_an_oracle_makes_every_slot_return_the_clean_latents(steps):
    def oracle(x_t, t, told):
        return told.masked_image_latents  # each row knows its own

    requests = [request(index) for index in range(5)]
    for index, item in painted(requests, 2, steps=steps, model=oracle).items():
        assert torch.equal(item.latents, requests[index].conditioning.masked_image_latents)


def test_an_always_accepting_gate_changes_nothing(gate_with):
    requests = [request(index) for index in range(5)]
    with_gate, without = painted(requests, 2, gate_with()), painted(requests, 2)
    for index in range(5):
        assert torch.equal(with_gate[index].latents, without[index].latents)
        assert with_gate[index].decision == without[index].decision == "kept"
        assert [check.step for check in with_gate[index].checks] == list(CHECKS)


def test_the_gate_sees_the_timestep_of_the_estimate_and_zero_at_the_end(gate_with):
    timesteps = SCHEDULE.timesteps(STEPS).tolist()
    for item in painted([request(index) for index in range(3)], 2, gate_with()).values():
        assert [check.t for check in item.checks] == [timesteps[1], timesteps[3], 0]


def test_a_hopeless_sample_is_stopped_at_the_look_that_fails_and_rejected_at_the_last(gate_with):
    gate = gate_with(medium={"4": NEVER}, large={"6": NEVER})
    found = painted([request(index, BINS[index % 3]) for index in range(7)], 2, gate)
    assert [found[index].decision for index in range(6)] == ["kept", "stopped", "rejected"] * 2
    assert [found[index].steps for index in range(6)] == [6, 4, 6] * 2
    assert [len(found[index].checks) for index in range(6)] == [3, 2, 3] * 2
    assert all(found[index].checks[-1].accepted == (found[index].decision == "kept") for index in found)


def test_a_stopped_sample_leaves_the_estimate_it_was_stopped_for(gate_with):
    steps = list(sample(denoiser, request(0).noise, request(0).conditioning, SCHEDULE, STEPS, "ddim"))
    found = painted([request(0)], 3, gate_with(small={"2": NEVER}))
    torch.testing.assert_close(found[0].latents, steps[1].x0_hat, atol=1e-12, rtol=0)


def makespan(durations, slots):
    """Return when the last of some durations ends that are begun in order, each in the first free slot."""
    free = [0] * slots
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_stopped_sample_frees_its_slot_at_once(gate_with, slots):
    requests = [request(index, BINS[index % 2]) for index in range(10)]
    counted = Counted()
    painted(requests, slots, gate_with(medium={"2": NEVER}), model=counted)
    assert len(counted.shapes) == makespan([6, 2] * 5, slots)
    counted = Counted()
    painted(requests, slots, model=counted)
    assert len(counted.shapes) == math.ceil(10 / slots) * STEPS


def test_the_shape_of_the_batch_never_changes(gate_with):
    counted = Counted()
    painted([request(index, BINS[index % 3]) for index in range(5)], 3, gate_with(large={"2": NEVER}), model=counted)
    assert set(counted.shapes) == {(3, 4, 8, 8)}


def test_every_request_leaves_exactly_once(gate_with):
    gate = gate_with(medium={"2": NEVER}, large={"6": NEVER})
    for count in range(9):
        requests = [request(index, BINS[index % 3]) for index in range(count)]
        left = [item.index for item in paint(denoiser, SCHEDULE, requests, steps=STEPS, slots=4, gate=gate)]
        assert sorted(left) == list(range(count))


def test_requests_are_taken_only_as_slots_become_free(gate_with):
    taken = []

    def requests():
        for index in range(20):
            taken.append(index)
            yield request(index, BINS[index % 3])

    gone = 0
    for _ in paint(denoiser, SCHEDULE, requests(), steps=STEPS, slots=3, gate=gate_with(medium={"2": NEVER})):
        assert len(taken) <= gone + 3  # the one that leaves makes room only after it was handed out
        gone += 1
    assert gone == len(taken) == 20


@pytest.mark.parametrize("at_once", [1, 2])
def test_fewer_requests_at_once_make_the_same_samples_in_batches_of_the_same_shape(gate_with, at_once):
    gate, counted, taken = gate_with(medium={"2": NEVER}), Counted(), []
    whole = painted([request(index) for index in range(5)], 3, gate)

    def requests():
        for index in range(5):
            taken.append(index)
            yield request(index)

    left = 0
    for item in paint(counted, SCHEDULE, requests(), steps=STEPS, slots=3, gate=gate, solver="ddim", at_once=at_once):
        left += 1
        assert len(taken) - left < at_once
        assert torch.equal(item.latents, whole[item.index].latents) and item.checks == whole[item.index].checks
    assert left == 5 and {shape[0] for shape in counted.shapes} == {3}


@pytest.mark.parametrize("slots", [1, 3])
def test_requests_are_left_as_they_were(slots):
    requests = [request(index) for index in range(4)]
    painted(requests, slots)
    for item in requests:
        fresh = request(item.index)
        assert torch.equal(item.noise, fresh.noise)
        for name, value in vars(fresh.conditioning).items():
            assert torch.equal(getattr(item.conditioning, name), value)


def test_painted_latents_stay_as_they_were_when_painting_goes_on():
    items, copies = [], []
    for item in paint(denoiser, SCHEDULE, [request(index) for index in range(6)], steps=STEPS, slots=2):
        items.append(item)
        copies.append(item.latents.clone())
    assert all(torch.equal(item.latents, copy) for item, copy in zip(items, copies, strict=True))
