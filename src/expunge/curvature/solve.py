"""Solvers of linear systems whose matrix A is given by its products, and by Cholesky for dense matrices."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.errors import RunError
from expunge.curvature.network import Vector, check_finite, dot

Operator = Callable[[Vector], Vector]
"""A linear map of vectors: ``v -> A v``."""


@dataclass(frozen=True)
class Solution:
    """The vector x, the number of products computed, and ``||b - A x|| / ||b||``."""

    vector: Vector
    iterations: int
    residual: float


def positive_solve(matrix: Tensor, right: Tensor) -> Tensor:
    """``A^-1 b`` by Cholesky for a positive definite matrix (p, p) and a right side (p,).

    Raises:
        RunError: Something is not finite, or the matrix is not positive definite.
    """
    check_finite("the curvature is", matrix, right)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        raise RunError("the matrix is not positive definite, or rounding hides its damping: raise the damping")
    return torch.cholesky_solve(right[:, None], factor)[:, 0]


def conjugate_gradient(
    apply: Operator,
    right: Mapping[str, Tensor],
    tolerance: float,
    iterations: int,
    precondition: Operator | None = None,
) -> Solution:
    """``x`` with ``A x = b`` for a positive definite A given by its products (Hestenes and Stiefel 1952).

    Stops when the residual is at most ``tolerance`` of b. ``precondition`` is a positive definite approximation of the
    inverse of A. Cost: a product per iteration and 4 p numbers. The residual is updated recursively, and in float32 it
    drifts from the true one.

    Raises:
        RunError: The matrix is not positive definite, something is not finite, or it does not converge.
    """
    x = {name: torch.zeros_like(part) for name, part in right.items()}
    residual = {name: part.clone() for name, part in right.items()}
    direction = dict(residual) if precondition is None else precondition(residual)
    left = start = _norm(residual)
    along = float(dot(residual, direction))
    taken = 0
    while not left <= tolerance * start:  # also where it is NaN
        if taken == iterations or not math.isfinite(left):
            raise RunError(
                f"conjugate gradient: at {left / start:.2g} of the right side after {taken} iterations "
                f"and not at {tolerance:g}: allow more iterations, a larger tolerance, or raise the damping"
            )
        product = apply(direction)
        curvature = float(dot(direction, product))
        if not (curvature > 0 and along > 0):
            raise RunError(
                f"conjugate gradient met a direction of curvature {curvature:.3g}: the matrix (or what preconditions "
                "it) is not positive definite; raise the damping"
            )
        length = along / curvature
        for name in x:
            x[name] += length * direction[name]
            residual[name] = residual[name] - length * product[name]
        turned = residual if precondition is None else precondition(residual)
        before, along = along, float(dot(residual, turned))
        direction = {name: turned[name] + along / before * direction[name] for name in x}
        left = _norm(residual)
        taken += 1
    return Solution(x, taken, left / start if start else 0.0)


def lissa(apply: Operator, right: Mapping[str, Tensor], scale: float, depth: int, tolerance: float = 0.0) -> Solution:
    """The truncated Neumann series ``A^-1 b ~ (1/s) sum_{j < depth} (I - A/s)^j b`` (Agarwal et al. 2017).

    It converges where all eigenvalues of A are in (0, 2 s), s being ``scale``; the error in the direction of the
    eigenvalue a is ``(1 - a/s)^depth``. It stops earlier when the residual is at most ``tolerance`` of b. Each product
    is of all examples, where the paper samples one for each (arXiv:1602.03943, algorithm 1). Cost: a product per term
    and 3 p numbers.

    Raises:
        RunError: The series diverges, or something is not finite.
    """
    x = {name: torch.zeros_like(part) for name, part in right.items()}
    residual = dict(right)
    start = left = least = _norm(right)
    taken = 0
    while taken < depth and not left <= tolerance * start:  # also where it is NaN
        for name in x:
            x[name] += residual[name] / scale
        product = apply(x)
        residual = {name: right[name] - product[name] for name in x}
        taken += 1
        left = _norm(residual)
        if not left <= 2 * least:  # where the series converges, the residual grows by rounding alone
            raise RunError(
                f"the Neumann series diverges: its residual grew from {least / start:.2g} to {left / start:.2g} of "
                f"the right side within {taken} terms: take a larger scale (above half the largest eigenvalue), or "
                "raise the damping where the matrix is not positive definite"
            )
        least = min(least, left)
    return Solution(x, taken, left / start if start else 0.0)


def _norm(vector: Mapping[str, Tensor]) -> float:
    """``||v||``; waits for the device."""
    return math.sqrt(float(dot(vector, vector)))
