"""An original model as its run has left it: weights, sparsity and the recorded training, on its own data."""

from torch import nn

from expunge.core import weights
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.runs import preparation
from expunge.runs.execution import Session
from expunge.runs.plans import ImportConfig, Original, TrainConfig
from expunge.runs.preparation import Prepared
from expunge.store.directory import RunDirectory
from expunge.trajectory import plan
from expunge.trajectory.plan import Trajectory


def load_model(wanted: Original, directory: RunDirectory, session: Session) -> nn.Module:
    """The model of a run, on the CPU, in evaluation mode."""
    return load_sparse(wanted, directory, session)[0]


def load_sparse(wanted: Original, directory: RunDirectory, session: Session) -> tuple[nn.Module, Mask | None]:
    """The model of a run, on the CPU, in evaluation mode; and its sparsity mask, if it is sparse."""
    model, stored = preparation.build(wanted, session.prepare(wanted.data).dataset), directory.model()
    weights.load(model, stored.state, f"{directory.path / 'model.safetensors'}")
    return model.eval(), Mask(stored.kept) if stored.kept else None


def load_trajectory(wanted: Original, directory: RunDirectory) -> Trajectory | None:
    """The recorded training of a run; None if it was not recorded.

    Raises:
        RequestError: It was recorded, and what was kept is missing or damaged.
    """
    recorded = isinstance(wanted, TrainConfig) and wanted.training.record
    return read_trajectory(directory) if recorded else None


def read_trajectory(directory: RunDirectory) -> Trajectory:
    """The recorded training of a run that was recorded.

    Raises:
        RequestError: What was kept is missing or damaged.
    """
    return plan.read(directory.tensors("trajectory"))


def l2_of(wanted: Original) -> float | None:
    """The coefficient of the L2 term in the loss of training; None where it is not known, or decay is no part of it."""
    rule = wanted.training.rule
    return None if isinstance(wanted, ImportConfig) or rule.optimizer != "sgd" else rule.weight_decay


def check_data(original: RunDirectory, data: Prepared) -> None:
    """Raise a RequestError unless the training images are those that a run was trained on."""
    if original.record().get("data") != data.train.fingerprint():
        raise RequestError(
            f"the training images are not those that {original.id} was trained on: restore them, or train again"
        )
