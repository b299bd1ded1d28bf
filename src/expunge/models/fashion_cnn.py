"""Four convolutions with batch normalisation after ReLU, and dropout, for Fashion-MNIST."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, image_shape


@architecture(reference="Qiao et al. 2024, arXiv:2404.01712", aliases=("fashion_cnn4",))
def build(shape: Shape, num_classes: int) -> nn.Module:
    """Four convolutions with batch normalisation after ReLU, and dropout.

    232,554 weights for one channel of 28 x 28 and ten classes; images need 20 pixels on each side.
    """
    channels, *sizes = image_shape(shape, least=20)
    height, width = (((size - 8) // 2 - 4) // 2 for size in sizes)
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 5), nn.ReLU(), nn.BatchNorm2d(32)),
        *(nn.Conv2d(32, 32, 5), nn.ReLU(), nn.BatchNorm2d(32)),
        *(nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.BatchNorm2d(64)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.BatchNorm2d(64)),
        *(nn.MaxPool2d(2), nn.Dropout(0.25)),
        nn.Flatten(),
        *(nn.Linear(64 * height * width, 256), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(256, num_classes),
    )
