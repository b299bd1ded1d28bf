"""VGG-16 with batch normalisation, biases in its convolutions and one linear layer, for small images."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._vgg import VGG, VggConfig


class Vgg16BnLthConfig(VggConfig):
    """Options of vgg16_bn_lth."""


@architecture(reference="Simonyan and Zisserman 2015, arXiv:1409.1556")
def build(config: Vgg16BnLthConfig, shape: Shape, num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation, biases in its convolutions and one linear layer, for small images."""
    head = (num_classes,)
    return VGG(config.width, shape, bias=True, final_pooling=config.final_pooling, grid=1, head=head)
