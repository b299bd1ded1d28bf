"""Doing nothing: the baseline that every method must beat."""

from torch import nn

from expunge.context import Context, UnlearningData
from expunge.registry import method


@method(reference="the original model", aliases=("raw", "nothing"), roles=())
def unlearn(model: nn.Module, data: UnlearningData, context: Context) -> nn.Module:
    """Leave the model as it is."""
    return model
