"""Which settings of the segmentation model are best at N annotated cases? Tried on `train` alone, before any painting.

    python benchmarks/segmenter.py DATA OUT --annotated 50 --folds 2
    python benchmarks/segmenter.py DATA OUT --arm mean-teacher --only "confidence 0.8" "confidence 0.9"

`train` is divided into folds of N cases that cut no group. For each fold, the arm is trained on it with each setting
and tested on 100 cases of the folds after it; `val` and `test` are never opened. To an arm that trains itself, the
other cases of `train` but the tested ones are unannotated images. A run is one line of OUT/segmenter.jsonl; the same
command again makes what is missing, and prints the table.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

from diffaug.artifacts import digest_of_value, make_folder, read_jsonl, write_jsonl
from diffaug.config import UNET, StudyConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import read_dataset
from diffaug.data.split import folds_by_group
from diffaug.study.architectures import identity_of_study
from diffaug.study.arms import MEAN_TEACHER, SELF_TRAINED, Arm
from diffaug.study.derive import Baseline, labelled_cases, make_labels
from diffaug.study.runs import Run
from diffaug.study.strata import contrast_cut, profile, record
from diffaug.study.workers import complete_runs

TEST = 100  # cases that a run is tested on
SETTINGS: dict[str, dict[str, Any]] = {  # what each changes of the base: the defaults of the network, and --set
    "base": {},
    "augmentation 0.5": {"augmentation": 0.5},
    "augmentation 1.0": {"augmentation": 1.0},
    "size 128": {"size": 128},
    "size 192": {"size": 192},
    "size 224": {"size": 224},
    "encoder rate x 1/3": {},
    "encoder rate x 3": {},
    "rates x 1/2": {},
    "rates x 2": {},
    "batch 16, half the iterations": {"batch_size": 16},
    "no average": {"ema": 0.0},
    "slower average": {"ema": 0.995},
    "weight decay 0.1": {"weight_decay": 0.1},
    "iterations x 1/2": {},
    "iterations x 2": {},
    "iterations x 4": {},
    "confidence 0.5": {"pseudo_confidence": 0.5, "teacher_confidence": 0.5},
    "confidence 0.8": {"pseudo_confidence": 0.8, "teacher_confidence": 0.8},
    "confidence 0.9": {"pseudo_confidence": 0.9, "teacher_confidence": 0.9},
    "confidence 0.95": {"pseudo_confidence": 0.95, "teacher_confidence": 0.95},
    "widths 48": {"widths": (48, 64, 96, 128, 192)},
    "widths 24": {"widths": (24, 32, 48, 64, 96)},
}
SCALED = {"encoder rate": ("encoder_rate",), "rates": ("learning_rate", "encoder_rate"), "iterations": ("iterations",)}
SHOWN = {
    "network",
    "widths",
    "size",
    "batch_size",
    "iterations",
    "learning_rate",
    "encoder_rate",
    "ema",
    "weight_decay",
    "augmentation",
    "pseudo_confidence",
    "teacher_confidence",
}
QUICK: dict[str, Any] = {"network": UNET, "widths": (16,) * 5, "size": 64, "batch_size": 4, "iterations": 2}


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
            own = digest_of_value([identity_of_study(config), shown, options.arm])[:6]
            arm = arm_of(f"{name.replace(' ', '-')}-{own}", train, tuple(after[TEST:]), fold, config, options)
            runs.append(Run(arm, fold, test, columns, config, "cpu", options.out, pictures=False))
    return runs


def arm_of(
    name: str,
    train: tuple[Case, ...],
    others: Sequence[Case],
    fold: int,
    config: StudyConfig,
    options: argparse.Namespace,
) -> Arm:
    """Return what is trained on; for pseudo-labels, the network of `real` is trained before, once for each fold."""
    arm, unannotated = Arm(name, train), tuple(replace(case, mask=None, split="unannotated") for case in others)
    if options.arm == MEAN_TEACHER:
        return replace(arm, taught=unannotated)
    if options.arm == "real":
        return arm
    plain = config.model_copy(update={"pseudo_confidence": StudyConfig().pseudo_confidence})
    folder = options.out / f"labels-{digest_of_value([identity_of_study(plain), [c.id for c in train]])[:6]}"
    baseline = Baseline(folder, fold, config, train)
    run = Run(Arm("real", train), fold, train[:1], ({"strata": []},), config, "cpu", folder, pictures=False, keep=True)
    complete_runs([run], 1)
    make_labels(baseline, unannotated)
    return replace(arm, pool=labelled_cases(baseline, unannotated))


def settings_of(network: str, arm: str) -> list[str]:
    """Return the settings that change something: `unet` alone has widths, others an encoder, `real` no confidence."""
    others = ("encoder" if network == UNET else "widths", *(("confidence",) if arm == "real" else ()))
    return [name for name in SETTINGS if not name.startswith(others)]


def config_of(name: str, base: Mapping[str, Any]) -> StudyConfig:
    """Return a setting: what it changes of the base, or the knobs that it scales."""
    config = StudyConfig(**{**base, **SETTINGS[name]})
    what, _, factor = name.partition(" x ")
    scales = {knob: float(Fraction(factor)) for knob in SCALED[what]} if what in SCALED else {}
    if name.endswith(", half the iterations"):
        scales = {"iterations": 0.5}
    if config.network == UNET:
        scales.pop("encoder_rate", None)
    found = {knob: getattr(config, knob) * scale for knob, scale in scales.items()}
    return config.model_copy(update={knob: round(v) if knob == "iterations" else v for knob, v in found.items()})


def row_of(run: Run, name: str, arm: str) -> dict[str, Any]:
    """Return what is known of a finished run: one line of the table of all runs."""
    records, log = read_jsonl(run.records), read_jsonl(run.out / "runs" / f"{run.name}.log.jsonl")
    small = [one for one in records if "small" in one["strata"]]
    return {
        "setting": name,
        "arm": arm,
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
        "config": run.config.model_dump(mode="json", include=SHOWN),
    }


def same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two rows are of one run."""
    return all(one.get(name) == other.get(name) for name in ("setting", "arm", "fold", "annotated", "config"))


def main() -> None:
    """Try the settings, and print what came out, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set; only its annotated train cases are read")
    parser.add_argument("out", type=Path, help="folder of the runs and of segmenter.jsonl")
    parser.add_argument("--annotated", type=int, default=50)
    parser.add_argument("--folds", type=int, default=2, help="folds that are trained on")
    parser.add_argument("--arm", default="real", choices=["real", *SELF_TRAINED])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), help="settings; by default all")
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE of StudyConfig: changes of the base")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two iterations of a tiny network: does it run?")
    options = parser.parse_args()
    base = {**(QUICK if options.quick else {}), **dict(pair.split("=", 1) for pair in options.set)}
    names = options.only or settings_of(StudyConfig(**base).network, options.arm)
    cases = read_dataset(options.data).annotated("train")
    make_folder(options.out)
    runs = runs_of(cases, names, base, options)
    named = [(run, name) for run, name in zip(runs, names * len(runs), strict=False)]
    complete_runs(runs, options.workers)

    path = options.out / "segmenter.jsonl"
    fresh = [row_of(run, name, options.arm) for run, name in named]
    write_jsonl(path, [row for row in read_jsonl(path) if not any(same_run(row, one) for one in fresh)] + fresh)
    mean = {name: fmean(row["dice"] for row in fresh if row["setting"] == name) for name in names}
    for name in sorted(mean, key=lambda one: -mean[one]):
        rows = [row for row in fresh if row["setting"] == name]
        minutes, missed = fmean(row["core_minutes"] for row in rows), fmean(row["missed"] for row in rows)
        print(f"{name:32} Dice {mean[name]:.3f}  missed {100 * missed:4.1f} %  {minutes:5.1f} core-minutes")


if __name__ == "__main__":
    main()
