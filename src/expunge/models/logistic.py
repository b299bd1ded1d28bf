"""Multinomial logistic regression."""

from dataclasses import dataclass
from math import prod

from torch import nn

from expunge.core.registry import architecture
from expunge.models._check import Shape


@dataclass(frozen=True)
class LogisticConfig:
    """Options of the logistic model."""

    bias: bool = True
    """Whether there is an intercept per class."""


@architecture()
def build(config: LogisticConfig, shape: Shape, num_classes: int) -> nn.Module:
    """One linear layer on the pixels: a convex problem."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), num_classes, bias=config.bias))
