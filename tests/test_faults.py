"""The harness of benchmarks/faults.py: its faults hit, its mutations repeat, and what it measures it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
KEYS = {
    "kill_points", "lost", "torn", "differing", "stuck", "torn_files", "torn_accepted", "hostile_files", "tracebacks",
    "hangs", "outside", "peak_mb", "memory", "storage_faults", "findings",
}  # fmt: skip


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_mutations_are_a_function_of_their_seed_and_change_most_files(parts, tmp_path):
    from faulting.mutations import SHAPES, mutated
    from faulting.nasty import nasty_files

    Image.new("RGB", (8, 6), (200, 10, 10)).save(tmp_path / "a.png")
    valid = {"json": b'{"a": [1, {"b": "c"}]}', "csv": b"id,image\na,images/a.png\n", "text": b"0 0.1 0.2 0.3 0.4"}
    valid |= {"png": (tmp_path / "a.png").read_bytes(), "yaml": b"a: 1\nb: [2, 3]\n", "bytes": b"\0" * 64}
    for kind, data in valid.items():
        found = [mutated(kind, data, seed) for seed in range(50)]
        assert found == [mutated(kind, data, seed) for seed in range(50)]
        assert sum(one != data for one in found) >= 40
    assert all(len(nasty_files(kind)) > 20 for kind in SHAPES)


def test_trees_are_compared_by_what_they_say_and_torn_files_are_seen(parts, tmp_path):
    from faulting.trees import differences, torn_in, tree_of

    for name, seconds in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text(json.dumps({"seconds": seconds, "path": str(tmp_path / name / "x")}))
    assert differences(tree_of(tmp_path / "a"), tree_of(tmp_path / "b")) == ([], [])
    (tmp_path / "b" / "x.json").write_text('{"seconds"')
    (tmp_path / "a" / "y.png").write_bytes(b"")
    assert torn_in(tmp_path / "b") == ["x.json"]
    assert differences(tree_of(tmp_path / "a"), tree_of(tmp_path / "b")) == (["y.png"], ["x.json"])


@pytest.mark.slow
def test_a_measurement_under_faults_names_everything_and_finds_nothing(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "faults.py"), "--out", str(tmp_path), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    measured = json.loads((tmp_path / "faults.json").read_text())
    assert measured.keys() >= KEYS
    assert measured["findings"] == []
    assert measured["kill_points"] >= 5 and measured["torn_files"] >= 5 and measured["hostile_files"] >= 40
