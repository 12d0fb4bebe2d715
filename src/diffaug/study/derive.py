"""What a trained baseline makes: labels of unannotated images, and scores of painted cases.

The baseline is the study's own arm `real` with its first seed: it has seen the annotated training cases of the draw,
and nothing else. Labels and scores are made once, before the arms that need them are trained, and kept in the study's
folder; the table that names them is written last.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffaug.artifacts import digest_of_file, make_folder, read_jsonl, storing, sync_tree, write_jsonl
from diffaug.conditioning.attributes import FEATURES, Attributes, Reference, measure_attributes
from diffaug.conditioning.domain import domain_of
from diffaug.config import StudyConfig
from diffaug.data.case import Case, masks_from_label
from diffaug.data.images import write_png
from diffaug.data.manifest import Row
from diffaug.data.records import RecordFile
from diffaug.data.request import Scores
from diffaug.errors import DataError, EmptyArmError
from diffaug.names import Inside, Name
from diffaug.reading import json_of_line, typed
from diffaug.study import choose
from diffaug.study.arms import PSEUDO_LABEL, Arm, ArmSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

Line = TypeVar("Line")  # of a table
FLIPS = ((), (2,), (3,), (2, 3))  # axes of an image that a label is averaged over
LEAST = 0.001  # of the image; a smaller label is noise
LIKELY = 0.5  # probability over which a pixel of an unannotated image is labelled lesion


@dataclass(frozen=True)
class Baseline:
    """A study's arm `real`, trained with its first seed.

    Attributes:
        folder: Of the study; labels and scores are kept there.
        seed: The first one of the study.
        config: Of the study.
        train: Annotated training cases.
    """

    folder: Path
    seed: int
    config: StudyConfig
    train: tuple[Case, ...]

    @property
    def name(self) -> str:
        """The name of its run."""
        return f"real-{self.seed}"

    @property
    def weights(self) -> Path:
        """Its trained weights."""
        return self.folder / "runs" / f"{self.name}.safetensors"

    @property
    def labels_table(self) -> Path:
        """The file that names the label of each unannotated image."""
        return self.folder / "pseudo" / "masks.jsonl"

    @property
    def scores_table(self) -> Path:
        """The file that holds the scores of painted cases."""
        return self.folder / "scores.jsonl"

    def network(self) -> "nn.Module":
        """Return the trained network."""
        from diffaug.study.network import load_network

        return load_network(self.config, self.weights, len(self.train[0].class_names))


@dataclass(frozen=True)
class Derived:
    """All that the arms of a study need from its baseline.

    Attributes:
        baseline: What labels and scores.
        images: Unannotated images to label.
        rows: Rows of accepted painted lesions to score.
        cases: Their cases, in the same order.
    """

    baseline: Baseline
    images: tuple[Case, ...] = ()
    rows: Sequence[Row] = ()
    cases: Sequence[Case] = ()

    def make(self) -> None:
        """Make the labels and scores that are not there yet."""
        make_labels(self.baseline, self.images)
        make_scores(self.baseline, self.rows, self.cases)


@dataclass(frozen=True)
class Derivation:
    """How an arm gets its pool from what the baseline made.

    Attributes:
        spec: Of the arm.
        derived: What the baseline makes.
        negatives: Painted cases without a lesion, of which as many are added as belong to the selected cases.
    """

    spec: ArmSpec
    derived: Derived
    negatives: tuple[Case, ...] = ()

    def finished(self, arm: Arm) -> Arm:
        """Return an arm with its pool.

        Raises:
            EmptyArmError: Nothing is left.
        """
        if self.spec.kind == PSEUDO_LABEL:
            return replace(arm, pool=labelled_cases(self.derived.baseline, self.derived.images))
        if self.spec.is_scored:
            arm = self._selected(arm)
        if not self.spec.takes_labels:
            return arm
        labelled = labelled_cases(self.derived.baseline, self.derived.images)
        return replace(arm, pool=(*arm.pool, *labelled), labelled=len(labelled))

    def _selected(self, arm: Arm) -> Arm:
        config = self.derived.baseline.config
        count = self.spec.painted_count(config, len(arm.real))
        chosen = selected_cases(self.derived, config, count, self.spec.kind)
        wanted = self.spec.negatives_count(config, len(chosen))
        negatives = self.negatives[:wanted]
        return replace(arm, pool=(*chosen, *negatives), negatives=len(negatives), wanted_negatives=wanted)


def selected_cases(derived: Derived, config: StudyConfig, count: int, name: str = "selected") -> tuple[Case, ...]:
    """Return the painted lesions that are worth training on, in the order of choice.

    Args:
        derived: With scores made.
        config: How to select.
        count: Cases wanted; fewer are returned where there are fewer.
        name: Of the arm, for messages.

    Raises:
        EmptyArmError: Nothing is left.
    """
    case_of = dict(zip((row.id for row in derived.rows), derived.cases, strict=True))
    chosen = choose.select(derived.rows, read_scores(derived.baseline), config.select, count)
    if not chosen:
        raise EmptyArmError(nothing_left(len(derived.rows), name))
    return tuple(case_of[row.id] for row in chosen)


def nothing_left(count: int, name: str) -> str:
    """Return what to tell where a selection has chosen none of some cases for an arm."""
    return (
        f"an arm needs cases: none of {count} is left for {name}; "
        "raise study.select.hard_cut in a new study folder, or leave the arm out"
    )


def make_labels(baseline: Baseline, images: Sequence[Case]) -> None:
    """Label images with the baseline, unless the folder holds the labels of these very images.

    STUDY/pseudo/masks.jsonl has a line for each image: id, image (digest of its file), mask (file name), mask_digest,
    area (share of the image), confidence.
    """
    table = baseline.labels_table
    wanted = [(case.id, digest_of_file(case.image)) for case in images]
    if not images or _are_kept(table, wanted):
        return
    table.unlink(missing_ok=True)
    lines = list(_labels(baseline, images, make_folder(table.parent / "masks")))
    with storing(table):
        sync_tree(table.parent)
    write_jsonl(table, lines)


@dataclass(frozen=True)
class _Labelled:
    """A line of the table of labels: the label of an unannotated image; see `make_labels`."""

    id: str
    image: str
    mask: Name
    mask_digest: str
    area: float
    confidence: float


def _read_table(table: Path, kind: type[Line], work: str) -> list[Line]:
    """Read a table that was made with the baseline, such as that of labels.

    Args:
        table: The file.
        kind: What its lines are.
        work: What the study does again if the file is removed.

    Raises:
        DataError: It is damaged.
    """
    fix = f"remove the file, and the study {work} again"
    return [typed(kind, line, table, fix) for line in read_jsonl(table, torn=False)]


def _read_labels(table: Path) -> list[_Labelled]:
    return _read_table(table, _Labelled, "labels the images")


def _are_kept(table: Path, wanted: Sequence[tuple[str, str]]) -> bool:
    """Tell whether the labels of these very images are there and whole."""
    try:
        lines = _read_labels(table)
    except DataError:
        return False
    masks = table.parent / "masks"
    return [(line.id, line.image) for line in lines] == list(wanted) and all(
        (masks / line.mask).is_file() and digest_of_file(masks / line.mask) == line.mask_digest for line in lines
    )


def labelled_cases(baseline: Baseline, images: Sequence[Case]) -> tuple[Case, ...]:
    """Return the images of whose labels the baseline is sure, as training cases with these labels.

    An image that is declared to be lesion-free is one of them, with an empty label.

    Raises:
        EmptyArmError: It is sure of none.
    """
    least, by_id = baseline.config.pseudo_confidence, {case.id: case for case in images}
    table, classes = baseline.labels_table, baseline.train[0].classes
    found = [line for line in _read_labels(table) if line.id in by_id]
    sure = [line for line in found if by_id[line.id].negative or (line.area >= LEAST and line.confidence >= least)]
    if not sure:
        raise EmptyArmError(
            f"an arm needs cases: none of {len(images)} images is left for pseudo-label, of which "
            f"the baseline must find {LEAST:.1%} or more, with study.pseudo_confidence {least:g} or "
            "more; lower the confidence in a new study folder, or leave the arm out"
        )
    masks = Inside(table.parent / "masks")
    return tuple(
        replace(by_id[line.id], mask=masks.picture(line.mask, f"a mask in {table}"), split="train", classes=classes)
        for line in sure
    )


def _labels(baseline: Baseline, images: Sequence[Case], folder: Path) -> Iterator[dict[str, Any]]:
    """Write the label that the baseline gives each image, and yield its line of the table.

    The label is that of the mean probability over the image and its mirror images; it is empty where the image is
    declared to be lesion-free. Its confidence is the mean probability of each class inside its mask, the least of the
    classes that are found; 0 where none is, and where one is not that every frame has, such as an optic cup.

    Source: Lee 2013, "Pseudo-Label"; the confidence is that of Sohn et al. 2020 (arXiv:2001.07685), over a region.
    """
    from diffaug.study.batches import load_images
    from diffaug.study.evaluate import BATCH, enlarged, labelled

    network, classes = baseline.network(), baseline.train[0].classes
    needs_all = domain_of([one.name for one in classes]).stays_in_place
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        predicted = mirrored(network, load_images(batch, baseline.config.size))
        for index, (case, probability) in enumerate(zip(batch, predicted, strict=True), start):
            full = enlarged(probability, case.read_image().shape[:2])
            full = np.zeros_like(full) if case.negative else full
            label, name = labelled(full, classes, LIKELY), f"{index:05d}.png"
            write_png(folder / name, label if classes else label * 255, settled=False)
            sure = [
                float(inside[mask].mean()) if mask.any() else 0.0
                for inside, mask in zip(full, masks_from_label(label, classes), strict=True)
                if needs_all or mask.any()
            ]
            yield {
                "id": case.id,
                "image": digest_of_file(case.image),
                "mask": name,
                "mask_digest": digest_of_file(folder / name),
                "area": float((label > 0).mean()),
                "confidence": round(min(sure, default=0.0), 5),
            }


def mirrored(network: "nn.Module", images: "Tensor") -> "Tensor":
    """Return the mean probability of a network over images and their mirror images, (n, K, S, S)."""
    import torch

    from diffaug.study.evaluate import probabilities

    return torch.stack([probabilities(network, images.flip(axes)).flip(axes) for axes in FLIPS]).mean(0)


def make_scores(baseline: Baseline, rows: Sequence[Row], cases: Sequence[Case]) -> None:
    """Score painted cases with the baseline, unless the folder holds the scores of these very cases."""
    table = baseline.scores_table
    if not rows or _are_scored(table, rows):
        return
    painted_as = ({"id": row.id, "image_digest": row.image_digest, "mask_digest": row.mask_digest} for row in rows)
    scores = score_cases(baseline, cases)
    write_jsonl(table, ({**which, **asdict(found)} for which, found in zip(painted_as, scores, strict=True)))


@dataclass(frozen=True)
class _Scored(Scores):
    """A line of the table of scores, with what it was measured on."""

    id: str
    image_digest: str
    mask_digest: str


def read_scored(table: Path) -> RecordFile[_Scored]:
    """Return the lines of a table of scores, each read when it is asked for.

    Raises:
        DataError: It is missing, or a line is damaged.
    """
    fix = "remove the file, and the study scores the cases again"

    def scored(line: bytes, number: int) -> _Scored:
        found = typed(_Scored, json_of_line(line, table, number), table, fix)
        if len(found.features) != len(FEATURES):
            raise DataError(
                f"a score has {len(FEATURES)} features: line {number} of {table} has {len(found.features)}; {fix}"
            )
        return found

    return RecordFile(table, scored)


def _are_scored(table: Path, rows: Sequence[Row]) -> bool:
    """Tell whether a table holds the scores of these very cases; not where it is damaged, so that it is made again."""
    try:
        lines = read_scored(table)
        return len(lines) == len(rows) and all(
            (line.id, line.image_digest, line.mask_digest) == (row.id, row.image_digest, row.mask_digest)
            for line, row in zip(lines, rows, strict=True)
        )
    except DataError:
        return False


def read_scores(baseline: Baseline) -> Mapping[str, Scores]:
    """Return the scores that were made, by the id of the painted case."""
    return {line.id: scores_of(line) for line in read_scored(baseline.scores_table)}


def scores_of(line: Scores) -> Scores:
    """Return the scores of a line of the table alone."""
    return Scores(line.loss, line.novelty, line.low_contrast, line.features)


def score_cases(baseline: Baseline, cases: Sequence[Case]) -> Iterator[Scores]:
    """Measure painted cases for the selection, one after the other.

    Lesions are compared with those of the baseline's training cases: novelty is the distance of the measured attributes
    from the nearest one, in standard deviations, and a contrast is low under their lowest third.
    """
    from diffaug.study.batches import load
    from diffaug.study.evaluate import probabilities
    from diffaug.study.strata import LOW

    known = [found for found in map(_attributes, baseline.train) if found.relative_area > 0]
    network, reference = baseline.network(), Reference(known)
    cut = float(np.quantile([found.colour_contrast for found in known], LOW))
    for case in cases:
        pixels = load([case], baseline.config.size)
        predicted = probabilities(network, pixels.images)[0].numpy()
        measured = _attributes(case)
        features = reference.standardised(measured)
        yield Scores(
            loss=round(_loss(predicted, pixels.masks[0].numpy()), 5),
            novelty=round(float(reference.distances(measured).min()), 4),
            low_contrast=bool(measured.colour_contrast < cut),
            features=tuple(round(float(value), 4) for value in features),
        )


def _attributes(case: Case) -> Attributes:
    return measure_attributes(case.read_image(), case.read_mask())


def _loss(probability: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Return 1 - soft Dice."""
    return float(1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1))
