"""A forget set drawn at random."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core import registry
from expunge.data.image_set import ImageSet
from expunge.data.subsets import check_amount, draw


@dataclass(frozen=True)
class RandomForget:
    """The number of examples: ``random:4500`` or ``random:10%``."""

    count: int | None = None
    """The number of examples."""
    share: float | None = None
    """Or the share of the training set, rounded down; by default 10%."""

    def __post_init__(self) -> None:
        """Check that at most one is given, and its range."""
        check_amount(self.count, self.share)


@registry.forget_set(words=lambda _: "chosen at random")
def forget(train: ImageSet, config: RandomForget, generator: torch.Generator) -> Tensor:
    """Training examples drawn uniformly at random from all classes."""
    return draw(train.ids, config.count, config.share, generator, default=0.1)
