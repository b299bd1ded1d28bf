"""The effect of deletions to first order, by forward-mode differentiation of a recorded training.

Leaving examples out of every batch changes the weights at the end of training. To first order the change follows a
linear recursion along the recorded weights: with ``c = clip(g)`` and D its derivative,

    m <- momentum m + D c (H + l2) a + s,    a <- a - rate m,

where s is the change of the clipped gradient by the deletion at the same weights. Qiao et al. 2024 (arXiv:2404.01712)
compute one such vector for each example; the recursions here differ from the released one as ``docs/fidelity.md`` says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.checks import all_finite
from expunge.core.errors import RequestError, RunError
from expunge.trajectory.flat_loss import FlatLoss
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.steps import EPSILON, Replay, Report, Step, beginning, clipped, objective_gradient, shortening

GRADIENTS = 16_000_000
"""Bytes that gradients of single examples take at a time."""


@dataclass(frozen=True)
class Clip:
    """The derivative of ``clip(g)`` at one step: ``D v = scale (v - share u (u . v))`` with ``u = g / ||g||``."""

    scale: float
    share: float
    unit: Tensor

    @classmethod
    def of(cls, gradient: Tensor, norm: float, clip: float) -> "Clip":
        """The derivative where ``||g|| > clip``."""
        return cls(clip / (norm + EPSILON), norm / (norm + EPSILON), gradient / norm)

    def __call__(self, vectors: Tensor) -> Tensor:
        """``D v`` for the rows of vectors (..., p); D is symmetric."""
        along = vectors @ self.unit
        return self.scale * (vectors - self.share * along[..., None] * self.unit)


def clip_of(trajectory: Trajectory, step: Step) -> Clip | None:
    """The derivative of a step's clipping; None where it was not clipped. Does not synchronise with the device."""
    norm, clip = float(trajectory.norms[step.number]), trajectory.plan.clip
    return None if clip is None or norm + EPSILON <= clip else Clip.of(step.gradient, norm, clip)


class Additive:
    """A vector for each group of examples, of which any later deletion is a sum.

    ``a_k`` is the change of the trained weights when group k is left out: the Hessian is that of the whole batch, and
    the source ``-(sum_k g_i - u gbar) / (b - u)`` for the u examples of the group in a batch of b, ``gbar`` its mean
    gradient. A sum of several vectors leaves out the interactions of deletions. Without ``whole``, a group's vector is
    the sum of the vectors of its examples: b - 1 for b - u.
    """

    def __init__(self, loss: FlatLoss, trajectory: Trajectory, groups: Tensor, *, whole: bool) -> None:
        """Vectors of zeros for groups 0, 1, ...; ``groups`` (n,) is the group of each position, -1 for none."""
        self.loss, self.trajectory, self.groups, self.whole = loss, trajectory, groups, whole
        self._rows = _zeros(loss, groups)
        self._moments = torch.zeros_like(self._rows) if trajectory.plan.momentum else None
        self._begun = 0

    @property
    def vectors(self) -> Tensor:
        """The vectors (groups, p)."""
        return self._rows

    def advance(self, step: Step) -> None:
        """Update all vectors for one step. Cost: a product each, and the gradient of each example of the groups.

        Vectors after the last group seen so far are zero and cost nothing: number groups in the order of training.
        """
        clip, plan = clip_of(self.trajectory, step), self.trajectory.plan
        scale = 1.0 if clip is None else clip.scale
        begun, moments = self._rows[: self._begun], self._moments
        if moments is None:
            self._move(begun, begun, step, clip, alpha=-step.rate * scale, beta=1 - step.rate * scale * plan.l2)
            self._add_sources(self._rows, step, clip, alpha=-step.rate)
            return
        self._move(moments[: len(begun)], begun, step, clip, alpha=scale, beta=plan.momentum)
        moments.add_(self._rows, alpha=scale * plan.l2)
        self._add_sources(moments, step, clip, alpha=1.0)
        self._rows.add_(moments, alpha=-step.rate)

    def _move(self, out: Tensor, vectors: Tensor, step: Step, clip: Clip | None, alpha: float, beta: float) -> None:
        """``out <- beta out + alpha (I - share u u^T) H v``, where the second term includes the L2 term."""
        if clip is None:
            step.point.add_products(out, vectors, alpha, beta)
            return
        along = vectors @ product(step, clip.unit, self.trajectory.plan.l2)
        step.point.add_products(out, vectors, alpha, beta)
        out.addr_(along, clip.unit, alpha=-alpha * clip.share)

    def _add_sources(self, out: Tensor, step: Step, clip: Clip | None, alpha: float) -> None:
        """Add the sources: ``(gbar - g_i) / (b - u)`` for each example of a group, or a share of ``-gbar`` if b = u."""
        groups = self.groups[step.positions]
        present = groups[groups >= 0]
        if not len(present):
            return
        self._begun = max(self._begun, int(present.max()) + 1)
        counts = torch.bincount(present).to(out)
        others = len(groups) - (counts if self.whole else torch.ones_like(counts))
        mean = step.gradient - self.trajectory.plan.l2 * step.weights
        for rows, gradients in gradients_of(self.loss, step, groups):
            left = others[rows, None] > 0
            sources = torch.where(left, mean - gradients, -mean)
            sources /= torch.where(left, others[rows, None], counts[rows, None])
            out.index_add_(0, rows, sources if clip is None else clip(sources), alpha=alpha)


def gradients_of(loss: FlatLoss, step: Step, groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The gradients (k, p) of the examples of a step that are in a group, and their groups (k,), a piece at a time."""
    at_once = max(1, GRADIENTS // step.weights.nbytes)
    present = (groups >= 0).nonzero().flatten()
    for part in present.split(at_once) if len(present) else ():
        yield groups[part].to(step.weights.device), loss.point(step.weights, step.places[part]).gradients()


def _zeros(loss: FlatLoss, groups: Tensor) -> Tensor:
    count = int(groups.max()) + 1 if len(groups) else 0
    return torch.zeros(count, len(loss.weights), dtype=loss.dtype, device=loss.weights.device)


class AsReleased:
    """The released recursion, for comparison: the product includes the new source, and the clipping is transposed.

    ``a_i += rate / b clip(g_i + l2 w)`` for the batch, then ``a <- a - rate J^T a`` for all, J the Jacobian of the
    clipped batch gradient. A deletion thus removes a part of the L2 term too, and keeps the batch size.
    """

    def __init__(self, loss: FlatLoss, trajectory: Trajectory, groups: Tensor) -> None:
        """See :class:`Additive`.

        Raises:
            RequestError: The training had momentum, which the released code does not support.
        """
        if trajectory.plan.momentum:
            raise RequestError("the released recursion is of SGD without momentum: train with momentum=0")
        self.loss, self.trajectory, self.groups = loss, trajectory, groups
        self.vectors = _zeros(loss, groups)

    def advance(self, step: Step) -> None:
        """Update all vectors for one step. Cost: a product each, and the gradient of each example of the groups."""
        plan = self.trajectory.plan
        for rows, gradients in gradients_of(self.loss, step, self.groups[step.positions]):
            found = gradients + plan.l2 * step.weights
            found = clipped(found, found.norm(dim=1, keepdim=True), plan.clip)
            self.vectors.index_add_(0, rows, found, alpha=step.rate / step.point.count)
        norm = float(self.trajectory.norms[step.number])
        if plan.clip is None or norm <= plan.clip:
            step.point.add_products(self.vectors, self.vectors, -step.rate, 1 - step.rate * plan.l2)
            return
        unit, rate = step.gradient / norm, step.rate * plan.clip / norm
        along = self.vectors @ unit
        curved = product(step, unit, plan.l2)
        step.point.add_products(self.vectors, self.vectors, -rate, 1 - rate * plan.l2)
        self.vectors.addr_(along, curved, alpha=rate)


class SetAware:
    """The change of the weights when one known set is left out, up to second order in the change.

    ``m <- momentum m + clip(g_R) + D clip(g_R) (H_R + l2) a - clip(g)``, ``a <- a - rate m``, with g_R and H_R of the
    kept examples of each batch, at the recorded weights; where none is kept, of the L2 term alone.
    """

    def __init__(self, loss: FlatLoss, trajectory: Trajectory, kept: Tensor) -> None:
        """A vector of zeros; ``kept`` (bool by position) is false for deleted examples."""
        self.loss, self.plan, self.kept = loss, trajectory.plan, kept
        self.vectors = torch.zeros_like(loss.weights)[None]
        self._moments = torch.zeros_like(self.vectors)

    def advance(self, step: Step) -> None:
        """Update the vector for one step. Cost: a product of the kept batch, and its gradient if some are deleted."""
        kept, plan = self.kept[step.positions], self.plan
        point, gradient = step.point, step.gradient
        if not bool(kept.all()):
            point = self.loss.point(step.weights, step.places[kept])
            gradient = objective_gradient(point, step.weights, plan.l2)
        curved = plan.l2 * self.vectors
        if point.count:
            point.add_products(curved, self.vectors, 1.0, 1.0)
        move = self._clipped(gradient, curved, step.move)
        self._moments = plan.momentum * self._moments + move if plan.momentum else move
        self.vectors = self.vectors - step.rate * self._moments

    def _clipped(self, gradient: Tensor, curved: Tensor, before: Tensor) -> Tensor:
        """``clip(g_R) + D clip(g_R) v - clip(g)``, without synchronising with the device."""
        if self.plan.clip is None:
            return gradient - before + curved
        norm = gradient.norm()
        scale = shortening(norm, self.plan.clip)
        share = torch.where(scale < 1, (curved @ gradient) / (norm * (norm + EPSILON)), 0.0)
        return scale * (gradient + curved - share[:, None] * gradient) - before


Tangent = Additive | AsReleased | SetAware


def product(step: Step, vector: Tensor, l2: float) -> Tensor:
    """``(H + l2) v`` for one vector (p,)."""
    found = (l2 * vector)[None]
    step.point.add_products(found, vector[None], 1.0, 1.0)
    return found[0]


def carry(loss: FlatLoss, trajectory: Trajectory, tangents: Sequence[Tangent], on_step: Report | None = None) -> Tensor:
    """Replay the training, update the tangents at each step, and return the trained flat weights.

    Cost: T gradients of a batch, and that of each tangent.

    Raises:
        RunError: A vector is not finite.
    """
    replay = Replay(loss, trajectory.plan, beginning(loss, trajectory), on_step=on_step)
    for step in replay:
        for tangent in tangents:
            tangent.advance(step)
    for tangent in tangents:
        check_bounded(tangent.vectors)
    return replay.weights


def check_bounded(effects: Tensor) -> None:
    """Raise a RunError unless all numbers are finite."""
    if not all_finite(effects):
        raise RunError(
            "the effect of the deletion grew without bound along the training: its steps are too long for first "
            "order; train with a smaller lr, a larger weight_decay, or fewer epochs"
        )


def check_end(loss: FlatLoss, reached: Tensor, tolerance: float = 1e-3) -> None:
    """Raise a RequestError unless the replay ends at the model's weights, up to rounding.

    Another machine or number of threads sums in another order, which training amplifies.
    """
    apart = float((reached - loss.weights).norm())
    scale = float(loss.weights.norm())
    if not apart <= tolerance * max(scale, 1e-12):
        raise RequestError(
            f"the trajectory does not lead to this model: replayed, it ends at a distance of {apart:.3g} from weights "
            f"of norm {scale:.3g}; it was recorded for another model, or the model was changed since"
        )
