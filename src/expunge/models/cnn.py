"""A small convolutional network without normalisation, for digits."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.registry import architecture
from expunge.models._check import Shape, image_shape


@dataclass(frozen=True)
class CnnConfig:
    """Options of the network."""

    dropout: float = 0.0
    """Chance that a channel of the second convolution, or a unit of the first linear layer, is dropped in training.
    Published with 0.5 in the code, but trained in evaluation mode, where nothing is dropped."""

    def __post_init__(self) -> None:
        checks.between(0, 0.999, dropout=self.dropout)


@architecture(reference="Qiao et al. 2024, arXiv:2404.01712", aliases=("cnn_mnist",))
def build(config: CnnConfig, shape: Shape, num_classes: int) -> nn.Module:
    """Two 5x5 convolutions with max pooling, then ReLU; two linear layers; no normalisation.

    The last layer gives logits. 21,840 weights for one channel of 28 x 28 and ten classes; images need 16 pixels on
    each side.
    """
    channels, height, width = image_shape(shape, least=16)
    left = (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    return nn.Sequential(
        *(nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(10, 20, 5), nn.Dropout2d(config.dropout), nn.MaxPool2d(2), nn.ReLU()),
        nn.Flatten(),
        *(nn.Linear(20 * left, 50), nn.ReLU(), nn.Dropout(config.dropout)),
        nn.Linear(50, num_classes),
    )
