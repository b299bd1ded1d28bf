"""Replay of a recorded training, a step at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expunge.core.errors import RequestError, RunError
from expunge.training.stepper import Progress
from expunge.trajectory.flat_loss import FlatLoss, Point
from expunge.trajectory.plan import Plan, Trajectory, fingerprint, mark

EPSILON = 1e-6
"""Added to the norm when a gradient is clipped, as in torch."""

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Step:
    """One step of a recorded training, at the weights before it."""

    number: int
    rate: float
    positions: Tensor
    """Its examples: positions in the plan's ids, on the CPU."""
    places: Tensor
    """Its examples: positions in the images of the loss."""
    weights: Tensor
    point: Point
    gradient: Tensor
    """``g = mean CE gradient + l2 w`` (p,)."""
    move: Tensor
    """``clip(g)`` (p,)."""


@dataclass
class Replay:
    """Training by a plan: iterate over its steps, each before it is taken, or call :meth:`finish`.

    :attr:`weights` are those after the steps so far.

    With ``kept`` (bool by position), examples that are false are left out of their batches and the mean is over the
    others: the retrained model. Where a batch has no examples left, the step is that of the L2 term alone.
    Cost: T gradients of a batch.
    """

    loss: FlatLoss
    plan: Plan
    weights: Tensor
    momentum: Tensor | None = None
    first: int = 0
    last: int | None = None
    kept: Tensor | None = None
    on_step: Report | None = None
    norms: list[Tensor] = field(default_factory=list[Tensor])
    """``||g||`` of each step taken."""

    def __iter__(self) -> Iterator[Step]:
        plan, located = self.plan, places(self.loss, self.plan)
        for number in range(self.first, plan.steps if self.last is None else self.last):
            positions = plan.batch(number)
            if self.kept is not None:
                positions = positions[self.kept[positions]]
            here = located[positions]
            point = self.loss.point(self.weights, here)
            gradient, rate = objective_gradient(point, self.weights, plan.l2), float(plan.rates[number])
            self.norms.append(gradient.norm())
            move = clipped(gradient, self.norms[-1], plan.clip)
            yield Step(number, rate, positions, here, self.weights, point, gradient, move)
            if plan.momentum:
                self.momentum = move if self.momentum is None else plan.momentum * self.momentum + move
                move = self.momentum
            self.weights = self.weights - rate * move
            if self.on_step is not None:
                self.on_step(Progress(number + 1, plan.steps))

    def finish(self) -> Tensor:
        """The weights after the last step.

        Raises:
            RunError: A gradient is not finite.
        """
        for _ in self:
            pass
        bad = (~torch.isfinite(torch.stack(self.norms))).nonzero()
        if len(bad):
            raise RunError(
                f"the gradient was not finite at step {self.first + int(bad[0]) + 1} of {self.plan.steps}: "
                "try a smaller lr, or set clip"
            )
        return self.weights


def beginning(loss: FlatLoss, trajectory: Trajectory) -> Tensor:
    """The flat weights before the first step (p,), on the device of the loss.

    Raises:
        RequestError: They are of another architecture.
    """
    model = loss.named(loss.weights)
    ours, theirs = ({name: value.shape for name, value in each.items()} for each in (model, trajectory.initial))
    if ours != theirs:
        raise RequestError(
            "the trajectory does not lead to this model: it is of another architecture, or other weights were trained"
        )
    return loss.flat({name: value.to(loss.weights) for name, value in trajectory.initial.items()})


def places(loss: FlatLoss, plan: Plan) -> Tensor:
    """The positions of the plan's ids among the images of the loss; -1 where an image is missing."""
    ids, order = loss.images.ids.cpu().sort()
    found = torch.searchsorted(ids, plan.ids).clamp(max=len(ids) - 1)
    return torch.where(ids[found] == plan.ids, order[found], -1)


def objective_gradient(point: Point, weights: Tensor, l2: float) -> Tensor:
    """The gradient of the mean cross-entropy and the L2 term; of the latter alone where no example is left."""
    return point.gradient().add_(weights, alpha=l2) if point.count else l2 * weights


def clipped(gradient: Tensor, norm: Tensor, clip: float | None) -> Tensor:
    """``g min(1, clip / (||g|| + 1e-6))``."""
    return gradient if clip is None else gradient * shortening(norm, clip)


def shortening(norm: Tensor, clip: float) -> Tensor:
    """``min(1, clip / (||g|| + 1e-6))``."""
    return (norm + EPSILON).reciprocal().mul(clip).clamp(max=1)


def record(loss: FlatLoss, plan: Plan, on_step: Report | None = None) -> tuple[Trajectory, Tensor]:
    """Train by a plan from the weights of the model: the recorded training, and its flat weights at the end."""
    replay = Replay(loss, plan, loss.weights, on_step=on_step)
    trained = replay.finish()
    initial = {name: value.clone() for name, value in loss.named(loss.weights).items()}
    norms = torch.stack(replay.norms).double().cpu()
    end = mark(loss.in_order(trained[None])[0])
    return Trajectory(plan, initial, norms, fingerprint(loss.images), end), trained
