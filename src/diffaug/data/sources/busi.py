"""BUSI and what is laid out like it: masks beside images, several masks of an image united, normal images.

Read layouts:

    Dataset_BUSI_with_GT/benign, malignant, normal    as published: `benign (1).png`, `benign (1)_mask.png`,
                                                      `benign (1)_mask_1.png`, `normal (1).png`
    the same files in one folder, or images/ and masks/ with normal/images/

Images of normal breasts are lesion-free: their masks are empty or missing.

Source: Al-Dhabyani et al. 2020, "Dataset of breast ultrasound images" (doi:10.1016/j.dib.2019.104863).
"""

from pathlib import Path

from diffaug.data.sources.folder import records_of_pairs
from diffaug.data.sources.layout import ReadOptions, SourceRecords
from diffaug.data.sources.names import FREE_WORDS, WORD
from diffaug.data.sources.pairing import find_pairs, has_image_suffix


def read_busi(source: Path, options: ReadOptions) -> SourceRecords:
    """Find the images with all their masks; images in `normal/` or called `normal (1)` are lesion-free.

    Raises:
        DataError: There are no images, or an image or a mask has no partner.
    """
    pairs = find_pairs(source, "busi", has_image_suffix, unite=True, free_stem=_is_free, missing=options.missing_masks)
    return records_of_pairs(pairs)


def _is_free(stem: str) -> bool:
    words = [part.lower() for part in WORD.findall(stem)]
    return bool(words) and words[0] in FREE_WORDS
