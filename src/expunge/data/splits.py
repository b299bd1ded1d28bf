"""Class-balanced splits and subsets."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from expunge.core import randomness
from expunge.core.errors import RequestError

PartName = Literal["train", "test"]


def class_balanced(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Set aside floor(share n_c) examples of every class c.

    Returns:
        The remaining positions and those set aside, int64, each ascending.

    Raises:
        RequestError: The share is outside [0, 1).
    """
    check_share(share)
    counts = torch.bincount(labels)
    return _split(labels, (counts.double() * share + 1e-9).floor().long(), generator)


def released(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Set aside floor(share n_c) examples of every class c: those that the original repositories choose.

    One ``numpy.random.RandomState(seed)`` chooses for class 0, 1, ... in turn, without replacement: the split of
    Unlearn-Sparse (arXiv:2304.04934) and the repositories that follow it, who set aside a tenth.

    Returns:
        The positions that stay and those set aside, int64, each ascending.

    Raises:
        RequestError: The share is outside [0, 1), or the seed is none of numpy's.
    """
    check_share(share)
    check_numpy_seed(seed)
    random, by_position = np.random.RandomState(seed), labels.cpu().numpy()
    aside = np.zeros(len(labels), dtype=bool)
    for label in range(int(by_position.max()) + 1):
        of_class = np.flatnonzero(by_position == label)
        if len(of_class):
            aside[random.choice(of_class, int(share * len(of_class)), replace=False)] = True
    chosen = torch.from_numpy(aside).to(labels.device)
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def check_share(share: float) -> None:
    """Raise a RequestError unless the share is in [0, 1)."""
    if not 0.0 <= share < 1.0:
        raise RequestError(f"the validation share must be in [0, 1), got {share}")


def check_numpy_seed(seed: int) -> None:
    """Raise a RequestError unless numpy's ``RandomState`` takes the seed."""
    if not 0 <= seed < 2**32:
        raise RequestError(f"the seed of a released choice must be in 0..{2**32 - 1}, got {seed}")


def balanced_subset(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` examples with the class shares of ``labels``; return their positions, ascending.

    The numbers per class are rounded by largest remainder, so that they add up to ``count``.

    Raises:
        RequestError: ``count`` is not in 1..n.
    """
    if not 1 <= count <= len(labels):
        raise RequestError(f"a subset of the images must hold 1 to {len(labels)} of them, got {count}")
    exact = torch.bincount(labels).double() * count / len(labels)
    wanted = exact.floor().long()
    missing = count - int(wanted.sum())
    wanted[(exact - wanted).sort(descending=True, stable=True).indices[:missing]] += 1
    return _split(labels, wanted, generator)[1]


@dataclass(frozen=True)
class Limits:
    """How many training and test examples are wanted, as a class-balanced choice by a seed; None for all."""

    train: int | None = None
    test: int | None = None
    seed: int = 0
    named: Mapping[PartName, Set[str]] | None = None
    """The examples that are wanted by name, in place of a choice, where the source gives names."""

    def choose(self, labels: Tensor, part: PartName, names: Sequence[str] = ()) -> Tensor:
        """Return the positions of the chosen examples, ascending. If none of those wanted by name is there, the first.

        Raises:
            RequestError: There are fewer.
        """
        if self.named is not None and names:
            wanted = self.named[part]
            return torch.tensor([place for place, name in enumerate(names) if name in wanted] or [0])
        count = self.train if part == "train" else self.test
        if count is None:
            return torch.arange(len(labels), device=labels.device)
        return balanced_subset(labels, count, randomness.generator(self.seed, "limit", part))


def _split(labels: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``wanted[c]`` examples of each class c; return the positions of the others and of the drawn."""
    shuffled = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
    by_class = shuffled[labels[shuffled].sort(stable=True).indices]
    first = torch.bincount(labels).cumsum(0) - torch.bincount(labels)
    rank = torch.arange(len(labels), device=labels.device) - first[labels[by_class]]
    chosen = rank < wanted.to(labels.device)[labels[by_class]]
    return by_class[~chosen].sort().values, by_class[chosen].sort().values
