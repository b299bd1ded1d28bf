"""An expensive stage of a method that does not depend on the forget set: a run that all forget sets share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor

from expunge.core import randomness, registry
from expunge.core.config import Choice
from expunge.core.registry import Stage
from expunge.data.unlearning_data import UnlearningData
from expunge.runs._data import check_present, data_of, forgotten_ids
from expunge.runs._model import load_model
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.context import Context


@dataclass(frozen=True)
class StageConfig:
    """An expensive stage of a method that does not depend on the forget set."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model to unlearn from."""
    method: Annotated[object, Choice("methods")]
    """The method, with defaults for the options that the stage does not depend on."""
    name: str
    """The name of the stage: ``attacker``."""
    seed: int = 0
    """Seed of the stage."""


def stages(method: object, original: GivesModel, seed: int) -> dict[str, StageConfig]:
    """Return the stages of a method for a model, by name."""
    found = registry.of_config("methods", method).mark.stages
    return {name: StageConfig(original, stage.only(method), name, seed) for name, stage in found.items()}


def _label(config: StageConfig) -> str:
    return config.name


def _tensors(directory: RunDirectory) -> dict[str, Tensor]:
    return directory.tensors("stage")


@registry.run(label=_label, read=_tensors)
def work(config: StageConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Compute the stage from the images that the model has not forgotten, and the validation set."""
    original = parents["original"]
    data = data_of(original, config.original.data, session)
    images = data.train.select(~data.train.contains(forgotten_ids(original))).to(session.device)
    check_present(data, images, f"images that the {config.name} of the method needs", "restore them")
    nothing = images.select(torch.arange(0))
    seen = UnlearningData(nothing, images, data.validation.to(session.device), data.dataset.num_classes)
    model = load_model(config.original, original, session)[0].to(session.device)
    generator = randomness.generator(config.seed, "stage", config.name, device=session.device)
    context = Context(generator, session.device)
    stage: Stage = registry.of_config("methods", config.method).mark.stages[config.name]
    with context.phase("precompute"):
        made = cast("dict[str, Tensor]", stage.make(model, seen, config.method, generator))
    draft.tensors("stage", made)
    return {"seconds": context.seconds}
