"""The decoder of a U-Net around an encoder that has learned from other images.

Knows an encoder by its feature maps alone. Legend: B batch, C channels, K classes, S side of the square in px; the
stride of a map is S over its side.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = {16: 128, 8: 64, 4: 48, 2: 32}  # channels of the decoder by the stride of its level; no layer is finer


class Level(nn.Module):
    """A level of the decoder: the coarser map, enlarged, beside the encoder's own; two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer for width in (inputs, outputs) for layer in _layers(width, outputs)))

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return the level's map, (B, C, *size)."""
        x = F.interpolate(x, size, mode="nearest")
        found: Tensor = self.layers(x if skip is None else torch.cat([x, skip], dim=1))
        return found


def _layers(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class EncoderDecoder(nn.Module):
    """A pretrained encoder and the decoder of a U-Net from random weights, which ends at half of the side.

    Args:
        encoder: Its `maps` turns images into feature maps, finest first.
        channels: Of the maps.
        strides: Of the maps, powers of two; a level of the decoder has the map of its stride, if any.
        classes: K.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597).
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.index_of = {stride: index for index, stride in enumerate(strides)}  # the last map of a stride
        self.strides = [2**power for power in range(int(math.log2(strides[-1])) - 1, 0, -1)]
        levels, width = [], channels[-1]
        for stride in self.strides:
            skip = channels[self.index_of[stride]] if stride in self.index_of else 0
            levels.append(Level(width + skip, WIDTHS.get(stride, max(WIDTHS.values()))))
            width = WIDTHS.get(stride, max(WIDTHS.values()))
        self.levels = nn.ModuleList(levels)
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: (B, 3, S, S) in [0, 1] => (B, K, S, S)."""
        maps = self.encoder.maps(images)  # type: ignore[operator] # of a module that has it
        x, (height, width) = maps[-1], images.shape[2:]
        for stride, level in zip(self.strides, self.levels, strict=True):
            skip = maps[self.index_of[stride]] if stride in self.index_of else None
            size = (-(-height // stride), -(-width // stride)) if skip is None else skip.shape[2:]
            x = level(x, skip, size)
        return F.interpolate(self.head(x), (height, width), mode="bilinear", align_corners=False)
