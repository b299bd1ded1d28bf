"""Products of the Hessian and of the Gauss-Newton matrix with a vector, without the matrices."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import jvp, vjp

from expunge.curvature.layers import recorded
from expunge.curvature.network import Network, Vector, add, dot, forward_mode
from expunge.curvature.softmax_linear import residuals
from expunge.data.image_set import ImageSet

Point = TypeVar("Point", Tensor, Vector)


def hessian_vector(network: Network, images: ImageSet, vector: Mapping[str, Tensor], batch_size: int = 256) -> Vector:
    """``H v`` with H the Hessian of ``L = (1/n) sum_i CE_i`` at the network's weights, by double backward.

    ``H v = grad (grad L . v)`` (Pearlmutter 1994). Cost: about two forward and two backward passes over the
    images, in batches; memory: the graph of one batch and its gradient, and p numbers.
    """
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    for batch in network.batches(images, batch_size):
        weights = network.leaves()
        leaves = list(weights.values())
        loss = network.losses(weights, batch.inputs, batch.labels).sum() / len(images)
        slope = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        along = dot(dict(zip(weights, slope, strict=True)), vector)
        if along.requires_grad:  # not where no logit depends on any weight
            add(total, torch.autograd.grad(along, leaves, materialize_grads=True))
    return total


def gauss_newton_vector(
    network: Network, images: ImageSet, vector: Mapping[str, Tensor], batch_size: int = 256
) -> Vector:
    """``(1/n) sum_i J_i^T (diag(p_i) - p_i p_i^T) J_i v``, J_i the Jacobian (classes, p) of the logits of example i.

    For the cross-entropy this is the true Fisher matrix (labels drawn from the model; Martens 2020, section 9.2),
    and positive semi-definite, which the Hessian is not. Cost: a forward pass with tangents (jvp), and a forward and
    a backward pass (vjp) over the images.
    """
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    tangent = dict(vector)
    for batch in network.batches(images, batch_size):

        def logits(weights: Vector, inputs: Tensor = batch.inputs) -> Tensor:
            return network.logits(weights, inputs)

        values, moved = forward_derivative(logits, network.weights, tangent)
        p = torch.softmax(values, dim=1)
        curved = p * (moved - (p * moved).sum(dim=1, keepdim=True)) / len(images)
        parts = vjp(logits, network.weights)[1](curved)[0]
        add(total, tuple(parts[name] for name in total))
    return total


def slopes_along(network: Network, images: ImageSet, vectors: Mapping[str, Tensor], batch_size: int = 256) -> Tensor:
    """``g_i . v`` (count, n) for vectors whose tensors (count, ...) have a vector per row.

    Cost: a forward and a backward pass over the images for all vectors, and about half a forward pass for each, where
    :func:`layers.recorded` supports the network; else a forward pass with tangents for each.
    """
    given, found = dict(vectors), list[Tensor]()
    for batch in network.batches(images, batch_size):
        seen = recorded(network, batch.inputs)
        if seen is not None:
            found.append(seen.along(residuals(seen.logits.detach(), batch.labels), given))
            continue

        def losses(weights: Vector, inputs: Tensor = batch.inputs, labels: Tensor = batch.labels) -> Tensor:
            return network.losses(weights, inputs, labels)

        count = len(next(iter(given.values())))
        rows = [{name: each[row] for name, each in given.items()} for row in range(count)]
        found.append(torch.stack([forward_derivative(losses, network.weights, row)[1] for row in rows]))
    return torch.cat(found, dim=1)


def forward_derivative(function: Callable[[Point], Tensor], at: Point, tangent: Point) -> tuple[Tensor, Tensor]:
    """The value of ``function`` and its derivative along ``tangent``, in one forward pass."""
    with forward_mode():
        found = jvp(function, (at,), (tangent,))
    return found[0], found[1]
