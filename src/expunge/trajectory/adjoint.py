"""Influence of every example on a function of the trained model, by the adjoint of a recorded training.

The change of a scalar ``f(w_T)`` when example i is left out is, to first order, ``grad f . a_i`` with a_i the additive
vector of :mod:`expunge.trajectory.tangents`. One backward pass over the steps gives it for all n examples:
with l the derivative of f in the weights after a step,

    k <- momentum k - rate l,    v = D clip(g) k,    f_i += v . (change of the batch's mean gradient without i),
    l <- l + (H + l2) v.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from expunge.training.stepper import Progress
from expunge.trajectory.flat_loss import FlatLoss
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.steps import Replay, Report, Step, beginning
from expunge.trajectory.tangents import check_bounded, clip_of


def influence(
    loss: FlatLoss,
    trajectory: Trajectory,
    directions: Tensor,
    memory: int,
    on_step: Report | None = None,
) -> tuple[Tensor, Tensor]:
    """The change of each functional when each example is left out (functionals, n), and the replayed weights (p,).

    ``directions`` (functionals, p) are the gradients of the functionals at the trained weights; examples are in the
    order of the plan's ids. Cost: one replay of the training, two where ``memory`` bytes do not hold all its
    steps, and for each functional a product and a forward pass with tangents of each batch, independent of n.

    Raises:
        RunError: A number is not finite.
    """
    plan, device = trajectory.plan, loss.weights.device
    found = torch.zeros(len(directions), len(plan.ids), dtype=loss.dtype, device=device)
    along, moments = directions.to(loss.dtype).clone(), torch.zeros_like(directions, dtype=loss.dtype)
    steps, end = _backward_steps(loss, trajectory, memory)
    for step in steps:
        moments = plan.momentum * moments - step.rate * along
        clip = clip_of(trajectory, step)
        through = moments if clip is None else clip(moments)
        slopes = step.point.slopes(through)
        mean, others = slopes.mean(dim=1, keepdim=True), slopes.shape[1] - 1
        # the mean slope of the batch without each example, minus that with all
        found[:, step.positions.to(device)] += (mean - slopes) / others if others else -mean
        along.add_(through, alpha=plan.l2)
        step.point.add_products(along, through, 1.0, 1.0)
        if on_step is not None:
            on_step(Progress(plan.steps - step.number, plan.steps))
    check_bounded(found)
    return found, end


def _backward_steps(loss: FlatLoss, trajectory: Trajectory, memory: int) -> tuple[Iterator[Step], Tensor]:
    """The steps of a training from its last to its first, and the weights at its end.

    Steps are stored, each with its images, if they fit into ``memory`` bytes; else the weights at sqrt(T) checkpoints,
    from each of which sqrt(T) steps are replayed.
    """
    plan, start = trajectory.plan, beginning(loss, trajectory)
    batch = plan.batches.shape[1] * math.prod(loss.images.shape) * start.element_size()
    piece = plan.steps if plan.steps * (3 * start.nbytes + batch) <= memory else math.isqrt(plan.steps)
    replay = Replay(loss, plan, start)
    checkpoints: list[tuple[int, Tensor, Tensor | None]] = []
    steps: list[Step] = []
    for step in replay:
        if step.number % piece == 0:
            checkpoints.append((step.number, step.weights, replay.momentum))
            steps.clear()
        steps.append(step)

    def backward() -> Iterator[Step]:
        for first, weights, momentum in reversed(checkpoints):
            if not steps:
                steps.extend(Replay(loss, plan, weights, momentum, first, first + piece))
            while steps:
                yield steps.pop()

    return backward(), replay.weights
