"""A case: one image with its mask and attributes, and the classes of its label."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffaug.artifacts import digest_of_file, digest_of_value
from diffaug.data.images import Label, Mask, Pixels, mask_from_file, read_image, read_label
from diffaug.data.orientation import turned_like
from diffaug.data.pictures import picture_of
from diffaug.errors import DataError

NEGATIVE: Final = "negative"  # the column of cases.csv that declares, with 1, a case whose empty mask is meant
LESION: Final = "lesion"  # the class of a data set that declares none
UNANNOTATED: Final = "unannotated"  # the split of images without masks, and their kind
PAINTED_NEGATIVE: Final = "painted-negative"
Kind = Literal["lesion", "negative", "painted-negative", "unannotated"]


@dataclass(frozen=True)
class LabelClass:
    """A class of a label: its name, and the values in the mask file that belong to it, each in 1..255.

    Classes may share values, and so lie inside each other: if 1 is the rim and 2 the cup, then the disc has 1 and 2.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One image with its mask and attributes.

    Attributes:
        id: The unique name of the case in its data set.
        image: The image file.
        mask: The mask file; None in the split `unannotated`.
        group: What a split must not divide: a patient, a sequence, or the case itself.
        split: train, val, test or unannotated.
        prompt: What the user wrote about the image; usually empty.
        attributes: Measured numbers by name.
        classes: The classes that the data set declares; without any, a mask has the single class `lesion`.
        known: The file of a mask of the pixels whose label is known; None where all of them are. A lesion that was
            painted onto an image of which nothing is known has one.
        painted_negative: Whether tissue without a lesion was painted on it. Its mask shows only lesions that the image
            had before, if any.

    Example:
        >>> case = diffaug.read_dataset("data/mine")["train-0"]
        >>> case.read_image().shape, case.read_mask().shape, case.class_names
        ((128, 128, 3), (128, 128), ('lesion',))
        >>> case.kind, case.show().size
        ('lesion', (128, 128))
    """

    id: str
    image: Path
    mask: Path | None
    group: str
    split: str
    prompt: str = ""
    attributes: dict[str, float] = field(default_factory=dict)
    classes: tuple[LabelClass, ...] = ()
    known: Path | None = None
    painted_negative: bool = False

    @property
    def kind(self) -> Kind:
        """What the case shows, in a word.

        `painted-negative`: see the attribute. `negative`: it is declared to be lesion-free. `unannotated`: it has no
        mask. `lesion`: its mask shows a lesion.
        """
        if self.painted_negative and self.mask is not None:
            return PAINTED_NEGATIVE
        if self.negative:
            return NEGATIVE
        return UNANNOTATED if self.mask is None else LESION

    @property
    def negative(self) -> bool:
        """Whether the case is declared to be lesion-free."""
        return self.attributes.get(NEGATIVE) == 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `read_masks`."""
        return tuple(label_class.name for label_class in self.classes) or (LESION,)

    def read_image(self) -> Pixels:
        """Return the image, shape (H, W, 3), uint8 RGB, EXIF orientation applied."""
        return read_image(self.image, self.id)

    def read_mask(self) -> Mask:
        """Return the lesion mask, shape (H, W), in the frame of `read_image`: the union of all classes.

        Where the image is turned by its EXIF orientation and the mask was drawn on the stored pixels, the mask is
        turned in the same way.

        Raises:
            DataError: The case has no mask, the file cannot be read, or a value belongs to no class.
        """
        return self.read_mask_and_guess()[0]

    def read_mask_and_guess(self) -> tuple[Mask, str]:
        """Return the lesion mask as `read_mask`, and what was guessed in reading it, as `images.mask_from_file` says.

        Raises:
            DataError: See `read_mask`.
        """
        if self.classes:
            return self.read_label() > 0, ""
        path = self._mask_file()
        mask, guessed = mask_from_file(path, self.id)
        return turned_like(self.image, path, mask.astype(np.uint8)) > 0, guessed

    def read_label(self) -> Label:
        """Return the class numbers of the mask file, shape (H, W), 0 = background; turned as in `read_mask`.

        Without declared classes the label holds 0 and 1.

        Raises:
            DataError: The case has no mask, the file cannot be read, or a value belongs to no class.
        """
        if not self.classes:
            return self.read_mask().astype(np.uint8)
        mask = self._mask_file()
        label = turned_like(self.image, mask, read_label(mask, self.id))
        self._check_values(label)
        return label

    def read_masks(self) -> Mask:
        """Return one mask for each class, shape (K, H, W), in the order of `class_names`.

        Raises:
            DataError: The case has no mask, the file cannot be read, or a value belongs to no class.
        """
        return masks_from_label(self.read_label(), self.classes)

    def show(self, side: int = 512) -> Image.Image:
        """Return a picture of the case with the outlines of its classes, which Jupyter shows.

        Args:
            side: Longest side of the picture, px. A smaller image keeps its size.

        Raises:
            DataError: A file cannot be read, or a value of the mask belongs to no class.
        """
        pixels = self.read_image()
        masks = None if self.mask is None else self.read_masks()
        return picture_of(pixels, masks, min(side, max(pixels.shape[:2])))

    def read_known(self) -> Mask:
        """Return where the label is known, shape (H, W).

        Raises:
            DataError: The file cannot be read.
        """
        if self.known is None:
            return np.ones(self.read_image().shape[:2], dtype=bool)
        return mask_from_file(self.known, self.id)[0]

    def _mask_file(self) -> Path:
        if self.mask is None:
            raise DataError(f"a mask is needed: case {self.id} has none; annotate it or leave it out")
        return self.mask

    def _check_values(self, label: Label) -> None:
        declared = sorted({0, *(value for label_class in self.classes for value in label_class.values)})
        for value in np.unique(label).tolist():
            if value not in declared:
                nearest = min(declared, key=lambda known: abs(known - value))
                raise DataError(
                    f"a label may hold only the values of its classes, here {', '.join(map(str, declared))}: "
                    f"case {self.id} ({self.mask}) has {value}, nearest is {nearest}; correct the label or classes.json"
                )


def check_mask_size(case: Case, mask: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Check that a mask has the size of its image.

    Args:
        case: The case that the error names.
        mask: Height and width of the mask, px.
        image: Height and width of the image, px.

    Raises:
        DataError: The sizes differ.
    """
    if mask != image:
        raise DataError(
            f"a mask must have the size of its image: case {case.id} ({case.mask}) has {mask[1]} x {mask[0]} for an "
            f"image of {image[1]} x {image[0]}; export the mask again at the image's size"
        )


def masks_from_label(label: Label, classes: Sequence[LabelClass]) -> Mask:
    """Return a mask for each class of a label, shape (K, H, W).

    Args:
        label: Class numbers, shape (H, W).
        classes: The K declared classes; without any there is one mask, of the value 1.

    Example:
        >>> label = np.array([[0, 1, 2]], dtype=np.uint8)
        >>> masks_from_label(label, (LabelClass("disc", (1, 2)), LabelClass("cup", (2,)))).astype(int).tolist()
        [[[0, 1, 1]], [[0, 0, 1]]]
    """
    return np.stack([np.isin(label, each.values) for each in classes or (LabelClass(LESION, (1,)),)])


def label_from_probabilities(probability: NDArray[np.floating[Any]], classes: Sequence[LabelClass]) -> Label:
    """Return the most probable label of each pixel.

    The likelihood of a value is the product of p over the classes that hold it and of 1 - p over the others; no class
    holds the background. Only declared values are written, so a cup stays inside its disc whatever the probabilities
    are. If several values belong to the same classes, the first is written.

    Args:
        probability: The probability p of each class, shape (K, H, W).
        classes: The K declared classes.

    Returns:
        Class numbers, shape (H, W).
    """
    values = [0, *dict.fromkeys(value for each in classes for value in each.values)]
    share = np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6)
    belongs = np.array([[value in each.values for each in classes] for value in values], dtype=np.float64)  # (V, K)
    likelihood = np.tensordot(belongs, np.log(share), 1) + np.tensordot(1 - belongs, np.log1p(-share), 1)
    return np.asarray(np.array(values, dtype=np.uint8)[likelihood.argmax(axis=0)])


def digest_of_case(case: Case) -> str:
    """Return the digest of a case: of its prompt, the bytes of its files, wherever they lie, and its classes."""
    files = [path for path in (case.image, case.mask, case.known) if path is not None]
    classes = [[each.name, *each.values] for each in case.classes]
    return digest_of_value([case.prompt, *(digest_of_file(path) for path in files), *classes])
