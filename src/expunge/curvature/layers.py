"""Gradients of single examples from one backward pass of a batch.

For an affine layer with inputs a and gradients d in its outputs, the gradient of an example is ``sum_l d_l a_l^T``
over the places l at which the weight is used: one for a linear layer, the pixels of the output for a convolution.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from expunge.curvature.network import Network, Vector

AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""The number of entries of patches that are processed at once: the size of a cache, or enough for a GPU."""

Patches = Callable[[Tensor], Tensor]
"""From inputs (batch, ...) of a layer to a: (batch, groups, in, places)."""


@dataclass(frozen=True)
class Layer:
    """One use of a weight and a bias. Batch normalisation is an affine map of one channel for each group."""

    weight: str | None
    """The name of the weight, if it is trained."""
    bias: str | None
    """The name of the bias, if it is trained."""
    inputs: Tensor
    """(batch, ...)"""
    patches: Patches
    """Computes a from inputs when it is needed: that of a convolution is many times as large."""
    output: GradientEdge
    """The output in the graph, at which gradients d are taken."""

    def squares(self, slopes: Sequence[Tensor]) -> Vector:
        """The squares of the gradients, summed over the batch and over several slopes (batch, channels, ...) of it."""
        total: Vector = {}
        for d, a in self._blocks(slopes):
            for name, each in self._squares(d, a).items():
                total[name] = total[name].add_(each) if name in total else each
        return total

    def gradients(self, slopes: Tensor) -> Vector:
        """The gradient of each example, (batch, groups, 1, out / groups, in) and (batch, groups, 1, out / groups)."""
        parts = [self._gradients(d, a) for d, a in self._blocks([slopes])]
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def pair(self, slopes: Tensor) -> tuple[Tensor, Tensor] | None:
        """Gradients d (batch, out) and inputs a (batch, in), where that of the weight is their outer product."""
        first = self.patches(self.inputs[:1])
        if self.weight is None or first.shape[1] * first.shape[3] > 1:
            return None
        return slopes.flatten(1), self.patches(self.inputs).flatten(1)

    def along(self, slopes: Tensor, vectors: Vector) -> Tensor:
        """The inner products (batch, count) of the gradients with vectors (count, ...)."""
        flat = {name: each.flatten(1).T for name, each in vectors.items()}
        pair = self.pair(slopes)
        if self.weight is None or pair is None:
            parts = [
                {name: each.flatten(1) @ flat[name] for name, each in self._gradients(*block).items()}
                for block in self._blocks([slopes])
            ]
            return torch.cat([torch.stack(list(part.values())).sum(dim=0) for part in parts])
        d, a = pair  # gradients need not be formed
        moved = (a @ vectors[self.weight].flatten(2).flatten(0, 1).T).unflatten(1, (-1, d.shape[1]))
        total = (moved * d[:, None]).sum(dim=2)
        return total if self.bias is None else total + d @ flat[self.bias]

    def _squares(self, d: Tensor, a: Tensor) -> Vector:
        if self.weight is None or a.shape[1] * a.shape[3] > 1:
            return {name: each.square_().sum(dim=(0, 2)) for name, each in self._gradients(d, a).items()}
        squares = d.square().sum(dim=2)[:, 0, :, 0]  # (d a)^2 = d^2 a^2: gradients need not be formed
        total = {self.weight: squares.T @ a[:, 0, :, 0].square()}
        return total if self.bias is None else total | {self.bias: squares.sum(dim=0)}

    def _gradients(self, d: Tensor, a: Tensor) -> Vector:
        found: Vector = {}
        if self.weight is not None:
            found[self.weight] = (d.flatten(2, 3) @ a.transpose(2, 3)).unflatten(2, d.shape[2:4])
        if self.bias is not None:
            found[self.bias] = d.sum(dim=4)
        return found

    def _blocks(self, slopes: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Slopes d (batch, groups, several, out / groups, places) and a, of some examples at a time."""
        size = max(1, AT_ONCE.get(self.inputs.device.type, 2**18) // self.patches(self.inputs[:1]).numel())
        for inputs, *parts in zip(self.inputs.split(size), *(each.split(size) for each in slopes), strict=True):
            a = self.patches(inputs)
            shape = (len(a), a.shape[1], parts[0].shape[1] // a.shape[1], -1)
            yield torch.stack([part.reshape(shape) for part in parts], dim=2), a


@dataclass(frozen=True)
class Pass:
    """A forward pass over a batch, with every use of a trained weight in it."""

    network: Network
    logits: Tensor
    """(batch, classes), with the graph."""
    layers: list[Layer]

    def squares(self, slopes: Sequence[Tensor]) -> Vector:
        """``sum_i sum_s g_is^2``, g_is the gradient of ``s_i . logits_i``, for several slopes s (batch, classes)."""
        along = zip(*(self._at_layers(each) for each in slopes), strict=True)
        found = [layer.squares(each) for layer, each in zip(self.layers, along, strict=True)]
        return self._in_order(found, ())

    def gradients(self, slopes: Tensor) -> Vector:
        """The gradients g_i of ``slopes_i . logits_i`` themselves, (batch, ...) by weight."""
        found = [layer.gradients(each) for layer, each in zip(self.layers, self._at_layers(slopes), strict=True)]
        return self._in_order(found, (len(slopes),))

    def pairs(self, slopes: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """By weight, for those whose gradient g_i is ``d_i a_i^T``: d (batch, out) and a (batch, in)."""
        found = [(layer.weight, layer.pair(d)) for layer, d in zip(self.layers, self._at_layers(slopes), strict=True)]
        return {name: pair for name, pair in found if name is not None and pair is not None}

    def along(self, slopes: Tensor, vectors: Vector) -> Tensor:
        """``g_i . v`` (count, batch) for vectors whose tensors (count, ...) have a vector per row."""
        found = [layer.along(d, vectors) for layer, d in zip(self.layers, self._at_layers(slopes), strict=True)]
        return torch.stack(found).sum(dim=0).T

    def _in_order(self, found: list[Vector], batch: tuple[int, ...]) -> Vector:
        """The results by layer in the shapes and the order of the weights."""
        parts = {name: each for part in found for name, each in part.items()}
        return {name: parts[name].view(*batch, *weight.shape) for name, weight in self.network.weights.items()}

    def _at_layers(self, slopes: Tensor) -> tuple[Tensor, ...]:
        """One backward pass to the outputs of all layers; the graph is kept."""
        edges = [layer.output for layer in self.layers]
        return torch.autograd.grad(self.logits, edges, slopes, retain_graph=True)


def recorded(network: Network, inputs: Tensor) -> Pass | None:
    """A forward pass with every use of a weight; None where one is not supported.

    Supported are linear layers on vectors, two-dimensional convolutions and batch normalisation in evaluation mode;
    each weight must be used once in the graph. Memory: the graph.
    """
    leaves = network.leaves()
    with torch.enable_grad(), _Recorder(leaves, len(inputs)) as recorder:
        logits = network.logits(leaves, inputs)
    known = Counter(name for layer in recorder.layers for name in (layer.weight, layer.bias) if name is not None)
    once = Counter(list(leaves))
    return Pass(network, logits, recorder.layers) if known == once == _uses(logits, leaves) else None


def _uses(logits: Tensor, leaves: Vector) -> Counter[str]:
    """The number of uses of each weight in the graph of the logits."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    found: Counter[str] = Counter()
    seen, waiting = set[Node](), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        for child, _ in node.next_functions if node is not None else ():
            name = names.get(id(getattr(child, "variable", None)))
            if name is not None:
                found[name] += 1
            elif child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


class _Recorder(TorchFunctionMode):
    """Records the calls of supported functions that use a weight."""

    def __init__(self, leaves: Vector, batch: int) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._batch = batch

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _KINDS:
            use = _KINDS[func](*args, **(kwargs or {}))
            names = self._names.get(id(use.weight)), self._names.get(id(use.bias))
            if use.patches is not None and len(use.inputs) == self._batch and names != (None, None):
                edge = get_gradient_edge(output)  # not the tensor, which later operations may overwrite
                self.layers.append(Layer(*names, use.inputs.detach(), use.patches, edge))
        return output


@dataclass(frozen=True)
class _Use:
    """The arguments of a call; no patches where the call is not supported."""

    inputs: Tensor
    weight: Tensor | None
    bias: Tensor | None
    patches: Patches | None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Use:
    return _Use(input, weight, bias, (lambda inputs: inputs[:, None, :, None]) if input.ndim == 2 else None)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> _Use:
    if isinstance(padding, str) or input.ndim != 4:
        return _Use(input, weight, bias, None)
    kernel = tuple(weight.shape[2:])
    patches = partial(unfold, kernel=kernel, stride=_pair(stride), padding=_pair(padding), dilation=_pair(dilation))
    return _Use(input, weight, bias, lambda inputs: patches(inputs).unflatten(1, (groups, -1)))


def _normalisation(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Use:
    def patches(inputs: Tensor) -> Tensor:
        scaled = functional.batch_norm(inputs, running_mean, running_var, eps=eps)
        return scaled.reshape(*scaled.shape[:2], 1, -1)

    return _Use(input, weight, bias, None if training else patches)


_KINDS: dict[Callable[..., Any], Callable[..., _Use]] = {
    functional.linear: _linear,
    functional.conv2d: _convolution,
    functional.batch_norm: _normalisation,
}


def _pair(given: int | tuple[int, ...]) -> tuple[int, ...]:
    return (given, given) if isinstance(given, int) else (given[0], given[-1])


def unfold(
    images: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """As ``functional.unfold``, (batch, channels kernel, places), by one copy: much faster on a CPU."""
    padded = functional.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    batch, channels, *sizes = padded.shape
    steps = padded.stride()
    reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    places = [(size - far - 1) // step + 1 for size, far, step in zip(sizes, reach, stride, strict=True)]
    offsets = [step * by for step, by in zip(steps[2:], dilation, strict=True)]
    moves = [step * by for step, by in zip(steps[2:], stride, strict=True)]
    view = padded.as_strided((batch, channels, *kernel, *places), (*steps[:2], *offsets, *moves))
    return view.reshape(batch, channels * kernel[0] * kernel[1], -1)
