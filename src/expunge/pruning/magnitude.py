"""One-shot magnitude pruning of the smallest weights."""

from torch import nn

from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context
from expunge.training.sparsity import PruningConfig


class MagnitudeConfig(PruningConfig):
    """Hyperparameters of one-shot magnitude pruning."""


@pruner(reference="Han et al. 2015, arXiv:1506.02626", aliases=("omp",))
def prune(model: nn.Module, shape: tuple[int, ...], config: MagnitudeConfig, context: Context) -> Mask:
    """Prune the weights of smallest absolute value: round(rate n) of the n remaining ones."""
    return sparsity.by_magnitude(model, config.rate, config.scope, config.linear, context.sparsity)
