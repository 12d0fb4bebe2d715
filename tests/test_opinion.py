"""Laws of the measure of what the denoiser knows of lesions."""

import json
import sys

import numpy as np
import pytest
from benchmark_runs import BENCHMARKS, run_benchmark

sys.path.insert(0, str(BENCHMARKS))
from opinion import Looked, auc, disc, measured


def test_a_score_that_knows_lesions_has_an_area_of_1_and_one_that_knows_nothing_of_a_half():
    lesion = np.arange(400) % 2 == 0
    rng = np.random.default_rng(0)
    assert auc(lesion.astype(float), lesion) == 1
    assert auc(-lesion.astype(float), lesion) == 0
    assert auc(np.zeros(400), lesion) == pytest.approx(0.5)
    assert auc(rng.normal(size=400), lesion) == pytest.approx(0.5, abs=0.1)


def test_what_the_validators_are_blind_for_is_looked_at_alone():
    lesion = np.arange(200) % 2 == 0
    blind = lesion & (np.arange(200) < 40)
    probability = np.where(lesion & ~blind, 0.9, 0.01) + 1e-4 * np.random.default_rng(1).random(200)
    found = measured(Looked([str(n // 2) for n in range(200)], lesion, probability, np.tile(lesion * 1.0, (8, 1))))
    assert found["blind_lesions"] == 20
    assert found["auc_opinion"] == [1, 1, 1]
    assert found["auc_opinion_of_blind"] == 1
    assert 0.3 < found["auc_probability_of_blind"] < 0.7


@pytest.mark.parametrize("centre", [(5.0, 5.0), (-3.0, 4.0), (40.0, 40.0)])
def test_a_disc_has_its_area_inside_the_frame_and_a_pixel_at_least(centre):
    found = disc((30, 30), np.array(centre), 4.0)
    assert found.shape == (30, 30)
    assert 1 <= found.sum() <= 1.2 * np.pi * 16


def test_the_measure_runs_on_a_fitted_model(fitted, phantoms, tmp_path):
    run_benchmark("opinion", "--out", tmp_path, "--model", fitted, "--data", phantoms, "--split", "train")
    found = json.loads((tmp_path / "opinion.json").read_text())
    assert set(found) == {"outline", "disc"}
    assert all(kind["lesions"] >= 8 and 0 <= kind["auc_opinion"][0] <= 1 for kind in found.values())
