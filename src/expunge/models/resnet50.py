"""ResNet-50 with a 3x3 stem for small images, or that of ImageNet."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._residual import ResNet, ResnetConfig, bottleneck


class Resnet50Config(ResnetConfig):
    """Options of resnet50."""


@architecture(reference="He et al. 2016, arXiv:1512.03385")
def build(config: Resnet50Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-50 with a 3x3 stem for small images, or that of ImageNet."""
    return ResNet(bottleneck, config, (3, 4, 6, 3), shape, num_classes, expansion=4)
