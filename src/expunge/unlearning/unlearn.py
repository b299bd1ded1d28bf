"""One unlearning: a method with its update mask and adapters, run on a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import nn

from expunge.core import randomness, registry
from expunge.core.config import Choice
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.unlearning.adapters import LowRank, adapted
from expunge.unlearning.update_masks import UpdateMask, update_masks


@dataclass(frozen=True)
class Unlearning:
    """What is done to the model: a method, and which weights it may move."""

    method: Annotated[object, Choice("methods")]
    """The configuration of the method."""
    update_mask: UpdateMask | None = None
    """How the weights that may move are chosen; all of them by default."""
    adapters: LowRank | None = None
    """Train low-rank adapters in place of the weights themselves."""


def unlearn(
    model: nn.Module,
    data: UnlearningData,
    unlearning: Unlearning,
    context: Context,
    extras: Mapping[str, object] | None = None,
) -> nn.Module:
    """Run one unlearning on ``model``, which is changed; returns the unlearned model in evaluation mode.

    ``extras`` holds what a method may take beside its arguments, by name; a stage that is not in it is made here.
    The time goes to the phases ``precompute`` (the update mask, and what the method says) and ``unlearn``.

    Raises:
        RequestError: The forget or the retain set is empty.
        RunError: A loss or a weight is no longer finite.
    """
    if not len(data.forget) or not len(data.retain):
        raise RequestError("the forget set and the retain set must both hold at least one example")
    plugin = registry.of_config("methods", unlearning.method)
    _check_mask(unlearning, plugin)
    given = dict(extras or {})
    plugin.check(dict.fromkeys(plugin.mark.stages, True) | given)
    with context.phase("unlearn"), context.seeded(), _enough_for_statistics():
        for name in plugin.mark.stages.keys() - given.keys():
            with context.phase("precompute"):
                stage, generator = plugin.mark.stages[name], randomness.child(context.generator, name)
                given[name] = stage.make(model, data, stage.only(unlearning.method), generator)
        if unlearning.update_mask is not None:
            context.freeze_statistics = unlearning.update_mask.freeze_statistics
            with context.phase("precompute"):
                generator = randomness.child(context.generator, "update mask")
                context.update_masks = update_masks(model, data, unlearning.update_mask, generator)
        with adapted(model, unlearning.adapters, context):
            unlearned = cast("nn.Module", plugin.call(model, data, unlearning.method, context, **given))
            for stepper in context.steppers:
                stepper.check()
    _keep_sparse(unlearned, context.sparsity)
    _check_finite(unlearned, plugin)
    return unlearned.eval()


def _check_mask(unlearning: Unlearning, plugin: registry.Plugin) -> None:
    """A mask for forget steps alone needs a method that takes some."""
    mask = unlearning.update_mask
    if mask is not None and mask.roles == "forget" and "forget" not in plugin.mark.roles:
        raise RequestError(f"{plugin.name} takes no forget steps: an update mask for them alone would change nothing")


@contextmanager
def _enough_for_statistics() -> Iterator[None]:
    """Say the cure where batch normalisation has a batch of one value per channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RequestError(
            "batch normalisation cannot train on a batch of one example: give more than one, a batch_size that leaves "
            "no rest of one, or a method that mixes both sets (random_label:order=mixed)"
        ) from error


@torch.no_grad()
def _keep_sparse(model: nn.Module, sparsity: Mask | None) -> None:
    """Weights outside the sparsity mask are zero, whether or not the method took a step."""
    weights = dict(model.named_parameters())
    for name, kept in (sparsity or {}).items():
        weights[name].masked_fill_(~kept.to(weights[name].device), 0.0)


def _check_finite(model: nn.Module, plugin: registry.Plugin) -> None:
    cure = "a smaller lr, or set clip" if plugin.mark.roles else "more damping or a smaller alpha, whichever it has"
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RunError(f"{plugin.name} left values in {key} that are not finite: try {cure}")
