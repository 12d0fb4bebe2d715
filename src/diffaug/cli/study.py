"""Commands about studies: study, report, select, pseudo-label."""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diffaug.cli.base import (
    DataPath,
    Device,
    DryRun,
    Flat,
    Json,
    OutPath,
    Preset,
    Seed,
    StudyPath,
    SyntheticPath,
    chosen_preset,
    print_result,
)
from diffaug.cli.plan import print_plan
from diffaug.cli.run import read_pooled
from diffaug.cli.texts import folds_text, labels_text, leaks_text, segment_text, selection_text, study_text
from diffaug.config import Config, SelectConfig, StudyConfig, config_from_values
from diffaug.errors import ConfigError


@dataclass
class Study:
    """Train a segmentation network with and without synthetic cases, and compare them on held-out real images.

    An arm is a training set under comparison; the arm `real` holds the annotated cases alone. If you have no test set,
    use --folds K: the training cases are divided into K parts, each part is the test set once while every stage runs
    on the other parts, and the report pools the results. With --folds and --baseline, only the arm `real` is trained;
    `diffaug generate --aim missed` reads its results. With --leaks, only the arm `real` is trained, once with a
    correct split and once with each kind of careless split.

    Example: diffaug study data/kvasir-100 studies/kvasir-100 --synthetic synthetic/kvasir-100
    """

    data: DataPath  # Data set. Every arm trains on its annotated training cases.
    out: OutPath  # Study folder to make, or to continue after a stop.
    synthetic: tuple[Path, ...] = ()  # Synthetic sets to compare. They must be generated from these training cases.
    test: tuple[str, ...] = ("test",)  # Test on these splits (val, test) or on these folders of other data sets.
    # Data set in which every training case is annotated. The arm `oracle` trains on it.
    oracle: Path | None = None
    # Continue even if a test image, or an image of the same group, is trained on. The report then says so.
    allow_duplicates: bool = False
    # Divide the training cases into this number of folds, and test on each fold in turn. With 0, the study tests on
    # --test.
    folds: int = 0
    # With --folds: train the arm `real` alone and paint nothing. `diffaug generate --aim missed` reads the result.
    baseline: bool = False
    # Measure how much careless splits would overstate the scores of the arm `real`. If OUT is a finished study, its
    # report then shows the result.
    leaks: bool = False
    preset: Preset = "default"
    seed: Seed = 0
    device: Device = "cpu"
    dry_run: DryRun = False
    json: Json = False
    study: Annotated[StudyConfig, Flat] = field(default_factory=lambda: chosen_preset().study)

    def run(self) -> None:
        """Run the study, and print its summary."""
        self._check()
        if self.dry_run:
            return self._plan()
        if self.leaks:
            from diffaug.study.leaks import leak_study

            folds = self.folds or 5
            options: dict[str, Any] = {"folds": folds, "seed": self.seed, "device": self.device}
            found = leak_study(self.data, self.out, self.study, **options)
            return print_result(found, lambda: leaks_text(found), self.json)
        if self.folds and not self.baseline:
            from diffaug.pipeline.run import run_pipeline

            (report,) = run_pipeline(self._config(), self.data)
            pooled, order = read_pooled(report)
            text = folds_text(pooled, order, self.folds, report, self.data, self.study.iterations, self.preset)
            return print_result({**pooled, "report": str(report.absolute())}, lambda: text, self.json)
        from diffaug.study.study import run_study

        options = {"seed": self.seed, "test": self.test, "device": self.device, "oracle": self.oracle}
        options |= {"allow_duplicates": self.allow_duplicates, "folds": self.folds}
        summary = run_study(self.data, self.out, self.synthetic, self.study, **options)
        return print_result(
            summary, lambda: study_text(summary, self.out, self.synthetic, self.study.iterations), self.json
        )

    def _check(self) -> None:
        """Refuse options that mean nothing, alone or beside --folds, --baseline and --leaks."""
        given = {"--synthetic": self.synthetic, "--oracle": self.oracle, "--test": self.test != ("test",)}
        named = [name for name, value in given.items() if value]
        if named and (self.folds or self.leaks):
            raise ConfigError(
                f"{'--leaks' if self.leaks else '--folds'} works on the training cases alone: "
                f"{named[0]} is given; leave it out"
            )
        if self.baseline and not self.folds:
            raise ConfigError("--baseline needs --folds, which is not set: add, for example, --folds 5")
        if self.baseline and self.study.arms not in ((), ("real",)):
            raise ConfigError(
                f"--baseline trains the arm real alone: --arms is {' '.join(self.study.arms)}; leave out one of the two"
            )
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"--folds must be 0, or 2 or more: it is {self.folds}; use 5")

    def _plan(self) -> None:
        """Check what can be told without work, and print knobs, minutes and disk."""
        from diffaug.data.folder import read_dataset
        from diffaug.data.split import folds_by_group
        from diffaug.pipeline.jobs import checked, checked_folds
        from diffaug.study.architectures import check_name
        from diffaug.study.arms import default_arms, parse_arms
        from diffaug.study.inputs import read_set

        check_name(self.study.network)
        dataset = read_dataset(self.data)
        groups = {case.id: case.group for case in dataset.split("train")}
        if self.study.arms:
            parse_arms(self.study.arms)
        if self.baseline or self.leaks:
            folds_by_group(groups, self.folds or 5, self.seed)  # or it is refused
            ways = 4 if self.leaks else 1
            one = self.study.model_copy(update={"arms": ("real",), "seeds": ways * (self.folds or 5)})
            return print_plan(one, self.json, self.data, self.out, self.device, self.study)
        if not self.folds:
            rows = [row for number, one in enumerate(self.synthetic) for row in read_set(one, number)]
            named = self.study.model_copy(update={"arms": self.study.arms or default_arms(rows)})
            return print_plan(named, self.json, self.data, self.out, self.device, self.study)
        config = checked(self._config())
        checked_folds(config, dataset, groups)
        count = len(groups) - len(groups) // self.folds  # of each fold
        update = {"annotated": (count,), "source": "folder", "path": self.data}
        config = config.model_copy(update={"data": config.data.model_copy(update=update)})
        return print_plan(config, self.json, self.data, self.out, self.device, self.study)

    def _config(self) -> Config:
        """Return the whole pipeline for --folds."""
        chosen = chosen_preset()
        data = chosen.data.model_copy(update={"annotated": ("all",), "draws": (0,)})
        more = {"folds": self.folds, "allow_duplicates": self.allow_duplicates}
        found = config_from_values({"data": data.model_dump() | more}, self.preset)
        return found.model_copy(update={"out": self.out, "seed": self.seed, "device": self.device, "study": self.study})


@dataclass
class Report:
    """Write a report of a study, and of its synthetic set: one HTML page that needs no other file.

    Example: diffaug report studies/kvasir-100 --synthetic synthetic/kvasir-100
    """

    study: StudyPath  # Folder of a finished study.
    # Synthetic set of the study. The report then shows its pictures and counts.
    synthetic: Path | None = None
    to: Path | None = None  # Write the page to this HTML file. The default is STUDY/report.html.

    def run(self) -> None:
        """Write the page and print its path."""
        from diffaug.report.page import write_report

        print(write_report(self.study, self.synthetic, self.to).absolute())


@dataclass
class Select:
    """Choose the painted cases that are worth training on.

    They are hard for a trained network, but not too hard, and differ from the training cases.

    Example: diffaug select synthetic/kvasir-100 selected/kvasir-100 --study studies/kvasir-100
    """

    synthetic: SyntheticPath  # Synthetic set to choose from.
    out: OutPath  # Data set to make of the chosen cases. Its manifest holds their scores.
    study: Path  # Finished study of the same synthetic set. Its trained arm `real` scores the cases.
    # Number of lesions to choose, the best first. By default all that are not too hard are chosen.
    count: int | None = None
    # Leave out the pictures that show a copy of a training lesion: the folder that `diffaug audit` made of this set.
    without_copies: Annotated[Path | None, arg(metavar="AUDIT")] = None
    preset: Preset = "default"
    json: Json = False
    select: Annotated[SelectConfig, Flat] = field(default_factory=lambda: chosen_preset().study.select)

    def run(self) -> None:
        """Select, and print what was chosen."""
        from diffaug.study.sets import select_set

        found = select_set(
            self.synthetic, self.out, self.study, self.select, self.count, without_copies=self.without_copies
        )
        if self.count is not None and found.kept < self.count:
            print(
                f"{found.kept} of {self.count} wanted cases are chosen: no more are accepted and not too hard",
                file=sys.stderr,
            )
        print_result(asdict(found), lambda: selection_text(found, self.out), self.json)


@dataclass
class PseudoLabel:
    """Label unannotated images with the trained network of a study, and keep the labels that it is confident of.

    `diffaug generate --backgrounds OUT` then also paints on these images.

    Example: diffaug pseudo-label studies/kvasir-100 labelled/kvasir-100
    """

    study: StudyPath  # Study folder. Its trained arm `real` labels the images.
    out: OutPath  # Data set to make of the labelled images.
    # Keep a predicted mask if the mean probability inside it is at least this. The default is --pseudo-confidence of
    # the study.
    confidence: float | None = None
    json: Json = False

    def run(self) -> None:
        """Label, and print how many images were."""
        from diffaug.study.sets import pseudo_label_set

        found = pseudo_label_set(self.study, self.out, self.confidence)
        print_result(asdict(found), lambda: labels_text(found, self.out), self.json)


@dataclass
class Predict:
    """Segment images with the networks that a study trained on one of its arms.

    OUT gets masks, overlays, and probabilities as PNG files of 16 bits (65535 is 1), each as large as its image, in the
    subfolders of the images.

    Example: diffaug predict studies/kvasir-100 my-images predicted/my-images --arm selected
    """

    study: StudyPath  # Study folder. It must hold the weights of the arm.
    # Folder of images of any size, with its subfolders, or one image.
    images: Annotated[Positional[Path], arg(metavar="IMAGES")]
    out: OutPath  # Folder to make. It holds masks, overlays, probabilities and a summary.
    arm: str = ""  # Arm whose networks segment the images. A study of one arm needs none.
    # Use the run of this seed alone. By default the probabilities of all runs of the arm are averaged.
    seed: int | None = None
    # Name the network of the study if it is a function of yours (package.module:function): its code is run.
    network: str = ""
    device: Device = "cpu"
    json: Json = False

    def run(self) -> None:
        """Predict, and print the share of each image that was found."""
        from diffaug.study.predict import predict_images

        options: dict[str, Any] = {"arm": self.arm, "seed": self.seed, "network": self.network, "device": self.device}
        summary = predict_images(self.study, self.images, self.out, **options)
        print_result(summary.as_dict(), lambda: segment_text(summary, self.out), self.json)
