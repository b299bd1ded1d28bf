"""One unlearning of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from expunge.core import config as configurations
from expunge.core import masks, randomness, registry
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.data.forgetting import Forget, forget_ids, partition
from expunge.data.split_data import DataConfig, SplitData
from expunge.data.unlearning_data import UnlearningData
from expunge.methods.retrain import RetrainConfig
from expunge.runs._data import check_data, load_data
from expunge.runs._model import context_of, l2_of, load_model, save
from expunge.runs.imported import ImportConfig
from expunge.runs.stage import Stages
from expunge.runs.train import load_trajectory
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.stepper import Precision
from expunge.trajectory.store import open_store
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.unlearn import unlearn as unlearn_model


@dataclass(frozen=True)
class UnlearnConfig:
    """One unlearning of a model."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model to unlearn from."""
    forget: Forget
    """The examples to forget."""
    unlearning: Unlearning
    """How."""
    forget_seed: int = 0
    """Seed of the choice of the forget set."""
    precision: Precision = "auto"
    """Precision of the forward passes: bfloat16 where it pays, or as said."""
    seed: int = 0
    """Seed of the unlearning itself."""

    def __post_init__(self) -> None:
        """Give the runs that a method depends on the model to unlearn from, where the text left it open."""
        object.__setattr__(self, "unlearning", configurations.bind(self.unlearning, self.original))
        wanted = configurations.run_id(self.original)
        for each in configurations.held(self.unlearning):
            if configurations.run_id(getattr(each, "original", each)) != wanted:
                raise RequestError(f"{configurations.run_id(each)} is of another model: make it anew for {wanted}")

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
        """How the original was trained."""
        return self.original.training


def retraining(plan: Training) -> Unlearning:
    """Retraining as the original was trained."""
    return Unlearning(RetrainConfig(plan.epochs, plan.batch_size, plan.rule, recorded=plan.record))


def _label(config: UnlearnConfig) -> str:
    return presets.label(config.unlearning)


@registry.run(label=_label, model=True)
def work(config: UnlearnConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Unlearn the forget set."""
    data, original = load_data(config.data, session), parents["original"]
    check_data(original, data)
    ids = forget_set(config, data)
    forget, retain = partition(data.train.to(session.device), ids)
    seen = UnlearningData(forget, retain, data.validation.to(session.device), data.dataset.num_classes)
    context = context_of(config, session, "unlearning")
    model, context.sparsity = load_model(config.original, original, session)
    model.to(session.device)
    context.trajectory = load_trajectory(config.original, original)
    context.l2 = None if isinstance(config.original, ImportConfig) else l2_of(config.training)
    if "vectors" in parents:
        context.vectors = open_store(parents["vectors"].path)
        context.seconds["precompute"] = parents["vectors"].seconds()["precompute"]
    context.keep = stages = Stages(config.original, config.precision, config.seed, context, draft.store, session)
    model = unlearn_model(model, seen, config.unlearning, context)
    for role, mask in _by_role(context.update_masks).items():
        masks.save(mask, draft.path / f"mask{role and f'.{role}'}.safetensors")
    return {"stages": stages.made, **save(model, data, draft, context, {"forget.ids": ids})}


def forget_set(config: UnlearnConfig, data: SplitData) -> Tensor:
    """The ids of the forget set: sorted int64."""
    generator = randomness.generator(config.forget_seed, "forget")
    poisoned = None if data.poison is None else data.poison.ids
    return forget_ids(config.forget, data.train, generator, data.dataset.num_classes, poisoned)


def _by_role(given: Mask | Mapping[str, Mask] | None) -> dict[str, Mask]:
    """Update masks by role, where one mask for all roles has the empty name."""
    if given is None:
        return {}
    return {"": given} if isinstance(given, Mask) else dict(given)
