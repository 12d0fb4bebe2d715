"""What the package leaves alone in the process that uses it."""

import subprocess
import sys
from pathlib import Path

import torch

IMPORT_ALL = """
import importlib, logging, pkgutil, sys, warnings
import accelerate, diffusers, matplotlib.pyplot, monai.networks.nets, peft, rich.progress, scipy.stats
import skimage.measure, torch, transformers, tyro
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

def state():
    names = ("", "diffusers", "transformers", "huggingface_hub", "peft")
    loggers = {name: logging.getLogger(name).level for name in names}
    bars = (diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled())
    kept = torch.get_rng_state().tolist(), torch.get_num_threads(), torch.is_grad_enabled()
    return loggers, bars, logging.root.handlers[:], warnings.filters[:], kept

before = state()
import diffaug
for module in pkgutil.walk_packages(diffaug.__path__, "diffaug."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert len([name for name in sys.modules if name.startswith("diffaug.")]) > 50
for one, other in zip(before, state(), strict=True):
    assert one == other, (one, other)
"""


def test_importing_every_module_changes_no_logger_no_bar_no_warning_and_no_random_state() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_fitting_and_painting_leave_the_random_state_of_their_caller(phantoms: Path, tiny, tmp_path: Path) -> None:
    from diffaug.config import GenerateConfig
    from diffaug.synthesis.generate import generate
    from diffaug.synthesis.shards import workshop_of
    from diffaug.training.fit import fit

    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    config = tiny.model_copy(update={"validator": tiny.validator.model_copy(update={"trajectories": 1})})
    fit(phantoms, tmp_path / "model", config, base=None)
    assert torch.equal(torch.get_rng_state(), before)
    config = GenerateConfig(count=1, shard_size=2, slots=2, gate="off", workers=1)
    generate(tmp_path / "model", phantoms, tmp_path / "set", config)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    assert workshop_of.cache_info().currsize == 0  # no model stays in memory
