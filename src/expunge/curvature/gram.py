"""Solutions of systems whose matrix is a damped sum of outer products of gradients: by the Gram matrix of these."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from expunge.curvature.fisher import gradients
from expunge.curvature.network import Network, Vector, flat, shaped
from expunge.curvature.solve import positive_solve
from expunge.data.image_set import ImageSet


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
    n x n system in float64 takes the place of one of p x p. F is the matrix of WoodFisher (Singh and Alistarh 2020,
    arXiv:2004.14340, section 3), whose n rank-one updates of the inverse come to the same. Where ``moving`` (bool by
    name) is false, weights do not exist for F: ``v`` must be zero there.

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
    gram.diagonal().add_(count * damping)
    weights = positive_solve(gram, along)
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
