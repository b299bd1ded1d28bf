"""Input normalisation as the first layer of a model."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InputNormalisation(nn.Module):
    """``(x - mean) / std`` per channel of (batch, channels, height, width), or per feature of (batch, features)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Register the statistics as buffers, which are saved with the model and not trained."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise a batch."""
        shape = (-1, *(1,) * (inputs.ndim - 2))
        return (inputs - self.mean.view(shape)) / self.std.view(shape)


def with_normalisation(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Put input normalisation before a network."""
    return nn.Sequential(OrderedDict(normalise=InputNormalisation(mean, std), network=network))
