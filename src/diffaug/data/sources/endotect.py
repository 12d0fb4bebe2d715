"""EndoTect 2020: the 1,000 segmented polyps of HyperKvasir to develop on, and 200 to test on.

Read layouts:

    SOURCE/segmented-images                            images/ and masks/ of HyperKvasir; its boxes are not read
    SOURCE/EndoTect_2020_Segmentation_Test_Dataset     images/ and masks/, beside them or alone: the split `test`

Where the test set is beside them, the segmented images become train and val alone. Masks are JPEG, hence cut at 127. No
patients are published, and the segmented images overlap with Kvasir-SEG: see docs/datasets.md.

Source: Borgli et al. 2020, "HyperKvasir" (doi:10.1038/s41597-020-00622-y), https://datasets.simula.no/hyper-kvasir/;
    Hicks et al. 2021, "The EndoTect 2020 Challenge" (ICPR workshops, pp. 263-274). Terms of HyperKvasir: CC BY 4.0.
"""

from pathlib import Path

from diffaug.data.case import Case
from diffaug.data.folder import Dataset, refuse_occupied
from diffaug.data.sources.folder import import_cases, pair_files, subfolder
from diffaug.errors import DataError

DEVELOPMENT = "segmented-images"
TEST = "EndoTect_2020_Segmentation_Test_Dataset"


def import_endotect(source: Path, to: Path, seed: int = 0, progress: str = "") -> tuple[Dataset, list[str]]:
    """Turn the segmented images of EndoTect into a data set; see `import_folder`.

    Args:
        source: The folder that holds `segmented-images`, the test set or both, or one of these folders.
        to: A new folder.
        seed: Chooses the splits that are not published.
        progress: What to call the work in a progress bar on stderr; empty for none.

    Returns:
        The data set, and one line for each thing the user should know.

    Raises:
        DataError: The layout or a file breaks a rule; nothing is written.
        ConfigError: `to` holds something else, or cannot be written.
    """
    refuse_occupied(to)
    return import_cases(cases_of_endotect(source), to, {}, seed, progress)


def cases_of_endotect(source: Path) -> list[Case]:
    """Find the cases; those of the development set have the split "".

    Raises:
        DataError: There is neither set, or an image or mask has no partner.
    """
    if not source.is_dir():
        raise DataError(f"a source must be a folder: {source} is none; check the path")
    inside = {path.name.lower() for path in source.iterdir()}
    if {"images", "masks"} <= inside:  # one of the two sets itself
        return _pairs_of(source, "test" if source.name == TEST else "")
    development, test = subfolder(source, DEVELOPMENT), subfolder(source, TEST)
    if not development and not test:
        raise DataError(f"EndoTect has {DEVELOPMENT}/ or {TEST}/: {source} has neither; check the path")
    return [*(_pairs_of(development, "") if development else []), *(_pairs_of(test, "test") if test else [])]


def _pairs_of(folder: Path, split: str) -> list[Case]:
    images, masks = subfolder(folder, "images"), subfolder(folder, "masks")
    if images is None or masks is None:
        raise DataError(f"{folder.name} has images/ and masks/: {folder} lacks one; fetch it again")
    return pair_files(images, masks, split)
