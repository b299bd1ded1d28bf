"""VGG-16 with batch normalisation and three linear layers, for small images."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape
from expunge.models._vgg import VGG, VggConfig


class Vgg16BnConfig(VggConfig):
    """Options of vgg16_bn."""


@architecture(reference="Simonyan and Zisserman 2015, arXiv:1409.1556")
def build(config: Vgg16BnConfig, shape: Shape, num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation and three linear layers, for small images."""
    head = (4 * config.width, 4 * config.width, num_classes)
    return VGG(config.width, shape, bias=False, final_pooling=config.final_pooling, grid=2, head=head)
