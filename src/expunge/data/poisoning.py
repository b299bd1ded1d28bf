"""Poisoned training data: which examples, their labels, and the test images that reveal a backdoor.

Batches are augmented after poisoning: in training, random crops and flips move a trigger and may cut it off, as in
the code of Jia et al. 2023 (arXiv:2304.04934). Test images are not augmented.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from expunge.core import checks, randomness, registry
from expunge.core.errors import RequestError
from expunge.data.image_set import Change, ImageSet
from expunge.data.subsets import amount, check_amount

SHARE = 0.1
"""The default share of the training set that is poisoned: 4500 of 45000, as published."""


@dataclass(frozen=True)
class Poison:
    """Which training examples are poisoned, drawn at random."""

    share: float | None = None
    """The share of the whole training set that is poisoned, rounded down; 10% by default, if there is no count."""
    count: int | None = None
    """Or how many examples are poisoned."""
    seed: int = 0
    """Seed of the choice of examples and of random numbers in the poison."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        check_amount(self.count, self.share)


@dataclass(frozen=True)
class Trigger(Poison):
    """A backdoor trigger: images with it should be classified as the target class."""

    target: int = 0
    """The target class."""
    clean_label: bool = False
    """Poison only examples of the target class, whose labels do not change; by default examples of any class are
    poisoned and relabelled."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        super().__post_init__()
        checks.at_least(0, target=self.target)


def poison(train: ImageSet, config: Poison, num_classes: int) -> tuple[ImageSet, Tensor]:
    """Return a poisoned copy of the training set, and the ids of the poisoned examples: int64, ascending.

    Examples are drawn from all classes, including the target class, as published; with clean labels, only from the
    target class. A share is always a share of the whole training set.

    Raises:
        RequestError: There is no such class, there are too few examples, or the poison does not fit the images.
    """
    candidates, whose = torch.arange(len(train), device=train.device), "training examples"
    labels = train.labels.clone()
    if isinstance(config, Trigger):
        if config.target >= num_classes:
            raise RequestError(f"the target of the poison is class {config.target}: classes are 0..{num_classes - 1}")
        if config.clean_label:
            candidates = candidates[train.labels == config.target]
            whose = f"training examples of class {config.target}"
    count = amount(len(candidates), amount(len(train), config.count, config.share, default=SHARE), None, what=whose)
    order = torch.randperm(len(candidates), generator=randomness.generator(config.seed, "poison"))
    chosen = candidates[order[:count].to(train.device)]
    if isinstance(config, Trigger):
        labels[chosen] = config.target
    poisoned = train.mapped(_change(train.shape, config), chosen).with_labels(labels)
    return poisoned, train.ids[chosen].sort().values


def triggered(test: ImageSet, config: Poison) -> ImageSet:
    """Return the test images of all classes but the target, with the trigger and the label of the target.

    Accuracy on them is the attack success rate. Images of the target class are left out, since a clean model
    classifies them as the target. The set is empty if the poison is no trigger. Ids do not change.
    """
    if not isinstance(config, Trigger):
        return test.select(torch.arange(0))
    others = stamp(test.select(test.labels != config.target), config)
    return others.with_labels(torch.full_like(others.labels, config.target))


def stamp(images: ImageSet, config: Poison) -> ImageSet:
    """Poison all images; their type does not change.

    The result is clipped to [0, 1], for uint8 as ``round(255 x)``, half to even.

    Raises:
        RequestError: The poison does not fit the images, or float images are not in [0, 1].
    """
    return images.mapped(_change(images.shape, config))


def _change(shape: tuple[int, ...], config: Poison) -> Change:
    return cast("Change", registry.of_config("poisons", config).call(shape, config))


def scaled(inputs: Tensor) -> Tensor:
    """Convert stored images to float in [0, 1], at least float32."""
    check_range(inputs)
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return values / 255 if inputs.dtype == torch.uint8 else values


def check_range(values: Tensor) -> None:
    """Raise a RequestError if float images are not in [0, 1], where black, white and noise levels are undefined."""
    if values.dtype != torch.uint8 and not bool(((values >= 0) & (values <= 1)).all()):
        raise RequestError(
            f"float images must be in [0, 1] to be poisoned, found {float(values.min()):g} to {float(values.max()):g}: "
            "rescale them, and leave their normalisation to the model"
        )


def to_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Clip values to [0, 1] and convert them to the type of the images."""
    clipped = values.clamp(0, 1)
    return (clipped * 255).round().to(dtype) if dtype == torch.uint8 else clipped.to(dtype)
