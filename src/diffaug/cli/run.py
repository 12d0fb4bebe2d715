"""Commands that run every stage: run and demo."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from diffaug.cli.base import DryRun, Seed, print_plan
from diffaug.config import config_from_values, read_config


@dataclass
class Run:
    """Run every stage from one YAML file, for each number of annotated cases and each draw.

    Example: diffaug run runs/kvasir.yaml
    """

    config: Positional[Path]  # YAML file with a `preset:` and the knobs that differ from it.
    annotated: tuple[str, ...] = ()  # Numbers of annotated cases to run. The default is those of the file.
    draws: tuple[int, ...] = ()  # Draws of the annotated cases to run. The default is those of the file.
    arms: tuple[str, ...] = ()  # Arms to run. The default is those of the file.
    budget: float | None = None  # Minutes to spend at most. Fewer draws are run where all would take longer.
    # Where to compute: cpu, cuda, cuda:N or auto. The default is that of the file.
    device: str | None = None
    dry_run: DryRun = False

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
            return print_plan(config)
        from diffaug.pipeline.run import run_pipeline

        for report in run_pipeline(config):
            print(report.absolute())
        return None


@dataclass
class Demo:
    """Run the whole loop on phantom images and print the path of the report.

    Example: diffaug demo out/demo
    """

    out: Positional[Path] = Path("out/demo")  # Folder of the run.
    seed: Seed = 0

    def run(self) -> None:
        """Run every stage of the preset `demo`."""
        from diffaug.pipeline.run import run_pipeline

        for report in run_pipeline(config_from_values({"out": self.out, "seed": self.seed}, "demo")):
            print(report.absolute())
