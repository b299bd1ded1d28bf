"""The weights that a method without steps may change, and the change itself."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from expunge.core import masks, weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.training.context import Context


def sparsity_mask(model: nn.Module, context: Context) -> dict[str, Tensor]:
    """The sparsity mask over all trainable weights, bool by name: true everywhere for a dense model."""
    return _over_weights(context.sparsity, model)


def movable(model: nn.Module, context: Context) -> dict[str, Tensor]:
    """The update mask over all trainable weights, bool by name: false also for pruned weights.

    Raises:
        RequestError: There is an update mask for each role: a method without steps has no roles.
    """
    mask = context.update_masks
    if mask is not None and not isinstance(mask, Mask):
        raise RequestError("this method takes no steps: give it one update mask (roles=both), not one for each role")
    updated = _over_weights(mask, model)
    return {name: kept & updated[name] for name, kept in sparsity_mask(model, context).items()}


def _over_weights(mask: Mask | None, model: nn.Module) -> dict[str, Tensor]:
    if mask is not None:
        mask.check(model)
    return masks.over(mask, weights.trainable(model))


@torch.no_grad()
def move(model: nn.Module, change: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> None:
    """``w <- w + change`` where ``mask`` is true; all other weights, and those not in ``change``, keep their bits."""
    for name, weight in weights.trainable(model).items():
        if name in change:
            weight.copy_(torch.where(mask[name], weight + change[name].to(weight.dtype), weight))
