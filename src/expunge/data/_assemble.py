"""Datasets from arrays, with validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from expunge.data.dataset import Dataset, channel_statistics
from expunge.data.image_set import TensorImages, make
from expunge.data.splits import Limits, PartName
from expunge.data.subsets import some

Array = npt.NDArray[np.generic]
Arrays = tuple[Array, Array]
"""Images and labels."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Part:
    """One part of a set, training or test, whose images are read on demand."""

    labels: Array
    """The labels of all its examples."""
    read: Callable[[Sequence[int]], tuple[Array, Sequence[int], tuple[str, ...]]]
    """Reads the images of the examples at some positions, ascending; returns them, the positions that could be read,
    and notes for the user."""


Examples = Arrays | Part
Names = tuple[Sequence[str], Sequence[str]]
"""The names of the training examples and of the test examples, which may be empty."""
Found = tuple[Examples, Examples, tuple[str, ...], Names]
"""What a reader finds in a folder: training set, test set, class names, which may be empty, and names of examples."""

MOST_CLASSES = 2**16
"""The largest number of classes: one wrong label would else make a network and predictions of any size."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet, commonly used to normalise photographs."""


@dataclass(frozen=True)
class FilesConfig:
    """A folder or file, and the augmentation of its images."""

    path: str
    """The folder of the files."""
    augment: bool = False
    """Augment training batches, by a random crop and flip unless ``augmentation`` says otherwise."""
    augmentation: Augmentation = Augmentation()
    """What is drawn at random: ``augmentation.rotation=30``, ``augmentation.operations=2``, ..."""


class Augmented(Protocol):
    """A configuration with an augmentation."""

    @property
    def augment(self) -> bool:
        """Whether training batches are augmented."""
        ...

    @property
    def augmentation(self) -> Augmentation:
        """How."""
        ...


@dataclass(frozen=True)
class _Chosen:
    """The examples of a part that a limit left."""

    images: TensorImages
    pixels: Tensor
    """All that were read."""
    labels: Tensor
    """The labels of all."""
    notes: tuple[str, ...]


def dataset(
    train: Examples,
    test: Examples,
    where: Path | str,
    *,
    class_names: Sequence[str] = (),
    config: Augmented | None = None,
    statistics: Statistics | None = None,
    names: Names = ((), ()),
    limits: Limits | None = None,
) -> Dataset:
    """Make a Dataset of training and test examples; ``names`` are those of the examples of both.

    Images are (n, height, width[, channels]) or channels first. By default, classes are numbered up to the largest
    training label, and mean and standard deviation are those of the training images: of all that are given as arrays,
    or of those that are read. Limits choose before images are read.

    Raises:
        RequestError: The examples are not consistent; the message begins with ``where``.
    """
    try:
        chosen, unseen = _chosen(train, names[0], limits, "train"), _chosen(test, names[1], limits, "test")
        _check_classes(chosen.labels, class_names)
        classes = tuple(class_names) or tuple(str(label) for label in range(int(chosen.labels.max()) + 1))
        mean, std = statistics or channel_statistics(chosen.pixels)
        if len(mean) != chosen.images.shape[0]:
            raise RequestError(f"images should have {len(mean)} channels, found {chosen.images.shape[0]}")
        augmentation = config.augmentation if config is not None and config.augment else None
        return Dataset(
            chosen.images.with_augmentation(augmentation),
            unseen.images,
            classes,
            mean,
            std,
            tuple(names[0]),
            tuple(names[1]),
            chosen.labels,
            unseen.labels,
            (*(f"training: {note}" for note in chosen.notes), *(f"test: {note}" for note in unseen.notes)),
        )
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


def from_folder(
    folder: Path, found: Found, config: Augmented, limits: Limits | None, statistics: Statistics | None = None
) -> Dataset:
    """Make a Dataset of what a reader has found in a folder; see :func:`dataset`."""
    train, test, classes, names = found
    return dataset(
        train,
        test,
        folder,
        class_names=classes,
        config=config,
        statistics=statistics,
        names=usable(names),
        limits=limits,
    )


def usable(names: Names) -> Names:
    """Return the names that a file gives, or none if they are not text that can be printed, each there once."""
    fit = all(side and len(set(side)) == len(side) and all(map(str.isprintable, side)) for side in names)
    return names if fit and all(map(all, names)) else ((), ())


def vectors(train: Arrays, test: Arrays, where: Path | str, *, class_names: Sequence[str]) -> Dataset:
    """Make a Dataset of features (n, features) and labels for training and test.

    Inputs are float32 as given; mean and deviation per feature are those of the training set, by which the model
    standardises its inputs.

    Raises:
        RequestError: The examples are not consistent, or a feature is not finite or needs more digits than float32 has.
    """
    try:
        features = torch.from_numpy(train[0].astype(np.float64))
        if not all(np.isfinite(part[0]).all() for part in (train, test)):
            raise RequestError("a feature is NaN or infinite")
        mean, std = channel_statistics(features)
        coarse = (features.abs().amax(0) * 2.0**-24 > 1e-3 * torch.tensor(std)).nonzero().flatten().tolist()
        if coarse:
            raise RequestError(
                f"the features {some(coarse)} vary too little around a large number for 32 bits: subtract their means"
            )
        learned, unseen = (make(torch.from_numpy(x.astype(np.float32)), _labels(y)) for x, y in (train, test))
        return Dataset(learned, unseen, tuple(class_names), mean, std)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


def _chosen(examples: Examples, names: Sequence[str], limits: Limits | None, part: PartName) -> _Chosen:
    given = examples.labels if isinstance(examples, Part) else examples[1]
    labels = _labels(given)
    if not len(labels):
        raise RequestError("there are no images")
    positions = torch.arange(len(labels)) if limits is None else limits.choose(labels, part, names)
    if isinstance(examples, Part):
        images, kept, notes = examples.read(positions.tolist())
        pixels = inputs = torch.from_numpy(_writable(images))
        return _Chosen(_of(inputs, labels, torch.tensor(kept)), pixels, labels, notes)
    if len(examples[0]) != len(labels):
        raise RequestError(f"images of shape {examples[0].shape} need one label each, got {len(labels)} labels")
    pixels = torch.from_numpy(_writable(examples[0]))
    inputs = pixels if len(positions) == len(labels) else pixels[positions]
    return _Chosen(_of(inputs, labels, positions), pixels, labels, ())


def _of(inputs: Tensor, labels: Tensor, ids: Tensor) -> TensorImages:
    return TensorImages(inputs, labels[ids], ids)


def _labels(labels: Array) -> Tensor:
    if labels.ndim != 1:
        raise RequestError(f"each image needs one label, got labels of shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise RequestError(f"labels must be whole numbers, got {labels.dtype}")
    if labels.dtype == np.uint64 and len(labels) and labels.max() >= 2**63:
        raise RequestError(f"labels must be class numbers, found {labels.max()}")
    return torch.from_numpy(labels.astype(np.int64))


def _writable(images: Array) -> Array:
    """The images with channels first, in memory that torch may write to."""
    return np.require(_channels_first(images), requirements=("C", "W"))


def _check_classes(labels: Tensor, names: Sequence[str]) -> None:
    count = len(names) or int(labels.max()) + 1
    if count > MOST_CLASSES:
        raise RequestError(
            f"there would be {count} classes, more than the {MOST_CLASSES} that are supported: number the classes "
            "from 0, without gaps"
        )


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
