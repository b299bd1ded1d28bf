"""SynFlow: prune, without data, the weights with the least synaptic flow from inputs to logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.core import checks, masks
from expunge.core import weights as model_weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context


@dataclass(frozen=True)
class SynflowConfig:
    """Hyperparameters of SynFlow."""

    rate: float = 0.95
    """Share of the remaining prunable weights that is pruned by all iterations together."""
    iterations: int = 100
    """Number of prunings, each of the same share of the rest; each costs a forward and backward pass of one image."""
    batch_norm: Literal["absolute", "identity"] = "absolute"
    """Batch normalisation: with absolute values of weights and running statistics, as released, or left out."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""
    as_released: bool = False
    """Round the share of each iteration by itself: the errors add up, and the rate is reached approximately."""

    def __post_init__(self) -> None:
        sparsity.check(self.rate)
        checks.at_least(1, iterations=self.iterations)
        checks.one_of(("absolute", "identity"), batch_norm=self.batch_norm)


@pruner(reference="Tanaka et al. 2020, arXiv:2006.05467", trained=False)
def prune(model: nn.Module, shape: tuple[int, ...], config: SynflowConfig, context: Context) -> Mask:
    """Prune iteratively by the score ``w dR/dw``, R the sum of logits of an image of ones under weights ``|w|``.

    R is the sum over paths of the products of their weights (plus terms of biases), and the score of a weight the sum
    over the paths through it. Scores are conserved: they have the same sum in every layer that all paths cross, so
    that small layers have large scores, and no layer is removed as a whole by many small prunings.

    This supposes batch normalisation with running means and shifts of zero, as at initialisation; those of a trained
    model violate it, unless ``batch_norm=identity``. Computed on a copy in float64, since a product of many layers may
    exceed float32.

    Raises:
        RequestError: Nothing can be pruned, or no flow reaches the logits.
    """
    weights = sparsity.required(model, config.linear)
    left = masks.over(context.sparsity, weights)
    network = positive(model, left, config.batch_norm)
    portions = sparsity.portions(sparsity.count(left), config.rate, config.iterations, as_released=config.as_released)
    for portion in portions:
        pruned = sparsity.smallest(scores(network, left, shape), left, portion)
        left = {name: kept & ~pruned[name] for name, kept in left.items()}
        with torch.no_grad():
            for name, kept in left.items():
                network.get_parameter(name).mul_(kept)
    return sparsity.without(context.sparsity, {name: ~kept for name, kept in left.items()})


@torch.no_grad()
def positive(model: nn.Module, left: Mapping[str, Tensor], batch_norm: Literal["absolute", "identity"]) -> nn.Module:
    """A copy in float64 and evaluation mode with all weights and buffers replaced by their absolute values.

    The weights named in ``left`` require gradients, and are zero where it is false.
    """
    copied = model_weights.frozen_copy(model).double()
    for value in copied.state_dict().values():
        if value.is_floating_point():
            value.abs_()
    for module in copied.modules():
        if batch_norm == "identity" and isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore
            module.reset_parameters()  # and the running statistics
    for name, kept in left.items():
        copied.get_parameter(name).mul_(kept).requires_grad_()
    return copied


def scores(network: nn.Module, left: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """``|w dR/dw|`` for the weights named in ``left``: one forward and backward pass of one image.

    Raises:
        RequestError: All are zero.
    """
    weights = [network.get_parameter(name) for name in left]
    image = torch.ones(1, *shape, dtype=torch.float64, device=weights[0].device)
    gradients = torch.autograd.grad(network(image).sum(), weights, allow_unused=True, materialize_grads=True)
    found = {name: (w * g).detach().abs() for name, w, g in zip(left, weights, gradients, strict=True)}
    if not any(bool(score.any()) for score in found.values()):
        raise RequestError(
            "no flow reaches the logits, so SynFlow cannot rank the weights: "
            "prune less, or leave batch normalisation out by batch_norm=identity"
        )
    return found
