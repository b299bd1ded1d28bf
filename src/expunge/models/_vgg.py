"""VGG-16 with batch normalisation (Simonyan and Zisserman 2015, arXiv:1409.1556, configuration D)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.models._check import Shape, image_shape, positive

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Width as a multiple of the first stage's, and number of convolutions."""


@dataclass(frozen=True)
class VggConfig:
    """Options of every VGG-16."""

    width: int = 64
    """Channels of the first stage; the last ones have eight times as many."""
    final_pooling: bool = True
    """Whether the last of the five stages halves the image too. A checkpoint does not say which was meant."""

    def __post_init__(self) -> None:
        positive(width=self.width)


class VGG(nn.Module):
    """``features``: stages of 3x3 convolutions that halve the image; an average over a grid; ``classifier``."""

    def __init__(
        self, width: int, shape: Shape, *, bias: bool, final_pooling: bool, grid: int, head: tuple[int, ...]
    ) -> None:
        """Build it.

        Args:
            width: Channels of the first stage.
            shape: (channels, height, width) of the images; odd sizes are halved upwards.
            bias: Whether the convolutions have one.
            final_pooling: Whether the last stage halves the image too.
            grid: The features are averaged over grid x grid parts of the image.
            head: The sizes of the linear layers, the last being the number of classes.
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
        self.classifier = _classifier(channels * grid * grid, head)
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


def _classifier(inputs: int, sizes: tuple[int, ...]) -> nn.Module:
    """Linear layers with ReLU between them; a single one stands for itself."""
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *sizes), sizes, strict=False):
        layers += [nn.ReLU()] * bool(layers) + [nn.Linear(before, after)]
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]
