"""Commands about where a picture is from: explain, reproduce."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diffaug.cli.base import Json, print_result
from diffaug.cli.texts import explanation_text, reproduction_text
from diffaug.errors import DataError

ImagePath = Annotated[
    Positional[Path],
    arg(
        metavar="IMAGE",
        help="Picture of a synthetic set or of a folder that `diffaug remove` made, in its place or a copy of it.",
    ),
]
SetPath = Annotated[
    Path | None,
    arg(name="in", help="Synthetic set that the picture was copied from. By default the one that it lies in, if any."),
]


@dataclass
class Explain:
    """Say what a synthetic picture was made of: background, mask, example, prompt, seeds, model, settings and code.

    It reads the metadata of the picture, so a copy will do, and the manifest of its set, where it finds the set.

    Example: diffaug explain synthetic/kvasir-100/shards/00000/images/synth-00000.png
    """

    image: ImagePath
    synthetic: SetPath = None
    json: Json = False

    def run(self) -> None:
        """Print what the picture is made of."""
        from diffaug.synthesis.explain import explain_image

        found = explain_image(self.image, self.synthetic)
        print_result(found.as_dict(), lambda: explanation_text(found, self.image), self.json)


@dataclass
class Reproduce:
    """Paint a synthetic picture again from what it says of itself, and compare every pixel.

    On the same kind of processor and with the same versions all pixels are equal. Elsewhere the largest difference and
    the share of pixels that differ are printed. The status is 0 if the picture is what it says, and 1 otherwise.

    Example: diffaug reproduce synth-00000.png --model models/kvasir-100 --data data/kvasir-100
    """

    image: ImagePath
    synthetic: SetPath = None
    # Model folder that painted it. By default the folder `model` beside the set, where `diffaug run` has it.
    model: Path | None = None
    # Data set that the model was fitted on. By default the folder `data` beside the set.
    data: Path | None = None
    findings: Path | None = None  # YAML file of findings, if the prompts were made of one.
    baseline: Path | None = None  # Study that `diffaug generate --aim missed` was given.
    backgrounds: Path | None = None  # Data set that `diffaug generate --backgrounds` was given.
    device: str = ""  # Compute on this device (cpu, cuda, cuda:N, mps or auto). By default the one that painted it.
    json: Json = False

    def run(self) -> None:
        """Paint and compare."""
        from diffaug.synthesis.reproduce import reproduce_image

        names = ("synthetic", "findings", "baseline", "backgrounds", "device")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        found = reproduce_image(self.image, self.model, self.data, **options)
        if found.passed or self.json:
            print_result(found.as_dict(), lambda: reproduction_text(found), self.json)
        if not found.passed:
            raise DataError(
                f"a picture is what its metadata say: {self.image} is not: {reproduction_text(found)}; take the file "
                "from its set, or name the set with --in"
            )
