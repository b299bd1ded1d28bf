"""ResNet-18 with a 3x3 stem for small images, or that of ImageNet."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._residual import ResNet, ResnetConfig, basic


class Resnet18Config(ResnetConfig):
    """Options of resnet18."""


@architecture(reference="He et al. 2016, arXiv:1512.03385")
def build(config: Resnet18Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-18 with a 3x3 stem for small images, or that of ImageNet."""
    return ResNet(basic, config, (2, 2, 2, 2), shape, num_classes)
