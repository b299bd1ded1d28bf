"""Building, loading, training and saving models, for all kinds of runs that give a model."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from expunge.core import randomness, registry
from expunge.core import weights as model_weights
from expunge.core.masks import Mask
from expunge.data.dataset import Dataset
from expunge.data.image_set import ImageSet
from expunge.data.normalisation import with_normalisation
from expunge.data.poisons.gaussian import GaussianPoison, noise_of
from expunge.data.split_data import SplitData
from expunge.evaluation.gaussian_poison import gaussian_poison_scores
from expunge.evaluation.predictions import predict
from expunge.runs._data import data_of, present
from expunge.store import run
from expunge.store.directory import Draft, Record, RunDirectory
from expunge.store.examples import MANIFEST
from expunge.store.execute import Session
from expunge.store.run import GivesModel
from expunge.training import fit
from expunge.training.context import Context
from expunge.training.fit import Training


def build(wanted: GivesModel, dataset: Dataset) -> nn.Module:
    """Build the untrained model of this configuration, with input normalisation, on the CPU.

    Pretrained weights are not loaded: their file is needed only where a training starts from them.
    """
    plugin = registry.of_config("models", wanted.model)
    with randomness.seeded(randomness.generator(wanted.seed, "initialisation")):
        network = cast("nn.Module", plugin.call(wanted.model, dataset.train.shape, dataset.num_classes))
    return with_normalisation(network, dataset.mean, dataset.std)


def load_model(wanted: GivesModel, directory: RunDirectory, session: Session) -> tuple[nn.Module, Mask | None]:
    """Load the model of a run, on the CPU and in evaluation mode, and its sparsity mask (None if dense)."""
    model, stored = build(wanted, data_of(directory, wanted.data, session).dataset), directory.model()
    model_weights.load(model, stored.state, f"{directory.path / 'model.safetensors'}")
    return model.eval(), Mask(stored.kept) if stored.kept else None


def context_of(wanted: GivesModel, session: Session, *purpose: str) -> Context:
    """Return the context of a run, with its generator for this purpose."""
    return Context(
        generator=randomness.generator(wanted.seed, *purpose, device=session.device),
        device=session.device,
        precision=wanted.precision,
        on_step=session.reporter(run.run_id(wanted)),
    )


def fit_training(model: nn.Module, images: ImageSet, training: Training, context: Context, first: int = 0) -> None:
    """Train the model as configured, from epoch ``first``."""
    fit.fit(model, images, training.rule, context, training, first=first, last=training.stop_after)
    for stepper in context.steppers:
        stepper.check()


def save(
    model: nn.Module, data: SplitData, draft: Draft, context: Context, extra: Mapping[str, Tensor] | None = None
) -> Record:
    """Write weights, history and the predictions on every split; return the record for ``run.json``.

    Images that are not on disk are not predicted.
    """
    tensors: dict[str, Tensor] = dict(extra or {})
    splits = {"train": present(data, data.train), "validation": data.validation, "test": data.test}
    if data.poison is not None and len(data.poison.triggered):
        splits["triggered"] = data.poison.triggered
    for name, images in splits.items():
        found = predict(model, images, context.device)
        tensors |= {f"{name}.logits": found.logits, f"{name}.labels": found.labels, f"{name}.ids": found.ids}
    tensors |= _poison_scores(model, data, context.device)
    draft.model(model.state_dict(), [name for name, _ in model.named_parameters()], context.sparsity or {})
    draft.tensors("predictions", tensors)
    draft.lines("history", context.history())
    context.notes |= data.notes
    return {
        "data": data.train.fingerprint(),
        "seconds": context.seconds,
        "steps": context.steps(),
        "notes": context.notes,
    }


def begin(model: nn.Module, data: SplitData, draft: Draft, context: Context) -> Record:
    """Write a model that begins a chain of runs, and the manifest of its data if they have names; see :func:`save`."""
    if data.manifest is not None:
        draft.tensors(MANIFEST, data.manifest.tensors())
    return save(model, data, draft, context)


def _poison_scores(model: nn.Module, data: SplitData, device: torch.device) -> dict[str, Tensor]:
    """The Gaussian poison score of each poisoned example, if there are any."""
    if data.poison is None or not isinstance(data.poison.config, GaussianPoison):
        return {}
    clean, poison = data.poison.clean, data.poison.config
    noise = noise_of(clean.ids, clean.shape, poison)
    return {"scores.gaussian_poison": gaussian_poison_scores(model, clean, noise, poison.sigma, device)}
