"""EfficientNet-lite0: an encoder that has learned from ImageNet, with the feature maps of every stage.

The network of Tan and Le 2019 (arXiv:1905.11946) without squeeze-excitation and with ReLU6, of fixed stem and head: the
"lite" variant, for which neither transformers nor diffusers has a class. Its weights come with the package.

Knows images as tensors alone: (B, 3, H, W) in [0, 1] of any size. Legend: C channels; a stage halves the side.
"""

from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffaug.artifacts import digest_of_file

NAME = "efficientnet-lite0"
WEIGHTS = Path(__file__).parents[1] / "weights" / NAME / "model.safetensors"
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


class SameConv(nn.Conv2d):
    """A convolution without bias that is padded as in TensorFlow: an odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of ceil(side / stride)."""
        if self.stride[0] == 1:
            return super().forward(x)
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
        (top, bottom), (left, right) = ((one // 2, one - one // 2) for one in missing)
        return super().forward(F.pad(x, (left, right, top, bottom)))


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


class Encoder(nn.Module):
    """EfficientNet-lite0; untrained until weights are loaded."""

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
        self.head = nn.Sequential(SameConv(inputs, HEAD, 1), _norm(HEAD), nn.ReLU6())
        self.classifier = nn.Linear(HEAD, CLASSES)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, finest first: (B, C, ceil(H / stride), ceil(W / stride)) of CHANNELS and STRIDES."""
        x, found = self.stem((images - MEAN) / DEVIATION), []
        for stage, (*_, is_handed_out) in zip(self.stages, STAGES, strict=True):
            x = stage(x)
            if is_handed_out:
                found.append(x)
        return found

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
    network = Encoder()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
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
