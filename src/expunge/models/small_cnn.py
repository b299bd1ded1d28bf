"""A small convolutional network for images of 8 to 64 pixels."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.registry import architecture
from expunge.models._check import Shape, image_shape


@dataclass(frozen=True)
class SmallCnnConfig:
    """Options of the small network."""

    width: int = 16
    """Channels of the first block; each further block has twice as many."""
    blocks: int = 3
    """Convolution, batch normalisation, ReLU; every block but the first halves the image."""

    def __post_init__(self) -> None:
        checks.at_least(1, width=self.width, blocks=self.blocks)


@architecture()
def build(config: SmallCnnConfig, shape: Shape, num_classes: int) -> nn.Module:
    """Blocks of 3x3 convolution, batch normalisation and ReLU, an average over the image, one linear layer."""
    channels, *_ = image_shape(shape, least=2 ** (config.blocks - 1))
    layers: list[nn.Module] = []
    for block in range(config.blocks):
        wide = config.width * 2**block
        stride = 1 if block == 0 else 2
        layers += [nn.Conv2d(channels, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
