"""Computes the vectors of all examples, or of groups of them, and writes them to a store, a chunk at a time."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.training.stepper import Progress
from expunge.trajectory.blocked import additive
from expunge.trajectory.flat_loss import FlatLoss
from expunge.trajectory.plan import Plan, Trajectory
from expunge.trajectory.steps import Replay, Report, beginning
from expunge.trajectory.store import Layout, StoreType, VectorStore
from expunge.trajectory.tangents import Additive, AsReleased, carry, check_end


def layout(
    loss: FlatLoss,
    trajectory: Trajectory,
    *,
    dtype: StoreType,
    memory: int,
    groups: Tensor | None = None,
    as_released: bool = False,
) -> Layout:
    """What the store of all examples, or of all groups, will hold.

    ``groups`` (n,) names for each of the plan's ids its group (any integers), -1 for none. A chunk has as many rows as
    fit into a third of ``memory`` bytes; the rest is for products and copies. Rows are in the order in which the
    training first sees them, so that those of a chunk begin late together.
    """
    ids = trajectory.plan.ids
    named = torch.arange(len(ids)) if groups is None else groups
    rows = _as_seen(trajectory.plan, named)[named >= 0]
    size = len(loss.weights)
    held = (2 if trajectory.plan.momentum else 1) * size * loss.weights.element_size()
    chunk = max(1, min(int(rows.max()) + 1, memory // 3 // held))
    known, places = tuple(ids[named >= 0].tolist()), tuple(rows.tolist())
    return Layout(size, known, places, dtype, chunk, trajectory.digest(), as_released)


def _as_seen(plan: Plan, named: Tensor) -> Tensor:
    """For each of the plan's ids the place of its group in the order in which groups are first seen; -1 for none."""
    _, which = torch.unique(named, return_inverse=True)
    seen, first = plan.batches.flatten(), torch.full((int(which.max()) + 1,), plan.batches.numel())
    times = torch.arange(len(seen))
    first.scatter_reduce_(0, which[seen[seen >= 0]], times[seen >= 0], "amin")
    first[which[named < 0]] = plan.batches.numel()  # of no group: behind all
    return torch.where(named >= 0, first.argsort().argsort()[which], -1)


def fill(
    store: VectorStore,
    loss: FlatLoss,
    trajectory: Trajectory,
    on_step: Report | None = None,
) -> VectorStore:
    """Compute and write every chunk that is missing.

    Cost: for each chunk one replay of the training, and T products of p numbers for each of its rows.

    Raises:
        RequestError: The trajectory does not lead to the model.
        RunError: A vector is not finite.
    """
    steps, left = trajectory.plan.steps, store.missing
    for turn, chunk in enumerate(left):
        started = time.perf_counter()
        tangent = _tangent(store.layout, loss, trajectory, chunk)

        def report(progress: Progress, before: int = turn * steps) -> None:
            if on_step is not None:
                on_step(Progress(before + progress.step, len(left) * steps))

        check_end(loss, carry(loss, trajectory, [tangent], report))
        vectors = loss.in_order(tangent.vectors)
        store = store.write(chunk, vectors, time.perf_counter() - started)
    return store


def _tangent(layout: Layout, loss: FlatLoss, trajectory: Trajectory, chunk: int) -> Additive | AsReleased:
    """The vectors of a chunk before the first step."""
    first = chunk * layout.chunk
    rows = torch.tensor(layout.rows)
    here = (rows >= first) & (rows < first + layout.chunk)
    groups = torch.full((len(trajectory.plan.ids),), -1)
    groups[trajectory.plan.positions(torch.tensor(layout.ids)[here])] = rows[here] - first
    if layout.as_released:
        return AsReleased(loss, trajectory, groups)
    return additive(loss, trajectory, groups, whole=True)


@dataclass(frozen=True)
class Estimate:
    """What a precomputation will take."""

    rows: int
    size: int
    nbytes: int
    seconds: float

    @classmethod
    def of(cls, layout: Layout, seconds: float) -> "Estimate":
        """The sizes of a layout, and the time."""
        return cls(layout.count, layout.size, layout.nbytes, seconds)


def estimate(store: VectorStore, loss: FlatLoss, trajectory: Trajectory, steps: int = 4) -> Estimate:
    """The size of the store, and the time for what is missing, from a few steps of a first chunk."""
    if not store.missing:
        return Estimate.of(store.layout, 0.0)
    tangent = _tangent(store.layout, loss, trajectory, store.missing[0])
    steps = min(steps, trajectory.plan.steps)
    replay = Replay(loss, trajectory.plan, beginning(loss, trajectory), last=steps)
    started = time.perf_counter()
    for step in replay:
        tangent.advance(step)
    if loss.weights.is_cuda:
        torch.cuda.synchronize(loss.weights.device)
    each = (time.perf_counter() - started) / steps
    return Estimate.of(store.layout, each * trajectory.plan.steps * len(store.missing))
