"""CVC-ClinicDB: 612 polyp frames of 384 x 288 px with masks, numbered 1 to 612, from 29 sequences.

Read layouts, inside SOURCE or SOURCE/CVC-ClinicDB:

    Original, Ground Truth              as published, TIFF
    TIF or PNG, each with both          mirrors
    images, masks                       mirrors

Frames of one sequence show one polyp and are nearly equal, so a sequence is a group: see
`cvc_clinicdb_sequences.yaml` for its frames and where they are published. Sequences that share a frame are one group.

Source: Bernal et al. 2015, "WM-DOVA maps for accurate polyp highlighting in colonoscopy" (doi:10.1016/
    j.compmedimag.2015.02.007), https://polyp.grand-challenge.org/CVCClinicDB/. Terms: research and education.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from diffaug.data.duplicates import SAME_FRAME, duplicates_of_fingerprints
from diffaug.data.examine import Finding
from diffaug.data.sources.layout import Record, SourceRecords, files_by_stem, subfolder
from diffaug.data.sources.recognise import not_understood
from diffaug.errors import DataError

TABLE = Path(__file__).with_name("cvc_clinicdb_sequences.yaml")
UNPACKED = "CVC-ClinicDB"  # the folder inside the published archive
INNER = ("TIF", "PNG")
PAIRS = (("Original", "Ground Truth"), ("images", "masks"))
DEVIATIONS = 3.0  # standard errors by which neighbours must look more alike than frames of two sequences


def read_cvc_clinicdb(source: Path) -> SourceRecords:
    """Find the frames in the order of their numbers; each published sequence is a group.

    Raises:
        DataError: The layout is another one, or a frame or a mask is missing.
    """
    sequences = read_sequences()
    images, masks = (_frames_of(folder, sequences) for folder in _find_folders(source))
    records = [
        Record(str(number), images[number], masks[number], f"sequence-{sequence:02}")
        for number, sequence in sequences.items()
    ]
    return SourceRecords(records, remark=partial(_remarks, sequences))


def read_sequences() -> dict[int, int]:
    """Return the published sequence of each frame, 1 to 29, by frame number, 1 to 612."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {
        frame: sequence for sequence, (first, last) in table["sequences"].items() for frame in range(first, last + 1)
    }


def _find_folders(source: Path) -> tuple[Path, Path]:
    """Return the folders of images and of masks."""
    base = subfolder(source, UNPACKED) or source
    inside = [base, *(folder for name in INNER if (folder := subfolder(base, name)))]
    for folder, (first, second) in product(inside, PAIRS):
        images, masks = subfolder(folder, first), subfolder(folder, second)
        if images and masks:
            return images, masks
    rule = "CVC-ClinicDB has Original/ and Ground Truth/, or images/ and masks/"
    raise not_understood(rule, source, "cvc-clinicdb")


def _frames_of(folder: Path, sequences: Mapping[int, int]) -> dict[int, Path]:
    """Return the files of a folder by frame number, and check that none is missing."""
    files = files_by_stem(folder)
    strange = [path.name for stem, path in files.items() if not stem.isdecimal() or int(stem) not in sequences]
    if strange:
        raise DataError(
            f"frames are named by their numbers, 1 to {len(sequences)}: {folder} has {strange[0]}; "
            "restore the published names, from which the sequences follow, or import as `folder` with groups.csv"
        )
    frames = {int(stem): path for stem, path in files.items()}
    missing = [number for number in sequences if number not in frames]
    if missing:
        raise DataError(
            f"CVC-ClinicDB has {len(sequences)} frames: {folder} lacks {len(missing)}, the first is number "
            f"{missing[0]}; fetch the whole set, or import what there is as `folder` with groups.csv"
        )
    return frames


def _remarks(sequences: Mapping[int, int], findings: Sequence[Finding]) -> list[str]:
    """Compare the published sequences with what the pixels say."""
    structures = np.stack([finding.fingerprint.structure for finding in findings])
    numbers = np.array([sequences[int(finding.case.id)] for finding in findings])
    alike = structures @ structures.T
    two = numbers[:, None] != numbers[None, :]
    remarks = [
        f"frames of the sequences {first} and {second} look the same: the two are one group"
        for first, second in sorted(_shared(findings, numbers, np.argwhere(two & (alike >= SAME_FRAME))))
    ]
    neighbours = [alike[a, b] for a, b in pairwise(range(len(numbers))) if numbers[a] == numbers[b]]
    margin = DEVIATIONS * float(alike[two].std()) / len(neighbours) ** 0.5
    if np.mean(neighbours) <= alike[two].mean() + margin:
        remarks.append(
            "neighbours in a published sequence look no more alike than frames of two sequences: the files may have "
            "been numbered anew, and then sequences cross the splits; compare them with the published archive"
        )
    return remarks


def _shared(findings: Sequence[Finding], numbers: NDArray[np.intp], pairs: NDArray[np.intp]) -> set[tuple[int, int]]:
    """Return the pairs of sequences, the lower first, in which frames of some pairs are repeated."""
    chosen = {findings[place].case.id: place for place in np.unique(pairs)}
    prints = {name: findings[place].fingerprint for name, place in chosen.items()}
    found = duplicates_of_fingerprints(prints, {name: int(numbers[place]) for name, place in chosen.items()})
    ends = [sorted((int(numbers[chosen[one]]), int(numbers[chosen[other]]))) for one, other in found]
    return {(first, second) for first, second in ends}
