"""Every knob on one page, in pipeline order: frozen models whose fields are also the options of the command line.

A knob is here because an experiment in docs/results.md or docs/decisions.md shows that it matters; the rest is derived.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from diffaug.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]


class Knobs(BaseModel):
    """A frozen group of knobs that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CodecConfig(Knobs):
    """The autoencoder between pixels and latents."""

    window: Positive = 128  # px; the side of the square that the model paints
    unshuffle: Positive = 4  # px; space-to-depth before the first layer, so that no layer runs at full resolution
    latent_channels: Positive = 12
    widths: tuple[Positive, ...] = (96, 160)  # one per resolution, from window / unshuffle down to the latents
    layers: Positive = 1
    iterations: Count = 6000
    batch_size: Positive = 8
    learning_rate: Rate = 1e-3


class DenoiserConfig(Knobs):
    """The U-Net that paints, its text encoder, and their training."""

    widths: tuple[Positive, ...] = (96, 160, 192)
    layers: Positive = 1
    text_width: Positive = 128
    text_layers: Positive = 2
    windows_per_case: Positive = 8  # augmented windows encoded once per case
    normal_share: Fraction = 0.35  # share of lesion-free windows in a batch
    text_dropout: Fraction = 0.1
    region_weight: Annotated[float, Field(ge=1.0)] = 3.0  # loss weight of the region against the rest of the window
    iterations: Count = 1200
    batch_size: Positive = 32
    learning_rate: Rate = 4e-4


class ValidatorConfig(Knobs):
    """The latent segmentation networks, one per fold, and their calibration."""

    folds: Annotated[int, Field(ge=2)] = 3
    widths: tuple[Positive, ...] = (64, 128)
    iterations: Count = 500
    batch_size: Positive = 32
    learning_rate: Rate = 1e-3
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05  # chance that a lesion as good as a real one is rejected


class FitConfig(Knobs):
    """`diffaug fit`: annotated cases become a painter, its validators and their thresholds."""

    codec: CodecConfig = CodecConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    validator: ValidatorConfig = ValidatorConfig()
    steps: Positive = 10  # sampler steps; fixed here because the thresholds are calibrated at some of them
    checks: tuple[Fraction, ...] = (0.5, 0.8, 1.0)  # when the gate looks, as shares of the steps done; 1 is the result


class GenerateConfig(Knobs):
    """`diffaug generate`: requests become kept cases."""

    count: Positive = 200  # kept cases
    place: Literal["mixed", "free", "replace"] = "mixed"
    free_share: Fraction = 0.5  # share of `free` placements in the mix
    context: tuple[float, float] = (1.3, 2.2)  # window side over the lesion's longer side, drawn between these
    band: Fraction = 0.08  # blending band as a share of the lesion's longer side
    shard_size: Positive = 32  # requests
    slots: Positive = 8  # samples denoised together
    gate: bool = True  # off: everything painted is kept
    workers: Positive = 2  # processes, one thread each; the result is the same for any number


class StudyConfig(Knobs):
    """`diffaug study`: arms, schedule and evaluation of the segmentation model."""

    arms: tuple[str, ...] = ("real", "copy-paste", "validated")
    seeds: Positive = 3
    size: Positive = 128  # px; side of the square the segmentation network sees
    widths: tuple[Positive, ...] = (16, 32, 64, 128, 192, 256)  # one per resolution, from size / 2 down
    iterations: Positive = 1200
    batch_size: Positive = 16
    learning_rate: Rate = 2e-3
    synthetic_share: Fraction = 0.5  # share of synthetic or pasted cases in a batch
    bootstrap: Positive = 2000  # resamples of seeds and test cases
    workers: Positive = 2  # processes, one thread each

    @field_validator("widths")
    @classmethod
    def _fit_size(cls, widths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        """Refuse more halvings than the input's side allows."""
        size, multiple = info.data.get("size", 0), 2 ** (len(widths) - 1)
        if len(widths) < 2 or size % multiple:
            raise ValueError(f"two widths or more are needed, and size must be a multiple of {multiple}: it is {size}")
        return widths


class DataConfig(Knobs):
    """`diffaug run`: where the images come from, and how many stay annotated."""

    source: Literal["phantom", "folder", "kvasir-seg"] = "phantom"
    path: Path | None = None
    phantoms: tuple[Positive, Count, Positive, Count] = (60, 20, 40, 40)  # train, val, test, unannotated
    phantom_size: Positive = 256  # px
    annotated: tuple[Positive, ...] = (100,)
    draws: tuple[Count, ...] = (0,)
    test: Literal["val", "test"] = "test"


class Config(Knobs):
    """Every stage of one run."""

    out: Path = Path("out")
    seed: Count = 0
    device: str = "cpu"
    data: DataConfig = DataConfig()
    fit: FitConfig = FitConfig()
    generate: GenerateConfig = GenerateConfig()
    study: StudyConfig = StudyConfig()


def _preset(**stages: dict[str, Any]) -> Config:
    return Config.model_validate(stages)


PRESETS: dict[str, Config] = {
    "default": Config(),
    "demo": _preset(
        data={"source": "phantom", "phantoms": (72, 8, 48, 24), "annotated": (48,)},
        fit={
            "denoiser": {"iterations": 150, "windows_per_case": 6},
            "validator": {"iterations": 150, "folds": 2},
        },
        generate={"count": 48, "shard_size": 16},
        study={"seeds": 2, "iterations": 200},
    ),
    "smoke": _preset(
        data={"source": "phantom", "phantoms": (16, 2, 8, 4), "phantom_size": 128, "annotated": (12,)},
        fit={
            "codec": {"iterations": 20},
            "denoiser": {"iterations": 8, "windows_per_case": 2, "batch_size": 8},
            "validator": {"iterations": 8, "folds": 2},
            "steps": 4,
        },
        generate={"count": 6, "shard_size": 6, "slots": 4},
        study={"seeds": 1, "iterations": 8, "bootstrap": 200},
    ),
}


def explain(error: ValidationError) -> str:
    """Return the first violation of a validation error as one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"only known knobs are allowed: {where} is none; see `diffaug run --help` for the names"
    return f"{where}: {first['msg']}; got {first['input']!r}"


def config_from_values(values: Any, preset: str = "default") -> Config:
    """Return a preset with some knobs replaced.

    Args:
        values: Nested mappings of knob names, such as {"study": {"seeds": 5}}.
        preset: A name in PRESETS.

    Raises:
        ConfigError: An unknown preset or knob, or an impossible value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"a preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    if not isinstance(values, dict):
        raise ConfigError(f"a config must be a mapping of knobs; got {type(values).__name__}")
    try:
        return Config.model_validate(_merge(PRESETS[preset].model_dump(), values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in values.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def read_config(path: Path) -> Config:
    """Read a YAML file: an optional `preset:` and the knobs that differ from it.

    Raises:
        ConfigError: The file is missing or malformed, or breaks a rule of a knob.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"a config file must be readable: {path}: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a config file must be YAML: {path}: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    preset = values.pop("preset", "default") if isinstance(values, dict) else "default"
    return config_from_values(values, preset)
