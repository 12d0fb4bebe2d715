"""The code of docs/training.md runs as it stands there, block after block."""

import re
from pathlib import Path

import pytest
from study_folders import make_synthetic

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.fixture
def shelf(tmp_path, phantoms, fitted):
    for name, path in (("data", phantoms), ("models", fitted)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").symlink_to(path)
    make_synthetic(tmp_path / "synthetic" / "mine", data=phantoms)
    return tmp_path


def test_every_block_of_python_of_the_page_runs(shelf, monkeypatch):
    from monai.utils import set_determinism

    monkeypatch.chdir(shelf)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, names)
    set_determinism(None)
    assert len(names["loader"].dataset) == 8 and len(names["sampler"]) == 24
    assert set(names["batch"]["painted"]["decision"]) <= {"off", "kept", "rejected", "off tissue"}
