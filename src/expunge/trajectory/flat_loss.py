"""Derivatives of the mean cross-entropy of a batch in all weights as one flat vector.

Two implementations: by autograd for any network, and in closed form for one linear layer on fixed features.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional

from expunge.core.errors import RequestError
from expunge.curvature import heads
from expunge.curvature.heads import Head
from expunge.curvature.network import Network, Vector, flat, frozen, kept_bytes, shaped
from expunge.curvature.products import forward_derivative
from expunge.data.image_set import ImageSet

BLOCK = 128
"""Vectors whose closed form is computed at once."""

MEMORY = 250_000_000
"""Bytes that products with many vectors take by default."""

TANGENT = 6
"""Memory of one product, as a multiple of what autograd keeps of a forward pass."""

MANY = 8
"""Number of vectors from which forward over reverse for all at once is faster than double backward for each."""


@contextmanager
def flat_loss(
    model: nn.Module, images: ImageSet, dtype: torch.dtype = torch.float32, memory: int = MEMORY
) -> Iterator["FlatLoss"]:
    """The loss of a model on images as a function of flat weights; the model itself is not changed.

    Where only the last linear layer is trainable (a logistic model, the head of a frozen network), its inputs are
    computed once, and derivatives are in closed form. Else products with many vectors take about ``memory`` bytes
    beside the vectors.

    Raises:
        RequestError: Nothing is trainable, or examples are mixed even in evaluation mode.
    """
    with frozen(model, dtype) as network:
        try:
            head = heads.find(network, images)
        except RequestError:  # there is none
            head = None
        if head is None or set(head.names) != set(network.weights):
            yield NetworkLoss(network, images, memory)
        else:
            yield LinearLoss(network, images, head)


class NetworkLoss:
    """The mean cross-entropy of batches as a function of flat weights (p,), for any network, by autograd.

    In evaluation mode, on the test transform.
    """

    def __init__(self, network: Network, images: ImageSet, memory: int) -> None:
        self.network, self.images, self.dtype = network, images, network.dtype
        self.weights = self.flat(network.weights)
        self._memory, self._kept = memory, kept_bytes(network, images)

    def point(self, weights: Tensor, positions: Tensor) -> "NetworkPoint":
        """The loss of the images at these positions, at flat weights (p,)."""
        found, size = self.images.select(positions), max(1, len(positions))
        at_once = max(1, self._memory // (TANGENT * size * self._kept + 3 * weights.nbytes))
        inputs = found.gather(found.ids).inputs.to(self.dtype)
        return NetworkPoint(self.network, weights, inputs, found.labels, at_once)

    def flat(self, vector: Vector) -> Tensor:
        """A vector by name as a flat one (p,)."""
        return flat({name: vector[name].to(self.dtype) for name in self.network.weights})

    def named(self, vector: Tensor) -> Vector:
        """The inverse of :meth:`flat`."""
        return shaped(vector, self.network.weights)

    def in_order(self, vectors: Tensor) -> Tensor:
        """Flat vectors (count, p) with their entries in the order of the weights' names."""
        return vectors


class NetworkPoint:
    """The loss ``L = mean CE`` of one batch of a network near one value w of the weights."""

    def __init__(self, network: Network, weights: Tensor, inputs: Tensor, labels: Tensor, at_once: int) -> None:
        """``at_once`` is the number of vectors whose products are computed together."""
        self.network, self.weights, self.inputs, self.labels = network, weights, inputs, labels
        self.at_once = at_once
        self._leaf: Tensor | None = None
        self._slope: Tensor | None = None

    @property
    def count(self) -> int:
        """The number of examples b."""
        return len(self.labels)

    def gradient(self) -> Tensor:
        """``grad L`` (p,)."""
        leaf = self.weights.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self._loss(leaf), leaf)[0]

    def gradients(self) -> Tensor:
        """The gradient of each example (b, p). Cost: about one forward and backward pass."""

        def one(weights: Tensor, image: Tensor, label: Tensor) -> Tensor:
            return self._losses(weights, image[None], label[None])[0]

        return vmap(grad(one), in_dims=(None, 0, 0))(self.weights, self.inputs, self.labels)

    def add_products(self, out: Tensor, vectors: Tensor, alpha: float, beta: float) -> None:
        """``out <- beta out + alpha H v`` in place for vectors (count, p); ``out`` may be ``vectors`` itself.

        Cost: about 3 gradients of the batch for a vector, less than 2 each for many.
        """
        if not len(vectors):
            return
        for rows, given in zip(out.split(self.at_once), vectors.split(self.at_once), strict=True):
            found = self._many(given) if len(given) >= MANY else torch.stack([self._one(each) for each in given])
            rows.mul_(beta).add_(found, alpha=alpha)

    def slopes(self, vectors: Tensor) -> Tensor:
        """``g_i . v`` for vectors (count, p): (count, b). Cost: a forward pass with tangents for each."""

        def losses(weights: Tensor) -> Tensor:
            return self._losses(weights, self.inputs, self.labels)

        return torch.stack([forward_derivative(losses, self.weights, each)[1] for each in vectors])

    def _loss(self, weights: Tensor) -> Tensor:
        return self._losses(weights, self.inputs, self.labels).mean()

    def _losses(self, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.network.losses(shaped(weights, self.network.weights), inputs, labels)

    def _one(self, vector: Tensor) -> Tensor:
        """``H v`` by double backward, on a graph that is built once."""
        if self._leaf is None or self._slope is None:
            self._leaf = self.weights.detach().requires_grad_()
            with torch.enable_grad():
                self._slope = torch.autograd.grad(self._loss(self._leaf), self._leaf, create_graph=True)[0]
        return torch.autograd.grad(self._slope, self._leaf, vector, retain_graph=True)[0]

    def _many(self, vectors: Tensor) -> Tensor:
        """``H v`` of many vectors, forward over reverse, with one primal pass."""
        return vmap(lambda vector: forward_derivative(grad(self._loss), self.weights, vector)[1])(vectors)


class LinearLoss:
    """The loss of one linear layer on fixed features, in closed form.

    Flat vectors are ``(W | bias)`` row by row, for features with a column of ones. Features that are constant over the
    images (the bias, black borders, dead units) come last.
    """

    def __init__(self, network: Network, images: ImageSet, head: Head) -> None:
        """Compute the features of all images: n d numbers, one forward pass."""
        self.images, self.dtype, self._head = images, network.dtype, head
        features = heads.features(network, head, images, dtype=network.dtype)
        constant = features.amax(dim=0) == features.amin(dim=0)
        self._order = constant.to(torch.uint8).argsort(stable=True)
        self._back = self._order.argsort()
        self.features = features[:, self._order]
        self.varying = int((~constant).sum())
        """The number of features that vary; they come first."""
        self.targets = functional.one_hot(images.labels, head.module.out_features).to(network.dtype)
        self.weights = self.flat(network.weights)

    def point(self, weights: Tensor, positions: Tensor) -> "LinearPoint":
        """See :class:`NetworkLoss`."""
        positions = positions.to(self.images.device)
        return LinearPoint(weights, self.features[positions], self.targets[positions])

    def flat(self, vector: Vector) -> Tensor:
        """See :class:`NetworkLoss`."""
        return self._head.matrix(vector).to(self.dtype)[:, self._order].flatten()

    def named(self, vector: Tensor) -> Vector:
        """See :class:`NetworkLoss`."""
        return self._head.vector(vector.view(-1, self.features.shape[1])[:, self._back])

    def in_order(self, vectors: Tensor) -> Tensor:
        """See :class:`NetworkLoss`."""
        matrices = vectors.view(len(vectors), -1, self.features.shape[1])[:, :, self._back]
        if self._head.bias is None:
            return matrices.flatten(1)
        return torch.cat([matrices[:, :, :-1].flatten(1), matrices[:, :, -1]], dim=1)


class LinearPoint:
    """A batch of softmax regression: X (b, d), the probabilities P (b, classes)."""

    def __init__(self, weights: Tensor, features: Tensor, targets: Tensor) -> None:
        """``targets`` (b, classes) are the labels one-hot."""
        self.features = features
        self.count = features.shape[0]
        self.p = torch.softmax(features @ weights.view(-1, features.shape[1]).T, dim=1)
        self.residuals = self.p - targets

    def gradient(self) -> Tensor:
        """See :class:`NetworkPoint`."""
        return (self.residuals.T @ self.features).flatten().div_(self.count)

    def gradients(self) -> Tensor:
        """See :class:`NetworkPoint`."""
        return torch.einsum("nk,nd->nkd", self.residuals, self.features).flatten(1)

    def add_products(self, out: Tensor, vectors: Tensor, alpha: float, beta: float) -> None:
        """See :class:`NetworkPoint`. Cost: two matrix products, 4 count p b operations, no temporary of p numbers."""
        p, count, wide = self.p.T.contiguous(), self.count, self.features.shape[1]
        # A block of vectors stays in the cache between the two products.
        for rows, given in zip(out.split(BLOCK), vectors.split(BLOCK), strict=True):
            moved = (given.view(-1, wide) @ self.features.T).view(-1, *p.shape).mul_(p)
            moved -= p * moved.sum(dim=1, keepdim=True)
            rows.view(-1, wide).addmm_(moved.view(-1, count), self.features, beta=beta, alpha=alpha / count)

    def slopes(self, vectors: Tensor) -> Tensor:
        """See :class:`NetworkPoint`."""
        moved = torch.einsum("rkd,nd->rnk", vectors.view(len(vectors), self.p.shape[1], -1), self.features)
        return (moved * self.residuals).sum(dim=2)


FlatLoss = NetworkLoss | LinearLoss
Point = NetworkPoint | LinearPoint
