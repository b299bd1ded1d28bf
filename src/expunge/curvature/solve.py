"""Solutions of linear systems whose matrix is known by its products, or by the gradients of which it is made."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.curvature.fisher import gradients
from expunge.curvature.network import Network, Vector, dot, flat, shaped
from expunge.data.image_set import ImageSet
from expunge.errors import RunError


@dataclass(frozen=True)
class Solution:
    """What an iteration found: the vector, how many products it took, and ``||b - A x|| / ||b||``."""

    vector: Vector
    iterations: int
    residual: float


def conjugate_gradient(
    apply: Callable[[Vector], Vector], right: Mapping[str, Tensor], tolerance: float, iterations: int
) -> Solution:
    """``x`` with ``A x = b`` for a positive definite A given by its products (Hestenes and Stiefel 1952).

    Stops when the residual is at most ``tolerance`` of b. Cost: a product per iteration and 4 p numbers. The
    residual is the one that the iteration carries along, which float32 lets drift from the true one.

    Raises:
        RunError: The matrix is not positive definite, something is not finite, or the iterations do not suffice.
    """
    x = {name: torch.zeros_like(part) for name, part in right.items()}
    residual = {name: part.clone() for name, part in right.items()}
    direction = {name: part.clone() for name, part in right.items()}
    squared = start = float(dot(residual, residual))
    taken = 0
    while not squared <= tolerance**2 * start:  # also where it is NaN
        if taken == iterations or not math.isfinite(squared):
            raise RunError(
                f"conjugate gradient: at {math.sqrt(squared / start):.2g} of the right side after {taken} iterations "
                f"and not at {tolerance:g}: allow more iterations, a larger tolerance, or raise the damping"
            )
        product = apply(direction)
        curvature = float(dot(direction, product))
        if not curvature > 0:
            raise RunError(
                f"conjugate gradient met a direction of curvature {curvature:.3g}: the matrix is not positive "
                "definite; raise the damping"
            )
        length = squared / curvature
        for name in x:
            x[name] += length * direction[name]
            residual[name] -= length * product[name]
        before, squared = squared, float(dot(residual, residual))
        direction = {name: residual[name] + squared / before * direction[name] for name in x}
        taken += 1
    return Solution(x, taken, math.sqrt(squared / start) if start else 0.0)


def fisher_solve(
    network: Network,
    images: ImageSet,
    right: Mapping[str, Tensor],
    damping: float,
    memory: int,
    moving: Mapping[str, Tensor] | None = None,
) -> Vector:
    """``F^-1 v`` with ``F = damping I + (1/n) sum_i g_i g_i^T``, g_i the gradients of n examples, exactly.

    With G (n, p) the gradients, ``F^-1 v = (v - G^T (n damping I + G G^T)^-1 G v) / damping`` (Woodbury): an
    n x n system in float64 takes the place of one of p x p. Where ``moving`` (bool by name) is false, weights do
    not exist for F: ``v`` must be zero there.

    Cost: G is held as many columns at a time as half of ``memory`` bytes holds, so c = ceil(16 n p / memory) passes
    of gradients over the images for the Gram matrix and as many for the result, one in all if c is 1; n^2 p and
    n^3 / 3 multiplications; 24 n^2 bytes beside that memory. The gradients are in the precision of the network, all
    else in float64: the difference loses about as many digits as the damping is small.

    Raises:
        RunError: A gradient is not finite, or rounding hides a damping so small.
    """
    vector, count = flat(right).double(), len(images)
    width = max(1, memory // 2 // (8 * count))
    blocks = [(start, min(start + width, len(vector))) for start in range(0, len(vector), width)]
    gram = torch.zeros(count, count, dtype=torch.float64, device=vector.device)
    along = torch.zeros(count, dtype=torch.float64, device=vector.device)
    held = torch.empty(0)
    for start, stop in blocks:
        held = _columns(network, images, start, stop, memory // 2, moving)
        gram += held @ held.T
        along += held @ vector[start:stop]
    weights = _positive_solve(gram, count * damping, along)
    result = vector.clone()
    for start, stop in blocks:
        if len(blocks) > 1:
            held = _columns(network, images, start, stop, memory // 2, moving)
        result[start:stop] -= held.T @ weights
    return shaped((result / damping).to(network.dtype), right)


def _columns(
    network: Network, images: ImageSet, start: int, stop: int, memory: int, moving: Mapping[str, Tensor] | None
) -> Tensor:
    """Columns ``start`` to ``stop`` of G: float64 (n, stop - start)."""
    held = torch.empty(len(images), stop - start, dtype=torch.float64, device=images.device)
    row = 0
    for batch, found in gradients(network, images, memory):
        rows = held[row : row + len(batch.labels)]
        for name, source, target in _overlaps(network.weights, start, stop):
            each = found[name] if moving is None else found[name] * moving[name]
            rows[:, target] = each.flatten(1)[:, source]
        row += len(batch.labels)
    return held


def _overlaps(weights: Mapping[str, Tensor], start: int, stop: int) -> Iterator[tuple[str, slice, slice]]:
    """Where the columns of each weight lie within [start, stop): its name, its own part, and their place."""
    first = 0
    for name, weight in weights.items():
        low, high = max(start, first), min(stop, first + weight.numel())
        if low < high:
            yield name, slice(low - first, high - first), slice(low - start, high - start)
        first += weight.numel()


def _positive_solve(gram: Tensor, shift: float, right: Tensor) -> Tensor:
    """``(shift I + gram)^-1 right`` by Cholesky."""
    if not bool(torch.isfinite(gram).all() & torch.isfinite(right).all()):
        raise RunError("the gradients of some examples are not finite: the model or its images hold NaN or infinity")
    shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(shifted)
    if int(info) != 0:
        raise RunError("rounding hides the damping: the damped Gram matrix is not positive definite; raise the damping")
    return torch.cholesky_solve(right[:, None], factor)[:, 0]
