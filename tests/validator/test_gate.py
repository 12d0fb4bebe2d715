import pytest
import torch

from diffaug.encoder import Trunk
from diffaug.errors import ModelError
from diffaug.validator.calibration import BINS, Calibration, agreement
from diffaug.validator.gate import Check, Gate, Target
from diffaug.validator.latent_segmenter import LatentSegmenter, segment


@pytest.fixture(scope="module")
def validators():
    networks = []
    for fold in range(2):
        torch.manual_seed(fold)
        networks.append(LatentSegmenter(Trunk(), 4, 1).eval().requires_grad_(False))
    return networks


@pytest.fixture
def calibration():
    thresholds = {name: {"2": 0.1 * place, "4": 0.3 * place} for place, name in enumerate(BINS)}
    groups, counts = {name: (name,) for name in BINS}, dict.fromkeys(BINS, 20)
    return Calibration(0.05, 4, (2, 4), {"train-0": 0, "train-1": 1}, groups, counts, thresholds, "")


def target(size_bin="small", fold=0):
    mask, region = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    mask[:, 10:20, 10:20] = 1
    region[:, 6:24, 6:24] = 1
    return Target(mask, region, size_bin, fold)


def test_the_gate_looks_after_the_calibrated_steps_only(validators, calibration):
    gate = Gate(validators, calibration)
    assert [step for step in range(1, 5) if gate.looks_at(step)] == [2, 4]


def test_a_score_is_the_agreement_of_the_validator_that_has_not_seen_the_case(validators, calibration):
    x0_hat, t = torch.randn(4, 4, 8, 8), torch.tensor([500, 0, 500, 0])
    targets = [target(fold=fold) for fold in (1, 0, 0, 1)]
    checks = Gate(validators, calibration).check(x0_hat, t, torch.tensor([2, 4, 2, 4]), targets)
    for row, (check, asked) in enumerate(zip(checks, targets, strict=True)):
        found = segment(validators[asked.fold], x0_hat[row : row + 1], t[row : row + 1])
        score = agreement(found, asked.mask[None], asked.region[None]).item()
        assert check.score == pytest.approx(score, abs=0.01)
        assert (check.step, check.t) == ((2, 500), (4, 0))[row % 2]


def test_a_threshold_is_that_of_the_size_and_the_step(validators, calibration):
    targets = [target(size) for size in BINS] * 2
    checks = Gate(validators, calibration).check(
        torch.randn(6, 4, 8, 8), torch.zeros(6, dtype=torch.long), torch.tensor([2, 2, 2, 4, 4, 4]), targets
    )
    assert [check.threshold for check in checks] == pytest.approx([0, 0.1, 0.2, 0, 0.3, 0.6])


def test_a_score_at_the_threshold_is_accepted_and_one_below_is_not():
    assert Check(4, 0, 0.5, 0.5).accepted
    assert not Check(4, 0, 0.49999, 0.5).accepted


def test_a_calibration_with_more_folds_than_validators_is_one_line_of_error(validators, calibration):
    with pytest.raises(ModelError, match="names fold 1") as error:
        Gate(validators[:1], calibration)
    assert "\n" not in str(error.value)
