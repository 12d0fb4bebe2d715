"""Which settings of the segmentation model are best at N annotated cases? Tried on `train` alone, before any painting.

    python benchmarks/segmenter.py DATA OUT --annotated 50 --folds 2

`train` is divided into folds of N cases that cut no group. For each fold, the arm `real` is trained on it with each
setting and tested on 100 cases of the folds after it; `val` and `test` are never opened. A run is one line of
OUT/segmenter.jsonl; the same command again makes what is missing, and prints the table.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from diffaug.artifacts import digest_of_value, make_folder, read_jsonl, write_jsonl
from diffaug.config import StudyConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import read_dataset
from diffaug.data.split import folds_by_group
from diffaug.knobs import identity_of
from diffaug.study.arms import Arm
from diffaug.study.runs import Run
from diffaug.study.strata import contrast_cut, profile, record
from diffaug.study.workers import complete_runs

TEST = 100  # cases that a run is tested on
BASE: dict[str, Any] = {
    "widths": (32, 48, 64, 96, 128), "batch_size": 8, "iterations": 1000, "learning_rate": 2e-3, "ema": 0.99,
    "size": 128, "augmentation": 1.0,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "augmentation 0.25": {"augmentation": 0.25},
    "augmentation 0.5": {"augmentation": 0.5},
    "augmentation 0.75": {"augmentation": 0.75},
    "augmentation 1.5": {"augmentation": 1.5},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 4e-3": {"learning_rate": 4e-3},
    "size 96": {"size": 96},
    "size 160": {"size": 160},
    "widths 48": {"widths": (48, 64, 96, 128, 192)},
    "widths 24": {"widths": (24, 32, 48, 64, 96)},
    "batch 16, half the iterations": {"batch_size": 16},
    "no average": {"ema": 0.0},
    "weight decay 0.1": {"weight_decay": 0.1},
    "iterations x 2": {},
    "iterations x 4": {},
}
QUICK: dict[str, Any] = {"widths": (16, 16, 16, 16, 16), "size": 64, "batch_size": 4, "iterations": 2}


def runs_of(
    cases: Sequence[Case], names: Sequence[str], base: Mapping[str, Any], options: argparse.Namespace
) -> list[Run]:
    """Return a run for each setting and fold; profiles are measured once for the cases that are needed."""
    count = len(cases) // options.annotated
    fold_of = folds_by_group({case.id: case.group for case in cases}, count, options.seed)
    runs = []
    for fold in range(min(options.folds, count)):
        train = tuple(case for case in cases if fold_of[case.id] == fold)
        after = sorted((c for c in cases if fold_of[c.id] != fold), key=lambda c: (fold_of[c.id] - fold) % count)
        test = tuple(after[:TEST])
        cut = contrast_cut(profile(case) for case in train)
        columns = tuple(record(case, profile(case), cut) for case in test)
        shown = [[digest_of_case(case) for case in some] for some in (train, test)]
        for name in names:
            config = config_of(name, base)
            own = digest_of_value([identity_of(config), shown])[:6]
            arm = Arm(f"{name.replace(' ', '-')}-{own}", train)
            runs.append(Run(arm, fold, test, columns, config, "cpu", options.out, pictures=False))
    return runs


def config_of(name: str, base: Mapping[str, Any]) -> StudyConfig:
    """Return a setting: what it changes of the base; `iterations x 2` doubles the base's own, another halves them."""
    changed = {**base, **SETTINGS[name]} if base is BASE else dict(base)
    if name.startswith("iterations x "):
        changed["iterations"] *= int(name.removeprefix("iterations x "))
    if name.endswith(", half the iterations"):
        changed["iterations"] //= 2
    return StudyConfig(**changed)


def row_of(run: Run, name: str) -> dict[str, Any]:
    """Return what is known of a finished run: one line of the table of all runs."""
    records, log = read_jsonl(run.records), read_jsonl(run.out / "runs" / f"{run.name}.log.jsonl")
    small = [one for one in records if "small" in one["strata"]]
    return {
        "setting": name,
        "fold": run.seed,
        "annotated": len(run.arm.real),
        "n": len(records),
        "dice": round(fmean(one["dice"] for one in records), 4),
        "dice_small": round(fmean(one["dice"] for one in small), 4) if small else None,
        "n_small": len(small),
        "missed": round(fmean(one["missed"] for one in records), 4),
        "loss": log[-1]["loss"],
        "ms": log[-1]["ms"],
        "core_minutes": round(log[-1]["ms"] * run.config.iterations / 60_000, 2),
        "config": run.config.model_dump(mode="json", include=set(BASE) | {"size", "weight_decay", "augmentation"}),
    }


def same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two rows are of one run."""
    return all(one[name] == other[name] for name in ("setting", "fold", "annotated", "config"))


def main() -> None:
    """Try the settings, and print what came out, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set; only its annotated train cases are read")
    parser.add_argument("out", type=Path, help="folder of the runs and of segmenter.jsonl")
    parser.add_argument("--annotated", type=int, default=50)
    parser.add_argument("--folds", type=int, default=2, help="folds that are trained on")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE of StudyConfig, replacing those of the base")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two iterations of a tiny network: does it run?")
    options = parser.parse_args()
    base = QUICK if options.quick else BASE
    base.update(StudyConfig(**dict(pair.split("=", 1) for pair in options.set)).model_dump(exclude_unset=True))
    cases = read_dataset(options.data).annotated("train")
    make_folder(options.out)
    runs = runs_of(cases, options.only, base, options)
    named = [(run, name) for run, name in zip(runs, list(options.only) * len(runs), strict=False)]
    complete_runs(runs, options.workers)

    path = options.out / "segmenter.jsonl"
    fresh = [row_of(run, name) for run, name in named]
    write_jsonl(path, [row for row in read_jsonl(path) if not any(same_run(row, one) for one in fresh)] + fresh)
    mean = {name: fmean(row["dice"] for row in fresh if row["setting"] == name) for name in options.only}
    for name in sorted(mean, key=lambda one: -mean[one]):
        rows = [row for row in fresh if row["setting"] == name]
        minutes, missed = fmean(row["core_minutes"] for row in rows), fmean(row["missed"] for row in rows)
        print(f"{name:32} Dice {mean[name]:.3f}  missed {100 * missed:4.1f} %  {minutes:5.1f} core-minutes")


if __name__ == "__main__":
    main()
