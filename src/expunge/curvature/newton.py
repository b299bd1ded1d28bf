"""Newton-like steps: the curvature of a regularised loss, a right side, and the change of the weights they give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from expunge.core import checks
from expunge.core.errors import RequestError
from expunge.curvature import heads, softmax_linear
from expunge.curvature.heads import Head
from expunge.curvature.network import Network, Vector, check_finite, flat, mean_gradient, shaped
from expunge.curvature.products import gauss_newton_vector, hessian_vector
from expunge.curvature.solve import conjugate_gradient, positive_solve
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context

Weights = Literal["all", "head"]
Curvature = Literal["gauss_newton", "hessian"]
Solver = Literal["cg", "closed_form"]


@dataclass(frozen=True)
class NewtonConfig:
    """The linear system of a Newton-like step, and how it is solved."""

    l2: float | None = None
    """Coefficient of l2/2 ||w||^2, over all weights, in the loss that the original was trained on: by default the
    weight_decay of its rule, where that is known. It belongs to the loss: without it the step is too long."""
    damping: float = 1e-3
    """Added to the diagonal beside l2, to keep the step short in directions of small curvature. Little is needed for
    one layer with l2; a deep network needs 0.1 or more."""
    weights: Weights = "all"
    """all: every trainable weight. head: the last linear layer, on fixed features, in float64."""
    curvature: Curvature = "gauss_newton"
    """gauss_newton: the positive semi-definite part of the Hessian, which is the whole Hessian of a linear layer on
    fixed features. hessian: the whole Hessian; that of a network is indefinite unless damping is large."""
    solver: Solver = "cg"
    """cg: conjugate gradient on products with the matrix. closed_form: the matrix of the last linear layer and its
    Cholesky factor, where all other weights are frozen."""
    tolerance: float = 1e-5
    """cg: the residual at which it stops, relative to the right side."""
    iterations: int = 500
    """cg: the most iterations; the run fails if they do not suffice."""
    batch_size: int = 256
    """Examples per pass; changes rounding alone."""
    memory: float = 4.0
    """closed_form: gigabytes that it may take."""

    def __post_init__(self) -> None:
        checks.at_least(0, l2=self.l2, damping=self.damping)
        checks.one_of(get_args(Weights), weights=self.weights)
        checks.one_of(get_args(Curvature), curvature=self.curvature)
        checks.one_of(get_args(Solver), solver=self.solver)
        checks.between(0, 1, tolerance=self.tolerance)
        checks.at_least(1, iterations=self.iterations, batch_size=self.batch_size)
        checks.above(0, memory=self.memory)


@dataclass(frozen=True)
class Loss:
    """The mean cross-entropy of ``count`` examples as a function of the weights of the step."""

    count: int
    gradient: Vector
    product: Callable[[Vector], Vector]
    """Its curvature times a vector."""
    matrix: Callable[[Tensor], Tensor] | None = None
    """Its curvature as a matrix: the rows and columns at these positions of a flat vector. None for a network."""


def precision(model: nn.Module) -> torch.dtype:
    """float64 for a model of float64, else float32."""
    double = any(weight.dtype == torch.float64 for weight in model.parameters())
    return torch.float64 if double else torch.float32


def losses(network: Network, data: UnlearningData, config: NewtonConfig) -> tuple[Loss, Loss]:
    """The loss of the forget set and that of the retain set; a pass over both.

    Raises:
        RequestError: There is no head where one is needed, or its matrix exceeds ``memory``.
    """
    if config.weights == "all" and config.solver == "cg":
        return of_network(network, data.forget, config), of_network(network, data.retain, config)
    head = heads.find(network, data.retain)
    if config.weights == "all" and set(head.names) != set(network.weights):
        raise RequestError(
            "solver=closed_form is for the last linear layer, and other weights are trainable too: take weights=head, "
            "which leaves them as they are, or solver=cg"
        )
    count = sum(network.weights[name].numel() for name in head.names)
    needed = 4 * 8 * count**2  # a sum of matrices, the next of them, and two copies made in selecting rows and columns
    if config.solver == "closed_form" and needed > config.memory * 1e9:
        raise RequestError(
            f"solver=closed_form needs {needed} bytes for the {count} weights of the last layer, and "
            f"memory={config.memory:g} gigabytes are allowed: take solver=cg, or allow more"
        )
    weights = head.matrix(network.weights).double()
    forget, retain = (
        of_head(head, weights, heads.features(network, head, images, config.batch_size), images.labels)
        for images in (data.forget, data.retain)
    )
    return forget, retain


def of_network(network: Network, images: ImageSet, config: NewtonConfig) -> Loss:
    """The loss of a network; its products cost about two forward and two backward passes over the images."""
    times = hessian_vector if config.curvature == "hessian" else gauss_newton_vector
    return Loss(
        len(images),
        mean_gradient(network, images, config.batch_size),
        lambda vector: times(network, images, vector, config.batch_size),
    )


def of_head(head: Head, weights: Tensor, inputs: Tensor, labels: Tensor) -> Loss:
    """The loss of a head W (classes, d) on its inputs X (n, d); its products cost 4 n classes d multiplications."""
    p = torch.softmax(inputs @ weights.T, dim=1)

    def product(vector: Vector) -> Vector:
        return head.vector(softmax_linear.products(inputs, p, head.matrix(vector)[None])[0])

    def matrix(positions: Tensor) -> Tensor:
        order = flat(head.vector(torch.arange(weights.numel(), device=weights.device).view_as(weights)))[positions]
        return softmax_linear.hessian(inputs, p)[order][:, order]

    return Loss(len(inputs), head.vector(softmax_linear.gradient(inputs, weights, labels)), product, matrix)


def step(
    parts: Sequence[tuple[float, Loss]],
    right: Vector,
    mask: Mapping[str, Tensor],
    config: NewtonConfig,
    context: Context,
) -> Vector:
    """``(sum_k s_k C_k + (l2 + damping) I)^-1 v``, C_k the curvature of a loss and s_k its share.

    Where ``mask`` is false, weights are constants of the problem: neither v nor the matrix has them. Cost: by cg, a
    product with each C_k per iteration; in closed form, for q = classes d weights of the last layer, n q^2
    multiplications for each matrix and q^3 / 3 for the factor.

    Raises:
        RunError: The right side is not finite, or the matrix is not positive definite, or cg does not converge.
    """
    right = {name: part * mask[name] for name, part in right.items()}
    check_finite("the gradient is", *right.values())
    diagonal = context.l2_coefficient(config.l2) + config.damping
    if config.solver == "closed_form":
        return _closed_form(parts, right, mask, diagonal)

    def system(vector: Vector) -> Vector:
        total = {name: diagonal * part for name, part in vector.items()}
        for share, loss in parts:
            for name, product in loss.product(vector).items():
                total[name] += share * product * mask[name]
        return total

    found = conjugate_gradient(system, right, config.tolerance, config.iterations)
    context.notes["cg"] = {"iterations": found.iterations, "residual": found.residual}
    return found.vector


def _closed_form(
    parts: Sequence[tuple[float, Loss]], right: Vector, mask: Mapping[str, Tensor], shift: float
) -> Vector:
    """The same by Cholesky."""
    positions = torch.cat([mask[name].flatten() for name in right]).nonzero()[:, 0]
    dense = torch.zeros(len(positions), len(positions), dtype=torch.float64, device=positions.device)
    for share, loss in parts:
        if loss.matrix is None:
            raise ValueError("only the loss of a head has a matrix")
        dense += share * loss.matrix(positions)
    dense.diagonal().add_(shift)
    result = torch.zeros_like(flat(right))
    result[positions] = positive_solve(dense, flat(right)[positions])
    return shaped(result, right)
