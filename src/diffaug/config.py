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

    window: Positive = 128  # Side of the square that the model paints, in pixels.
    cell: Cell = 8  # Pixels across one latent cell.
    latent_channels: Positive = 16  # Numbers a latent cell holds.
    width: Positive = 128  # Channels inside the codec.
    blocks: tuple[Positive, Positive] = (1, 6)  # Residual blocks of the encoder and of the decoder.
    # Optimiser updates, where the codec is trained: where the shipped one does not suit the images.
    iterations: Count = 3000
    batch_size: Positive = 16  # Windows in a batch.
    learning_rate: Rate = 1e-3  # Highest learning rate.

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

    widths: Widths = (96, 160, 192)  # Channels of each level of the U-Net, the finest first.
    layers: Positive = 1  # Residual blocks a level.
    text_width: Annotated[int, Field(gt=0, multiple_of=32)] = 128  # Channels of the text encoder, a multiple of 32.
    text_layers: Positive = 2  # Layers of the text encoder.
    windows_per_case: Positive = 12  # Augmented windows that are encoded once for each case.
    # Share of the cases with lesions that are left out of training and choose the best checkpoint.
    monitor_share: Rate = 0.1
    iterations: Count = 400  # Optimiser updates. Raise it for many annotated cases.
    batch_size: Positive = 32  # Windows in a batch.
    learning_rate: Rate = 4e-4  # Highest learning rate.
    # Rank of low-rank updates (LoRA) of a base model. With 0 the whole model is trained.
    lora_rank: Annotated[Count, tyro.conf.arg(aliases=["--lora"])] = 0
    # Save whole networks instead of the low-rank updates beside a reference to their base.
    merge: Annotated[bool, tyro.conf.arg(aliases=["--merge"])] = False
    checkpointing: bool = False  # Recompute activations in the backward pass, which takes less memory and more time.


class ValidatorConfig(Knobs):
    """The latent segmentation networks, one per fold, and their calibration."""

    # Number of networks. Each leaves out a part of the cases, whose lesions set its thresholds.
    folds: Annotated[int, Field(ge=2)] = 3
    # Windows a case. A third of them is lesion-free, and a tenth shows the whole frame.
    windows_per_case: Annotated[int, Field(ge=3)] = 20
    widths: Widths = (32, 32)  # Channels of each level, the finest first.
    iterations: Count = 600  # Optimiser updates of each network.
    batch_size: Positive = 16  # Windows in a batch.
    learning_rate: Rate = 1e-3  # Highest learning rate.
    # Chance that a painted lesion as good as a real one is rejected. Lower it to keep more.
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    # Chance that a sample is stopped early although it would have been accepted at the end.
    delta: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    # Samples that are painted to the end to calibrate early stops. With under 1 / delta - 1, none is stopped.
    trajectories: Count = 128


class FitConfig(Knobs):
    """`diffaug fit`: annotated cases become a painter, its validators and their thresholds."""

    codec: CodecConfig = CodecConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    validator: ValidatorConfig = ValidatorConfig()
    steps: Annotated[int, Field(gt=0, le=1000)] = 2  # Steps of the sampler.
    checks: tuple[Fraction, ...] = (0.5, 1.0)  # When the gate looks, as shares of the steps done. 1 is the result.

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

    count: Positive = 200  # Number of lesion cases to keep.
    # Domain of the findings that prompts are made of: generic (measured words alone), colonoscopy or fundus.
    domain: str = "generic"
    findings: Annotated[Path | None, PLACE] = None  # YAML file of your own findings, instead of those of a domain.
    # Where lesions go: free (lesion-free tissue), replace (over a lesion), removed (in a frame whose lesions are
    # painted away first), or mixed, which keeps the number of lesions a frame as it is in the real images.
    place: Literal["mixed", "free", "replace", "removed"] = "mixed"
    # What kept cases are like: match (the data), missed (what a baseline missed), small, medium, large or low-
    # contrast.
    aim: str = "match"
    # For --aim missed: the folder of `diffaug study --folds K --baseline` on these training cases.
    baseline: Annotated[Path | None, PLACE] = None
    # Folder of more frames to paint on: unannotated images that `diffaug pseudo-label` labelled.
    backgrounds: Annotated[Path | None, PLACE] = None
    shard_size: Positive = 32  # Requests in a shard, the part that a killed run makes again.
    slots: Positive = 8  # Samples that are denoised together.
    # Share of the timesteps that repaint a training lesion moved onto the mask. 1 starts from noise alone.
    strength: Fraction = 0.4
    solver: Literal["ab2", "ddim"] = "ddim"  # How a step is made: ddim for few steps, ab2 for many from noise alone.
    # Guidance weights: text, then text and mask while noise is high. 1 disables guidance.
    guidance: tuple[Weight, Weight] = (1.0, 1.0)
    # What decides on keeping: conformal (thresholds of the fit), fixed (one threshold), or off (keep everything).
    gate: Literal["conformal", "fixed", "off"] = "conformal"
    threshold: Fraction = 0.5  # Least agreement with the requested mask under --gate fixed.
    # Paint what the gate turns down to the end, too. Arms of a study that choose among it need it.
    paint_all: bool = False
    # Lesion-free painted cases for each lesion. They are labelled background.
    negatives: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    workers: Annotated[Positive, COMPUTING] = 2  # Processes, one thread each. The result is the same for any number.

    @field_validator("gate", mode="before")
    @classmethod
    def _mean_a_word(cls, gate: Any) -> Any:
        """Take YAML's bare `on` and `off`, which are booleans, for words."""
        return ("conformal" if gate else "off") if isinstance(gate, bool) else gate


class SelectConfig(Knobs):
    """`diffaug select`: which of the accepted cases are worth training on."""

    # Hardness of a case for the baseline: its loss, or the disagreement of several networks.
    hardness: Literal["loss", "disagreement"] = "loss"
    hard_cut: Fraction = 0.9  # Quantile of hardness above which a case is too hard.
    novelty: Annotated[float, Field(ge=0.0)] = 0.5  # Weight of novelty beside hardness, whose weight is 1.


def _listed(value: Any) -> Any:
    """Take a single name or number for a list of one."""
    return (value,) if isinstance(value, str | int) else value


class StudyConfig(Knobs):
    """`diffaug study`: arms, mixing, selection, schedule and evaluation of the segmentation model."""

    # Training sets to compare. By default real and copy-paste, and with painted cases unfiltered and selected.
    arms: Annotated[tuple[str, ...], EXTENT] = ()
    seeds: Annotated[Positive, EXTENT] = 1  # Number of trainings of each arm, each with another seed.
    # Side in pixels of the square that the segmentation network sees.
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160
    cell: Literal[2, 4, 8] = 4  # Squares of so many pixels become channels before the first layer.
    # Channels of each level of the network, the finest first.
    widths: tuple[Positive, Positive, Positive, Positive, Positive] = (32, 48, 64, 96, 128)
    iterations: Positive = 8000  # Optimiser updates of every arm.
    batch_size: Annotated[int, Field(ge=2)] = 8  # Cases in a batch, at least 2.
    learning_rate: Rate = 2e-3  # Highest learning rate.
    weight_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-2  # Weight decay of AdamW.
    # Cross-entropy with the Dice loss of the batch, with that of each image, or with one that weighs misses more.
    loss: Literal["dice+ce", "image-dice+ce", "tversky+ce"] = "image-dice+ce"
    # Decay of the averaged weights that are tested. With 0 the last weights are tested.
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    augmentation: Annotated[float, Field(ge=0.0, le=2.0)] = 0.75  # Strength of the classical augmentation.
    # Probability above which a pixel is predicted as lesion. With several classes the most probable one is taken.
    decision_threshold: Fraction = 0.5
    synthetic_per_real: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0  # Painted cases in an arm for each real case.
    synthetic_share: Fraction | None = 0.5  # Share of a batch that is painted, pasted or labelled by a network.
    synthetic_weight: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0  # Weight of a synthetic case in the loss.
    real_last: Fraction = 0.0  # Share of the iterations at the end that see real cases alone.
    # Lesion-free painted cases in an arm for each painted lesion.
    fills: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    select: SelectConfig = SelectConfig()
    fixed_threshold: Fraction = 0.5  # Least score of the validator in the arm fixed-threshold.
    # Least mean probability inside a predicted mask that the arm pseudo-label keeps.
    pseudo_confidence: Fraction = 0.92
    # Seeds of the arm real that label images and score painted cases.
    baselines: Annotated[int, Field(gt=0, validate_default=True)] = 1
    bootstrap: Annotated[Positive, EXTENT] = 2000  # Bootstrap resamples of the intervals.
    workers: Annotated[Positive, COMPUTING] = 2  # Processes, one thread each. The result is the same for any number.

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

    # Where the images come from: phantom, folder or a published layout.
    source: Literal["phantom"] | Source = "phantom"
    # Folder of the source. With the source folder it may be a data set with cases.csv, which is read where it lies.
    path: Annotated[Path | None, PLACE] = None
    # Numbers of phantom cases in train, val, test and unannotated.
    phantoms: tuple[Positive, Count, Positive, Count] = (60, 20, 40, 40)
    phantom_size: Positive = 256  # Side of a phantom in pixels.
    # Numbers of training cases that keep their annotation, or all.
    annotated: Annotated[tuple[Positive | Literal["all"], ...], EXTENT] = (50,)
    # Random draws of the annotated cases. Each has a fit and a synthetic set of its own.
    draws: Annotated[tuple[Count, ...], EXTENT] = (0, 1, 2)
    # Kept painted cases for each real case, among which the arms choose.
    painted_per_real: Annotated[float, Field(gt=0.0, le=100.0)] = 4.0
    # Frames to paint on: annotated, or pseudo-labelled for unannotated ones, too, that the arm real labels.
    backgrounds: Literal["annotated", "pseudo-labelled"] = "annotated"
    # Number of folds of the training cases, each tested on once. With 0 the study tests on `test`.
    folds: Annotated[int, Field(ge=0)] = 0
    test: tuple[str, ...] = ("test",)  # What is tested on: splits, or folders of other data sets.
    allow_duplicates: bool = False  # Continue although a test image or its group is trained on. The report says so.

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

    out: Annotated[Path, PLACE] = Path("out")  # Folder of the run.
    # File of finished runs, which are not repeated. The default is OUT/records.jsonl.
    records: Annotated[Path | None, PLACE] = None
    # Minutes to spend at most. Fewer draws are run where all would take longer.
    budget: Annotated[Annotated[float, Field(gt=0)] | None, EXTENT] = None
    seed: Count = 0  # Random seed. The same seed gives the same result.
    device: Annotated[str, COMPUTING] = "cpu"  # Where to compute: cpu, cuda, cuda:N or auto.
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
