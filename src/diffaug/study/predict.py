"""`diffaug predict`: segment images with the networks that a study trained on one of its arms.

An image is squashed to the network's square, as in training; the probabilities of the arm's runs are averaged there,
enlarged to the image's own size, and cut as the study cuts them.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffaug.artifacts import PathLike, digest_of_file
from diffaug.config import StudyConfig
from diffaug.data.case import LabelClass
from diffaug.data.classes import classes_from_json
from diffaug.data.images import Label, Pixels
from diffaug.data.segmented import Maps, Segmenter, SegmentSummary, images_of, name_of_place, write_segmented
from diffaug.errors import ConfigError, StudyError
from diffaug.runfolder import Contents, claimed, contents_of
from diffaug.study.inputs import check_plan, config_of_plan

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

SAFE = re.compile(r"\w[\w -]*")  # names of classes that also name folders


@dataclass(frozen=True)
class Predictor:
    """The trained networks of one arm.

    Attributes:
        networks: Of its runs, in evaluation mode; their probabilities are averaged.
        config: Of the study.
        classes: Of its labels; none where there is one class without a number.
        device: Where the networks are.
    """

    networks: "tuple[nn.Module, ...]"
    config: StudyConfig
    classes: tuple[LabelClass, ...]
    device: str

    def maps(self, image: Pixels) -> Maps:
        """Return lesion probabilities at the image's own size: pixels (H, W, 3) => (K, H, W)."""
        import torch

        from diffaug.study.batches import stacked
        from diffaug.study.evaluate import enlarged, probabilities

        square = stacked([image], self.config.size).to(self.device)
        maps = torch.stack([probabilities(network, square)[0] for network in self.networks]).mean(0)
        return enlarged(maps, image.shape[:2])

    def label(self, maps: Maps) -> Label:
        """Return the label as a picture: of one class 0 and 255, of several the values of the data set's labels."""
        from diffaug.study.evaluate import labelled

        found = labelled(maps, self.classes, self.config.decision_threshold)
        return found if self.classes else found * 255


def predict_images(
    study: PathLike,
    images: PathLike,
    out: PathLike,
    *,
    arm: str = "",
    seed: int | None = None,
    network: str = "",
    device: str = "cpu",
) -> SegmentSummary:
    """Segment every image of a folder and its subfolders with the networks that a study trained on an arm.

    Args:
        study: A study folder that holds the weights of the arm's runs. Its data set need not be there.
        images: A folder of images of any size, or one image.
        out: The folder to make: `masks/` (of one class 0 and 255; of several, the values of the data set's labels),
            `overlays/`, `probabilities/` (PNG of 16 bits, of several classes in a folder each), `summary.json`. Each of
            these folders has the subfolders of the images. It must not lie inside the folder of images.
        arm: Its name; a study of one arm needs none.
        seed: Take the run of this seed alone; None averages the probabilities of all runs of the arm.
        network: The study's network, where it is a function of the user's: its code is run.
        device: Where to compute: cpu, cuda, cuda:N, mps or auto.

    Returns:
        What was found; `summary.json` holds it, too.

    Raises:
        ConfigError: There is no such arm or seed, `out` holds something else or lies among the images, the device is
            not there, or the user's function is not named or cannot be imported.
        StudyError: The study keeps no weights of the arm, or they are damaged.
        DataError: The folder holds no study, no image or also masks, two images of a folder have one name, or some
            cannot be decoded; then the others are segmented all the same.

    Example:
        >>> diffaug.predict_images("studies/mine", "photographs", "predicted", arm="real")  # doctest: +SKIP
    """
    from diffaug.compute.devices import device_of

    study, images, out = Path(study), Path(images), Path(out)
    device = str(device_of(device))
    plan = _plan_of(study)
    config = config_of_plan(plan)
    weights = weights_of(study, plan, config, arm, seed)
    _check_function(study, config.network, network)
    found, classes = images_of(images, out), _classes_of(study, plan)
    names = [path.stem.rpartition("-") for path in weights]
    identity = {
        "arm": names[0][0],
        "seeds": [int(seed) for _, _, seed in names],
        "weights": {path.stem: digest_of_file(path) for path in weights},
        "images": name_of_place(images),
    }
    contents = Contents("folder of predicted images", identity, "config.json", late=("arm", "seeds"))
    predictor = Predictor(_networks(weights, config, len(classes) or 1, device), config, classes, device)
    log.info(f"predicting with {', '.join(path.stem for path in weights)}")
    with claimed(out, contents):
        return write_segmented(Segmenter(predictor.maps, predictor.label, _folders_of(classes)), found, out)


def _plan_of(study: Path) -> dict[str, Any]:
    """Return what study.json says of a study that trained networks.

    Raises:
        StudyError: The folder is of a run, which pools several studies, or of something else.
        ConfigError: Another version of diffaug made it.
        DataError: It has no study.json, or that is no JSON.
    """
    if not study.exists():
        raise StudyError(f"prediction needs a study: {study} does not exist; check the path")
    pooled = sorted(study.parent.glob(f"{study.name}-draw*/study"))
    inside = [study / "study", *pooled, *sorted(study.glob("n*-draw*/study"))]  # of a job, and of a run twice
    inside = [folder for folder in inside if (folder / "study.json").is_file()]
    if inside:
        folds = "-fold" in inside[0].parent.name
        part = (
            ", whose networks were trained without one fold. Networks of every annotated case are those of a study "
            "without --folds, which tests on other cases (--test)"
        ) * folds
        raise StudyError(f"one study trained the networks that predict: {study} holds none; name {inside[0]}{part}")
    plan = contents_of(study, "study.json")
    if plan.get("kind") != "study" or not isinstance(plan.get("config"), dict):
        raise StudyError(f"prediction needs a study: {study} holds a {plan.get('kind')}; check the path")
    check_plan(plan, study / "study.json")
    return plan


def weights_of(study: Path, plan: Mapping[str, Any], config: StudyConfig, arm: str, seed: int | None) -> list[Path]:
    """Return the files of the weights of an arm's runs, by seed.

    Args:
        study: The study's folder.
        plan: What study.json says.
        config: Of the study.
        arm: Name of the arm; empty where the study has one arm alone.
        seed: Of one run; None takes every run whose weights are there.

    Raises:
        ConfigError: There is no such arm or seed.
        StudyError: There are no weights.
    """
    if folds := plan["identity"].get("folds"):
        raise StudyError(
            f"a study by folds keeps no weights: {study} has {folds} folds; study the data without --folds, with other "
            "cases to test on (--test), which keeps them"
        )
    kept = _kept(study)
    arms = list(dict.fromkeys([*config.arms, *kept]))  # the last call of the study may have named some alone
    named = ", ".join(arms)
    if not arm and len(arms) > 1:
        raise ConfigError(f"--arm says whose networks predict: {study} has {named}; name one of them")
    arm = arm or arms[0]
    if arm not in arms:
        raise ConfigError(f"an arm must be one of the study's: {study} has {named}, not {arm!r}; name one of them")
    there, first = kept.get(arm, {}), int(plan["identity"]["seed"])
    seeds = sorted({*range(first, first + config.seeds), *there})
    if seed is not None and seed not in seeds:
        raise ConfigError(
            f"--seed takes one run of the arm: {study} has the seeds {', '.join(map(str, seeds))}, not {seed}; name "
            "one of them"
        )
    wanted = seeds if seed is None else [seed]
    missing = [f"{arm}-{each}.safetensors" for each in wanted if each not in there]
    if len(missing) == len(wanted):
        raise StudyError(
            f"prediction needs the weights of trained runs: {study / 'runs'} lacks {', '.join(missing)}; run the study "
            f"again with --arms {arm}, which trains what is missing"
        )
    if missing:
        log.warning(f"{len(missing)} of {len(wanted)} runs have no weights and are left out: {', '.join(missing)}")
    return [there[each] for each in wanted if each in there]


def _kept(study: Path) -> dict[str, dict[int, Path]]:
    """Return the weights that a study keeps, by arm and seed."""
    kept: dict[str, dict[int, Path]] = {}
    for path in sorted((study / "runs").glob("*.safetensors")):
        arm, _, seed = path.stem.rpartition("-")
        if arm and seed.isdecimal():
            kept.setdefault(arm, {})[int(seed)] = path
    return kept


def _check_function(study: Path, name: str, allowed: str) -> None:
    """Refuse to run code that a study names, unless the user names it, too: a study may come from somebody else.

    Raises:
        ConfigError: It is not named, or another one is.
    """
    from diffaug.study.architectures import is_function

    if is_function(name) and name != allowed:
        raise ConfigError(
            f"the network of {study} is a function, whose code would run: it is {name}; add --network {name} if you "
            "trust it"
        )


def _classes_of(study: Path, plan: Mapping[str, Any]) -> tuple[LabelClass, ...]:
    """Return the classes of a study's labels; none where its data set declares none.

    Raises:
        StudyError: An older version wrote study.json.
        DataError: They are no classes.
    """
    if not plan.get("classes"):
        return ()
    values = plan.get("class_values", {})
    if set(values) != set(plan["classes"]):
        raise StudyError(
            f"prediction needs the values of the classes: {study / 'study.json'} lacks them; run the study again, "
            "which adds them and trains nothing"
        )
    return classes_from_json({name: values[name] for name in plan["classes"]}, study / "study.json")


def _networks(weights: Sequence[Path], config: StudyConfig, classes: int, device: str) -> "tuple[nn.Module, ...]":
    from diffaug.study.network import load_network

    return tuple(load_network(config, path, classes).to(device) for path in weights)


def _folders_of(classes: Sequence[LabelClass]) -> tuple[str, ...]:
    """Return the folders of the probabilities: one, or one a class by its name where that can name a folder."""
    if len(classes) < 2:
        return ("probabilities",)
    names = (one.name if SAFE.fullmatch(one.name) else f"class-{index}" for index, one in enumerate(classes, start=1))
    return tuple(f"probabilities/{name}" for name in names)
