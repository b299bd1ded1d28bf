"""Iterative magnitude pruning: in each round the smallest weights go, and the model is trained again."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context
from expunge.training.sparsity import Scope


@dataclass(frozen=True)
class IterativeMagnitudeConfig:
    """Hyperparameters of iterative magnitude pruning."""

    rate: float = 0.2
    """Share of the remaining prunable weights that is pruned in each round."""
    rounds: int = 5
    """Rounds of pruning, each followed by training; (1 - rate)^rounds of the weights are left in the end."""
    scope: Scope = "global"
    """Whether all layers are ranked together, or that share of each layer is pruned."""
    linear: bool = False
    """Prune linear layers too; by default, convolutions alone."""

    def __post_init__(self) -> None:
        sparsity.check(self.rate, self.scope)
        checks.at_least(1, rounds=self.rounds)


@pruner(reference="Frankle & Carbin 2019, arXiv:1803.03635", aliases=("imp",))
def prune(model: nn.Module, shape: tuple[int, ...], config: IterativeMagnitudeConfig, context: Context) -> Mask:
    """One round: prune the weights of smallest absolute value, round(rate n) of the n that are left."""
    return sparsity.by_magnitude(model, config.rate, config.scope, config.linear, context.sparsity)
