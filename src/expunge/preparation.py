"""What a run's configuration names, made real: the split data, the forget set, the untrained model."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from expunge import randomness, registry
from expunge.data import splits
from expunge.data.dataset import Dataset
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import ImageSet
from expunge.data.poisoning import Poison, poison, triggered
from expunge.normalisation import with_normalisation
from expunge.plans import DataConfig, Original, UnlearnConfig


@dataclass(frozen=True)
class Prepared:
    """A data set split for training: what is learned, what is held out, what is never shown to a method."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    dataset: Dataset
    poison: "Poisoned | None" = None
    """What is poisoned in the training set, if anything."""


@dataclass(frozen=True)
class Poisoned:
    """A backdoor in the training set, and what is needed to audit it."""

    config: Poison
    ids: Tensor
    """The poisoned examples: sorted int64."""
    clean: ImageSet
    """These examples as they were before."""
    triggered: ImageSet
    """Test images of other classes with the trigger, labelled with the target; empty without a trigger at test time."""


def prepare(wanted: DataConfig) -> Prepared:
    """Load and split the data, on the CPU."""
    plugin = registry.of_config("data", wanted.source)
    dataset = cast("Dataset", plugin.call(wanted.source))
    pool = _limited(dataset.train, wanted.limit, wanted.seed, "train")
    train, validation = splits.class_balanced(
        pool.labels, wanted.validation, randomness.generator(wanted.seed, "split")
    )
    held, test = pool.select(validation), _limited(dataset.test, wanted.test_limit, wanted.seed, "test")
    if wanted.poison is None:
        return Prepared(pool.select(train), held, test, dataset)
    clean = pool.select(train)
    poisoned, ids = poison(clean, wanted.poison, dataset.num_classes)
    before = clean.select(torch.isin(clean.ids, ids))
    return Prepared(poisoned, held, test, dataset, Poisoned(wanted.poison, ids, before, triggered(test, wanted.poison)))


def _limited(images: ImageSet, count: int | None, seed: int, name: str) -> ImageSet:
    if count is None:
        return images
    generator = randomness.generator(seed, "limit", name)
    return images.select(splits.balanced_subset(images.labels, count, generator))


def forget_set(wanted: UnlearnConfig, data: Prepared) -> Tensor:
    """The ids of the forget set: sorted int64."""
    generator = randomness.generator(wanted.forget_seed, "forget")
    poisoned = None if data.poison is None else data.poison.ids
    return forget_ids(wanted.forget, data.train, generator, data.dataset.num_classes, poisoned)


def build(wanted: Original, dataset: Dataset) -> nn.Module:
    """The untrained model of this configuration, with its input step, on the CPU."""
    plugin = registry.of_config("models", wanted.model)
    with randomness.seeded(randomness.generator(wanted.seed, "initialisation")):
        network = cast("nn.Module", plugin.call(wanted.model, dataset.train.shape, dataset.num_classes))
    return with_normalisation(network, dataset.mean, dataset.std)
