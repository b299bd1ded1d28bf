"""One unlearning of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from expunge.core import config as configurations
from expunge.core import masks, randomness, registry
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.data.forgetting import forget_ids, partition
from expunge.data.image_set import ImageSet
from expunge.data.split_data import DataConfig, SplitData
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import FORGOTTEN
from expunge.methods.retrain import RetrainConfig
from expunge.runs._data import check_data, load_data
from expunge.runs._model import context_of, forgotten_ids, l2_of, load_model, save
from expunge.runs.imported import ImportConfig
from expunge.runs.stage import stages
from expunge.runs.train import TrainConfig
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.stepper import Precision
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.unlearn import unlearn as unlearn_model


@dataclass(frozen=True)
class UnlearnConfig:
    """One unlearning of a model."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model to unlearn from."""
    forget: Annotated[object, Choice("forget_sets")]
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
        configurations.read_texts(self)
        object.__setattr__(self, "unlearning", configurations.bind(self.unlearning, self.original))
        for each in configurations.held(self.unlearning):
            known = [configurations.run_id(model) for model in (self.original, first_model(self))]
            if configurations.run_id(getattr(each, "original", each)) not in known:
                raise RequestError(f"{configurations.run_id(each)} is of another model: make it anew for {known[0]}")

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return first_model(self).data

    @property
    def model(self) -> object:
        """The architecture of the original."""
        return first_model(self).model

    @property
    def training(self) -> Training:
        """How the original was trained."""
        return first_model(self).training


def first_model(wanted: GivesModel) -> GivesModel:
    """The model before the first of a chain of unlearnings."""
    while isinstance(wanted, UnlearnConfig):
        wanted = wanted.original
    return wanted


def forget_sets(wanted: GivesModel) -> tuple[tuple[object, int], ...]:
    """The forget set and its seed of every unlearning of a chain, the first one first."""
    found: list[tuple[object, int]] = []
    while isinstance(wanted, UnlearnConfig):
        found.append((wanted.forget, wanted.forget_seed))
        wanted = wanted.original
    return tuple(found[::-1])


def retrained(wanted: UnlearnConfig, seed: int = 0) -> UnlearnConfig:
    """The reference of a chain of unlearnings: retraining without all that it forgets, the same for every method.

    Its steps choose the forget sets of the chain in the same order and leave the model as it is; the last retrains.
    """
    model = first_model(wanted)
    *before, (last, last_seed) = forget_sets(wanted)
    for forget, forget_seed in before:
        model = UnlearnConfig(model, forget, presets.named("original"), forget_seed, wanted.precision)
    return UnlearnConfig(model, last, retraining(wanted.training), last_seed, wanted.precision, seed)


def retraining(plan: Training) -> Unlearning:
    """Retraining as the original was trained."""
    return Unlearning(RetrainConfig(plan.epochs, plan.batch_size, plan.rule, recorded=plan.record))


def _label(config: UnlearnConfig) -> str:
    return presets.label(config.unlearning)


def _parents(config: UnlearnConfig) -> dict[str, object]:
    """The stages of the method, and the recorded training that it asks for, which may lie further back."""
    found: dict[str, object] = {**stages(config.unlearning.method, config.original, config.seed)}
    trained = first_model(config)
    takes = registry.of_config("methods", config.unlearning.method).extras
    if "trajectory" in takes and isinstance(trained, TrainConfig) and trained.training.record:
        found["trajectory"] = trained
    return found


@registry.run(label=_label, parents=_parents, model=True)
def work(config: UnlearnConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Unlearn the forget set."""
    data, original = load_data(config.data, session), parents["original"]
    check_data(original, data)
    before = forgotten_ids(original)
    out = data.train.contains(before)
    remaining, forgotten = data.train.select(~out), data.train.select(out).to(session.device)
    ids = forget_set(config, data, remaining)
    forget, retain = partition(remaining.to(session.device), ids)
    seen = UnlearningData(forget, retain, data.validation.to(session.device), data.dataset.num_classes)
    context = context_of(config, session, "unlearning")
    model, context.sparsity = load_model(config.original, original, session)
    model.to(session.device)
    context.l2 = None if isinstance(first_model(config), ImportConfig) else l2_of(config.training)
    extras: dict[str, object] = {"forgotten": forgotten}
    for role, wanted in configurations.parents(config).items():
        read = registry.of_config("runs", wanted).mark.read
        if role != "original" and read is not None:
            extras[role] = read(parents[role])
            spent = parents[role].seconds().get("precompute", 0.0)
            context.seconds["precompute"] = context.seconds.get("precompute", 0.0) + spent
    model = unlearn_model(model, seen, config.unlearning, context, extras)
    for role, mask in _by_role(context.update_masks).items():
        masks.save(mask, draft.path / f"mask{role and f'.{role}'}.safetensors")
    kept = {"step.ids": ids, FORGOTTEN: torch.cat([before, ids]).sort().values}
    return save(model, data, draft, context, kept)


def forget_set(config: UnlearnConfig, data: SplitData, remaining: ImageSet) -> Tensor:
    """The ids of the forget set among the examples that were not forgotten before: sorted int64."""
    generator = randomness.generator(config.forget_seed, "forget")
    poisoned = None if data.poison is None else data.poison.ids
    return forget_ids(config.forget, remaining, generator, data.dataset.num_classes, poisoned)


def _by_role(given: Mask | Mapping[str, Mask] | None) -> dict[str, Mask]:
    """Update masks by role, where one mask for all roles has the empty name."""
    if given is None:
        return {}
    return {"": given} if isinstance(given, Mask) else dict(given)
