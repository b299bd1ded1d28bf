"""The input step of a model: subtract the mean and divide by the deviation of each channel."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InputNormalisation(nn.Module):
    """``(x - mean) / std`` per channel of (batch, channels, height, width)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep the statistics as buffers: they are saved with the model and never trained."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """The normalised batch."""
        return (inputs - self.mean) / self.std


def with_normalisation(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The network behind its input step."""
    return nn.Sequential(OrderedDict(normalise=InputNormalisation(mean, std), network=network))
