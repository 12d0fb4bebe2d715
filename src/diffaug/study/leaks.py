"""How much a careless split would have flattered a model: the same arm `real` under honest and careless folds.

Four ways to divide the annotated training cases, each into folds that are tested on once:

    grouped, without duplicates     no group and no repeated frame on two sides: what the study reports elsewhere
    grouped, with duplicates        repeated frames may lie on two sides
    random, without duplicates      cases of one patient or sequence may lie on two sides
    random, with duplicates         both

Where the data set has no groups, or no repeated frame, that leak does not exist, and the summary says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffaug.artifacts import digest_of_value, read_jsonl, write_json
from diffaug.config import StudyConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.duplicates import find_duplicates
from diffaug.data.folder import read_dataset
from diffaug.data.split import connected, folds_by_group
from diffaug.errors import StudyError
from diffaug.runfolder import Contents, claim
from diffaug.study.arms import Arm, check_size
from diffaug.study.runs import Run
from diffaug.study.statistics import groups_of, interval, paired, values_of
from diffaug.study.strata import contrast_cut, profile, record
from diffaug.study.tables import remove_old_report
from diffaug.study.workers import complete_runs

FILE = "leaks.json"
HONEST = "grouped, without duplicates"
WAYS = {HONEST: (True, False), "grouped, with duplicates": (True, True), "random, without duplicates": (False, False),
        "random, with duplicates": (False, True)}  # fmt: skip


def divide(
    cases: Sequence[Case], pairs: Sequence[tuple[str, str]], folds: int, seed: int, *, grouped: bool, duplicates: bool
) -> dict[str, int]:
    """Return the fold of each case that takes part.

    Without duplicates only the first case of each repeated frame takes part. With them all do, wherever they fall.

    Args:
        cases: Annotated cases.
        pairs: Ids of cases that show the same frame.
        folds: How many.
        seed: Of the division.
        grouped: Whether a group stays together.
        duplicates: Whether repeated frames take part.

    Raises:
        DataError: There are fewer groups than folds.
    """
    first = connected([case.id for case in cases], pairs)
    taking = [case for case in cases if duplicates or first[case.id] == case.id]
    return folds_by_group({case.id: case.group if grouped else case.id for case in taking}, folds, seed)


def leak_study(
    data: Path, out: Path, config: StudyConfig, *, folds: int = 5, seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """Train and test the arm `real` under every way to divide the training cases; finished runs are skipped.

    Its runs lie in OUT/leaks, so OUT may also be the folder of a study, whose report then shows them.

    Args:
        data: Data set; only its annotated training cases are read.
        out: Folder for leaks.json, such as that of a study.
        config: The segmentation model and its schedule.
        folds: Parts of each division.
        seed: Of division and training.
        device: Where to train: cpu, cuda, cuda:N, mps or auto.

    Returns:
        What OUT/leaks.json holds: for each way its Dice on the cases that all ways test, and its gain over the honest
        way, with intervals over groups.

    Raises:
        ConfigError: The device is not there, or `out` was made with other settings.
        StudyError: A fold leaves fewer cases than a batch.
        DataError: There are fewer groups than folds, or a file breaks a rule.
    """
    from diffaug.compute.devices import device_of
    from diffaug.study.architectures import check_network, identity_of_study

    device = str(device_of(device))
    cases = read_dataset(data).annotated("train")
    if not cases:
        raise StudyError(f"a leak study needs annotated training cases: {data} has none; annotate some")
    check_network(config, len(cases[0].class_names))
    pairs = find_duplicates(cases)
    read = digest_of_value([[case.id, case.group, digest_of_case(case)] for case in cases])
    identity = {**identity_of_study(config), "folds": folds, "seed": seed, "cases": read}
    folder = out / "leaks"
    claim(folder, Contents("leak study", identity, "study.json", beside=("runs",)))
    profiles = {case.id: profile(case) for case in cases}
    cut = contrast_cut(profiles.values())
    runs: dict[str, list[Run]] = {}
    for way, (grouped, duplicates) in WAYS.items():
        fold_of = divide(cases, pairs, folds, seed, grouped=grouped, duplicates=duplicates)
        for fold in range(folds):
            train = tuple(case for case in cases if fold_of.get(case.id, fold) != fold)
            test = tuple(case for case in cases if fold_of.get(case.id) == fold)
            arm = Arm(f"{way.replace(', ', '-').replace(' ', '-')}-fold{fold}", train)
            check_size(arm, config.batch_size)
            columns = tuple(record(case, profiles[case.id], cut) for case in test)
            runs.setdefault(way, []).append(Run(arm, seed, test, columns, config, device, folder, pictures=False))
    complete_runs([run for own in runs.values() for run in own], config.workers, config.ray)
    tested = {way: [row for run in own for row in read_jsonl(run.records)] for way, own in runs.items()}
    summary = _compare(tested, config.bootstrap, seed) | {
        "groups": len({case.group for case in cases}),
        "cases": len(cases),
        "repeated": [list(pair) for pair in pairs],
    }
    remove_old_report(out, summary, FILE)
    write_json(out / FILE, summary)
    return summary


def _compare(tested: Mapping[str, Sequence[Mapping[str, Any]]], resamples: int, seed: int) -> dict[str, Any]:
    """Compare the ways on the cases that all of them test."""
    common = set.intersection(*({row["case"] for row in rows} for rows in tested.values()))
    rows = {way: [row for row in own if row["case"] in common] for way, own in tested.items()}
    honest, groups = values_of(rows[HONEST], "dice"), groups_of(rows[HONEST])
    found = {way: values_of(own, "dice") for way, own in rows.items()}
    return {
        "n": len(common),
        "ways": {
            way: {
                "dice": interval(values, resamples, seed, groups),
                "flattered": paired(values, honest, resamples, seed, groups),
            }
            for way, values in found.items()
        },
    }
