"""The notebook uses public names alone, holds no outputs, and runs from top to bottom."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffaug

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_a_notebook_is_stored_without_what_it_printed() -> None:
    assert CODE
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)


def test_a_notebook_uses_public_names_alone() -> None:
    nodes = [node for code in CODE for node in ast.walk(ast.parse(code))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "diffaug"
    }
    assert imported == {"diffaug"} and not any(isinstance(node, ast.ImportFrom) for node in nodes)
    assert named and named <= set(diffaug.__all__)
    assert not any(isinstance(node, ast.Attribute) and node.attr.startswith("_") for node in nodes)


@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Its cells run as in a kernel, which has no script: workers of a study need no guard there."""
    source = str(Path(diffaug.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "\n".join(CODE)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "| lesion |" in result.stdout
    assert (tmp_path / "studies/mine/report.html").is_file()
    assert (tmp_path / "exported/Dataset101_Mine/splits_final.json").is_file()
