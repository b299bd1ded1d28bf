"""The result of a data source: training and test images, class names, and input statistics."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class Dataset:
    """Training and test images of one source.

    ``mean`` and ``std`` are per channel, on the scale of the batches ([0, 1] for uint8 images), for the
    model's input normalisation. Ids of ``train`` and of ``test`` count from 0 in the order of the source, in which
    a limit, or an image that cannot be read, leaves gaps.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_names: tuple[str, ...] = ()
    """The name of each training example, such as its path, in the order of ids; empty if the source has none."""
    test_names: tuple[str, ...] = ()
    """The name of each test example."""
    train_labels: Tensor | None = None
    """The labels of all training examples of the source, in the order of ids; by default those of ``train``."""
    test_labels: Tensor | None = None
    """The labels of all test examples."""
    notes: tuple[str, ...] = ()
    """What the user should know: images that could not be read or were converted."""

    def __post_init__(self) -> None:
        """Check sizes, labels, shapes and names."""
        for name, images, names, labels in (
            ("training", self.train, self.train_names, self.all_labels),
            ("test", self.test, self.test_names, self.all_test_labels),
        ):
            if not len(images):
                raise RequestError(f"the {name} set is empty")
            if names and len(names) != len(labels):
                raise RequestError(f"{len(labels)} {name} images need one name each, got {len(names)}")
            if len(set(names)) != len(names):
                repeated = next(each for each, count in Counter(names).items() if count > 1)
                raise RequestError(f"two {name} images have the name {repeated!r}: each needs a name of its own")
            wrong = next((each for each in names if not each or not each.isprintable()), None)
            if wrong is not None:
                raise RequestError(f"the name {wrong!r} of a {name} image is no printable text in UTF-8: rename it")
            low, high = int(labels.min()), int(labels.max())
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

    @property
    def all_labels(self) -> Tensor:
        """The labels of all training examples of the source, by id: int64."""
        return self.train.labels if self.train_labels is None else self.train_labels

    @property
    def all_ids(self) -> Tensor:
        """The ids of all training examples of the source, in the same order: int64."""
        return self.train.ids if self.train_labels is None else torch.arange(len(self.train_labels))

    @property
    def all_test_labels(self) -> Tensor:
        """The labels of all test examples of the source, by id."""
        return self.test.labels if self.test_labels is None else self.test_labels


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the mean and standard deviation per channel of (n, channels, height, width), scaled to [0, 1] if uint8.

    Vectors (n, features) have a mean and a deviation for each feature.

    The deviation of a constant channel is set to 1, so that dividing by it is safe. Sums are in float64, over chunks
    of the images.
    """
    scale = 1.0 if images.is_floating_point() else 255.0
    size = images[:, 0].numel()
    images = images.view(*images.shape, *(1,) * (4 - images.ndim))
    mean = _channel_sums(images, torch.zeros(images.shape[1]), 1) / size
    std = (_channel_sums(images, mean, 2) / size).sqrt()
    std[std == 0] = scale
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def _channel_sums(images: Tensor, center: Tensor, power: int) -> Tensor:
    """``sum (x - center)^power`` per channel, float64 (channels,)."""
    center = center.to(images.device, torch.float64)[:, None, None]
    total = torch.zeros(images.shape[1], dtype=torch.float64, device=images.device)
    for part in images.split(256):
        total += ((part.double() - center) ** power).sum(dim=(0, 2, 3))
    return total.cpu()
