"""Softmax regression in closed form: gradients, Hessian and products of ``logits = X W^T``, without autograd.

X (n, d) are the inputs, with a column of ones where there is an intercept; W is (classes, d); P = softmax(X W^T).
With ``diag(p) - p p^T`` the Hessian of the cross-entropy in the logits of one example, the Hessian of the mean in W is
``(1/n) sum_i (diag(p_i) - p_i p_i^T) kron x_i x_i^T`` (Boehning 1992): positive semi-definite, and independent of the
true labels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each cross-entropy in the logits (n, classes): ``p_i - e_{y_i}``.

    The gradient in W of example i is the outer product of this row and ``x_i``.
    """
    p = torch.softmax(logits, dim=1)
    return p - functional.one_hot(labels, p.shape[1]).to(p.dtype)


def gradient(inputs: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy in W: ``(P - Y)^T X / n``, (classes, d), with Y the labels one-hot."""
    return residuals(inputs @ weights.T, labels).T @ inputs / len(inputs)


def curved(p: Tensor, logits: Tensor) -> Tensor:
    """``(diag(p_i) - p_i p_i^T) z_i`` for each row of ``logits`` (..., n, classes)."""
    weighted = p * logits
    return weighted - p * weighted.sum(dim=-1, keepdim=True)


def products(inputs: Tensor, p: Tensor, vectors: Tensor) -> Tensor:
    """``H v`` for many vectors (count, classes, d) at once, H the Hessian of the mean cross-entropy.

    Cost: two matrix products of 2 count classes d n operations; memory: count classes n numbers.
    """
    moved = torch.einsum("rkd,nd->rnk", vectors, inputs)
    return torch.einsum("rnk,nd->rkd", curved(p, moved), inputs) / len(inputs)


def hessian(inputs: Tensor, p: Tensor) -> Tensor:
    """H as a matrix (classes d, classes d), its rows in the order of ``W.flatten()``; n classes^2 d^2 operations."""
    n, d = inputs.shape
    classes = p.shape[1]
    found = torch.empty(classes, d, classes, d, dtype=inputs.dtype, device=inputs.device)
    for first in range(classes):
        for second in range(first, classes):
            weights = -p[:, first] * p[:, second]
            if first == second:
                weights = weights + p[:, first]
            block = (inputs * weights[:, None]).T @ inputs / n
            found[first, :, second] = block
            found[second, :, first] = block.T
    return found.view(classes * d, classes * d)
