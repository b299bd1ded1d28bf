"""Gradients of single examples, in chunks that fit into a memory budget, and the diagonals of the Fisher matrix."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import grad, vmap

from expunge.curvature.network import Network, Vector
from expunge.data.image_set import Batch, ImageSet

LARGEST_CHUNK = 256
"""Beyond so many examples a larger chunk is not faster."""


def chunk_size(network: Network, images: ImageSet, memory: int) -> int:
    """How many examples have their gradients computed at once within ``memory`` bytes; at least one.

    An example needs its gradient and two more of that size for what is done with it, and twice what autograd keeps
    of its forward pass, which is counted on the first image.
    """
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    first = next(network.batches(images, 1))
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network.losses(network.leaves(), first.inputs, first.labels)
    gradient = sum(weight.nbytes for weight in network.weights.values())
    return max(1, min(LARGEST_CHUNK, int(memory) // (3 * gradient + 2 * kept)))


def example_gradients(network: Network, inputs: Tensor, labels: Tensor) -> Vector:
    """The gradient of the cross-entropy of each example, by weight: (batch, ...)."""

    def loss(weights: Vector, one: Tensor, label: Tensor) -> Tensor:
        return network.losses(weights, one[None], label[None])[0]

    return vmap(grad(loss), in_dims=(None, 0, 0))(network.weights, inputs, labels)


def gradients(network: Network, images: ImageSet, memory: int) -> Iterator[tuple[Batch, Vector]]:
    """Chunks of images with the gradient of each example's cross-entropy to its label.

    Cost: one forward and backward pass over the images, p numbers per example of a chunk.
    """
    for batch in network.batches(images, chunk_size(network, images, memory)):
        yield batch, example_gradients(network, batch.inputs, batch.labels)


def empirical_fisher(network: Network, images: ImageSet, memory: int) -> Vector:
    """``F_j = (1/n) sum_i (d_j log p(y_i | x_i))^2`` with the true labels y; one forward and backward pass."""
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    for _, found in gradients(network, images, memory):
        for name, each in found.items():
            total[name] += each.square().sum(dim=0)
    return {name: sum_of / len(images) for name, sum_of in total.items()}


@torch.no_grad()
def true_fisher(network: Network, images: ImageSet, memory: int) -> Vector:
    """``F_j = (1/n) sum_i sum_c p(c | x_i) (d_j log p(c | x_i))^2``: the expectation over labels of the model, exactly.

    Cost: a forward and backward pass over the images for each class.
    """
    total = {name: torch.zeros_like(weight) for name, weight in network.weights.items()}
    for batch in network.batches(images, chunk_size(network, images, memory)):
        p = torch.softmax(network.logits(network.weights, batch.inputs), dim=1)
        for label in range(p.shape[1]):
            found = example_gradients(network, batch.inputs, torch.full_like(batch.labels, label))
            for name, each in found.items():
                total[name] += torch.tensordot(p[:, label], each.square(), dims=1)
    return {name: sum_of / len(images) for name, sum_of in total.items()}
