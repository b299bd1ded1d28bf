"""Softmax regression in closed form against autograd in float64."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.nn import functional

from expunge.curvature import softmax_linear

N, D, CLASSES = 7, 5, 4


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs with an intercept, labels, W and the probabilities."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(N, D, generator=generator, dtype=torch.float64)
    inputs[:, -1] = 1.0
    weights = torch.randn(CLASSES, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (N,), generator=generator)
    return inputs, labels, weights, (inputs @ weights.T).softmax(1)


def mean_loss(weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(inputs @ weights.T, labels)


close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-13)


def test_residuals_make_the_gradient_of_each_example() -> None:
    inputs, labels, weights, _ = problem()
    found = softmax_linear.residuals(inputs @ weights.T, labels)[:, :, None] * inputs[:, None, :]
    each = vmap(grad(mean_loss), in_dims=(None, 0, 0))(weights, inputs[:, None], labels[:, None])
    close(found, each)


@pytest.mark.parametrize("shape", [(N, CLASSES), (3, N, CLASSES)])
def test_curved_is_the_hessian_of_cross_entropy_in_the_logits(shape: tuple[int, ...]) -> None:
    inputs, labels, weights, p = problem()
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = vmap(jacrev(jacrev(functional.cross_entropy)))(inputs @ weights.T, labels)
    close(softmax_linear.curved(p, logits), torch.einsum("nkj,...nj->...nk", each, logits))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_hessian_is_that_of_autograd_whatever_the_labels(seed: int) -> None:
    inputs, labels, weights, p = problem(seed)
    found = softmax_linear.hessian(inputs, p)
    for chosen in (labels, labels.roll(1)):
        expected = jacrev(jacrev(mean_loss))(weights, inputs, chosen)
        close(found, expected.reshape(CLASSES * D, CLASSES * D))
    close(found, found.T)
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-12


def test_products_are_the_hessian_times_each_vector() -> None:
    inputs, _, _, p = problem()
    vectors = torch.randn(3, CLASSES, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    dense = softmax_linear.hessian(inputs, p)
    close(softmax_linear.products(inputs, p, vectors).flatten(1), vectors.flatten(1) @ dense)
    none = softmax_linear.products(inputs, p, vectors[:0])
    assert none.shape == (0, CLASSES, D)


def test_a_shift_of_all_logits_has_no_curvature() -> None:
    """``H v = 0`` for a vector that moves the rows of all classes alike: H is semi-definite, never definite."""
    inputs, _, _, p = problem()
    alike = torch.ones(1, CLASSES, 1, dtype=torch.float64) * torch.linspace(-1, 2, D, dtype=torch.float64)
    assert float(softmax_linear.products(inputs, p, alike).abs().max()) < 1e-14
