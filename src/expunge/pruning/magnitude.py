"""One-shot magnitude pruning: the smallest weights go."""

from dataclasses import dataclass

from torch import nn

from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context
from expunge.training.sparsity import Scope


@dataclass(frozen=True)
class MagnitudeConfig:
    """Hyperparameters of one-shot magnitude pruning."""

    rate: float = 0.95
    """Share of the remaining prunable weights that is pruned."""
    scope: Scope = "global"
    """Whether all layers are ranked together, or that share of each layer is pruned."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""

    def __post_init__(self) -> None:
        sparsity.check(self.rate, self.scope)


@pruner(reference="Han et al. 2015, arXiv:1506.02626", aliases=("omp",))
def prune(model: nn.Module, shape: tuple[int, ...], config: MagnitudeConfig, context: Context) -> Mask:
    """Prune the weights of smallest absolute value: round(rate n) of the n that are left."""
    return sparsity.by_magnitude(model, config.rate, config.scope, config.linear, context.sparsity)
