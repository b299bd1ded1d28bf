"""ResNet-56 for CIFAR, three stages, shortcuts without weights (option A)."""

from dataclasses import dataclass

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, positive
from expunge.models._residual import ResNet, basic_zero_padded


@dataclass(frozen=True)
class Resnet56Config:
    """Options of resnet56."""

    width: int = 16
    """Channels of the first stage; each further stage has twice as many."""

    def __post_init__(self) -> None:
        """Check the range."""
        positive(width=self.width)


@architecture(reference="He et al. 2016, arXiv:1512.03385")
def build(config: Resnet56Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-56 for CIFAR, three stages, shortcuts without weights (option A)."""
    widths = [config.width * 2**stage for stage in range(3)]
    return ResNet(basic_zero_padded, widths, (9, 9, 9), shape, num_classes, kaiming_head=True)
