"""Runs that keep the vectors of a recorded training: precomputed once, resumed after a kill."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from expunge.core import config
from expunge.core.errors import RequestError
from expunge.runs.execution import Session
from expunge.runs.originals import check_data, load_model, read_trajectory
from expunge.runs.plans import Original, PrecomputeConfig, RunConfig, run_id
from expunge.store.directory import Draft, Record, RunDirectory, Store
from expunge.training.context import Context
from expunge.trajectory.calculus import Calculus, calculus
from expunge.trajectory.plan import Plan, Trajectory
from expunge.trajectory.precompute import Estimate, fill
from expunge.trajectory.precompute import estimate as estimate_of
from expunge.trajectory.precompute import layout as layout_of
from expunge.trajectory.store import VectorStore, begin, open_store

FILES = ("vectors.bin", "vectors.json")


def precompute(
    wanted: PrecomputeConfig, original: RunDirectory, draft: Draft, store: Store, session: Session
) -> Record:
    """Compute what is missing, and give it to the run; until it is complete, it is kept beside the runs."""
    with _begun(wanted, original, store, session) as (opened, made, trajectory):
        done = fill(opened, made, trajectory, session.reporter(run_id(wanted)))
    for name in FILES:
        (opened.folder / name).replace(draft.path / name)
    shutil.rmtree(opened.folder)  # with what a kill may have left in it
    return {"seconds": {"precompute": done.seconds}, "notes": {"bytes": done.layout.nbytes}}


def estimate(wanted: PrecomputeConfig, original: RunDirectory, store: Store, session: Session) -> Estimate | None:
    """The size of a precomputation and the time for what is missing, from its first steps; None if it is there."""
    if store.directory(run_id(wanted)).exists:
        return None
    with (
        store.lock(run_id(wanted)),
        _begun(wanted, original, store, session) as (opened, made, trajectory),
    ):
        return estimate_of(opened, made, trajectory)


@contextmanager
def _begun(
    wanted: PrecomputeConfig, original: RunDirectory, store: Store, session: Session
) -> Iterator[tuple[VectorStore, Calculus, Trajectory]]:
    """The store as far as it has come, and what is needed to go on."""
    data = session.prepare(wanted.data)
    check_data(original, data)
    trajectory = read_trajectory(original)
    model = load_model(wanted.original, original, session).to(session.device)
    memory = int(session.memory * 1e9)
    with calculus(model, data.train.to(session.device), memory=memory) as made:
        groups = _groups(wanted, trajectory.plan)
        layout = layout_of(
            made, trajectory, dtype=wanted.dtype, memory=memory, groups=groups, as_released=wanted.as_released
        )
        yield begin(store.root / f".partial-{run_id(wanted)}", layout, replace=True), made, trajectory


def _groups(wanted: PrecomputeConfig, plan: Plan) -> Tensor | None:
    """The group of each of the plan's ids, -1 for none."""
    if not wanted.groups:
        return None
    found = torch.full((len(plan.ids),), -1)
    for number, group in enumerate(wanted.groups):
        found[plan.positions(torch.tensor(group))] = number
    return found


def find(name: str, original: Original, context: Context, store: Store) -> VectorStore:
    """The vectors that a run has kept; the time they took counts as preparation.

    Raises:
        RequestError: There is no such run, or it is of another model.
    """
    directory = store.directory(Path(name).name)
    if not directory.finished:
        raise RequestError(f"{name} is no finished run of `expunge precompute` in {store.root}")
    kept = config.from_data(cast("type[object]", RunConfig), directory.config())
    if not isinstance(kept, PrecomputeConfig):
        raise RequestError(f"{name} is no run of `expunge precompute`")
    if kept.original != original:
        raise RequestError(f"the vectors of {name} are of another model: precompute those of {run_id(original)}")
    spent = context.seconds.get("precompute", 0.0)
    context.seconds["precompute"] = spent + directory.seconds()["precompute"]
    return open_store(directory.path)
