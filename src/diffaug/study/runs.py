"""One run of a study: one arm with one seed, trained and tested.

A run is complete when OUT/runs/ARM-SEED.jsonl exists, which is written last. It depends on its arm, its seed and the
config alone: the same file comes from one worker or many, broken off or not.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import digest_of_file, digests_of_folder, make_folder, read_jsonl, write_json, write_jsonl
from diffaug.config import StudyConfig
from diffaug.data.case import Case, masks_from_label
from diffaug.data.images import read_mask
from diffaug.errors import DataError, StudyError
from diffaug.reading import read_kept, read_typed
from diffaug.study.arms import Arm
from diffaug.study.derive import Derivation

if TYPE_CHECKING:
    from torch import nn

PICTURE = 352  # px; longer side of a saved prediction

Report = Callable[[int], None]


@dataclass(frozen=True)
class Run:
    """One arm with one seed: all that a worker needs.

    Attributes:
        arm: What is trained on; the pool of a derived arm is found once the baseline is trained.
        seed: Of initial weights, batches and augmentation.
        test: Tested cases.
        columns: Group, area, contrast and strata of each tested case.
        config: Of the study.
        device: Where to train.
        out: Folder of the study.
        pictures: Whether predictions are saved.
        keep: Whether the trained weights are kept.
        derive: How the arm gets its pool, where that needs the trained baseline.
        negatives: Held-out negatives, and the masks of what was painted in them.
        fold: Of the training cases, which is tested on and left out of training.
    """

    arm: Arm
    seed: int
    test: tuple[Case, ...]
    columns: tuple[Mapping[str, Any], ...]
    config: StudyConfig
    device: str
    out: Path
    pictures: bool
    keep: bool = False
    derive: Derivation | None = None
    negatives: tuple[tuple[Case, Path], ...] = ()
    fold: int | None = None

    @property
    def name(self) -> str:
        """ARM-SEED or ARM-SEED-foldF, which is also the name of the run's files."""
        return f"{self.arm.name}-{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    @property
    def files(self) -> Path:
        """Path of the run's files without suffix."""
        return self.out / "runs" / self.name

    @property
    def records(self) -> Path:
        """The file that completes the run: a record for each tested case."""
        return Path(f"{self.files}.jsonl")

    @property
    def weights(self) -> Path:
        """Where the trained weights are kept."""
        return Path(f"{self.files}.safetensors")

    @property
    def log(self) -> Path:
        """What `training.loop.log_of` names: rows of iterations and losses, the last of the last iteration."""
        return Path(f"{self.files}.log.jsonl")

    @property
    def checkpoint(self) -> Path:
        """What a resumed training starts from."""
        return Path(f"{self.files}.checkpoint")

    @property
    def about(self) -> Path:
        """The file that says what it was trained on, and what it finds on held-out negatives."""
        return Path(f"{self.files}.pool.json")

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do. Records that are damaged are told by `records_of`."""
        about = read_kept(self.about, Trained)
        if about is None or not self.records.exists() or (self.keep and not self.weights.exists()):
            return False
        return not self.keep or about.files.items() <= self.digests().items()

    @property
    def predictions(self) -> Path:
        """Where the predicted masks are saved; a torn one is made again with the weights, where these are kept."""
        return self.out / "predictions" / self.name

    def digests(self) -> dict[str, str]:
        """Return the digests of the weights and of the predicted masks, as far as they are there."""
        pictures = digests_of_folder(self.predictions, ("*.png",))
        return pictures | ({"weights": digest_of_file(self.weights)} if self.weights.exists() else {})


@dataclass(frozen=True)
class Trained:
    """What a run was trained on, and what it finds on held-out negatives.

    Attributes:
        real: Annotated cases.
        pool: Other cases.
        trained_negatives: Painted cases without a lesion among them.
        wanted_negatives: How many of these belong to the painted lesions.
        labelled: Unannotated images among them that the baseline labelled, beside painted cases.
        taught: Unannotated images that the average of the network's weights labelled, beside the pool.
        negatives: Of each held-out negative, the share of its painted region that is predicted to be a lesion.
        files: Digests of the weights and of the predicted masks, where the weights are kept.
    """

    real: int
    pool: int
    trained_negatives: int
    wanted_negatives: int
    labelled: int
    negatives: tuple[float, ...]
    taught: int = 0
    files: Mapping[str, str] = field(default_factory=dict)

    def cases(self) -> dict[str, int]:
        """Return how many cases it was trained on, by what they are, as summaries and records say it."""
        counts = {name: value for name, value in asdict(self).items() if name not in ("negatives", "files")}
        return {name: value for name, value in counts.items() if value or name not in ("labelled", "taught")}


def read_trained(path: Path) -> Trained:
    """Return what the file `about` of a run says.

    Raises:
        DataError: It is missing or damaged.
    """
    return read_typed(path, Trained, "remove the file, and the study tests the run again")


def complete_run(run: Run, report: Report = lambda iteration: None) -> None:
    """Train and test one run, unless its records exist; one whose weights are kept is only tested.

    Raises:
        StudyError: The loss is not finite.
        EmptyArmError: Nothing is left for a derived arm.
        DataError: A file cannot be read.
    """
    if run.finished:
        return
    make_folder(run.files.parent)
    if run.derive is not None:
        run = replace(run, arm=run.derive.finished(run.arm))
    network = _trained_network(run, report)
    rows = _tested(run, network)
    arm = run.arm
    counts = len(arm.real), len(arm.pool), arm.negatives, arm.wanted_negatives, arm.labelled
    files = run.digests() if run.keep else {}
    write_json(run.about, asdict(Trained(*counts, _alarms(run, network), len(arm.taught), files)))
    write_jsonl(run.records, rows)
    run.checkpoint.unlink(missing_ok=True)


def _trained_network(run: Run, report: Report) -> "nn.Module":
    """Return the network of a run: the one that is kept, or one that is trained now."""
    from diffaug.study import network as segmenter
    from diffaug.study.batches import Batches

    classes = len(run.test[0].class_names)
    if run.keep and run.weights.exists():
        return segmenter.load_network(run.config, run.weights, classes).to(run.device)
    batches = Batches(run.arm, run.config, run.seed, run.device)
    network = segmenter.build_network(run.config, run.seed, classes)
    segmenter.train(
        network, batches, run.config, name=run.name, files=run.files, device=run.device, report=report
    )  # fmt: skip
    if run.keep:
        segmenter.save_weights(network, run.weights)
    return network


def _tested(run: Run, network: "nn.Module") -> list[dict[str, Any]]:
    """Return a record for each tested case, and save the predictions where they are wanted."""
    import torch

    from diffaug.study.batches import load_images
    from diffaug.study.evaluate import predict, score_classes, write_prediction

    folder = Path("predictions") / run.name
    if run.pictures:
        make_folder(run.out / folder)
    rows = []
    images = load_images(run.test, run.config.size).to(torch.device(run.device))
    predictions = predict(network, images, run.test, run.config.decision_threshold)
    for index, (case, references, prediction) in enumerate(predictions):
        picture = folder / f"{index:05d}.png" if run.pictures else None
        if picture:
            write_prediction(run.out / picture, prediction, PICTURE, case.classes)
        scores = score_classes(references, masks_from_label(prediction, case.classes), case.class_names)
        rows.append(
            {"arm": run.arm.name, "seed": run.seed, "case": case.id}
            | scores
            | {**run.columns[index], "prediction": picture.as_posix() if picture else ""}
        )
    return rows


def score_late_negatives(run: Run) -> None:
    """Count the false alarms on negatives that were painted after a run ended, as far as its weights are kept."""
    from diffaug.study.network import load_network

    trained = read_trained(run.about)
    if run.negatives and not trained.negatives and run.weights.exists():
        network = load_network(run.config, run.weights, len(run.test[0].class_names))
        write_json(run.about, asdict(replace(trained, negatives=_alarms(run, network.to(run.device)))))


def _alarms(run: Run, network: "nn.Module") -> tuple[float, ...]:
    """Return, for each held-out negative, the share of its painted region that is predicted to be a lesion."""
    import torch

    from diffaug.study.batches import load_images
    from diffaug.study.evaluate import predict

    if not run.negatives:
        return ()
    cases, regions = [case for case, _ in run.negatives], [read_mask(region) for _, region in run.negatives]
    images = load_images(cases, run.config.size).to(torch.device(run.device))
    predictions = predict(network, images, cases, run.config.decision_threshold)
    labels = (label > 0 for _, _, label in predictions)
    return tuple(round(float(label[region].mean()), 5) for region, label in zip(regions, labels, strict=True))


def records_of(run: Run) -> list[dict[str, Any]]:
    """Return the records of a finished run.

    Raises:
        StudyError: There is not one for each tested case, one is damaged, or the log of the training is.
    """
    _check_log(run)
    try:
        rows = read_jsonl(run.records, torn=False)
    except DataError as error:
        raise StudyError(f"{error} (remove it, and the study tests the run again)") from None
    if len(rows) != len(run.test):
        raise StudyError(
            f"a run has a record for each test case: {run.records} has {len(rows)} of {len(run.test)}; "
            "remove it, and the study tests the run again"
        )
    for index, row in enumerate(rows):
        if not _is_record(row, run, index):
            raise StudyError(
                f"a record holds the scores of its test case: record {index + 1} of {run.records} does not; "
                "remove it, and the study tests the run again"
            )
    return rows


def _is_record(row: Mapping[str, Any], run: Run, index: int) -> bool:
    """Tell whether a record is one of a run and of its test case at an index, and its scores are numbers or missing."""
    known = {"arm": run.arm.name, "seed": run.seed, "case": run.test[index].id, **run.columns[index]}
    told = all(name in row and _plain(row[name]) == _plain(value) for name, value in known.items())
    scores = [value for name, value in row.items() if name not in (*known, "prediction")]
    whole = all(value is None or isinstance(value, int | float) for value in scores)
    return told and whole and "dice" in row and isinstance(row.get("prediction"), str)


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _check_log(run: Run) -> None:
    """Check that the log of a finished run, if it was not removed, ends with the last iteration.

    Raises:
        StudyError: It does not.
    """
    if not run.log.exists():
        return
    try:
        rows = read_jsonl(run.log, torn=False)
    except DataError:
        rows = []
    if not rows or rows[-1].get("iteration") != run.config.iterations:
        raise StudyError(
            f"the log of a training ends with its last iteration: {run.log} is damaged; remove it with the other files "
            f"{run.name}.* beside it, and the study trains the run again"
        )
