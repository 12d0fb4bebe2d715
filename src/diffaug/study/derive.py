"""Arms that need a trained baseline: pseudo-labels of unannotated images, and hard and novel painted cases.

The baseline is the study's own arm `real`: it has seen the annotated training cases of the draw, and nothing else.

Letters: n cases, S side of the network's square input in px.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffaug.artifacts import digest_of_file, make_folder, read_json, read_jsonl, write_json, write_jsonl
from diffaug.conditioning.domain import domain_of
from diffaug.config import SelectConfig, StudyConfig, config_from_values
from diffaug.data.case import NEGATIVE, Case, digest_of_case, masks_from_label
from diffaug.data.folder import Dataset, copy_case, copy_file, new_dataset, read_dataset, write_cases
from diffaug.data.images import write_png
from diffaug.data.manifest import Row, Scores, read_rows, write_rows
from diffaug.data.seen import write_seen
from diffaug.errors import ConfigError, EmptyArmError, StudyError
from diffaug.study import choose
from diffaug.study.arms import SELECTED, Arm, annotated, read_synthetic

if TYPE_CHECKING:
    from torch import Tensor, nn

FLIPS = ((), (2,), (3,), (2, 3))  # axes of an image that a pseudo-label is averaged over
LEAST = 0.001  # of the image; a smaller pseudo-mask is noise
LIKELY = 0.5  # probability over which a pixel of an unannotated image is labelled lesion
FEATURES = (
    "relative_area", "eccentricity", "solidity", "lightness_contrast", "redness_contrast", "edge_sharpness", "texture",
)  # fmt: skip
LOGARITHMIC = ("relative_area", "texture")


@dataclass(frozen=True)
class Derivation:
    """What the pool of a derived arm is made from.

    Attributes:
        kind: Of the arm.
        folder: Of the study; pseudo-masks and scores are kept there.
        baselines: Weights of trained runs of `real`.
        config: Of the study.
        train: Annotated training cases.
        candidates: Painted cases: all of the arm, or, to choose from, those that the gate accepted.
        rows: Manifest rows of the accepted cases, in their order.
        fills: Lesion-free fills, of which as many are added as belong to the selected cases.
        count: Painted cases wanted.
        images: Unannotated images.
        labels: Whether the arm also trains on those that the baselines are sure of, beside painted cases.
    """

    kind: str
    folder: Path
    baselines: tuple[Path, ...]
    config: StudyConfig
    train: tuple[Case, ...]
    candidates: tuple[Case, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    fills: tuple[Case, ...] = ()
    count: int = 0
    images: tuple[Case, ...] = ()
    labels: bool = False

    def finished(self, arm: Arm) -> Arm:
        """Return an arm with its pool.

        Raises:
            EmptyArmError: Nothing is left.
        """
        pool, filled = self.pool(), {case.id for case in self.fills}
        fills = sum(case.id in filled for case in pool) if self.kind in SELECTED else arm.fills
        labelled = self._pseudo_labelled() if self.labels else ()
        return replace(arm, pool=(*pool, *labelled), fills=fills, labelled=len(labelled))

    def pool(self) -> tuple[Case, ...]:
        """Return what the arm chooses, beside labelled images; what is measured for it is written to the folder once.

        Raises:
            EmptyArmError: Nothing is left.
        """
        if self.kind == "pseudo-label":
            return self._pseudo_labelled()
        pool = self._selected() if self.kind in SELECTED else self.candidates
        if not pool:
            raise EmptyArmError(
                f"an arm needs cases: none of {len(self.candidates)} is left for {self.kind}; "
                "raise study.select.hard_cut in a new study folder, or leave the arm out"
            )
        return pool

    def _pseudo_labelled(self) -> tuple[Case, ...]:
        table = self.folder / "pseudo" / "masks.jsonl"
        images = [(case.id, digest_of_file(case.image)) for case in self.images]
        if [(row["id"], row.get("image")) for row in read_jsonl(table)] != images:  # none yet, or of other images
            write_jsonl(table, list(pseudo_masks(self, make_folder(table.parent / "masks"))))
        least, by_id = self.config.pseudo_confidence, {case.id: case for case in self.images}
        kept = [row for row in read_jsonl(table) if row["area"] >= LEAST and row["confidence"] >= least]
        if not kept:
            raise EmptyArmError(
                f"an arm needs cases: none of {len(self.images)} images is left for pseudo-label, of which "
                f"the baseline must find {LEAST:.1%} or more, with study.pseudo_confidence {least:g} or "
                "more; lower the confidence in a new study folder, or leave the arm out"
            )
        classes = self.train[0].classes
        return tuple(
            replace(by_id[row["id"]], mask=table.parent / "masks" / row["mask"], split="train", classes=classes)
            for row in kept
        )

    def _selected(self) -> tuple[Case, ...]:
        table = self.folder / "scores.jsonl"
        if [_painted_as(row) for row in read_jsonl(table)] != [_painted_as(row) for row in self.rows]:
            write_jsonl(table, score_cases(self.rows, self.candidates, self.train, self.baselines, self.config))
        scores = {row["id"]: row for row in read_jsonl(table)}
        chosen = choose.select(self.rows, scores, self.config.select, self.count)
        by_id = {row["id"]: case for row, case in zip(self.rows, self.candidates, strict=True)}
        return (*(by_id[row["id"]] for row in chosen), *self.fills[: round(self.config.fills * len(chosen))])


def _painted_as(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells whether a row of scores is of the case that a row of a manifest tells of."""
    return row["id"], row.get("image_digest"), row.get("mask_digest"), row.get("aligned", _aligned(row))


def _aligned(row: Mapping[str, Any]) -> float | None:
    return row["checks"][-1]["score"] if row.get("checks") else None


def select_set(
    synthetic: Path, out: Path, study: Path, config: SelectConfig, count: int | None = None
) -> dict[str, Any]:
    """Copy the selected cases of a synthetic set into a data set of their own, fills included.

    The choice is a pure function of the manifest and of the scores, which are measured with the study's baseline once
    for the same painted cases, and kept in STUDY/scores.jsonl. OUT/manifest.jsonl has a row for each chosen case, with
    its scores.

    Args:
        synthetic: A finished synthetic set.
        out: The data set to make; it can be studied like any synthetic set.
        study: A finished study of this set alone, with the arm `real`.
        config: The upper cut of the loss, novelty.
        count: Lesions wanted; None takes all that are not too hard.

    Returns:
        How many were accepted and chosen, in all and by size, and how many fills belong to them.

    Raises:
        StudyError: The study is of another set, or has no trained baseline; nothing is left.
        ConfigError: `out` holds something else, or `count` is under 1.
    """
    if count is not None and count < 1:
        raise ConfigError(f"a selection has at least one case: --count is {count}; ask for more, or leave it out")
    plan, dataset, knobs, baselines = read_baselines(study, {"select": config.model_dump()})
    if [str(synthetic.resolve())] != plan["synthetic"]:
        named = ", ".join(plan["synthetic"]) or "no set"
        raise StudyError(f"a selection needs a study of its set: {study} is of {named}, not of {synthetic}; study it")
    one = read_synthetic(synthetic)
    rows = choose.accepted(one.rows)
    training, _ = choose.fills(one.rows)
    derivation = Derivation(
        kind="selected",
        folder=study,
        baselines=baselines,
        config=knobs,
        train=annotated(dataset, "train"),
        candidates=tuple(one.case(row) for row in rows),
        rows=tuple(rows),
        fills=tuple(one.case(row) for row in training),
        count=len(rows) if count is None else count,
    )
    pool = derivation.pool()
    scores = {row["id"]: row for row in read_jsonl(study / "scores.jsonl")}
    by_id = {row["id"]: row for row in one.rows}
    typed = {row.id: row for row in read_rows(synthetic / "manifest.jsonl")}
    with new_dataset(out) as partial:
        cases = [copy_case(case, partial) for case in pool]
        negative = [
            replace(case, attributes={NEGATIVE: 1.0} if by_id[case.id].get("lesion_free") else {}) for case in cases
        ]
        write_cases(partial, negative)
        made = [_chosen(typed[case.id], case, partial, scores.get(case.id), synthetic) for case in cases]
        write_rows(partial / "manifest.jsonl", made)
        lesions = [row for row in made if not row.request.negative]
        sizes = Counter(row.request.size_bin for row in lesions)
        found = {"accepted": len(rows), "kept": len(lesions), "fills": len(made) - len(lesions), "by_size": dict(sizes)}
        write_seen(partial, one.seen)
        write_json(partial / "provenance.json", {"images": dict(one.digests), "cases": dict(one.annotations)})
        write_json(partial / "summary.json", found)
    return found


def _chosen(row: Row, case: Case, folder: Path, scores: Mapping[str, Any] | None, synthetic: Path) -> Row:
    """Return the row of a chosen case that was copied into a folder; of a negative, copy its region, too."""
    region = ""
    if row.request.negative:
        region = copy_file(synthetic / row.region, folder / "regions", row.id).relative_to(folder).as_posix()
    measured = None
    if scores is not None:
        features = tuple(scores["features"])
        measured = Scores(scores["loss"], scores["novelty"], scores["low_contrast"], features)
    image, mask = case.image.relative_to(folder).as_posix(), _path_in(case, folder)
    return replace(row, decision="kept", image=image, mask=mask, region=region, scores=measured)


def read_baselines(
    study: Path, changed: Mapping[str, Any]
) -> tuple[dict[str, Any], Dataset, StudyConfig, tuple[Path, ...]]:
    """Return a study's plan, its data, its config with some knobs changed, and the weights of its baselines.

    Raises:
        StudyError: The arm `real` is not trained, or the data were changed since.
    """
    plan = read_json(study / "study.json")
    config = config_from_values({"study": plan["config"] | changed}).study
    first = plan["identity"]["seed"]
    baseline = study / "runs" / f"real-{first}.safetensors"
    if not baseline.is_file():
        raise StudyError(f"a baseline is a trained arm real: {study} lacks {baseline.stem}; run its study with real")
    dataset = read_dataset(Path(plan["data"]))
    if plan.get("trained") != {case.id: digest_of_case(case) for case in annotated(dataset, "train")}:
        raise StudyError(f"a baseline belongs to its data: {plan['data']} was changed since {study}; study it again")
    return plan, dataset, config, (baseline,)


def pseudo_label_set(study: Path, out: Path, confidence: float | None = None) -> dict[str, Any]:
    """Copy the unannotated images of a study's data whose lesions its baseline is sure of, with what it finds as masks.

    They can be painted on (`generate --backgrounds`): `provenance.json` says which annotations the baseline has seen.

    Args:
        study: A study with the arm `real` trained.
        out: The data set to make; its cases are `train`.
        confidence: Least mean probability in a mask; None takes the study's.

    Returns:
        How many images there are, and how many were labelled.

    Raises:
        StudyError: There is no trained baseline.
        EmptyArmError: It is sure of no image.
        ConfigError: `out` holds something else.
    """
    changed = {} if confidence is None else {"pseudo_confidence": confidence}
    plan, dataset, config, baselines = read_baselines(study, changed)
    train, images = annotated(dataset, "train"), dataset.split("unannotated")
    labelled = Derivation("pseudo-label", study, baselines, config, train, (), images=images).pool()
    with new_dataset(out) as partial:
        write_cases(partial, [copy_case(case, partial) for case in labelled])
        write_json(partial / "provenance.json", {"cases": plan["trained"]})
    return {"unannotated": len(images), "labelled": len(labelled)}


def _path_in(case: Case, folder: Path) -> str:
    return case.mask.relative_to(folder).as_posix() if case.mask else ""


def load_networks(weights: Sequence[Path], config: StudyConfig, train: Sequence[Case]) -> list["nn.Module"]:
    """Return trained networks for the classes of the training cases."""
    from diffaug.study.network import load_network

    return [load_network(config, path, len(train[0].class_names)) for path in weights]


def mirrored(networks: Sequence["nn.Module"], images: "Tensor") -> "Tensor":
    """Return the mean probability of networks over images and their mirror images, (n, K, S, S)."""
    import torch

    from diffaug.study.evaluate import probabilities

    views = [(network, axes) for network in networks for axes in FLIPS]
    return torch.stack([probabilities(network, images.flip(axes)).flip(axes) for network, axes in views]).mean(0)


def pseudo_masks(derivation: Derivation, folder: Path) -> Iterator[dict[str, Any]]:
    """Write the mask that the baselines give each unannotated image, and yield its confidence.

    The label is that of the mean probability of the baselines over the image and its mirror images; its confidence is
    the mean probability of each class inside its mask, the least of the classes that are found. It is 0 where none is
    found, and in a domain whose frames all have every class, such as discs with their cups, where one is not found.

    Yields:
        id, image (digest of its file), mask (file name), area (share of the image), confidence.

    Source: Lee 2013, "Pseudo-Label"; the confidence is that of Sohn et al. 2020 (arXiv:2001.07685), over a region.
    """
    from diffaug.study.batches import load_images
    from diffaug.study.evaluate import BATCH, enlarged, labelled

    cases, config, classes = derivation.images, derivation.config, derivation.train[0].classes
    networks = load_networks(derivation.baselines, config, derivation.train)
    every_class = domain_of(derivation.train[0].class_names).stays_in_place
    for start in range(0, len(cases), BATCH):
        some = cases[start : start + BATCH]
        found = mirrored(networks, load_images(some, config.size))
        for index, (case, probability) in enumerate(zip(some, found, strict=True)):
            full = enlarged(probability, case.read_image().shape[:2])
            label, name = labelled(full, classes, LIKELY), f"{start + index:05d}.png"
            write_png(folder / name, label if classes else label * 255)
            masks = masks_from_label(label, classes)
            found_in = [(one, mask) for one, mask in zip(full, masks, strict=True) if every_class or mask.any()]
            sure = [float(one[mask].mean()) if mask.any() else 0.0 for one, mask in found_in]
            told = {"area": float((label > 0).mean()), "confidence": round(min(sure, default=0.0), 5)}
            yield {"id": case.id, "image": digest_of_file(case.image), "mask": name, **told}


def score_cases(
    rows: Sequence[Mapping[str, Any]],
    cases: Sequence[Case],
    train: Sequence[Case],
    baselines: Sequence[Path],
    config: StudyConfig,
) -> list[dict[str, Any]]:
    """Measure painted cases for the selection.

    Args:
        rows: Their manifest rows.
        cases: The cases, in the same order.
        train: Annotated training cases, whose lesions novelty is the distance from.
        baselines: Weights of trained runs of `real`.
        config: The network's.

    Returns:
        For each case: id, digests of its image and mask, aligned (last score of the validator, None without one), loss
        (1 - soft Dice of the mean prediction), features (measured attributes, in deviations of the training lesions),
        novelty (distance from the nearest training lesion), low_contrast (under the lowest third of the training
        lesions).
    """
    import torch

    from diffaug.study.batches import load
    from diffaug.study.evaluate import probabilities
    from diffaug.study.strata import LOW

    known = [one for one in (_attributes(case) for case in train) if one["relative_area"] > 0]
    lesions, networks = np.array([_vector(one) for one in known]), load_networks(baselines, config, train)
    centre, spread = lesions.mean(0), lesions.std(0) + 1e-6
    cut = float(np.quantile([one["colour_contrast"] for one in known], LOW))
    reference = (lesions - centre) / spread
    scored = []
    for row, case in zip(rows, cases, strict=True):
        pixels = load([case], config.size)
        found = torch.cat(
            [probabilities(network, pixels.images) for network in networks]
        ).numpy()  # (networks, K, S, S)
        measured = _attributes(case)
        features = (_vector(measured) - centre) / spread
        scored.append(
            {
                "id": row["id"],
                **{name: row.get(name) for name in ("image_digest", "mask_digest")},
                "aligned": _aligned(row),
                "loss": round(_loss(found.mean(0), pixels.masks[0].numpy()), 5),
                "features": [round(float(value), 4) for value in features],
                "novelty": round(float(np.linalg.norm(reference - features, axis=1).min()), 4),
                "low_contrast": bool(measured["colour_contrast"] < cut),
            }
        )
    return scored


def _loss(probability: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    return float(1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1))


def _attributes(case: Case) -> dict[str, float]:
    from diffaug.conditioning.attributes import measure_attributes

    return asdict(measure_attributes(case.read_image(), case.read_mask()))


def _vector(attributes: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array(
        [np.log(max(1e-4, attributes[name])) if name in LOGARITHMIC else attributes[name] for name in FEATURES]
    )
