"""Every setting ("knob") of the package, in the order of the stages. The fields are also the options of the commands.

The comment of a field is its help text. A knob is here if an experiment in docs/ shows that it matters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from diffaug.artifacts import PathLike
from diffaug.errors import ConfigError, DataError, meant
from diffaug.knobs import (
    COMPUTING,
    EXTENT,
    PLACE,
    Cell,
    Count,
    Fraction,
    Knobs,
    Positive,
    Rate,
    Weight,
    Widths,
    explain,
)
from diffaug.layouts import Source, Unannotated
from diffaug.reading import read_yaml

LITE, UNET = "efficientnet-lite0", "unet"  # networks of a study that come with the package
AIMS = ("match", "missed", "small", "medium", "large", "low-contrast")  # values of `aim`


class CodecConfig(Knobs):
    """The autoencoder between pixels and latents."""

    # Side in pixels of the square window that is painted. It must hold the largest lesion with its surroundings.
    window: Positive = 128
    cell: Cell = 8  # Side in pixels of the square that one latent cell stands for.
    latent_channels: Positive = 16  # Channels of the latents. More keep finer detail and are harder to paint.
    width: Positive = 128  # Channels of the layers of the codec.
    blocks: tuple[Positive, Positive] = (1, 6)  # Residual blocks of the encoder and of the decoder.
    # Optimiser updates of the codec. It is trained only if the codec of the base model does not suit the images.
    iterations: Count = 3000
    batch_size: Positive = 16  # Windows in a batch.
    learning_rate: Rate = 1e-3  # Highest learning rate of the schedule.

    @field_validator("width")
    @classmethod
    def _carry_latents(cls, width: int, info: ValidationInfo) -> int:
        """Check that a cell has enough values for the latents, and the codec enough channels (`training.codec`)."""
        channels, cell = info.data.get("latent_channels", 0), info.data.get("cell", 0)
        if width < 2 * channels or channels > 3 * cell**2 > 0:
            raise ValueError(
                f"latent_channels must be at most half of width and at most 3 x cell^2: it is {channels}, "
                f"width is {width}, cell is {cell}; raise width or cell"
            )
        return width


class DenoiserConfig(Knobs):
    """The U-Net that paints, its text encoder, and their training."""

    widths: Widths = (96, 160, 192)  # Channels of each level of the U-Net, the finest level first.
    text_width: Annotated[int, Field(gt=0, multiple_of=32)] = 128  # Channels of the text encoder, a multiple of 32.
    text_layers: Positive = 2  # Layers of the text encoder.
    windows_per_case: Positive = 12  # Augmented windows that are encoded for each training case, once, before training.
    iterations: Count = 400  # Optimiser updates of the U-Net. Raise it if there are many annotated cases.
    batch_size: Positive = 32  # Windows in a batch. Lower it if memory runs out.
    learning_rate: Rate = 4e-4  # Highest learning rate of the schedule.
    # Rank of the low-rank updates (LoRA) that are trained where the base is Stable Diffusion, for example 16.
    lora_rank: Annotated[Count, tyro.conf.arg(aliases=["--lora"])] = 0
    # Save whole networks. By default a model that was trained with LoRA holds its updates and the name of its base.
    merge: Annotated[bool, tyro.conf.arg(aliases=["--merge"])] = False
    checkpointing: bool = False  # Compute activations again in the backward pass. This takes less memory and more time.


FRAMES = 4  # whole images in a batch of a validator; with them it finds lesions in windows better, too
FRAME_CELLS = 32  # latent cells across a whole image at least, which a validator then sees as an image of 128 px


class ValidatorConfig(Knobs):
    """The segmentation networks of latents, one per fold, and their calibration."""

    # Number of validators. Each is trained without one fold of the cases, and the lesions of that fold set its
    # thresholds.
    folds: Annotated[int, Field(ge=2)] = 3
    # Windows of each training case, varied at random. A third of them has no lesion.
    windows_per_case: Annotated[int, Field(ge=3)] = 20
    views_per_case: Positive = 12  # Views of each training case as a whole: turned, resized and coloured at random.
    iterations: Count = 300  # Optimiser updates of each validator.
    batch_size: Annotated[int, Field(ge=2)] = 8  # Windows in a batch, beside 4 whole images.
    learning_rate: Rate = 1e-3  # Highest learning rate of the schedule.
    # Chance that the gate rejects a painted lesion that is as good as a real one. Lower it to keep more.
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    # Least agreement of a painted lesion with its mask, from 0 to 1, even if real lesions are found with less.
    floor: Fraction = 0.3
    # Chance that the gate stops a sample early that it would have accepted at the end. Raise it to save more steps.
    delta: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    # Samples painted to the end to calibrate early stops: at least 1 / delta - 1, which is 49 by default.
    trajectories: Count = 128


class SamplerConfig(Knobs):
    """Settings of the sampler. `fit` stores them in the model: the thresholds of the gate hold for them alone."""

    steps: Annotated[int, Field(gt=0, le=1000)] = 2  # Steps of the sampler. More take more time.
    # Points at which the gate checks a sample, as shares of the steps. 1 is the finished sample.
    checks: tuple[Fraction, ...] = (0.5, 1.0)
    # Method of a step: ddim for few steps, ab2 for many steps from noise alone.
    solver: Literal["ab2", "ddim"] = "ddim"
    # Share of the timesteps that are sampled. Below 1, painting starts from a training lesion that is moved onto the
    # mask. With 1 it starts from noise, which needs more steps.
    strength: Fraction = 0.2
    # Two guidance weights: for the prompt alone, and for prompt and mask together while noise is high. 1 disables
    # guidance.
    guidance: tuple[Weight, Weight] = (1.0, 1.0)


class FitConfig(Knobs):
    """`diffaug fit`: annotated cases become a painter, its validators and their thresholds."""

    # What the images show: endoscopy, fundus, ultrasound, microscopy, dermoscopy, x-ray or generic. It names
    # lesion-free tissue in prompts. With auto it is proposed from the images, and `diffaug data inspect` says why.
    domain: str = "auto"
    codec: CodecConfig = CodecConfig()  # How images become latents, and latents images.
    denoiser: DenoiserConfig = DenoiserConfig()  # The network that paints.
    validator: ValidatorConfig = ValidatorConfig()  # The networks that check what is painted, and their thresholds.
    sampler: SamplerConfig = SamplerConfig()  # How painting is sampled.

    @field_validator("denoiser")
    @classmethod
    def _fit_sides(cls, denoiser: DenoiserConfig, info: ValidationInfo) -> DenoiserConfig:
        """Check that the latents of a window can be halved as often as the U-Net halves them."""
        if "codec" not in info.data:
            return denoiser  # the error of the codec is shown
        codec, multiple = info.data["codec"], info.data["codec"].cell * 2 ** (len(denoiser.widths) - 1)
        if codec.window % multiple:
            larger = -(-codec.window // multiple) * multiple
            raise ValueError(f"codec.window must be a multiple of {multiple}: it is {codec.window}; use {larger}")
        return denoiser


class GenerateConfig(Knobs):
    """`diffaug generate`: requests become kept cases."""

    # Number of lesion cases to keep. A case counts once, however many new lesions it has.
    count: Positive = 200
    # Make prompts of the findings of this domain: endoscopy, fundus, ultrasound, microscopy, dermoscopy, x-ray, or
    # generic, which uses measured words alone.
    domain: str = "generic"
    # Make prompts of the findings in this YAML file instead of those of a domain.
    findings: Annotated[Path | None, PLACE] = None
    # Where lesions are painted: free (on lesion-free tissue), replace (over a lesion), removed (in images whose
    # lesions are painted away first), or mixed, which keeps the number of lesions in an image as it is.
    place: Literal["mixed", "free", "replace", "removed"] = "mixed"
    # What the kept cases are like: match (the training cases), missed (what a baseline missed), small, medium, large
    # or low-contrast.
    aim: str = "match"
    # Folder of `diffaug study --folds K --baseline` on these training cases. --aim missed needs it.
    baseline: Annotated[Path | None, PLACE] = None
    # Also paint on the images of this data set, which `diffaug pseudo-label` made of unannotated images.
    backgrounds: Annotated[Path | None, PLACE] = None
    # Unannotated images to paint on: lesion-free (those that are declared to be so) or all. Of an image of which
    # nothing is known, only what is painted gets a label: the column `known` of cases.csv names a mask that says where.
    unannotated: Unannotated = "lesion-free"
    # New lesions in a case, apart from each other. Each is painted and checked by itself; those that are kept share one
    # image. 0 finds the number from the annotated cases: 1 where an image has one or two lesions, up to 16 where it has
    # many, such as nuclei of cells.
    lesions_per_case: Annotated[int, Field(ge=0, le=64)] = 0
    shard_size: Positive = 32  # Cases in a shard. A run that was stopped repeats at most one shard for each process.
    slots: Positive = 8  # Samples that are painted together in a batch. Lower it if memory runs out.
    # What decides whether a sample is kept: conformal (the thresholds of the fit), fixed (--threshold), or off (every
    # sample is kept).
    gate: Literal["conformal", "fixed", "off"] = "conformal"
    threshold: Fraction = 0.5  # Least agreement of a sample with its mask, from 0 to 1, that --gate fixed accepts.
    # Turn down samples that look painted to the model's critic, which readers have taught: at most half of them.
    realism: bool = True
    paint_all: bool = False  # Finish the samples that the gate rejects, too. Some arms of a study choose among them.
    # Requests for a negative for each request for a lesion. A negative is a painted case without a lesion: it teaches
    # a network that painted tissue alone is no lesion. --count does not count negatives.
    negatives: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    # Number of processes, each with one thread. The result does not depend on it.
    workers: Annotated[Positive, COMPUTING] = 2
    # Work on a Ray cluster: auto (that of this machine, else one that is started here), or HOST:PORT of another.
    ray: Annotated[str, COMPUTING] = ""

    @field_validator("gate", mode="before")
    @classmethod
    def _mean_a_word(cls, gate: Any) -> Any:
        """Take YAML's bare `on` and `off`, which are booleans, for words."""
        return ("conformal" if gate else "off") if isinstance(gate, bool) else gate


class SelectConfig(Knobs):
    """`diffaug select`: which of the accepted cases are worth training on."""

    # A case is too hard if its loss, computed with the network of the arm `real`, lies above this quantile. Lower it
    # if chosen cases look wrong.
    hard_cut: Fraction = 0.9
    # Weight of a case's difference from the training cases. The weight of its loss is 1.
    novelty: Annotated[float, Field(ge=0.0)] = 0.5


def _listed(value: Any) -> Any:
    """Take a single name or number for a list of one."""
    return (value,) if isinstance(value, str | int) else value


SCHEDULES: dict[str, dict[str, Any]] = {  # defaults of the networks that have others than the first
    UNET: {"iterations": 8000, "learning_rate": 2e-3},
}


class StudyConfig(Knobs):
    """`diffaug study`: arms, mixing, selection, schedule and evaluation of the segmentation model."""

    # Arms to compare. By default real and copy-paste, and selected if --synthetic holds accepted cases.
    arms: Annotated[tuple[str, ...], EXTENT] = ()
    # Number of trainings of each arm, each with its own seed. Raise it for narrower intervals.
    seeds: Annotated[Positive, EXTENT] = 1
    # The segmentation network: efficientnet-lite0 (an encoder trained on ImageNet, with a U-Net decoder), unet (small,
    # from random weights), the folder or hub name of a transformers backbone, such as nvidia/mit-b0, or your own
    # function as package.module:function. It is called with the number of classes K, and returns a torch.nn.Module from
    # images (B, 3, S, S) in [0, 1] to logits (B, K, S, S). The network sets the defaults of the other options.
    network: str = LITE
    # Side in pixels of the square that images are resized to for the segmentation network.
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160
    # Channels of each level of the network unet, the finest level first.
    widths: tuple[Positive, Positive, Positive, Positive, Positive] = (32, 48, 64, 96, 128)
    iterations: Positive = 1000  # Optimiser updates of each training.
    batch_size: Annotated[int, Field(ge=2)] = 8  # Cases in a batch, at least 2.
    learning_rate: Rate = 1e-3  # Highest learning rate of the schedule.
    # Highest learning rate of the part of a network that is named encoder, such as a pretrained one.
    encoder_rate: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-2  # Weight decay of the optimiser, AdamW.
    # Decay of the average of the weights that is tested. With 0 the last weights are tested.
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    # Strength of the classical augmentation. With 0 images are only flipped.
    augmentation: Annotated[float, Field(ge=0.0, le=2.0)] = 0.75
    # Probability above which a pixel is predicted as lesion. With several classes the most probable class is
    # predicted.
    decision_threshold: Fraction = 0.5
    # Painted cases in an arm for each annotated real case.
    synthetic_per_real: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0
    # Share of a batch that is not annotated by hand: painted, pasted or labelled by a network.
    synthetic_share: Fraction = 0.5
    # Painted cases without a lesion in an arm for each painted lesion.
    negatives: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    select: SelectConfig = SelectConfig()  # Choice of the arm selected among the accepted painted cases.
    # Least agreement with its mask, from 0 to 1, of a painted case in the arm fixed-threshold.
    fixed_threshold: Fraction = 0.5
    # Least mean probability inside a predicted mask that the arm pseudo-label keeps.
    pseudo_confidence: Fraction = 0.92
    # Least probability, of lesion or of its absence, with which the averaged network's label of a pixel counts in the
    # arms with mean-teacher.
    teacher_confidence: Annotated[float, Field(ge=0.5, le=1.0)] = 0.9
    bootstrap: Annotated[Positive, EXTENT] = 2000  # Number of bootstrap resamples for confidence intervals.
    # Number of processes, each with one thread. The result does not depend on it.
    workers: Annotated[Positive, COMPUTING] = 2
    # Work on a Ray cluster: auto (that of this machine, else one that is started here), or HOST:PORT of another.
    ray: Annotated[str, COMPUTING] = ""

    _be_several = field_validator("arms", mode="before")(_listed)

    @model_validator(mode="before")
    @classmethod
    def _take_the_defaults_of_the_network(cls, values: Any) -> Any:
        """Set the knobs of the network's schedule that are not given."""
        return {**SCHEDULES.get(str(values.get("network")), {}), **values} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _be_of_the_network(self) -> "StudyConfig":
        """Check that no knob of another network is set."""
        other = "encoder_rate" if self.network == UNET else "widths"
        if getattr(self, other) != type(self).model_fields[other].default:
            has = "has no encoder" if self.network == UNET else f"is {self.network}"
            raise ValueError(f"{other} is a setting of another network: network {has}; leave {other} out")
        return self


class DataConfig(Knobs):
    """`diffaug run`: where the images come from, and how many stay annotated."""

    # Layout of the images: phantom (none are needed), folder, or that of a published data set.
    source: Literal["phantom"] | Source = "phantom"
    # Folder of the images. If it holds cases.csv and the source is folder, it is read where it is.
    path: Annotated[Path | None, PLACE] = None
    # Numbers of phantoms in train, val, test and unannotated.
    phantoms: tuple[Positive, Count, Positive, Count] = (60, 20, 40, 40)
    phantom_size: Positive = 256  # Side of a phantom in pixels.
    # Numbers of training cases that keep their masks, or all. The run compares the arms for each number.
    annotated: Annotated[tuple[Positive | Literal["all"], ...], EXTENT] = (50,)
    # Random draws of the annotated cases. Each draw has its own fit and synthetic set.
    draws: Annotated[tuple[Count, ...], EXTENT] = (0, 1, 2)
    # Painted cases to keep for each annotated case. No arm can take more.
    painted_per_real: Annotated[float, Field(gt=0.0, le=100.0)] = 4.0
    # Images that stay without annotation: all, or lesion-free. With lesion-free the annotated cases are drawn among
    # those with a lesion, images that are declared to be lesion-free become unannotated, and all others are left out.
    unannotated: Unannotated = "all"
    # Images to paint on: annotated, or pseudo-labelled, which adds the unannotated images that the arm real labels.
    backgrounds: Literal["annotated", "pseudo-labelled"] = "annotated"
    # Divide the training cases into this number of folds, and test on each fold in turn. With 0, the run tests on
    # `test`.
    folds: Annotated[int, Field(ge=0)] = 0
    test: tuple[str, ...] = ("test",)  # Splits (val, test), or folders of other data sets, to test on.
    # Continue even if a test image, or an image of the same group, is trained on. The report then says so.
    allow_duplicates: bool = False

    _be_several = field_validator("test", "annotated", "draws", mode="before")(_listed)

    @field_validator("test", "annotated", "draws")
    @classmethod
    def _be_different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Check that each value is named once: a repeated one would count twice."""
        if len(set(values)) < len(values) or not values:
            raise ValueError(f"name at least one, and each once: got {', '.join(map(str, values)) or 'none'}")
        return values

    @field_validator("folds")
    @classmethod
    def _be_none_or_several(cls, folds: int) -> int:
        """Check that there is not a single fold: it would leave nothing to train on."""
        if folds == 1:
            raise ValueError("must be 0, or 2 or more: it is 1; use 5")
        return folds


class Config(Knobs):
    """Every stage of one run."""

    out: Annotated[Path, PLACE] = Path("out")  # Folder of the run.
    # File of finished trainings, which are not repeated. The default is OUT/records.jsonl.
    records: Annotated[Path | None, PLACE] = None
    # Spend at most this many minutes: run fewer draws if all would take longer.
    budget: Annotated[Annotated[float, Field(gt=0)] | None, EXTENT] = None
    seed: Count = 0  # Random seed. The same seed gives the same result.
    device: Annotated[str, COMPUTING] = "cpu"  # Compute on this device: cpu, cuda, cuda:N, mps or auto.
    data: DataConfig = DataConfig()  # Where the images come from, and how many are annotated.
    fit: FitConfig = FitConfig()  # Settings of `diffaug fit`.
    generate: GenerateConfig = GenerateConfig()  # Settings of `diffaug generate`.
    study: StudyConfig = StudyConfig()  # Settings of `diffaug study`.


_VALUES: dict[str, dict[str, dict[str, Any]]] = {  # of each preset, as a file has them
    "default": {},
    "demo": {
        "data": {
            "source": "phantom",
            "phantoms": (64, 4, 40, 16),
            "annotated": (40,),
            "draws": (0,),
            "painted_per_real": 3.0,
        },
        "fit": {
            "codec": {"iterations": 250},
            "denoiser": {"iterations": 40, "windows_per_case": 6},
            "validator": {"iterations": 120, "folds": 2, "windows_per_case": 10, "trajectories": 56, "floor": 0.0},
        },
        "generate": {"count": 40, "shard_size": 16},
        "study": {"seeds": 2, "size": 96, "iterations": 250},
    },
    "stable-diffusion": {  # not measured; usual values for low-rank updates
        "fit": {
            "denoiser": {"lora_rank": 16, "learning_rate": 1e-4, "batch_size": 16, "iterations": 1500},
            "sampler": {"steps": 12, "strength": 0.8, "solver": "ab2", "guidance": (3.0, 1.5)},
        },
    },
    "smoke": {
        "data": {
            "source": "phantom",
            "phantoms": (16, 2, 8, 4),
            "phantom_size": 128,
            "annotated": (12,),
            "draws": (0,),
            "painted_per_real": 3.0,
        },
        "fit": {
            "codec": {"iterations": 20},
            "denoiser": {"iterations": 8, "windows_per_case": 2, "batch_size": 8},
            "validator": {"iterations": 8, "folds": 2, "windows_per_case": 4, "trajectories": 2, "floor": 0.0},
            "sampler": {"steps": 4},
        },
        "generate": {"count": 6, "shard_size": 6, "slots": 4},
        "study": {"seeds": 1, "iterations": 8, "batch_size": 8, "bootstrap": 200},
    },
}
PRESETS = {name: Config.model_validate(values) for name, values in _VALUES.items()}


def config_from_values(values: Any, preset: str = "default") -> Config:
    """Return a preset with some knobs replaced.

    Args:
        values: Nested mappings of knob names, such as {"study": {"seeds": 5}}.
        preset: A name in PRESETS.

    Raises:
        ConfigError: A preset or a knob is unknown, or a value is impossible.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"a preset must be one of {', '.join(PRESETS)}: it is {preset!r}{meant(preset, PRESETS)}")
    if not isinstance(values, dict):
        raise ConfigError(f"a config file must hold settings as `name: value` lines; got {type(values).__name__}")
    try:
        study = values.get("study")
        network = {"network": study["network"]} if isinstance(study, dict) and "network" in study else {}
        base = Config.model_validate(_merge(_VALUES[preset], {"study": network}))  # with the defaults of the network
        return Config.model_validate(_merge(base.model_dump(), values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in values.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def read_config(path: PathLike, changed: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file: an optional `preset:` and the knobs that differ from it.

    Args:
        path: The file.
        changed: Knobs that replace those of the file, as nested mappings.

    Raises:
        ConfigError: The file is missing or malformed, or breaks a rule of a knob.

    Example:
        >>> diffaug.read_config("run.yaml").seed
        3
    """
    try:
        values = read_yaml(Path(path))
    except DataError as error:
        raise ConfigError(f"a config file must be readable: {error}") from None
    values = {} if values is None else values
    preset = values.pop("preset", "default") if isinstance(values, dict) else "default"
    if isinstance(values, dict) and changed:
        values = _merge(values, changed)
    return config_from_values(values, preset)
