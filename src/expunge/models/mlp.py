"""A multilayer perceptron."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

from expunge.core import checks
from expunge.core.registry import architecture
from expunge.models._check import Shape


@dataclass(frozen=True)
class MlpConfig:
    """Options of the perceptron."""

    hidden: tuple[int, ...] = (128, 64)
    """Units of each hidden layer."""
    dropout: float = 0.0
    """Chance that a hidden unit is dropped in training. ``hidden=64,dropout=0.5`` is the network for tabular data of
    Qiao et al. 2024 (arXiv:2404.01712)."""

    def __post_init__(self) -> None:
        checks.between(0, 0.999, dropout=self.dropout)
        for width in self.hidden:
            checks.at_least(1, hidden=width)


@architecture()
def build(config: MlpConfig, shape: Shape, num_classes: int) -> nn.Module:
    """Linear layers with ReLU between."""
    sizes = [prod(shape), *config.hidden]
    dropout = [nn.Dropout(config.dropout)] * (config.dropout > 0)
    layers = [layer for sizes_ in pairwise(sizes) for layer in (nn.Linear(*sizes_), nn.ReLU(), *dropout)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], num_classes))
