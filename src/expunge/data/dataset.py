"""What a data source gives: training and test images with what a model needs to know of them."""

from dataclasses import dataclass

from torch import Tensor

from expunge.data.image_set import ImageSet
from expunge.errors import RequestError


@dataclass(frozen=True)
class Dataset:
    """Training and test images of one source.

    ``mean`` and ``std`` are per channel, on the scale of the batches ([0, 1] for uint8 images), for the
    model's input step. Ids of ``train`` count from 0 in the order of the source; those of ``test`` too.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what would fail later in some less readable way."""
        for name, images in (("training", self.train), ("test", self.test)):
            if not len(images):
                raise RequestError(f"the {name} set is empty")
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= self.num_classes:
                raise RequestError(
                    f"{name} labels must be in 0..{self.num_classes - 1} for {self.num_classes} classes, "
                    f"found {low}..{high}"
                )
        if self.train.shape != self.test.shape:
            raise RequestError(f"training images have shape {self.train.shape}, test images {self.test.shape}")

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of images (n, channels, height, width), in [0, 1] if uint8.

    The deviation of a constant channel is given as 1, so that dividing by it is safe.
    """
    scale = 255.0 if not images.is_floating_point() else 1.0
    values = images.double().transpose(0, 1).flatten(1) / scale
    std = values.std(dim=1, correction=0)
    std[std == 0] = 1.0
    return tuple(values.mean(dim=1).tolist()), tuple(std.tolist())
