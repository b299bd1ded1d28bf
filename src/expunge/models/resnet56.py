"""ResNet-56 for CIFAR, three stages, shortcuts without weights (option A)."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._residual import CifarResnetConfig, ResNet, basic_zero_padded


class Resnet56Config(CifarResnetConfig):
    """Options of resnet56."""


@architecture(reference="He et al. 2016, arXiv:1512.03385", aliases=("resnet56s",))
def build(config: Resnet56Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-56 for CIFAR, three stages, shortcuts without weights (option A)."""
    return ResNet(basic_zero_padded, config, (9, 9, 9), shape, num_classes, kaiming_head=True)
