"""Scores of the training examples of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from torch import Tensor

from expunge.core import randomness, registry
from expunge.core.config import Choice, read_texts
from expunge.core.errors import RunError
from expunge.data.split_data import DataConfig
from expunge.runs._data import check_present, data_of
from expunge.runs._model import load_model
from expunge.runs.train import load_trajectory
from expunge.scores import ScoreData
from expunge.store import run
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.context import Context


@dataclass(frozen=True)
class ScoreConfig:
    """Scores of the training examples of a model."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model."""
    score: Annotated[object, Choice("scores")]
    """The score."""
    seed: int = 0
    """Seed of random choices within the score."""

    def __post_init__(self) -> None:
        """Parse fields given as text."""
        read_texts(self)

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.original.data


def _label(config: ScoreConfig) -> str:
    return registry.of_config("scores", config.score).name


@registry.run(label=_label)
def work(config: ScoreConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Write ``scores.safetensors``: ``ids`` and ``labels`` of the training images, and a tensor for each score.

    Raises:
        RequestError: The score needs a recorded training, and the training was not recorded.
        RunError: A score is not finite.
    """
    original = parents["original"]
    data = data_of(original, config.data, session)
    check_present(data, data.train, "images to score", "restore them")
    plugin = registry.of_config("scores", config.score)
    model, sparsity = load_model(config.original, original, session)
    generator = randomness.generator(config.seed, "score", device=session.device)
    report = session.reporter(run.run_id(config))
    trajectory = load_trajectory(config.original, original)
    context = Context(generator, session.device, sparsity=sparsity, on_step=report)
    plugin.check({"trajectory": trajectory})
    train, validation, test = (images.to(session.device) for images in (data.train, data.validation, data.test))
    with context.phase("score"):
        seen = ScoreData(train, validation, test, data.dataset.num_classes)
        made = plugin.call(model.to(session.device), seen, config.score, context, trajectory=trajectory)
    scores = cast("dict[str, Tensor]", made)
    for key, values in scores.items():
        if bad := int((~values.isfinite()).sum()):
            raise RunError(f"{plugin.name}: {bad} of {len(values)} values of {key} are not finite")
    draft.tensors("scores", {"ids": data.train.ids, "labels": data.train.labels, **scores})
    return {"seconds": context.seconds, "notes": context.notes}
