"""Scores of the weights for update masks: a run that all fractions, seeds and methods share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from expunge.core import randomness, registry
from expunge.core.config import Choice, read_texts
from expunge.data.split_data import DataConfig
from expunge.data.unlearning_data import UnlearningData
from expunge.runs._data import check_present, data_of, divided
from expunge.runs._model import context_of, load_model
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.unlearning import update_masks
from expunge.unlearning.update_masks import Score


@dataclass(frozen=True)
class SaliencyConfig:
    """The scores of the weights of a model for one forget set."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model to unlearn from."""
    forget: Annotated[object, Choice("forget_sets")]
    """The examples to forget."""
    score: Score = "gradient"
    """The score, as in update masks: gradient, difference or ratio."""
    batch_size: int = 256
    """Examples per gradient."""
    forget_seed: int = 0
    """Seed of the choice of the forget set and of the withheld examples."""
    withhold: Annotated[object, Choice("forget_sets")] | None = None
    """Examples that are neither forgotten nor retained."""

    def __post_init__(self) -> None:
        """Parse fields given as text."""
        read_texts(self)

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.original.data


def _label(config: SaliencyConfig) -> str:
    return config.score


def read(directory: RunDirectory) -> dict[str, Tensor]:
    """Read the scores of every trainable weight, by name.

    Raises:
        RequestError: The file is missing or damaged.
    """
    return directory.tensors("saliency")


@registry.run(label=_label, read=read)
def work(config: SaliencyConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Write the score of every trainable weight. Cost: one or two passes over the data, and the size of the model."""
    original = parents["original"]
    data = data_of(original, config.data, session)
    sets = divided(original, data, config, session)
    for images, what in ((sets.forget, "images to forget"), (sets.retain, "images to retain")):
        check_present(data, images, what, "restore them")
    seen = UnlearningData(sets.forget, sets.retain, None, data.dataset.num_classes)
    model, _ = load_model(config.original, original, session)
    generator = randomness.generator(0, "update mask", device=session.device)
    context = context_of(config.original, session)
    with context.phase("precompute"):
        made = update_masks.scores(model.to(session.device), seen, config.score, config.batch_size, generator)
    draft.tensors("saliency", made)
    return {"seconds": context.seconds}
