"""LeNet-5 with ReLU and max pooling."""

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape, image_shape


@architecture(reference="LeCun et al. 1998, doi:10.1109/5.726791", aliases=("lenet5",))
def build(shape: Shape, num_classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max pooling: two 5x5 convolutions, three linear layers.

    The first convolution keeps the size of the image, so that the second leaves 5 x 5 of 28 x 28, as in the paper;
    there it is the images that are padded. The last layer gives logits. 61,706 weights for one channel of 28 x 28 and
    ten classes; images need 12 pixels on each side.
    """
    channels, height, width = image_shape(shape, least=12)
    left = ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(16 * left, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, num_classes),
    )
