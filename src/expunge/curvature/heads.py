"""The last linear layer of a network on frozen features: softmax regression, whose curvature has a closed form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from expunge.core.errors import RequestError
from expunge.core.weights import evaluating
from expunge.curvature.network import Network, Vector, hooked
from expunge.data.image_set import ImageSet


@dataclass(frozen=True)
class Head:
    """``logits = X W^T``: X (n, d) are the features, with a column of ones where there is an intercept."""

    module: nn.Linear
    weight: str
    """The name of the weight (classes, features)."""
    bias: str | None
    """The name of the intercept (classes,)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its weights."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def matrix(self, vector: Mapping[str, Tensor]) -> Tensor:
        """The head's part of a vector as one matrix W (classes, d)."""
        if self.bias is None:
            return vector[self.weight]
        return torch.cat([vector[self.weight], vector[self.bias][:, None]], dim=1)

    def vector(self, matrix: Tensor) -> Vector:
        """The inverse of :meth:`matrix`."""
        if self.bias is None:
            return {self.weight: matrix}
        return {self.weight: matrix[:, :-1], self.bias: matrix[:, -1]}


def find(network: Network, images: ImageSet) -> Head:
    """The linear layer whose output is the network's, up to a log-softmax; one forward pass of at most two images.

    Raises:
        RequestError: There is none, it is frozen, or it is called more than once.
    """
    layers = {module: name for name, module in network.model.named_modules() if isinstance(module, nn.Linear)}
    inputs = next(network.batches(images.select(torch.arange(min(2, len(images)))), 2)).inputs
    calls: list[tuple[nn.Linear, Tensor]] = []
    with hooked(layers, lambda layer, _, output: calls.append((cast("nn.Linear", layer), output))), torch.no_grad():
        logits = network.logits(network.weights, inputs)
    if not calls or not _same_loss(calls[-1][1], logits):
        raise RequestError(
            "the network does not end in a linear layer that gives its logits, so it has no head whose curvature is "
            "known in closed form: take weights=all and solver=cg"
        )
    found = calls[-1][0]
    if [layer for layer, _ in calls].count(found) > 1:
        raise RequestError(f"the last linear layer, {layers[found]}, is called more than once: it has no one input")
    names = {id(weight): name for name, weight in network.model.named_parameters()}
    weight, bias = names[id(found.weight)], None if found.bias is None else names[id(found.bias)]  # pyright: ignore
    frozen = [name for name in (weight, bias) if name is not None and name not in network.weights]
    if frozen:
        raise RequestError(f"{frozen[0]} of the last linear layer is frozen: set requires_grad=True on it")
    return Head(found, weight, bias)


def _same_loss(output: Tensor, logits: Tensor) -> bool:
    """Whether both give the same probabilities; values that are not finite are compared as numbers."""
    if output.shape != logits.shape or output.ndim != 2:
        return False
    first, second = (functional.log_softmax(each.nan_to_num(), dim=1) for each in (output, logits))
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def features(
    network: Network, head: Head, images: ImageSet, batch_size: int = 256, dtype: torch.dtype = torch.float64
) -> Tensor:
    """The inputs X (n, d) of the head on the test transform, computed in the network's precision; one forward pass."""
    wide = head.module.in_features + (head.bias is not None)
    found, row = torch.ones(len(images), wide, dtype=dtype, device=images.device), 0

    def note(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        found[row : row + len(inputs[0]), : head.module.in_features] = inputs[0]

    with hooked([head.module], note):
        for batch in network.batches(images, batch_size):
            network.logits(network.weights, batch.inputs)
            row += len(batch.labels)
    return found


@torch.no_grad()
def classifier(model: nn.Module, images: ImageSet, need: str) -> nn.Linear:
    """The linear layer whose output is that of the model, found by the first image in evaluation mode.

    Raises:
        RequestError: There is none; the message begins with ``need``, what it is needed for.
    """
    calls: list[tuple[nn.Linear, Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    with hooked(layers, lambda layer, _, output: calls.append((cast("nn.Linear", layer), output))), evaluating(model):
        logits = model(images.gather(images.ids[:1]).inputs)
    found = [each for each, out in calls if out.shape == logits.shape and out.data_ptr() == logits.data_ptr()]
    if not found:
        raise RequestError(f"{need}: the logits must be the output of an nn.Linear, and in this model they are not")
    return found[-1]
