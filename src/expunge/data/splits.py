"""Class-balanced splits and subsets."""

import torch
from torch import Tensor

from expunge.core.errors import RequestError


def class_balanced(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Set aside floor(share n_c) examples of every class c.

    Returns:
        The remaining positions and those set aside, int64, each ascending.

    Raises:
        RequestError: The share is outside [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise RequestError(f"the validation share must be in [0, 1), got {share}")
    counts = torch.bincount(labels)
    return _split(labels, (counts.double() * share + 1e-9).floor().long(), generator)


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


def _split(labels: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``wanted[c]`` examples of each class c; return the positions of the others and of the drawn."""
    shuffled = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
    by_class = shuffled[labels[shuffled].sort(stable=True).indices]
    first = torch.bincount(labels).cumsum(0) - torch.bincount(labels)
    rank = torch.arange(len(labels), device=labels.device) - first[labels[by_class]]
    chosen = rank < wanted.to(labels.device)[labels[by_class]]
    return by_class[~chosen].sort().values, by_class[chosen].sort().values
