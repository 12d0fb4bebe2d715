from pathlib import Path

import pytest
from study_folders import make_dataset, make_synthetic


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data with späces")


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    return make_synthetic(tmp_path / "synthetic")
