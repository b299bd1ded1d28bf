"""Which weights a method that takes no steps may change, and the change itself."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from expunge.core import masks, weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.training.context import Context


def existing(model: nn.Module, context: Context) -> dict[str, Tensor]:
    """Bool by name: the trainable weights that the sparsity mask keeps; all without one."""
    return _aligned(model, context.sparsity)


def movable(model: nn.Module, context: Context) -> dict[str, Tensor]:
    """Bool by name: the weights that exist and that the update mask lets move.

    Raises:
        RequestError: There is an update mask for each role: a method without steps has no roles.
    """
    mask = context.update_masks
    if mask is not None and not isinstance(mask, Mask):
        raise RequestError("this method takes no steps: give it one update mask (roles=both), not one for each role")
    moving = _aligned(model, mask)
    return {name: kept & moving[name] for name, kept in existing(model, context).items()}


def _aligned(model: nn.Module, mask: Mask | None) -> dict[str, Tensor]:
    """A mask as tensors of every trainable weight, true where it says nothing."""
    if mask is not None:
        mask.check(model)
    return masks.over(mask, weights.trainable(model))


@torch.no_grad()
def move(model: nn.Module, change: Mapping[str, Tensor], allowed: Mapping[str, Tensor]) -> None:
    """``theta <- theta + change`` where ``allowed``; every other weight keeps its bits."""
    for name, weight in weights.trainable(model).items():
        weight.copy_(torch.where(allowed[name], weight + change[name].to(weight.dtype), weight))
