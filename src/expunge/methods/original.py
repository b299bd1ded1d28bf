"""The original model unchanged: a baseline."""

from torch import nn

from expunge.core.registry import method
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context


@method(reference="the original model", aliases=("raw", "nothing"), roles=())
def unlearn(model: nn.Module, data: UnlearningData, context: Context) -> nn.Module:
    """Leave the model as it is."""
    return model
