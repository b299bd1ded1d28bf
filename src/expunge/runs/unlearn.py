"""One unlearning of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch

from expunge.core import config as configurations
from expunge.core import masks, registry
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.data.forget_sets.union import UnionForget
from expunge.data.forgetting import is_fixed
from expunge.data.image_set import ImageSet
from expunge.data.split_data import DataConfig, SplitData
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import FORGOTTEN, WITHHELD
from expunge.methods.retrain import RetrainConfig
from expunge.runs._data import check_present, data_of, divided, duplicate_notes, forgotten_ids, present
from expunge.runs._model import context_of, load_model, save
from expunge.runs.imported import ImportConfig
from expunge.runs.saliency import SaliencyConfig
from expunge.runs.stage import stages
from expunge.runs.train import TrainConfig
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training.fit import Training
from expunge.training.precision import Precision
from expunge.unlearning import presets
from expunge.unlearning.sequence import Sequence
from expunge.unlearning.unlearn import Unlearning, reads_forget_set, retain_only
from expunge.unlearning.unlearn import unlearn as unlearn_model


@dataclass(frozen=True)
class UnlearnConfig:
    """One unlearning of a model."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model to unlearn from."""
    forget: Annotated[object, Choice("forget_sets")]
    """The examples to forget."""
    unlearning: Unlearning
    """The method, with its update mask and adapters."""
    forget_seed: int = 0
    """Seed of the choice of the forget set and of the withheld examples."""
    precision: Precision = "float32"
    """Precision of the forward passes; ``mixed`` is bfloat16 in networks that gain from it."""
    seed: int = 0
    """Seed of the unlearning itself."""
    withhold: Annotated[object, Choice("forget_sets")] | None = None
    """Examples that are neither forgotten nor retained in this step; none by default."""

    def __post_init__(self) -> None:
        """Insert the model to unlearn from into the runs of the method, and check that they belong to it."""
        configurations.read_texts(self)
        object.__setattr__(self, "unlearning", configurations.bind(self.unlearning, self.original))
        for each in configurations.held(self.unlearning).values():
            known = [configurations.run_id(model) for model in (self.original, first_model(self))]
            if configurations.run_id(getattr(each, "original", each)) not in known:
                raise RequestError(
                    f"{configurations.run_id(each)} belongs to another model: compute it again for {known[0]}"
                )

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
        """The training of the original."""
        return first_model(self).training


def first_model(wanted: GivesModel) -> GivesModel:
    """Return the model at the start of a chain of unlearnings."""
    while isinstance(wanted, UnlearnConfig):
        wanted = wanted.original
    return wanted


def forgotten_sets(wanted: GivesModel) -> tuple[tuple[object, int], ...]:
    """Return the forget set and its seed for every unlearning of a chain, in order.

    If none of them depends on its seed or on the order, they are sorted and their seeds set to 0, so that chains that
    forget the same examples have equal values.
    """
    found: list[tuple[object, int]] = []
    while isinstance(wanted, UnlearnConfig):
        if isinstance(wanted.forget, UnionForget) and wanted.forget.seeds:
            found += list(zip(wanted.forget.sets, wanted.forget.seeds, strict=True))[::-1]
        else:
            found.append((wanted.forget, wanted.forget_seed))
        wanted = wanted.original
    if all(is_fixed(forget) for forget, _ in found):
        return tuple((forget, 0) for forget in sorted({forget for forget, _ in found}, key=repr))
    return tuple(found[::-1])


def retrained(wanted: UnlearnConfig, seed: int = 0) -> UnlearnConfig:
    """Return the reference of a chain: retraining without the union of its forget sets.

    It is the same run for all methods, and for all orders if the order does not change the union.
    """
    sets, seeds = zip(*forgotten_sets(wanted), strict=True)
    forget, forget_seed = (sets[0], seeds[0]) if len(sets) == 1 else (UnionForget(sets, seeds), 0)
    again = retraining(wanted.training)
    return UnlearnConfig(first_model(wanted), forget, again, forget_seed, wanted.precision, seed)


def chain(
    original: GivesModel, sequence: Sequence, *, precision: Precision = "float32", seed: int = 0
) -> tuple[UnlearnConfig, ...]:
    """Return the runs of a sequence of unlearnings, each of the model before it."""
    found: list[UnlearnConfig] = []
    for step in sequence.steps:
        model = found[-1] if found else original
        unlearned = UnlearnConfig(model, step.forget, step.unlearning, step.forget_seed, precision, seed, step.withhold)
        found.append(unlearned)
    return tuple(found)


def retraining(training: Training) -> Unlearning:
    """Return the method ``retrain`` with the training of the original."""
    same = training.epochs, training.batch_size, training.rule, training.steps
    return Unlearning(RetrainConfig(*same, recorded=training.record))


def _label(config: UnlearnConfig) -> str:
    return presets.label(config.unlearning)


def _parents(config: UnlearnConfig) -> dict[str, object]:
    """The stages of the method, the scores of its update mask, and the recorded training if it needs one."""
    found: dict[str, object] = {**stages(config.unlearning.method, config.original, config.seed)}
    mask = config.unlearning.update_mask
    if mask is not None and mask.file is None and mask.score != "random":
        chosen = config.forget, mask.score, mask.batch_size, config.forget_seed, config.withhold
        found["saliency"] = SaliencyConfig(config.original, *chosen)
    trained = first_model(config)
    takes = registry.of_config("methods", config.unlearning.method).extras
    if "trajectory" in takes and isinstance(trained, TrainConfig) and trained.training.record:
        found["trajectory"] = trained
    return found


@registry.run(label=_label, parents=_parents, model=True)
def work(config: UnlearnConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """Unlearn the forget set."""
    original = parents["original"]
    data = data_of(original, config.data, session)
    sets = divided(original, data, config, session)
    _check_present(data, sets.forget, sets.retain, config.unlearning)
    validation, classes = data.validation.to(session.device), data.dataset.num_classes
    seen = UnlearningData(present(data, sets.forget), sets.retain, validation, classes)
    context = context_of(config, session, "unlearning")
    context.notes |= duplicate_notes(data, sets.forget, sets.retain)
    model, context.sparsity = load_model(config.original, original, session)
    model.to(session.device)
    rule = config.training.rule
    if rule.weight_decay is not None or not isinstance(first_model(config), ImportConfig):
        context.original_rule = rule
    extras: dict[str, object] = {"forgotten": sets.forgotten}
    for role, wanted in configurations.parents(config).items():
        read = registry.of_config("runs", wanted).mark.read
        if role != "original" and read is not None:
            extras[role] = read(parents[role])
            spent = parents[role].seconds().get("precompute", 0.0)
            context.seconds["precompute"] = context.seconds.get("precompute", 0.0) + spent
    unlearning = config.unlearning
    if data.poison is not None and bool(torch.isin(sets.ids, data.poison.ids.to(sets.ids)).any()):
        unlearning = replace(unlearning, reach=None)  # validation images do not say what a poisoned one would be
    model = unlearn_model(model, seen, unlearning, context, extras)
    for role, mask in _by_role(context.update_masks).items():
        masks.save(mask, draft.path / f"mask{role and f'.{role}'}.safetensors")
    before = forgotten_ids(original).to(sets.ids)
    kept = {"step.ids": sets.ids, FORGOTTEN: torch.cat([before, sets.ids]).sort().values}
    kept |= {WITHHELD: sets.withheld} if len(sets.withheld) else {}
    return save(model, data, draft, context, kept)


def _check_present(data: SplitData, forget: ImageSet, retain: ImageSet, unlearning: Unlearning) -> None:
    """Raise a RequestError unless the images that the unlearning reads are on disk."""
    cure = "restore them, or forget them too, since the result would be that of a smaller retain set"
    check_present(data, retain, "images to retain", cure)
    if reads_forget_set(unlearning):
        cure = f"restore them, or use a method that needs the retain set only: {', '.join(retain_only())}"
        check_present(data, forget, "images to forget", cure)


def _by_role(given: Mask | Mapping[str, Mask] | None) -> dict[str, Mask]:
    """Update masks by role; a mask for all roles has an empty name."""
    if given is None:
        return {}
    return {"": given} if isinstance(given, Mask) else dict(given)
