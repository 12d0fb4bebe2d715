"""EfficientNet-lite0: an encoder that has learned from ImageNet, with the feature maps of every stage.

The network of Tan and Le 2019 (arXiv:1905.11946) without squeeze-excitation and with ReLU6, of fixed stem and head: the
"lite" variant, for which neither transformers nor diffusers has a class. Its weights come with the package.

Knows images as tensors alone: (B, 3, H, W) in [0, 1] of any size. Legend: C channels; a stage halves the side.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffaug.artifacts import digest_of_file
from diffaug.compute.seeds import seeded

NAME = "efficientnet-lite0"
WEIGHTS = Path(__file__).parent / "weights" / NAME / "model.safetensors"
STRIDES = (2, 4, 8, 16, 32)  # of the five feature maps
CHANNELS = (16, 24, 40, 112, 320)
HEAD = 1280  # channels of the pooled features
CLASSES = 1000  # of ImageNet
# Blocks, kernel, stride of the first, channels and expansion; the map after a line with True is handed out.
STAGES = (
    (1, 3, 1, 16, 1, True),
    (2, 3, 2, 24, 6, True),
    (2, 5, 2, 40, 6, True),
    (3, 3, 2, 80, 6, False),
    (3, 5, 1, 112, 6, True),
    (4, 5, 2, 192, 6, False),
    (1, 3, 1, 320, 6, True),
)
MEAN, DEVIATION = 127 / 255, 128 / 255  # what an image was standardised by in training
_norm = partial(nn.BatchNorm2d, eps=1e-3)
Net = TypeVar("Net", bound=nn.Module)


class Depthwise(torch.autograd.Function):
    """A convolution of each channel alone whose backward pass on a CPU takes a tenth of torch's time.

    Torch needs 50 ms for the gradients of 1152 channels of 5 x 5 cells, 8 images a batch, and half of a training's time
    for all of them. Here the gradient of the kernel is a sum of products at each of its k x k places, and that of the
    input is a convolution of the spread output gradient with the flipped kernel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Return the map: (B, C, H, W), padded, and (C, 1, k, k) => (B, C, (H - k) // stride + 1, ...)."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of input and kernel."""
        x, weight = ctx.saved_tensors
        step, k, (h, w), (H, W) = ctx.stride, weight.shape[-1], gradient.shape[2:], x.shape[2:]
        rows, columns = step * (h - 1) + 1, step * (w - 1) + 1
        x = x.to(gradient.dtype)  # of an autocast pass
        products = (
            (x[:, :, i : i + rows : step, j : j + columns : step] * gradient).sum((0, 2, 3))
            for i in range(k)
            for j in range(k)
        )
        own = torch.stack(list(products), dim=1).view_as(weight).to(weight.dtype)
        spread = gradient.new_zeros(len(x), H + k - 1, W + k - 1, x.shape[1]).permute(0, 3, 1, 2)
        spread[:, :, k - 1 : k - 1 + rows : step, k - 1 : k - 1 + columns : step] = gradient
        return F.conv2d(spread, weight.flip((2, 3)).to(gradient.dtype), groups=len(weight)), own, None


class SameConv(nn.Conv2d):
    """A convolution without bias that is padded as in TensorFlow: an odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of ceil(side / stride)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        is_trained = self.groups > 1 and torch.is_grad_enabled() and x.device.type == "cpu"
        if stride == 1 and not is_trained:
            return super().forward(x)
        missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
        (top, bottom), (left, right) = ((one // 2, one - one // 2) for one in missing)
        padded = F.pad(x, (left, right, top, bottom))
        if is_trained:
            return cast(Tensor, Depthwise.apply(padded, self.weight, stride))  # type: ignore[no-untyped-call]
        return super().forward(padded)


class Block(nn.Module):
    """An inverted residual: expand, convolve each channel, project; the input is added where it has the same shape."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = nn.Sequential(SameConv(inputs, wide, 1), _norm(wide), nn.ReLU6()) if expansion > 1 else None
        self.depthwise = nn.Sequential(SameConv(wide, wide, kernel, stride, groups=wide), _norm(wide), nn.ReLU6())
        self.project = nn.Sequential(SameConv(wide, outputs, 1), _norm(outputs))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        inside = self.expand(x) if self.expand is not None else x
        found: Tensor = self.project(self.depthwise(inside))
        return x + found if self.is_residual else found


class Trunk(nn.Module):
    """The stages of EfficientNet-lite0 without what tells ImageNet's classes; untrained until weights are loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv(3, 32, 3, 2), _norm(32), nn.ReLU6())
        stages, inputs = list[nn.Sequential](), 32
        for blocks, kernel, stride, outputs, expansion, _ in STAGES:
            widths = [inputs] + [outputs] * (blocks - 1)
            strides = [stride] + [1] * (blocks - 1)
            made = [Block(w, outputs, kernel, s, expansion) for w, s in zip(widths, strides, strict=True)]
            stages, inputs = [*stages, nn.Sequential(*made)], outputs
        self.stages = nn.ModuleList(stages)

    def maps(self, images: Tensor, count: int = len(CHANNELS)) -> list[Tensor]:
        """Return the feature maps, finest first: (B, C, ceil(H / stride), ceil(W / stride)) of CHANNELS and STRIDES.

        Args:
            images: (B, 3, H, W) in [0, 1].
            count: How many of the maps; stages after the last one are not computed.
        """
        x, found = self.stem((images - MEAN) / DEVIATION), list[Tensor]()
        for stage, (*_, is_handed_out) in zip(self.stages, STAGES, strict=True):
            if len(found) == count:
                break
            x = stage(x)
            if is_handed_out:
                found.append(x)
        return found


class Encoder(Trunk):
    """EfficientNet-lite0; untrained until weights are loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(SameConv(CHANNELS[-1], HEAD, 1), _norm(HEAD), nn.ReLU6())
        self.classifier = nn.Linear(HEAD, CLASSES)

    def pooled(self, last: Tensor) -> Tensor:
        """Return the features that ImageNet's classes are told by, from the coarsest map: (B, HEAD)."""
        features: Tensor = self.head(last).mean((2, 3))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ImageNet's classes, (B, CLASSES)."""
        logits: Tensor = self.classifier(self.pooled(self.maps(images)[-1]))
        return logits


def load_encoder() -> Encoder:
    """Return a new encoder with the weights that come with the package, in float32, ready to be used or trained on."""
    with seeded(0):  # the weights that torch draws are overwritten; its generator stays as it was
        return shipped(Encoder())


def load_trunk() -> Trunk:
    """Return the stages of a new encoder with the weights that come with the package, to train a network on."""
    return shipped(Trunk())


def shipped(network: Net) -> Net:
    """Load the weights that come with the package into a network of all parts or of some, in float32."""
    values, wanted = load_file(WEIGHTS), network.state_dict()
    network.load_state_dict({name: values[name].to(wanted[name].dtype) for name in wanted})
    return network.eval()


@cache
def encoder_digest() -> str:
    """Return the digest of the weights that come with the package, which names the feature space."""
    return digest_of_file(WEIGHTS)


@cache
def fixed_encoder() -> Encoder:
    """Return one encoder for all that only look through it; it is never trained."""
    return load_encoder().requires_grad_(False)


@torch.no_grad()
def classify(images: Tensor) -> Tensor:
    """Return the probabilities of ImageNet's classes, (B, CLASSES), of images in [0, 1]."""
    logits: Tensor = fixed_encoder()(images)
    return logits.softmax(1)
