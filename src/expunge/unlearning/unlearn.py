"""One unlearning: a method with its update mask and adapters, run on a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from expunge.core import checks, randomness, registry
from expunge.core.config import Choice
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask
from expunge.data.unlearning_data import UnlearningData
from expunge.training.context import Context
from expunge.unlearning import strength
from expunge.unlearning.adapters import LowRank, adapted
from expunge.unlearning.reach import accuracy, rescale, unseen_accuracy
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
    reach: float | None = None
    """Scale the change of the weights until the accuracy on the forget set has gone this share of the way from that of
    the original to that on unseen images, estimated on the validation set; as the method leaves it by default."""
    extend: float = 1.0
    """The largest factor of the change."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks.between(0, 1, reach=self.reach)
        checks.at_least(1, extend=self.extend)


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
    If no bit of the model changes, the context notes ``unchanged``; if the outputs on the forget set hardly change (two
    forward passes over at most 256 of its images), ``hardly_changed``, with an option that makes the method stronger.
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
    judged = len(data.forget) > 0 and bool(plugin.mark.search)
    seen = strength.outputs(model, data.forget, context.device) if judged else None
    target = _target(model, data, unlearning, context)
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
        if target is not None:
            _check_finite(unlearned, plugin)
            rescale(unlearned, before, data, target, unlearning.extend, context)
    _keep_sparse(unlearned, context.sparsity)
    _check_finite(unlearned, plugin)
    if all(torch.equal(value, before[name]) for name, value in unlearned.state_dict().items() if name in before):
        context.notes["unchanged"] = True
    if seen is not None:
        change = strength.hardly_changed(seen, strength.outputs(unlearned, data.forget, context.device))
        if change is not None:
            cure = strength.cure(unlearning.method)
            context.notes["hardly_changed"] = {"change": str(change), "stronger": cure}
    return unlearned.eval()


def _target(model: nn.Module, data: UnlearningData, unlearning: Unlearning, context: Context) -> float | None:
    """The accuracy on the forget set to reach; None where nothing says it."""
    if unlearning.reach is None:
        return None
    unseen = unseen_accuracy(model, data, context.device)
    if unseen is None:
        return None
    seen = accuracy(model, data.forget, context.device)
    return seen - unlearning.reach * max(seen - unseen, 0.0)


def reads_forget_set(unlearning: Unlearning) -> bool:
    """Whether an unlearning needs the images of the forget set, which some methods and no update mask do without."""
    method = registry.of_config("methods", unlearning.method)
    recorded = bool(getattr(unlearning.method, "recorded", False))  # it is checked that the images are the same
    scaled = unlearning.reach is not None
    return method.name not in retain_only() or unlearning.update_mask is not None or recorded or scaled


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
