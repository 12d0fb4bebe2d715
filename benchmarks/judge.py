"""An independent judge of painted lesions: a pixel-space segmentation network.

The judge is trained on windows of real cases that no painter has seen; it never sees a painted one. Knows pixels only.
Legend: N windows, S = 128 px window side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffaug.artifacts import atomic_path, digest_of_bytes, make_folder
from diffaug.config import UNET, StudyConfig
from diffaug.data.case import Case
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import lesion_masks
from diffaug.painting.window import Window, window_around, window_image, window_mask
from diffaug.study.batches import Batch, take
from diffaug.study.batches import Pixels as Pool
from diffaug.study.network import build_network, train
from diffaug.training.windows import random_square

SIDE = 128  # px of a window
CONTEXT = 1.7  # window side over the lesion's longer side, in every measurement
PER_CASE = 10  # windows of a case that train the judge
NETWORK = StudyConfig(  # of every judge, so that their numbers can be compared over the years
    network=UNET, size=SIDE, widths=(48, 64, 96, 128, 192), batch_size=16, learning_rate=1e-3, ema=0.0, augmentation=1.0
)


def window_of(mask: Mask) -> Window:
    """Return the window in which a lesion is measured."""
    return window_around(mask, CONTEXT)


def crop(image: Pixels, mask: Mask, window: Window) -> tuple[Tensor, Tensor]:
    """Return window and mask: pixels => (1, 3, S, S) in [0, 1], (1, 1, S, S) covered share."""
    return (window_image(image, window, SIDE) + 1) / 2, window_mask(mask, window, SIDE)


def training_windows(cases: Sequence[Case], per_case: int, seed: int = 0) -> Pool:
    """Return random windows of annotated cases, half of them around a lesion, off its centre."""
    images, masks, ids = [], [], []
    for number, case in enumerate(cases):
        image, mask = case.read_image(), case.read_mask()
        lesions = lesion_masks(mask)
        for each in range(per_case):
            rng = np.random.default_rng((seed, number, each))
            window = random_square(mask.shape, rng)
            if each % 2 and lesions:
                shift = rng.uniform(-1, 1, 2)
                lesion = lesions[int(rng.integers(len(lesions)))]
                window = window_around(lesion, float(rng.uniform(1.2, 3.0)), (float(shift[0]), float(shift[1])))
            pixels, label = crop(image, mask, window)
            images.append((pixels * 255).round().to(torch.uint8))
            masks.append((label > 0.5).to(torch.uint8))
            ids.append(f"{case.id}/{each}")
    return Pool(torch.cat(images), torch.cat(masks), tuple(ids))


class _Batches:
    """Random rows of a pool, each batch a pure function of its iteration."""

    taught_rows = 0  # every row has a label

    def __init__(self, pool: Pool, size: int, seed: int = 0) -> None:
        self.pool, self.size, self.seed = pool, size, seed

    def draw(self, iteration: int) -> Batch:
        rng = np.random.default_rng((self.seed, iteration))
        return take(self.pool, torch.from_numpy(rng.integers(0, len(self.pool.ids), self.size)))


class Judge:
    """A segmentation network on windows.

    Args:
        network: As `study.segmenter.build_network` makes it, trained.
        cases: Number of cases it was trained on.
    """

    def __init__(self, network: nn.Module, cases: int) -> None:
        self.network: Any = network.eval().requires_grad_(False)
        self.cases = cases

    @staticmethod
    def trained(cases: Sequence[Case], folder: Path, iterations: int) -> "Judge":
        """Train a judge, or load the one in `folder`."""
        path, config = folder / "judge.safetensors", NETWORK.model_copy(update={"iterations": iterations})
        network = build_network(config, 0)
        if path.is_file():
            network.load_state_dict(load_file(path))
        else:
            batches: Any = _Batches(training_windows(cases, PER_CASE), config.batch_size)
            train(network, batches, config, name="judge", files=make_folder(folder) / "judge")
            with atomic_path(path) as partial:
                save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
        return Judge(network, len(cases))

    def digest(self) -> str:
        """Return a digest of the weights, which names the feature space."""
        data = b"".join(value.numpy().tobytes() for value in self.network.state_dict().values())
        return digest_of_bytes(data)[:12]

    @torch.no_grad()
    def probability(self, images: Tensor) -> Tensor:
        """Return lesion probabilities: (N, 3, S, S) in [0, 1] => (N, 1, S, S)."""
        return torch.cat([self.network(part).sigmoid() for part in torch.split(images, 32)])


def iou_inside(probability: Tensor, mask: Tensor, region: Tensor) -> list[float]:
    """Return the IoU of what is found with a mask, within a region, of each row; all (N, 1, S, S)."""
    found, wanted = (probability > 0.5) & (region > 0.5), mask > 0.5
    union = (found | wanted).sum((1, 2, 3)).clamp_min(1)
    return ((found & wanted).sum((1, 2, 3)) / union).tolist()
