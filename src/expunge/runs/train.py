"""The training of an original model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from expunge.core import registry
from expunge.core.config import Choice, read_texts
from expunge.core.weights import load_pretrained
from expunge.data.split_data import DataConfig
from expunge.runs._data import load_data
from expunge.runs._model import begin, build, context_of, fit_training
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.precision import Precision
from expunge.trajectory import plan
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.record import recorded


@dataclass(frozen=True)
class TrainConfig:
    """The training of an original model, on the union of forget and retain set."""

    data: DataConfig
    """The images."""
    model: Annotated[object, Choice("models")]
    """The architecture."""
    training: Training = Training()
    """The training."""
    precision: Precision = "float32"
    """Precision of the forward passes; ``mixed`` is bfloat16 in networks that gain from it."""
    seed: int = 0
    """Seed of the initial weights, the order of examples and the augmentation."""

    def __post_init__(self) -> None:
        """Parse fields given as text."""
        read_texts(self)


def data_and_model(config: GivesModel) -> str:
    """Return the description of a training or an import in its id: ``digits-small_cnn-s0``."""
    data = registry.of_config("data", config.data.source).name
    return f"{data}-{registry.of_config('models', config.model).name}-s{config.seed}"


def read_trajectory(directory: RunDirectory) -> Trajectory:
    """Read the recorded training of a run.

    Raises:
        RequestError: The file is missing or damaged.
    """
    return plan.read(directory.tensors("trajectory"))


def load_trajectory(wanted: GivesModel, directory: RunDirectory) -> Trajectory | None:
    """Read the recorded training of a run; None if it was not recorded."""
    return read_trajectory(directory) if isinstance(wanted, TrainConfig) and wanted.training.record else None


@registry.run(name=data_and_model, model=True, read=read_trajectory)
def work(config: TrainConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Train a model on all training images."""
    data = load_data(config.data, session)
    model = build(config, data.dataset)
    context = context_of(config, session, "training")
    if told := load_pretrained(model):
        context.notes["pretrained"] = told
    model.to(session.device)
    images = data.train.to(session.device)
    with context.phase("train"), context.seeded():
        if config.training.record:
            draft.tensors("trajectory", recorded(model, images, config.training, context).tensors())
        else:
            fit_training(model, images, config.training, context)
    return begin(model, data, draft, context)
