"""The command line: one class per command, each a few lines around a library call.

Torch is imported by the commands that need it, so that `--help` answers at once.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro
from pydantic import ValidationError
from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from diffaug.config import (
    PRESETS,
    Config,
    FitConfig,
    GenerateConfig,
    SelectConfig,
    Source,
    StudyConfig,
    config_from_values,
    explain,
    read_config,
)
from diffaug.errors import ConfigError, DiffaugError

_preset = "default"  # chosen by --preset before the rest is parsed: it sets the defaults of all other options
Preset = Annotated[str, arg(help=f"One of {', '.join(PRESETS)}: sets the defaults of the other options.")]
Flat = arg(name="")


class Command(Protocol):
    """What every command can do."""

    def run(self) -> None:
        """Carry the command out."""
        ...


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, sort_keys=True))


@dataclass
class Demo:
    """Run the whole loop on phantom images and print the path of the report.

    Example: diffaug demo out/demo
    """

    out: Positional[Path] = Path("out/demo")  # folder of the run
    seed: int = 0  # seeds every stage

    def run(self) -> None:
        """Run every stage of the preset `demo`."""
        from diffaug.pipeline.run import run_pipeline

        for report in run_pipeline(config_from_values({"out": self.out, "seed": self.seed}, "demo")):
            print(report.absolute())


@dataclass
class DataImport:
    """Copy public or own images into the folder format.

    Example: diffaug data import kvasir-seg downloads/Kvasir-SEG data/kvasir
    """

    source: Positional[Source]  # published layout, or `folder`: any images/ and masks/
    path: Positional[Path]  # folder that holds them
    to: Positional[Path]  # data set to make
    seed: int = 0  # seeds the split, where the images have none

    def run(self) -> None:
        """Import, and say what was converted."""
        from diffaug.data.importing import import_dataset

        imported = import_dataset(self.source, self.path, self.to, self.seed, "importing")
        for notice in imported.notices:
            print(notice, file=sys.stderr)
        print(f"{len(imported.dataset)} cases in {self.to}")


@dataclass
class DataPhantom:
    """Draw a data set of procedural endoscopy-like scenes.

    Example: diffaug data phantom data/phantoms --train 60 --test 40
    """

    to: Positional[Path]  # data set to make
    train: int = 60  # annotated training cases
    val: int = 20  # the same to choose settings on
    test: int = 40  # the same to test on
    unannotated: int = 40  # images without masks
    size: int = 256  # px, side of a scene
    seed: int = 0  # of all that is drawn at random

    def run(self) -> None:
        """Draw the scenes."""
        from diffaug.data.phantom import make_phantoms

        counts = (self.train, self.val, self.test, self.unannotated)
        dataset = make_phantoms(self.to, *counts, size=self.size, seed=self.seed, progress="phantoms")
        print(f"{len(dataset)} cases in {self.to}")


@dataclass
class DataInspect:
    """Print a table of a data set, and draw a contact sheet of its cases.

    Example: diffaug data inspect data/kvasir --out sheets/kvasir.png
    """

    data: Positional[Path]  # data set
    out: Path | None = None  # PNG of the contact sheet

    def run(self) -> None:
        """Print the table."""
        from diffaug.data.folder import read_dataset
        from diffaug.data.inspect import inspect_dataset

        print(inspect_dataset(read_dataset(self.data), self.out, progress="inspecting").text())


@dataclass
class DataSubset:
    """Keep some training cases annotated; the rest lose their masks and become `unannotated`.

    Example: diffaug data subset data/kvasir data/kvasir-100 --annotated 100 --draw 0
    """

    data: Positional[Path]  # full data set
    to: Positional[Path]  # data set to make
    annotated: int  # training cases that keep their masks
    draw: int = 0  # which ones

    def run(self) -> None:
        """Make the subset."""
        from diffaug.data.folder import read_dataset, subset_dataset

        dataset = subset_dataset(read_dataset(self.data), self.to, self.annotated, self.draw)
        counts = {name: len(dataset.split(name)) for name in ("train", "unannotated", "val", "test")}
        print(", ".join(f"{count} {name}" for name, count in counts.items()) + f" in {self.to}")


DataCommand = (
    Annotated[DataImport, subcommand("import")]
    | Annotated[DataPhantom, subcommand("phantom")]
    | Annotated[DataInspect, subcommand("inspect")]
    | Annotated[DataSubset, subcommand("subset")]
)


@dataclass
class Data:
    """Make and look at data sets: import, phantom, inspect, subset.

    Example: diffaug data inspect data/kvasir
    """

    command: DataCommand

    def run(self) -> None:
        """Hand on to the chosen command."""
        self.command.run()


@dataclass
class Prompts:
    """Print prompts made of findings from the literature, one a line, and behind ` | ` where these are published.

    Example: diffaug prompts --domain colonoscopy -n 20 --seed 0
    """

    domain: str = "generic"  # colonoscopy, fundus or generic
    findings: Path | None = None  # YAML file of your own findings, in the form of those of the package
    count: Annotated[int, arg(aliases=["-n"])] = 20  # prompts
    seed: int = 0  # of all that is drawn at random

    def run(self) -> None:
        """Print the prompts."""
        from diffaug.conditioning.findings import library_of
        from diffaug.conditioning.grammar import draw_prompts

        for draft in draw_prompts(library_of(self.domain, self.findings), self.count, self.seed):
            print(f"{draft.text()} | {'; '.join(draft.references)}")


@dataclass
class Fit:
    """Make painter, validators and thresholds from a data set's annotated and unannotated training images.

    Example: diffaug fit data/kvasir-100 models/kvasir-100
    Example: diffaug fit data/kvasir-100 models/kvasir-sd --base sd2-community/stable-diffusion-2-inpainting
             --lora 16 --device cuda
    """

    data: Positional[Path]  # data set
    model: Positional[Path]  # model folder to make
    base: str = "compact"  # the shipped model; a model folder, or a Stable Diffusion inpainting one by path or hub name
    from_scratch: bool = False  # train every part, codec included, from random weights
    preset: Preset = "default"
    seed: int = 0  # of all that is drawn at random
    device: str = "cpu"  # cpu, cuda, cuda:N or auto
    dry_run: bool = False  # print the plan and stop
    fit: Annotated[FitConfig, Flat] = field(default_factory=lambda: PRESETS[_preset].fit)

    def run(self) -> None:
        """Fit, and print what was measured."""
        if self.dry_run:
            return _print_plan(self.fit)
        from diffaug.training.fit import SHIPPED, fit

        base = None if self.from_scratch else SHIPPED if self.base == "compact" else self.base
        painting = PRESETS[self.preset].generate
        options = {"base": base, "seed": self.seed, "device": self.device, "painting": painting}
        summary = fit(self.data, self.model, self.fit, **options)  # type: ignore[arg-type]
        if not summary:
            return None  # the first of several processes tells
        for notice in summary["notices"]:
            print(notice, file=sys.stderr)
        _print_json({key: summary[key] for key in ("annotated", "unannotated", "lesions", "codec", "seconds")})
        return None


@dataclass
class Generate:
    """Paint lesions, check them while they are made, and keep those that are where their mask says.

    Example: diffaug generate models/kvasir-100 data/kvasir-100 synthetic/kvasir-100 --count 300
    With --aim missed --baseline STUDY, the kept cases are like what `diffaug study DATA STUDY --folds 5 --baseline`
    missed.
    """

    model: Positional[Path]  # model folder, made by `diffaug fit`
    data: Positional[Path]  # the data set it was fitted on
    out: Positional[Path]  # synthetic set to make
    preset: Preset = "default"
    seed: int = 0  # of all that is drawn at random
    device: str = "cpu"  # cpu, cuda, cuda:N or auto
    dry_run: bool = False  # print the plan and stop
    generate: Annotated[GenerateConfig, Flat] = field(default_factory=lambda: PRESETS[_preset].generate)

    def run(self) -> None:
        """Generate, and print the funnel."""
        if self.dry_run:
            self._check()
            return _print_plan(self.generate)
        from diffaug.synthesis.shards import generate

        options = {"seed": self.seed, "workers": self.generate.workers, "device": self.device}
        _print_json(generate(self.model, self.data, self.out, self.generate, **options))  # type: ignore[arg-type]
        return None

    def _check(self) -> None:
        """Refuse unknown findings and aims; where the data are there, print what is aimed at."""
        from diffaug.conditioning.drawer import check_config

        check_config(self.generate)
        if self.generate.aim != "match" and (self.data / "cases.csv").is_file():
            from diffaug.data.folder import read_dataset
            from diffaug.synthesis.shards import budget_of

            budget = budget_of(read_dataset(self.data), self.generate)
            print(budget.table() if budget else "", file=sys.stderr)


@dataclass
class Remove:
    """Paint the lesions of annotated training cases away: lesion-free frames with empty masks.

    Example: diffaug remove models/kvasir-100 data/kvasir-100 removed/kvasir-100
    """

    model: Positional[Path]  # model folder, made by `diffaug fit`
    data: Positional[Path]  # data set; its annotated training cases are painted over
    out: Positional[Path]  # folder to make: images, empty masks, a sheet of before and after
    seed: int = 0  # of all that is drawn at random
    device: str = "cpu"  # cpu, cuda, cuda:N or auto

    def run(self) -> None:
        """Remove, and print what the validator finds before and after."""
        from diffaug.synthesis.remove import remove

        _print_json(remove(self.model, self.data, self.out, seed=self.seed, device=self.device))


@dataclass
class Segment:
    """Segment real images with a model's latent validators, in one pass.

    Example: diffaug segment models/kvasir-100 my-images segmented/my-images
    """

    model: Positional[Path]  # model folder, made by `diffaug fit`
    images: Positional[Path]  # folder of images
    out: Positional[Path]  # folder to make: masks, overlays, a summary
    device: str = "cpu"  # cpu, cuda, cuda:N or auto

    def run(self) -> None:
        """Segment, and print the share of each frame that was found."""
        from diffaug.synthesis.segment import segment_images

        _print_json(segment_images(self.model, self.images, self.out, device=self.device))


@dataclass
class Select:
    """Choose the painted cases worth training on: aligned, hard for the baseline but not too hard, novel, balanced.

    Example: diffaug select synthetic/kvasir-100 selected/kvasir-100 --study studies/kvasir-100
    """

    synthetic: Positional[Path]  # synthetic set
    out: Positional[Path]  # data set to make of the chosen cases, with their scores in its manifest
    study: Path  # finished study of the same synthetic set with the arm `real`, which is the baseline
    count: int | None = None  # cases to choose; all that are not too hard unless set
    preset: Preset = "default"
    select: Annotated[SelectConfig, Flat] = field(default_factory=lambda: PRESETS[_preset].study.select)

    def run(self) -> None:
        """Select, and print what was chosen."""
        from diffaug.study.derive import select_set

        found = select_set(self.synthetic, self.out, self.study, self.select, self.count)
        if self.count is not None and found["kept"] < self.count:
            print(
                f"{found['kept']} of {self.count} wanted cases are chosen: no more are accepted and not too hard",
                file=sys.stderr,
            )
        _print_json(found)


@dataclass
class PseudoLabel:
    """Label the unannotated images that a study's baseline is sure of, as more frames to paint on.

    Example: diffaug pseudo-label studies/kvasir-100 labelled/kvasir-100
    """

    study: Positional[Path]  # study with the arm `real`, which is the baseline
    out: Positional[Path]  # data set to make, for `diffaug generate --backgrounds`
    confidence: float | None = None  # least mean probability of a mask; the study's pseudo_confidence unless set

    def run(self) -> None:
        """Label, and print how many images were."""
        from diffaug.study.derive import pseudo_label_set

        _print_json(pseudo_label_set(self.study, self.out, self.confidence))


@dataclass
class Study:
    """Train a segmentation model with and without synthetic cases and compare on held-out real images.

    With --folds, for users without a test set, each fold of the training cases is fitted, painted and tested apart, and
    pooled; with --baseline too, the arm real alone, whose results `generate --aim missed` takes. With --leaks, only the
    arm real is trained, under honest and careless splits of the training cases.

    Example: diffaug study data/kvasir-100 studies/kvasir-100 --synthetic synthetic/kvasir-100
    """

    data: Positional[Path]  # data set; its annotated training cases are what every arm sees
    out: Positional[Path]  # study folder
    synthetic: tuple[Path, ...] = ()  # synthetic sets, made from these training cases alone
    test: tuple[str, ...] = ("test",)  # what to test on: val, test, or folders of other data sets
    oracle: Path | None = None  # the data set with every annotation, for the arm `oracle`
    allow_duplicates: bool = False  # go on where a test image or its group is trained on, and say so in the report
    folds: int = 0  # of the training cases, each fitted without and tested on; 0: on a test set instead
    baseline: bool = False  # with --folds, the arm `real` alone, without a fit: for `generate --aim missed`
    leaks: bool = False  # tell what careless splits would have flattered; OUT may be a study: its report says so
    preset: Preset = "default"
    seed: int = 0  # of all that is drawn at random
    device: str = "cpu"  # where to train: cpu, cuda, cuda:N or auto
    dry_run: bool = False  # print the plan and stop
    study: Annotated[StudyConfig, Flat] = field(default_factory=lambda: PRESETS[_preset].study)

    def run(self) -> None:
        """Run the study, and print its summary."""
        self._check()
        if self.dry_run:
            return self._plan()
        if self.leaks:
            from diffaug.study.leaks import leak_study

            folds = self.folds or 5
            options: dict[str, Any] = {"folds": folds, "seed": self.seed, "device": self.device}
            return _print_json(leak_study(self.data, self.out, self.study, **options))
        if self.folds and not self.baseline:
            from diffaug.pipeline.run import run_pipeline

            return print(*(path.absolute() for path in run_pipeline(self._config(), self.data)), sep="\n")
        from diffaug.study.run import run_study

        options = {"seed": self.seed, "test": self.test, "device": self.device, "oracle": self.oracle}
        options |= {"allow_duplicates": self.allow_duplicates, "folds": self.folds}
        return _print_json(run_study(self.data, self.out, self.synthetic, self.study, **options))

    def _check(self) -> None:
        """Refuse options that mean nothing, alone or beside --folds, --baseline and --leaks."""
        given = {"--synthetic": self.synthetic, "--oracle": self.oracle, "--test": self.test != ("test",)}
        named = [name for name, value in given.items() if value]
        if named and (self.folds or self.leaks):
            raise ConfigError(
                f"{'--leaks' if self.leaks else '--folds'} tests and paints within the training cases alone: "
                f"{named[0]} is given; leave it out"
            )
        if self.baseline and not self.folds:
            raise ConfigError("--baseline is of folds: --folds is not set; add it, such as --folds 5")
        if self.baseline and self.study.arms not in ((), ("real",)):
            raise ConfigError(
                f"--baseline trains real alone: --arms is {' '.join(self.study.arms)}; leave one of both out"
            )
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"--folds is 0, or 2 and more: it is {self.folds}; use 5")

    def _plan(self) -> None:
        """Check what can be told without work, and print knobs, minutes and disk."""
        from diffaug.data.folder import read_dataset
        from diffaug.study.arms import check_arms

        cases = read_dataset(self.data).split("train")
        if self.study.arms:
            check_arms(self.study.arms)
        if self.baseline or self.leaks:
            ways = 4 if self.leaks else 1
            one = self.study.model_copy(update={"arms": ("real",), "seeds": ways * (self.folds or 5)})
            return _print_plan(one)
        if not self.folds:
            return _print_plan(self.study)
        config = self._config()
        count = len(cases) - len(cases) // self.folds  # of each fold
        update = {"annotated": (count,), "source": "folder", "path": self.data}
        return _print_plan(config.model_copy(update={"data": config.data.model_copy(update=update)}))

    def _config(self) -> Config:
        """Return the whole pipeline for --folds."""
        chosen = PRESETS[_preset]
        data = chosen.data.model_copy(update={"annotated": ("all",), "draws": (0,)})
        more = {"folds": self.folds, "allow_duplicates": self.allow_duplicates}
        found = config_from_values({"data": data.model_dump() | more}, _preset)
        return found.model_copy(update={"out": self.out, "seed": self.seed, "device": self.device, "study": self.study})


@dataclass
class Report:
    """Write one self-contained HTML page from a study and its synthetic set.

    Example: diffaug report studies/kvasir-100 --synthetic synthetic/kvasir-100
    """

    study: Positional[Path]  # study folder
    synthetic: Path | None = None  # synthetic set, for pictures and the funnel
    to: Path | None = None  # HTML file; STUDY/report.html unless set

    def run(self) -> None:
        """Write the page and print its path."""
        from diffaug.report.page import write_report

        print(write_report(self.study, self.synthetic, self.to).absolute())


@dataclass
class Run:
    """Run every stage from one YAML file, for each number of annotated cases and each draw.

    Example: diffaug run runs/kvasir.yaml
    """

    config: Positional[Path]  # YAML file: `preset:` and the knobs that differ from it
    annotated: tuple[str, ...] = ()  # numbers of annotated cases, for a part of the table; the file's unless set
    draws: tuple[int, ...] = ()  # the same of draws
    arms: tuple[str, ...] = ()  # the same of arms
    budget: float | None = None  # minutes; fewer draws are made where all of them would take longer
    device: str | None = None  # cpu, cuda, cuda:N or auto; that of the file unless set
    dry_run: bool = False  # print the plan and stop

    def run(self) -> None:
        """Run the stages, and print the paths of the reports."""
        config = read_config(self.config)
        values, given = config.model_dump(), {"budget": self.budget, "device": self.device}
        part = {"annotated": [int(one) if one.isdigit() else one for one in self.annotated], "draws": self.draws}
        values["data"] |= {key: some for key, some in part.items() if some}
        values["study"] |= {"arms": self.arms} if self.arms else {}
        config = config_from_values(values | {key: one for key, one in given.items() if one is not None})
        if self.dry_run:
            from diffaug.pipeline.run import checked, source_of

            checked(config)
            if not (config.out / "data").is_dir():  # else it is imported, and may have been removed since
                source_of(config)
            return _print_plan(config)
        from diffaug.pipeline.run import run_pipeline

        for report in run_pipeline(config):
            print(report.absolute())
        return None


def _print_plan(config: Any) -> None:
    """Print the resolved knobs, the minutes they take on two cores, and the disk."""
    from diffaug.pipeline.run import estimate

    _print_json({"config": config.model_dump(mode="json"), "estimate": estimate(config)})


Commands = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Prompts, subcommand("prompts")]
    | Annotated[Fit, subcommand("fit")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Remove, subcommand("remove")]
    | Annotated[Segment, subcommand("segment")]
    | Annotated[PseudoLabel, subcommand("pseudo-label")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Study, subcommand("study")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Run, subcommand("run")]
)


def _choose_preset(argv: list[str]) -> None:
    """Read --preset ahead of everything else, since it sets the defaults of the other options."""
    global _preset  # noqa: PLW0603
    _preset = "default"
    for word, value in zip(argv, [*argv[1:], ""], strict=True):
        name = value if word == "--preset" else word.removeprefix("--preset=") if word.startswith("--preset=") else None
        if name is not None:
            if name not in PRESETS:
                raise ConfigError(f"a preset must be one of {', '.join(PRESETS)}; got {name!r}")
            _preset = name


def main(argv: list[str] | None = None) -> None:
    """Run a command; an expected error is one line on stderr and exit status 1."""
    words = sys.argv[1:] if argv is None else argv
    try:
        _choose_preset(words)
        command: Command = tyro.cli(
            Commands,
            prog="diffaug",
            description="Paint lesions where annotations are scarce, and prove whether they help.",
            args=words,
            config=(OmitSubcommandPrefixes,),
        )
        _check_seed(command)
        command.run()
    except ValidationError as error:
        _fail(explain(error))
    except DiffaugError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; the same command resumes")
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_seed(command: Any) -> None:
    """Refuse what no draw can be made of."""
    command = getattr(command, "command", command)
    for name in ("seed", "draw"):
        value = getattr(command, name, 0)
        if value < 0:
            raise ConfigError(f"--{name} is 0 or more: it is {value}")


def _fail(line: str) -> None:
    print(f"diffaug: {line}", file=sys.stderr)
    raise SystemExit(1)
