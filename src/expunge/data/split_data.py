"""A data set split into training, validation and test set, with poisoned examples if configured."""

from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor

from expunge.core import randomness, registry
from expunge.core.config import Choice, read_texts
from expunge.data import splits
from expunge.data.dataset import Dataset
from expunge.data.image_set import ImageSet
from expunge.data.poisoning import Poison, poison, triggered


@dataclass(frozen=True)
class DataConfig:
    """The images, and how they are split."""

    source: Annotated[object, Choice("data")]
    """The data source."""
    limit: int | None = None
    """Use a class-balanced subset of this many training images; all by default."""
    test_limit: int | None = None
    """Use a class-balanced subset of this many test images; all by default."""
    validation: float = 0.1
    """Share of each class that is set aside for validation."""
    seed: int = 0
    """Seed of these choices."""
    poison: Annotated[Poison, Choice("poisons")] | None = None
    """The poison of some training images; none by default."""

    def __post_init__(self) -> None:
        """Parse fields given as text."""
        read_texts(self)


@dataclass(frozen=True)
class SplitData:
    """Training set, validation set, and the test set, which methods do not see."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    dataset: Dataset
    poison: "Poisoned | None" = None
    """The poisoned examples of the training set, if there are any."""


@dataclass(frozen=True)
class Poisoned:
    """The poisoned examples of the training set, and the images to audit them with."""

    config: Poison
    ids: Tensor
    """The ids of the poisoned examples: int64, ascending."""
    clean: ImageSet
    """These examples before poisoning."""
    triggered: ImageSet
    """Test images of other classes with the trigger and the target label; empty if the poison is no trigger."""


def load(wanted: DataConfig) -> SplitData:
    """Load, split and poison the data, on the CPU."""
    plugin = registry.of_config("data", wanted.source)
    dataset = cast("Dataset", plugin.call(wanted.source))
    pool = _limited(dataset.train, wanted.limit, wanted.seed, "train")
    train, validation = splits.class_balanced(
        pool.labels, wanted.validation, randomness.generator(wanted.seed, "split")
    )
    held, test = pool.select(validation), _limited(dataset.test, wanted.test_limit, wanted.seed, "test")
    if wanted.poison is None:
        return SplitData(pool.select(train), held, test, dataset)
    clean = pool.select(train)
    poisoned, ids = poison(clean, wanted.poison, dataset.num_classes)
    before = clean.select(torch.isin(clean.ids, ids))
    return SplitData(
        poisoned, held, test, dataset, Poisoned(wanted.poison, ids, before, triggered(test, wanted.poison))
    )


def _limited(images: ImageSet, count: int | None, seed: int, name: str) -> ImageSet:
    if count is None:
        return images
    generator = randomness.generator(seed, "limit", name)
    return images.select(splits.balanced_subset(images.labels, count, generator))
