"""The measure of validators runs, and its wrong masks are wrong."""

import json
import sys

import pytest
import torch
from benchmark_runs import BENCHMARKS, run_benchmark

from diffaug.data.folder import read_dataset
from diffaug.painting.painter import Painter
from diffaug.training.windows import Annotated

sys.path.insert(0, str(BENCHMARKS))
from validators import KINDS, SMALLEST, lesions_of, wrong_masks


@pytest.fixture(scope="module")
def windows(fitted, phantoms):
    cases = [Annotated.of(case) for case in read_dataset(phantoms).split("train")]
    return lesions_of(Painter.load(fitted), cases)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_mask_is_moved_or_of_another_size_and_lies_in_its_region(windows, kind):
    rows, masks, regions = wrong_masks(windows, kind)
    right, wrong = windows.fine_mask[rows] > 0.5, masks > 0.5
    assert len(rows) and (wrong.sum((1, 2, 3)) >= SMALLEST).all()
    assert (regions[wrong] == 1).all()
    overlap = (right & wrong).sum((1, 2, 3)) / (right | wrong).sum((1, 2, 3))
    assert (overlap < 0.7).all()
    sizes = wrong.sum((1, 2, 3)) / right.sum((1, 2, 3)).clamp_min(1)
    assert kind != "grown" or (sizes > 1.2).all()
    assert kind != "shrunk" or (sizes < 0.6).all()


def test_the_measure_runs_on_a_fitted_model(fitted, phantoms, tmp_path):
    run_benchmark("validators", "--out", tmp_path, "--model", fitted, "--data", phantoms, "--split", "train")
    found = json.loads((tmp_path / "validators.json").read_text())
    assert found["lesions"] >= 8
    assert all(0 <= found[f"auc_{kind}"] <= 1 and 0 <= found[f"caught_{kind}"] <= 1 for kind in KINDS)
    assert found["frames"][1] <= found["frames"][0] <= found["frames"][2]
    assert torch.tensor([found["agreement"], found["halfway"], found["under_floor"]]).isfinite().all()
