"""Commands about data sets: import, phantom, inspect, subset; and prompts."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from diffaug.cli.base import DataPath, OutPath, Seed
from diffaug.cli.texts import next_command
from diffaug.layouts import SOURCES, EmptyMasks, MissingMasks, Source, Unannotated

LAYOUT_HELP = "; ".join(f"{name}: {text}" for name, text in SOURCES.items())


@dataclass
class DataImport:
    """Copy published or your own images into the folder format.

    Example: diffaug data import kvasir-seg downloads/Kvasir-SEG data/kvasir
    """

    source: Annotated[
        Positional[Source], arg(metavar=f"{{{','.join(SOURCES)}}}", help=f"Layout of the images. {LAYOUT_HELP}.")
    ]
    # Folder that holds the images. For coco, yolo and csv it may be the file that describes them. A file groups.csv in
    # the folder (columns id and group) says which images are of one patient.
    path: Annotated[Positional[Path], arg(metavar="FROM")]
    to: OutPath  # Data set to make.
    # Shares of train, val and test, such as 70:10:20, or 100:0:0 to train on everything. Groups stay whole. By default
    # the splits of the source are kept, and a source without splits is divided 70:10:20.
    split: str = ""
    # Names of classes with their values in the masks, such as disc=1,2 cup=2, or lesion=1-35 for one class. The class
    # background takes values that are no lesion. By default classes.json in the source tells the classes.
    classes: tuple[str, ...] = ()
    # What an empty mask means: negative makes the image a lesion-free case, leave-out leaves it out, and refuse, the
    # default, stops the import.
    empty_masks: EmptyMasks = "refuse"
    # What an image without a mask is, in the layouts folder, busi, dicom and nifti: unannotated imports it as
    # unannotated, with the group of its folder; refuse, the default, stops the import, since the mask may be lost.
    missing_masks: MissingMasks = "refuse"
    # Centre and width of the values that become black to white, such as 40,400, for images of more than 8 bits. By
    # default each image or volume is scaled from its 0.5th to its 99.5th percentile.
    window: str = ""
    # Channels that become grey (one) or red, green and blue (two or three), such as 0 or 0,1,2, for layouts in which an
    # image has several. By default they are the first three.
    channels: str = ""
    # Random seed of the split into train, val and test. It is used if the images come without a split.
    seed: int = 0

    def run(self) -> None:
        """Import, and say what was converted."""
        from diffaug.data.importing import channels_of, import_dataset, window_of

        imported = import_dataset(
            self.source,
            self.path,
            self.to,
            self.seed,
            "importing",
            split=self.split,
            classes=self.classes,
            empty_masks=self.empty_masks,
            missing_masks=self.missing_masks,
            window=window_of(self.window) if self.window else None,
            channels=channels_of(self.channels) if self.channels else (),
        )
        for notice in (*imported.notices, *imported.advice):
            print(notice, file=sys.stderr)
        print(f"{len(imported.dataset)} cases in {self.to}: {imported.counts()}")
        print(next_command("data", "inspect", self.to, "--out", self.to.with_name(f"{self.to.name}.png")))


@dataclass
class DataPhantom:
    """Draw a data set of phantoms: procedural images, to try the package without images of your own.

    Example: diffaug data phantom data/phantoms --train 60 --test 40
    """

    to: OutPath  # Data set to make.
    train: int = 60  # Number of annotated training cases.
    val: int = 20  # Number of validation cases, to choose settings on.
    test: int = 40  # Number of test cases.
    unannotated: int = 40  # Number of training images without masks.
    # What the images look like: endoscopy (scenes with one or two lesions), or cells (20 to 40 bright nuclei on a dark
    # background, as in fluorescence microscopy).
    kind: Literal["endoscopy", "cells"] = "endoscopy"
    size: int = 256  # Side of an image in pixels.
    seed: Seed = 0

    def run(self) -> None:
        """Draw the images."""
        from diffaug.data.phantom import make_phantoms

        counts = (self.train, self.val, self.test, self.unannotated)
        dataset = make_phantoms(self.to, *counts, kind=self.kind, size=self.size, seed=self.seed, progress="phantoms")
        print(f"{len(dataset)} cases in {self.to}")
        print(next_command("data", "inspect", self.to, "--out", self.to.with_name(f"{self.to.name}.png")))


@dataclass
class DataInspect:
    """Print a table that describes a data set, and draw a contact sheet of its cases.

    Example: diffaug data inspect data/kvasir --out sheets/kvasir.png
    """

    data: DataPath  # Data set to describe.
    out: Path | None = None  # Draw the contact sheet into this PNG file. By default no sheet is drawn.
    # Compare the lesions of this synthetic set with the annotated ones: where they lie, their sizes, their number.
    painted: Path | None = None

    def run(self) -> None:
        """Print the table."""
        from diffaug.conditioning.flaws import line_of_examples
        from diffaug.conditioning.proposal import learn_frames
        from diffaug.data.distributions import compare, table_of
        from diffaug.data.folder import read_dataset
        from diffaug.data.inspect import inspect_dataset

        data = read_dataset(self.data)
        print(inspect_dataset(data, self.out, progress="inspecting").text())
        lesions = any(not case.negative for case in data.annotated("train"))
        if lesions:
            print(f"\n{table_of(compare(data, self.painted))}")
            learned = learn_frames(data.split("train"), progress="learning rules")
            examples = line_of_examples(data.annotated("train"), learned.rules, progress="looking at lesions")
            print(f"\n{learned.line()}\n{examples}\n{learned.domain_line()}")
        else:
            print("\nno training image has an annotated lesion: there is nothing to learn from")
        if lesions and self.painted is None:
            print(next_command("fit", self.data, f"models/{self.data.resolve().name}"))


@dataclass
class DataSubset:
    """Copy a data set with fewer annotated training cases: the others lose their masks and become `unannotated`.

    Example: diffaug data subset data/kvasir data/kvasir-100 --annotated 100 --draw 0
    """

    data: DataPath  # Full data set.
    to: OutPath  # Data set to make.
    annotated: int  # Number of training cases that keep their masks.
    draw: int = 0  # Number of the random draw of these cases. Another number draws other cases.
    # Images that stay without annotation: all, or lesion-free. With lesion-free the annotated cases are drawn among
    # those with a lesion, images that are declared to be lesion-free become unannotated, and all others are left out.
    unannotated: Unannotated = "all"

    def run(self) -> None:
        """Make the subset."""
        from diffaug.data.folder import read_dataset, subset_dataset

        dataset = subset_dataset(read_dataset(self.data), self.to, self.annotated, self.draw, self.unannotated)
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
    """Make data sets, and look at them: import, phantom, inspect, subset.

    Example: diffaug data inspect data/kvasir
    """

    command: DataCommand

    def run(self) -> None:
        """Hand on to the chosen command."""
        self.command.run()


@dataclass
class Prompts:
    """Print prompts that are made of findings from the literature: on each line a prompt, ` | `, its references.

    Example: diffaug prompts --domain endoscopy -n 20 --seed 0
    """

    # Take the findings of this domain: endoscopy, fundus, ultrasound, microscopy, dermoscopy, x-ray or generic.
    domain: str = "generic"
    # Take the findings of this YAML file instead. The files in diffaug/conditioning/findings show its form.
    findings: Path | None = None
    count: Annotated[int, arg(aliases=["-n"])] = 20  # Number of prompts to print.
    seed: Seed = 0

    def run(self) -> None:
        """Print the prompts."""
        from diffaug.conditioning.findings import library_of
        from diffaug.conditioning.grammar import draw_prompts

        for draft in draw_prompts(library_of(self.domain, self.findings), self.count, self.seed):
            print(f"{draft.text()} | {'; '.join(draft.references)}")
