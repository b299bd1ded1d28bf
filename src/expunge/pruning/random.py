"""Random pruning: a baseline."""

import torch
from torch import nn

from expunge.core.masks import Mask
from expunge.core.registry import pruner
from expunge.training import sparsity
from expunge.training.context import Context
from expunge.training.sparsity import PruningConfig


class RandomConfig(PruningConfig):
    """Hyperparameters of random pruning."""


@pruner(reference="Liu et al. 2022, arXiv:2202.02643", trained=False)
def prune(model: nn.Module, shape: tuple[int, ...], config: RandomConfig, context: Context) -> Mask:
    """Prune round(rate n) of the n remaining weights, drawn uniformly."""
    generator = context.generator
    scores = {
        name: torch.rand(weight.shape, generator=generator, device=generator.device, dtype=torch.float64)
        for name, weight in sparsity.required(model, config.linear).items()
    }
    return sparsity.prune(scores, config.rate, config.scope, context.sparsity)
