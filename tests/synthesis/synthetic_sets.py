"""Models with other thresholds and samplers, the files of a synthetic set, and commands that run at the same time."""

import shutil
from contextlib import redirect_stdout
from multiprocessing import get_context

from diffaug.artifacts import read_json, write_json
from diffaug.cli.main import main
from diffaug.config import GenerateConfig
from diffaug.models.checkpoints import seal
from diffaug.models.sampling import read_sampler, write_sampler

CONFIG = GenerateConfig(count=3, shard_size=2, slots=2, negatives=0.0)
OPTIONS = ["--count", "3", "--shard-size", "2", "--slots", "2", "--negatives", "0", "--workers", "1"]  # of a command


def with_thresholds(model, to, thresholds):
    """Copy a model and give every size the same thresholds."""
    shutil.copytree(model, to)
    calibration = read_json(to / "calibration.json")
    calibration["thresholds"] = dict.fromkeys(calibration["thresholds"], thresholds)
    write_json(to / "calibration.json", calibration)
    seal(to)
    return to


def tables_and_pictures(folder):
    """Return every file that must not depend on how a set was made; times are the exception."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in ("seconds.json", "summary.json")
    }


def with_sampler(model, to, **change):
    """Copy a model and sample it otherwise."""
    shutil.copytree(model, to)
    write_sampler(to, read_sampler(to).model_copy(update=change))
    seal(to)
    return to


def run_at_once(commands, folder):
    """Run commands in forked processes, which have torch; all must end with 0. Return what each printed."""
    printed = [folder / f"printed-{number}.txt" for number in range(len(commands))]
    processes = [get_context("fork").Process(target=_run, args=each) for each in zip(commands, printed, strict=True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(commands)
    return [path.read_text() for path in printed]


def _run(words, path):
    with path.open("w") as file, redirect_stdout(file):
        main(words)
