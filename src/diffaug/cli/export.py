"""The command that hands cases on to other libraries: export."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from diffaug.cli.base import Json, OutPath, Seed, SyntheticPath, print_result
from diffaug.cli.texts import exported_text
from diffaug.layouts import FORMATS

FORMAT_HELP = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())


@dataclass
class Export:
    """Write the kept cases of a synthetic set in the format of another library, with the real cases beside them.

    Painted cases only train: no fold validates on one, and none trains on one that shows something of its validation.

    Example: diffaug export synthetic/kvasir-100 nnUNet_raw/Dataset101_Polyp --format nnunet --with data/kvasir-100
    """

    synthetic: SyntheticPath  # Synthetic set, or a set that `diffaug select` made.
    out: OutPath  # Folder to make.
    format: Annotated[str, arg(metavar=f"{{{','.join(FORMATS)}}}", help=f"Format to write. {FORMAT_HELP}.")]
    # Export the annotated cases of this data set, too: train beside the synthetic cases, val and test apart. It must be
    # the data set that the synthetic set was generated from.
    with_: Annotated[Path | None, arg(name="with", metavar="DATA")] = None
    # Divide the real training cases into this number of folds, groups whole. By default only nnunet has folds: one that
    # validates on val, or 5 if there is no val.
    folds: int | None = None
    # Leave out, with --no-negatives, the cases that were painted lesion-free.
    negatives: bool = True
    # Export at most this number of painted lesions for each real training case. By default all are exported.
    ratio: float | None = None
    # Leave out the pictures that show a copy of a training lesion: the folder that `diffaug audit` made of this set.
    without_copies: Annotated[Path | None, arg(metavar="AUDIT")] = None
    # Continue even if an image of val or test repeats one of train.
    allow_duplicates: bool = False
    seed: Seed = 0
    json: Json = False

    def run(self) -> None:
        """Export, and say what was written."""
        from diffaug.export.export import export_set

        options: dict[str, Any] = {
            "folds": self.folds,
            "negatives": self.negatives,
            "ratio": self.ratio,
            "seed": self.seed,
        }
        options |= {"without_copies": self.without_copies, "allow_duplicates": self.allow_duplicates}
        found = export_set(self.synthetic, self.out, self.format, self.with_, progress="exporting", **options)
        for notice in found.notices:
            print(notice, file=sys.stderr)
        print_result(
            found.as_dict(), lambda: exported_text(found, self.synthetic, bool(self.without_copies)), self.json
        )
