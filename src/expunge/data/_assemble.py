"""Datasets from arrays, with validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from expunge.data.dataset import Dataset, channel_statistics
from expunge.data.image_set import TensorImages, make

Array = npt.NDArray[np.generic]
Arrays = tuple[Array, Array]
"""Images and labels."""
Names = tuple[Sequence[str], Sequence[str]]
"""The names of the training examples and of the test examples, which may be empty."""
Found = tuple[Arrays, Arrays, tuple[str, ...], Names]
"""What a reader finds in a folder: training set, test set, class names, which may be empty, and names of examples."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

MOST_CLASSES = 2**16
"""The largest number of classes: one wrong label would else make a network and predictions of any size."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet, commonly used to normalise photographs."""


@dataclass(frozen=True)
class FilesConfig:
    """A folder of files, and the augmentation of its images."""

    path: str
    """The folder of the files."""
    augment: bool = False
    """Random crop and flip of training batches."""


def dataset(
    train: Arrays,
    test: Arrays,
    where: Path | str,
    *,
    class_names: Sequence[str] = (),
    augment: bool = False,
    statistics: Statistics | None = None,
    names: Names = ((), ()),
) -> Dataset:
    """Make a Dataset of (images, labels) for training and test; ``names`` are those of the examples of both.

    Images are (n, height, width[, channels]) or channels first. By default, classes are numbered up to the largest
    training label, and mean and standard deviation are those of the training images.

    Raises:
        RequestError: The arrays are not consistent; the message begins with ``where``.
    """
    try:
        training, unseen = _images(*train, Augmentation() if augment else None), _images(*test, None)
        _check_classes(training.labels, class_names)
        classes = tuple(class_names) or tuple(str(label) for label in range(int(training.labels.max()) + 1))
        mean, std = statistics or channel_statistics(training.inputs)
        if len(mean) != training.shape[0]:
            raise RequestError(f"images should have {len(mean)} channels, found {training.shape[0]}")
        return Dataset(training, unseen, classes, mean, std, tuple(names[0]), tuple(names[1]))
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


def from_folder(
    folder: Path, read: Callable[[Path], Found], *, augment: bool, statistics: Statistics | None = None
) -> Dataset:
    """Make a Dataset of what a reader finds in a folder; see :func:`dataset`."""
    train, test, classes, names = read(folder)
    return dataset(
        train, test, folder, class_names=classes, augment=augment, statistics=statistics, names=usable(names)
    )


def usable(names: Names) -> Names:
    """Return the names that a file gives, or none if they are not text that can be printed, each there once."""
    fit = all(side and len(set(side)) == len(side) and all(map(str.isprintable, side)) for side in names)
    return names if fit and all(map(all, names)) else ((), ())


def _check_classes(labels: torch.Tensor, names: Sequence[str]) -> None:
    count = len(names) or int(labels.max()) + 1
    if count > MOST_CLASSES:
        raise RequestError(
            f"there would be {count} classes, more than the {MOST_CLASSES} that are supported: number the classes "
            "from 0, without gaps"
        )


def _images(images: Array, labels: Array, augmentation: Augmentation | None) -> TensorImages:
    if labels.ndim != 1 or len(images) != len(labels):
        raise RequestError(f"images of shape {images.shape} need one label each, got labels of shape {labels.shape}")
    if not len(images):
        raise RequestError("there are no images")
    if not np.issubdtype(labels.dtype, np.integer):
        raise RequestError(f"labels must be whole numbers, got {labels.dtype}")
    if labels.dtype == np.uint64 and labels.max() >= 2**63:
        raise RequestError(f"labels must be class numbers, found {labels.max()}")
    pixels = torch.from_numpy(np.require(_channels_first(images), requirements=("C", "W")))
    return make(pixels, torch.from_numpy(labels.astype(np.int64)), augmentation)


def _channels_first(images: Array) -> Array:
    """Convert (n, h, w), (n, h, w, c) or (n, c, h, w) to (n, c, h, w), with c = 1 or 3, and float64 to float32."""
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise RequestError(f"images must be uint8 or float, got {images.dtype}")
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise RequestError("images hold NaN or infinite values")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.transpose(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    raise RequestError(f"images must be (n, height, width), with 1 or 3 channels last or first, got {images.shape}")


def existing_folder(path: str) -> Path:
    """Return the folder at ``path``; raise a RequestError if there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}")
    return folder
