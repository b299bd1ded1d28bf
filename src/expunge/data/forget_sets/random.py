"""A forget set drawn at random."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core import registry
from expunge.data.image_set import ImageSet
from expunge.data.subsets import check_amount, draw


@dataclass(frozen=True)
class RandomForget:
    """How many examples: ``random:4500`` or ``random:10%``."""

    count: int | None = None
    """How many examples."""
    share: float | None = None
    """Or which share of the training set, rounded down; 10% by default, if there is no count."""

    def __post_init__(self) -> None:
        """Not both, and each in its range."""
        check_amount(self.count, self.share)


@registry.forget_set(words=lambda _: "chosen at random")
def forget(train: ImageSet, config: RandomForget, generator: torch.Generator) -> Tensor:
    """Training examples drawn uniformly at random, without regard to class."""
    return draw(train.ids, config.count, config.share, generator, default=0.1)
