"""`diffaug fit`: a data set becomes a model folder with painter, validators and thresholds.

Sees the cases of `train` and `unannotated` alone; val and test are never opened.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch

from diffaug.artifacts import PathLike, digest_of_file, digest_of_value, digests_of_folder, write_json
from diffaug.compute.devices import device_of, leave_others, this_process
from diffaug.conditioning.flaws import line_of_examples
from diffaug.conditioning.proposal import check_domain, learn_frames
from diffaug.conditioning.rules import LearnedRules, write_rules
from diffaug.config import FitConfig, GenerateConfig, SamplerConfig
from diffaug.data.case import Case, digest_of_case
from diffaug.data.folder import check_dataset, read_dataset
from diffaug.data.images import Pixels
from diffaug.data.seen import NOTHING, Seen, read_seen, write_seen
from diffaug.data.split import folds_by_group
from diffaug.errors import DataError, ModelError
from diffaug.knobs import identity_of
from diffaug.models.base import LatentInpainter
from diffaug.models.checkpoints import Checkpoint, read_words, seal, verify, write_words
from diffaug.models.sampling import write_sampler
from diffaug.names import inside
from diffaug.painting.painter import Painter, guided
from diffaug.painting.window import CONTEXT
from diffaug.presets import DEFAULT, preset_of, settings_of
from diffaug.reading import read_kept, read_typed
from diffaug.realism.critic import Measured
from diffaug.runfolder import Contents, claim, held, holds
from diffaug.training.codec import Fidelity, measure_codec, train_codec
from diffaug.training.painter import ChosenCheckpoint, check_batch, chosen_checkpoint, train_painter
from diffaug.training.painter_windows import MONITOR_WINDOWS, divided, lesion_windows, painter_windows, words_read
from diffaug.training.starting import SHIPPED, digest_of_base, load_base, notices_of, untrained_around, usable_base
from diffaug.training.trajectories import first_calibration, rare_classes, write_gates
from diffaug.training.validation import real_scores, train_validators
from diffaug.training.windows import Annotated
from diffaug.validator.latent_segmenter import LatentSegmenter, save_segmenter

SOFT = "the base's codec keeps little of these images (codec.psnr_db): painted tissue will look soft"
LEAST_PSNR = 28.0  # dB; a codec under it is trained on the user's own images
FEWEST_CASES = 6
SUMMARY = "training/summary.json"
LOGS = "digests.json"  # in training/: of its logs, which are no part of the model


@dataclass(frozen=True)
class FitSummary:
    """What a fit measured.

    Attributes:
        annotated: Annotated training cases.
        unannotated: Images without masks.
        lesions: Lesions that the thresholds come from, by size bin.
        codec: What the codec keeps of the images.
        notices: What a user should know, a line each.
        painter: Which weights of the painter were kept; None where no cases chose them.
        realism: What the critic of realism was given; None where there is none.
        no_critic: Why there is no critic; empty where there is one.
        scores: Agreement of the validators with each real lesion that they have not seen, by size bin and step.
        seconds: Of each stage.
        lesion_free: Annotated cases that are declared to hold no lesion.
    """

    annotated: int
    unannotated: int
    lesions: Mapping[str, int]
    codec: Fidelity
    notices: tuple[str, ...]
    painter: ChosenCheckpoint | None
    realism: Measured | None
    scores: Mapping[str, Mapping[str, list[float]]]
    seconds: Mapping[str, float]
    no_critic: str = ""
    lesion_free: int = 0

    @staticmethod
    def read(model: Path) -> "FitSummary":
        """Read the summary of a finished model folder.

        Raises:
            DataError: It is missing or damaged.
        """
        return read_typed(model / SUMMARY, FitSummary, "restore the file, or fit again in another folder")


@dataclass(frozen=True)
class _Fit:
    """All that is known before anything is trained."""

    data: Path
    model: Path
    config: FitConfig
    base: Checkpoint | None
    seed: int
    device: torch.device
    painting: GenerateConfig
    annotated: tuple[Case, ...]
    unannotated: tuple[Case, ...]
    class_names: tuple[str, ...]

    @property
    def training(self) -> Path:
        """Where checkpoints and logs are kept; no part of the model."""
        return self.model / "training"

    def read(self) -> FitSummary:
        """Return what the finished fit measured; a process that was killed at its end may have left checkpoints.

        Raises:
            ModelError: A log of the training was altered, or the file of their digests is damaged.
        """
        self.remove_checkpoints()
        logs = self.training / LOGS
        if (noted := read_kept(logs, dict[str, str])) is None and logs.exists():
            raise ModelError(
                f"digests of the logs of a training are compared: {logs} is damaged; restore it, remove it if you can "
                "do without, or fit again in another folder"
            )
        for name, digest in (noted or {}).items():
            path = inside(self.training, name, f"a log of {LOGS}")
            if not path.is_file() or digest_of_file(path) != digest:
                raise ModelError(
                    f"logs of a training stay as they were written: {path} was altered; restore it, remove "
                    f"{logs} if you can do without, or fit again in another folder"
                )
        return FitSummary.read(self.model)

    def remove_checkpoints(self) -> None:
        """Remove what a resumed training would start from."""
        for checkpoint in self.training.glob("*.checkpoint"):
            checkpoint.unlink(missing_ok=True)

    def contents(self) -> Contents:
        """Return what the model folder is to hold."""
        cases = (*self.annotated, *self.unannotated)
        digests = {case.id: digest_of_case(case) for case in cases}
        identity = {
            "config": identity_of(self.config),
            "seed": self.seed,
            "data": digest_of_value([[case.id, case.group, digests[case.id]] for case in cases]),
            "base": digest_of_base(self.base) if self.base else "",
        }
        about = {
            "cases": {case.id: digests[case.id] for case in self.annotated},
            "images": {case.id: digest_of_file(case.image) for case in cases},
        }
        preset = partial(preset_of, "fit")
        return Contents("model", identity, "fit.json", about, beside=("training",), preset_of=preset)


def fit(
    data: PathLike,
    model: PathLike,
    config: FitConfig | None = None,
    *,
    preset: str = DEFAULT,
    base: PathLike | None = SHIPPED,
    seed: int = 0,
    device: str = "cpu",
    painting: GenerateConfig | None = None,
) -> FitSummary | None:
    """Make a model folder from the annotated and unannotated training images of a data set.

    The same call again resumes where a killed one stopped, and returns at once where one has finished. Started several
    times by `accelerate launch`, it trains the painter in all processes; the first does the rest.

    Args:
        data: A data set folder.
        model: The folder to make.
        config: Architecture and schedules; the architecture is the base's where there is one. None takes the preset's.
        preset: default, demo (minutes, on phantoms), smoke (shows only that it runs), or stable-diffusion.
        base: A model folder to start from, a Stable Diffusion inpainting checkpoint by path or hub name, or None to
            train every part from scratch.
        seed: Seeds every stage.
        device: Where to compute: cpu, cuda, cuda:N, mps or auto.
        painting: What will be asked for: the gate's looks on the way are calibrated on such requests. None is what
            `generate` asks for with the same preset.

    Returns:
        What was measured; None in every process but the first, where several train together.

    Raises:
        ConfigError: Settings and a preset are given, or there is no such preset; low-rank updates of something else
            than Stable Diffusion, or none of it; the device is not there; a batch has fewer rows than there are
            processes; `model` was made with other settings, or is in use.
        DataError: A case breaks a rule, or there are too few annotated ones.
        ModelError: The base is unsuitable, or a finished model was altered.

    Example:
        >>> diffaug.fit("data/mine", "models/mine", preset="demo")  # doctest: +SKIP
    """
    data, model = Path(data), Path(model)
    config = settings_of(config, preset, lambda chosen: chosen.fit)
    painting = settings_of(painting, DEFAULT if painting else preset, lambda chosen: chosen.generate)
    place, process = device_of(device), this_process()
    check_batch(config.denoiser.batch_size, process)
    check_domain(config.domain)
    start = usable_base(base if isinstance(base, str | None) else Path(base), config)
    dataset = read_dataset(data)
    annotated, unannotated = dataset.split("train"), dataset.split("unannotated")
    check_count(len(annotated), data, {split: len(dataset.annotated(split)) for split in ("val", "test")})
    check_known(annotated, data)
    names = dataset.class_names
    job = _Fit(data, model, config, start, seed, place, painting, annotated, unannotated, names)
    contents = job.contents()
    if is_finished(model, contents):
        return job.read() if process.leads else None
    notices = [*check_dataset((*annotated, *unannotated), "checking images").notices, *notices_of(start, place)]
    groups, lesion_free = {case.id: case.group for case in annotated}, [case.id for case in annotated if case.negative]
    folds = folds_by_group(groups, config.validator.folds, seed, lesion_free)
    painter = load_base(start, len(names), config.denoiser.merge) if start else None
    with held(model) if process.leads else nullcontext():
        if is_finished(model, contents):  # by another process, while the images were checked
            return job.read() if process.leads else None
        if process.leads:
            claim(model, contents)
        return _fitted(job, painter, folds, notices)


def _fitted(
    job: _Fit, base: LatentInpainter | None, folds: Mapping[str, int], notices: Sequence[str]
) -> FitSummary | None:
    """Train every part, write the model folder, and seal it."""
    model, config, seed, clock = job.model, job.config, job.seed, _Clock()
    learned = learn_frames(job.annotated, config.domain, "learning rules")
    cases = [Annotated.of(case, learned.rules) for case in job.annotated]
    images = [case.image for case in cases] + [case.read_image() for case in job.unannotated]
    clock.note("read")

    # Codec: pixels <=> latents.
    painter = base or untrained_around(
        train_codec(images, config.codec, job.training, seed), config, seed, len(job.class_names)
    )
    painter.to(job.device)
    fidelity = measure_codec(painter.reconstruct, images, painter.window)
    if base is not None and fidelity.psnr_db < LEAST_PSNR and painter.trains_codec:
        train_codec(images, config.codec, job.training, seed, painter.codec)
        fidelity = measure_codec(painter.reconstruct, images, painter.window)
    clock.note("codec")

    # Painter: lesions where the mask says, and nothing where it is empty.
    seen, monitored = divided(cases, seed)
    sources = painter_windows(painter, seen, config.denoiser.windows_per_case, seed)
    monitor = lesion_windows(painter, monitored, MONITOR_WINDOWS, seed) if monitored else None
    clock.note("windows")
    train_painter(painter, sources, config.denoiser, job.training, seed, monitor=monitor)
    clock.note("painter")
    leave_others()
    if not this_process().leads:
        return None

    # Validators, one per fold, and thresholds from the lesions that each has not seen.
    guide = guided(painter, config.sampler)
    networks = train_validators(painter, cases, folds, config.validator, job.training, seed, guide)
    scores = real_scores(painter, networks, cases, folds, config, CONTEXT, seed, guide)
    clock.note("validators")

    # The folder, all but its seal.
    words = words_read(painter, [windows for windows, _ in sources])
    words |= read_words(job.base.folder) if job.base else set()
    write_parts(model, painter, config.sampler, words, networks, learned)
    write_seen(model, seen_after(job.base, images[: len(cases)], images[len(cases) :]))

    # Looks on the way, and how real it looks: samples painted to the end tell what those that are accepted looked like
    # before, and teach a critic.
    first = first_calibration(model, config, scores, folds, max(1, painter.classes))
    made = Painter(painter, config.sampler, first, networks, job.painting.slots, rules=learned.rules)
    gates = write_gates(model, made, cases, config.validator.trajectories, job.painting, seed)
    clock.note("trajectories")

    is_soft = fidelity.psnr_db < LEAST_PSNR and not painter.trains_codec
    calibration, critic = gates.calibration, gates.critic
    told = [*calibration.notices(), *(critic.notices() if critic else [])]
    notices = [
        learned.line(),
        line_of_examples(job.annotated, learned.rules),
        learned.domain_line(),
        *notices,
        *told,
        *rare_classes(cases, job.class_names, config.validator.alpha),
    ]
    summary = FitSummary(
        annotated=len(job.annotated),
        unannotated=len(job.unannotated),
        lesion_free=sum(case.negative for case in job.annotated),
        lesions=calibration.counts,
        codec=fidelity,
        notices=(*notices, *([SOFT] if is_soft else [])),
        painter=chosen_checkpoint(job.training / "painter.log.jsonl"),
        realism=critic.measured if critic else None,
        no_critic=gates.no_critic,
        scores={name: {str(step): values for step, values in found.items()} for name, found in scores.items()},
        seconds={name: round(value, 1) for name, value in clock.seconds.items()},
    )
    write_json(model / SUMMARY, asdict(summary))
    write_json(job.training / LOGS, digests_of_folder(job.training, ("*.jsonl",)))
    seal(model)
    job.remove_checkpoints()
    return summary


def is_finished(model: Path, contents: Contents) -> bool:
    """Tell whether a model folder holds the finished fit of these settings.

    Raises:
        ConfigError: It holds a fit of other settings, or other files.
        ModelError: A file of the finished model was altered.
    """
    if not holds(model, contents) or not (model / "digests.json").is_file():
        return False
    verify(model)
    return True


def check_count(annotated: int, data: Path | str, held_out: Mapping[str, int] = MappingProxyType({})) -> None:
    """Refuse too few annotated cases of what is named, and say how many are held out.

    Raises:
        DataError: There are fewer than a painter and its folds need.
    """
    if annotated < FEWEST_CASES:
        others = " and ".join(f"{count} in {split}" for split, count in held_out.items() if count)
        more = (
            "; annotate more"
            if not others
            else (f", and {others} that are never trained on; annotate more, or import them again with --split 100:0:0")
        )
        raise DataError(f"a fit needs {FEWEST_CASES} annotated training cases: {data} has {annotated}{more}")


def check_known(annotated: Sequence[Case], data: Path) -> None:
    """Refuse cases whose label is known in part: what is outside would be taken for lesion-free.

    Raises:
        DataError: Naming the first of them.
    """
    partly = [case.id for case in annotated if case.known]
    if partly:
        raise DataError(
            f"a fit needs labels that are known everywhere: those of {len(partly)} cases of {data} are known in part, "
            f"such as {partly[0]}; fit on the annotated data set that they were painted from"
        )


def seen_after(base: Checkpoint | None, annotated: Sequence[Pixels], others: Sequence[Pixels]) -> Seen:
    """Return every image that a model has seen once it is fitted on a base."""
    return (read_seen(base.folder) if base else NOTHING).then(Seen.of(annotated, others))


def write_parts(
    model: Path,
    painter: LatentInpainter,
    sampler: SamplerConfig,
    words: set[str],
    networks: Sequence[LatentSegmenter],
    learned: LearnedRules,
) -> None:
    """Write the painter, how it is sampled, the words it knows, the fold validators and the rules of its frames."""
    painter.save(model)
    write_words(model, words)
    write_sampler(model, sampler)
    write_rules(model, learned)
    for fold, network in enumerate(networks):
        save_segmenter(network, model / "validator" / str(fold))


class _Clock:
    """Notes the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def note(self, stage: str) -> None:
        """Note the seconds since the last note."""
        now = time.monotonic()
        self.seconds[stage], self.last = now - self.last, now
