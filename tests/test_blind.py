"""The benchmark that shows painted and real frames to a reader who does not know which is which."""

import json

import numpy as np
import pytest
from benchmark_runs import run_benchmark
from PIL import Image

from diffaug.config import GenerateConfig
from diffaug.data.folder import read_dataset
from diffaug.data.images import read_image
from diffaug.data.manifest import read_manifest
from diffaug.synthesis.generate import generate
from diffaug.synthesis.remove import remove


def test_blind_sheets_show_as_many_real_frames_as_painted_ones_and_no_source_of_these(tmp_path, phantoms, fitted):
    made = tmp_path / "made"
    generate(fitted, phantoms, made, GenerateConfig(count=3, shard_size=4, gate="off", negatives=0.0), seed=2)
    assert "answers.csv" in run_benchmark("blind", phantoms, made, "--out", tmp_path / "sheets", "--count", 2)
    key = json.loads((tmp_path / "sheets-key.json").read_text())["answers"]
    kinds = [answer["kind"] for answer in key.values()]
    assert sorted(kinds) == ["painted"] * (len(kinds) // 2) + ["real"] * (len(kinds) // 2) and 2 <= len(kinds) <= 4
    rows = {row.id: row for row in read_manifest(made).rows}
    sources = {name for answer in key.values() if answer["id"] in rows for name in rows[answer["id"]].request.sources}
    real = {number: read_dataset(phantoms)[answer["id"]] for number, answer in key.items() if answer["kind"] == "real"}
    assert not {case.id for case in real.values()} & sources
    for number, case in real.items():
        assert np.array_equal(read_image(tmp_path / "sheets" / "frames" / f"{int(number):02d}.png"), case.read_image())
    files = [path for path in (tmp_path / "sheets").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".png", ".csv"}  # the key lies apart
    for path in (tmp_path / "sheets" / "frames").iterdir():
        with Image.open(path) as picture:
            assert picture.size == (128, 128) and not picture.info  # nothing but pixels


def test_blind_sheets_of_removal_show_windows_without_a_lesion(tmp_path, phantoms, fitted):
    remove(fitted, phantoms, tmp_path / "removed")
    run_benchmark("blind", phantoms, tmp_path / "removed", "--out", tmp_path / "sheets", "--removal", "--count", 3)
    key = json.loads((tmp_path / "sheets-key.json").read_text())["answers"]
    assert {answer["kind"] for answer in key.values()} == {"painted", "real"} and len(key) <= 6
    sizes = {Image.open(path).size for path in (tmp_path / "sheets" / "frames").iterdir()}
    assert len(sizes) == 1


def test_a_blind_reader_is_scored_with_an_exact_interval(tmp_path):
    kinds = ["painted"] * 24 + ["real"] * 24
    answers = {str(n): {"kind": kind, "id": f"case-{n}"} for n, kind in enumerate(kinds, start=1)}
    (tmp_path / "key.json").write_text(json.dumps({"answers": answers}))
    said = ["painted"] * 6 + ["cannot tell"] * 4 + ["real"] * 38
    lines = "".join(f"{n},{answer},\n" for n, answer in enumerate(said, start=1))
    (tmp_path / "answers.csv").write_text("number,answer,what gives it away\n" + lines)
    (tmp_path / "answers.json").write_text(json.dumps({str(n): answer for n, answer in enumerate(said, start=1)}))
    key = ("--key", tmp_path / "key.json")
    shown = [run_benchmark("blind", "--score", tmp_path / f"answers.{end}", *key) for end in ("csv", "json")]
    assert shown[0] == shown[1]
    assert "painted: 18 of 24 pass for real (95 % interval 0.53 to 0.90): real 14, painted 6, cannot tell 4" in shown[0]
    assert "real: 24 of 24 pass for real (95 % interval 0.86 to 1.00)" in shown[0]
    assert "right answers: 30 of 44" in shown[0]
    for line, rule in (("1,maybe,", "one of real, painted, cannot tell"), ("99,real,", "no frame 99")):
        (tmp_path / "answers.csv").write_text("number,answer,what gives it away\n" + line)
        with pytest.raises(SystemExit, match=rule) as error:
            run_benchmark("blind", "--score", tmp_path / "answers.csv", *key)
        assert "\n" not in str(error.value)
