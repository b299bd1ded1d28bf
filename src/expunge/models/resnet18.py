"""ResNet-18 with a 3x3 stem for small images."""

from dataclasses import dataclass

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, positive
from expunge.models._residual import ResNet, basic


@dataclass(frozen=True)
class Resnet18Config:
    """Options of resnet18."""

    width: int = 64
    """Channels of the first stage; each further stage has twice as many."""

    def __post_init__(self) -> None:
        """Check the range."""
        positive(width=self.width)


@architecture(reference="He et al. 2016, arXiv:1512.03385")
def build(config: Resnet18Config, shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-18 with a 3x3 stem for small images."""
    widths = [config.width * 2**stage for stage in range(4)]
    return ResNet(basic, widths, (2, 2, 2, 2), shape, num_classes)
