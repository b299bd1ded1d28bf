"""One unlearning: a method with its update mask and adapters, run on a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor, nn

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
    """A method, with an optional update mask and optional low-rank adapters."""

    method: Annotated[object, Choice("methods")]
    """The configuration of the method."""
    update_mask: UpdateMask | None = None
    """The choice of the weights that may move; all by default."""
    adapters: LowRank | None = None
    """Low-rank adapters to train instead of the weights; none by default."""


def unlearn(
    model: nn.Module,
    data: UnlearningData,
    unlearning: Unlearning,
    context: Context,
    extras: Mapping[str, object] | None = None,
) -> nn.Module:
    """Run one unlearning on ``model``, which is modified; return the unlearned model in evaluation mode.

    ``extras`` are the keyword-only arguments that a method may take, and ``saliency``, the scores of the weights for
    the update mask; stages and scores that it lacks are computed here.
    If no bit of the model changes, the context notes ``unchanged``.
    Time is recorded in the phases ``precompute`` (update mask, stages, and what the method declares) and ``unlearn``.

    Raises:
        RequestError: The retain set is empty, or the forget set, for an unlearning that reads it.
        RunError: A loss or a weight is not finite.
    """
    if not len(data.retain) or not (len(data.forget) or not reads_forget_set(unlearning)):
        raise RequestError("the forget set and the retain set must both hold at least one example")
    plugin = registry.of_config("methods", unlearning.method)
    mask = unlearning.update_mask
    if mask is not None and mask.roles == "forget" and "forget" not in plugin.mark.roles:
        raise RequestError(f"{plugin.name} takes no forget steps: an update mask for forget steps has no effect")
    given = dict(extras or {})
    saliency = cast("dict[str, Tensor] | None", given.pop("saliency", None))
    plugin.check(dict.fromkeys(plugin.mark.stages, True) | given)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    with context.phase("unlearn"), context.seeded(), _enough_for_statistics():
        for name in plugin.mark.stages.keys() - given.keys():
            with context.phase("precompute"):
                stage, generator = plugin.mark.stages[name], randomness.child(context.generator, name)
                given[name] = stage.make(model, data, stage.only(unlearning.method), generator)
        if mask is not None:
            context.freeze_statistics = mask.freeze_statistics
            with context.phase("precompute"):
                generator = randomness.child(context.generator, "update mask")
                context.update_masks = update_masks(model, data, mask, generator, saliency)
        with adapted(model, unlearning.adapters, context):
            unlearned = cast("nn.Module", plugin.call(model, data, unlearning.method, context, **given))
            for stepper in context.steppers:
                stepper.check()
    _keep_sparse(unlearned, context.sparsity)
    _check_finite(unlearned, plugin)
    if all(torch.equal(value, before[name]) for name, value in unlearned.state_dict().items() if name in before):
        context.notes["unchanged"] = True
    return unlearned.eval()


def reads_forget_set(unlearning: Unlearning) -> bool:
    """Whether an unlearning needs the images of the forget set, which some methods and no update mask do without."""
    method = registry.of_config("methods", unlearning.method)
    recorded = bool(getattr(unlearning.method, "recorded", False))  # it is checked that the images are the same
    return method.name not in retain_only() or unlearning.update_mask is not None or recorded


def retain_only() -> list[str]:
    """Return the names of the methods that take steps on the retain set alone: they need no image to forget."""
    return [plugin.name for plugin in registry.plugins("methods").values() if plugin.mark.roles == ("retain",)]


@contextmanager
def _enough_for_statistics() -> Iterator[None]:
    """Explain the error of batch normalisation on a batch with one value per channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RequestError(
            "batch normalisation cannot train on a batch of one example: give more examples, a batch_size that leaves "
            "no remainder of one, or a method that mixes both sets (random_label:order=mixed)"
        ) from error


@torch.no_grad()
def _keep_sparse(model: nn.Module, sparsity: Mask | None) -> None:
    """Set weights outside the sparsity mask to zero, for methods that take no step."""
    weights = dict(model.named_parameters())
    for name, kept in (sparsity or {}).items():
        weights[name].masked_fill_(~kept.to(weights[name].device), 0.0)


def _check_finite(model: nn.Module, plugin: registry.Plugin) -> None:
    cure = "a smaller lr, or set clip" if plugin.mark.roles else "more damping or a smaller alpha, whichever it has"
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RunError(f"{plugin.name}: {key} has values that are not finite: try {cure}")
