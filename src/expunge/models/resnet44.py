"""ResNet-44 for CIFAR, three stages, shortcuts without weights (option A)."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._residual import CifarResnetConfig, ResNet, basic_zero_padded


class Resnet44Config(CifarResnetConfig):
    """Options of resnet44."""


@architecture(reference="He et al. 2016, arXiv:1512.03385", aliases=("resnet44s",))
def build(config: Resnet44Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-44 for CIFAR, three stages, shortcuts without weights (option A)."""
    return ResNet(basic_zero_padded, config, (7, 7, 7), shape, num_classes, kaiming_head=True)
