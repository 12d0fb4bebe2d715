"""Real and synthetic cases as torch data sets, and a sampler that mixes them in one ratio.

real = CaseDataset(diffaug.read_dataset("data/mine").annotated("train"), transform)
sampler = mix(real, SyntheticDataset("synthetic/mine", transform), ratio=2)
loader = DataLoader(sampler.dataset, batch_size=8, sampler=sampler)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Sampler

from diffaug.artifacts import PathLike
from diffaug.data.case import Case, check_mask_size
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_manifest
from diffaug.data.reviews import rejected_pictures
from diffaug.errors import ConfigError, DataError

Item = Mapping[str, Any]
Transform = Callable[[dict[str, Any]], Any]


class CaseDataset(Dataset[Any]):
    """Annotated cases as a torch data set.

    An item is a dictionary: `image`, float (3, H, W) in [0, 1]; `label`, float (K, H, W) of 0 and 1, a mask for each
    class; `id`; and `synthetic`, whether it is painted. MONAI's dictionary transforms take it as it is.

    Args:
        cases: Annotated cases, such as those of a split.
        transform: Takes each item and returns what is trained on; None returns the item.
        partly_known: Take cases whose label is known in part, too. Then each item has `known`, float (1, H, W), 1 where
            the label is known; a loss must leave out the rest.

    Raises:
        DataError: There is no case, or one has no mask, or a label that is known in part.

    Example:
        >>> real = diffaug.CaseDataset(diffaug.read_dataset("data/mine").annotated("train"))
        >>> len(real), real[0]["image"].shape, real[0]["label"].shape, real[0]["id"]
        (8, torch.Size([3, 128, 128]), torch.Size([1, 128, 128]), 'train-0')
    """

    synthetic = False

    def __init__(
        self, cases: Sequence[Case], transform: Transform | None = None, *, partly_known: bool = False
    ) -> None:
        partly = next((case.id for case in cases if case.known and not partly_known), "")
        if partly:
            raise DataError(
                f"a label of every pixel is needed: that of case {partly} is known in part; leave such cases out, or "
                "pass partly_known=True and count only the pixels where `known` is 1"
            )
        self.partly_known = partly_known
        bare = next((case.id for case in cases if case.mask is None), "")
        if bare or not cases:
            what = f"case {bare} has none" if bare else "there is no case"
            raise DataError(f"a data set to train on has cases with masks: {what}; pass dataset.annotated('train')")
        self.cases, self.transform = tuple(cases), transform

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Any:
        """Return an item, as the transform made it.

        Raises:
            DataError: A file cannot be read, or a mask has another size than its image.
        """
        case = self.cases[index]
        image, masks = case.read_image(), case.read_masks()
        check_mask_size(case, masks.shape[1:], image.shape[:2])
        item = {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255,
            "label": torch.from_numpy(masks).float(),
            "id": case.id,
            "synthetic": self.synthetic,
        }
        if self.partly_known:
            item["known"] = torch.from_numpy(case.read_known()[None]).float()
        return item if self.transform is None else self.transform(item)


class SyntheticDataset(CaseDataset):
    """The kept cases of a finished synthetic set as a torch data set, with the items of `CaseDataset`.

    Pictures that a review of the set rejected are left out.

    Args:
        path: The folder that `diffaug generate` or `diffaug select` made.
        transform: Takes each item and returns what is trained on; None returns the item.
        negatives: Whether cases that are painted lesion-free are items, too.
        partly_known: Whether cases whose label is known in part are items, too; see `CaseDataset`.

    Raises:
        DataError: The set is not finished, or nothing in it is kept.

    Example:
        >>> diffaug.SyntheticDataset("synthetic/mine")[0]["synthetic"]  # doctest: +SKIP
        True
    """

    synthetic = True

    def __init__(
        self,
        path: PathLike,
        transform: Transform | None = None,
        *,
        negatives: bool = True,
        partly_known: bool = False,
    ) -> None:
        found = read_manifest(path)
        left_out = {row.id for row in found if row.request.negative and not negatives} | rejected_pictures(found)
        cases = [case for case in read_dataset(Path(path)) if case.id not in left_out]
        cases = [case for case in cases if partly_known or not case.known]
        super().__init__(cases, transform, partly_known=partly_known)


class Mix(Sampler[int]):
    """The order of an epoch of real and synthetic cases: every real one once, and `ratio` times as many synthetic ones.

    All synthetic cases are drawn before one comes again, over epochs, too. An epoch depends on the seed and on its
    number alone; iterating begins the next one.

    Attributes:
        dataset: Real cases, then synthetic ones, as the loader's data set.
        epoch: The number of the next epoch; set it to repeat one.
    """

    def __init__(self, real: Dataset[Any], synthetic: Dataset[Any], ratio: float, seed: int = 0) -> None:
        self.sizes = tuple(len(each) for each in (real, synthetic))  # type: ignore[arg-type]
        if not 0 <= ratio < 1e6 or not all(self.sizes):
            raise ConfigError(
                "a mixture has real and synthetic cases in a ratio of 0 or more: here are "
                f"{self.sizes[0]} and {self.sizes[1]}, ratio {ratio}; use, for example, ratio=2"
            )
        self.dataset: ConcatDataset[Any] = ConcatDataset([real, synthetic])
        self.drawn, self.seed, self.epoch = round(ratio * self.sizes[0]), seed, 0

    def __len__(self) -> int:
        return self.sizes[0] + self.drawn

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.drawn
        self.epoch += 1
        real, synthetic = self.sizes
        places = np.arange(first, first + self.drawn)
        rounds = {turn: self._permutation(turn, synthetic) for turn in np.unique(places // synthetic).tolist()}
        painted = [real + int(rounds[int(place // synthetic)][place % synthetic]) for place in places]
        both = np.array([*range(real), *painted], dtype=np.int64)
        order = np.random.default_rng([self.seed, 1, self.epoch]).permutation(len(both))
        return iter(both[order].tolist())

    def _permutation(self, turn: int, count: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, turn]).permutation(count)


def mix(real: Dataset[Any], synthetic: Dataset[Any], ratio: float = 2.0, *, seed: int = 0) -> Mix:
    """Return a sampler that keeps the ratio of synthetic to real cases in every epoch.

    Args:
        real: Any torch data set with a length.
        synthetic: The same, of synthetic cases.
        ratio: Synthetic cases for each real one.
        seed: Chooses the order.

    Raises:
        ConfigError: A data set is empty, or the ratio is negative.

    Example:
        >>> sampler = diffaug.mix(list("abcd"), list("ABCDEFGHIJ"), ratio=1.5)
        >>> len(sampler), sorted(sampler.dataset[index] for index in sampler)[-4:]
        (10, ['a', 'b', 'c', 'd'])
    """
    return Mix(real, synthetic, ratio, seed)
