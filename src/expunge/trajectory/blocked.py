"""Blocked products: additive vectors of softmax regression, several steps at a time, by larger matrix products.

Every update of a vector is a combination of the features of a batch. Within a window of steps with the features X
(w, d) a vector is ``scale (a + C X)``, where a is its value at the start of the window, and scale the product of the
factors ``1 - rate l2`` since. Its product with the features x of a step is ``scale (a X^T + C X X^T)`` in the columns
of x, where ``a X^T`` and ``X X^T`` are computed once, so that a, of p numbers, is read and written once per window.
Constant features need one product instead of w. The sums are those of
:class:`expunge.trajectory.tangents.Additive`, in another order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from expunge.trajectory.flat_loss import FlatLoss, LinearLoss, LinearPoint
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.steps import Step, places
from expunge.trajectory.tangents import Additive, clip_of

WIDTH = 128
"""About the number of examples of a window: larger matrix products are hardly faster, and C grows with it."""

BLOCK = 512
"""Rows of vectors, one for each class, that are read or written at a time, so that they stay in the cache."""

SMALLEST = 1e-3
"""A step with a smaller ``|1 - rate l2|``, which would make C large, is computed by itself."""


@dataclass
class _Window:
    """The steps from ``first`` on, whose batches end at these columns of X."""

    first: int
    ends: list[int]
    features: Tensor
    gram: Tensor
    """``X X^T`` (w, w)."""
    z: Tensor
    """``a X^T`` (vectors classes, w)."""
    coefficients: Tensor
    """C (vectors classes, w)."""
    scale: float = 1.0

    def columns(self, step: int) -> slice:
        """The columns of X of a step."""
        at = step - self.first
        return slice(self.ends[at - 1] if at else 0, self.ends[at])


class BlockedProducts(Additive):
    """As :class:`Additive`, of a :class:`LinearLoss`; steps with clipping or momentum are computed one at a time."""

    def __init__(self, loss: LinearLoss, trajectory: Trajectory, groups: Tensor, *, whole: bool) -> None:
        super().__init__(loss, trajectory, groups, whole=whole)
        self.linear = loss
        self._places = places(loss, trajectory.plan)
        self._window: _Window | None = None

    @property
    def vectors(self) -> Tensor:
        """The vectors (groups, p)."""
        self._settle()
        return self._rows

    def advance(self, step: Step) -> None:
        """See :class:`Additive`."""
        plan = self.trajectory.plan
        decay = 1 - step.rate * plan.l2
        if clip_of(self.trajectory, step) is not None or plan.momentum or abs(decay) < SMALLEST:
            self._settle()
            super().advance(step)
            return
        window = self._window
        if window is None or step.number - window.first >= len(window.ends):
            self._settle()
            window = self._window = self._open(step.number)
        self._take(window, step, cast("LinearPoint", step.point), decay)

    def _take(self, window: _Window, step: Step, point: LinearPoint, decay: float) -> None:
        """One step: the L2 term scales the vectors, the rest are the columns of C of its batch."""
        here, p, size = window.columns(step.number), point.p.T.contiguous(), point.count
        known, factor = window.coefficients[:, : here.start], -step.rate / (size * decay)
        gram = window.gram[: here.start, here]
        moved = torch.addmm(window.z[:, here], known, gram, beta=factor, alpha=factor).view(-1, *p.shape)
        moved *= p
        moved.addcmul_(p.expand_as(moved), moved.sum(dim=1, keepdim=True), value=-1)
        window.scale *= decay
        self._leave_out(moved, step, point, window.scale)
        window.coefficients[:, here] = moved.view(-1, size)

    def _leave_out(self, moved: Tensor, step: Step, point: LinearPoint, scale: float) -> None:
        """Add the sources of the groups, ``(u gbar - sum g_i) / (b - u)``, as coefficients of the batch."""
        groups = self.groups[step.positions]
        present = groups[groups >= 0]
        if not len(present):
            return
        rows, which, counts = torch.unique(present, return_inverse=True, return_counts=True)
        others = point.count - (counts if self.whole else torch.ones_like(counts))
        own = torch.zeros(len(rows), point.count, dtype=moved.dtype)
        own[which, (groups >= 0).nonzero()[:, 0]] = 1.0
        left = (own - counts[:, None].to(own) / point.count) / others[:, None].clamp(min=1)
        shares = step.rate / scale * torch.where(others[:, None] > 0, left, 1 / point.count).to(moved)
        moved.index_add_(0, rows.to(moved.device), shares[:, None, :] * point.residuals.T)

    def _open(self, first: int) -> _Window:
        """The window that begins with a step; one product of all vectors with its features."""
        plan, ends, batches = self.trajectory.plan, list[int](), list[Tensor]()
        while first + len(ends) < plan.steps and (not ends or ends[-1] < WIDTH):
            batches.append(plan.batch(first + len(ends)))
            ends.append((ends[-1] if ends else 0) + len(batches[-1]))
        positions = torch.cat(batches)
        self._begun = max(self._begun, int(self.groups[positions].max()) + 1)
        features = self.linear.features[self._places[positions].to(self._rows.device)]
        z = self._rows.new_empty(self._begun * (self._rows.shape[1] // features.shape[1]), len(features))
        cut, same = self.linear.varying, features[0, self.linear.varying :]
        for rows, out in self._blocks(z, features.shape[1]):
            shift = (rows[:, cut:] @ same)[:, None].expand_as(out)
            torch.addmm(shift, rows[:, :cut], features[:, :cut].T, out=out)
        return _Window(first, ends, features, features @ features.T, z, torch.zeros_like(z))

    def _settle(self) -> None:
        """Close the window: ``a <- scale (a + C X)``."""
        window, self._window = self._window, None
        if window is None:
            return
        cut, features, scale = self.linear.varying, window.features, window.scale
        for rows, given in self._blocks(window.coefficients, features.shape[1]):
            rows[:, :cut].addmm_(given, features[:, :cut], beta=scale, alpha=scale)
            rows[:, cut:].addr_(given.sum(dim=1), features[0, cut:], beta=scale, alpha=scale)

    def _blocks(self, beside: Tensor, wide: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first vectors as matrices (., d), some at a time, with the same rows of ``beside``."""
        rows = self._rows.view(-1, wide)[: len(beside)]
        return zip(rows.split(BLOCK), beside.split(BLOCK), strict=True)


def additive(loss: FlatLoss, trajectory: Trajectory, groups: Tensor, *, whole: bool) -> Additive:
    """The additive vectors, by the fastest implementation for this loss."""
    if isinstance(loss, LinearLoss):
        return BlockedProducts(loss, trajectory, groups, whole=whole)
    return Additive(loss, trajectory, groups, whole=whole)
