"""Whole pipelines as a user runs them. Everything here takes a minute or more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import refuge_stems, write_clinicdb, write_drishti, write_refuge

from diffaug.artifacts import digest_of_file
from diffaug.config import PRESETS, config_from_values
from diffaug.data.folder import read_dataset
from diffaug.pipeline import estimate, run_pipeline

ROOT = Path(__file__).parent.parent


def run_script(name: str, *words: str, **variables: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", str(ROOT / "runs" / name), *words],
        env={**os.environ, "PATH": path, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    return done.stdout


def test_every_preset_has_an_estimate_and_the_demo_fits_into_eight_minutes() -> None:
    for name, preset in PRESETS.items():
        assert estimate(preset)["minutes"] > 0, name
    assert estimate(PRESETS["demo"])["minutes"] < 8


@pytest.mark.slow
def test_the_smoke_script_runs_every_stage_on_phantoms_and_ends_with_a_report(tmp_path: Path) -> None:
    last = run_script("smoke.sh", str(tmp_path / "mit Leerzeichen")).strip().splitlines()[-1]
    page = Path(last).read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") or page.startswith("<!doctype html>")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clinicdb", "refuge2", "drishti"])
def test_the_whole_study_runs_on_a_tiny_tree_of_the_published_layout(name: str, tmp_path: Path) -> None:
    source, out = tmp_path / "published set", str(tmp_path / "out")
    if name == "clinicdb":
        write_clinicdb(source, (72, 96), ".png")
    elif name == "refuge2":
        write_refuge(source, refuge_stems(24, 3, 6), side=256)
    else:
        write_drishti(source, 30, side=128)
    words = (out, str(source)) if name == "drishti" else (str(source), out)
    smoke = {"PRESET": "smoke", "ANNOTATED": "80" if name == "clinicdb" else "12", "GENERATE": "--gate off"}
    page = Path(run_script(f"{name}.sh", *words, **smoke).strip().splitlines()[-1])
    assert "<html" in page.read_text(encoding="utf-8")
    names = ("lesion",) if name == "clinicdb" else ("disc", "cup")
    for made in ("data", "synthetic"):
        assert read_dataset(tmp_path / "out" / made).class_names == names
    arms = json.loads((tmp_path / "out" / "study" / "summary.json").read_text())["arms"]
    assert all(set(arm.get("classes", ())) == ({"disc", "cup"} if len(names) == 2 else set()) for arm in arms.values())


@pytest.mark.slow
def test_a_run_from_one_config_resumes_to_the_same_summary(tmp_path: Path) -> None:
    config = config_from_values({"out": tmp_path, "generate": {"gate": "off"}}, "smoke")
    (report,) = run_pipeline(config)
    summary = report.parent / "summary.json"
    before = digest_of_file(summary)
    arms = json.loads(summary.read_text())["arms"]
    assert set(arms) == {"real", "copy-paste", "validated"}
    (report.parent / "runs" / "validated-0.jsonl").unlink()  # as if killed before the last run had finished
    summary.unlink()
    run_pipeline(config)
    assert digest_of_file(summary) == before
