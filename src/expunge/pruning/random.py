"""Random pruning: what any other way to prune must beat."""

from dataclasses import dataclass

import torch
from torch import nn

from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context
from expunge.training.sparsity import Scope


@dataclass(frozen=True)
class RandomConfig:
    """Hyperparameters of random pruning."""

    rate: float = 0.95
    """Share of the remaining prunable weights that is pruned."""
    scope: Scope = "global"
    """Whether that share is pruned of all layers together, or of each layer."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""

    def __post_init__(self) -> None:
        sparsity.check(self.rate, self.scope)


@pruner(reference="Liu et al. 2022, arXiv:2202.02643", trained=False)
def prune(model: nn.Module, shape: tuple[int, ...], config: RandomConfig, context: Context) -> Mask:
    """Prune round(rate n) of the n weights that are left, any as likely as any other."""
    generator = context.generator
    scores = {
        name: torch.rand(weight.shape, generator=generator, device=generator.device, dtype=torch.float64)
        for name, weight in sparsity.required(model, config.linear).items()
    }
    return sparsity.prune(scores, config.rate, config.scope, context.sparsity)
