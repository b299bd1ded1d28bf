"""Computation of the vectors of all examples, or of groups of them, into a store, a chunk at a time."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.training.stepper import Progress
from expunge.trajectory.blocked import additive
from expunge.trajectory.flat_loss import FlatLoss
from expunge.trajectory.plan import Plan, Trajectory
from expunge.trajectory.steps import Replay, Report, beginning
from expunge.trajectory.tangents import Additive, AsReleased, carry, check_end
from expunge.trajectory.vectors import Layout, StoreType, VectorStore


def layout(
    loss: FlatLoss,
    trajectory: Trajectory,
    *,
    dtype: StoreType,
    memory: int,
    groups: Tensor | None = None,
    as_released: bool = False,
) -> Layout:
    """The layout of the store of all examples, or of all groups.

    ``groups`` (n,) gives for each of the plan's ids its group (any integers), -1 for none. A chunk has as many rows as
    fit into a third of ``memory`` bytes; the rest is for products and copies. Rows are in the order in which the
    training first sees them, since vectors are zero and cost nothing until then.
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
    """For each of the plan's ids the rank of its group by its first step; -1 for none."""
    _, which = torch.unique(named, return_inverse=True)
    seen, first = plan.batches.flatten(), torch.full((int(which.max()) + 1,), plan.batches.numel())
    times = torch.arange(len(seen))
    first.scatter_reduce_(0, which[seen[seen >= 0]], times[seen >= 0], "amin")
    first[which[named < 0]] = plan.batches.numel()  # of no group: last
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
        RequestError: The trajectory does not end at the model.
        RunError: A vector is not finite.
    """
    steps, missing = trajectory.plan.steps, store.missing
    for index, chunk in enumerate(missing):
        started = time.perf_counter()
        tangent = _tangent(store.layout, loss, trajectory, chunk)

        def report(progress: Progress, before: int = index * steps) -> None:
            if on_step is not None:
                on_step(Progress(before + progress.step, len(missing) * steps))

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
    """The size of a store, and the time for its missing chunks."""

    rows: int
    size: int
    nbytes: int
    seconds: float


def estimate(store: VectorStore, loss: FlatLoss, trajectory: Trajectory, steps: int = 4) -> Estimate:
    """The size of the store, and the time for its missing chunks, from a few steps of the first of them."""
    layout, seconds = store.layout, 0.0
    if store.missing:
        tangent = _tangent(layout, loss, trajectory, store.missing[0])
        steps = min(steps, trajectory.plan.steps)
        replay = Replay(loss, trajectory.plan, beginning(loss, trajectory), last=steps)
        started = time.perf_counter()
        for step in replay:
            tangent.advance(step)
        if loss.weights.is_cuda:
            torch.cuda.synchronize(loss.weights.device)
        seconds = (time.perf_counter() - started) / steps * trajectory.plan.steps * len(store.missing)
    return Estimate(layout.count, layout.size, layout.nbytes, seconds)
