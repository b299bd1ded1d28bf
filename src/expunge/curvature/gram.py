"""Solutions of systems whose matrix is a damped sum of outer products of gradients: by the Gram matrix of these."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from expunge.curvature.fisher import chunk_size, gradients
from expunge.curvature.layers import recorded
from expunge.curvature.network import Network, Vector, shaped
from expunge.curvature.softmax_linear import residuals
from expunge.curvature.solve import positive_solve
from expunge.data.image_set import ImageSet

Pair = tuple[Tensor, Tensor]
"""D (n, out) and A (n, in) in float64: the gradient of a weight for example i is the outer product of their rows i."""


def fisher_solve(
    network: Network,
    images: ImageSet,
    right: Mapping[str, Tensor],
    damping: float,
    memory: int,
    mask: Mapping[str, Tensor] | None = None,
) -> Vector:
    """``F^-1 v`` with ``F = damping I + (1/n) sum_i g_i g_i^T``, g_i the gradients of n examples, exactly.

    With G (n, p) the gradients, ``F^-1 v = (v - G^T (n damping I + G G^T)^-1 G v) / damping`` (Woodbury): an
    n x n system in float64 takes the place of one of p x p. F is the matrix of WoodFisher (Singh and Alistarh 2020,
    arXiv:2004.14340, section 3), whose n rank-one updates of the inverse give the same. Where ``mask`` (bool by name)
    is false, weights are constants of the problem: ``v`` must be zero there.

    The columns of a linear layer are not formed: their part of ``G G^T`` is ``(D D^T) * (A A^T)``, entry by entry,
    which takes n^2 (in + out) multiplications instead of n^2 in out. Where weights of the layer are masked, or a
    weight is used in several places, as in a convolution, columns are formed.

    Cost: of the p columns formed, as many are held at a time as half of ``memory`` bytes holds, so c = ceil(16 n p /
    memory) passes of gradients over the images for the Gram matrix and as many for the result, one in all if c is 1,
    and one more where there are linear layers; n^2 p and n^3 / 3 multiplications; 16 n^2 and 8 n (in + out) bytes for
    each linear layer beside that memory. The gradients are in the precision of the network, all else in float64: the
    difference loses about as many digits as the damping is small.

    Raises:
        RunError: A gradient is not finite, or rounding hides a damping so small.
    """
    count = len(images)
    gram = torch.zeros(count, count, dtype=torch.float64, device=images.device)
    along = torch.zeros(count, dtype=torch.float64, device=images.device)
    result = {name: each.double() for name, each in right.items()}
    pairs = _pairs(network, images, memory, mask)
    for name, (d, a) in pairs.items():
        gram += (d @ d.T).mul_(a @ a.T)
        along += (d @ result[name].view(d.shape[1], -1) * a).sum(dim=1)
    rest = network.without(pairs)
    vector = torch.cat([along.new_zeros(0), *(result[name].flatten() for name in rest.weights)])
    columns = _Columns(rest, images, mask, memory // 2, len(vector))
    for place, held in columns:
        gram += held @ held.T
        along += held @ vector[place]
    gram.diagonal().add_(count * damping)
    weights = positive_solve(gram, along)
    for name, (d, a) in pairs.items():
        result[name] = result[name] - ((d * weights[:, None]).T @ a).view_as(result[name])
    for place, held in columns:
        vector[place] -= held.T @ weights
    result |= shaped(vector, rest.weights)
    return {name: (each / damping).to(network.dtype) for name, each in result.items()}


def _pairs(network: Network, images: ImageSet, memory: int, mask: Mapping[str, Tensor] | None) -> dict[str, Pair]:
    """For weights that are not masked and are used in one place of an example; one pass over the images."""
    found: dict[str, list[Pair]] = {}
    for batch in network.batches(images, chunk_size(network, images, memory)):
        seen = recorded(network, batch.inputs)
        if seen is None:
            return {}
        for name, (d, a) in seen.pairs(residuals(seen.logits.detach(), batch.labels)).items():
            if mask is None or bool(mask[name].all()):
                found.setdefault(name, []).append((d.double(), a.double()))
    return {name: (torch.cat([d for d, _ in each]), torch.cat([a for _, a in each])) for name, each in found.items()}


class _Columns:
    """The columns of G, float64 (n, width), as many at a time as fit into the memory; computed once if all do."""

    def __init__(
        self, network: Network, images: ImageSet, mask: Mapping[str, Tensor] | None, memory: int, count: int
    ) -> None:
        self._network, self._images, self._mask, self._memory = network, images, mask, memory
        width = max(1, memory // (8 * len(images)))
        self._places = [slice(start, min(start + width, count)) for start in range(0, count, width)]
        self._kept: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for place in self._places:
            held = self._made(place) if self._kept is None else self._kept
            self._kept = held if len(self._places) == 1 else None
            yield place, held

    def _made(self, place: slice) -> Tensor:
        shape = len(self._images), place.stop - place.start
        held = torch.empty(shape, dtype=torch.float64, device=self._images.device)
        row = 0
        for batch, found in gradients(self._network, self._images, self._memory):
            rows = held[row : row + len(batch.labels)]
            for name, source, target in _overlaps(self._network.weights, place.start, place.stop):
                each = found[name] if self._mask is None else found[name] * self._mask[name]
                rows[:, target] = each.flatten(1)[:, source]
            row += len(batch.labels)
        return held


def _overlaps(weights: Mapping[str, Tensor], start: int, stop: int) -> Iterator[tuple[str, slice, slice]]:
    """The weights with columns in [start, stop): name, slice of the flat weight, and slice of the columns."""
    first = 0
    for name, weight in weights.items():
        low, high = max(start, first), min(stop, first + weight.numel())
        if low < high:
            yield name, slice(low - first, high - first), slice(low - start, high - start)
        first += weight.numel()
