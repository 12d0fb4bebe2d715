"""Commands that run every stage: run and demo."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diffaug.cli.base import DryRun, Seed
from diffaug.cli.plan import print_plan
from diffaug.cli.texts import arms_text
from diffaug.config import config_from_values, read_config
from diffaug.reading import read_json


def print_reports(reports: Sequence[Path], iterations: int) -> None:
    """Print the table of each number of annotated cases, and the path of its report in a line of its own.

    Args:
        reports: Their paths.
        iterations: How long each network of the studies was trained.
    """
    for report in reports:
        summary, order = read_pooled(report)
        print(arms_text(summary, iterations, order))
        print(report.absolute())


def read_pooled(report: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the summary that lies beside a pooled report, and the names of its arms in their order."""
    return read_json(report.parent / "summary.json"), read_json(report.parent / "study.json")["config"]["arms"]


@dataclass
class Run:
    """Run every stage from one YAML file, for each number of annotated cases and each random draw of them.

    Runs that OUT/records.jsonl holds are not repeated, so the same command continues after a stop.

    Example: diffaug run runs/kvasir.yaml
    """

    # YAML file that names a `preset:`, and the settings that differ from it.
    config: Annotated[Positional[Path], arg(metavar="FILE.yaml")]
    # Run these numbers of annotated cases (all is allowed) instead of those of the file.
    annotated: tuple[str, ...] = ()
    # Run these random draws of the annotated cases instead of those of the file.
    draws: tuple[int, ...] = ()
    arms: tuple[str, ...] = ()  # Compare these arms instead of those of the file.
    # Train this segmentation network instead of that of the file, with its own defaults. See `diffaug study --help`.
    network: str = ""
    # Paint and train on a Ray cluster (auto, or HOST:PORT) instead of what the file says.
    ray: str = ""
    budget: float | None = None  # Spend at most this many minutes: run fewer draws if all would take longer.
    # Compute on this device: cpu, cuda, cuda:N, mps or auto. The default is that of the file.
    device: str | None = None
    dry_run: DryRun = False
    json: Annotated[bool, arg(help="With --dry-run: print the whole plan as JSON, for machines.")] = False

    def run(self) -> None:
        """Run the stages, and print the paths of the reports."""
        data = {"annotated": [int(one) if one.isdigit() else one for one in self.annotated], "draws": self.draws}
        given: dict[str, Any] = {"budget": self.budget, "device": self.device}
        changed = {name: value for name, value in given.items() if value is not None}
        changed |= {"data": {name: some for name, some in data.items() if some}}
        study = ("arms", self.arms), ("network", self.network), ("ray", self.ray)
        changed |= {
            "study": {name: one for name, one in study if one},
            "generate": {"ray": self.ray} if self.ray else {},
        }
        config = read_config(self.config, changed)
        if self.dry_run:
            from diffaug.pipeline.jobs import checked, source_of

            checked(config)
            if not (config.out / "data").is_dir():  # else it is imported, and may have been removed since
                source_of(config)
            folder = config.data.path if config.data.source == "folder" else None
            made = config.out / "data"
            return print_plan(config, self.json, made if made.is_dir() else folder, config.out, config.device)
        from diffaug.pipeline.run import run_pipeline

        return print_reports(run_pipeline(config), config.study.iterations)


@dataclass
class Demo:
    """Run every stage on phantom images, without any download, and print the path of the report.

    Example: diffaug demo out/demo
    """

    # Folder of the run to make, or to continue after a stop.
    out: Annotated[Positional[Path], arg(metavar="[OUT]")] = Path("out/demo")
    seed: Seed = 0

    def run(self) -> None:
        """Run every stage of the preset `demo`."""
        from diffaug.pipeline.run import run_pipeline

        config = config_from_values({"out": self.out, "seed": self.seed}, "demo")
        print_reports(run_pipeline(config), config.study.iterations)
