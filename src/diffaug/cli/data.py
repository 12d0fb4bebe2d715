"""Commands about data sets: import, phantom, inspect, subset; and prompts."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from diffaug.cli.base import Seed
from diffaug.config import Source


@dataclass
class DataImport:
    """Copy public or own images into the folder format.

    Example: diffaug data import kvasir-seg downloads/Kvasir-SEG data/kvasir
    """

    source: Positional[Source]  # A published layout, or `folder` for any folder with images/ and masks/.
    path: Positional[Path]  # Folder that holds the images.
    to: Positional[Path]  # Data set to make.
    seed: int = 0  # Random seed of the split, where the images come without one.

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

    to: Positional[Path]  # Data set to make.
    train: int = 60  # Number of annotated training cases.
    val: int = 20  # Number of cases to choose settings on.
    test: int = 40  # Number of cases to test on.
    unannotated: int = 40  # Number of images without masks.
    size: int = 256  # Side of a scene in pixels.
    seed: Seed = 0

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

    data: Positional[Path]  # Data set to look at.
    out: Path | None = None  # PNG file of the contact sheet. By default none is drawn.

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

    data: Positional[Path]  # Full data set.
    to: Positional[Path]  # Data set to make.
    annotated: int  # Number of training cases that keep their masks.
    draw: int = 0  # Number of the random draw that decides which ones. Each number gives other cases.

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
    """Print prompts made of findings from the literature, one a line, each followed by ` | ` and its references.

    Example: diffaug prompts --domain colonoscopy -n 20 --seed 0
    """

    domain: str = "generic"  # Domain of the findings: colonoscopy, fundus or generic.
    # YAML file of your own findings, in the form of the files in diffaug/conditioning/findings.
    findings: Path | None = None
    count: Annotated[int, arg(aliases=["-n"])] = 20  # Number of prompts.
    seed: Seed = 0

    def run(self) -> None:
        """Print the prompts."""
        from diffaug.conditioning.findings import library_of
        from diffaug.conditioning.grammar import draw_prompts

        for draft in draw_prompts(library_of(self.domain, self.findings), self.count, self.seed):
            print(f"{draft.text()} | {'; '.join(draft.references)}")
