"""Synthetic sets that several tests look at."""

import sys
from pathlib import Path

import numpy as np
import pytest

from diffaug.data.manifest import read_rows
from diffaug.synthesis.generate import generate
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.remove import remove
from diffaug.synthesis.shards import workshop_of

sys.path.insert(0, str(Path(__file__).parent))  # synthetic_sets.py

from synthetic_sets import CONFIG, with_thresholds


@pytest.fixture(scope="session")
def ungated(fitted, phantoms, tmp_path_factory):
    """A synthetic set in which everything painted is kept."""
    out = tmp_path_factory.mktemp("ungated") / "synthetic"
    generate(fitted, phantoms, out, CONFIG.model_copy(update={"gate": "off"}))
    return out


@pytest.fixture(scope="session")
def strict(fitted, phantoms, tmp_path_factory):
    """The fitted model, whose gate stops about a third of the samples and rejects some at the end."""
    out = tmp_path_factory.mktemp("strict")
    generate(with_thresholds(fitted, out / "lenient", {"2": 0.0, "4": 0.0}), phantoms, out / "synthetic", CONFIG)
    scores = np.array(
        [[c.score for c in row.checks] for row in read_rows(out / "synthetic" / "manifest.jsonl") if row.checks]
    )
    first = between(scores[:, 0], 0.34)
    last = between(scores[scores[:, 0] > first, 1], 0.5)
    return with_thresholds(fitted, out / "model", {"2": first, "4": last})


def between(scores, share):
    """Return a threshold that a share of scores is under, halfway between two: none equals it but for rounding."""
    ordered = np.sort(scores)
    place = max(1, round(share * len(ordered)))
    return float(ordered[place - 1 : place + 1].mean())


@pytest.fixture(scope="session")
def unbroken(strict, phantoms, tmp_path_factory):
    """A synthetic set made in one go, in one process, with a gate that turns some down."""
    out = tmp_path_factory.mktemp("unbroken") / "synthetic"
    generate(strict, phantoms, out, CONFIG)
    return out


@pytest.fixture(scope="session")
def removed(fitted, phantoms, tmp_path_factory):
    """The phantoms without their lesions, made in one go."""
    out = tmp_path_factory.mktemp("removed") / "set"
    remove(fitted, phantoms, out)
    return out


@pytest.fixture(scope="session")
def workshop(strict, phantoms):
    """The strict model and its data, loaded."""
    return workshop_of(make_plan(strict, phantoms, CONFIG, 0))
