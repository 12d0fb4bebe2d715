"""Plans: everything that a synthetic set depends on, checked before work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasPath, Field

from diffaug.artifacts import digest_of_file, digest_of_value
from diffaug.compute.devices import device_of
from diffaug.conditioning.budget import Budget, make_budget, read_needs
from diffaug.conditioning.domain import domain_of
from diffaug.conditioning.drawer import RequestDrawer, check_config, is_generic
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules, read_rules
from diffaug.config import GenerateConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import Dataset, check_dataset, read_dataset
from diffaug.data.manifest import PROVENANCE, Fitted
from diffaug.errors import ConfigError, ModelError
from diffaug.knobs import identity_of
from diffaug.models.checkpoints import verify
from diffaug.models.sampling import read_sampler
from diffaug.presets import preset_of
from diffaug.reading import read_kept, read_typed
from diffaug.runfolder import Contents
from diffaug.validator.calibration import Calibration

FEWEST_ITERATIONS = 100  # of a validator, with fewer of which it finds nothing


@dataclass(frozen=True)
class _FitOf:
    """What `fit.json` says of how long the validators were trained."""

    iterations: Annotated[int, Field(validation_alias=AliasPath("identity", "config", "validator", "iterations"))]


@dataclass(frozen=True)
class Plan:
    """Everything that a shard's output depends on, besides its index.

    Attributes:
        model: The model folder.
        data: The data set that it was fitted on.
        config: What is asked for.
        seed: Base seed of the requests.
        model_digest: Of the model.
        data_digest: Of the annotated cases.
        findings_digest: Of the findings that prompts are made of; empty for measured words alone.
        device: Where it is computed; last digits depend on it.
        budget: What kept cases should be like; None for the aim `match`.
        backgrounds_digest: Of the unannotated images that are painted on; empty without them.
    """

    model: Path
    data: Path
    config: GenerateConfig
    seed: int
    model_digest: str
    data_digest: str
    findings_digest: str = ""
    device: str = "cpu"
    budget: Budget | None = None
    backgrounds_digest: str = ""

    @property
    def has_realism(self) -> bool:
        """Whether the model's critic decides, if it has one."""
        return self.config.realism and self.config.gate != "off"

    def identity(self) -> dict[str, Any]:
        """Return all that the set depends on; of findings and backgrounds their content, wherever they lie."""
        knobs = {f"generate.{name}": value for name, value in identity_of(self.config).items() if name != "domain"}
        return knobs | {
            "seed": self.seed, "model": self.model_digest, "data": self.data_digest, "device": self.device,
            "findings": self.findings_digest, "backgrounds": self.backgrounds_digest,
            "budget": self.budget.as_dict() if self.budget else None,
        }  # fmt: skip

    def digest(self) -> str:
        """Return the digest of what the set depends on beside the model."""
        return digest_of_value({name: value for name, value in self.identity().items() if name != "model"})

    def contents(self) -> Contents:
        """Return what the folder of the set says that it holds."""
        cases = sorted(Calibration.load(self.model / "calibration.json").folds)
        about = {"fit_cases": cases}
        return Contents(
            "synthetic set", self.identity(), "config.json", about, preset_of=partial(preset_of, "generate")
        )

    def quotas(self) -> dict[str, int]:
        """Return how many kept lesions are wanted of each stratum; of one without a name where nothing is aimed at."""
        budget = self.budget
        return dict(zip(budget.strata, budget.quotas, strict=True)) if budget else {"": self.config.count}


def make_plan(model: Path, data: Path, config: GenerateConfig, seed: int, device: str = "cpu") -> Plan:
    """Check model and data, and return everything that the shards depend on.

    Raises:
        ModelError: The model is unfinished or altered, or was fitted on other cases.
        ConfigError: The device is not there, or the backgrounds are not of this data set.
        FindingsError: The domain is unknown, or the findings break a rule.
        StudyError: The baseline is not of these training cases out of fold.
    """
    model, data, place = model.absolute(), data.absolute(), str(device_of(device))
    library = check_config(config)
    digest = verify(model)
    read_sampler(model)
    dataset = read_dataset(data)
    train = fitted_cases(dataset, Calibration.load(model / "calibration.json"))
    check_dataset(train)
    domain_of(dataset.class_names).check_place(config.place)
    digests = {case.id: digest_of_case(case) for case in train}
    fitted = read_typed(model / "fit.json", Fitted, "fit a model again").cases
    changed = [name for name, found in digests.items() if fitted.get(name) != found]
    if changed:
        raise ModelError(
            f"a model paints for the training cases it was fitted on: {changed[0]} of {data} is another one, or was "
            "changed since; fit a model on this data set"
        )
    findings = "" if is_generic(config) else digest_of_value(library.model_dump(mode="json"))
    rules = read_rules(model).rules
    budget, backgrounds = budget_of(dataset, config, rules), check_backgrounds(config, dataset, digests)
    return Plan(model, data, config, seed, digest, digest_of_value(digests), findings, place, budget, backgrounds)


def fitted_cases(dataset: Dataset, calibration: Calibration) -> list[Case]:
    """Return the annotated training cases, all of which the model must have been fitted on.

    Raises:
        ModelError: A case is unknown to the model: no validator is known that has not seen it.
    """
    train = list(dataset.split("train"))
    unknown = [case.id for case in train if case.id not in calibration.folds]
    if unknown or not train:
        name = unknown[0] if unknown else "(none)"
        raise ModelError(
            f"a model paints for the training cases it was fitted on: {name} of {dataset.folder} is not one; "
            "fit a model on this data set"
        )
    return train


def backgrounds_of(config: GenerateConfig, dataset: Dataset) -> tuple[Case, ...]:
    """Return what is painted on beside the annotated cases: unannotated images.

    These are the images that are declared to be lesion-free, those with lesions that a baseline found, if the config
    names a folder of them, and, if it asks for them, all others, of which nothing is known. A cup is painted in the
    annotated photograph that it belongs to.
    """
    found = read_dataset(config.backgrounds).split("train") if config.backgrounds else ()
    if domain_of(dataset.class_names).stays_in_place:
        return tuple(found)
    names = {case.id for case in found}
    others = (case for case in dataset.split("unannotated") if case.id not in names)
    return (*found, *(case for case in others if case.negative or config.unannotated == "all"))


def check_backgrounds(config: GenerateConfig, dataset: Dataset, digests: Mapping[str, str]) -> str:
    """Refuse images that the data set does not hold unannotated, and annotations that the model has not seen.

    Args:
        config: Names the folder, if any.
        dataset: What the model was fitted on.
        digests: Of its annotated cases, by case.

    Returns:
        The digest of all that is painted on beside the annotated cases; empty for nothing.

    Raises:
        ConfigError: Naming the first image or annotation that should not be there; or the classes are disc and cup.
    """
    folder, known = config.backgrounds, {case.id: case for case in dataset.split("unannotated")}
    if folder is None:
        return _digest_of_backgrounds(backgrounds_of(config, dataset))
    path = folder / PROVENANCE
    if domain_of(dataset.class_names).stays_in_place:
        raise ConfigError(
            f"a cup is painted in the annotated photograph it belongs to: backgrounds is {folder}; leave it out"
        )
    rule = "backgrounds are unannotated images of the data set, labelled by `diffaug pseudo-label`"
    found = read_dataset(folder).split("train")
    for case in found:
        same = case.id in known and digest_of_file(case.image) == digest_of_file(known[case.id].image)
        if not same or case.classes != known[case.id].classes:
            raise ConfigError(
                f"{rule}: {case.id} of {folder} is none of {dataset.folder}; label them for this data set"
            )
    stated = read_typed(path, Fitted).cases if path.is_file() else {"(it has no provenance.json)": ""}
    foreign = [name for name, digest in stated.items() if digests.get(name) != digest]
    if foreign or not found:
        raise ConfigError(
            f"{rule}: {folder} has no images, or comes from other annotations, such as {(foreign or ['(none)'])[0]}; "
            "study this data set and label them again"
        )
    return _digest_of_backgrounds(backgrounds_of(config, dataset))


def _digest_of_backgrounds(cases: Sequence[Case]) -> str:
    check_dataset(cases)
    return digest_of_value([[case.id, digest_of_case(case)] for case in cases]) if cases else ""


def budget_of(dataset: Dataset, config: GenerateConfig, rules: FrameRules = ENDOSCOPIC) -> Budget | None:
    """Return what the kept cases should be like; None for the aim `match`.

    Raises:
        ConfigError: No training case is like what is aimed at.
        StudyError: The baseline is not of these training cases out of fold.
    """
    train = [case for case in dataset.split("train") if case.mask]
    needs = None
    if config.baseline is not None:
        needs = read_needs(config.baseline, train, [*dataset.split("val"), *dataset.split("test")])
    if config.aim == "match":
        return None
    return make_budget(config.aim, RequestDrawer(train, 0, config, rules=rules).words_of_cases(), config.count, needs)


def provenance_of(plan: Plan) -> dict[str, Any]:
    """Return what the model was fitted on, by case: the digests of all images, and those of the annotated cases."""
    fitted, dataset = read_typed(plan.model / "fit.json", Fitted), read_dataset(plan.data)
    here = (*dataset.split("train"), *dataset.split("unannotated"))
    images = fitted.images or {case.id: digest_of_file(case.image) for case in here}
    return {"images": images, "cases": fitted.cases}


def notices_of_fit(model: Path) -> list[str]:
    """Return a line on a model that was fitted so briefly that nothing can be concluded from what it paints."""
    found = read_kept(model / "fit.json", _FitOf)
    if found is None or found.iterations >= FEWEST_ITERATIONS:
        return []
    return [
        f"the validators of this model were trained for {found.iterations} iterations, and find nothing before "
        f"{FEWEST_ITERATIONS}: what it paints, and what is kept of it, shows only that everything runs; fit without "
        "--preset smoke, or with a larger --validator.iterations"
    ]
