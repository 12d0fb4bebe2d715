"""Every knob on one page, in pipeline order: frozen models whose fields are also the options of the command line.

A knob is here because an experiment in docs/results.md or docs/decisions.md shows that it matters; the rest is derived.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from diffaug.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Width = Annotated[int, Field(gt=0, multiple_of=16)]  # channels, which every network normalises in 16 groups
Cell = Annotated[int, Field(gt=0, multiple_of=4)]  # px, which the validator divides into 4 x 4
Weight = Annotated[float, Field(ge=0.0, le=20.0)]
Source = Literal[
    "folder", "kvasir-seg", "cvc-clinicdb", "refuge2", "refuge2-crops", "drishti-gs", "endotect"
]  # whose layout `data/sources` reads
WITH_LABELS = "+pseudo-label"  # ends the name of an arm that also trains on the images of pseudo-label
AIMS = ("match", "missed", "small", "medium", "large", "low-contrast")  # what kept cases are to be like
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]


Effect = Literal["extent", "computing", "place"]


@dataclass(frozen=True)
class Affects:
    """Says of a knob that it is no part of the identity of what is made with it; every other knob is.

    `extent`: how much is asked for; a folder may be extended. `computing`: how results are computed, such as the number
    of processes. `place`: where things lie; their content is digested instead.
    """

    what: Effect


EXTENT, COMPUTING, PLACE = Affects("extent"), Affects("computing"), Affects("place")


def identity_of(config: "Knobs") -> dict[str, Any]:
    """Return the knobs that results depend on, as JSON values, groups nested."""
    values = config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, knob in type(config).model_fields.items():
        if any(isinstance(mark, Affects) for mark in knob.metadata):
            continue
        group = getattr(config, name)
        found[name] = identity_of(group) if isinstance(group, Knobs) else values[name]
    return found


class Knobs(BaseModel):
    """A frozen group of knobs that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        """Take knobs by name.

        Raises:
            ConfigError: A name or a value is impossible; one line, which is also what the command line shows.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined] # groups inside a group are checked with it


class CodecConfig(Knobs):
    """The autoencoder between pixels and latents."""

    window: Positive = 128  # px; the side of the square that the model paints
    cell: Cell = 8  # px per latent cell; space-to-depth before the first layer, so that no layer runs above h x w
    latent_channels: Positive = 16  # numbers a cell
    width: Positive = 128  # channels inside
    blocks: tuple[Positive, Positive] = (1, 6)  # of encoder and decoder
    iterations: Count = 3000  # where it is trained: the shipped one does not suit the images
    batch_size: Positive = 16  # windows
    learning_rate: Rate = 1e-3  # the highest

    @field_validator("width")
    @classmethod
    def _carry_latents(cls, width: int, info: ValidationInfo) -> int:
        """Refuse more latent channels than a cell has values, or than pairs of channels carry (`training.codec`)."""
        channels, cell = info.data.get("latent_channels", 0), info.data.get("cell", 0)
        if width < 2 * channels or channels > 3 * cell**2 > 0:
            raise ValueError(
                f"latent_channels is half of width and 3 x cell^2 at most: it is {channels}, width {width}, cell {cell}"
            )
        return width


class DenoiserConfig(Knobs):
    """The U-Net that paints, its text encoder, and their training."""

    widths: Widths = (96, 160, 192)  # channels of each level, from the finest
    layers: Positive = 1  # residual blocks a level
    text_width: Annotated[int, Field(gt=0, multiple_of=32)] = 128  # 32 for each head
    text_layers: Positive = 2  # of the text encoder
    windows_per_case: Positive = 12  # augmented windows encoded once per case
    monitor_share: Rate = 0.1  # of the cases with lesions, only choose the checkpoint; none where that is under two
    iterations: Count = 400  # the score of held-out cases rises no more after 400 of 500 (N = 100)
    batch_size: Positive = 32  # windows
    learning_rate: Rate = 4e-4  # the highest
    lora_rank: Annotated[Count, tyro.conf.arg(aliases=["--lora"])] = 0  # of low-rank updates; 0 trains a base in full
    # What follows is for a Stable Diffusion base, or a GPU that is short of memory.
    merge: Annotated[bool, tyro.conf.arg(aliases=["--merge"])] = False  # save whole networks, not the LoRA and its base
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, more time


class ValidatorConfig(Knobs):
    """The latent segmentation networks, one per fold, and their calibration."""

    folds: Annotated[int, Field(ge=2)] = 3  # each leaves out cases, whose lesions set its thresholds
    windows_per_case: Annotated[int, Field(ge=3)] = 20  # a third lesion-free, a tenth the whole frame
    widths: Widths = (32, 32)  # a look costs little beside decoding and a network on pixels; wider ones judge no better
    iterations: Count = 600  # of each
    batch_size: Positive = 16  # windows
    learning_rate: Rate = 1e-3  # the highest
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05  # chance that a lesion as good as a real one is rejected
    delta: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02  # chance that what would have been accepted is stopped
    trajectories: Count = 128  # samples painted to the end that delta is calibrated on; under 1 / delta - 1, none stops


class FitConfig(Knobs):
    """`diffaug fit`: annotated cases become a painter, its validators and their thresholds."""

    codec: CodecConfig = CodecConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    validator: ValidatorConfig = ValidatorConfig()
    steps: Annotated[int, Field(gt=0, le=1000)] = 2  # of the sampler; the thresholds are calibrated at some of them
    checks: tuple[Fraction, ...] = (0.5, 1.0)  # when the gate looks, as shares of the steps done; 1 is the result

    @field_validator("validator")
    @classmethod
    def _fit_sides(cls, validator: ValidatorConfig, info: ValidationInfo) -> ValidatorConfig:
        """Refuse a window whose latents cannot be halved as often as the networks halve them."""
        if "codec" not in info.data or "denoiser" not in info.data:
            return validator  # their own errors are told instead
        codec, stages = info.data["codec"], max(len(info.data["denoiser"].widths), len(validator.widths))
        if codec.window % (codec.cell * 2 ** (stages - 1)):
            multiple = codec.cell * 2 ** (stages - 1)
            raise ValueError(f"codec.window must be a multiple of {multiple}; it is {codec.window}")
        return validator


class GenerateConfig(Knobs):
    """`diffaug generate`: requests become kept cases."""

    count: Positive = 200  # kept cases, without fills; `diffaug run` makes data.painted_per_real for each real case
    domain: str = "generic"  # of the findings that prompts are made of: generic (measured words), colonoscopy, fundus
    findings: Annotated[Path | None, PLACE] = None  # YAML file of your own findings, instead of a domain's
    place: Literal["mixed", "free", "replace", "removed"] = "mixed"  # mixed: as many lesions a frame as real ones hold
    aim: str = "match"  # match: as the data; missed: what a baseline missed; small, medium, large or low-contrast
    # for missed: the folder of `diffaug study --folds K --baseline` on these training cases
    baseline: Annotated[Path | None, PLACE] = None
    backgrounds: Annotated[Path | None, PLACE] = (
        None  # more frames to paint on: unannotated images, labelled by `diffaug pseudo-label`
    )
    shard_size: Positive = 32  # requests
    slots: Positive = 8  # samples denoised together
    # share of the timesteps that repaint a training lesion moved onto the mask; 1: from noise; more wants more steps
    strength: Fraction = 0.4
    # few steps of ddim leave the least noise behind; from noise alone, 6 to 8 of ab2 are nearer to the limit than 20
    solver: Literal["ab2", "ddim"] = "ddim"
    guidance: tuple[Weight, Weight] = (1.0, 1.0)  # of text; before it, in much noise, of text and mask; 1 is none
    gate: Literal["conformal", "fixed", "off"] = "conformal"  # thresholds of the fit, one for all, or keep everything
    threshold: Fraction = 0.5  # of the gate `fixed`: least agreement with the requested mask
    paint_all: bool = False  # paint what the gate turns down to the end too, for arms of a study that choose among it
    fills: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5  # lesion-free fills, labelled background, for each lesion
    workers: Annotated[Positive, COMPUTING] = 2  # processes, one thread each; the result is the same for any number

    @field_validator("gate", mode="before")
    @classmethod
    def _mean_a_word(cls, gate: Any) -> Any:
        """Take YAML's bare `on` and `off`, which are booleans, for words."""
        return ("conformal" if gate else "off") if isinstance(gate, bool) else gate


class SelectConfig(Knobs):
    """`diffaug select`: which of the accepted cases are worth training on."""

    hardness: Literal["loss", "disagreement"] = "loss"  # of the baseline: 1 - Dice, or the spread between its networks
    hard_cut: Fraction = 0.9  # quantile of hardness over which a case is too hard
    novelty: Annotated[float, Field(ge=0.0)] = 0.5  # weight of the rank of novelty, beside that of hardness, which is 1


def _listed(value: Any) -> Any:
    """Take a single name or number for a list of one."""
    return (value,) if isinstance(value, str | int) else value


class StudyConfig(Knobs):
    """`diffaug study`: arms, mixing, selection, schedule and evaluation of the segmentation model."""

    arms: Annotated[
        tuple[str, ...], EXTENT
    ] = ()  # none: real, copy-paste and, as far as the inputs allow, unfiltered and selected
    seeds: Annotated[Positive, EXTENT] = 1  # of each draw of the annotated cases
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160  # px; side of the square the segmentation network sees
    cell: Literal[2, 4, 8] = 4  # px; squares whose pixels become channels before the first layer
    widths: tuple[Positive, Positive, Positive, Positive, Positive] = (32, 48, 64, 96, 128)  # from size / cell down
    iterations: Positive = 8000  # of every arm
    batch_size: Annotated[int, Field(ge=2)] = 8  # batch normalisation needs two
    learning_rate: Rate = 2e-3  # the highest
    weight_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-2  # of AdamW
    # cross-entropy and the Dice of the batch, that of each image, or one that weighs what is missed more
    loss: Literal["dice+ce", "image-dice+ce", "tversky+ce"] = "image-dice+ce"
    # decay of the averaged weights that are tested; 0 takes the last
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    augmentation: Annotated[float, Field(ge=0.0, le=2.0)] = 0.75  # strength of the classical augmentation
    decision_threshold: Fraction = 0.5  # probability over which a pixel is lesion; of several classes the likeliest
    synthetic_per_real: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0  # painted cases in an arm, for each real case
    synthetic_share: Fraction | None = 0.5  # of a batch, synthetic or pasted; None: as many as there are in the arm
    synthetic_weight: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0  # of a synthetic case in the loss
    real_last: Fraction = 0.0  # share of the iterations at the end that see real cases alone
    fills: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5  # lesion-free fills in an arm, for each painted case
    select: SelectConfig = SelectConfig()
    fixed_threshold: Fraction = 0.5  # of the validator's last score, for the arm fixed-threshold
    pseudo_confidence: Fraction = 0.92  # mean probability inside a pseudo-mask that is kept
    # seeds of `real` that label and measure for the arms pseudo-label and selected
    baselines: Annotated[int, Field(gt=0, validate_default=True)] = 1
    bootstrap: Annotated[Positive, EXTENT] = 2000  # resamples of draws and groups of test cases
    workers: Annotated[Positive, COMPUTING] = 2  # processes, one thread each

    _be_several = field_validator("arms", mode="before")(_listed)

    @field_validator("baselines")
    @classmethod
    def _be_trained(cls, baselines: int, info: ValidationInfo) -> int:
        """Refuse more baselines than seeds of `real`, and a disagreement of one network with itself."""
        seeds, chosen = info.data.get("seeds", baselines), info.data.get("select")
        if baselines > seeds:
            raise ValueError(f"baselines are among the seeds of real: there are {seeds}, not {baselines}; raise seeds")
        if chosen and chosen.hardness == "disagreement" and baselines < 2:
            raise ValueError("select.hardness disagreement is between networks: baselines is 1; use 2 or more, or loss")
        return baselines


class DataConfig(Knobs):
    """`diffaug run`: where the images come from, and how many stay annotated."""

    source: Literal["phantom"] | Source = "phantom"
    path: Annotated[Path | None, PLACE] = (
        None  # of the source; of `folder` also a data set with cases.csv, read where it lies
    )
    phantoms: tuple[Positive, Count, Positive, Count] = (60, 20, 40, 40)  # train, val, test, unannotated
    phantom_size: Positive = 256  # px
    annotated: Annotated[tuple[Positive | Literal["all"], ...], EXTENT] = (50,)  # training cases that keep their masks
    draws: Annotated[tuple[Count, ...], EXTENT] = (0, 1, 2)  # which ones; each draw has its own fit and synthetic set
    painted_per_real: Annotated[float, Field(gt=0.0, le=100.0)] = 4.0  # kept cases that arms choose among, a real case
    backgrounds: Literal["annotated", "pseudo-labelled"] = "annotated"  # also those that `real` labels with confidence
    folds: Annotated[int, Field(ge=0)] = 0  # of the training cases, each tested on once; 0 tests on `test`
    test: tuple[str, ...] = ("test",)  # splits, or folders of other data sets
    allow_duplicates: bool = False  # go on where a test image or its group is trained on; the report says so

    _be_several = field_validator("test", "annotated", "draws", mode="before")(_listed)

    @field_validator("test", "annotated", "draws")
    @classmethod
    def _be_different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Refuse what is named twice: it would count twice."""
        if len(set(values)) < len(values) or not values:
            raise ValueError(f"at least one is named, and each once; got {', '.join(map(str, values)) or 'none'}")
        return values

    @field_validator("folds")
    @classmethod
    def _be_none_or_several(cls, folds: int) -> int:
        """Refuse a single fold, which would leave nothing to train on."""
        if folds == 1:
            raise ValueError("folds are 0, or 2 and more; it is 1")
        return folds


class Config(Knobs):
    """Every stage of one run."""

    out: Annotated[Path, PLACE] = Path("out")
    records: Annotated[Path | None, PLACE] = (
        None  # JSON lines, a finished run each, which is not repeated; OUT/records.jsonl unless set
    )
    budget: Annotated[Annotated[float, Field(gt=0)] | None, EXTENT] = (
        None  # minutes; fewer draws are made where all would take longer
    )
    seed: Count = 0
    device: Annotated[str, COMPUTING] = "cpu"
    data: DataConfig = DataConfig()
    fit: FitConfig = FitConfig()
    generate: GenerateConfig = GenerateConfig()
    study: StudyConfig = StudyConfig()


def _preset(**stages: dict[str, Any]) -> Config:
    return Config.model_validate(stages)


PRESETS: dict[str, Config] = {
    "default": Config(),
    "demo": _preset(
        data={
            "source": "phantom",
            "phantoms": (64, 4, 40, 16),
            "annotated": (40,),
            "draws": (0,),
            "painted_per_real": 3.0,
        },
        fit={
            "codec": {"iterations": 250},
            "denoiser": {"iterations": 100, "windows_per_case": 6},
            "validator": {"iterations": 120, "folds": 2, "windows_per_case": 10, "trajectories": 56},
        },
        generate={"count": 40, "shard_size": 16},
        study={"seeds": 2, "size": 96, "iterations": 1000},
    ),
    "stable-diffusion": _preset(  # not measured: rates and lengths that are usual for such an update
        fit={
            "denoiser": {"lora_rank": 16, "learning_rate": 1e-4, "batch_size": 16, "iterations": 1500},
            "validator": {"widths": (32, 64, 128, 128)},  # 8 x 8 at the bottom, as with 16 x 16 latents of two widths
            "steps": 12,
        },
        generate={"strength": 0.8, "solver": "ab2", "guidance": (3.0, 1.5)},
    ),
    "smoke": _preset(
        data={
            "source": "phantom",
            "phantoms": (16, 2, 8, 4),
            "phantom_size": 128,
            "annotated": (12,),
            "draws": (0,),
            "painted_per_real": 3.0,
        },
        fit={
            "codec": {"iterations": 20},
            "denoiser": {"iterations": 8, "windows_per_case": 2, "batch_size": 8},
            "validator": {"iterations": 8, "folds": 2, "windows_per_case": 4, "trajectories": 2},
            "steps": 4,
        },
        generate={"count": 6, "shard_size": 6, "slots": 4},
        study={"seeds": 1, "iterations": 8, "batch_size": 8, "bootstrap": 200},
    ),
}


def _known(root: str, place: tuple[int | str, ...]) -> str:
    """Return which knobs there are where an unknown one was given."""
    group: Any = next((cls for cls in Knobs.__subclasses__() if cls.__name__ == root), Config)
    for part in place[:-1]:
        group = group.model_fields[part].annotation
    return f"there are {', '.join(group.model_fields)}"


def explain(error: ValidationError) -> str:
    """Return the first violation of a validation error as one line."""
    first = error.errors()[0]
    where = ".".join(part for part in map(str, first["loc"]) if part.isidentifier() or part.isdigit())  # not of unions
    if first["type"] == "extra_forbidden":
        return f"only known knobs are allowed: {where} is none; {_known(error.title, first['loc'])}"
    if first["type"] == "value_error":  # ours, which name the value
        return f"{where}: {first['ctx']['error']}"
    return f"{where}: {first['msg']}; got {first['input']!r}"


def config_from_values(values: Any, preset: str = "default") -> Config:
    """Return a preset with some knobs replaced.

    Args:
        values: Nested mappings of knob names, such as {"study": {"seeds": 5}}.
        preset: A name in PRESETS.

    Raises:
        ConfigError: An unknown preset or knob, or an impossible value.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
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
