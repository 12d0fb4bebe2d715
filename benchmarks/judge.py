"""An independent judge of painted lesions: a pixel-space segmentation network, its features, and tests of likeness.

The judge is trained on windows of real cases that no painter has seen; it never sees a painted one. Knows pixels only.
Legend: N windows, S = 128 px window side, D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffaug.artifacts import atomic_path, digest_of_bytes, make_folder
from diffaug.config import StudyConfig
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
LEVELS = 4  # of the encoder whose features are used
NETWORK = StudyConfig(  # of every judge, so that their numbers can be compared over the years
    size=SIDE, widths=(48, 64, 96, 128, 192), batch_size=16, learning_rate=1e-3, ema=0.0, augmentation=1.0
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

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's feature maps, finest first."""
        shuffle, unet = self.network[0], self.network[1]
        found = [unet.conv_0(shuffle(images))]
        for level in range(1, LEVELS):
            found.append(getattr(unet, f"down_{level}")(found[-1]))
        return found

    @torch.no_grad()
    def features(self, images: Tensor, masks: Tensor) -> NDArray[np.float64]:
        """Return means and deviations of the feature maps over the lesion: (N, 3, S, S), (N, 1, S, S) => (N, D)."""
        rows = []
        for image, mask in zip(torch.split(images, 32), torch.split(masks, 32), strict=True):
            rows.append(torch.cat([pooled(found, mask) for found in self.maps(image)], dim=1))
        return torch.cat(rows).double().numpy()


def pooled(found: Tensor, mask: Tensor) -> Tensor:
    """Return mean and standard deviation of each channel where the mask is: (N, C, h, w), (N, 1, S, S) => (N, 2 C)."""
    weight = F.adaptive_avg_pool2d(mask, found.shape[-2:]) + 1e-6
    weight = weight / weight.sum((2, 3), keepdim=True)
    mean = (found * weight).sum((2, 3))
    power = ((found - mean[:, :, None, None]) ** 2 * weight).sum((2, 3))
    return torch.cat([mean, power.clamp_min(1e-12).sqrt()], dim=1)


def iou_inside(probability: Tensor, mask: Tensor, region: Tensor) -> list[float]:
    """Return the IoU of what is found with a mask, within a region, of each row; all (N, 1, S, S)."""
    found, wanted = (probability > 0.5) & (region > 0.5), mask > 0.5
    union = (found | wanted).sum((1, 2, 3)).clamp_min(1)
    return ((found & wanted).sum((1, 2, 3)) / union).tolist()


def kid(a: NDArray[np.float64], b: NDArray[np.float64], draws: int = 300) -> dict[str, float]:
    """Return the kernel distance of two feature sets, (N, D) and (M, D), with a 95 % bootstrap interval.

    The unbiased estimate of the squared maximum mean discrepancy with k(x, y) = (x y / D + 1)^3, times 1000; features
    are standardised by the second set. Resampled rows that are the same row make no pair.

    Source: Binkowski et al. 2018 (arXiv:1801.01401), Sec. 4.
    """
    mean, deviation = b.mean(0), b.std(0) + 1e-6
    a, b = (a - mean) / deviation, (b - mean) / deviation
    kernels = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]

    def distance(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> float:
        within = []
        for kernel, index in ((kernels[0], rows), (kernels[1], columns)):
            apart = index[:, None] != index[None, :]
            within.append(float(kernel[np.ix_(index, index)][apart].mean()))
        return 1000 * (within[0] + within[1] - 2 * float(kernels[2][np.ix_(rows, columns)].mean()))

    rng = np.random.default_rng(0)
    resampled = [distance(rng.integers(0, len(a), len(a)), rng.integers(0, len(b), len(b))) for _ in range(draws)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    value = distance(np.arange(len(a)), np.arange(len(b)))
    return {"value": round(value, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def auc_of_classifier(judge: Judge, a: Tensor, b: Tensor, groups: Sequence[str], iterations: int) -> float:
    """Return how well a trained classifier tells windows `a` from `b`: area under the ROC curve on the held-out half.

    The judge's encoder, trained on with a linear head; turned and mirrored windows. Rows of one group stay in one half.

    Args:
        judge: Where the encoder starts; it is not changed.
        a: Windows, (N, 3, S, S) in [0, 1].
        b: Windows, (M, 3, S, S).
        groups: Group of each row of a, then of b.
        iterations: Of the training, batches of 16 + 16.
    """
    from scipy.stats import mannwhitneyu

    names = sorted(set(groups))
    rng = np.random.default_rng(0)
    first = set(rng.permutation(names)[: len(names) // 2].tolist())
    inside = np.array([group in first for group in groups])
    seen = [a[inside[: len(a)]], b[inside[len(a) :]]]
    fresh = [a[~inside[: len(a)]], b[~inside[len(a) :]]]

    copy = Judge(build_network(NETWORK, 0), 0)
    copy.network.load_state_dict(judge.network.state_dict())
    whole = torch.ones(1, 1, SIDE, SIDE)

    def pool(images: Tensor) -> Tensor:
        return torch.cat([pooled(m, whole.expand(len(images), -1, -1, -1)) for m in copy.maps(images)], dim=1)

    torch.manual_seed(0)
    copy.network.requires_grad_(True).train()
    head = nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.LazyLinear(1))
    head(pool(torch.cat([seen[0][:2], seen[1][:2]])))
    optimiser = torch.optim.AdamW([*copy.network.parameters(), *head.parameters()], lr=5e-4, weight_decay=0.05)
    for iteration in range(iterations):
        for group in optimiser.param_groups:
            group["lr"] = 5e-4 * min(1.0, (iteration + 1) / 10) * (1 - iteration / iterations)
        batch = [part[torch.randint(0, len(part), (16,))] for part in seen]
        images = torch.rot90(torch.cat(batch), int(torch.randint(0, 4, ())), (2, 3))
        images = images.flip(3) if torch.rand(()) < 0.5 else images
        wanted = torch.cat([torch.zeros(16), torch.ones(16)])
        loss = F.binary_cross_entropy_with_logits(head(pool(images))[:, 0], wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    copy.network.eval()
    head.eval()
    with torch.no_grad():
        scores = [torch.cat([head(pool(part))[:, 0] for part in torch.split(half, 32)]).numpy() for half in fresh]
    return float(mannwhitneyu(scores[1], scores[0]).statistic / (len(scores[0]) * len(scores[1])))
