"""Processes that `accelerate launch` starts train what one trains, also when they were killed on the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffaug.artifacts import read_jsonl

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]
OPTIONS = ["--codec.window", "64", "--codec.width", "32", "--codec.iterations", "4", "--codec.batch-size", "2"]
OPTIONS += ["--denoiser.widths", "16", "32", "--denoiser.text-width", "32", "--denoiser.text-layers", "1"]
OPTIONS += ["--denoiser.windows-per-case", "2", "--denoiser.iterations", "6", "--denoiser.batch-size", "8"]
OPTIONS += ["--validator.views-per-case", "1", "--validator.iterations", "3", "--validator.folds", "2"]
OPTIONS += ["--validator.windows-per-case", "3", "--validator.trajectories", "1", "--sampler.steps", "4"]
# float32 on every machine; every iteration is logged and kept, and what DIE_AT says is the last of the painter
SCRIPT = """
import os, signal
from contextlib import nullcontext
import diffaug.models.base
import diffaug.training.codec
from diffaug.training import loop
from diffaug.cli.main import main
diffaug.models.base.autocast = diffaug.training.codec.autocast = lambda device: nullcontext()
loop.LOG_EVERY, loop.CHECKPOINT_SECONDS = 1, -1.0
save = loop._save
def save_and_die(path, tensors, done):
    save(path, tensors, done)
    if path.name.startswith("painter") and str(done) == os.environ.get("DIE_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
loop._save = save_and_die
if __name__ == "__main__":
    main()
"""


def fit(script: Path, words: list[str], data: Path, model: Path, **more: str) -> int:
    command = [sys.executable, *words, str(script), "fit", str(data), str(model), "--from-scratch", *OPTIONS]
    return subprocess.run(command, check=False, capture_output=True, env={**os.environ, **more}).returncode


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one_and_resume_where_they_were_killed(phantoms, tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    models = [tmp_path / name for name in ("one", "two", "killed")]
    assert fit(script, [], phantoms, models[0]) == 0
    assert fit(script, LAUNCH, phantoms, models[1]) == 0
    assert fit(script, LAUNCH, phantoms, models[2], DIE_AT="3") != 0
    assert not (models[2] / "digests.json").exists() and (models[2] / "training" / "painter.checkpoint").exists()
    assert fit(script, LAUNCH, phantoms, models[2]) == 0
    curves = [[row["loss"] for row in read_jsonl(model / "training" / "painter.log.jsonl")] for model in models]
    assert [len(curve) for curve in curves] == [6, 6, 6]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)  # sums of rows in another order
    assert curves[2] == curves[1]
    weights = [load_file(model / "unet" / "diffusion_pytorch_model.safetensors") for model in models]
    one, two, killed = (torch.cat([some[name].flatten() for name in sorted(some)]) for some in weights)
    assert torch.equal(two, killed)
    assert (two - one).norm() < 1e-3 * one.norm()  # AdamW takes whole steps where a gradient is nearly 0
