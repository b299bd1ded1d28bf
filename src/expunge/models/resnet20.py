"""ResNet-20 for CIFAR, three stages, shortcuts without weights (option A)."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._residual import CifarResnetConfig, ResNet, basic_zero_padded


class Resnet20Config(CifarResnetConfig):
    """Options of resnet20."""


@architecture(reference="He et al. 2016, arXiv:1512.03385", aliases=("resnet20s",))
def build(config: Resnet20Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-20 for CIFAR, three stages, shortcuts without weights (option A)."""
    return ResNet(basic_zero_padded, config, (3, 3, 3), shape, num_classes, kaiming_head=True)
