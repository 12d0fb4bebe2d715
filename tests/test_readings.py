"""What readers said of painted lesions, and what the critic learns from it."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from diffaug.config import GenerateConfig
from diffaug.data.manifest import read_manifest
from diffaug.realism.critic import READERS
from diffaug.realism.features import LENGTH
from diffaug.synthesis.generate import generate

ROOT = Path(__file__).parents[1]


@pytest.fixture
def readings(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "runs"))
    import readings

    return readings


def test_the_shipped_weights_are_those_that_the_shipped_readings_teach(readings, tmp_path, capsys):
    readings.learn(ROOT / "docs" / "results" / "readings", tmp_path / "made.safetensors")
    made, shipped = load_file(tmp_path / "made.safetensors"), load_file(READERS)
    assert set(made) == set(shipped)
    for name, values in shipped.items():
        np.testing.assert_allclose(made[name].float(), values.float(), atol=1e-4)
    assert "555 painted lesions of 185 examples, rank correlation 0.61" in capsys.readouterr().out


def test_a_score_is_foretold_without_the_lesions_of_the_same_example(readings):
    rng = np.random.default_rng(0)
    rows, scores = rng.normal(size=(60, 8)), rng.uniform(size=60)
    examples = [f"case-{number % 20}" for number in range(60)]
    own = np.array([example == "case-3" for example in examples])
    changed = np.where(own, 1 - scores, scores)
    before, after = (readings.held_out(rows, each, examples) for each in (scores, changed))
    np.testing.assert_allclose(before[own], after[own])
    assert not np.allclose(before[~own], after[~own])


def test_a_ridge_regression_finds_what_the_scores_depend_on_in_the_units_of_the_features(readings, monkeypatch):
    monkeypatch.setattr(readings, "PENALTY", 1e-6)
    rows = np.random.default_rng(0).normal(size=(200, 4)) * [1, 10, 0.1, 1] + [0, 5, -2, 0]
    weights, bias = readings.ridge(rows, rows @ [0.5, 0.02, -3.0, 0.0] + 0.25)
    np.testing.assert_allclose(weights, [0.5, 0.02, -3.0, 0.0], atol=1e-6)
    assert bias == pytest.approx(0.25, abs=1e-5)


def test_sheets_show_every_painted_lesion_and_the_answers_become_readings(readings, tmp_path, phantoms, fitted):
    made, sheets, kept = tmp_path / "made", tmp_path / "sheets", tmp_path / "readings"
    generate(fitted, phantoms, made, GenerateConfig(count=2, shard_size=4, gate="off", negatives=0.0), seed=2)
    readings.make_sheets(phantoms, made, sheets, seed=0)
    pictures = sorted(sheets.iterdir())
    painted = {row.request.id for row in read_manifest(made) if row.image}
    numbers = len(load_file(f"{sheets}-key.safetensors")["features"])
    assert len(pictures) == -(-numbers // 9) and {path.suffix for path in pictures} == {".png"}
    with Image.open(pictures[0]) as sheet:
        assert sheet.size == (3 * (352 + 6), 3 * (352 + 24)) and not sheet.info
    answers = tmp_path / "answers.csv"
    answers.write_text("".join(f"{number},{number % 11},EDGE: cut, and torn\n" for number in range(numbers, 0, -1)))
    for name in ("first", "second"):
        readings.add(sheets, answers, kept, "endoscopy", name)
    rows, features = readings.read_readings(kept)
    assert features.shape == (2 * numbers, LENGTH) and np.array_equal(features[:numbers], features[numbers:])
    assert {row["id"] for row in rows if row["kind"] == "painted"} == painted
    with (kept / "readings.csv").open(newline="") as file:
        assert {row["reason"] for row in csv.DictReader(file)} == {"EDGE: cut, and torn"}
    assert {row["set"] for row in rows} == {"first", "second"}
