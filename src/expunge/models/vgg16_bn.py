"""VGG-16 with batch normalisation and three linear layers, for small images."""

from dataclasses import dataclass

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, positive
from expunge.models._vgg import VGG


@dataclass(frozen=True)
class Vgg16BnConfig:
    """Options of vgg16_bn."""

    width: int = 64
    """Channels of the first stage; the last ones have eight times as many."""
    final_pooling: bool = True
    """Whether the last of the five stages halves the image too. A checkpoint does not say which was meant."""

    def __post_init__(self) -> None:
        """Check the range."""
        positive(width=self.width)


@architecture(reference="Simonyan and Zisserman 2015, arXiv:1409.1556")
def build(config: Vgg16BnConfig, shape: Shape, num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation and three linear layers, for small images."""
    head = (4 * config.width, 4 * config.width, num_classes)
    return VGG(config.width, shape, bias=False, final_pooling=config.final_pooling, grid=2, head=head)
