"""A pruned model, trained further under its sparsity mask."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, cast

from torch import nn

from expunge.core import config as configurations
from expunge.core import registry
from expunge.core import weights as model_weights
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.core.text import assignments
from expunge.data.split_data import DataConfig
from expunge.evaluation.predictions import FORGOTTEN
from expunge.runs._data import check_present, data_of, forgotten_ids
from expunge.runs._model import context_of, fit_training, load_model, save
from expunge.runs.imported import ImportConfig
from expunge.runs.train import TrainConfig
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.precision import Precision


@dataclass(frozen=True)
class PruneConfig:
    """A pruned model, trained further under its sparsity mask.

    Iterative pruning (a pruner with ``rounds``) is a chain of runs: the parent of a round is the same configuration
    with one round fewer.
    """

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model to prune."""
    pruner: Annotated[object, Choice("pruning")]
    """How the weights to prune are chosen."""
    rewind: int | None = None
    """Reset the remaining weights to their values after this epoch of the original training (0: before training), and
    train on from that epoch of the schedule; by default they keep their trained values, and the schedule restarts."""
    retraining: Training | None = None
    """The training after pruning; by default that of the original."""
    precision: Precision = "float32"
    """Precision of the forward passes; ``mixed`` is bfloat16 in networks that gain from it."""
    seed: int = 0
    """Seed of the pruning, the order of examples and the augmentation."""

    def __post_init__(self) -> None:
        """Check that the epoch to rewind to exists."""
        configurations.read_texts(self)
        if self.rewind is None:
            return
        trained = trained_model(self.original)
        if isinstance(trained, ImportConfig) and self.rewind not in trained.starts:
            known = ", ".join(map(str, trained.starts)) or "none"
            raise RequestError(
                f"epoch {self.rewind} was not imported (imported: {known}): import again with "
                f"epoch_{self.rewind}_rewind_weight.pt beside the checkpoint, or prune without rewind"
            )
        if not isinstance(trained, TrainConfig | ImportConfig):
            raise RequestError("an unlearned model has no earlier epochs: prune this one without rewind")
        last = trained.training.epochs if trained.training.steps is None else math.inf
        if not 0 <= self.rewind <= last:
            raise RequestError(f"rewind must be an epoch in 0..{last}, got {self.rewind}")

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.original.data

    @property
    def model(self) -> object:
        """The architecture of the original."""
        return self.original.model

    @property
    def training(self) -> Training:
        """Its training after pruning, which is never recorded."""
        return replace(self.retraining or self.original.training, record=False, fixed_order=False)


def trained_model(original: GivesModel) -> GivesModel:
    """Return the model at the start of a chain of prunings."""
    while isinstance(original, PruneConfig):
        original = original.original
    return original


def _parents(config: PruneConfig) -> dict[str, object]:
    """The previous round, or the original; and the training stopped at the epoch to rewind to."""
    rounds = getattr(config.pruner, "rounds", 1)
    before: object = config.original
    if rounds > 1:
        before = replace(config, pruner=replace(config.pruner, rounds=rounds - 1))  # pyright: ignore
    trained = trained_model(config.original)
    if config.rewind is None:
        return {"original": before}
    if isinstance(trained, ImportConfig):
        return {"original": before, "start": trained.starts[config.rewind]}
    stopped = replace(trained.training, stop_after=config.rewind)
    return {"original": before, "start": replace(cast("TrainConfig", trained), training=stopped)}


def _label(config: PruneConfig) -> str:
    return registry.of_config("pruning", config.pruner).name


@registry.run(label=_label, parents=_parents, model=True)
def work(config: PruneConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Prune a model and train it further."""
    data = data_of(parents["original"], config.data, session)
    forgotten = forgotten_ids(parents["original"])
    remaining = data.train.select(~data.train.contains(forgotten))
    check_present(data, remaining, "images that the pruned model is trained on", "restore them")
    context = context_of(config, session, "pruning", f"round {_rounds(config)}")
    model, context.sparsity = load_model(config, parents["original"], session)
    model.to(session.device)
    plugin = registry.of_config("pruning", config.pruner)
    if not plugin.mark.trained:
        _rewind(model, parents)
    with context.phase("prune"), context.seeded():
        mask = plugin.call(model, data.train.shape, config.pruner, context)
    context.sparsity = cast("Mask", mask)
    _rewind(model, parents)
    with context.phase("train"), context.seeded():
        fit_training(model, remaining.to(session.device), config.training, context, config.rewind or 0)
    return save(model, data, draft, context, {FORGOTTEN: forgotten} if len(forgotten) else None)


def _rounds(config: PruneConfig) -> int:
    """The number of pruning rounds up to this one; each round has its own random generator."""
    before = _rounds(config.original) if isinstance(config.original, PruneConfig) else 0
    return before + int(getattr(config.pruner, "rounds", 1))


def _rewind(model: nn.Module, parents: Mapping[str, RunDirectory]) -> None:
    """Load the weights of the epoch to rewind to, if any."""
    if "start" in parents:
        start = parents["start"]
        model_weights.load(model, start.tensors("model"), f"{start.path / 'model.safetensors'}")


DENSE = "dense"
"""The text for no pruning."""


def pruned(original: GivesModel, text: str) -> GivesModel:
    """Return the original pruned by ``PRUNER:key=value,...[,rewind=EPOCH]``, or unchanged for ``dense``.

    Raises:
        RequestError: A name or value is wrong.
    """
    if text == DENSE:
        return original
    name, _, rest = text.partition(":")
    given = assignments(rest, ("rate",), name)
    data = {"original": original, "rewind": given.pop("rewind", None), "pruner": {"name": name, **given}}
    return configurations.from_data(PruneConfig, data | {"precision": original.precision, "seed": original.seed})


def scenario(original: GivesModel) -> str:
    """Return the text of an original's pruning; empty if it is dense."""
    if not isinstance(original, PruneConfig):
        return ""
    text = configurations.text("pruning", original.pruner)
    if original.rewind is not None:
        text += f"{',' if ':' in text else ':'}rewind={original.rewind}"
    return f"{before}, {text}" if (before := scenario(original.original)) else text
