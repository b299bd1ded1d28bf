"""Wide ResNet-50-2, whose inner convolutions are twice as wide as ResNet-50's."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._residual import ResNet, ResnetConfig, wide_bottleneck


class WideResnet50x2Config(ResnetConfig):
    """Options of wide_resnet50_2."""


@architecture(reference="Zagoruyko and Komodakis 2016, arXiv:1605.07146")
def build(config: WideResnet50x2Config, shape: Shape, num_classes: int) -> nn.Module:
    """Wide ResNet-50-2, whose inner convolutions are twice as wide as ResNet-50's."""
    return ResNet(wide_bottleneck, config, (3, 4, 6, 3), shape, num_classes, expansion=4)
