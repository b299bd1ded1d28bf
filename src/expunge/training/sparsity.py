"""Pruning of the weights with the smallest scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expunge.core import checks, masks
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.core.weights import trainable
from expunge.training.context import Context

Scope = Literal["global", "layer"]


def check(rate: float) -> None:
    """Raise a RequestError unless ``rate`` is in [0, 1)."""
    checks.between(0, 1, rate=rate)
    if rate == 1:
        raise RequestError("rate must be below 1, got 1: not every weight can be pruned")


@dataclass(frozen=True)
class PruningConfig:
    """Hyperparameters of pruning a share of the weights."""

    rate: float = 0.95
    """Share of the remaining prunable weights that is pruned."""
    scope: Scope = "global"
    """Whether the weights of all layers are ranked together, or those of each layer."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""

    def __post_init__(self) -> None:
        check(self.rate)
        checks.one_of(("global", "layer"), scope=self.scope)


def weights(model: nn.Module, linear: bool) -> dict[str, nn.Parameter]:
    """The prunable weights: those of trainable convolutions and, with ``linear``, linear layers, without biases."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear) if linear else (nn.modules.conv._ConvNd,)  # pyright: ignore
    own = [dict(module.named_parameters(recurse=False)) for module in model.modules() if isinstance(module, kinds)]
    chosen = {id(found["weight"]) for found in own if "weight" in found}
    return {name: weight for name, weight in trainable(model).items() if id(weight) in chosen}


def required(model: nn.Module, linear: bool) -> dict[str, nn.Parameter]:
    """:func:`weights`, or a RequestError if there are none."""
    found = weights(model, linear)
    if found:
        return found
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise RequestError("weights under low-rank adapters cannot be pruned: do without adapters here")
    if linear:
        raise RequestError("the model has no trainable convolution and no trainable linear layer to prune")
    raise RequestError("the model has no trainable convolution to prune: prune its linear layers, by linear=true")


def candidates(of: Mapping[str, Tensor], context: Context, role: str) -> dict[str, Tensor]:
    """The entries of these weights that a method with steps of ``role`` may prune: neither pruned yet nor frozen."""
    found, update = masks.over(context.sparsity, of), context.update_masks
    mask = update if isinstance(update, Mask) or update is None else update.get(role)
    return {name: kept & found[name] for name, kept in masks.over(mask, of).items()}


def sparsity(of: Mapping[str, Tensor], mask: Mask | None) -> float:
    """The share of these weights that the mask prunes, in [0, 1]."""
    return 1 - Mask(masks.over(mask, of)).density()


def count(of: Mapping[str, Tensor]) -> int:
    """The number of true entries of bool tensors; synchronises with the device."""
    return int(torch.stack([tensor.sum() for tensor in of.values()]).sum())


def smallest(scores: Mapping[str, Tensor], among: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """True for the ``number`` smallest scores where ``among`` is true, in one ranking over all tensors; O(p).

    Of equal scores, the first in the order of names and positions are taken.

    Raises:
        RequestError: A score is not finite.
    """
    flat = torch.cat([scores[name].flatten() for name in among])
    masks.check_finite("the model", flat)
    eligible = torch.cat([tensor.flatten() for tensor in among.values()])
    pieces = masks.top((-flat).masked_fill(~eligible, -torch.inf), number).split([t.numel() for t in among.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(among.items(), pieces, strict=True)}


def without(before: Mask | None, pruned: Mapping[str, Tensor]) -> Mask:
    """The sparsity mask ``before`` with these weights pruned too."""
    kept = masks.over(before, pruned)
    return Mask(dict(before or {}) | {name: kept[name] & ~tensor for name, tensor in pruned.items()})


def prune(scores: Mapping[str, Tensor], rate: float, scope: Scope, before: Mask | None) -> Mask:
    """Prune the round(rate n) smallest of n scores of weights that ``before`` keeps, over all tensors or in each."""
    found = masks.over(before, scores)
    groups = [found] if scope == "global" else [{name: tensor} for name, tensor in found.items()]
    pruned: dict[str, Tensor] = {}
    for group in groups:
        pruned |= smallest(scores, group, round(rate * count(group)))
    return without(before, pruned)


def magnitudes(of: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The absolute values of weights, as scores."""
    return {name: weight.detach().abs() for name, weight in of.items()}


def by_magnitude(model: nn.Module, rate: float, scope: Scope, linear: bool, before: Mask | None) -> Mask:
    """Prune the weights of the smallest absolute values among those that ``before`` keeps."""
    return prune(magnitudes(required(model, linear)), rate, scope, before)


def portions(total: int, rate: float, steps: int, *, as_released: bool = False) -> Iterator[int]:
    """The number of ``total`` weights to prune in each of ``steps`` steps, the same share of the rest each time.

    After step j of J, round(total (1 - (1 - rate)^(j/J))) weights are pruned. As released, each step rounds its own
    share of the rest, and the errors add up.
    """
    if as_released:
        remaining = total
        for _ in range(steps):
            portion = round((1 - (1 - rate) ** (1 / steps)) * remaining)
            remaining -= portion
            yield portion
    else:
        shares = [1 - (1 - rate) ** (step / steps) for step in range(steps)] + [rate]
        for before, after in pairwise(round(total * share) for share in shares):
            yield after - before
