"""Precomputed vectors of a recorded training; an interrupted precomputation is resumed."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from expunge.core import registry
from expunge.core.config import OWN, Choice, Own
from expunge.core.errors import RequestError
from expunge.data.split_data import DataConfig
from expunge.runs._data import check_present, data_of
from expunge.runs._model import load_model
from expunge.runs.train import load_trajectory
from expunge.runs.unlearn import UnlearnConfig, first_model
from expunge.store import run
from expunge.store.directory import Draft, Record, RunDirectory, Store
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.trajectory.flat_loss import FlatLoss, flat_loss
from expunge.trajectory.plan import Plan, Trajectory
from expunge.trajectory.precompute import Estimate, fill
from expunge.trajectory.precompute import estimate as estimate_of
from expunge.trajectory.precompute import layout as layout_of
from expunge.trajectory.vectors import StoreType, VectorStore, begin, open_store

FILES = ("vectors.bin", "vectors.json")


@dataclass(frozen=True)
class PrecomputeConfig:
    """The vectors of a recorded training, for every example or for groups of them."""

    original: Annotated[GivesModel | Own, Choice("runs", model=True)] = OWN
    """The recorded training; in the text of a method, by default the model to unlearn from."""
    dtype: StoreType = "float32"
    """Precision of the stored vectors."""
    groups: tuple[tuple[int, ...], ...] = ()
    """The ids of each group, such as all examples of one person; by default one vector per example."""
    as_released: bool = False
    """The vectors of the released recursion."""

    def __post_init__(self) -> None:
        """Check that the training is recorded, and that no example is in two groups."""
        if isinstance(self.original, UnlearnConfig):  # use the training at the start of the chain
            object.__setattr__(self, "original", first_model(self.original))
        if not isinstance(self.original, Own) and not self.original.training.record:
            raise RequestError("the training was not recorded: train with `expunge train --record`")
        ids = [example for group in self.groups for example in group]
        if len(set(ids)) != len(ids) or not all(self.groups):
            raise RequestError("groups must not be empty, and each example can be in one group only")

    @property
    def trained(self) -> GivesModel:
        """The recorded training; a RequestError if it is not known yet."""
        if isinstance(self.original, Own):
            raise RequestError("vectors belong to a recorded training: name its run")
        return self.original

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.trained.data


def _name(config: PrecomputeConfig) -> str:
    return f"{'groups' if config.groups else 'examples'}-{config.dtype}"


def _open(directory: RunDirectory) -> VectorStore:
    """Open the vectors, once all of their bytes have been compared with their digest."""
    for name in FILES:
        directory.file(name)
    return open_store(directory.path)


@registry.run(name=_name, read=_open)
def work(config: PrecomputeConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Compute the missing vectors; an incomplete store is kept in the folder of runs, outside the draft."""
    with _begun(config, parents["original"], draft.store, session) as (opened, loss, trajectory):
        done = fill(opened, loss, trajectory, session.reporter(run.run_id(config)))
    for name in FILES:
        (opened.folder / name).replace(draft.path / name)
    shutil.rmtree(opened.folder)  # a killed process may have left temporary files
    return {"seconds": {"precompute": done.seconds}, "notes": {"bytes": done.layout.nbytes}}


def estimate(config: PrecomputeConfig, original: RunDirectory, store: Store, session: Session) -> Estimate | None:
    """Estimate the size of a precomputation and its remaining time, from its first steps; None if it is complete."""
    if store.directory(run.run_id(config)).exists:
        return None
    with (
        store.lock(run.run_id(config)),
        _begun(config, original, store, session) as (opened, loss, trajectory),
    ):
        return estimate_of(opened, loss, trajectory)


@contextmanager
def _begun(
    config: PrecomputeConfig, original: RunDirectory, store: Store, session: Session
) -> Iterator[tuple[VectorStore, FlatLoss, Trajectory]]:
    """Open the incomplete store, the loss and the recorded training."""
    data = data_of(original, config.data, session)
    check_present(data, data.train, "images of the recorded training", "restore them")
    trajectory = load_trajectory(config.trained, original)
    if trajectory is None:
        raise RequestError("the training was not recorded: train with `expunge train --record`")
    model = load_model(config.trained, original, session)[0].to(session.device)
    memory = int(session.memory * 1e9)
    with flat_loss(model, data.train.to(session.device), memory=memory) as loss:
        groups = _groups(config, trajectory.plan)
        layout = layout_of(
            loss, trajectory, dtype=config.dtype, memory=memory, groups=groups, as_released=config.as_released
        )
        yield begin(store.root / f".partial-{run.run_id(config)}", layout, replace=True), loss, trajectory


def _groups(config: PrecomputeConfig, plan: Plan) -> Tensor | None:
    """The group of each id of the plan, -1 for none."""
    if not config.groups:
        return None
    found = torch.full((len(plan.ids),), -1)
    for number, group in enumerate(config.groups):
        found[plan.positions(torch.tensor(group))] = number
    return found
