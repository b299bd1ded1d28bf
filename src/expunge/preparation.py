"""What a run's configuration names, made real: the split data, the forget set, the untrained model."""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from expunge import randomness, registry
from expunge.data import splits
from expunge.data.dataset import Dataset
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import ImageSet
from expunge.normalisation import with_normalisation
from expunge.plans import DataConfig, Original, UnlearnConfig


@dataclass(frozen=True)
class Prepared:
    """A data set split for training: what is learned, what is held out, what is never shown to a method."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    dataset: Dataset


def prepare(wanted: DataConfig) -> Prepared:
    """Load and split the data, on the CPU."""
    plugin = registry.of_config("data", wanted.source)
    dataset = cast("Dataset", plugin.function(wanted.source))
    pool = _limited(dataset.train, wanted.limit, wanted.seed, "train")
    train, validation = splits.class_balanced(
        pool.labels, wanted.validation, randomness.generator(wanted.seed, "split")
    )
    return Prepared(
        pool.select(train),
        pool.select(validation),
        _limited(dataset.test, wanted.test_limit, wanted.seed, "test"),
        dataset,
    )


def _limited(images: ImageSet, count: int | None, seed: int, name: str) -> ImageSet:
    if count is None:
        return images
    generator = randomness.generator(seed, "limit", name)
    return images.select(splits.balanced_subset(images.labels, count, generator))


def forget_set(wanted: UnlearnConfig, data: Prepared) -> Tensor:
    """The ids of the forget set: sorted int64."""
    generator = randomness.generator(wanted.forget_seed, "forget")
    return forget_ids(wanted.forget, data.train, generator, data.dataset.num_classes)


def build(wanted: Original, dataset: Dataset) -> nn.Module:
    """The untrained model of this configuration, with its input step, on the CPU."""
    plugin = registry.of_config("models", wanted.model)
    with randomness.seeded(randomness.generator(wanted.seed, "initialisation")):
        network = cast("nn.Module", plugin.function(wanted.model, dataset.train.shape, dataset.num_classes))
    return with_normalisation(network, dataset.mean, dataset.std)
