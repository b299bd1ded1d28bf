"""VGG-16 with batch normalisation, biases in its convolutions and one linear layer, for small images."""

from dataclasses import dataclass

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, positive
from expunge.models._vgg import VGG


@dataclass(frozen=True)
class Vgg16BnLthConfig:
    """Options of vgg16_bn_lth."""

    width: int = 64
    """Channels of the first stage; the last ones have eight times as many."""
    final_pooling: bool = True
    """Whether the last of the five stages halves the image too. A checkpoint does not say which was meant."""

    def __post_init__(self) -> None:
        """Check the range."""
        positive(width=self.width)


@architecture(reference="Simonyan and Zisserman 2015, arXiv:1409.1556")
def build(config: Vgg16BnLthConfig, shape: Shape, num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation, biases in its convolutions and one linear layer, for small images."""
    head = (num_classes,)
    return VGG(config.width, shape, bias=True, final_pooling=config.final_pooling, grid=1, head=head)
