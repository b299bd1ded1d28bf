"""A model trained by other code, imported from its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from expunge.core import checkpoints, randomness, registry
from expunge.core import weights as model_weights
from expunge.core.checkpoints import Checkpoint
from expunge.core.config import Choice, read_texts
from expunge.core.errors import RequestError
from expunge.data.dataset import Dataset
from expunge.data.published_order import in_published_order
from expunge.data.split_data import DataConfig
from expunge.evaluation import sanity
from expunge.evaluation.predictions import Predictions, by_split
from expunge.runs._data import load_data
from expunge.runs._model import begin, build
from expunge.runs.train import data_and_model
from expunge.store import run
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.training.context import Context
from expunge.training.fit import Training
from expunge.training.precision import Precision


@dataclass(frozen=True)
class Earlier:
    """The weights after an earlier epoch of the training."""

    epoch: int
    """The epoch; 0 is before training."""
    sha256: str
    """SHA-256 of the checkpoint's bytes."""


@dataclass(frozen=True)
class ImportConfig:
    """A model trained by other code, imported from its checkpoint."""

    data: DataConfig
    """The images it was trained on."""
    model: Annotated[object, Choice("models")]
    """Its architecture."""
    sha256: str
    """SHA-256 of the checkpoint's bytes."""
    training: Training = Training()
    """How it was trained, as far as known: retraining repeats it, and methods take its weight decay if given."""
    precision: Precision = "float32"
    """Precision of forward passes."""
    seed: int = 0
    """A number that distinguishes imports."""
    mean: tuple[float, ...] = ()
    """Mean of each channel in the normalisation of the inputs; by default that of the checkpoint, or of the data."""
    std: tuple[float, ...] = ()
    """Deviation of each channel, likewise."""
    earlier: tuple[Earlier, ...] = ()
    """The weights that pruning can rewind to."""

    def __post_init__(self) -> None:
        """Parse fields given as text."""
        read_texts(self)
        if len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise RequestError("mean and std of the inputs go together, one number per channel, and std is above 0")

    @property
    def starts(self) -> "dict[int, ImportConfig]":
        """The imports of the earlier weights, by epoch."""
        return {each.epoch: replace(self, sha256=each.sha256, earlier=()) for each in self.earlier}


@registry.run(name=data_and_model, model=True)
def work(config: ImportConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Import a checkpoint, which the session finds by its digest.

    Input statistics (mean and deviation) are those given, or of the checkpoint; if they differ from those of the data
    source, the run notes both. It also notes the accuracy on each split, and warnings where this is near chance or
    shows that the model was trained on another split.

    Raises:
        RequestError: The session does not have the file, or it is no checkpoint of this architecture; the message
            lists the keys that do not match.
    """
    path = session.files.get(config.sha256)
    if path is None:
        raise RequestError(f"{run.run_id(config)} does not exist: import its checkpoint again with `expunge import`")
    data = load_data(config.data, session)
    model = build(config, data.dataset)
    context = Context(randomness.generator(config.seed, "import"), session.device, config.precision)
    checkpoint = checkpoints.read(path)
    if config.mean:
        checkpoint = replace(checkpoint, mean=config.mean, std=config.std)
    state, context.sparsity = checkpoints.translate(checkpoint, model, str(path))
    model_weights.load(model, state, str(path))
    context.notes |= {"checkpoint": path.name, "ignored": list(checkpoint.ignored)}
    context.notes |= _differences(checkpoint, data.dataset)
    model.to(session.device).eval()
    record = begin(model, data, draft, context)
    predictions = by_split(draft.written("predictions"), draft.path, "import it again")
    return {**record, "notes": {**context.notes, **_checked(config.data, data.dataset, predictions)}}


def _checked(wanted: DataConfig, dataset: Dataset, predictions: Mapping[str, Predictions]) -> dict[str, object]:
    """The accuracy on each split and what is suspicious about model, data and split."""
    found = sanity.warnings(predictions)
    if wanted.split == "released" and not in_published_order(dataset.all_labels, dataset.num_classes):
        found.append(
            "the training images are not in the order of the published files, by which the released split counts: "
            "read the original files (cifar_batches:FOLDER), or give the ids by --validation-ids"
        )
    return {"accuracy": sanity.accuracies(predictions), "warnings": found}


def _differences(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, object]:
    """Statistics of the input normalisation that differ between checkpoint and data source."""
    pairs = {"mean": (checkpoint.mean, tuple(dataset.mean)), "std": (checkpoint.std, tuple(dataset.std))}
    return {
        f"{name} of the input step": {"checkpoint": list(theirs), "data": list(ours)}
        for name, (theirs, ours) in pairs.items()
        if theirs is not None and theirs != ours
    }
