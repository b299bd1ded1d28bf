"""Iterative magnitude pruning: rounds of pruning the smallest weights and training the model again."""

from dataclasses import dataclass

from torch import nn

from expunge.core import checks
from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context
from expunge.training.sparsity import PruningConfig


@dataclass(frozen=True)
class IterativeMagnitudeConfig(PruningConfig):
    """Hyperparameters of iterative magnitude pruning."""

    rate: float = 0.2
    """Share of the remaining prunable weights that is pruned in each round."""
    rounds: int = 5
    """Rounds of pruning, each followed by training; (1 - rate)^rounds of the weights remain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(1, rounds=self.rounds)


@pruner(reference="Frankle & Carbin 2019, arXiv:1803.03635", aliases=("imp",))
def prune(model: nn.Module, shape: tuple[int, ...], config: IterativeMagnitudeConfig, context: Context) -> Mask:
    """One round: prune the weights of smallest absolute value, round(rate n) of the n remaining ones."""
    return sparsity.by_magnitude(model, config.rate, config.scope, config.linear, context.sparsity)
