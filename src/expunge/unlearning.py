"""One unlearning: a method with its update mask, run on a model; and the presets that name such pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, cast

import torch
from torch import nn

from expunge import config, registry
from expunge.config import Choice
from expunge.context import Context, UnlearningData
from expunge.errors import RequestError, RunError
from expunge.saliency import Saliency, update_mask
from expunge.updates import PerRole, Rule

PRESETS: Mapping[str, tuple[str, Saliency]] = MappingProxyType(
    {
        # Fan et al. 2024 (arXiv:2310.12508): random labels on the most salient half of the weights.
        "salun": ("random_label:rule.lr=0.013", Saliency(fraction=0.5)),
    }
)
"""Compositions that the field knows by one word: a method in its text form, and an update mask."""


@dataclass(frozen=True)
class Unlearning:
    """What is done to the model: a method, and which weights it may move."""

    method: Annotated[object, Choice("methods")]
    """The configuration of the method."""
    update_mask: Saliency | None = None
    """How the weights that may move are chosen; all of them by default."""


def canonical(name: str) -> str:
    """The name of a method or preset, without aliases.

    Raises:
        RequestError: There is none of that name; the message gives the nearest.
    """
    wanted = name.replace("-", "_")
    if wanted in PRESETS:
        return wanted
    try:
        return registry.find("methods", name).name
    except RequestError:
        known = [*registry.plugins("methods"), *PRESETS]
        raise RequestError(registry.unknown("method", name, known)) from None


def named(text: str, values: Mapping[str, object] | None = None) -> Unlearning:
    """The unlearning written ``NAME[:key=value,...]``, where the name is that of a method or a preset.

    Options are those of the method, those of its rule (``lr``), and those of an update mask as
    ``mask.fraction``. ``values`` are further options, which win.

    Raises:
        RequestError: A name or value is wrong.
    """
    name, _, rest = text.partition(":")
    name = canonical(name)
    given = config.assignments(rest, "", name) | dict(values or {})
    base, mask = PRESETS.get(name, (name, None))
    default = config.parse("methods", base)
    of_mask = {key.removeprefix("mask."): value for key, value in given.items() if key.startswith("mask.")}
    of_method = {key: value for key, value in given.items() if not key.startswith("mask.")}
    if of_mask:
        mask = config.override(Saliency, config.to_data(mask) if mask else {}, of_mask, f"{name}: the update mask")
    if any(key.removeprefix("rule.").startswith(("forget.", "retain.")) for key in of_method):
        default = per_role(default)
    return Unlearning(config.override(type(default), config.to_data(default), of_method, name), mask)


def per_role(method: object) -> object:
    """The same configuration with its one rule given to each role, so that the two can be changed apart."""
    rule = getattr(method, "rule", None)
    return replace(method, rule=PerRole(forget=rule, retain=rule)) if isinstance(rule, Rule) else method  # pyright: ignore


def label(unlearning: Unlearning) -> str:
    """The one word for an unlearning in tables: its preset if it has the shape of one, else its method."""
    name = registry.of_config("methods", unlearning.method).name
    for preset, (text, mask) in PRESETS.items():
        if unlearning.update_mask is not None and text.partition(":")[0] == name and type(mask) is Saliency:
            return preset
    return name


def unlearn(model: nn.Module, data: UnlearningData, unlearning: Unlearning, context: Context) -> nn.Module:
    """Run one unlearning on ``model``, which is changed; returns the unlearned model in evaluation mode.

    The time goes to the phases ``precompute`` (the update mask, and what the method says) and ``unlearn``.

    Raises:
        RequestError: The forget or the retain set is empty.
        RunError: A loss or a weight is no longer finite.
    """
    if not len(data.forget) or not len(data.retain):
        raise RequestError("the forget set and the retain set must both hold at least one example")
    plugin = registry.of_config("methods", unlearning.method)
    with context.phase("unlearn"), context.seeded():
        if unlearning.update_mask is not None:
            with context.phase("precompute"):
                context.update_masks = update_mask(model, data.forget, unlearning.update_mask)
        unlearned = cast("nn.Module", plugin.function(model, data, unlearning.method, context))
        for stepper in context.steppers:
            stepper.check()
    _check_finite(unlearned, plugin.name)
    return unlearned.eval()


def _check_finite(model: nn.Module, name: str) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RunError(f"{name} left values in {key} that are not finite: try a smaller lr, or set clip")
