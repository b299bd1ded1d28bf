"""The original model unchanged: a baseline."""

from dataclasses import dataclass

from torch import nn

from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context


@dataclass(frozen=True)
class OriginalConfig:
    """There is nothing to choose."""


@method(reference="the original model", aliases=("raw", "nothing"), roles=())
def unlearn(model: nn.Module, data: UnlearningData, config: OriginalConfig, context: Context) -> nn.Module:
    """Leave the model as it is."""
    return model
