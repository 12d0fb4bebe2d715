"""Sets that the tests of the review share, and a browser."""

import shutil
import sys
from pathlib import Path

import pytest
from study_folders import make_dataset

sys.path.insert(0, str(Path(__file__).parent))  # review_folders.py

from review_folders import make_set


@pytest.fixture(scope="session")
def review_data(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("review-data") / "data", train=6, test=5)


@pytest.fixture(scope="session")
def review_set(tmp_path_factory, review_data) -> Path:
    return make_set(tmp_path_factory.mktemp("review-set") / "synthetic", review_data)


@pytest.fixture
def own_set(review_set, tmp_path) -> Path:
    """A copy of the set, which a test may write into."""
    return shutil.copytree(review_set, tmp_path / "synthetic")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'diffaug[dev]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
