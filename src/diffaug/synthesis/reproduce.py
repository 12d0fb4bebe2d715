"""`diffaug reproduce`: paint a synthetic picture again from what it says of itself, and compare.

A sample depends, in its last digits, on its neighbours in the batch. So the whole shard is painted again, which is a
pure function of the plan, into a folder that is removed afterwards; a removal depends on nothing beside its case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from diffaug.artifacts import PathLike, digest_of_file, versions
from diffaug.compute.devices import device_of, one_thread, processor_of
from diffaug.conditioning.findings import GENERIC
from diffaug.config import GenerateConfig
from diffaug.data.images import read_image
from diffaug.data.origin import Origin, recorded_settings
from diffaug.errors import ConfigError, DataError
from diffaug.models.checkpoints import verify
from diffaug.reading import typed
from diffaug.synthesis.explain import Explanation, explain_image
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.remove import removals_of, write_removal
from diffaug.synthesis.shards import generate_shard, shard_folder, workshop_of

# What may differ where another kind of processor, or another version of a package, computed: see docs/trust.md.
TOLERANCE = 4  # grey levels of 255, of the pixel that differs most
OPTIONS = {name: f"--{name}" for name in ("model", "data", "findings", "backgrounds")} | {"budget": "--baseline"}
KNOB = "generate."
FIX = "take the file from its set, or name the set with --in"
# What a picture may ask for, so that reproducing one that somebody made to harm takes no days and no terabytes.
LARGEST_SHARD, MOST_SLOTS = 1_000, 256
MOST_REQUESTS = 250_000  # whose order is drawn anew, 45 microseconds each


@dataclass(frozen=True)
class _Removal:
    """The number on which a removal depends."""

    seed: Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True)
class _Amounts(_Removal):
    """The numbers on which depends how long a shard takes."""

    requests: Annotated[list[Annotated[int, Field(ge=0, lt=MOST_REQUESTS)]], Field(min_length=1)]
    shard_size: Annotated[int, Field(gt=0, le=LARGEST_SHARD)] = 1
    slots: Annotated[int, Field(gt=0, le=MOST_SLOTS)] = 1


@dataclass(frozen=True)
class _Sources:
    """From what a picture is painted again, and where."""

    device: str
    model: Path
    data: Path
    findings: Path | None
    baseline: Path | None
    backgrounds: Path | None


@dataclass(frozen=True)
class Reproduction:
    """A picture that was painted again, compared with what it was.

    Attributes:
        id: Of its row.
        same_file: Whether the files are equal, byte for byte, metadata included.
        largest: The largest difference of a pixel in one channel, 0 to 255.
        share: Share of the pixels that differ.
        changed: What is not as recorded: the processor, and versions of packages, each with what it was and is.
    """

    id: str
    same_file: bool
    largest: int
    share: float
    changed: Mapping[str, tuple[str, str]]

    @property
    def equal(self) -> bool:
        """Whether all pixels are equal."""
        return self.largest == 0

    @property
    def passed(self) -> bool:
        """Whether the picture is what its metadata say: equal or, computed elsewhere, equal but for rounding."""
        return self.equal or (bool(self.changed) and self.largest <= TOLERANCE)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "id": self.id, "equal": self.equal, "same_file": self.same_file, "largest": self.largest,
            "share": self.share, "changed": {name: list(pair) for name, pair in self.changed.items()},
            "passed": self.passed,
        }  # fmt: skip


def reproduce_image(
    image: PathLike,
    model: PathLike | None = None,
    data: PathLike | None = None,
    *,
    synthetic: PathLike | None = None,
    findings: PathLike | None = None,
    baseline: PathLike | None = None,
    backgrounds: PathLike | None = None,
    device: str = "",
) -> Reproduction:
    """Paint a synthetic picture again, and compare it with what it is.

    On the same kind of processor and with the same versions all pixels are equal. Nothing is written that stays.

    Args:
        image: A picture as `explain_image` takes it.
        model: The model folder; None takes the folder `model` beside the set, as `diffaug run` makes it. It, and the
            other folders, must be what they were, by their digests.
        data: The data set that the model was fitted on; None takes the folder `data` beside the set.
        synthetic: The set that the picture was copied from.
        findings: The file of findings, where prompts were made of one.
        baseline: The study, where the set was made with `--aim missed`.
        backgrounds: The data set of labelled images, where the set was painted on one.
        device: Where to compute; where the picture was computed, if it is not given.

    Raises:
        DataError: It is no synthetic picture, or too little is known of it; or it is not painted to the end here.
        ConfigError: A folder is not known, or is not what it was.
        ModelError: The model is unfinished or altered, or was fitted on other cases.

    Example:
        >>> picture = "synthetic/mine/shards/00000/images/synth-00000.png"
        >>> diffaug.reproduce_image(picture, "models/mine", "data/mine").equal  # doctest: +SKIP
        True
    """
    found, image = explain_image(image, synthetic), Path(image)
    if found.what not in ("picture", "preview"):
        raise DataError(f"a picture is painted again with its mask: {image} is a {found.what}; name the picture")
    origin = found.origin
    if "seed" not in origin.settings:
        raise DataError(
            f"a picture is painted again by the settings of its set: {image} and {found.folder} do not say them; name "
            "the set that `diffaug generate` made with --in"
        )
    _check_amounts(origin, image)
    computed = str(origin.settings.get("device", "cpu"))
    more = (Path(path) if path else None for path in (findings, baseline, backgrounds))
    model, data = _folder("model", model, found, image), _folder("data", data, found, image)
    sources = _Sources(str(device_of(device or computed)), model, data, *more)
    expected = {**origin.settings, "device": sources.device}  # another one is no fault: results differ by rounding
    _check_same({"model": verify(sources.model)}, {"model": origin.model}, image)
    with TemporaryDirectory() as folder, one_thread():
        if origin.kind == "removed":
            made = _removed_again(origin, sources, Path(folder), expected)
        else:
            made = _painted_again(found, sources, Path(folder), expected)
        return _compared(origin, image, made, _changed(origin, sources.device))


def _check_amounts(origin: Origin, image: Path) -> None:
    """Refuse numbers that no set has: a picture may come from anybody, and its whole shard is painted to compare it.

    Raises:
        DataError: A number is of another type, or asks for more than is painted again.
    """
    settings = {name.removeprefix(KNOB): value for name, value in origin.settings.items()}
    amounts: dict[str, Any] = {name: settings[name] for name in ("seed", "shard_size", "slots") if name in settings}
    if origin.kind != "removed":
        amounts["requests"] = [request.index for request in origin.requests]
    typed(_Removal if origin.kind == "removed" else _Amounts, amounts, f"the metadata of {image}", FIX)


def _folder(name: str, given: PathLike | None, found: Explanation, image: Path) -> Path:
    """Return the model or the data set: the one that is given, or that beside the set, where `diffaug run` has it.

    Raises:
        ConfigError: There is none.
    """
    if given:
        return Path(given)
    if (beside := found.beside(name)) is None:
        raise ConfigError(f"a picture is painted again with its model and data: add --{name} {name.upper()} of {image}")
    return beside


def _painted_again(found: Explanation, sources: _Sources, folder: Path, expected: Mapping[str, Any]) -> Path:
    """Paint the shard of a picture into a folder, and return the picture's file."""
    origin = found.origin
    if origin.settings.get("findings") and not found.domain and not sources.findings:
        raise ConfigError(f"the prompt of {found.image} was made of a file of findings: add it with --findings")
    knobs = {name.removeprefix(KNOB): value for name, value in origin.settings.items() if name.startswith(KNOB)}
    knobs |= {
        "domain": found.domain or GENERIC,
        "findings": None if found.domain else sources.findings,
        "baseline": sources.baseline,
        "backgrounds": sources.backgrounds,
    }
    config = GenerateConfig(**knobs)
    plan = make_plan(sources.model, sources.data, config, origin.settings["seed"], sources.device)
    _check_same(recorded_settings(plan.identity()), expected, found.image)
    try:
        case = origin.requests[0].index // workshop_of(plan).maker.drawer.per_case
        shard = case // config.shard_size
        generate_shard(plan, folder, shard)
    finally:
        workshop_of.cache_clear()  # the model leaves memory
    kind = "turned-down" if origin.kind == "preview" else "images"
    return shard_folder(folder, shard) / kind / f"{origin.id}.png"


def _removed_again(origin: Origin, sources: _Sources, folder: Path, expected: Mapping[str, Any]) -> Path:
    """Remove the lesions of a case again, and return the file of the picture."""
    removals = removals_of(sources.model, sources.data, origin.settings["seed"], sources.device)
    _check_same(removals.origin.settings, expected, origin.id)
    case = next((case for case in removals.cases if case.id == origin.source), None)
    if case is None:
        raise DataError(f"the case whose lesions were removed is needed: {sources.data} has no {origin.source}; "
                        "name its data set with --data")  # fmt: skip
    return write_removal(removals, case, folder)


def _check_same(here: Mapping[str, Any], expected: Mapping[str, Any], image: object) -> None:
    """Refuse what is not what a picture was painted with.

    Raises:
        ConfigError: Naming the first difference, and the option that names another folder.
    """
    for name in here:
        if name in expected and here[name] != expected[name]:
            fix = f"name the right one with {OPTIONS[name]}" if name in OPTIONS else "use the version that painted it"
            raise ConfigError(
                f"a picture is painted again with what it was painted with: {name} of {image} was "
                f"{str(expected[name])[:60]}, here it is {str(here[name])[:60]}; {fix}"
            )


def _changed(origin: Origin, device: str) -> dict[str, tuple[str, str]]:
    """Return what is not as recorded: the processor, and versions."""
    here = {"processor": processor_of(device_of(device)), **versions()}
    before = {"processor": origin.processor, **origin.versions}
    return {name: (before[name], here.get(name, "absent")) for name in before if before[name] != here.get(name)}


def _compared(origin: Origin, image: Path, made: Path, changed: Mapping[str, tuple[str, str]]) -> Reproduction:
    if not made.is_file():
        raise DataError(
            f"the gate does not keep {origin.id} here, so nothing can be compared with {image}; reproduce it on the "
            "processor and with the versions that it names"
        )
    pixels, again = read_image(image), read_image(made)
    if pixels.shape != again.shape:
        return Reproduction(origin.id, False, 255, 1.0, changed)
    difference = np.abs(pixels.astype(np.int16) - again).max(axis=2)
    same = digest_of_file(image) == digest_of_file(made)
    share = round(float((difference > 0).mean()), 6)
    return Reproduction(origin.id, same, int(difference.max()), share, changed)
