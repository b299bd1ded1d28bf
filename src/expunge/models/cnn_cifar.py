"""A convolutional network without normalisation, for CIFAR."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, image_shape


@architecture(reference="Qiao et al. 2024, arXiv:2404.01712")
def build(shape: Shape, num_classes: int) -> nn.Module:
    """Two 5x5 convolutions with max pooling and three linear layers, without normalisation.

    576,778 weights for three channels of 32 x 32 and ten classes; images need 20 pixels on each side.
    """
    channels, *sizes = image_shape(shape, least=20)
    height, width = (((size - 4 - 1) // 2 - 4 - 1) // 2 for size in sizes)
    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 5), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 64, 5), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
        *(nn.Linear(64 * height * width, 384), nn.ReLU()),
        *(nn.Linear(384, 192), nn.ReLU()),
        nn.Linear(192, num_classes),
    )
