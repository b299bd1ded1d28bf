"""Gradients of single examples, in chunks that fit into a memory budget, and the diagonals of the Fisher matrix."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from expunge.curvature.layers import recorded
from expunge.curvature.network import Network, Vector, kept_bytes
from expunge.curvature.softmax_linear import residuals
from expunge.data.image_set import Batch, ImageSet

LARGEST_CHUNK = {"cpu": 64, "cuda": 512}
"""The number of examples beyond which a larger chunk is not faster: on a CPU it exceeds the caches."""

Slopes = Callable[[Tensor], Sequence[Tensor]]
"""From the logits of a batch to several tensors of their shape (batch, classes)."""


def chunk_size(network: Network, images: ImageSet, memory: int) -> int:
    """The number of examples whose gradients fit into ``memory`` bytes at once; at least one.

    An example needs three times the size of its gradient; what autograd keeps of its forward pass, measured on the
    first image; and as much again for each class and one more, for the gradients in the outputs of all layers.
    """
    first = next(network.batches(images, 1))
    with torch.no_grad():
        classes = network.logits(network.weights, first.inputs).shape[1]
    kept = kept_bytes(network, images)
    gradient = sum(weight.nbytes for weight in network.weights.values())
    largest = LARGEST_CHUNK.get(images.device.type, 64)
    return max(1, min(largest, int(memory) // (3 * gradient + (2 + classes) * kept)))


def example_gradients(network: Network, inputs: Tensor, labels: Tensor) -> Vector:
    """The gradient of the cross-entropy of each example, by weight: (batch, ...).

    Cost: a forward and a backward pass, where :func:`layers.recorded` supports the network; else by ``vmap``, which
    for convolutions on a CPU is several times slower.
    """
    seen = recorded(network, inputs)
    if seen is not None:
        return seen.gradients(residuals(seen.logits.detach(), labels))

    def loss(weights: Vector, one: Tensor, label: Tensor) -> Tensor:
        return network.losses(weights, one[None], label[None])[0]

    return vmap(grad(loss), in_dims=(None, 0, 0))(network.weights, inputs, labels)


def gradients(network: Network, images: ImageSet, memory: int) -> Iterator[tuple[Batch, Vector]]:
    """Chunks of images with the gradient of each example's cross-entropy to its label.

    Cost: one forward and backward pass over the images, p numbers per example of a chunk.
    """
    for batch in network.batches(images, chunk_size(network, images, memory)):
        yield batch, example_gradients(network, batch.inputs, batch.labels)


def square_sums(network: Network, inputs: Tensor, slopes: Slopes) -> Vector:
    """``sum_i sum_s g_is^2``, g_is the gradient of ``s_i . logits_i`` and s each of ``slopes(logits)``.

    Cost: one forward pass and a backward pass for each s, and no gradient of single examples in linear layers, where
    :func:`layers.recorded` supports the network; else a forward and a backward pass for each, by ``vmap``.
    """
    seen = recorded(network, inputs)
    if seen is not None:
        return seen.squares(slopes(seen.logits.detach()))

    def along(weights: Vector, one: Tensor, slope: Tensor) -> Tensor:
        return (network.logits(weights, one[None])[0] * slope).sum()

    with torch.no_grad():
        logits = network.logits(network.weights, inputs)
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    for each in slopes(logits):
        found = vmap(grad(along), in_dims=(None, 0, 0))(network.weights, inputs, each)
        for name, part in found.items():
            total[name] += part.square().sum(dim=0)
    return total


def empirical_fisher(network: Network, images: ImageSet, memory: int) -> Vector:
    """``F_j = (1/n) sum_i (d_j log p(y_i | x_i))^2`` with the true labels y; one forward and backward pass."""
    return _mean_squares(network, images, memory, lambda logits, labels: [residuals(logits, labels)])


def true_fisher(network: Network, images: ImageSet, memory: int) -> Vector:
    """``F_j = (1/n) sum_i sum_c p(c | x_i) (d_j log p(c | x_i))^2``: the expectation over labels of the model, exactly.

    Cost: a forward pass and a backward pass for each class over the images.
    """

    def of_classes(logits: Tensor, labels: Tensor) -> list[Tensor]:
        roots = torch.softmax(logits, dim=1).sqrt()
        classes = range(roots.shape[1])
        return [roots[:, each, None] * residuals(logits, torch.full_like(labels, each)) for each in classes]

    return _mean_squares(network, images, memory, of_classes)


def _mean_squares(
    network: Network, images: ImageSet, memory: int, slopes: Callable[[Tensor, Tensor], list[Tensor]]
) -> Vector:
    """The mean over the images of :func:`square_sums`, with slopes from the logits and labels of a batch."""
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    for batch in network.batches(images, chunk_size(network, images, memory)):
        found = square_sums(network, batch.inputs, lambda logits, labels=batch.labels: slopes(logits, labels))
        for name, each in found.items():
            total[name] += each
    return {name: sum_of / len(images) for name, sum_of in total.items()}
