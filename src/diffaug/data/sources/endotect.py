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

from diffaug.data.sources.layout import Record, SourceRecords, pair_files, subfolder
from diffaug.data.sources.recognise import not_understood
from diffaug.errors import DataError

DEVELOPMENT = "segmented-images"
TEST = "EndoTect_2020_Segmentation_Test_Dataset"


def read_endotect(source: Path) -> SourceRecords:
    """Find the cases of the development set, the test set or both; the splits of the development set are drawn.

    Args:
        source: The folder that holds `segmented-images`, the test set or both, or one of these folders.

    Raises:
        DataError: There is neither set, or an image or mask has no partner.
    """
    if subfolder(source, "images") and subfolder(source, "masks"):  # one of the two sets itself
        return SourceRecords(_pairs_of(source, "test" if source.name == TEST else ""))
    development, test = subfolder(source, DEVELOPMENT), subfolder(source, TEST)
    if not development and not test:
        raise not_understood(f"EndoTect has {DEVELOPMENT}/ or {TEST}/", source, "endotect")
    return SourceRecords(
        [*(_pairs_of(development, "") if development else []), *(_pairs_of(test, "test") if test else [])]
    )


def _pairs_of(folder: Path, split: str) -> list[Record]:
    images, masks = subfolder(folder, "images"), subfolder(folder, "masks")
    if images is None or masks is None:
        raise DataError(f"{folder.name} has images/ and masks/: {folder} lacks one; fetch it again")
    return pair_files(images, masks, split)
