"""Poisoned training data: which examples, their labels, and the test images that show a backdoor.

An ImageSet augments its batches after all this: in training, random crops and flips move a trigger, and may cut it
off, as they do in the code of Jia et al. 2023 (arXiv:2304.04934). Test images are not augmented: there the trigger
is where it was put.
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
"""The share of the training set that is poisoned where nothing is said: 4500 of 45000, as published."""


@dataclass(frozen=True)
class Poison:
    """Which training examples are poisoned, drawn at random."""

    share: float | None = None
    """The share of the whole training set that is poisoned, rounded down; 10% by default, if there is no count."""
    count: int | None = None
    """Or how many examples are poisoned."""
    seed: int = 0
    """Draws which examples are poisoned, and what is random in the poison."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        check_amount(self.count, self.share)


@dataclass(frozen=True)
class Trigger(Poison):
    """A poison that is a backdoor trigger: an image with it should be classified as the target."""

    target: int = 0
    """The class that the trigger should lead to."""
    clean_label: bool = False
    """Poison only examples of the target class and leave labels as they are, instead of any class and a new label."""

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the images."""
        super().__post_init__()
        checks.at_least(0, target=self.target)


def poison(train: ImageSet, config: Poison, num_classes: int) -> tuple[ImageSet, Tensor]:
    """A poisoned copy of the training set, and the ids of the poisoned examples: int64, ascending.

    With a trigger and new labels, examples of any class are drawn, those of the target class among them, as
    published: their label stays what it was. With clean labels, only examples of the target class are drawn.
    Other poisons are for examples of any class. A share is of the whole training set in every case.

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
    """Test images of every class but the target, with the trigger, labelled as the target; ids are kept.

    Accuracy on them is the success rate of the attack. Images of the target class are left out: a model without
    a backdoor would be right about them. A poison that is no trigger has no such images: the set is empty.
    """
    if not isinstance(config, Trigger):
        return test.select(torch.arange(0))
    others = stamp(test.select(test.labels != config.target), config)
    return others.with_labels(torch.full_like(others.labels, config.target))


def stamp(images: ImageSet, config: Poison) -> ImageSet:
    """The same examples with every image poisoned; the type of the images stays.

    The result is clipped to [0, 1]; in uint8 that is ``round(255 x)``, half to even.

    Raises:
        RequestError: The poison does not fit the images, or float images are not in [0, 1].
    """
    return images.mapped(_change(images.shape, config))


def _change(shape: tuple[int, ...], config: Poison) -> Change:
    return cast("Change", registry.of_config("poisons", config).call(shape, config))


def scaled(inputs: Tensor) -> Tensor:
    """Stored images in [0, 1], in float32 at least."""
    check_range(inputs)
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return values / 255 if inputs.dtype == torch.uint8 else values


def check_range(values: Tensor) -> None:
    """Refuse float images outside [0, 1]: black, white and the size of noise would have no meaning there."""
    if values.dtype != torch.uint8 and not bool(((values >= 0) & (values <= 1)).all()):
        raise RequestError(
            f"float images must be in [0, 1] to be poisoned, found {float(values.min()):g} to {float(values.max()):g}: "
            "rescale them, and leave their normalisation to the model"
        )


def to_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values clipped to [0, 1], in the type of the images."""
    clipped = values.clamp(0, 1)
    return (clipped * 255).round().to(dtype) if dtype == torch.uint8 else clipped.to(dtype)
