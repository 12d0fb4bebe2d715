import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_runs import BENCHMARKS, run_benchmark
from layouts import write_drishti

from diffaug.data.duplicates import find_duplicates
from diffaug.data.folder import read_dataset
from diffaug.data.phantom import make_phantoms
from diffaug.study.leaks import WAYS

PAINTER_KEYS = {
    "removal_found_before", "removal_found_after", "removal_seen_before", "removal_seen_after",
    "codec_psnr_db", "codec_ssim", "kid_painted", "kid_copy_paste", "kid_real_codec", "kid_8_steps", "kid_50_steps",
    "auc_real_vs_painted", "auc_codec_vs_painted", "obedience", "mask_iou_median", "judge_iou_real", "copy_share",
    "copy_share_low", "seam_ratio", "sharpness_ratio", "fit_minutes", "fit_peak_gb", "milliseconds",
}  # fmt: skip
ENGINE_KEYS = {
    "kept_per_core_second_ratio", "kept_ratio_equal_steps", "check_share", "pixel_over_latent_cost", "auc_half",
    "auc_end", "auc_half_by_size", "auc_end_by_size", "slots_over_batches", "memory_growth_mb", "conv_peak_share",
    "segment_dice_gap", "coverage", "kid_ours", "kid_peer",
}  # fmt: skip


@pytest.mark.slow  # as the painter benchmark is, whose parts it shares; that of a loop fits and paints by default
def test_the_engine_benchmark_measures_everything_it_names(tmp_path):
    run_benchmark("engine", "--out", tmp_path, "--quick")
    measured = json.loads((tmp_path / "engine.json").read_text())
    assert measured.keys() >= ENGINE_KEYS
    assert measured["failures"] + measured["successes"] == 10
    assert 0 < measured["check_share"] < 1 and 0 < measured["conv_peak_share"] < 1
    assert measured["pixel_over_latent_cost"] > 0
    assert set(measured["slots_over_batches"]) == {"0.3", "0.5", "0.8"}
    for found in measured["slots_over_batches"].values():
        assert found["measured"] > 0 and found["ideal"] >= 1
    for found in measured["coverage"].values():
        assert found["asked"] == 0.95 and (found["n"] == 0 or found["low"] <= found["got"] <= found["high"])


def test_the_loop_benchmark_measures_every_way_and_each_is_repeatable(fitted, phantoms, tmp_path):
    sizes = ["--workers", 1, "--samples", 4, "--side", 96]
    printed = run_benchmark("loop", fitted, phantoms, *sizes, "--json", tmp_path / "loop.json")
    measured = json.loads((tmp_path / "loop.json").read_text())
    assert list(measured) == ["plain", "pasted", "painted"] and all(f"| {way} |" in printed for way in measured)
    assert all(row["repeatable"] and row["core_milliseconds"] > 0 and row["samples"] == 4 for row in measured.values())


@pytest.mark.slow
def test_the_painter_benchmark_measures_everything_it_names(tmp_path):
    run_benchmark("painter", "--out", tmp_path, "--quick")
    measured = json.loads((tmp_path / "painter.json").read_text())
    assert measured.keys() >= PAINTER_KEYS
    assert set(measured["obedience"]) == {"pale/red", "contrast", "texture"}
    for name in ("auc_real_vs_painted", "codec_ssim", "copy_share", "judge_iou_real"):
        assert 0.0 <= measured[name] <= 1.0
    for name in ("windows.png", "frames.png", "obedience.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_the_description_benchmark_makes_sheets_and_counts_what_a_reader_found_wrong(tmp_path):
    make_phantoms(tmp_path / "data", 11, 1, 1, 0, size=96, seed=0)
    words = (tmp_path / "data", tmp_path / "out", "--count", 10)
    assert "wrong.txt" in run_benchmark("descriptions", *words)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sheet-1.png", "sheet-2.png", "descriptions.json"}
    rows = json.loads((tmp_path / "out" / "descriptions.json").read_text())
    (tmp_path / "out" / "wrong.txt").write_text("2 colour border\n\n7 border\n")
    table = run_benchmark("descriptions", *words).splitlines()
    assert table[0] == "any: 2 of 10" and table[1].startswith("size: 0 of 10 (")
    assert any(line.startswith("border: 2 of 10") for line in table)
    said = rows[1]["words"]["colour"] or "(nothing)"
    assert any(line.startswith("colour: 1 of 10") and f"{said} 1 of " in line for line in table)


def test_the_solver_benchmark_names_every_solver_at_every_number_of_steps(tmp_path):
    make_phantoms(tmp_path / "data", 21, 1, 1, 0, size=96, seed=0)
    lines = run_benchmark("solvers", tmp_path / "data" / "images", "--quick").splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [[n, s] for n in "12" for s in ("ab2", "ddim")]
    assert all(float(line.split()[3]) > 0 for line in lines)


def test_the_benchmark_of_passes_trains_the_same_network_both_ways(tmp_path):
    make_phantoms(tmp_path / "data", 4, 1, 1, 0, size=96, seed=0)
    lines = run_benchmark("passes", tmp_path / "data", "--device", "cpu", "--quick").splitlines()
    assert [line.split()[:2] for line in lines] == [["cpu:", "launched"], ["cpu:", "recorded"]]
    assert lines[0].split()[-1] == lines[1].split()[-1] and float(lines[0].split()[2]) > 0


@pytest.mark.slow
def test_the_segmenter_benchmark_records_a_line_a_run_and_repeats_none(tmp_path):
    make_phantoms(tmp_path / "data", 12, 1, 1, 0, size=96, seed=0)
    words = (tmp_path / "data", tmp_path / "out", "--quick", "--folds", 2)
    more = ("--annotated", 4, "--only", "base", "iterations x 2")
    table = run_benchmark("segmenter", *words, *more).splitlines()
    assert {line.split("Dice")[0].strip() for line in table} == {"base", "iterations x 2"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "segmenter.jsonl").read_text().splitlines()]
    assert {(row["setting"], row["fold"]) for row in rows} == {
        (s, f) for s in ("base", "iterations x 2") for f in (0, 1)
    }
    assert all(row["annotated"] == 4 and row["n"] == 8 and 0 <= row["dice"] <= 1 and row["ms"] > 0 for row in rows)
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*-[01].jsonl")}
    run_benchmark("segmenter", *words, *more, "--set", "bootstrap=9")
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert len((tmp_path / "out" / "segmenter.jsonl").read_text().splitlines()) == 4

    run_benchmark("segmenter", *words, "--annotated", 6, "--only", "base")
    assert len(list((tmp_path / "out" / "runs").glob("*-[01].jsonl"))) == 6  # other cases are other runs


def test_the_stable_diffusion_benchmark_measures_training_and_painting(tmp_path):
    run_benchmark("stable_diffusion", tmp_path, "--quick", "--once", "--device", "cpu")
    measured = json.loads((tmp_path / "stable_diffusion.json").read_text())
    assert [row["what"] for row in measured["painting"]] == ["diffusers", "ours"]
    assert [row["checkpointing"] for row in measured["training"]] == [True, False]
    assert all(
        row["ms"] > 0 and row["peak_gib"] >= row["held_gib"]
        for kind in ("painting", "training")
        for row in measured[kind]
    )
    assert measured["training"][1]["kept_gib"] > 0


def test_the_placement_benchmark_finds_no_violation_on_phantoms_with_an_overlay_and_text(tmp_path):
    printed = run_benchmark("placement", "--out", tmp_path, "--quick")
    measured = json.loads((tmp_path / "placement.json").read_text())
    assert set(measured["violations"]) == {"border", "overlay", "text", "lesion", "painted border"}
    assert not any(measured["violations"].values())
    assert sum(measured["placements"].values()) == 12
    assert measured["real"]["lesions_per_frame"] >= 1 and "lesions a frame" in printed
    assert (tmp_path / "sheet-1.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_fundus_benchmark_compares_requested_and_measured_ratios(tmp_path):
    tree = write_drishti(tmp_path / "tree", 14, cropped=True)
    run_benchmark("drishti", "--out", tmp_path, "--from", tree, "--quick")
    measured = json.loads((tmp_path / "drishti.json").read_text())
    assert -1 <= measured["vcdr_rank_correlation"] <= 1
    assert 0 <= measured["vcdr_mae"] <= 1 and 0 <= measured["vcdr_mae_segmenter"] <= 1
    pairs = list(measured["ratios"].values())
    assert len(pairs) == measured["painted"] == 8
    assert abs(measured["vcdr_mae"] - sum(abs(a - b) for a, b in pairs) / 8) < 1e-3
    assert measured["requested"] == [min(a for a, _ in pairs), max(a for a, _ in pairs)]
    assert (tmp_path / "discs.png").stat().st_size > 10_000


def test_the_leak_benchmark_makes_sequences_and_compares_each_way_with_the_honest_one(tmp_path):
    make_phantoms(tmp_path / "data", 8, 1, 1, 0, size=96, seed=0)
    sizes = ["--sequences", 5, "--frames", 3, "--workers", 1, "--quick"]
    told = run_benchmark("leaks", tmp_path / "data", "--out", tmp_path / "out", *sizes).splitlines()
    assert told[0].startswith("7 groups, 17 frames")  # two frames are saved twice, each a group of its own
    assert [line.split(":")[0] for line in told[1:]] == list(WAYS)
    assert told[1].endswith("+0.0 points [0.0, 0.0]")
    cases = read_dataset(tmp_path / "out" / "sequences").split("train")
    assert all(case.read_mask().any() for case in cases)
    pairs = find_duplicates(cases)
    assert {(name, f"{name[:-2]}-again") for name in ("train-0-0", "train-3-0")} <= set(pairs)


def test_the_structure_benchmark_counts_code_imports_and_knobs(tmp_path):
    files = {
        "src/diffaug/__init__.py": "",
        "src/diffaug/config.py": (
            "class Knobs:\n    pass\n\n\nclass FitConfig(Knobs):\n    iterations: int = 3\n    rank: int = 0\n"
            "    width: int = 8\n\n\nclass Config(Knobs):\n    fit: FitConfig = FitConfig()\n    seed: int = 0\n"
        ),
        "src/diffaug/data/__init__.py": "",
        "src/diffaug/data/case.py": '"""A module."""\n\n\ndef pick(row):\n    # why\n    return row["id"]\n',
        "src/diffaug/study/__init__.py": "",
        "src/diffaug/study/run.py": "from diffaug.data import case\n\ndef run():\n    from diffaug.study import arms\n",
        "src/diffaug/study/arms.py": "from .run import run\n",
        "docs/results.md": "`fit --iterations 5` was better; its rank and its seed are told in prose alone\n",
        "benchmarks/sweep.py": 'SETTINGS = ("fit.width=16",)\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    measured = json.loads(run_benchmark("structure", "--root", tmp_path, "--json"))[tmp_path.name]
    assert measured["code"]["data"] == 2 and measured["lines"]["data"] == 6
    assert measured["module_cycles"] == [["study.arms", "study.run"]] and measured["package_cycles"] == []
    assert measured["layers"] == ["study", "data"]
    assert measured["knobs"] == ["fit.iterations", "fit.rank", "fit.width", "seed"]
    assert measured["unproven"] == ["fit.rank", "seed"]
    assert measured["row_accesses"] == 1 and measured["function"] == {"name": "data.case.pick", "lines": 3}


def test_the_structure_benchmark_finds_no_cycle_in_the_package():
    printed = run_benchmark("structure")
    assert "| cycles of modules | none |" in printed and "| cycles of packages | none |" in printed


def test_the_duplicate_benchmark_finds_changed_copies_and_no_others(tmp_path):
    run_benchmark("duplicates", "--out", tmp_path, "--quick")
    measured = json.loads((tmp_path / "duplicates.json").read_text())
    assert 0.8 <= measured["duplicate_recall"] <= 1 and measured["duplicate_false_alarms"] <= 0.2
    assert set(measured["recall"]["phantoms"]) == {"resized", "JPEG", "flipped", "cut", "lighter", "all"}


@pytest.mark.slow
@pytest.mark.browser
def test_the_scale_benchmark_measures_every_key_it_names(tmp_path):
    pytest.importorskip("playwright", reason="needs Playwright: pip install 'diffaug[dev]'")
    if shutil.which("chromium") is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--out", str(tmp_path), "--quick", "--only", "review"]
    subprocess.run(command, check=True, capture_output=True, text=True)  # a process has one browser
    measured = json.loads((tmp_path / "scale.json").read_text())
    assert measured["review_rows"] == 1000 and measured["review_open_s"] > 0
    assert 0 < measured["review_key_ms"] <= measured["review_key_most_ms"]
    assert not list(tmp_path.glob("work-*"))


@pytest.mark.slow
def test_the_speed_benchmark_compares_two_clones_and_names_what_it_measures(tmp_path: Path) -> None:
    run_benchmark("speed", "--out", tmp_path, "--quick", "--before", BENCHMARKS.parent)
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["phantoms_kept"] == found["phantoms_before_kept"]  # the same code keeps the same
    assert found["kept_over_before"] > 0 and 0 < found["denoise_share"] < 1 and found["worker_peak_gb"] > 0
    spent, per_request = sum(found["phantoms_stages"].values()), found["phantoms_seconds_per_request"]
    assert spent == pytest.approx(per_request, abs=0.01)  # every second belongs to one stage


@pytest.mark.slow
def test_the_scale_benchmark_compares_workers_of_every_kind(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'diffaug[dev]'")
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--out", str(tmp_path), "--quick", "--only", "workers"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads((tmp_path / "scale.json").read_text())
    assert measured["ray_over_processes"] > 0 and measured["ray_two_over_one"] > 0
    assert measured["identical"] and measured["killed_worker_was_killed"] and measured["killed_worker_lost"] == 0


@pytest.mark.slow
def test_the_scale_benchmark_measures_the_memory_of_every_command(tmp_path):
    run_benchmark("scale", "--out", tmp_path, "--quick", "--only", "stream")
    measured = json.loads((tmp_path / "scale.json").read_text())
    assert {row["command"] for row in measured["stream"]} == {"export coco", "select", "audit", "audit --with"}
    assert all(row["peak_mb"] > 20 and row["seconds"] > 0 for row in measured["stream"])
    assert measured["stream_growth_mb"] == max(measured["stream_growth_by_command_mb"].values())
    assert not list(tmp_path.glob("work-*"))
