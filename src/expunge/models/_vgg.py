"""VGG-16 with batch normalisation (Simonyan and Zisserman 2015, arXiv:1409.1556, configuration D)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core import checks
from expunge.models._check import Shape, image_shape

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Width as a multiple of the first stage's, and number of convolutions."""


@dataclass(frozen=True)
class VggConfig:
    """Options of every VGG-16."""

    width: int = 64
    """Channels of the first stage; the last ones have eight times as many."""
    final_pooling: bool = False
    """Whether the last of the five stages halves the image too. The networks of the original repositories do not pool
    there; a checkpoint does not record it."""

    def __post_init__(self) -> None:
        checks.at_least(1, width=self.width)


class VGG(nn.Module):
    """``features``: stages of 3x3 convolutions, between them half the image; an average over a grid; ``classifier``."""

    def __init__(
        self, width: int, shape: Shape, *, bias: bool, final_pooling: bool, grid: int, head: tuple[int, ...]
    ) -> None:
        """``grid`` is the size of the average-pooled features, ``head`` the sizes of the linear layers.

        Odd sizes of images are rounded up when they are halved.
        """
        super().__init__()
        channels, *_ = image_shape(shape, least=8)
        layers: list[nn.Module] = []
        for stage, (multiple, depth) in enumerate(STAGES):
            for _ in range(depth):
                wide = multiple * width
                layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=bias), nn.BatchNorm2d(wide), nn.ReLU()]
                channels = wide
            if final_pooling or stage + 1 < len(STAGES):
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.grid = grid
        linear: list[nn.Module] = []
        for before, after in pairwise((channels * grid * grid, *head)):
            linear += [nn.ReLU()] * bool(linear) + [nn.Linear(before, after)]
        self.classifier = nn.Sequential(*linear) if len(linear) > 1 else linear[0]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal convolutions (fan out), linear weights from Normal(0, 0.01), biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(self.features(inputs), self.grid), 1))
